"""How much of the source's detail is kept, differentiably: the detail loss measure of VMAF.

Li, Zhang, Ma and Ngan, "Image quality assessment by separately evaluating detail losses and
additive impairments", 2011, in the form that VMAF v1 pools (ADM3): a wavelet picture of what is
shown is split into detail of the source that is still there (their eq. 8, never more than the
source has: sharpening earns nothing) and what was added; each hides behind the other (eq. 14);
both are pooled by cubes, so that strong edges count most::

    detail = 0.7 kept / source + 0.3 (1 - added / source)

Not bit-exact to libvmaf: it is a direction to fit in, never a score that is shown.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

__all__ = ["MIN_DETAIL_SIZE", "kept_detail"]

_SCALES = 4
# Wavelets of length 4 over four scales, without a border: the last has 4 coefficients or more.
MIN_DETAIL_SIZE = 96
# Daubechies' wavelet of 4 taps.
_LOW = (0.4829629131445341, 0.8365163037378079, 0.2241438680420134, -0.1294095225512604)
_HIGH = (-0.1294095225512604, -0.2241438680420134, 0.8365163037378079, -0.4829629131445341)
# Watson, Yang, Solomon and Villasenor 1997, eq. 7 and tables: visibility of wavelet coefficients.
_PIXELS_PER_DEGREE = 3.0 * 1080 * math.pi / 180  # three picture heights from 1080 lines
_A, _K, _F0 = 0.495, 0.466, 0.401
_ORIENTATION = (1.0, 1.0, 0.534)  # horizontal, vertical, diagonal
_AMPLITUDES = ((0.67234, 0.72709), (0.41317, 0.49428), (0.22727, 0.28688), (0.11792, 0.15214))
_KEPT_WEIGHT = 0.7
_LEAST = 1e-6
Bands = tuple[Tensor, Tensor, Tensor]


def kept_detail(shown: Tensor, source: Tensor) -> Tensor:
    """Scalar, 1 where ``shown`` is ``source`` and less the more detail is lost or added.

    shown, source: luma [N, 1, H, W] of 0..1, H and W at least ``MIN_DETAIL_SIZE``, pooled as one
    picture.
    """
    kept, added, whole = [], [], []
    for scale in range(_SCALES):
        shown, of_shown = _analyse(shown)
        source, of_source = _analyse(source)
        for weight, k, a, s in _decoupled(of_shown, of_source, scale):
            kept.append(_pool(k * weight))
            added.append(_pool(a * weight))
            whole.append(_pool(s * weight))
    total = torch.stack(whole).sum() + _LEAST
    lost = torch.stack(kept).sum() / total
    return _KEPT_WEIGHT * lost + (1.0 - _KEPT_WEIGHT) * (1.0 - torch.stack(added).sum() / total)


def _decoupled(
    shown: Bands, source: Bands, scale: int
) -> list[tuple[float, Tensor, Tensor, Tensor]]:
    """Of each orientation: its weight, what is kept and added beyond masking, and the source."""
    weights = [_visibility(scale, orientation) for orientation in range(3)]
    kept, added = [], []
    for t, o in zip(shown, source, strict=True):
        low, high = o.clamp(max=0.0), o.clamp(min=0.0)
        k = torch.minimum(torch.maximum(t, low), high)
        kept.append(k)
        added.append(t - k)
    mask_of_kept = _masking(kept, weights)
    mask_of_added = _masking(added, weights)
    result = []
    for weight, k, a, o in zip(weights, kept, added, source, strict=True):
        seen = (k.abs() - mask_of_added / weight).clamp(min=0.0)
        extra = (a.abs() - mask_of_kept / weight).clamp(min=0.0)
        result.append((weight, seen, extra, o.abs()))
    return result


def _masking(bands: list[Tensor], weights: list[float]) -> Tensor:
    """Mean visibility of a coefficient's neighbours of all orientations (eq. 14): a thirtieth of
    each of the 3x3, the middle twice.
    """
    total = torch.stack([b.abs() * w for b, w in zip(bands, weights, strict=True)]).sum(0)
    around = torch.nn.functional.avg_pool2d(total, 3, stride=1, padding=1) * 9.0
    return (around + total) / 30.0


def _pool(values: Tensor) -> Tensor:
    return (values.pow(3).mean() + _LEAST**3).pow(1.0 / 3.0)


def _visibility(scale: int, orientation: int) -> float:
    """One over the least amplitude of a coefficient that is seen."""
    frequency = _PIXELS_PER_DEGREE / 2 ** (scale + 1)
    distance = math.log10(_F0 * _ORIENTATION[orientation] / frequency)
    amplitude = _AMPLITUDES[scale][orientation // 2]
    return amplitude / (2.0 * _A * 10 ** (_K * distance * distance))


def _analyse(picture: Tensor) -> tuple[Tensor, Bands]:
    """One scale: the smaller picture, and its horizontal, vertical and diagonal detail."""
    height, width = picture.shape[2:]
    rows_low, rows_high = _filters(height, picture.device)
    columns_low, columns_high = _filters(width, picture.device)
    low, high = picture @ columns_low.T, picture @ columns_high.T
    return rows_low @ low, (rows_high @ low, rows_low @ high, rows_high @ high)


@functools.lru_cache(maxsize=32)
def _filters(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[size // 2 - 1, size] matrices of the low and the high pass, every other sample."""
    count = size // 2 - 1
    low, high = torch.zeros(count, size), torch.zeros(count, size)
    for row in range(count):
        low[row, 2 * row : 2 * row + 4] = torch.tensor(_LOW)
        high[row, 2 * row : 2 * row + 4] = torch.tensor(_HIGH)
    return low.to(device), high.to(device)
