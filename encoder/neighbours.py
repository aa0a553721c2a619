"""What lies before and after a bank's patches in time, kept while frames stream past.

    frame t arrives: it is the "after" of what frame t - 1 put into the bank; then the patches of
    t that are taken get t - 1 as their "before", and for the time being as their "after".

So the first frame's before is its after, the last one's after its before, and of a single frame
both are itself: always true neighbours where there are any. A cut between two frames is none of
its concern; what is compared over it is compared with the same other frame on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from codecaux.video import SampleArray

__all__ = ["CORNER_STEP", "MiddleSettings", "NeighbourStore", "SamplePlanes", "middle_shape"]

SamplePlanes: TypeAlias = tuple[SampleArray, SampleArray, SampleArray]
_Dtype: TypeAlias = type[np.uint8] | type[np.uint16]

# A patch's corner lies on multiples of this many coded pixels: chroma stays on whole samples, and
# 1.5 times it is even.
CORNER_STEP = 4


@dataclass(frozen=True, slots=True)
class MiddleSettings:
    """Which part of a patch is kept: ``middle`` (height, width) of ``patch``, in coded pixels;
    ``has_coded``: of the decoded frames, too, not of the source alone.
    """

    patch: tuple[int, int]
    middle: tuple[int, int]
    scale: Fraction
    has_coded: bool

    @property
    def patch_samples(self) -> float:
        """Luma samples that one patch's neighbours take."""
        height, width = self.middle
        return 2 * height * width * (float(self.scale) ** 2 + self.has_coded)

    @property
    def scales(self) -> tuple[Fraction, ...]:
        """Of each kept group's frames against the coded ones: the source's, the decoded."""
        return (self.scale, Fraction(1)) if self.has_coded else (self.scale,)


def middle_shape(
    patch: tuple[int, int], size: int, scale: Fraction, alignment: int
) -> tuple[int, int]:
    """(height, width) in coded pixels of a patch's middle of at most ``size`` source pixels, and of
    one step of the network at least: its corner lies on whole samples at every scale.
    """
    step = math.lcm(alignment, CORNER_STEP)
    most = max(step, int(size / scale) // step * step)
    return min(patch[0], most), min(patch[1], most)


class NeighbourStore:
    """Middles of ``capacity`` patches in the frames before and after. Memory: those, and the last
    frame.
    """

    def __init__(self, capacity: int, dtype: _Dtype, settings: MiddleSettings) -> None:
        self._settings = settings
        self._groups = [
            tuple(_allocate(capacity, settings, scale, dtype) for _ in ("before", "after"))
            for scale in settings.scales
        ]
        self._before: list[Sequence[SampleArray]] = []
        self._last: list[Sequence[SampleArray]] = []  # the last frame's planes, group by group
        self._corners: dict[int, tuple[int, int]] = {}  # slot -> corner, of the last frame's
        self._num_frames = 0

    def begin(self, source: Sequence[SampleArray], coded: Sequence[SampleArray]) -> None:
        """A new frame: what follows what was put in since the last one began."""
        frames = [source, coded][: len(self._groups)]
        for slot, corner in self._corners.items():
            for index, frame in enumerate(frames):
                before, after = self._groups[index]
                self._cut(after, slot, frame, corner, self._settings.scales[index])
                if self._num_frames == 1:
                    self._cut(before, slot, frame, corner, self._settings.scales[index])
        self._before = self._last or frames
        self._last = list(frames)
        self._corners = {}
        self._num_frames += 1

    def put(self, slot: int, top: int, left: int) -> None:
        """The patch with that corner of the frame that has begun is in the bank's ``slot``."""
        self._corners[slot] = top, left
        for index, frame in enumerate(self._before):
            for group in self._groups[index]:
                self._cut(group, slot, frame, (top, left), self._settings.scales[index])

    def finish(self, count: int) -> tuple[SamplePlanes, ...]:
        """The first ``count`` slots: source before, after, and perhaps decoded before, after."""
        return tuple((y[:count], u[:count], v[:count]) for pair in self._groups for y, u, v in pair)

    def _cut(
        self,
        group: SamplePlanes,
        slot: int,
        frame: Sequence[SampleArray],
        corner: tuple[int, int],
        scale: Fraction,
    ) -> None:
        settings = self._settings
        top, left = (
            int((at + (whole - part) // 2) * scale)
            for at, whole, part in zip(corner, settings.patch, settings.middle, strict=True)
        )
        for plane, kept, divisor in zip(frame, group, (1, 2, 2), strict=True):
            height, width = kept.shape[1:]
            t, l_ = top // divisor, left // divisor
            kept[slot] = plane[t : t + height, l_ : l_ + width]


def _allocate(count: int, settings: MiddleSettings, scale: Fraction, dtype: _Dtype) -> SamplePlanes:
    height, width = (int(size * scale) for size in settings.middle)
    shape = (count, height // 2, width // 2)
    return np.empty((count, height, width), dtype), np.empty(shape, dtype), np.empty(shape, dtype)
