"""Rate-distortion curves: front, hull, BD-rate, interpolation, choice of rungs. No files, no I/O.

Quality is larger where better (LPIPS comes negated), rates are in kb/s. BD-rates integrate log
rate over quality, as in Bjontegaard, VCEG-M33 (2001), through a piecewise cubic (pchip).

A hull is taken over one of two axes, and the choice is the caller's:

    "rate"      over the rate itself: what switching between the points *in time* can reach. Two
                points mix along a line of rate, so every place on such a hull can be had.
    "log rate"  over its logarithm: which points a *choice* is made among. Viewers' bandwidths
                spread over factors, and slopes read as quality per doubling. It cannot be reached
                by mixing, and is not for BD-rates: where a metric bends the other way over log
                rate (PSNR often does) only its ends stay, and x265 would seem 4 to 12 % better
                than itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from codecaux.errors import UsageError

__all__ = [
    "MIN_OVERLAP",
    "Axis",
    "BdRate",
    "Monotone",
    "RdPoint",
    "bd_rate",
    "capped",
    "convex_hull",
    "distinct",
    "pareto",
    "quality_at",
    "rate_at",
    "rungs_by_count",
    "rungs_by_rates",
    "rungs_by_step",
]

Axis: TypeAlias = Literal["rate", "log rate"]

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


# ------------------------------------------------------------------------------------------ hulls


def pareto(points: Iterable[RdPoint]) -> list[RdPoint]:
    """The points that no other beats at their rate or below it: both coordinates rise strictly."""
    result: list[RdPoint] = []
    for point in sorted(points, key=lambda point: (point.kbps, -point.quality)):
        if not result or point.quality > result[-1].quality:
            result.append(point)
    return result


def convex_hull(points: Iterable[RdPoint], axis: Axis) -> list[RdPoint]:
    """The upper hull of quality over ``axis`` (see the module's docstring).

    A subset of :func:`pareto`'s with the same two ends, in which the slope falls strictly.
    """
    result: list[RdPoint] = []
    for point in pareto(points):
        while len(result) > 1 and not _is_bend(result[-2], result[-1], point, axis):
            result.pop()
        result.append(point)
    return result


def _is_bend(a: RdPoint, b: RdPoint, c: RdPoint, axis: Axis) -> bool:
    """Does ``b`` lie above the line from ``a`` to ``c``? Rates rise from a to c."""
    if axis == "rate":
        near, far = b.kbps - a.kbps, c.kbps - a.kbps
    else:
        near, far = math.log(b.kbps / a.kbps), math.log(c.kbps / a.kbps)
    return (b.quality - a.quality) * far > (c.quality - a.quality) * near


# --------------------------------------------------------------------------------------- BD-rates


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
    # Here: it brings scipy and matplotlib along, a second's worth of imports.
    from bjontegaard import bd_rate as integrate

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


# ---------------------------------------------------------------------------------- interpolation


class Monotone:
    """y(x) through given points by pchip, a cubic that never overshoots: as monotone as they are.

    x rises strictly, y rises or falls strictly; one point or none is no curve. Raises UsageError
    for other data, and when called outside of its points: nothing is ever extrapolated.
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        _check_monotone(xs, ys)
        self._xs, self._ys = tuple(map(float, xs)), tuple(map(float, ys))
        from scipy.interpolate import PchipInterpolator

        self._curve: Any = PchipInterpolator(self._xs, self._ys)

    @property
    def domain(self) -> tuple[float, float]:
        """The least and the largest x."""
        return self._xs[0], self._xs[-1]

    def __call__(self, x: float) -> float:
        low, high = self.domain
        if not low <= x <= high:
            raise UsageError(f"expected a value of {low:g} to {high:g} on this curve, got {x:g}")
        return float(self._curve(x))

    def inverse(self) -> Monotone:
        """x(y) through the same points."""
        rising = self._ys[0] < self._ys[-1]
        step = 1 if rising else -1
        return Monotone(self._ys[::step], self._xs[::step])


def _check_monotone(xs: Sequence[float], ys: Sequence[float]) -> None:
    if len(xs) != len(ys) or len(xs) < 2:
        raise UsageError(f"expected two or more points to draw a curve through, got {len(xs)}")
    if not all(map(math.isfinite, (*xs, *ys))):
        raise UsageError("expected numbers on a curve, got a point that is not finite")
    for a, b in pairwise(xs):
        if not a < b:
            raise UsageError(f"expected points whose x rises, got {b:g} after {a:g}")
    rises = ys[0] < ys[-1]
    for a, b in pairwise(ys):
        if not (a < b if rises else a > b):
            way = "rises" if rises else "falls"
            raise UsageError(
                f"expected a curve that {way} from point to point, got {b:g} after {a:g}; "
                "leave out the points that others beat"
            )


def quality_at(points: Sequence[RdPoint], kbps: float) -> float:
    """Quality at a rate between those of ``points`` (rising strictly in both), over log rate."""
    curve = Monotone([math.log(p.kbps) for p in points], [p.quality for p in points])
    return curve(_within(math.log(kbps), curve.domain))


def rate_at(points: Sequence[RdPoint], quality: float) -> float:
    """The rate in kb/s at which ``points`` (rising strictly in both) reach ``quality``."""
    curve = Monotone([p.quality for p in points], [math.log(p.kbps) for p in points])
    return math.exp(curve(quality))


def _within(value: float, domain: tuple[float, float]) -> float:
    """``value``, where it is outside by no more than the rounding of a logarithm."""
    low, high = domain
    nearest = min(max(value, low), high)
    return nearest if math.isclose(value, nearest, rel_tol=1e-12, abs_tol=1e-12) else value


# ------------------------------------------------------------------------------------------ rungs


def capped(hull: Sequence[RdPoint], least_gain: float) -> list[RdPoint]:
    """Without the upper end where more bits buy nothing: where the last step gains less quality
    than ``least_gain`` for each doubling of the rate. The first point always stays.
    """
    kept = list(hull)
    while len(kept) > 1 and _gain_a_doubling(kept[-2], kept[-1]) < least_gain:
        kept.pop()
    return kept


def _gain_a_doubling(a: RdPoint, b: RdPoint) -> float:
    return (b.quality - a.quality) / math.log2(b.kbps / a.kbps)


def distinct(points: Sequence[RdPoint], least_difference: float) -> list[RdPoint]:
    """Without those that score the same as a cheaper one: less than ``least_difference`` above."""
    kept: list[RdPoint] = []
    for point in points:
        if not kept or point.quality - kept[-1].quality >= least_difference:
            kept.append(point)
    return kept


def rungs_by_step(hull: Sequence[RdPoint], step: float) -> list[RdPoint]:
    """Points of ``hull`` about one ``step`` of quality apart, from its best one downwards.

    No two are closer than half a step; where the hull has no point within half a step of the
    place, the next one below is taken.
    """
    _check_positive("a step of quality", step)
    chosen = [hull[-1]] if hull else []
    below = list(hull[:-1])
    while below:
        wanted = chosen[-1].quality - step
        below = [point for point in below if point.quality <= wanted + step / 2]
        if not below:
            break
        chosen.append(min(below, key=lambda point: abs(point.quality - wanted)))
        below = [point for point in below if point.quality < chosen[-1].quality]
    return chosen[::-1]


def rungs_by_count(hull: Sequence[RdPoint], count: int) -> list[RdPoint]:
    """``count`` points of ``hull`` (all, where there are no more), its best one among them, spread
    evenly over its quality.
    """
    if count < 1:
        raise UsageError(f"expected at least one rung, got {count}")
    if count >= len(hull):
        return list(hull)
    low, high = hull[0].quality, hull[-1].quality
    left, chosen = list(hull), []
    for index in range(count):
        wanted = high - (high - low) * index / max(count - 1, 1)
        nearest = min(left, key=lambda point: abs(point.quality - wanted))
        left.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen, key=lambda point: point.kbps)


def rungs_by_rates(hull: Sequence[RdPoint], rates_kbps: Iterable[float]) -> list[RdPoint]:
    """For each rate the best point of ``hull`` that fits into it; none for a rate too low for all.
    Two rates that the same point suits give one rung.
    """
    chosen: set[int] = set()
    for kbps in rates_kbps:
        _check_positive("a rate", kbps)
        fitting = [index for index, point in enumerate(hull) if point.kbps <= kbps]
        chosen.update(fitting[-1:])
    return [hull[index] for index in sorted(chosen)]


def _check_positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"expected {what} above 0, got {value:g}")
