"""What was folded, split and left un-interleaved for speed equals what it stands for."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from codecaux.architecture import SrUnetConfig, net_config, parameter_shapes
from codecaux.colour import (
    Planes,
    chroma_to_420,
    chroma_to_444,
    phases_to_420,
    rgb_to_yuv444,
    yuv444_to_rgb,
)
from codecaux.decoder.planes import enhance_planes, upscale_planes
from codecaux.network import sr_unet, with_identity
from codecaux.resample import Axis, Kernel, resample
from codecaux.video import SCALES, ChromaLocation, Colour, Matrix

LOCATIONS: tuple[ChromaLocation, ...] = ("left", "center", "topleft")
MATRICES: tuple[Matrix, ...] = ("bt601", "bt709", "bt2020")


def _planes(height: int, width: int, pictures: int = 2) -> Planes:
    generator = torch.Generator().manual_seed(height * width)
    half = (pictures, 1, height // 2, width // 2)
    y = torch.rand((pictures, 1, height, width), generator=generator)
    u, v = (torch.rand(half, generator=generator) - 0.5 for _ in "uv")
    return Planes(y, u, v)


def _weights(config: SrUnetConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: (torch.randn(shape, generator=generator) * 0.09).requires_grad_()
        for name, shape in parameter_shapes(config).items()
    }


def _through_rgb(
    planes: Planes, weights: dict[str, torch.Tensor], config: SrUnetConfig, colour: Colour
) -> Planes:
    """The definition: YUV -> RGB, network, RGB -> YUV, 4:4:4 -> 4:2:0, each for itself."""
    base = upscale_planes(planes, config.scale, colour)
    height, width = planes.y.shape[2:]
    u, v = (chroma_to_444(plane, colour, height, width) for plane in planes[1:])
    rgb = yuv444_to_rgb(planes.y, u, v, colour.matrix) * 2.0 - 1.0
    bottom, right = (-height % config.alignment, -width % config.alignment)
    rgb = F.pad(rgb, (0, right, 0, bottom), mode="replicate")
    yuv = rgb_to_yuv444(sr_unet(rgb, weights, config), colour.matrix) * 0.5
    yuv = yuv[:, :, : base.y.shape[2], : base.y.shape[3]]
    chroma = chroma_to_420(yuv[:, 1:], colour)
    return Planes(base.y + yuv[:, :1], base.u + chroma[:, :1], base.v + chroma[:, 1:])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("matrix", MATRICES)
def test_the_folded_network_is_the_network_on_rgb(matrix: Matrix, scale: Fraction) -> None:
    config, colour = net_config("tiny", scale), Colour(matrix=matrix)
    planes, weights = _planes(30, 44), _weights(config)
    full = with_identity(weights, config)
    base, shown = enhance_planes(planes, full, config, colour, torch.float32)
    expected = _through_rgb(planes, full, config, colour)
    assert (shown.y - base.y).abs().mean() > 0.01
    for ours, theirs in zip(shown, expected, strict=True):
        assert ours.shape == theirs.shape
        # float32, sums in another order through 13 layers.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_pass_through_the_folding() -> None:
    config, colour = net_config("tiny", Fraction(2)), Colour()
    planes, weights = _planes(16, 24), _weights(config)

    def gradients(shown: Planes) -> tuple[torch.Tensor, ...]:
        loss = sum((plane.square().mean() for plane in shown), torch.zeros(()))
        return torch.autograd.grad(loss, list(weights.values()))

    full = with_identity(weights, config)
    ours = gradients(enhance_planes(planes, full, config, colour, torch.float32)[1])
    theirs = gradients(_through_rgb(planes, full, config, colour))
    for name, a, b in zip(weights, ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-3 * b.abs().max(), name


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 9)])
def test_phases_are_filtered_as_the_planes_they_make(
    size: tuple[int, int], location: ChromaLocation
) -> None:
    phases = torch.rand(2, 8, *size)
    colour = Colour(chroma_location=location)
    whole = chroma_to_420(F.pixel_shuffle(phases, 2), colour)
    torch.testing.assert_close(phases_to_420(phases, colour), whole)


@pytest.mark.parametrize("kernel", ["keys", "catmull-rom", "tent"])
@pytest.mark.parametrize("ratio", [(2, 1), (3, 2), (3, 4)])
def test_banded_products_are_the_weighted_sums(ratio: tuple[int, int], kernel: Kernel) -> None:
    """Sizes around the blocks' boundaries, against the sum of the definition, sample by sample."""
    x = torch.rand(2, 1, 1, 70)
    for size in (1, 2, 15, 16, 17, 31, 33, 64, 70):
        axis = Axis(*ratio, 0.125, kernel)
        row = x[..., :size]
        found = resample(row, Axis(1, 1), axis)
        assert found.shape[3] == -(-size // axis.down) * axis.up
        turned = resample(row.transpose(2, 3), axis, Axis(1, 1))
        torch.testing.assert_close(turned.transpose(2, 3), found)
        # Edges are replicated: a longer row of the same beginning gives the same beginning.
        whole = resample(x, Axis(1, 1), axis)
        sure = max(0, (size - 5) * axis.up // axis.down)
        torch.testing.assert_close(found[..., :sure], whole[..., :sure])


def test_one_and_a_half_times_an_odd_number_of_chroma_rows() -> None:
    base = upscale_planes(_planes(30, 44), Fraction(3, 2), Colour())
    assert base.y.shape[2:] == (45, 66)
    assert base.u.shape[2:] == base.v.shape[2:] == (23, 33)
