"""Where each of two heads is shown: the masks of a stream's frames, one after another."""

from __future__ import annotations

import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig
from codecaux.colour import luma_to_plane
from codecaux.fusion import fusion_mask, luma_variance
from codecaux.video import Frame, SampleArray, VideoFormat

__all__ = ["Masks"]


class Masks:
    """Memory: the variances of the last three frames, so that each is worked out once."""

    def __init__(self, coded: VideoFormat, config: SrUnetConfig, device: torch.device) -> None:
        self._coded, self._config, self._device = coded, config, device
        self._variances: list[tuple[SampleArray, Tensor]] = []  # (luma, V)

    def of(self, frame: Frame, exponent: float) -> Tensor:
        """Where the perceptual head is shown in ``frame``: of it and its neighbours alone."""
        around, config = frame.neighbours, self._config
        assert around is not None, "expected a frame that knows its neighbours (read_frames)"
        maps = [self._variance(f) for f in (around.before, frame, around.after) if f is not None]
        lowest = torch.stack([v.amin() for v in maps]).amin()
        highest = torch.stack([v.amax() for v in maps]).amax()
        height, width = (config.padded(n) for n in (self._coded.height, self._coded.width))
        places = height // config.fold, width // config.fold
        return fusion_mask(self._variance(frame), lowest, highest, exponent, places)

    def _variance(self, frame: Frame) -> Tensor:
        for luma, variance in self._variances:
            if luma is frame.y:
                return variance
        y = luma_to_plane(frame, self._coded, self._device)
        variance = luma_variance(y, self._config)
        self._variances = [*self._variances[-2:], (frame.y, variance)]
        return variance
