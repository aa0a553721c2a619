"""Rate-distortion curves: Pareto front, convex hull, BD-rate. Pure mathematics, no files.

Quality is larger where better (LPIPS comes negated), rates are in kb/s. BD-rates integrate log
rate over quality, as in Bjontegaard, VCEG-M33 (2001), through a piecewise cubic (pchip). Hulls are
taken over the rate itself, not its logarithm: in time, two points mix along a line of rate, so such
a hull can be reached. Over log rate it could not: PSNR bends the other way there, only the two ends
would stay, and x265 would seem 4 to 12 % better than itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bjontegaard import bd_rate as integrate  # type: ignore[import-untyped]

__all__ = ["MIN_OVERLAP", "BdRate", "RdPoint", "bd_rate", "convex_hull", "pareto"]

# Less of the narrower curve's quality range than this in common: no BD-rate, it would be the
# comparison of two ends.
MIN_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class RdPoint:
    """``kbps`` > 0, ``quality`` larger where better; ``label`` says which point it is."""

    kbps: float
    quality: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class BdRate:
    """Mean difference in rate at equal quality, over the quality ``low``..``high``, in per cent.

    Below 0: the curve under test needs less.
    """

    percent: float
    low: float
    high: float


def pareto(points: Iterable[RdPoint]) -> list[RdPoint]:
    """The points that no other beats at their rate or below it: both coordinates rise strictly."""
    result: list[RdPoint] = []
    for point in sorted(points, key=lambda point: (point.kbps, -point.quality)):
        if not result or point.quality > result[-1].quality:
            result.append(point)
    return result


def convex_hull(points: Iterable[RdPoint]) -> list[RdPoint]:
    """The upper hull in (rate, quality): what switching between the points in time can reach.

    A subset of :func:`pareto`'s, in which the slope falls strictly.
    """
    result: list[RdPoint] = []
    for point in pareto(points):
        while len(result) > 1 and not _is_bend(result[-2], result[-1], point):
            result.pop()
        result.append(point)
    return result


def _is_bend(a: RdPoint, b: RdPoint, c: RdPoint) -> bool:
    """Does ``b`` lie above the line from ``a`` to ``c``? Rates rise from a to c."""
    return (b.quality - a.quality) * (c.kbps - a.kbps) > (c.quality - a.quality) * (b.kbps - a.kbps)


def bd_rate(reference: Sequence[RdPoint], test: Sequence[RdPoint]) -> BdRate | None:
    """The rate of ``test`` beyond that of ``reference`` at equal quality; both as by ``pareto``.

    None for a curve of fewer than two points, and where the curves have less than ``MIN_OVERLAP``
    of the narrower one's quality range in common.
    """
    if min(len(reference), len(test)) < 2:
        return None
    curves = (reference, test)
    low = max(curve[0].quality for curve in curves)
    high = min(curve[-1].quality for curve in curves)
    narrower = min(curve[-1].quality - curve[0].quality for curve in curves)
    if high - low < MIN_OVERLAP * narrower:
        return None
    percent = integrate(
        [point.kbps for point in reference],
        [point.quality for point in reference],
        [point.kbps for point in test],
        [point.quality for point in test],
        method="pchip",
        require_matching_points=False,
        min_overlap=0,
    )
    return BdRate(float(percent), low, high)
