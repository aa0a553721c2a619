"""A network ready to run: the object that holds its weights, and what it remembers.

What it shows of a frame is :mod:`codecaux.decoder.planes`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig, macs_per_coded_pixel
from codecaux.colour import Planes, frame_to_planes, planes_to_frame
from codecaux.decoder.masks import Masks
from codecaux.decoder.memory import Memory
from codecaux.decoder.planes import enhance_next, enhance_planes, upscale_planes
from codecaux.decoder.sets import FloatSet
from codecaux.device import Device
from codecaux.errors import InputError
from codecaux.fusion import sharpened
from codecaux.metadata import Fusion
from codecaux.network import with_identity
from codecaux.recurrent import State
from codecaux.video import Frame, VideoFormat

__all__ = ["Enhanced", "Enhancer"]


@dataclass(frozen=True, slots=True)
class Enhanced:
    """One picture twice, both at the source's size: plainly upscaled, and enhanced."""

    base: Frame
    enhanced: Frame


class Enhancer:
    """A network ready to run on one device, for one stream.

    ``format`` describes its output: the source's size, the stream's depth and colour. Without
    ``sets`` it upscales plainly, and ``enhanced`` is ``base``. ``fusion``: of a network of two
    heads, None of one; such a network needs frames that know their neighbours.

    A recurrent net remembers the frame before: give it the frames in order. It starts afresh where
    a set begins, at ``resets``, and after a seek. Memory: one state, whatever the title's length.
    """

    def __init__(
        self,
        coded: VideoFormat,
        source_size: tuple[int, int],
        config: SrUnetConfig,
        sets: Sequence[FloatSet],
        device: Device,
        resets: Sequence[int] = (),
        fusion: Fusion | None = None,
    ) -> None:
        assert (fusion is not None) == (config.heads > 1), "expected a fusion for two heads alone"
        self.coded = coded
        self.config = config
        self.device = device
        self.format = replace(coded, width=source_size[0], height=source_size[1])
        self._sets = tuple(sets)
        self._loaded: tuple[int, dict[str, Tensor]] | None = None
        self._memory: Memory[State] = Memory((*resets, *(s.first_frame for s in sets)))
        self._fusion = fusion
        self._masks = Masks(coded, config, device.torch_device)

    @property
    def has_weights(self) -> bool:
        """Is there a network to run, or does it upscale plainly?"""
        return bool(self._sets)

    def base(self, frame: Frame) -> Frame:
        """The plain bicubic picture, without running the network."""
        planes = frame_to_planes(frame, self.coded, self.device.torch_device)
        with torch.inference_mode():
            upscaled = upscale_planes(planes, self.config.scale, self.coded.colour)
            return planes_to_frame(upscaled, self.format, frame.pts)

    def enhance(self, frame: Frame, index: int) -> Enhanced:
        """Frame ``index`` (0-based, in presentation order) of the stream, plain and enhanced."""
        weights = self._weights_for(index)
        if weights is None:
            base = self.base(frame)
            return Enhanced(base, base)
        with torch.inference_mode():
            pair = self._run(frame, weights, index)
            shown, enhanced = (planes_to_frame(p, self.format, frame.pts) for p in pair)
        return Enhanced(shown, enhanced)

    def _run(
        self, frame: Frame, weights: Mapping[str, Tensor], index: int
    ) -> tuple[Planes, Planes]:
        config, colour, dtype = self.config, self.coded.colour, self.device.compute_dtype
        planes = frame_to_planes(frame, self.coded, self.device.torch_device)
        if config.is_recurrent:
            before = self._memory.recall(index)
            base, enhanced, state = enhance_next(planes, before, weights, config, colour, dtype)
            self._memory.keep(index, state)
            return base, enhanced
        if self._fusion is None:
            return enhance_planes(planes, weights, config, colour, dtype)
        mask = self._masks.of(frame, self._fusion.exponent)
        base, enhanced = enhance_planes(planes, weights, config, colour, dtype, mask)
        return base, sharpened(enhanced, self._fusion.sharpen)

    def enhance_all(self, frames: Iterator[Frame]) -> Iterator[Enhanced]:
        """:meth:`enhance` over a whole stream, in order."""
        for index, frame in enumerate(frames):
            yield self.enhance(frame, index)

    def enhance_one(self, frames: Iterable[Frame], index: int) -> Enhanced:
        """Frame ``index`` alone, out of a stream's ``frames`` from its first on: as :meth:`enhance`
        shows it in a whole run, a recurrent net after a run-up. InputError where there is none.
        """
        self._memory.forget()
        first = self._memory.first_needed(index) if self.config.is_recurrent else index
        for at, frame in enumerate(frames):
            if at >= first:
                pair = self.enhance(frame, at)
            if at == index:
                return pair
        raise InputError(f"expected a stream of more than {index} frames, got fewer")

    def _weights_for(self, index: int) -> dict[str, Tensor] | None:
        """Weights of the set that covers ``index``, moved to the device once per set."""
        for at, s in enumerate(self._sets):
            if s.first_frame <= index and (s.end_frame is None or index < s.end_frame):
                if self._loaded is None or self._loaded[0] != at:
                    self._loaded = (at, self._load(s.weights))
                return self._loaded[1]
        return None

    def _load(self, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
        full = with_identity(merged, self.config)
        return {
            name: _for_device(tensor, self.device.torch_device, self.device.compute_dtype)
            for name, tensor in full.items()
        }

    @property
    def macs_per_frame(self) -> int:
        """Multiply-adds of the convolutions for one frame."""
        width, height = (self.config.padded(n) for n in (self.coded.width, self.coded.height))
        return round(macs_per_coded_pixel(self.config) * width * height)


def _for_device(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    tensor = tensor.to(device, dtype)
    if tensor.dim() == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor
