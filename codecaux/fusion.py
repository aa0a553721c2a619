"""Two heads' pictures as one, after ASTF: a mask of local variance says where each is shown.

Zheng et al., "Adaptive Spatial-Temporal Fusion of Multi-Objective Networks for Compressed Video
Perceptual Enhancement", CVPR workshops 2021, section 3.2::

    decoded luma t-1, t, t+1 ── luma_variance (eq. 5) ── fusion_mask (eq. 6) ─┐
    network ── perceptual head, fidelity head ───────────────────────── fused (eq. 3) ── sharpened

Where this departs from the paper, so that a frame's mask costs no further run of the network: the
variance is the decoded picture's, not the fidelity head's output's; it is taken on cells of 3x3 or
4x4 output pixels and the mask made finer bilinearly; the mask may have an exponent. docs/format.md,
section 9, is normative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from codecaux.architecture import SrUnetConfig
from codecaux.colour import Planes

__all__ = ["WINDOW", "fused", "fusion_mask", "luma_variance", "sharpened"]

# k of eq. 5 is -11 to 11: output pixels.
WINDOW = 23


def luma_variance(y: Tensor, config: SrUnetConfig) -> Tensor:
    """V of eq. 5, ``V[i, j] = Var(N_k(Y[i, j]))``, by cells.

    y: decoded luma [N, 1, h, w] of 0..1, which eq. 4 has no need to make of RGB -> [N, 1, ceil(h /
    c), ceil(w / c)], one value for each cell of c x c decoded pixels: c = 2, for scale 1 c = 4.
    N_k is a square of 23 output pixels, the cells at its border by the part that lies in it, of
    which what lies outside the picture is left out.
    """
    cell = 2 * config.fold
    y = y - 0.5  # squares near 0 lose least in the difference
    moments = torch.cat((_halved(y), _halved(y * y)), 1)
    if config.fold > 1:
        moments = F.avg_pool2d(moments, config.fold, ceil_mode=True, count_include_pad=False)
    taps = _box(WINDOW / float(cell * config.scale))
    for dim in (2, 3):
        moments = _box_mean(moments, taps, dim)
    mean, mean_square = moments.chunk(2, 1)
    return (mean_square - mean * mean).clamp_(min=0.0)


def _halved(x: Tensor) -> Tensor:
    """Means of 2x2 samples; even sizes. A third of avg_pool2d's time on a CPU."""
    rows = x[:, :, 0::2] + x[:, :, 1::2]
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)


def _box(cells: float) -> list[float]:
    """A box ``cells`` wide, as parts of whole cells around its middle: 2.5 -> 3/4, 1, 3/4."""
    half = (cells - 1.0) / 2.0
    whole = int(half)
    edge = half - whole
    return [edge, *[1.0] * (2 * whole + 1), edge]


def _box_mean(x: Tensor, taps: Sequence[float], dim: int) -> Tensor:
    """Mean over a box along ``dim``, of what lies inside. Few cells: a sum of shifted views."""
    radius, size = len(taps) // 2, x.shape[dim]
    weights = x.new_ones([size if d == dim else 1 for d in range(4)])
    return _shifted_sum(x, taps, radius, dim) / _shifted_sum(weights, taps, radius, dim)


def _shifted_sum(x: Tensor, taps: Sequence[float], radius: int, dim: int) -> Tensor:
    size = x.shape[dim]
    pad = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
    padded = F.pad(x, pad)
    total = padded.narrow(dim, 0, size) * taps[0]
    for at, tap in enumerate(taps[1:], 1):
        total.add_(padded.narrow(dim, at, size), alpha=tap)
    return total


def fusion_mask(
    variance: Tensor, lowest: Tensor, highest: Tensor, exponent: float, size: tuple[int, int]
) -> Tensor:
    """mask_t of eq. 6, ``(V^t - q) / (p - q)``, to the power ``exponent``: 0..1, [N, 1, *size].

    variance: V^t by cells. lowest, highest: q and p, the least and the largest V of the frames t-1,
    t, t+1 (scalars, over the whole pictures). size: of the network's last layer, which has two rows
    and columns to each cell and may go on beyond the last one (its padding). Where p = q there is
    no texture to tell from the rest: 0.
    """
    span = highest - lowest
    mask = torch.where(span > 0, (variance - lowest) / span, torch.zeros_like(variance))
    if exponent != 1.0:
        mask = mask.pow(exponent)
    bottom, right = size[0] // 2 - mask.shape[2], size[1] // 2 - mask.shape[3]
    if bottom or right:
        mask = F.pad(mask, (0, right, 0, bottom), mode="replicate")
    return F.interpolate(mask, scale_factor=2, mode="bilinear", align_corners=False)


def fused(fidelity: Tensor, perceptual: Tensor, mask: Tensor) -> Tensor:
    """I_out of eq. 3, ``mask I_1 + (1 - mask) I_2``, of residuals: all else is common to both.

    fidelity, perceptual: I_2 and I_1 [N, C, h, w]; mask [N, 1, h, w], one value for the pixels that
    one place of the last layer makes.
    """
    # On a CPU a mask that is broadcast over channels-last memory takes twenty times as long.
    mask = mask.to(fidelity.dtype).expand_as(fidelity)
    return torch.lerp(fidelity, perceptual, mask.contiguous(memory_format=torch.channels_last))


def sharpened(planes: Planes, strength: float) -> Planes:
    """``Y + strength (Y - G Y)``, G the Gaussian of 3x3 samples (1 2 1) x (1 2 1) / 16 (the paper's
    kernel size; its strength is not said). Chroma stays as it is.
    """
    if not strength:
        return planes
    y = planes.y
    blurred = _one_two_one(_one_two_one(y, 3), 2)
    # In place: fresh memory costs more than the sums.
    return planes._replace(y=blurred.mul_(-strength / 16.0).add_(y, alpha=1.0 + strength))


def _one_two_one(x: Tensor, dim: int) -> Tensor:
    """x[i-1] + 2 x[i] + x[i+1] along ``dim``, the ends repeated."""
    size = x.shape[dim]
    first, last = x.narrow(dim, 0, 1), x.narrow(dim, size - 1, 1)
    if size == 1:
        return x * 4.0
    total = torch.empty_like(x)
    middle = total.narrow(dim, 1, size - 2)
    torch.add(x.narrow(dim, 0, size - 2), x.narrow(dim, 2, size - 2), out=middle)
    middle.add_(x.narrow(dim, 1, size - 2), alpha=2.0)
    torch.add(x.narrow(dim, 1, 1), first, alpha=3.0, out=total.narrow(dim, 0, 1))
    beside = x.narrow(dim, size - 2, 1)
    torch.add(beside, last, alpha=3.0, out=total.narrow(dim, size - 1, 1))
    return total
