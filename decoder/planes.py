"""The one function that runs the network over a picture.

Player, encoder, scores and ladders all go through :func:`enhance_planes`, of a recurrent net
:func:`enhance_next`: what is scored is what is shown. The picture stays in YUV 4:2:0; the network
sees and makes RGB (as the paper's does), and because RGB -> YUV is linear its residual is converted
and added to the bicubically upscaled planes, so that plain and enhanced pictures share one base.
Two heads' residuals are fused (:mod:`codecaux.fusion`) before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from codecaux.architecture import SrUnetConfig, blocks, head_names
from codecaux.colour import (
    Planes,
    chroma_axes,
    chroma_to_420,
    chroma_to_444,
    phases_to_420,
    rgb_from_yuv,
    yuv_from_rgb,
)
from codecaux.fusion import fused
from codecaux.network import join_phases, sr_unet_heads
from codecaux.recurrent import State, recurrent_phases, zero_state
from codecaux.resample import BICUBIC, axis_for, resample
from codecaux.video import Colour

__all__ = ["TEMPORAL_PADDING", "enhance_next", "enhance_planes", "upscale_planes"]

# RAVE, figure 5: so often a recurrent net sees its first frame before it has to show it.
TEMPORAL_PADDING = 3


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
    weights: merged form with identity, in ``dtype``. A recurrent net starts on each picture.
    mask: of two heads, where the perceptual one is shown (:func:`codecaux.fusion.fusion_mask`).
    Without, both planes have 2 N pictures: those of the fidelity head, then the perceptual one's.
    """
    if config.is_recurrent:
        return enhance_next(planes, None, weights, config, colour, dtype)[:2]
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
    return base, _with_residual(base, phases, config, colour)


def enhance_next(
    planes: Planes,
    state: State | None,
    weights: Mapping[str, Tensor],
    config: SrUnetConfig,
    colour: Colour,
    dtype: torch.dtype,
) -> tuple[Planes, Planes, State]:
    """:func:`enhance_planes` of the frame after ``state`` by a recurrent net, and its own state.

    ``state`` None: a start, with temporal padding (RAVE, figure 5): the net sees the frame
    ``TEMPORAL_PADDING`` times from a zero state, and what it shows there is thrown away. Gradients
    go through ``state``, but not into the padding.
    """
    base = upscale_planes(planes, config.scale, colour)
    x = _network_input(planes, config, colour, dtype)
    kernels = _in_yuv(weights, config, colour)

    def step(before: State) -> tuple[Planes, State]:
        phases, hidden = recurrent_phases(x, before, kernels, config)
        enhanced = _with_residual(base, phases, config, colour)
        return enhanced, State(_fed_back(enhanced, hidden, config, colour), hidden)

    if state is None:
        state = zero_state(x, config)
        with torch.no_grad():
            for _ in range(TEMPORAL_PADDING):
                _, state = step(state)
    return base, *step(state)


def _fed_back(enhanced: Planes, like: Tensor, config: SrUnetConfig, colour: Colour) -> Tensor:
    """y_{t-1} for the next frame, in size and dtype of ``like`` [N, C, h, w]: four phases of luma
    less 1/2, and chroma: [N, 6, h, w].
    """
    y = enhanced.y.clamp(0.0, 1.0) - 0.5
    chroma = torch.cat(enhanced[1:], 1).clamp(-0.5, 0.5)
    if config.scale * config.fold != 2:
        # The network's own pixels are of another size: four phases of x2.
        ratio = (2 * config.scale.denominator, config.scale.numerator)
        y = resample(y, *(axis_for(*ratio, kernel="catmull-rom"),) * 2)
        chroma = resample(chroma, *chroma_axes(colour, ratio, "catmull-rom", between_420=True))
    height, width = like.shape[2:]
    phases = F.pixel_unshuffle(_to_size(y, 2 * height, 2 * width), 2)
    both = torch.cat((phases, _to_size(chroma, height, width)), 1).to(like.dtype)
    return both.contiguous(memory_format=torch.channels_last)


def _to_size(x: Tensor, height: int, width: int) -> Tensor:
    """Cropped, or replicated at the right and the bottom."""
    x = x[:, :, :height, :width]
    bottom, right = height - x.shape[2], width - x.shape[3]
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def _with_residual(base: Planes, phases: Tensor, config: SrUnetConfig, colour: Colour) -> Planes:
    luma, chroma = _residual(phases, base.y.shape[2:], config, colour)
    return Planes(base.y + luma, base.u + chroma[:, :1], base.v + chroma[:, 1:])


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
    result = {
        **weights,
        first: folded.to(kernel.dtype).contiguous(memory_format=torch.channels_last),
        **{name: _mix(weights[name], to_yuv) for name in heads},
    }
    if config.is_recurrent:
        # The only other layer whose output is RGB. What is fed back is YUV at both ends.
        result["up1.prior.weight"] = _mix(weights["up1.prior.weight"], to_yuv)
    return result


def _mix(parameter: Tensor, matrix: Tensor) -> Tensor:
    """[12, ...], four phases of each of three colours -> of their mixtures by ``matrix``."""
    colours = torch.unflatten(parameter.float(), 0, (3, 4))
    return torch.einsum("kc,c...->k...", matrix, colours).flatten(0, 1).to(parameter.dtype)
