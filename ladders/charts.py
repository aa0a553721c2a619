"""Line charts as inline SVG: log rate across, a score up. Pure text, no scripts, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Chart", "Series", "chart_svg", "log_ticks", "ticks"]

_WIDTH, _HEIGHT = 560, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 44


@dataclass(frozen=True, slots=True)
class Series:
    """Points (kb/s, score). ``mark``: circle, square, triangle, ring or cross, "" for none;
    ``line``: joined by one. A series without a ``name`` is not in the legend. ``titles``: what a
    pointer that rests on a point is told.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    mark: str = ""
    line: bool = False
    dashed: bool = False
    titles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """``turned``: low values at the top, where lower is better."""

    title: str
    series: Sequence[Series]
    turned: bool = False


def chart_svg(chart: Chart) -> str:
    """One ``<svg>`` element; a chart without a point is an empty text."""
    points = [point for series in chart.series for point in series.points]
    if not points:
        return ""
    scale = _Scale.over(points, turned=chart.turned)
    parts = [_axes(scale)]
    parts += [_series(series, scale) for series in chart.series]
    title = escape(chart.title)
    legend, rows = _legend(chart.series)
    height = _HEIGHT + 18 * rows
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">'
        f'<text x="{_LEFT}" y="18" class="title">{title}</text>{"".join(parts)}{legend}</svg>'
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Data -> pixels: log2 of the rate across, the score up (or down)."""

    low_kbps: float
    high_kbps: float
    low: float
    high: float
    turned: bool

    @classmethod
    def over(cls, points: Sequence[tuple[float, float]], *, turned: bool) -> _Scale:
        rates, scores = [p[0] for p in points], [p[1] for p in points]
        margin = (max(scores) - min(scores)) * 0.06 or abs(scores[0]) * 0.05 or 1.0
        low, high = min(scores) - margin, max(scores) + margin
        return cls(min(rates) / 1.15, max(rates) * 1.15, low, high, turned)

    def x(self, kbps: float) -> float:
        part = math.log(kbps / self.low_kbps) / math.log(self.high_kbps / self.low_kbps)
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def y(self, score: float) -> float:
        part = (score - self.low) / (self.high - self.low)
        return _TOP + (part if self.turned else 1 - part) * (_HEIGHT - _TOP - _BOTTOM)


# ------------------------------------------------------------------------------------------- axes


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most ``most`` of them."""
    assert low < high
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while (high - low) / step > most:
        # 1, 2, 5, 10, 20, ...
        lead = round(step / 10 ** math.floor(math.log10(step) + 1e-9))
        step *= 2.5 if lead == 2 else 2
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + index) * step, 10) for index in range(count)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... from ``low`` to ``high``."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [lead * 10.0**decade for decade in decades for lead in (1, 2, 5)]
    return [value for value in found if low <= value <= high]


def _axes(scale: _Scale) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for kbps in log_ticks(scale.low_kbps, scale.high_kbps):
        x = scale.x(kbps)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" class="grid"/>')
        label = f"{kbps:,.0f}" if kbps >= 1 else f"{kbps:g}"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{label}</text>')
    for score in ticks(scale.low, scale.high):
        y = scale.y(score)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{score:g}</text>')
    middle = (_LEFT + right) / 2
    caption = "kb/s of the title, weights counted (log scale)"
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" class="axis"/>')
    parts.append(f'<text x="{middle}" y="{bottom + 33}" text-anchor="middle">{caption}</text>')
    return "".join(parts)


# ----------------------------------------------------------------------------------------- series


def _series(series: Series, scale: _Scale) -> str:
    places = [(scale.x(kbps), scale.y(score)) for kbps, score in series.points]
    parts = []
    if series.line and len(places) > 1:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dashes = ' stroke-dasharray="5 3"' if series.dashed else ""
        parts.append(
            f'<path d="{path}" fill="none" stroke="{series.colour}" stroke-width="1.6"{dashes}/>'
        )
    for index, (x, y) in enumerate(places):
        told = series.titles[index] if index < len(series.titles) else ""
        parts.append(_mark(series.mark, x, y, series.colour, told))
    return "".join(parts)


def _mark(mark: str, x: float, y: float, colour: str, told: str = "") -> str:
    title = f"<title>{escape(told)}</title>" if told else ""
    at = f"{x:.1f} {y:.1f}"
    shapes = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{colour}"',
        "ring": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7.5" fill="none" stroke="{colour}" '
        'stroke-width="2"',
        "square": f'<path d="M{at}m-3.2 -3.2h6.4v6.4h-6.4z" fill="{colour}"',
        "triangle": f'<path d="M{at}m0 -4.2l4 7h-8z" fill="{colour}"',
        "cross": f'<path d="M{at}m-4 -4l8 8m0 -8l-8 8" fill="none" stroke="{colour}" '
        'stroke-width="1.8"',
    }
    return f"{shapes[mark]}>{title}{_END[mark]}" if mark else ""


_END = {
    mark: "</circle>" if mark in ("circle", "ring") else "</path>"
    for mark in ("circle", "ring", "square", "triangle", "cross")
}


def _legend(series: Sequence[Series]) -> tuple[str, int]:
    """Two entries a row below the chart, and how many rows."""
    named = [each for each in series if each.name and each.points]
    parts = []
    for index, each in enumerate(named):
        x, y = _LEFT + 255 * (index % 2), _HEIGHT + 8 + 18 * (index // 2)
        if each.line:
            dashes = ' stroke-dasharray="5 3"' if each.dashed else ""
            parts.append(
                f'<path d="M{x} {y}h22" stroke="{each.colour}" stroke-width="1.6"{dashes}/>'
            )
        if each.mark:
            parts.append(_mark(each.mark, x + 11, y, each.colour))
        parts.append(f'<text x="{x + 30}" y="{y + 4}">{escape(each.name)}</text>')
    return "".join(parts), -(-len(named) // 2)
