"""A second player's pictures, from docs/format.md (sections 10 and 11) alone: numpy, no torch.

Slow and plain, as the document words it, so that the document is right and stays so.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codecaux.architecture import NETS, SrUnetConfig
from codecaux.bases import GENERATED_BASE_ID, get_base
from codecaux.colour import Planes, planes_to_frame
from codecaux.decoder.planes import enhance_planes
from codecaux.network import with_identity
from codecaux.video import ChromaLocation, Colour, Geometry, VideoFormat

Array = NDArray[np.float64]

# ------------------------------------------------------------------------- what the document says

_LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def _cubic(t: float, a: float) -> float:
    t = abs(t)
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def _kernel(name: float | None, t: float) -> float:
    return max(0.0, 1 - abs(t)) if name is None else _cubic(t, name)


def _resampled(x: Array, ratio: Fraction, offsets: tuple[float, float], a: float | None) -> Array:
    """Rows and columns of x [..., h, w]; ``a`` of the cubic, None for the tent."""
    for axis, offset in ((-2, offsets[0]), (-1, offsets[1])):
        size = x.shape[axis]
        widen = max(1.0, 1 / float(ratio))
        rows = []
        for k in range(ceil(size * ratio)):
            s = (k + 0.5) / float(ratio) - 0.5 + offset
            near = range(int(np.floor(s - 2 * widen)), int(np.ceil(s + 2 * widen)) + 1)
            weights = np.array([_kernel(a, (i - s) / widen) for i in near])
            taken = np.take(x, np.clip(list(near), 0, size - 1), axis=axis)
            rows.append(np.moveaxis(taken, axis, -1) @ (weights / weights.sum()))
        x = np.stack(rows, axis=axis)
    return x


def _siting(location: str) -> tuple[float, float]:
    return {"left": (0.0, -0.25), "topleft": (-0.25, -0.25), "center": (0.0, 0.0)}[location]


def _to_rgb(yuv: Array, matrix: str) -> Array:
    kr, kb = _LUMA[matrix]
    y, u, v = yuv
    r, b = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return np.stack([r, (y - kr * r - kb * b) / (1 - kr - kb), b])


def _to_yuv(rgb: Array, matrix: str) -> Array:
    kr, kb = _LUMA[matrix]
    r, g, b = rgb
    y = kr * r + (1 - kr - kb) * g + kb * b
    return np.stack([y, (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))])


def _folded(x: Array) -> Array:
    return np.stack([plane[i::2, j::2] for plane in x for i in (0, 1) for j in (0, 1)])


def _unfolded(x: Array) -> Array:
    result = np.zeros((len(x) // 4, 2 * x.shape[1], 2 * x.shape[2]))
    for channel, plane in enumerate(x):
        c, (i, j) = channel // 4, divmod(channel % 4, 2)
        result[c, i::2, j::2] = plane
    return result


def _convolved(x: Array, weight: Array, bias: Array) -> Array:
    edge = weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (edge, edge), (edge, edge)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))
    result: Array = np.einsum("oirs,ihwrs->ohw", weight, windows) + bias[:, None, None]
    return result


def _network(x: Array, weights: dict[str, Array]) -> Array:
    def stage(name: str, *parts: Array) -> Array:
        y, i = np.concatenate(parts), 0
        while (weight := weights.get(f"{name}.{i}.weight")) is not None:
            if weight.shape[0] == weight.shape[1]:
                weight = weight.copy()
                for c in range(len(weight)):
                    weight[c, c, 1, 1] += 1
            y, i = np.maximum(_convolved(y, weight, weights[f"{name}.{i}.bias"]), 0), i + 1
        return y

    def pooled(x: Array) -> Array:
        corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        result: Array = np.max(corners, axis=0)
        return result

    def doubled(x: Array) -> Array:
        return _resampled(x, Fraction(2), (0, 0), None)

    d1 = stage("down1", x)
    d2 = stage("down2", pooled(d1))
    d3 = stage("down3", pooled(d2))
    d4 = stage("down4", pooled(d3))
    u3 = stage("up3", doubled(d4), d3)
    u2 = stage("up2", doubled(u3), d2)
    u1 = stage("up1", doubled(u2), d1)
    return _convolved(u1, weights["last.weight"], weights["last.bias"])


def _values(codes: list[Array], bits: int, *, full: bool) -> list[Array]:
    u = 2.0 ** (bits - 8)
    spans = [2.0**bits - 1] * 3 if full else [219 * u, 224 * u, 224 * u]
    zeros = [0.0 if full else 16 * u, 128 * u, 128 * u]
    return [(c - zero) / span for c, zero, span in zip(codes, zeros, spans, strict=True)]


def _codes(values: list[Array], bits: int, *, full: bool) -> list[Array]:
    u = 2.0 ** (bits - 8)
    spans = [2.0**bits - 1] * 3 if full else [219 * u, 224 * u, 224 * u]
    zeros = [0.0 if full else 16 * u, 128 * u, 128 * u]
    both = zip(values, zeros, spans, strict=True)
    return [np.clip(np.rint(v * span + zero), 0, 2**bits - 1) for v, zero, span in both]


def _shown(values: list[Array], weights: dict[str, Array], scale: Fraction, to: Colour) -> Any:
    """Section 10, steps 1 to 4: the plain and the enhanced planes' values."""
    d = _siting(to.chroma_location)
    y, chroma = values[0], np.stack(values[1:])
    between = tuple(e / float(scale) - e for e in d)
    height, width = (int(size * scale) for size in y.shape)
    plain = [y, *chroma]
    if scale != 1:
        sized = _resampled(chroma, scale, between, -0.75)[:, : height // 2, : width // 2]
        plain = [_resampled(y, scale, (0, 0), -0.75), *sized]
    full = _resampled(chroma, Fraction(2), (-d[0], -d[1]), -0.5)
    x = 2 * _to_rgb(np.stack([y, *full]), to.matrix) - 1
    align = 16 if scale == 1 else 8
    x = np.pad(x, ((0, 0), (0, -y.shape[0] % align), (0, -y.shape[1] % align)), mode="edge")
    residual = _unfolded(_network(_folded(x) if scale == 1 else x, weights))
    if scale == Fraction(3, 2):
        residual = _resampled(residual, Fraction(3, 4), (0, 0), -0.5)
    residual = _to_yuv(residual[:, :height, :width] / 2, to.matrix)
    chroma = _resampled(residual[1:], Fraction(1, 2), (2 * d[0], 2 * d[1]), None)
    return plain, [plain[0] + residual[0], plain[1] + chroma[0], plain[2] + chroma[1]]


def _drawn(name: str, shape: tuple[int, ...]) -> Array:
    seed = zlib.crc32(name.encode())
    r = np.random.Generator(np.random.PCG64(seed)).random(shape)
    g = 0.5 if shape[0] == shape[1] else 1.0
    return (2 * r - 1) * g * np.sqrt(6 / np.prod(shape[1:]))


# ------------------------------------------------------------------------------------- the product


def _weights(config: SrUnetConfig) -> dict[str, NDArray[np.float32]]:
    """init-1 with a last layer that does something, and biases."""
    random = np.random.default_rng(5)
    weights = get_base(GENERATED_BASE_ID, config)
    for name, value in weights.items():
        if name.startswith("last.") or name.endswith(".bias"):
            weights[name] = (0.05 * random.normal(size=value.shape)).astype(np.float32)
    return weights


@pytest.mark.parametrize("scale", [Fraction(2), Fraction(3, 2), Fraction(1)])
@pytest.mark.parametrize("location", get_args(ChromaLocation))
def test_pictures_are_those_of_the_document(scale: Fraction, location: ChromaLocation) -> None:
    full = location == "center"
    colour = Colour(
        matrix="bt601" if location == "left" else "bt709",
        full_range=full,
        chroma_location=location,
    )
    config = replace(NETS["tiny"], scale=scale)
    weights = _weights(config)
    geometry = Geometry(45, 31, scale)
    height, width = geometry.coded_height, geometry.coded_width
    step = 4 if scale == Fraction(3, 2) else 2
    assert width == step * ceil(45 / (step * scale))
    random = np.random.default_rng(1)
    shapes = [(height, width), *[(height // 2, width // 2)] * 2]
    codes = [random.integers(16, 235, shape).astype(np.float64) for shape in shapes]
    values = _values(codes, 8, full=full)
    plain, enhanced = _shown(
        values, {n: v.astype(np.float64) for n, v in weights.items()}, scale, colour
    )

    planes = Planes(*(torch.from_numpy(v).float()[None, None] for v in values))
    tensors = with_identity({n: torch.from_numpy(v) for n, v in weights.items()}, config)
    ours = enhance_planes(planes, tensors, config, colour, torch.float32)
    for theirs, mine in zip((plain, enhanced), ours, strict=True):
        for plane, tensor in zip(theirs, mine, strict=True):
            np.testing.assert_allclose(plane, tensor[0, 0].numpy(), atol=2e-5)
    assert max(np.abs(e - p).max() for e, p in zip(enhanced, plain, strict=True)) > 0.02

    shown = VideoFormat(45, 31, 10, colour)
    cropped = [enhanced[0][:31, :45], *(plane[:16, :23] for plane in enhanced[1:])]
    frame = planes_to_frame(ours[1], shown, 0)
    for want, plane in zip(_codes(cropped, 10, full=full), frame.planes, strict=True):
        assert np.abs(want - plane).max() <= 1  # where a sum lies between two codes
        assert (want == plane).mean() > 0.99


def test_the_made_base_is_that_of_the_document() -> None:
    for name, value in get_base(GENERATED_BASE_ID, NETS["tiny"]).items():
        if value.ndim == 4 and not name.startswith("last."):
            np.testing.assert_array_equal(value, _drawn(name, value.shape).astype(np.float32))
        else:
            assert not value.any()
