"""LPIPS v0.1 in plain torch: a perceptual distance, and a training loss.

Zhang, Isola, Efros, Shechtman and Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018, equation 1, with the linear calibration ("lin") of release 0.1::

    d(a, b) = sum over levels l of  mean over h, w of  sum over c of  w_lc (f_lc(a) - f_lc(b))^2

where f_l are a frozen image classifier's activations, unit-normalised along the channels at each
position, and w_l >= 0 the learned calibration. ``alex`` is the metric everybody reports;
``squeeze`` is the cheaper training loss, so that what is reported is not what was minimised.

The smallest picture is 31x31 for alex and 17x17 for squeeze (below, a level has no position left).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from codecaux.errors import InputError
from codecaux.lpips_files import locate_lpips_weights

__all__ = ["LPIPS_NETS", "Lpips", "LpipsNet", "find_lpips", "lpips_state_shapes", "min_size"]

LpipsNet = Literal["alex", "squeeze"]
LPIPS_NETS: tuple[LpipsNet, ...] = get_args(LpipsNet)

# Both trunks have level strides that divide 16, and no feature sees further than 128 pixels: a
# picture cut at multiples of 16 with that margin gives exactly the features of the whole one.
_ALIGN, _MARGIN = 16, 128
# Core of a tile. One costs about 0.2 GB with alex, 0.5 GB with squeeze, whatever the picture.
_TILE = 1280

# ImageNet's mean and deviation as LPIPS applies them to a picture in -1..1.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

_MIN_SIZE: dict[LpipsNet, int] = {"alex": 31, "squeeze": 17}
# The indices in `features` after which an activation is taken, and its channels.
_TAPS: dict[LpipsNet, dict[int, int]] = {
    "alex": {1: 64, 4: 192, 7: 384, 9: 256, 11: 256},
    "squeeze": {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512},
}


def min_size(net: LpipsNet) -> int:
    """Smallest width and height, in pixels, for which ``net`` gives a distance."""
    return _MIN_SIZE[net]


class _Fire(nn.Module):
    """SqueezeNet's block: 1x1 to few channels, then 1x1 and 3x3 side by side."""

    def __init__(self, channels_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), 1))


def _alex_trunk() -> nn.Sequential:
    """torchvision's AlexNet.features without the last pooling: same indices, same names."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _squeeze_trunk() -> nn.Sequential:
    """torchvision's SqueezeNet 1.1 .features: same indices, same names."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(64, 16, 64),
        _Fire(128, 16, 64),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(128, 32, 128),
        _Fire(256, 32, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(256, 48, 192),
        _Fire(384, 48, 192),
        _Fire(384, 64, 256),
        _Fire(512, 64, 256),
    )


def _trunk(net: LpipsNet) -> nn.Sequential:
    return _alex_trunk() if net == "alex" else _squeeze_trunk()


def lpips_state_shapes(net: LpipsNet) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a weights file of ``net``."""
    with torch.device("meta"):
        trunk = _trunk(net).state_dict(prefix="features.")
    shapes = {name: tuple(tensor.shape) for name, tensor in trunk.items()}
    for level, channels in enumerate(_TAPS[net].values()):
        shapes[f"lin{level}.model.1.weight"] = (1, channels, 1, 1)
    return shapes


class Lpips(nn.Module):
    """LPIPS of one trunk; frozen, differentiable with respect to its inputs.

    Pictures are RGB [N, 3, H, W] in 0..1 of any float dtype, on this module's device. The trunk
    computes in ``dtype``, channels last; distances accumulate in float32. Measured on clips between
    0.008 and 0.54, alex in bfloat16 is off by at most 0.0002 (squeeze: 0.001), at a third of the
    time on AMX; published scores are float32 all the same, to be equal on every machine.
    """

    def __init__(
        self, net: LpipsNet, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> None:
        """``tensors`` as in a weights file. Raises InputError where they do not fit ``net``."""
        super().__init__()
        _check_tensors(net, tensors)
        self.net: LpipsNet = net
        self.dtype = dtype
        with torch.device("meta"):
            self.features_trunk = _trunk(net)
        trunk = {
            name.removeprefix("features."): tensor.detach().to(dtype)
            for name, tensor in tensors.items()
            if name.startswith("features.")
        }
        self.features_trunk.load_state_dict(trunk, assign=True)
        self.features_trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for level in range(len(_TAPS[net])):
            weight = tensors[f"lin{level}.model.1.weight"].detach().float().flatten()
            self.register_buffer(f"lin{level}", weight.clone())
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where its weights are, and its pictures must be."""
        return self.get_buffer("shift").device

    def cast(self, dtype: torch.dtype) -> Self:
        """The same metric with the trunk in another dtype; the weights are converted once."""
        trunk = self.features_trunk.state_dict(prefix="features.")
        lins = {
            f"lin{level}.model.1.weight": self.get_buffer(f"lin{level}").view(1, -1, 1, 1)
            for level in range(len(_TAPS[self.net]))
        }
        return type(self)(self.net, trunk | lins, dtype).to(self.device)

    def features(self, x: Tensor) -> list[Tensor]:
        """Unit-normalised activations of each level, [N, C_l, H_l, W_l] in ``dtype``.

        Reusable: the features of a reference serve any number of distorted versions. Raises
        InputError for a picture below ``min_size``.
        """
        smallest = _MIN_SIZE[self.net]
        if min(x.shape[-2:]) < smallest:
            got = f"{x.shape[-1]}x{x.shape[-2]}"
            raise InputError(
                f"LPIPS {self.net} expects pictures of {smallest}x{smallest} or more, got {got}; "
                "score without LPIPS or use a larger picture"
            )
        x = ((2 * x.float() - 1) - self.get_buffer("shift")) / self.get_buffer("scale")
        x = x.to(self.dtype, memory_format=torch.channels_last)
        taps = _TAPS[self.net]
        levels = []
        for index, layer in enumerate(self.features_trunk):
            x = layer(x)
            if index in taps:
                levels.append(_unit_norm(x))
        return levels

    def distance_from_features(self, fa: Sequence[Tensor], fb: Sequence[Tensor]) -> Tensor:
        """[N] float32 distances from two results of ``features`` of the same shapes."""
        total = torch.zeros(fa[0].shape[0], device=fa[0].device)
        for level, (a, b) in enumerate(zip(fa, fb, strict=True)):
            per_channel = (a - b).float().square().mean((2, 3))
            total = total + per_channel @ self.get_buffer(f"lin{level}")
        return total

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """[N] distances of pictures a, b [N, 3, H, W] in 0..1. 0 = equal, about 1 = unrelated."""
        return self.distance_from_features(self.features(a), self.features(b))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance(a, b)

    @torch.no_grad()
    def distances(self, reference: Tensor, distorted: Sequence[Tensor]) -> list[float]:
        """Distances of several versions of one picture [1, 3, H, W] to its reference, for scoring.

        The reference's features are computed once, and in tiles with a margin wide enough that
        the result is that of ``distance`` (up to the order of sums): memory does not grow with
        the picture. Raises InputError for a picture below ``min_size``.
        """
        levels = len(_TAPS[self.net])
        sums = torch.zeros(len(distorted), levels, dtype=torch.float64)
        counts = torch.zeros(levels, dtype=torch.float64)
        for tile in _tiles(*reference.shape[-2:]):
            ref = tile.core(self.features(tile.cut(reference)))
            counts += torch.tensor([float(f.shape[-2] * f.shape[-1]) for f in ref])
            for row, picture in enumerate(distorted):
                out = tile.core(self.features(tile.cut(picture)))
                for level, (a, b) in enumerate(zip(ref, out, strict=True)):
                    per_channel = (a - b).float().square().sum((0, 2, 3))
                    sums[row, level] += float(per_channel @ self.get_buffer(f"lin{level}"))
        return (sums / counts).sum(1).tolist()


def _unit_norm(x: Tensor) -> Tensor:
    """x / |x| along the channels; 0 where x is 0 (and a zero gradient there, not NaN)."""
    square: Tensor = x.square().sum(1, keepdim=True)
    return x * square.clamp_min(1e-20).rsqrt()


class _Tile:
    """A core rectangle with its margin; bounds are (start, cut start, cut end, end) per axis."""

    def __init__(self, rows: tuple[int, int, int, int], cols: tuple[int, int, int, int]) -> None:
        self.rows, self.cols = rows, cols

    def cut(self, picture: Tensor) -> Tensor:
        return picture[..., self.rows[1] : self.rows[2], self.cols[1] : self.cols[2]]

    def core(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Drop from each level the positions that belong to the margin."""
        return [f[..., _span(self.rows, s), _span(self.cols, s)] for f, s in self._strides(levels)]

    @staticmethod
    def _strides(levels: Sequence[Tensor]) -> Iterator[tuple[Tensor, int]]:
        # alex 4 8 16 16 16; squeeze 2 4 8 16 16 16 16
        stride = 4 if len(levels) == 5 else 2
        for level in levels:
            yield level, stride
            stride = min(_ALIGN, stride * 2)


def _span(bounds: tuple[int, int, int, int], stride: int) -> slice:
    start, cut_start, cut_end, end = bounds
    # The last tile keeps its tail: there the cut's end is the picture's.
    stop = None if end == cut_end else (end - cut_start) // stride
    return slice((start - cut_start) // stride, stop)


def _tiles(height: int, width: int) -> Iterator[_Tile]:
    for rows in _bounds(height):
        for cols in _bounds(width):
            yield _Tile(rows, cols)


def _bounds(size: int) -> list[tuple[int, int, int, int]]:
    """Cores of about ``_TILE`` that start at multiples of 16 and cover ``size``."""
    count = -(-size // _TILE)
    edges = [size * i // count // _ALIGN * _ALIGN for i in range(count)] + [size]
    return [
        (start, max(0, start - _MARGIN), min(size, end + _MARGIN), end)
        for start, end in pairwise(edges)
    ]


def _check_tensors(net: LpipsNet, tensors: Mapping[str, Tensor]) -> None:
    expected = lpips_state_shapes(net)
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(n for n in expected.keys() | got.keys() if expected.get(n) != got.get(n))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"LPIPS {net} weights: expected {name} of shape {expected.get(name, 'none')}, got "
            f"{got.get(name, 'none')} ({len(wrong)} tensors do not fit); use the file of this net"
        )


def find_lpips(
    net: LpipsNet, *, explicit: Path | None = None, allow_download: bool = True
) -> Lpips:
    """The metric, with weights from wherever they are to be had (see ``locate_lpips_weights``).

    Raises LpipsUnavailableError where there are none, InputError for a file that does not fit.
    """
    path = locate_lpips_weights(net, explicit=explicit, allow_download=allow_download)
    return Lpips(net, load_file(path))
