"""The SR-UNet authors' released generic networks, run as their own evaluation runs them.

Rows to compare with, never a base of ours. Vaccaro et al., "Fast Video Visual Quality and
Resolution Improvement using SR-UNet", ACM MM 2021; weights from fede-vaccaro/fast-sr-unet (MIT),
as safetensors with the original key names::

    x [3, h, w], RGB in -1..1, zeros on the right and the bottom up to a multiple of 16
    y = clamp(shuffle2(net(x)) + bicubic2(x), -1, 1)
    1.5 times: y = clamp(bicubic0.75(y, align_corners=True), -1, 1), a shift that is their own
    cropped to the source's size

Only the convolutions run in the device's type; both bicubic filters, the sum and the colour
conversion run in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from codecaux.colour import Planes, chroma_to_420, frame_to_rgb, planes_to_frame, rgb_to_yuv444
from codecaux.device import Device
from codecaux.video import Frame, VideoFormat

__all__ = ["ANCHOR_FILES", "Anchor", "anchor_digest", "anchor_forward", "load_anchor", "merged"]

ANCHOR_FILES = {
    Fraction(2): "srunet_2x_crf23.safetensors",
    Fraction(3, 2): "srunet_1.5x_crf23.safetensors",
}
_ALIGNMENT = 16
_STAGES_DOWN = ("dconv_down1", "dconv_down2", "dconv_down3", "dconv_down4")
_STAGES_UP = ("dconv_up3", "dconv_up2", "dconv_up1")


def anchor_digest(folder: Path, scale: Fraction) -> str:
    """First hex digits of the file's SHA-256."""
    return hashlib.sha256((folder / ANCHOR_FILES[scale]).read_bytes()).hexdigest()[:12]


def merged(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Training form -> one 3x3 kernel a block: W3 + pad(W1) + identity, b3 + b1, if Cin == Cout.

    ``stage.i.conv1.weight`` becomes ``stage.i.weight``. Blocks whose widths differ carry an adapter
    in the file that the network never uses.
    """
    result = {name: trained[name] for name in ("conv_last.weight", "conv_last.bias")}
    for name in [key for key in trained if key.endswith(".conv1.weight")]:
        block = name.removesuffix(".conv1.weight")
        weight, bias = trained[name], trained[f"{block}.conv1.bias"]
        if weight.shape[0] == weight.shape[1]:
            identity = torch.nn.init.dirac_(torch.empty_like(weight))
            weight = weight + F.pad(trained[f"{block}.conv_adapter.weight"], (1, 1, 1, 1))
            weight, bias = weight + identity, bias + trained[f"{block}.conv_adapter.bias"]
        result |= {f"{block}.weight": weight, f"{block}.bias": bias}
    return result


def anchor_forward(x: Tensor, weights: Mapping[str, Tensor], scale: Fraction) -> Tensor:
    """RGB [N, 3, h, w] in -1..1, float32 -> [N, 3, >= scale h, >= scale w] in -1..1, not cropped.

    ``weights`` as :func:`merged` gives them, in any type.
    """
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % _ALIGNMENT, 0, -height % _ALIGNMENT))
    inside = x.to(weights["conv_last.weight"].dtype, memory_format=torch.channels_last)
    residual = F.pixel_shuffle(_unet(inside, weights).float(), 2)
    y = (residual + F.interpolate(x, scale_factor=2, mode="bicubic")).clamp_(-1.0, 1.0)
    if scale == 2:
        return y
    factor = float(scale / 2)
    y = F.interpolate(y, scale_factor=factor, mode="bicubic", align_corners=True)
    return y.clamp_(-1.0, 1.0)


def _unet(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    skips: list[Tensor] = []
    for stage in _STAGES_DOWN:
        x = _stage(F.max_pool2d(x, 2) if skips else x, weights, stage)
        skips.append(x)
    skips.pop()
    for stage in _STAGES_UP:
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        x = _stage(torch.cat((x, skips.pop()), 1), weights, stage)
    return F.conv2d(x, weights["conv_last.weight"], weights["conv_last.bias"])


def _stage(x: Tensor, weights: Mapping[str, Tensor], stage: str) -> Tensor:
    index = 0
    while (name := f"{stage}.{index}.weight") in weights:
        bias = weights[f"{stage}.{index}.bias"]
        x = F.relu_(F.conv2d(x, weights[name], bias, padding=1))
        index += 1
    return x


class Anchor:
    """One released network for one stream: decoded pictures in, pictures of ``size`` out."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        scale: Fraction,
        coded: VideoFormat,
        shown: VideoFormat,
        device: Device,
    ) -> None:
        self._weights, self._scale, self._device = weights, scale, device
        self._coded, self._shown = coded, shown

    def enhance(self, frame: Frame) -> Frame:
        """The picture as the authors' network makes it, at the source's size."""
        with torch.inference_mode():
            rgb = frame_to_rgb(frame, self._coded, self._device.torch_device)
            y = anchor_forward(rgb * 2 - 1, self._weights, self._scale)
            y = y[:, :, : self._shown.height, : self._shown.width]
            yuv = rgb_to_yuv444((y + 1) / 2, self._coded.colour.matrix)
            chroma = chroma_to_420(yuv[:, 1:], self._coded.colour)
            planes = Planes(yuv[:, :1], chroma[:, :1], chroma[:, 1:])
            return planes_to_frame(planes, self._shown, frame.pts)


def load_anchor(
    folder: Path, scale: Fraction, coded: VideoFormat, shown: VideoFormat, device: Device
) -> Anchor:
    """The network for ``scale`` (2 or 3/2) out of ``folder``."""
    weights = {
        name: tensor.to(device.torch_device, device.compute_dtype)
        for name, tensor in merged(load_file(folder / ANCHOR_FILES[scale])).items()
    }
    return Anchor(weights, scale, coded, shown, device)
