"""Which frames a costly metric looks at: few, evenly spread, the same ones every time."""

from __future__ import annotations

from codecaux.errors import UsageError

__all__ = ["EvenSampling"]


class EvenSampling:
    """At most ``most`` of the indices 0, 1, 2, ..., and one value for each version at those.

    With a known number n of indices: the middles of ``most`` equal parts of 0..n. Without: every
    s-th index, where s doubles (and every second value so far is dropped) whenever there would be
    too many. A value is a list of floats, one per distorted version.
    """

    def __init__(self, most: int, num_indices_hint: int | None) -> None:
        if most < 1:
            raise UsageError(f"expected to sample at least one frame, got {most}")
        self._most = most
        self._stride = 1
        self._values: dict[int, list[float]] = {}
        self._chosen: frozenset[int] | None = None
        if num_indices_hint is not None:
            parts = min(most, num_indices_hint)
            self._chosen = frozenset(
                (2 * i + 1) * num_indices_hint // (2 * parts) for i in range(parts)
            )

    def wants(self, index: int) -> bool:
        if self._chosen is not None:
            return index in self._chosen
        return index % self._stride == 0

    def put(self, index: int, values: list[float]) -> None:
        self._values[index] = values
        if self._chosen is None and len(self._values) > self._most:
            self._stride *= 2
            self._values = {i: v for i, v in self._values.items() if i % self._stride == 0}

    @property
    def indices(self) -> tuple[int, ...]:
        """The indices kept so far, rising."""
        return tuple(sorted(self._values))

    def of_version(self, version: int) -> tuple[float, ...]:
        return tuple(self._values[index][version] for index in self.indices)
