"""One picture of a clip: VMAF v1 and LPIPS against rate, families in colours, hulls drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rd_cache import Point
from rd_tables import (
    LENGTHS,
    X265_SIZES,
    clip_curves,
    nets,
    of_default_objective,
    of_net,
    priced_for,
)

from codecaux.atomic import write_atomic
from codecaux.scores import LOWER_IS_BETTER

__all__ = ["draw"]

_PANELS = {"vmaf_v1": "VMAF v1", "lpips": "LPIPS (lower is better: axis turned)"}
_COLOURS = {
    "x265": "#222222",
    "x265-tuned": "#6a51a3",
    "x265-sizes": "#9a9a9a",
    "anchor": "#e08214",
    "base": "#2c7fb8",
    "fit": "#c51b7d",
}
_MARKERS = {"1": "o", "4/3": "v", "3/2": "s", "2": "^"}
_CODED_SIZES = {"1": "coded at the source size", "4/3": "at 3/4", "3/2": "at 2/3", "2": "at 1/2"}
_AMORTISED = "10 s"


def draw(points: Sequence[Point], output: Path) -> None:
    """Write a PNG of one clip's ``points``: as they are, and dashed with weights over 10 s. Of fits
    those with the default objective, of nets the default one where there are several.
    """
    points = of_default_objective(points)
    points = of_net(points, next(iter(nets(points)), ""))
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.2, 4.2), dpi=100, layout="constrained")
        panels = figure.subplots(1, len(_PANELS))
        for axes, (metric, title) in zip(panels, _PANELS.items(), strict=True):
            _panel(axes, points, metric)
            axes.set_title(title, fontsize=9)
        figure.suptitle(f"{points[0]['clip']}: {points[0]['seconds']:.1f} s", fontsize=10)
        _legend(figure, panels[0], points)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, buffer.getvalue())


def _panel(axes: Any, points: Sequence[Point], metric: str) -> None:
    for point in points:
        if point[metric] is not None:
            is_own = not priced_for(point)
            kbps = point[LENGTHS["own" if is_own else _AMORTISED]]
            colour, marker = _COLOURS[point["family"]], _MARKERS[point["scale"]]
            face = {} if is_own else {"markerfacecolor": "white"}
            axes.plot(kbps, point[metric], marker, color=colour, markersize=4, alpha=0.85, **face)
    has_weights = any(point["weights_bytes"] for point in points)
    for length, style in (("own", "-"), (_AMORTISED, "--")):
        # Sorted backwards: x265 itself comes last, upon the hull that it may be a part of.
        for name, curve in sorted(clip_curves(points, metric, length).items(), reverse=True):
            if length == "own" or (has_weights and name.startswith("fit")):
                sign = -1 if metric in LOWER_IS_BETTER else 1
                rates, values = [p.kbps for p in curve], [sign * p.quality for p in curve]
                colour = _COLOURS["x265-sizes" if name == X265_SIZES else name.split()[0]]
                axes.plot(rates, values, style, color=colour, linewidth=1.1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("kb/s with weights (log scale)")
    axes.grid(visible=True, linewidth=0.4, alpha=0.5)
    if metric in LOWER_IS_BETTER:
        axes.invert_yaxis()


def _legend(figure: Figure, axes: Any, points: Sequence[Point]) -> None:
    """Below the panels: a line for each family, a marker for each scale."""
    families = {point["family"] for point in points}
    net = next(iter(nets(points)), "")
    names = {
        "x265": "x265",
        "x265-tuned": "x265 with our options",
        "x265-sizes": "x265, hull over sizes",
        "anchor": "the authors' networks",
        "base": f"our base ({net})",
        "fit": f"fitted ({net}), weights in the rate",
    }
    handles = [
        axes.plot([], [], "-", color=_COLOURS[family], label=text)[0]
        for family, text in names.items()
        if family in families
    ]
    if "fit" in families:
        label = "if the scene lasted 10 s (hollow: priced for that)"
        handles += axes.plot([], [], "--", color=_COLOURS["fit"], label=label)
    scales = {point["scale"] for point in points}
    handles += [
        axes.plot([], [], marker, color="#666666", markersize=4, label=_CODED_SIZES[scale])[0]
        for scale, marker in _MARKERS.items()
        if scale in scales
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=7.5)
