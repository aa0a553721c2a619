"""Temporal profiles: one column of the picture over time, as a picture.

"A single vertical line of pixels is recorded over all frames in the sequence and stacked
horizontally" (NTIRE 2020 challenge on video quality mapping, section 5.1, figures 10 and 12). What
moves steadily draws smooth lines, what flickers draws a comb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from codecaux.colour import frame_to_rgb
from codecaux.errors import UsageError
from codecaux.video import Frame, VideoFormat

__all__ = ["PROFILE_MAX_FRAMES", "SOURCE", "Profile", "ProfileRecorder", "rgb_column"]

SOURCE = "source"
# More columns than a screen has would only be shrunk away; it bounds the memory as well.
PROFILE_MAX_FRAMES = 960
_MIN_FRAMES = 3
# Luma columns on either side, for the chroma's interpolation (two samples each way).
_MARGIN = 6

RgbArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """``pictures``: RGB uint8 [H, T, 3] by name, the source's first: column ``column`` of the
    frames 0 to T - 1. Empty where there are fewer than three frames.
    """

    column: int
    pictures: Mapping[str, RgbArray]

    @property
    def num_frames(self) -> int:
        """Frames that the pictures show, T; 0 without pictures."""
        return next((picture.shape[1] for picture in self.pictures.values()), 0)


class ProfileRecorder:
    """Collects one column of a source and its versions while they stream past.

    ``column`` in luma pixels, 0 at the left; None: the middle. ``add`` raises UsageError where the
    picture has no such column. Of long clips the first ``PROFILE_MAX_FRAMES`` frames are kept.
    """

    def __init__(self, column: int | None = None) -> None:
        self._wanted = column
        self._column = 0
        self._columns: dict[str, list[RgbArray]] = {}
        self._num_frames = 0

    def add(self, format: VideoFormat, reference: Frame, versions: Mapping[str, Frame]) -> None:
        """The next frame and its versions; fits :data:`codecaux.measure.Watch`."""
        if self._num_frames == 0:
            self._column = _checked(self._wanted, format.width)
        if self._num_frames < PROFILE_MAX_FRAMES:
            for name, frame in ({SOURCE: reference} | dict(versions)).items():
                rgb = rgb_column(frame, format, self._column)
                self._columns.setdefault(name, []).append(rgb)
        self._num_frames += 1

    def finish(self) -> Profile:
        if self._num_frames < _MIN_FRAMES:
            return Profile(self._column, {})
        stacked = {name: np.stack(columns, axis=1) for name, columns in self._columns.items()}
        return Profile(self._column, stacked)


def _checked(column: int | None, width: int) -> int:
    if column is None:
        return width // 2
    if not 0 <= column < width:
        raise UsageError(f"expected a column of 0 to {width - 1}, got {column}; give another")
    return column


def rgb_column(frame: Frame, format: VideoFormat, column: int) -> RgbArray:
    """Column ``column`` as RGB uint8 [H, 3]: only a strip round it is converted."""
    first = max(0, column - _MARGIN) // 2 * 2
    end = min(format.width, column + _MARGIN + 1)
    chroma = slice(first // 2, (end + 1) // 2)
    strip = Frame(frame.y[:, first:end], frame.u[:, chroma], frame.v[:, chroma], frame.pts)
    layout = replace(format, width=end - first)
    rgb = frame_to_rgb(strip, layout, torch.device("cpu"))[0, :, :, column - first]
    return (rgb.T * 255.0).round().to(torch.uint8).numpy()
