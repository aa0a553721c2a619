"""The one function that runs the network over a picture, and the object that holds its weights.

Player, encoder, scores and ladders all go through :func:`enhance_planes`: what is scored is what
is shown. The picture stays in YUV 4:2:0; the network sees and makes RGB (as the paper's does), and
because RGB -> YUV is linear its residual is converted and added to the bicubically upscaled
planes, so that plain and enhanced pictures share one base. Two heads' residuals are fused
(:mod:`codecaux.fusion`) before that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codecaux.architecture import SrUnetConfig, blocks, head_names, macs_per_coded_pixel
from codecaux.bases import get_base
from codecaux.colour import (
    Planes,
    chroma_axes,
    chroma_to_420,
    chroma_to_444,
    frame_to_planes,
    luma_to_plane,
    phases_to_420,
    planes_to_frame,
    rgb_from_yuv,
    yuv_from_rgb,
)
from codecaux.device import Device
from codecaux.fusion import fused, fusion_mask, luma_variance, sharpened
from codecaux.metadata import Fusion, WeightsMetadata
from codecaux.network import join_phases, sr_unet_heads, with_identity
from codecaux.resample import BICUBIC, axis_for, resample
from codecaux.video import Colour, Frame, SampleArray, VideoFormat
from codecaux.weightsfile import WeightSet, reconstruct

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
    y = resample(planes.y, luma, luma)
    # 1.5 times an odd number of chroma samples is resampled to one too many.
    height, width = ((size + 1) // 2 for size in y.shape[2:])
    chroma = resample(torch.cat(planes[1:], 1), vertical, horizontal)[:, :, :height, :width]
    return Planes(y, chroma[:, :1], chroma[:, 1:])


def enhance_planes(
    planes: Planes,
    weights: Mapping[str, Tensor],
    config: SrUnetConfig,
    colour: Colour,
    dtype: torch.dtype,
    mask: Tensor | None = None,
) -> tuple[Planes, Planes]:
    """(base, enhanced) nominal planes of a batch, not clipped. Differentiable in ``weights``.

    planes: y [N, 1, h, w] with even h, w; u, v [N, 1, h/2, w/2]; float32.
    weights: merged form with identity, in ``dtype``.
    mask: of two heads, where the perceptual one is shown (:func:`codecaux.fusion.fusion_mask`).
    Without, both planes have 2 N pictures: those of the fidelity head, then the perceptual one's.
    """
    base = upscale_planes(planes, config.scale, colour)
    x = _network_input(planes, config, colour, dtype)
    heads = sr_unet_heads(x, _in_yuv(weights, config, colour), config)
    if mask is not None:
        fidelity, perceptual = heads
        phases = fused(fidelity, perceptual, mask)
    elif len(heads) == 1:
        phases = heads[0]
    else:
        phases = torch.cat(heads)
        base = Planes(*(torch.cat((plane, plane)) for plane in base))
    luma, chroma = _residual(phases, base.y.shape[2:], config, colour)
    enhanced = Planes(base.y + luma, base.u + chroma[:, :1], base.v + chroma[:, 1:])
    return base, enhanced


def _residual(
    phases: Tensor, size: tuple[int, ...], config: SrUnetConfig, colour: Colour
) -> tuple[Tensor, Tensor]:
    """The network's output as luma [N, 1, H, W] and chroma [N, 2, H/2, W/2], (H, W) = ``size``."""
    height, width = size
    if config.scale * config.fold != 2:
        planes = join_phases(phases, config)[:, :, :height, :width]
        return planes[:, :1], chroma_to_420(planes[:, 1:], colour)
    phases = phases[:, :, : height // 2, : width // 2]
    return join_phases(phases[:, :4], config), phases_to_420(phases[:, 4:], colour)


def _network_input(
    planes: Planes, config: SrUnetConfig, colour: Colour, dtype: torch.dtype
) -> Tensor:
    """(Y - 1/2, U, V) at luma's size and the network's alignment: [N, 3, h, w], channels last.

    What the folded first kernels take (:func:`_in_yuv`), and zero where RGB is zero in -1..1 units:
    a convolution's padding means the same to both.
    """
    height, width = planes.y.shape[2:]
    chroma = chroma_to_444(torch.cat((planes.u, planes.v), 1), colour, height, width)
    x = torch.cat((planes.y - 0.5, chroma), 1).to(dtype)
    # Replicated, not zeros: a black frame around the picture would be an edge to enhance.
    bottom, right = (-height % config.alignment, -width % config.alignment)
    if bottom or right:
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    return x.contiguous(memory_format=torch.channels_last)


def _in_yuv(
    weights: Mapping[str, Tensor], config: SrUnetConfig, colour: Colour
) -> Mapping[str, Tensor]:
    """The same network with YUV instead of RGB at both ends. Differentiable.

    Both conversions are linear, and so are the first and the last layer: folded into their
    kernels they cost nothing per pixel. The network's RGB is in -1..1, 2 (Y - 1/2) for grey, and
    so is its residual: hence 2 and 1/2.
    """
    first = f"{blocks(config)[0].name}.weight"
    kernel = weights[first]
    heads = [f"{head}.{part}" for head in head_names(config) for part in ("weight", "bias")]
    to_rgb = 2.0 * rgb_from_yuv(colour.matrix).to(kernel.device)
    to_yuv = 0.5 * yuv_from_rgb(colour.matrix).to(kernel.device)
    # Channels are colour-major, each colour's phases together, at both ends.
    rgb = torch.unflatten(kernel.float(), 1, (3, -1))
    folded = torch.einsum("oc...,ck->ok...", rgb, to_rgb).flatten(1, 2)
    return {
        **weights,
        first: folded.to(kernel.dtype).contiguous(memory_format=torch.channels_last),
        **{name: _mix(weights[name], to_yuv) for name in heads},
    }


def _mix(parameter: Tensor, matrix: Tensor) -> Tensor:
    """[12, ...], four phases of each of three colours -> of their mixtures by ``matrix``."""
    colours = torch.unflatten(parameter.float(), 0, (3, 4))
    return torch.einsum("kc,c...->k...", matrix, colours).flatten(0, 1).to(parameter.dtype)


def float_sets(sets: Sequence[WeightSet], metadata: WeightsMetadata) -> tuple[FloatSet, ...]:
    """A weights file's integers -> float32 weights, in numpy and so the same for every device."""
    config = metadata.architecture
    base = get_base(metadata.base_id, config, made_by=metadata.created_by)
    arrays: list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]] = []
    result: list[FloatSet] = []
    for weight_set in sets:
        start = base if weight_set.reference is None else arrays[weight_set.reference]
        arrays.append(reconstruct(weight_set.tensors, start, config))
        weights = {name: torch.from_numpy(value) for name, value in arrays[-1].items()}
        result.append(FloatSet(weight_set.first_frame, weight_set.end_frame, weights))
    return tuple(result)


class Enhancer:
    """A network ready to run on one device, for one stream.

    ``format`` describes its output: the source's size, the stream's depth and colour. Without
    ``sets`` it upscales plainly, and ``enhanced`` is ``base``. ``fusion``: of a network of two
    heads, None of one; such a network needs frames that know their neighbours.
    """

    def __init__(
        self,
        coded: VideoFormat,
        source_size: tuple[int, int],
        config: SrUnetConfig,
        sets: Sequence[FloatSet],
        device: Device,
        fusion: Fusion | None = None,
    ) -> None:
        assert (fusion is not None) == (config.heads > 1), "expected a fusion for two heads alone"
        self.coded = coded
        self.config = config
        self.device = device
        self.format = replace(coded, width=source_size[0], height=source_size[1])
        self._sets = tuple(sets)
        self._loaded: tuple[int, dict[str, Tensor]] | None = None
        self._fusion = fusion
        # Of the last few frames: (luma, V), so that each is worked out once.
        self._variances: list[tuple[SampleArray, Tensor]] = []

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
            mask = self._mask(frame) if self._fusion is not None else None
            pair = enhance_planes(planes, weights, self.config, self.coded.colour, dtype, mask)
            if self._fusion is not None:
                pair = pair[0], sharpened(pair[1], self._fusion.sharpen)
            shown, enhanced = (planes_to_frame(p, self.format, frame.pts) for p in pair)
        return Enhanced(shown, enhanced)

    def enhance_all(self, frames: Iterator[Frame]) -> Iterator[Enhanced]:
        """:meth:`enhance` over a whole stream, in order."""
        for index, frame in enumerate(frames):
            yield self.enhance(frame, index)

    def _mask(self, frame: Frame) -> Tensor:
        """Where the perceptual head is shown in ``frame``: of it and its neighbours alone."""
        around = frame.neighbours
        assert self._fusion is not None
        assert around is not None, "expected a frame that knows its neighbours (read_frames)"
        maps = [self._variance(f) for f in (around.before, frame, around.after) if f is not None]
        lowest = torch.stack([v.amin() for v in maps]).amin()
        highest = torch.stack([v.amax() for v in maps]).amax()
        size = (_aligned(self.coded.height, self.config), _aligned(self.coded.width, self.config))
        fold = self.config.fold
        exponent, places = self._fusion.exponent, (size[0] // fold, size[1] // fold)
        return fusion_mask(self._variance(frame), lowest, highest, exponent, places)

    def _variance(self, frame: Frame) -> Tensor:
        for luma, variance in self._variances:
            if luma is frame.y:
                return variance
        y = luma_to_plane(frame, self.coded, self.device.torch_device)
        variance = luma_variance(y, self.config)
        self._variances = [*self._variances[-2:], (frame.y, variance)]
        return variance

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
        width, height = (_aligned(s, self.config) for s in (self.coded.width, self.coded.height))
        return round(macs_per_coded_pixel(self.config) * width * height)


def _aligned(size: int, config: SrUnetConfig) -> int:
    """``size`` with the network's padding."""
    return config.alignment * math.ceil(size / config.alignment)


def _for_device(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    tensor = tensor.to(device, dtype)
    if tensor.dim() == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor
