"""Separable polyphase resampling of planes, phase-exact and differentiable.

A ratio up/down and an offset say where each output sample lies on the input's grid::

    s(k) = (k + 1/2) * down / up - 1/2 + offset          [input samples]

so offset 0 keeps the pictures' edges aligned (pixel centres at 1/2), and a chroma plane's offset
expresses its siting. Kernels: Catmull-Rom's cubic (Keys 1981, a = -1/2), Keys with a = -3/4 as
most players' "bicubic", and the tent. When reducing, the kernel is widened by the ratio.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BICUBIC", "Axis", "Kernel", "axis_for", "halve_phases", "resample"]

Kernel = Literal["keys", "catmull-rom", "tent"]

# What "plain bicubic" means everywhere in codecaux.
BICUBIC: Kernel = "keys"

# Groups of phases that one matrix product makes: fewer are slow to call, more multiply zeros.
_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis' resampling: ratio ``up / down`` and ``offset`` in input samples."""

    up: int
    down: int
    offset: float = 0.0
    kernel: Kernel = BICUBIC

    @property
    def is_identity(self) -> bool:
        """Does resampling leave every sample as it is?"""
        return self.up == self.down and self.offset == 0.0


def axis_for(ratio_up: int, ratio_down: int, offset: float = 0.0, kernel: Kernel = BICUBIC) -> Axis:
    """An :class:`Axis` with its ratio in lowest terms."""
    common = math.gcd(ratio_up, ratio_down)
    return Axis(ratio_up // common, ratio_down // common, offset, kernel)


def resample(x: Tensor, vertical: Axis, horizontal: Axis) -> Tensor:
    """Resample planes [N, C, H, W] to [N, C, ~H*up/down, ~W*up/down], edges replicated.

    The output size is ``ceil(size / down) * up`` of each axis; callers crop what they padded.
    """
    # The horizontal pass costs more by the sample: it runs where there are fewer rows.
    if vertical.up > vertical.down:
        return _resample_axis(_resample_axis(x, horizontal, dim=3), vertical, dim=2)
    return _resample_axis(_resample_axis(x, vertical, dim=2), horizontal, dim=3)


def _resample_axis(x: Tensor, axis: Axis, dim: int) -> Tensor:
    if axis.is_identity:
        return x
    first, taps = _polyphase(axis.up, axis.down, axis.offset, axis.kernel)
    size = x.shape[dim]
    groups = -(-size // axis.down)
    blocks = 1 if axis.up == 1 else -(-groups // _BLOCK)
    block = -(-groups // blocks)
    before, after = -first, (blocks * block - 1) * axis.down + first + len(taps[0]) - size
    x = _replicate(x, (0, 0, before, after) if dim == 2 else (before, after, 0, 0))
    if axis.up == 1:
        return _weighted_sum(x, taps[0], axis.down, groups, dim)
    return _banded_products(x, axis, block, dim).narrow(dim, 0, groups * axis.up)


def _banded_products(x: Tensor, axis: Axis, block: int, dim: int) -> Tensor:
    """Every window of ``block`` groups times one small banded matrix.

    Weighted sums of shifted views, interleaved, take twice the time on a CPU (and a one-channel
    convolution twenty times): they pass over memory once per tap and phase.
    """
    band = _band(axis, block, x.dtype, x.device)
    windows = x.unfold(dim, band.shape[1], block * axis.down)
    n, c, first, second, window = windows.shape
    # Reshaped by hand: left to broadcast, matmul makes a product of its own of every row.
    if dim == 3:  # [N C H W/b, window] @ [window, b * up]
        return (windows.reshape(-1, window) @ band.T).view(n, c, first, -1)
    columns = windows.transpose(-1, -2).reshape(-1, window, second)  # [N C H/b, window, W]
    return torch.bmm(band.expand(len(columns), -1, -1), columns).view(n, c, -1, second)


@functools.lru_cache(maxsize=64)
def _band(axis: Axis, block: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[block * up, (block - 1) * down + taps]: each group's phases, ``down`` further right."""
    _, taps = _polyphase(axis.up, axis.down, axis.offset, axis.kernel)
    # Kept across calls, some of which train: it must not become an inference tensor.
    with torch.inference_mode(False):
        phases = torch.tensor(taps, dtype=torch.float64)  # [up, taps]
        band = phases.new_zeros(block, axis.up, (block - 1) * axis.down + phases.shape[1])
        for group in range(block):
            start = group * axis.down
            band[group, :, start : start + phases.shape[1]] = phases
        return band.flatten(0, 1).to(device, dtype)


def _weighted_sum(x: Tensor, taps: tuple[float, ...], stride: int, groups: int, dim: int) -> Tensor:
    """``sum_t taps[t] * x[t + stride * m]`` for m in range(groups), along ``dim``."""
    span = (groups - 1) * stride + 1
    views = [x.narrow(dim, t, span) for t in range(len(taps))]
    if stride > 1:
        keep = (slice(None),) * dim + (slice(None, None, stride),)
        views = [view[keep] for view in views]
    used = [(view, tap) for view, tap in zip(views, taps, strict=True) if tap != 0.0]
    total = used[0][0] * used[0][1]
    for view, tap in used[1:]:
        total = torch.add(total, view, alpha=tap)
    return total


def halve_phases(even: Tensor, odd: Tensor, axis: Axis, dim: int) -> Tensor:
    """:func:`resample` by ``axis`` (1:2, a tent) of samples even[0], odd[0], even[1], ... along
    ``dim``, without interleaving them. even, odd, result: alike in shape.
    """
    assert (axis.up, axis.down, axis.kernel) == (1, 2, "tent")
    first, (taps,) = _polyphase(axis.up, axis.down, axis.offset, axis.kernel)
    size = even.shape[dim]
    total = None
    for at, tap in enumerate(taps, first):
        shift, parity = divmod(at, 2)
        assert -1 <= shift <= 1
        part = (even, odd)[parity]
        if shift < 0:
            part = torch.cat((even.narrow(dim, 0, 1), part.narrow(dim, 0, size - 1)), dim)
        elif shift > 0:
            last = odd.narrow(dim, size - 1, 1)
            part = torch.cat((part.narrow(dim, 1, size - 1), last), dim)
        total = part * tap if total is None else torch.add(total, part, alpha=tap)
    assert total is not None
    return total


def _replicate(x: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
    """Replicate-pad, or crop where negative (an offset can leave edge samples unused)."""
    grow = tuple(max(p, 0) for p in pad)
    x = F.pad(x, grow, mode="replicate") if any(grow) else x
    return F.pad(x, tuple(min(p, 0) for p in pad)) if any(p < 0 for p in pad) else x


@functools.lru_cache(maxsize=64)
def _polyphase(
    up: int, down: int, offset: float, kernel: Kernel
) -> tuple[int, tuple[tuple[float, ...], ...]]:
    """Taps of each of ``up`` phases on a common window, and the window's first input index."""
    widen = max(1.0, down / up)
    radius = (1.0 if kernel == "tent" else 2.0) * widen
    centres = [(p + 0.5) * down / up - 0.5 + offset for p in range(up)]
    first = min(math.floor(c - radius) + 1 for c in centres)
    last = max(math.ceil(c + radius) - 1 for c in centres)
    rows = []
    for centre in centres:
        row = [_kernel((i - centre) / widen, kernel) for i in range(first, last + 1)]
        total = math.fsum(row)
        rows.append(tuple(value / total for value in row))
    return first, tuple(rows)


def _kernel(t: float, kernel: Kernel) -> float:
    t = abs(t)
    if kernel == "tent":
        return max(0.0, 1.0 - t)
    a = -0.5 if kernel == "catmull-rom" else -0.75
    if t < 1.0:
        return (a + 2.0) * t**3 - (a + 3.0) * t**2 + 1.0
    if t < 2.0:
        return a * (t**3 - 5.0 * t**2 + 8.0 * t - 4.0)
    return 0.0
