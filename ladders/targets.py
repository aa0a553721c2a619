"""What a target asks for: `vmaf=94`, `lpips=0.1`, `size=40MB`, `rate=3M`. Pure.

Quality targets are floors (LPIPS: a ceiling of the score), size and rate are ceilings of what the
title takes, stream and weights; of a size, also of what travels beside them. Several floors may be
asked for at once, all of them to be met.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from codecaux.errors import TargetError, UsageError
from codecaux.ladders.points import OperatingPoint
from codecaux.scores import LOWER_IS_BETTER, POOLS

__all__ = ["Target", "Targets", "parse_targets"]

# Name -> metric, what is close enough to the target, the values that make sense.
_QUALITIES: dict[str, tuple[str, float, tuple[float, float]]] = {
    "vmaf": ("vmaf_v1", 0.5, (0.0, 100.0)),
    "v0": ("vmaf_v061", 0.5, (0.0, 100.0)),
    "neg": ("vmaf_v061_neg", 0.5, (0.0, 100.0)),
    "lpips": ("lpips", 0.004, (0.0, 1.0)),
    "psnr": ("psnr_y_db", 0.15, (0.0, 100.0)),
}
_RATES = ("size", "rate")
_KNOWN = ", ".join((*_QUALITIES, *_RATES))
# Below a ceiling of size or rate, 2 % is close enough.
_RATE_TOLERANCE = math.log(1.02)
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z/]*)\Z")
_SIZES = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_SIZES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_BITRATES = {"": 1e-3, "k": 1.0, "kb/s": 1.0, "kbps": 1.0, "M": 1e3, "Mb/s": 1e3, "Mbps": 1e3}


@dataclass(frozen=True, slots=True)
class Target:
    """``name`` as the user gives it; ``value`` in the metric's unit, bytes or kb/s.

    ``beside_bytes``: what other tracks take of a size, sound above all.
    """

    name: str
    value: float
    beside_bytes: int = 0

    @property
    def metric(self) -> str | None:
        """The metric of ``codecaux.scores``; None for size and rate."""
        return _QUALITIES[self.name][0] if self.name in _QUALITIES else None

    def margin(self, point: OperatingPoint, pool: str) -> float | None:
        """How far ``point`` is beyond the target, in units of what is close enough: 0..1 is a hit,
        below 0 a miss. None where the metric was not computed.
        """
        if self.metric is None:
            is_size = self.name == "size"
            spent = point.total_bytes + self.beside_bytes if is_size else point.total_kbps
            return math.log(self.value / spent) / _RATE_TOLERANCE
        quality = point.quality(self.metric, pool)
        if quality is None:
            return None
        wanted = -self.value if self.metric in LOWER_IS_BETTER else self.value
        return (quality - wanted) / _QUALITIES[self.name][1]

    def __str__(self) -> str:
        if self.name == "size":
            return f"size={self.value / 1e6:g}MB"
        return f"rate={self.value:g}k" if self.name == "rate" else f"{self.name}={self.value:g}"


@dataclass(frozen=True, slots=True)
class Targets:
    """``floors`` of quality and at most one ``ceiling`` of size or rate; one of them is there."""

    floors: tuple[Target, ...]
    ceiling: Target | None = None
    pool: str = "mean"

    @property
    def all(self) -> tuple[Target, ...]:
        """The floors, then the ceiling where there is one."""
        return self.floors + (() if self.ceiling is None else (self.ceiling,))

    @property
    def is_for_quality(self) -> bool:
        """Whether the cheapest point is wanted; else the best within the ceiling."""
        return bool(self.floors)

    @property
    def has_size(self) -> bool:
        """Is the size of the files what is limited?"""
        return self.ceiling is not None and self.ceiling.name == "size"

    @property
    def beside_bytes(self) -> int:
        """What counts in the size beside stream and weights."""
        return self.ceiling.beside_bytes if self.ceiling is not None else 0

    def beside(self, other_bytes: int) -> Targets:
        """The same, where so many bytes of other tracks and the container count in the size.
        TargetError where they alone take it all.
        """
        assert self.ceiling is not None
        assert self.has_size
        if other_bytes >= self.ceiling.value:
            raise TargetError(
                f"expected {self.ceiling}, but sound, subtitles and the container take "
                f"{other_bytes / 1e6:.2f} MB by themselves; ask for more, or make them smaller"
            )
        return replace(self, ceiling=replace(self.ceiling, beside_bytes=other_bytes))

    def searched(self, point: OperatingPoint) -> float | None:
        """The margin that the search goes by: of the floor that is missed most, else of the
        ceiling. None where a metric is missing.
        """
        if not self.floors:
            assert self.ceiling is not None
            return self.ceiling.margin(point, self.pool)
        margins = [floor.margin(point, self.pool) for floor in self.floors]
        known = [margin for margin in margins if margin is not None]
        return min(known) if len(known) == len(margins) else None

    def room(self, point: OperatingPoint) -> float | None:
        """The margin of the ceiling beside floors; None where there are not both."""
        if self.ceiling is None or not self.floors:
            return None
        return self.ceiling.margin(point, self.pool)

    def worst(self, point: OperatingPoint) -> float:
        """The margin of the one that is missed most, floors and ceiling; without end where a metric
        is missing.
        """
        margins = [target.margin(point, self.pool) for target in self.all]
        return min(-math.inf if margin is None else margin for margin in margins)

    def are_met(self, point: OperatingPoint) -> bool:
        """All of them, floors and ceiling."""
        return self.worst(point) >= 0

    def __str__(self) -> str:
        text = ", ".join(map(str, self.all))
        return text if self.pool == "mean" else f"{text} ({self.pool})"


def parse_targets(texts: Sequence[str], pool: str = "mean") -> Targets:
    """Each text one target, or several with commas between. UsageError for what is none, for
    numbers that make no sense, and for targets that contradict one another.
    """
    if pool not in POOLS:
        raise UsageError(f"expected a pool of {', '.join(POOLS)}, got {pool!r}")
    targets = [_parse(part.strip()) for text in texts for part in text.split(",")]
    by_name: dict[str, Target] = {}
    for target in targets:
        known = by_name.setdefault(target.name, target)
        if known != target:
            raise UsageError(f"targets that contradict: {known} and {target}; give one of them")
    ceilings = [by_name[name] for name in _RATES if name in by_name]
    if len(ceilings) > 1:
        raise UsageError(
            f"targets that contradict: {ceilings[0]} and {ceilings[1]} both say what the title may "
            "take; give one of them"
        )
    floors = tuple(target for target in by_name.values() if target.metric is not None)
    return Targets(floors, ceilings[0] if ceilings else None, pool)


def _parse(text: str) -> Target:
    name, equals, value = text.partition("=")
    if not equals or name not in (*_QUALITIES, *_RATES):
        raise UsageError(f"expected a target like vmaf=94 ({_KNOWN}), got {text!r}")
    match = _NUMBER.match(value.strip())
    if match is None:
        raise UsageError(f"expected a number after {name}=, got {value!r}")
    number, unit = float(match.group(1)), match.group(2)
    if name in _QUALITIES:
        low, high = _QUALITIES[name][2]
        if unit or not low < number < high:
            raise UsageError(f"expected {name} between {low:g} and {high:g}, got {value!r}")
        return Target(name, number)
    units = _SIZES if name == "size" else _BITRATES
    if unit not in units or number <= 0:
        example = "size=40MB" if name == "size" else "rate=3M, rate=800k"
        raise UsageError(f"expected {name} above 0 with a unit, like {example}, got {value!r}")
    return Target(name, number * units[unit])
