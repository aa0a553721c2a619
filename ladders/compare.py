"""A ladder against others: Apple's fixed one, and x265's own hull at equal quality. Pure.

x265 is given every advantage: its curve is the hull over all heights that were measured (at the
source's size as it comes, below that our own streams shown plain, without a byte of weights), each
of Apple's rungs is taken to be as good as the best of that hull at its rate, and no bytes of its
container are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.rd import RdPoint, convex_hull, quality_at, rate_at

__all__ = [
    "APPLE_HEVC",
    "SAME_TOP",
    "AppleRung",
    "EqualTop",
    "RatedRung",
    "Versus",
    "compare_apple",
    "compare_x265",
    "plain_hull",
]

# HLS Authoring Specification for Apple Devices: HEVC, SDR, up to 30 fps: height -> average kb/s.
APPLE_HEVC: tuple[tuple[int, int], ...] = (
    (360, 145),
    (432, 300),
    (540, 600),
    (540, 900),
    (540, 1600),
    (720, 2400),
    (720, 3400),
    (1080, 4500),
    (1080, 5800),
    (1440, 8100),
    (2160, 11600),
    (2160, 16800),
)


# VMAF by which two top rungs may differ and be called equal.
SAME_TOP = 0.5


@dataclass(frozen=True, slots=True)
class RatedRung:
    """A rung of ours: its total rate, weights counted, and its quality."""

    label: str
    total_kbps: float
    quality: float


@dataclass(frozen=True, slots=True)
class Versus:
    """A rung against x265's hull at equal quality; None where that hull does not go there."""

    rung: RatedRung
    x265_kbps: float | None

    @property
    def saved_percent(self) -> float | None:
        """Of x265's rate; below 0: ours needs more."""
        if self.x265_kbps is None:
            return None
        return 100 * (1 - self.rung.total_kbps / self.x265_kbps)


@dataclass(frozen=True, slots=True)
class AppleRung:
    """``quality``: of x265's hull at the rung's rate, None below its lowest rate. ``is_least``: the
    rate is above the hull's, which says only that it is no worse. ``ours_kbps``: our hull at that
    quality, None where it misses it by more than SAME_TOP.
    """

    height: int
    kbps: float
    quality: float | None
    is_least: bool = False
    ours_kbps: float | None = None


@dataclass(frozen=True, slots=True)
class EqualTop:
    """Both ladders up to one ``quality``, Apple's top rung's: kb/s of all rungs together.

    Ours: its rungs below that quality, and a rung of exactly that quality on our hull.
    """

    quality: float
    apple_kbps: float
    ours_kbps: float

    @property
    def saved_percent(self) -> float:
        """What ours saves, percent of Apple's kb/s; below 0: it costs more."""
        return 100 * (1 - self.ours_kbps / self.apple_kbps)


def plain_hull(
    ours: Sequence[OperatingPoint], x265: Sequence[OperatingPoint], metric: str, pool: str
) -> list[RdPoint]:
    """The hull of H.265 without weights, over log rate and all heights that were measured."""
    points = [point.rd_point(metric, pool, plain=True) for point in (*ours, *x265)]
    return convex_hull([point for point in points if point is not None], "log rate")


def compare_x265(rungs: Sequence[RatedRung], plain: Sequence[RdPoint]) -> list[Versus]:
    """Each rung beside the rate at which ``plain`` (a hull) is as good."""
    return [Versus(rung, _rate(plain, rung.quality)) for rung in rungs]


def compare_apple(
    height: int,
    rungs: Sequence[RatedRung],
    hull: Sequence[RdPoint],
    plain: Sequence[RdPoint],
    step: float,
) -> tuple[list[AppleRung], EqualTop | None]:
    """Apple's rungs that are no higher than ``height``, and both ladders at equal top quality.

    ``hull``: ours. Rungs of ours that are not at least half a ``step`` below that quality give way
    to the one that has it.
    """
    apple = [_apple_rung(*rung, hull, plain) for rung in APPLE_HEVC if rung[0] <= height]
    if not apple or apple[-1].quality is None or apple[-1].ours_kbps is None:
        return apple, None
    top = apple[-1].quality
    below = [rung.total_kbps for rung in rungs if rung.quality <= top - step / 2]
    ours = sum(below) + apple[-1].ours_kbps
    return apple, EqualTop(top, sum(rung.kbps for rung in apple), ours)


def _apple_rung(
    height: int, kbps: float, hull: Sequence[RdPoint], plain: Sequence[RdPoint]
) -> AppleRung:
    if not plain or kbps < plain[0].kbps:
        return AppleRung(height, kbps, None)
    is_least = kbps >= plain[-1].kbps
    quality = plain[-1].quality if is_least else quality_at(plain, kbps)
    return AppleRung(height, kbps, quality, is_least, _ours_at(hull, quality))


def _ours_at(hull: Sequence[RdPoint], quality: float) -> float | None:
    """Our rate at a quality: what is better at our lowest rate is bought with that, and what our
    best point misses by no more than ``SAME_TOP`` with its own.
    """
    if not hull or quality > hull[-1].quality + SAME_TOP:
        return None
    return _rate(hull, min(max(quality, hull[0].quality), hull[-1].quality))


def _rate(hull: Sequence[RdPoint], quality: float) -> float | None:
    if not hull or not hull[0].quality <= quality <= hull[-1].quality:
        return None
    if len(hull) == 1:
        return hull[0].kbps
    return rate_at(hull, quality)
