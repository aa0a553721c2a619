"""Which heights a ladder is probed at, and which of the probed points become its rungs. Pure.

source's size, what is asked for ─> scales of the grid
candidates, the hull over log rate ─ trimmed at its top ─ spread ─> rungs
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from codecaux.errors import UsageError
from codecaux.ladders.ladder_settings import LadderSettings
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe
from codecaux.ladders.rd import (
    RdPoint,
    capped,
    convex_hull,
    distinct,
    pareto,
    rungs_by_count,
    rungs_by_rates,
    rungs_by_step,
)
from codecaux.video import Geometry

__all__ = [
    "SAME_QUALITY",
    "candidates",
    "choose_rungs",
    "grid_scales",
    "probes_between",
    "trimmed",
]

# Rungs that differ by less VMAF score the same: nobody sees which one is shown.
SAME_QUALITY = 1.0
_LEAST_SIDE = 16  # of ffmpeg's libx265
# Coded heights are even: 540 lines at scale 1.5 are 360, 436 are 292.
_HEIGHT_TOLERANCE = 2
# A probe for a rate aims a little below it, one for a quality a little above: the other side is of
# no use.
_RATE_AIM = 0.97
_TOP_AIM = 0.2
_LEAST_CRF_STEP = 0.3


# ------------------------------------------------------------------------------------------- grid


def grid_scales(
    width: int, height: int, settings: LadderSettings
) -> tuple[tuple[Fraction, ...], list[str]]:
    """The scales to probe a source of this size at, the largest first; and what was left out, in
    words. UsageError where nothing is left.
    """
    notes: list[str] = []
    coded = {scale: Geometry(width, height, scale) for scale in settings.scales}
    heights = {scale: geometry.coded_height for scale, geometry in coded.items()}
    for scale, geometry in coded.items():
        if min(geometry.coded_width, geometry.coded_height) < _LEAST_SIDE:
            notes.append(f"scale {float(scale):g} left out: x265 needs {_LEAST_SIDE}x{_LEAST_SIDE}")
            del heights[scale]
    wanted = dict(heights)
    if settings.heights:
        above = [str(asked) for asked in settings.heights if asked > height + _HEIGHT_TOLERANCE]
        if above:
            rest = f"the source has {height} lines, and no rung is upscaled"
            notes.append(f"rungs of {', '.join(above)} lines left out: {rest}")
        wanted = _named(heights, [h for h in settings.heights if h <= height + _HEIGHT_TOLERANCE])
    if settings.max_height is not None:
        wanted = {scale: h for scale, h in wanted.items() if h <= settings.max_height}
    if not wanted:
        known = ", ".join(str(h) for h in sorted(heights.values(), reverse=True)) or "none"
        raise UsageError(
            f"expected a grid with at least one height, got none: a source of {width}x{height} "
            f"can be coded with these numbers of lines: {known}"
        )
    return tuple(sorted(wanted, reverse=True)), notes


def _named(heights: dict[Fraction, int], asked: Sequence[int]) -> dict[Fraction, int]:
    """The scales whose coded heights are asked for; UsageError for a height that none has."""
    found: dict[Fraction, int] = {}
    for height in asked:
        near = {s: h for s, h in heights.items() if abs(h - height) <= _HEIGHT_TOLERANCE}
        if not near:
            known = ", ".join(str(h) for h in sorted(heights.values(), reverse=True))
            raise UsageError(
                f"expected heights of {known} for this source (itself, 2/3 and 1/2 of it), got "
                f"{height}"
            )
        found |= near
    return found


# ------------------------------------------------------------------------------------------ rungs


def trimmed(hull: Sequence[RdPoint], settings: LadderSettings) -> list[RdPoint]:
    """The hull without what buys nothing at its top, and without points that score the same.

    With ``top`` it ends with its first point that is as good, or with its best.
    """
    if settings.top is None:
        return distinct(capped(hull, settings.least_gain), SAME_QUALITY)
    enough = [index for index, point in enumerate(hull) if point.quality >= settings.top]
    kept = list(hull[: enough[0] + 1]) if enough else list(hull)
    below = distinct(kept[:-1], SAME_QUALITY)
    return [p for p in below if kept[-1].quality - p.quality >= SAME_QUALITY] + kept[-1:]


def candidates(points: Sequence[RdPoint], settings: LadderSettings) -> list[RdPoint]:
    """What rungs may be chosen among, rising in rate: the hull over log rate.

    With ``rates_kbps`` every point that none beats, with ``top`` the hull of what is cheaper than
    the cheapest point that is as good, and that point: probes made to fall just there often lie a
    little below the chord between two of the grid.
    """
    if settings.rates_kbps:
        return pareto(points)
    enough = [point for point in points if settings.top and point.quality >= settings.top]
    if not enough:
        return convex_hull(points, "log rate")
    end = min(enough, key=lambda point: (point.kbps, -point.quality))
    below = [point for point in points if point.kbps < end.kbps and point.quality < end.quality]
    return convex_hull([*below, end], "log rate")


def choose_rungs(hull: Sequence[RdPoint], settings: LadderSettings) -> list[RdPoint]:
    """The rungs, rising in rate. UsageError where none of the rates is enough for any."""
    points = trimmed(hull, settings)
    if settings.rates_kbps:
        chosen = rungs_by_rates(points, settings.rates_kbps)
        if not chosen:
            raise UsageError(
                f"expected a rate of at least {points[0].kbps:,.0f} kb/s, which the smallest rung "
                f"takes, got {max(settings.rates_kbps):,.0f}; ask for more, or add larger CRFs"
            )
        return chosen
    if settings.count is not None:
        return rungs_by_count(points, settings.count)
    return rungs_by_step(points, settings.quality_step)


def probes_between(
    points: Sequence[OperatingPoint],
    hull: Sequence[OperatingPoint],
    metric: str,
    settings: LadderSettings,
) -> list[Probe]:
    """Probes that should fall just within each rate, and just above the top, that is asked for.

    Interpolated between a point of ``hull`` (rising in rate) and the next CRF of its scale; none
    where the grid does not go there, or is as near already.
    """
    probes = []
    for rate in settings.rates_kbps:
        high = next((point for point in hull if point.total_kbps > rate), None)
        low = None if high is None else _next_crf(points, high)
        if high is not None and low is not None and low.total_kbps < rate:
            part = math.log(high.total_kbps / (rate * _RATE_AIM))
            part /= math.log(high.total_kbps / low.total_kbps)
            probes += _at(high, low, part, math.ceil)
    return probes + _probes_for_top(points, hull, metric, settings)


def _probes_for_top(
    points: Sequence[OperatingPoint],
    hull: Sequence[OperatingPoint],
    metric: str,
    settings: LadderSettings,
) -> list[Probe]:
    def quality(point: OperatingPoint) -> float:
        value = point.quality(metric, settings.pool)
        return -math.inf if value is None else value

    if settings.top is None:
        return []
    high = next((point for point in hull if quality(point) >= settings.top), None)
    low = None if high is None else _next_crf(points, high)
    if high is None or low is None or not quality(low) < settings.top:
        return []
    above = quality(high) - settings.top - _TOP_AIM
    part = max(above, 0.0) / (quality(high) - quality(low))
    return _at(high, low, part, math.floor)


def _next_crf(points: Sequence[OperatingPoint], high: OperatingPoint) -> OperatingPoint | None:
    """Of the same scale, the point with the next larger CRF."""
    larger = [p for p in points if p.scale == high.scale and p.crf > high.crf]
    return min(larger, key=lambda point: point.crf, default=None)


def _at(
    high: OperatingPoint, low: OperatingPoint, part: float, rounded: Callable[[float], int]
) -> list[Probe]:
    """The probe ``part`` of the way from ``high`` to ``low``, where it is a new one."""
    crf = rounded(10 * (high.crf + part * (low.crf - high.crf))) / 10
    is_new = min(crf - high.crf, low.crf - crf) >= _LEAST_CRF_STEP
    return [Probe(crf, high.scale)] if is_new else []
