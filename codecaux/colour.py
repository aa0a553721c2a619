"""Planes of code values <-> tensors, and YUV <-> RGB by the stream's own matrix, range and siting.

Inside codecaux a picture is three float tensors, luma [N, 1, H, W] and two chroma planes
[N, 1, ceil(H/2), ceil(W/2)], of *nominal* values: luma 0..1 and chroma -1/2..1/2 as in ITU-T
H.273 eq. 20-22 (so limited and full range look alike, 8 and 10 bits too). RGB is 0..1, non-linear
(gamma-encoded). Values outside the nominal range are kept; only code values are clipped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from codecaux.resample import Axis, Kernel, axis_for, halve_phases, resample
from codecaux.video import Colour, Frame, Matrix, SampleArray, VideoFormat

__all__ = [
    "Planes",
    "chroma_axes",
    "chroma_to_420",
    "chroma_to_444",
    "code_scale",
    "frame_to_planes",
    "frame_to_rgb",
    "luma_to_plane",
    "phases_to_420",
    "planes_to_frame",
    "rgb_from_yuv",
    "rgb_to_yuv444",
    "yuv444_to_rgb",
    "yuv_from_rgb",
]

# (Kr, Kb) of H.273 table 4: BT.601 (codes 5, 6), BT.709 (1), BT.2020 non-constant (9).
_LUMA_COEFFICIENTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


class Planes(NamedTuple):
    """Nominal luma and chroma of a batch of 4:2:0 pictures."""

    y: Tensor
    u: Tensor
    v: Tensor


def code_scale(format: VideoFormat) -> tuple[float, float, float, float]:
    """(luma offset, luma span, chroma offset, chroma span) in code values."""
    unit = float(1 << (format.bit_depth - 8))
    if format.colour.full_range:
        return 0.0, float(format.peak), 128.0 * unit, float(format.peak)
    return 16.0 * unit, 219.0 * unit, 128.0 * unit, 224.0 * unit


def frame_to_planes(frame: Frame, format: VideoFormat, device: torch.device) -> Planes:
    """Decoded code values -> nominal float32 planes, batch of one."""
    y0, y_span, c0, c_span = code_scale(format)
    y, u, v = (_to_tensor(plane, device) for plane in frame.planes)
    # The tensors are new: in place saves two pictures' worth of fresh memory.
    return Planes(y.sub_(y0).div_(y_span), u.sub_(c0).div_(c_span), v.sub_(c0).div_(c_span))


def luma_to_plane(frame: Frame, format: VideoFormat, device: torch.device) -> Tensor:
    """The luma of :func:`frame_to_planes` alone."""
    y0, y_span, _, _ = code_scale(format)
    return _to_tensor(frame.y, device).sub_(y0).div_(y_span)


def _to_tensor(plane: SampleArray, device: torch.device) -> Tensor:
    if plane.dtype == np.uint16:  # CPU kernels for uint16 are few; 10-bit values fit int16
        plane = plane.view(np.int16)
    plane = plane if plane.flags.writeable else plane.copy()
    return torch.from_numpy(np.ascontiguousarray(plane)).to(device).float()[None, None]


def planes_to_frame(planes: Planes, format: VideoFormat, pts: int) -> Frame:
    """Nominal planes of one picture -> code values: cropped to ``format``, rounded, clipped."""
    y0, y_span, c0, c_span = code_scale(format)
    y = planes.y[0, 0, : format.height, : format.width]
    u, v = (p[0, 0, : format.chroma_height, : format.chroma_width] for p in planes[1:])
    codes = (
        _to_codes(y, y0, y_span, format),
        _to_codes(u, c0, c_span, format),
        _to_codes(v, c0, c_span, format),
    )
    return Frame(*codes, pts)


def _to_codes(values: Tensor, zero: float, span: float, format: VideoFormat) -> SampleArray:
    codes = (values * span).add_(zero).round_().clamp_(0, format.peak)
    if format.bit_depth == 8:
        return codes.to(torch.uint8).cpu().numpy()
    return codes.to(torch.int16).cpu().numpy().view(np.uint16)


def chroma_axes(
    colour: Colour, ratio: tuple[int, int], kernel: Kernel, *, between_420: bool
) -> tuple[Axis, Axis]:
    """(vertical, horizontal) axes that move chroma by ``ratio`` with the stream's siting kept.

    ``between_420``: from a 4:2:0 plane to the 4:2:0 plane of a picture ``ratio`` times as large.
    Otherwise from 4:2:0 to 4:4:4 (ratio 2:1) or back (1:2) at one picture size.

    A sited ("left", "topleft") sample lies d = -1/4 of a chroma sample off the centre of its 2x2
    luma block. Between two 4:2:0 planes, s(k) gains ratio' * d - d with ratio' = down/up; between
    420 and 444 luma has no siting, so s(k) gains -d going up and the chroma grid d going down.
    """
    up, down = ratio
    sited = {
        "left": (0.0, -0.25),
        "topleft": (-0.25, -0.25),
        "center": (0.0, 0.0),
    }[colour.chroma_location]
    axes = []
    for d in sited:
        if between_420:
            offset = d * down / up - d
        else:
            offset = -d if up > down else 2 * d
        axes.append(axis_for(up, down, offset, kernel))
    return axes[0], axes[1]


def chroma_to_444(plane: Tensor, colour: Colour, height: int, width: int) -> Tensor:
    """4:2:0 chroma [N, 1, h, w] -> luma's size [N, 1, height, width] (Catmull-Rom)."""
    axes = chroma_axes(colour, (2, 1), "catmull-rom", between_420=False)
    return resample(plane, *axes)[:, :, :height, :width]


def chroma_to_420(plane: Tensor, colour: Colour) -> Tensor:
    """Chroma at luma's size -> 4:2:0, by a tent filter at the stream's siting."""
    return resample(plane, *chroma_axes(colour, (1, 2), "tent", between_420=False))


def phases_to_420(phases: Tensor, colour: Colour) -> Tensor:
    """:func:`chroma_to_420` of planes given before their pixel-shuffle by 2.

    phases [N, 4 C, h, w], channel ``4 c + 2 i + j`` at row 2 y + i, column 2 x + j
    -> [N, C, h, w] in float32: what was to be interleaved is only to be filtered and halved.
    """
    vertical, horizontal = chroma_axes(colour, (1, 2), "tent", between_420=False)
    p = phases.to(torch.float32, memory_format=torch.contiguous_format)
    p = torch.unflatten(p, 1, (-1, 2, 2))  # [N, C, i, j, h, w]
    rows = halve_phases(p[:, :, 0], p[:, :, 1], vertical, dim=3)  # [N, C, j, h, w]
    return halve_phases(rows[:, :, 0], rows[:, :, 1], horizontal, dim=3)


def yuv444_to_rgb(y: Tensor, u: Tensor, v: Tensor, matrix: Matrix) -> Tensor:
    """Nominal planes [N, 1, H, W] -> RGB [N, 3, H, W] (H.273 eq. 38-40 inverted)."""
    kr, kb = _LUMA_COEFFICIENTS[matrix]
    kg = 1.0 - kr - kb
    r = y + 2 * (1 - kr) * v
    b = y + 2 * (1 - kb) * u
    return torch.cat((r, (y - kr * r - kb * b) / kg, b), 1)


def rgb_to_yuv444(rgb: Tensor, matrix: Matrix) -> Tensor:
    """RGB [N, 3, H, W] -> nominal Y, U, V as channels [N, 3, H, W]. Linear: fits residuals too."""
    kr, kb = _LUMA_COEFFICIENTS[matrix]
    r, g, b = rgb[:, 0:1], rgb[:, 1:2], rgb[:, 2:3]
    y = kr * r + (1.0 - kr - kb) * g + kb * b
    return torch.cat((y, (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))), 1)


def rgb_from_yuv(matrix: Matrix) -> Tensor:
    """[3, 3] of :func:`yuv444_to_rgb`: RGB = M (Y, U, V)."""
    units = torch.eye(3)[:, :, None, None]  # [3 pictures, 3 components, 1, 1]
    y, u, v = units.chunk(3, dim=1)
    return yuv444_to_rgb(y, u, v, matrix)[:, :, 0, 0].T


def yuv_from_rgb(matrix: Matrix) -> Tensor:
    """[3, 3] of :func:`rgb_to_yuv444`: (Y, U, V) = M RGB."""
    return rgb_to_yuv444(torch.eye(3)[:, :, None, None], matrix)[:, :, 0, 0].T


def frame_to_rgb(
    frame: Frame, format: VideoFormat, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """One decoded picture as RGB [1, 3, H, W], clipped to 0..1."""
    y, u, v = frame_to_planes(frame, format, device)
    height, width = y.shape[2:]
    u, v = (chroma_to_444(plane, format.colour, height, width) for plane in (u, v))
    return yuv444_to_rgb(y, u, v, format.colour.matrix).clamp_(0.0, 1.0).to(dtype)
