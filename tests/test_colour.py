"""Planes, RGB and resampling: round trips, colour bars, siting, against torch's own bicubic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from codecaux.colour import (
    chroma_axes,
    chroma_to_420,
    chroma_to_444,
    frame_to_planes,
    frame_to_rgb,
    planes_to_frame,
    rgb_to_yuv444,
    yuv444_to_rgb,
)
from codecaux.decoder.planes import upscale_planes
from codecaux.resample import BICUBIC, Axis, resample
from codecaux.video import ChromaLocation, Colour, Frame, Matrix, VideoFormat

CPU = torch.device("cpu")
MATRICES: tuple[Matrix, ...] = ("bt601", "bt709", "bt2020")
LOCATIONS: tuple[ChromaLocation, ...] = ("left", "center", "topleft")


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 33),
    height=st.integers(1, 33),
    depth=st.sampled_from((8, 10)),
    full=st.booleans(),
    seed=st.integers(0, 99),
)
def test_code_values_survive_the_trip_through_planes(
    width: int, height: int, depth: int, full: bool, seed: int
) -> None:
    format = VideoFormat(width, height, depth, Colour(full_range=full))
    rng = np.random.default_rng(seed)
    shapes = [(height, width)] + [(format.chroma_height, format.chroma_width)] * 2
    planes = [rng.integers(0, format.peak + 1, shape).astype(format.dtype) for shape in shapes]
    frame = Frame(*planes, pts=3)
    back = planes_to_frame(frame_to_planes(frame, format, CPU), format, 3)
    for before, after in zip(frame.planes, back.planes, strict=True):
        np.testing.assert_array_equal(before, after)


# 75 % colour bars in 8-bit limited range, from the standards' own matrices (Rec. 601: the codes
# every vectorscope is marked with).
_BARS_601 = {
    (0.75, 0.75, 0.75): (180, 128, 128),
    (0.75, 0.75, 0.00): (162, 44, 142),
    (0.00, 0.75, 0.75): (131, 156, 44),
    (0.00, 0.75, 0.00): (112, 72, 58),
    (0.75, 0.00, 0.75): (84, 184, 198),
    (0.75, 0.00, 0.00): (65, 100, 212),
    (0.00, 0.00, 0.75): (35, 212, 114),
}


@pytest.mark.parametrize(("rgb", "codes"), _BARS_601.items())
def test_colour_bars(rgb: tuple[float, ...], codes: tuple[int, int, int]) -> None:
    format = VideoFormat(8, 8, 8, Colour(matrix="bt601"))
    y, u, v = (
        np.full(s, c, np.uint8) for s, c in zip(((8, 8), (4, 4), (4, 4)), codes, strict=True)
    )
    shown = frame_to_rgb(Frame(y, u, v, 0), format, CPU)
    expected = torch.tensor(rgb)[None, :, None, None].expand_as(shown)
    # Half a code value of luma and chroma each.
    torch.testing.assert_close(shown, expected, rtol=0, atol=0.007)


@pytest.mark.parametrize("matrix", MATRICES)
def test_rgb_to_yuv_inverts_yuv_to_rgb(matrix: Matrix) -> None:
    rgb = torch.rand(2, 3, 5, 7)
    yuv = rgb_to_yuv444(rgb, matrix)
    back = yuv444_to_rgb(yuv[:, :1], yuv[:, 1:2], yuv[:, 2:], matrix)
    torch.testing.assert_close(back, rgb)
    assert yuv[:, 0].min() >= 0
    assert yuv[:, 1:].abs().max() <= 0.5 + 1e-6


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_ramp_of_chroma_lands_where_its_siting_says(location: ChromaLocation) -> None:
    """Chroma that is linear in the luma coordinate must come out as that line."""
    colour = Colour(chroma_location=location)
    shift = {"left": 0.0, "topleft": 0.0, "center": 0.5}[location]
    ramp = (2.0 * torch.arange(24.0) + shift).expand(1, 1, 16, 24)
    full = chroma_to_444(ramp, colour, 32, 48)
    torch.testing.assert_close(full[0, 0, 16, 8:40], torch.arange(8.0, 40.0))
    again = chroma_to_420(torch.arange(48.0).expand(1, 1, 32, 48), colour)
    torch.testing.assert_close(again[0, 0, 8, 4:20], ramp[0, 0, 8, 4:20])


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("scale", [Fraction(2), Fraction(3, 2)])
def test_upscaled_chroma_keeps_its_siting(scale: Fraction, location: ChromaLocation) -> None:
    colour = Colour(chroma_location=location)
    shift = {"left": 0.0, "topleft": 0.0, "center": 0.5}[location]
    s = float(scale)
    # Position of coded chroma sample i in source luma pixels, and of source chroma sample k.
    coded = (2.0 * torch.arange(32.0) + shift + 0.5) * s - 0.5
    axes = chroma_axes(
        colour, (scale.numerator, scale.denominator), "catmull-rom", between_420=True
    )
    out = resample(coded.expand(1, 1, 32, 32), *axes)[0, 0, 16]
    expected = 2.0 * torch.arange(float(len(out))) + shift
    torch.testing.assert_close(out[8:-8], expected[8:-8], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("up", "down"), [(2, 1), (3, 2)])
def test_bicubic_is_the_usual_one(up: int, down: int) -> None:
    x = torch.rand(1, 2, 18, 26)
    axis = Axis(up, down)
    ours = resample(x, axis, axis)
    size = (18 * up // down, 26 * up // down)
    theirs = F.interpolate(x, size=size, mode="bicubic", align_corners=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_resampling_is_differentiable_and_keeps_a_constant() -> None:
    x = torch.full((1, 1, 12, 12), 0.25, requires_grad=True)
    y = resample(x, Axis(3, 4, 0.1, BICUBIC), Axis(3, 4, 0.1, BICUBIC))
    torch.testing.assert_close(y, torch.full_like(y, 0.25))
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum(), torch.tensor(float(y.numel())))


def test_scale_one_changes_nothing() -> None:
    format = VideoFormat(16, 16)
    planes = frame_to_planes(
        Frame(*(np.zeros((n, n), np.uint8) for n in (16, 8, 8)), pts=0), format, CPU
    )
    assert upscale_planes(planes, Fraction(1), format.colour) is planes
