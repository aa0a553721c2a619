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

__all__ = ["BICUBIC", "Axis", "Kernel", "axis_for", "resample"]

Kernel = Literal["keys", "catmull-rom", "tent"]

# What "plain bicubic" means everywhere in codecaux.
BICUBIC: Kernel = "keys"


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis' resampling: ratio ``up / down`` and ``offset`` in input samples."""

    up: int
    down: int
    offset: float = 0.0
    kernel: Kernel = BICUBIC

    @property
    def is_identity(self) -> bool:
        return self.up == self.down and self.offset == 0.0


def axis_for(ratio_up: int, ratio_down: int, offset: float = 0.0, kernel: Kernel = BICUBIC) -> Axis:
    """An :class:`Axis` with its ratio in lowest terms."""
    common = math.gcd(ratio_up, ratio_down)
    return Axis(ratio_up // common, ratio_down // common, offset, kernel)


def resample(x: Tensor, vertical: Axis, horizontal: Axis) -> Tensor:
    """Resample planes [N, C, H, W] to [N, C, ~H*up/down, ~W*up/down], edges replicated.

    The output size is ``ceil(size / down) * up`` of each axis; callers crop what they padded.
    Vertical first: it works on contiguous rows.
    """
    x = x if vertical.is_identity else _resample_axis(x, vertical, dim=2)
    return x if horizontal.is_identity else _resample_axis(x, horizontal, dim=3)


def _resample_axis(x: Tensor, axis: Axis, dim: int) -> Tensor:
    first, taps = _polyphase(axis.up, axis.down, axis.offset, axis.kernel)
    size = x.shape[dim]
    groups = -(-size // axis.down)
    before, after = -first, (groups - 1) * axis.down + first + len(taps[0]) - size
    x = _replicate(x, (0, 0, before, after) if dim == 2 else (before, after, 0, 0))
    # Weighted sums of shifted views: a one-channel convolution takes ten times as long on a CPU.
    phases = [_weighted_sum(x, row, axis.down, groups, dim) for row in taps]
    if axis.up == 1:
        return phases[0]
    return torch.stack(phases, dim=dim + 1).flatten(dim, dim + 1)


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
