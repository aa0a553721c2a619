"""One picture of a clip: the networks' losses and the critics' own, step by step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from codecaux.atomic import write_atomic

__all__ = ["draw_losses"]

_MEAN_STEPS = 20


def draw_losses(points: Sequence[dict[str, Any]], output: Path) -> None:
    """Write a PNG: on the left each fit's loss over its first one, on the right the losses of
    what learnt beside it, as means over 20 steps with their range.
    """
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.2, 4.0), dpi=100, layout="constrained")
        left, right = figure.subplots(1, 2)
        colours = mpl.colormaps["tab20"]
        for index, point in enumerate(points):
            _network(left, point, colours(index % 20))
            _critic(right, point, colours(index % 20))
        left.set_title("the network's loss / its first", fontsize=9)
        right.set_title("the critic's own loss (undecided: 1.39)", fontsize=9)
        for axes in (left, right):
            axes.set_xlabel("step")
        left.legend(fontsize=6, frameon=False)
        figure.suptitle(points[0]["clip"], fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, buffer.getvalue())


def _network(axes: Any, point: dict[str, Any], colour: Any) -> None:
    if not point["reported"]:
        return
    steps, losses = zip(*point["reported"], strict=True)
    axes.plot(steps, np.asarray(losses) / losses[0], color=colour, lw=1, label=point["objective"])


def _critic(axes: Any, point: dict[str, Any], colour: Any) -> None:
    own = np.asarray([own for _, own in point["trace"]])
    count = len(own) // _MEAN_STEPS
    if not count:
        return
    parts = own[: count * _MEAN_STEPS].reshape(count, _MEAN_STEPS)
    steps = (np.arange(count) + 0.5) * _MEAN_STEPS
    axes.plot(steps, parts.mean(1), color=colour, lw=1)
    axes.fill_between(steps, parts.min(1), parts.max(1), color=colour, alpha=0.12, lw=0)
