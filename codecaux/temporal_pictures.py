"""Steadiness in time as pictures: temporal profiles side by side, and RPF curves."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from codecaux.profiles import Profile
from codecaux.temporal import TemporalSteps

__all__ = ["curves_png", "profiles_png"]

_COLOURS = ("#2166ac", "#c51b7d", "#e66101", "#1b7837")
_DPI = 110
# Pixels of a profiles' picture: the narrowest panel, and the room around the panels.
_MIN_PANEL = 240
_LEFT, _GAP, _TOP, _BOTTOM = 60, 24, 58, 50


def profiles_png(profile: Profile, labels: Mapping[str, str], title: str) -> bytes:
    """The profiles' PNG: one panel a picture, side by side, pixel for pixel.

    ``labels``: what stands over each picture, by its name. The profile must not be empty.
    """
    assert profile.pictures, "an empty profile makes no picture"
    height, frames = next(iter(profile.pictures.values())).shape[:2]
    # Narrow profiles (short clips) are widened by whole factors: a frame stays a sharp column.
    wide, high = frames * max(1, _MIN_PANEL // frames), height
    count = len(profile.pictures)
    total = (_LEFT + count * (wide + _GAP), _TOP + high + _BOTTOM)

    def draw(figure: Any) -> None:
        for index, (name, picture) in enumerate(profile.pictures.items()):
            # Placed by the pixel: a layout engine would resample the picture.
            left = (_LEFT + index * (wide + _GAP)) / total[0]
            axes = figure.add_axes((left, _BOTTOM / total[1], wide / total[0], high / total[1]))
            axes.imshow(picture, aspect="auto", interpolation="nearest", extent=_extent(picture))
            axes.set_title(labels.get(name, name), fontsize=9)
            axes.set_xlabel("frame")
            axes.spines[:].set_visible(False)
            if index == 0:
                axes.set_ylabel(f"column {profile.column}, row")
            else:
                axes.set_yticks([])
        figure.suptitle(title, parse_math=False, fontsize=10, y=1.0 - 6 / total[1])

    return _png(draw, (total[0] / _DPI, total[1] / _DPI), layout=None)


def _extent(picture: np.ndarray[Any, Any]) -> tuple[float, float, float, float]:
    height, frames = picture.shape[:2]
    return (-0.5, frames - 0.5, height - 0.5, -0.5)


def curves_png(curves: Mapping[str, TemporalSteps], labels: Mapping[str, str], title: str) -> bytes:
    """RPF over time, as RAVE's figures 8 and 9: mu as a line, mu - sigma to mu + sigma filled;
    below it tOF, where there is any.
    """
    has_tof = any(steps.tof for steps in curves.values())

    def draw(figure: Any) -> None:
        rows = figure.subplots(1 + has_tof, 1, squeeze=False, sharex=True)[:, 0]
        for colour, (name, steps) in zip(_COLOURS, curves.items(), strict=False):
            _rpf(rows[0], steps, labels.get(name, name), colour)
            if has_tof:
                rows[1].plot(steps.tof_indices, steps.tof, color=colour, linewidth=1.0)
        rows[0].axhline(0.0, color="#888888", linewidth=0.5)
        rows[0].set_ylabel("RPF μ ± σ, 8-bit luma")
        rows[0].legend(
            frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(curves)
        )
        if has_tof:
            rows[1].set_ylabel("tOF, px per frame")
            rows[1].set_ylim(bottom=0.0)
        rows[-1].set_xlabel("frame")
        figure.suptitle(title, parse_math=False, fontsize=10)

    return _png(draw, (7.6, 3.0 + 1.9 * has_tof))


def _rpf(axes: Any, steps: TemporalSteps, label: str, colour: str) -> None:
    mu, sigma = np.array(steps.rpf_mu), np.array(steps.rpf_sigma)
    at = np.arange(len(mu))
    axes.fill_between(at, mu - sigma, mu + sigma, color=colour, alpha=0.15, linewidth=0)
    for border in (mu - sigma, mu + sigma):
        axes.plot(at, border, color=colour, linewidth=0.5)
    axes.plot(at, mu, color=colour, linewidth=1.0, label=label)


def _png(
    draw: Any,
    size_inches: tuple[float, float],
    layout: Literal["constrained"] | None = "constrained",
) -> bytes:
    # Here: matplotlib takes half a second to load, and only pictures need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size_inches, dpi=_DPI, layout=layout)
        draw(figure)
        buffer = io.BytesIO()
        # Without the time of day: equal curves are equal files.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
