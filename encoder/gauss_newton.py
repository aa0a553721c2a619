"""How much each tensor's rounding would show: the Gauss-Newton diagonal, and the step sizes.

For the shown luma o(w), the sensitivity of tensor t is g_t = mean over t's elements of
mean over pixels of (d o / d w)^2. With v ~ N(0, 1) on every pixel, E_v[(d <v, o> / d w)^2] is the
sum over pixels, so a few backward passes of Gaussian-weighted outputs estimate g_t: no loss and no
source picture are needed. g_t spans four to six decades between tensors, so equal steps (or equal
bit widths) would waste most of the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from codecaux.colour import Planes

__all__ = ["sensitivities", "step_sizes"]

ShowLuma = Callable[[Planes, Mapping[str, Tensor]], Tensor]


def sensitivities(
    weights: Mapping[str, Tensor], show_luma: ShowLuma, inputs: Sequence[Planes], seed: int
) -> dict[str, float]:
    """g_t of every tensor (luma of 0..1 per unit of weight, squared), over ``inputs``.

    ``show_luma(planes, weights)`` gives the enhanced luma [N, 1, H, W] in float32; one backward
    pass for each of ``inputs``.
    """
    leaves = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
    generator = torch.Generator().manual_seed(seed)
    sums = dict.fromkeys(leaves, 0.0)
    for planes in inputs:
        y = show_luma(planes, leaves)
        noise = torch.randn(y.shape, generator=generator).to(y)
        scaled = (y * noise).sum() / y.numel() ** 0.5
        # A recurrent net's state is unused where there is no next frame.
        gradients = torch.autograd.grad(scaled, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                sums[name] += float(gradient.double().square().mean())
    return {name: total / len(inputs) for name, total in sums.items()}


def step_sizes(
    sensitivity: Mapping[str, float], counts: Mapping[str, int], error: float
) -> dict[str, float]:
    """One quantisation step per tensor, so that every weight's rounding shows equally much.

    Rounding the n_t weights of tensor t to steps d_t adds n_t g_t d_t^2 / 12 to the picture's mean
    squared error, were the rounding random. Equal shares per weight and a total of ``error``^2 give
    ``d_t = error * sqrt(12 / (N g_t))``, N the number of all weights. ``error`` is an RMS in luma
    of 0..1; training through the rounding afterwards takes back most of it. A tensor that shows
    nothing takes the largest step of the others. Steps are float32-exact, as the file stores them.
    """
    total = sum(counts.values())
    shown = {name: g for name, g in sensitivity.items() if g > 0.0}
    if not shown:
        return dict.fromkeys(sensitivity, 1.0)
    steps = {n: float(np.float32(error * (12.0 / (total * g)) ** 0.5)) for n, g in shown.items()}
    largest = max(steps.values())
    return {name: steps.get(name, largest) for name in sensitivity}
