"""The SR-UNet in torch: one function for the merged form, one class for the training form.

See :mod:`codecaux.architecture` for the picture, the paper and the counts. Weights are a mapping
from names to tensors; where they come from (a file, a float fit, a rounding fit) is not the
network's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecaux.architecture import Block, SrUnetConfig, blocks, head_names, parameter_shapes
from codecaux.resample import axis_for, resample

__all__ = [
    "TrainingForm",
    "conv_of_parts",
    "join_phases",
    "sr_unet",
    "sr_unet_heads",
    "sr_unet_phases",
    "unet",
    "with_identity",
]

# A block applied to its input, or to the two parts that the paper concatenates to make it.
RunBlock = Callable[[Block, tuple[Tensor, ...]], Tensor]


def sr_unet(x: Tensor, weights: Mapping[str, Tensor], config: SrUnetConfig) -> Tensor:
    """RGB in -1..1 -> the residual to add to the upscaled picture (equation 1 of the paper).

    x: [N, 3, h, w] with h, w multiples of ``config.alignment``, in the weights' dtype.
    weights: merged form, identity included (:func:`with_identity`).
    Returns [N, 3, scale * h, scale * w] in float32. The paper's clamp (Hardtanh) is the caller's:
    the sum is clipped where code values are made.
    """
    return join_phases(sr_unet_phases(x, weights, config), config)


def sr_unet_phases(x: Tensor, weights: Mapping[str, Tensor], config: SrUnetConfig) -> Tensor:
    """:func:`sr_unet` before its pixel-shuffle: [N, 12, h / fold, w / fold] in x's dtype.

    Channel ``4 c + 2 i + j`` is colour c at row 2 y + i and column 2 x + j. One head.
    """
    (phases,) = sr_unet_heads(x, weights, config)
    return phases


def sr_unet_heads(
    x: Tensor, weights: Mapping[str, Tensor], config: SrUnetConfig
) -> tuple[Tensor, ...]:
    """:func:`sr_unet_phases` of every head (:func:`codecaux.architecture.head_names`)."""

    def run(block: Block, parts: tuple[Tensor, ...]) -> Tensor:
        weight, bias = weights[f"{block.name}.weight"], weights[f"{block.name}.bias"]
        return F.relu(conv_of_parts(parts, weight, bias))

    features = unet(x, run, config)
    names = head_names(config)
    # A layer for each: of one layer with all channels every head would be a part, not a whole.
    return tuple(F.conv2d(features, weights[f"{n}.weight"], weights[f"{n}.bias"]) for n in names)


def join_phases(phases: Tensor, config: SrUnetConfig) -> Tensor:
    """[N, 4 C, h, w] -> [N, C, H, W] in float32 at ``config.scale`` times the coded size."""
    # Pixel-shuffle as a copy out of channels-last memory: on a CPU F.pixel_shuffle takes twice
    # the time, most of it to make its input contiguous.
    p = torch.unflatten(phases, 1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)  # [N, C, h, i, w, j]
    y = p.flatten(4, 5).flatten(2, 3).float()
    if config.scale * config.fold == 2:
        return y
    # The authors resize x2 -> x1.5 with align_corners=True, which shifts the residual against
    # the picture that it is added to; this keeps both on one grid.
    axis = axis_for(config.scale.numerator, 2 * config.scale.denominator, kernel="catmull-rom")
    return resample(y, axis, axis)


def conv_of_parts(parts: tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution of the parts' concatenation along the channels, without making it.

    A convolution is linear in its input's channels: one for each part, and their sum. On a CPU
    the copy, and its gradient's, take longer than the addition (a fit step: 1.3 times as fast).
    """
    if len(parts) == 1:
        return F.conv2d(parts[0], weight, bias, padding=1)
    kernels = torch.split(weight, [part.shape[1] for part in parts], 1)
    last, *others = (k.contiguous(memory_format=torch.channels_last) for k in reversed(kernels))
    y = F.conv2d(parts[-1], last, bias, padding=1)
    for part, kernel in zip(parts[-2::-1], others, strict=True):
        y = y + F.conv2d(part, kernel, padding=1)
    return y


def unet(x: Tensor, run: RunBlock, config: SrUnetConfig) -> Tensor:
    """The blocks in their order, each as ``run`` makes it: what the last layer takes, [N, w1, h /
    fold, w / fold].
    """
    rows: dict[str, list[Block]] = {}
    for block in blocks(config):
        rows.setdefault(block.stage, []).append(block)

    def stage(name: str, *parts: Tensor) -> Tensor:
        for block in rows[name]:
            parts = (run(block, parts),)
        return parts[0]

    if config.fold > 1:
        x = F.pixel_unshuffle(x, config.fold)  # [N, 12, h/2, w/2]
    d1 = stage("down1", x)  # [N, w1, h, w]
    d2 = stage("down2", F.max_pool2d(d1, 2))  # [N, w2, h/2, w/2]
    d3 = stage("down3", F.max_pool2d(d2, 2))  # [N, w3, h/4, w/4]
    d4 = stage("down4", F.max_pool2d(d3, 2))  # [N, w4, h/8, w/8]
    u3 = stage("up3", _double(d4), d3)  # [N, w3, h/4, w/4]
    u2 = stage("up2", _double(u3), d2)  # [N, w2, h/2, w/2]
    return stage("up1", _double(u2), d1)  # [N, w1, h, w]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def with_identity(merged: Mapping[str, Tensor], config: SrUnetConfig) -> dict[str, Tensor]:
    """Add the identity branch, which is never stored, to the kernels that have one."""
    result = dict(merged)
    for block in blocks(config):
        if block.has_branch:
            name = f"{block.name}.weight"
            result[name] = merged[name] + _dirac(block, merged[name])
    return result


def _dirac(block: Block, like: Tensor) -> Tensor:
    """[C, C, 3, 3] kernel that passes its input through."""
    eye = torch.eye(block.out_channels, dtype=like.dtype, device=like.device)
    return F.pad(eye[:, :, None, None], (1, 1, 1, 1))


class TrainingForm(nn.Module):
    """The re-parameterised blocks (RepVGG, Ding et al. 2021): 3x3, 1x1 and identity in parallel.

    ``ReLU(W3 * x + b3 + [W1 * x + b1 + x])``, the bracket only where Cin == Cout. The authors'
    code also creates a 1x1 in the other blocks and a 1x1 "to_rgb" that never run; ours does not
    (:func:`codecaux.architecture.training_parameter_count` counts both ways).

    Starts as the merged network ``start``: the 3x3 kernels are its, the 1x1 branches are zero.
    """

    def __init__(self, config: SrUnetConfig, start: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = config
        self.kernels = nn.ParameterDict()
        for name, value in start.items():
            self.kernels[_key(name)] = nn.Parameter(value.detach().clone())
        for block in blocks(config):
            if block.has_branch:
                shape = (block.out_channels, block.in_channels, 1, 1)
                branch = start[f"{block.name}.weight"].new_zeros(shape)
                self.kernels[_key(f"{block.name}.branch.weight")] = nn.Parameter(branch)
                bias = branch.new_zeros(block.out_channels)
                self.kernels[_key(f"{block.name}.branch.bias")] = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Branch by branch, as in the paper: what the merged form is tested against. Of a recurrent
        net, the single-frame part.
        """

        def run(block: Block, parts: tuple[Tensor, ...]) -> Tensor:
            x = torch.cat(parts, 1)
            y = F.conv2d(x, *self._pair(block.name), padding=1)
            if block.has_branch:
                y = y + F.conv2d(x, *self._pair(f"{block.name}.branch")) + x
            return F.relu(y)

        phases = F.conv2d(unet(x, run, self.config), *self._pair("last"))
        return join_phases(phases, self.config)

    def merged(self) -> dict[str, Tensor]:
        """W = W3 + pad(W1), b = b3 + b1, without the identity. Differentiable: fits run on it,
        since one 3x3 convolution costs less than three branches and gives the same gradients.
        """
        result: dict[str, Tensor] = {}
        for block in blocks(self.config):
            weight, bias = self._pair(block.name)
            if block.has_branch:
                weight1, bias1 = self._pair(f"{block.name}.branch")
                weight, bias = weight + F.pad(weight1, (1, 1, 1, 1)), bias + bias1
            result[f"{block.name}.weight"], result[f"{block.name}.bias"] = weight, bias
        for head in head_names(self.config):
            result[f"{head}.weight"], result[f"{head}.bias"] = self._pair(head)
        # What a recurrent net has beyond the blocks has no branches.
        others = parameter_shapes(self.config).keys() - result.keys()
        return result | {name: self.kernels[_key(name)] for name in sorted(others)}

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.kernels[_key(f"{name}.weight")], self.kernels[_key(f"{name}.bias")]


def _key(name: str) -> str:
    return name.replace(".", "_")  # ParameterDict keys may not hold dots
