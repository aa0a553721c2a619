"""The recurrent SR-UNet in torch: one step in time.

Fuoli, Huang, Paudel, Van Gool and Timofte, "An Efficient Recurrent Adversarial Framework for
Unsupervised Real-Time Video Enhancement" (RAVE), section 3.2 and figures 2 and 3, with the SR-UNet
as the cell::

    x_t ──────────────┐
    y_{t-1} (shown) ──┼─ down1 ─ ... ─ up3 ─ up2 ─ up1 ┬─ last 1x1 ─> residual ─> y_t
    h_{t-1} ──────────┘                └─LGM─┴─LGM─┴LGM┴─ 1x1, tanh ─> h_t

Each stage on the way up ends in a local/global module (LGM, figure 2): its input f goes through
the block as ever (the local features l) and through a convolution of window k_g = stride k_g, whose
ReLU is averaged over the picture (equation 9). The mean is replicated and seen beside l by the
layer downstream. A convolution of a constant map is a bias: its kernel is 1x1, and costs nothing a
pixel.

Ours differs from the paper's cell: the frames before and after x_t are not inputs (no look-ahead,
no delay), and h_t is bounded by tanh as y_t is by its range, so that no error grows without bound
over a long title.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from codecaux.architecture import (
    FEEDBACK_CHANNELS,
    Block,
    GlobalModule,
    SrUnetConfig,
    blocks,
    global_modules,
)
from codecaux.network import conv_of_parts, unet

__all__ = ["State", "global_features", "recurrent_phases", "zero_state"]


class State(NamedTuple):
    """What one frame leaves to the next, at the network's resolution, in its dtype.

    shown: y_{t-1}, [N, 6, h, w]; hidden: h_{t-1}, [N, config.hidden, h, w] of -1..1.
    """

    shown: Tensor
    hidden: Tensor


def zero_state(x: Tensor, config: SrUnetConfig) -> State:
    """h^0 = y^0 = 0 (section 4.1) for the network's input x [N, 3, fold * h, fold * w]."""
    height, width = (size // config.fold for size in x.shape[2:])
    shape = (x.shape[0], FEEDBACK_CHANNELS + config.hidden, height, width)
    both = x.new_zeros(shape).contiguous(memory_format=torch.channels_last)
    return State(both[:, :FEEDBACK_CHANNELS], both[:, FEEDBACK_CHANNELS:])


def recurrent_phases(
    x: Tensor, state: State, weights: Mapping[str, Tensor], config: SrUnetConfig
) -> tuple[Tensor, Tensor]:
    """One step: (:func:`codecaux.network.sr_unet_phases` of x after ``state``, h_t).

    weights: merged form, identity included, in x's dtype. With zero "state" and "prior" kernels the
    first is exactly the single-frame net's. What is shown next, y_t, is for the caller to make.
    """
    modules = {module.block: module for module in global_modules(config)}
    concatenated = torch.cat(state, 1).contiguous(memory_format=torch.channels_last)
    # Layer -> what it gets beside its own input.
    beside = {blocks(config)[0].name: F.conv2d(concatenated, weights["state.weight"], padding=1)}

    def run(block: Block, parts: tuple[Tensor, ...]) -> Tensor:
        y = conv_of_parts(parts, weights[f"{block.name}.weight"], weights[f"{block.name}.bias"])
        if block.name in beside:
            y = y + beside[block.name]
        module = modules.get(block.name)
        if module is not None:
            beside[module.consumer] = _prior(module, torch.cat(parts, 1), weights)
        return F.relu(y)

    features = unet(x, run, config)
    phases = F.conv2d(features, weights["last.weight"], weights["last.bias"])
    hidden = F.conv2d(features, weights["hidden.weight"], weights["hidden.bias"])
    return phases + beside["last"], torch.tanh(hidden)


def global_features(f: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """v_g = 1 / (H' W') sum over h, w of g(h, w) (RAVE, equation 9): [N, F', 1, 1] in float32.

    f: [N, C, H, W]; g is the ReLU of its convolution by ``weight`` [F', C, k_g, k_g] at stride k_g.
    """
    g = F.relu(F.conv2d(f, weight, bias, stride=weight.shape[2:]))
    # Of a large picture this is a sum of many: not in bfloat16.
    return g.float().mean((2, 3), keepdim=True)


def _prior(module: GlobalModule, f: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """[N, module.out_channels, 1, 1]: what the replicated v_g adds in the layer downstream."""
    weight, bias = (weights[f"{module.stage}.global.{kind}"] for kind in ("weight", "bias"))
    pooled = global_features(f, weight, bias).to(f.dtype)
    return F.conv2d(pooled, weights[f"{module.stage}.prior.weight"])
