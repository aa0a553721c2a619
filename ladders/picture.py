"""A curve as a picture: VMAF and LPIPS against the rate on a log axis, hulls, the chosen point."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from codecaux.ladders.points import OperatingPoint
from codecaux.scores import LOWER_IS_BETTER

if TYPE_CHECKING:
    from codecaux.ladders.curve import Curve

__all__ = ["METRIC_NAMES", "curve_png"]

METRIC_NAMES = {
    "vmaf_v1": "VMAF v1",
    "vmaf_v061": "VMAF v0.6.1",
    "vmaf_v061_neg": "VMAF NEG",
    "lpips": "LPIPS",
    "psnr_y_db": "PSNR-Y, dB",
    "ssim": "SSIM",
}
_OURS, _PLAIN, _X265 = "#c51b7d", "#9ecae1", "#222222"
_MARKERS = {Fraction(2): "^", Fraction(3, 2): "s", Fraction(1): "o"}


def curve_png(curve: Curve) -> bytes:
    """The PNG's bytes: a panel for the metric of choice and one for LPIPS, where it is known."""
    # Here: matplotlib takes half a second to load, and only pictures need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    metrics = [curve.metric]
    if all(point.score("lpips") is not None for point in curve.points):
        metrics.append("lpips")
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.6 * len(metrics), 4.2), dpi=110, layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _panel(axes, curve, metric)
        title = curve.title
        figure.suptitle(
            f"{title.path.name}: {title.width}x{title.height}, {title.duration_seconds:.1f} s",
            fontsize=10,
        )
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        buffer = io.BytesIO()
        # Without the time of day: equal curves are equal files.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panel(axes: Any, curve: Curve, metric: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from codecaux.ladders.curve import hull_of

    _hull(axes, hull_of(curve.points, metric, curve.pool), curve, metric, _OURS, "ours, hull")
    x265_hull = hull_of(curve.x265_points, metric, curve.pool)
    _hull(axes, x265_hull, curve, metric, _X265, "x265 at the source's size, hull")
    _dots(axes, curve.x265_points, curve, metric, _X265, "o", "", plain=False)
    for scale, marker in _MARKERS.items():
        points = [point for point in curve.points if point.scale == scale]
        if points:
            name = f"scale {float(scale):g}"
            _dots(axes, points, curve, metric, _PLAIN, marker, f"{name}, plain", plain=True)
            _dots(axes, points, curve, metric, _OURS, marker, f"{name}, with weights", plain=False)
    ring = {"markersize": 12, "markerfacecolor": "none", "markeredgewidth": 1.5}
    chosen, value = curve.chosen, curve.chosen.score(metric, curve.pool)
    axes.plot(chosen.total_kbps, value, "o", color="#e66101", label="chosen", **ring)
    if curve.final is not None:
        value = curve.final.score(metric, curve.pool)
        axes.plot(curve.final.total_kbps, value, "x", color="#e66101", label="whole title")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda kbps, _: f"{kbps:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("kb/s with weights (log scale)")
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    is_turned = metric in LOWER_IS_BETTER
    pool = "" if curve.pool == "mean" else f", {curve.pool}"
    turned = " (lower is better: axis turned)" if is_turned else ""
    axes.set_title(METRIC_NAMES[metric] + pool + turned, fontsize=9)
    if is_turned:
        axes.invert_yaxis()


def _hull(
    axes: Any,
    hull: Sequence[OperatingPoint],
    curve: Curve,
    metric: str,
    colour: str,
    label: str,
) -> None:
    rates = [point.total_kbps for point in hull]
    values = [point.score(metric, curve.pool) for point in hull]
    axes.plot(rates, values, "-", color=colour, linewidth=1.2, label=label)


def _dots(
    axes: Any,
    points: Sequence[OperatingPoint],
    curve: Curve,
    metric: str,
    colour: str,
    marker: str,
    label: str,
    *,
    plain: bool,
) -> None:
    rates = [point.stream_kbps if plain else point.total_kbps for point in points]
    values = [point.score(metric, curve.pool, plain=plain) for point in points]
    # A label that begins with "_" is not shown.
    axes.plot(rates, values, marker, color=colour, markersize=4, label=label or "_")
