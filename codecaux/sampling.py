"""Which frames are scored, and which a costly metric looks at: the same ones every time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codecaux.errors import UsageError

__all__ = ["EvenSampling", "Runs"]

# Two seconds at 24 a second: long against the frame or two at whose edges a run is a cut.
_RUN_FRAMES = 48


@dataclass(frozen=True, slots=True)
class Runs:
    """Frames that stand for a long title: ``length`` in the middle of every ``period``.

    Runs, because metrics look at a frame's neighbours. By default every frame.
    """

    length: int = 1
    period: int = 1

    @classmethod
    def spread(cls, num_frames: int, most: float) -> Runs:
        """At most ``most`` of ``num_frames`` (all, where there are no more). UsageError below 1."""
        if not most >= 1:
            raise UsageError(f"expected to score at least one frame, got {most}")
        if num_frames <= most:
            return cls()
        length = min(_RUN_FRAMES, int(most))
        return cls(length, math.ceil(num_frames / (int(most) // length)))

    @property
    def is_everything(self) -> bool:
        """Is every frame scored?"""
        return self.length == self.period

    def wants(self, index: int) -> bool:
        """Is frame ``index``, from 0, one of them?"""
        return 0 <= self._place(index) < self.length

    def begins(self, index: int) -> bool:
        """Is it, and the frame before it not?"""
        return self._place(index) == 0 and not self.is_everything

    def count(self, num_frames: int) -> int:
        """How many of so many frames they are."""
        whole, rest = divmod(num_frames, self.period)
        return whole * self.length + min(max(rest - self._start, 0), self.length)

    @property
    def _start(self) -> int:
        return (self.period - self.length) // 2

    def _place(self, index: int) -> int:
        return index % self.period - self._start


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
