"""The one function that runs the network over a picture, and the object that holds its weights.

Player, encoder, scores and ladders all go through :func:`enhance_planes`: what is scored is what
is shown. The picture stays in YUV 4:2:0; the network sees and makes RGB (as the paper's does), and
because RGB -> YUV is linear its residual is converted and added to the bicubically upscaled
planes, so that plain and enhanced pictures share one base.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from codecaux.architecture import SrUnetConfig, macs_per_coded_pixel
from codecaux.bases import get_base
from codecaux.colour import (
    Planes,
    chroma_axes,
    chroma_to_420,
    chroma_to_444,
    frame_to_planes,
    planes_to_frame,
    rgb_to_yuv444,
    yuv444_to_rgb,
)
from codecaux.device import Device
from codecaux.metadata import WeightsMetadata
from codecaux.network import sr_unet, with_identity
from codecaux.resample import BICUBIC, axis_for, resample
from codecaux.video import Colour, Frame, VideoFormat
from codecaux.weightsfile import WeightSet

__all__ = ["Enhanced", "Enhancer", "FloatSet", "enhance_planes", "float_sets", "upscale_planes"]


@dataclass(frozen=True, slots=True)
class Enhanced:
    """One picture twice, both at the source's size: plainly upscaled, and enhanced."""

    base: Frame
    enhanced: Frame


@dataclass(frozen=True, slots=True, eq=False)
class FloatSet:
    """Merged float32 weights (identity not included) for ``first_frame`` <= index < ``end_frame``
    (None: to the end).
    """

    first_frame: int
    end_frame: int | None
    weights: Mapping[str, Tensor]


def upscale_planes(planes: Planes, scale: Fraction, colour: Colour) -> Planes:
    """Plain bicubic: nominal 4:2:0 planes -> 4:2:0 planes ``scale`` times as large."""
    if scale == 1:
        return planes
    ratio = (scale.numerator, scale.denominator)
    luma = axis_for(*ratio, kernel=BICUBIC)
    vertical, horizontal = chroma_axes(colour, ratio, BICUBIC, between_420=True)
    u, v = (resample(plane, vertical, horizontal) for plane in planes[1:])
    return Planes(resample(planes.y, luma, luma), u, v)


def enhance_planes(
    planes: Planes,
    weights: Mapping[str, Tensor],
    config: SrUnetConfig,
    colour: Colour,
    dtype: torch.dtype,
) -> tuple[Planes, Planes]:
    """(base, enhanced) nominal planes of a batch, not clipped. Differentiable in ``weights``.

    planes: y [N, 1, h, w] with even h, w; u, v [N, 1, h/2, w/2]; float32.
    weights: merged form with identity, in ``dtype``.
    """
    base = upscale_planes(planes, config.scale, colour)
    residual = _residual_yuv(planes, weights, config, colour, dtype)
    height, width = base.y.shape[2:]
    residual = residual[:, :, :height, :width]  # [N, 3, H, W]
    chroma = chroma_to_420(residual[:, 1:], colour)  # [N, 2, H/2, W/2]
    enhanced = Planes(base.y + residual[:, :1], base.u + chroma[:, :1], base.v + chroma[:, 1:])
    return base, enhanced


def _residual_yuv(
    planes: Planes,
    weights: Mapping[str, Tensor],
    config: SrUnetConfig,
    colour: Colour,
    dtype: torch.dtype,
) -> Tensor:
    height, width = planes.y.shape[2:]
    u, v = (chroma_to_444(plane, colour, height, width) for plane in planes[1:])
    rgb = yuv444_to_rgb(planes.y, u, v, colour.matrix) * 2.0 - 1.0
    # Replicated, not zeros: a black frame around the picture would be an edge to enhance.
    bottom, right = (-height % config.alignment, -width % config.alignment)
    if bottom or right:
        rgb = F.pad(rgb, (0, right, 0, bottom), mode="replicate")
    x = rgb.to(dtype).contiguous(memory_format=torch.channels_last)
    # The residual is in the network's -1..1 units: halve it for 0..1.
    return rgb_to_yuv444(sr_unet(x, weights, config), colour.matrix) * 0.5


def float_sets(sets: Sequence[WeightSet], metadata: WeightsMetadata) -> tuple[FloatSet, ...]:
    """A weights file's integers -> float32 weights, in numpy and so the same for every device."""
    config = metadata.architecture
    base = get_base(metadata.base_id, config)
    result = []
    for weight_set in sets:
        tensors = {
            name: weight_set.tensors[name].dequantise(start)
            if name in weight_set.tensors
            else start
            for name, start in base.items()
        }
        weights = {name: torch.from_numpy(value) for name, value in tensors.items()}
        result.append(FloatSet(weight_set.first_frame, weight_set.end_frame, weights))
    return tuple(result)


class Enhancer:
    """A network ready to run on one device, for one stream.

    ``format`` describes its output: the source's size, the stream's depth and colour. Without
    ``sets`` it upscales plainly, and ``enhanced`` is ``base``.
    """

    def __init__(
        self,
        coded: VideoFormat,
        source_size: tuple[int, int],
        config: SrUnetConfig,
        sets: Sequence[FloatSet],
        device: Device,
    ) -> None:
        self.coded = coded
        self.config = config
        self.device = device
        self.format = replace(coded, width=source_size[0], height=source_size[1])
        self._sets = tuple(sets)
        self._loaded: tuple[int, dict[str, Tensor]] | None = None

    @property
    def has_weights(self) -> bool:
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
            planes = frame_to_planes(frame, self.coded, self.device.torch_device)
            dtype = self.device.compute_dtype
            pair = enhance_planes(planes, weights, self.config, self.coded.colour, dtype)
            shown, enhanced = (planes_to_frame(p, self.format, frame.pts) for p in pair)
        return Enhanced(shown, enhanced)

    def enhance_all(self, frames: Iterator[Frame]) -> Iterator[Enhanced]:
        """:meth:`enhance` over a whole stream, in order."""
        for index, frame in enumerate(frames):
            yield self.enhance(frame, index)

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
        align = self.config.alignment
        width, height = (
            align * math.ceil(s / align) for s in (self.coded.width, self.coded.height)
        )
        return round(macs_per_coded_pixel(self.config) * width * height)


def _for_device(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    tensor = tensor.to(device, dtype)
    if tensor.dim() == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor
