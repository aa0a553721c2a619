"""Two heads as one picture: the equations by hand, wherever a player starts, the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import torch

from codecaux.architecture import SrUnetConfig, net_config, parameter_shapes
from codecaux.bases import default_base_id, get_base
from codecaux.colour import Planes
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.planes import enhance_planes
from codecaux.decoder.sets import FloatSet
from codecaux.device import choose_device
from codecaux.encoder.fusion_choice import best_exponent, best_strength, fidelity_alone
from codecaux.encoder.objective import OBJECTIVES, LossTerms
from codecaux.encoder.title_scores import without_harm
from codecaux.errors import InputError, WeightsFormatError
from codecaux.events import Notice, drain
from codecaux.frames import with_neighbours
from codecaux.fusion import fused, fusion_mask, luma_variance, sharpened
from codecaux.hevc import StreamHash
from codecaux.metadata import Fusion, metadata_from_text, metadata_to_text
from codecaux.network import TrainingForm, with_identity
from codecaux.quantise import QuantisedTensor
from codecaux.scores import Scores
from codecaux.video import Colour, Frame, VideoFormat
from codecaux.weightsfile import WeightSet, WeightsFile, WeightsMetadata, pack, unpack

X2 = Fraction(2)
TWO = replace(net_config("tiny", X2), heads=2)
FP32 = replace(choose_device("cpu"), compute_dtype=torch.float32)
SCALES = (X2, Fraction(3, 2), Fraction(1))


# ------------------------------------------------------------------------------------ the equations


@pytest.mark.parametrize("scale", SCALES)
def test_variance_is_that_of_the_square_around(scale: Fraction) -> None:
    """Eq. 5 by a loop: the weighted variance of the samples within 23 output pixels."""
    config = replace(TWO, scale=scale)
    cell = 2 * config.fold
    height, width = 44, 56
    y = torch.rand(1, 1, height, width)
    found = luma_variance(y, config)[0, 0]
    assert found.shape == (-(-height // cell), -(-width // cell))
    side = 23 / float(scale)  # in decoded samples
    for i, j in ((0, 0), (5, 6), (found.shape[0] - 1, found.shape[1] - 1)):
        weights = np.outer(
            *(_inside((at + 0.5) * cell, side, n, cell) for at, n in ((i, height), (j, width)))
        )
        values = y[0, 0].numpy().astype(np.float64)
        mean = (weights * values).sum() / weights.sum()
        expected = (weights * (values - mean) ** 2).sum() / weights.sum()
        assert found[i, j].item() == pytest.approx(expected, rel=1e-4)


def _inside(centre: float, side: float, size: int, cell: int) -> np.ndarray[tuple[int], np.dtype]:
    """Of each of ``size`` samples, how much of its cell lies within ``side`` around ``centre``."""
    left, right = centre - side / 2, centre + side / 2
    starts = np.arange(size) // cell * cell
    part = np.minimum(right, starts + cell) - np.maximum(left, starts)
    return np.clip(part, 0, None) / cell


def test_variance_of_a_picture_that_ends_within_a_cell() -> None:
    config = replace(TWO, scale=Fraction(1))
    flat = torch.full((1, 1, 18, 22), 0.7)
    found = luma_variance(flat, config)
    assert found.shape == (1, 1, 5, 6)
    assert found.max() < 1e-6


def test_mask_is_the_variance_between_the_extremes_of_three_frames() -> None:
    """Eq. 6 by hand: (V - q) / (p - q) with q = 1 and p = 5."""
    variance = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    low, high = torch.tensor(1.0), torch.tensor(5.0)
    mask = fusion_mask(variance, low, high, 1.0, (4, 4))[0, 0]
    # Doubled bilinearly, the corners are the cells' own values.
    corners = [mask[0, 0], mask[0, 3], mask[3, 0], mask[3, 3]]
    assert [c.item() for c in corners] == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert mask[0, 1].item() == pytest.approx(0.75 * 0.0 + 0.25 * 0.25)
    root = fusion_mask(variance, low, high, 0.5, (4, 4))[0, 0]
    assert root[3, 3].item() == pytest.approx(0.75**0.5)
    padded = fusion_mask(variance, low, high, 1.0, (8, 4))
    assert padded.shape == (1, 1, 8, 4)
    assert padded[0, 0, 7, 3].item() == pytest.approx(0.75)


def test_a_title_without_texture_is_the_fidelity_heads() -> None:
    flat = torch.full((1, 1, 2, 2), 0.01)
    for exponent in (1.0, 0.5):
        assert fusion_mask(flat, flat.amin(), flat.amax(), exponent, (4, 4)).abs().max() == 0.0


def test_fusion_weighs_the_two_pictures() -> None:
    """Eq. 3 by hand: 0.25 x 8 + 0.75 x 4 = 5."""
    fidelity, perceptual = torch.full((1, 12, 2, 2), 4.0), torch.full((1, 12, 2, 2), 8.0)
    mask = torch.tensor([[0.0, 0.25], [0.5, 1.0]])[None, None]
    shown = fused(fidelity, perceptual, mask)
    assert shown[0, 7].flatten().tolist() == pytest.approx([4.0, 5.0, 6.0, 8.0])


def test_sharpening_adds_what_a_gaussian_of_3x3_takes_away() -> None:
    """One bright sample of 1: G keeps 4/16 of it, so 1 + s 12/16; those beside it lose s 2/16."""
    y = torch.zeros(1, 1, 5, 5)
    y[0, 0, 2, 2] = 1.0
    chroma = torch.rand(1, 1, 3, 3)
    shown = sharpened(Planes(y, chroma, chroma), 0.4)
    row = shown.y[0, 0, 2].tolist()
    assert row == pytest.approx([0.0, -0.4 * 2 / 16, 1.0 + 0.4 * 12 / 16, -0.4 * 2 / 16, 0.0])
    assert shown.y[0, 0, 1, 1].item() == pytest.approx(-0.4 / 16)
    assert shown.u is chroma
    flat = torch.full((1, 1, 4, 6), 0.3)
    assert torch.allclose(sharpened(Planes(flat, chroma, chroma), 1.0).y, flat)
    assert sharpened(Planes(y, chroma, chroma), 0.0).y is y


# --------------------------------------------------------------------------------------- the player


def _frames(format: VideoFormat, count: int, keys: frozenset[int] = frozenset({0})) -> list[Frame]:
    rng = np.random.default_rng(3)
    result = []
    for pts in range(count):
        planes = [
            rng.normal(128, 10 + 9 * pts, (format.height, format.width)).clip(16, 235),
            *(rng.normal(128, 9, (format.chroma_height, format.chroma_width)) for _ in "uv"),
        ]
        arrays = [p.astype(format.dtype) for p in planes]
        result.append(Frame(*arrays, pts, is_keyframe=pts in keys))
    return result


def _weights(config: SrUnetConfig, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        # Heads far apart, a body that keeps its numbers near 1.
        name: torch.randn(shape, generator=generator) * (0.4 if shape[-1] == 1 else 0.06)
        for name, shape in parameter_shapes(config).items()
    }


def _enhancer(config: SrUnetConfig, fusion: Fusion, coded: VideoFormat) -> Enhancer:
    size = (int(coded.width * config.scale), int(coded.height * config.scale))
    return Enhancer(coded, size, config, [FloatSet(0, None, _weights(config))], FP32, fusion=fusion)


def _same(a: Frame, b: Frame) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_shown_is_the_equations_of_the_two_heads(scale: Fraction) -> None:
    """The player's picture put together here from both heads at the output's size."""
    config = replace(TWO, scale=scale)
    coded = VideoFormat(44, 36)
    frames = list(with_neighbours(_frames(coded, 3)))
    shown = _enhancer(config, Fusion(0.5, 0.0), coded).enhance(frames[1], 1).enhanced
    lumas = [torch.from_numpy((f.y.astype(np.float32) - 16) / 219)[None, None] for f in frames]
    chroma = [
        torch.from_numpy((p.astype(np.float32) - 128) / 224)[None, None]
        for p in frames[1].planes[1:]
    ]
    full = with_identity(_weights(config), config)
    planes = Planes(lumas[1], *chroma)
    both = enhance_planes(planes, full, config, coded.colour, torch.float32)[1].y
    maps = [luma_variance(y, config) for y in lumas]
    low, high = min(v.min() for v in maps), max(v.max() for v in maps)
    cells = ((maps[1] - low) / (high - low)) ** 0.5
    ratio = 4 if scale != Fraction(3, 2) else 3  # output pixels of a cell
    mask = torch.nn.functional.interpolate(cells, scale_factor=ratio, mode="bilinear")
    height, width = shown.y.shape
    mask = mask[:, :, :height, :width]
    expected = (1 - mask) * both[:1, :, :height, :width] + mask * both[1:, :, :height, :width]
    codes = (expected[0, 0] * 219 + 16).round().clamp(0, 255).numpy()
    difference = np.abs(codes - shown.y.astype(np.float32))
    # The player's mask has a value for each 2x2 (or, at 1.5, 1.5x1.5) pixels: near, not equal.
    alone = [(b[0, :height, :width] * 219 + 16).numpy() for b in both]
    assert np.abs(alone[0] - alone[1]).mean() > 8.0
    assert difference.mean() < 0.6
    for head in alone:
        assert np.abs(head.clip(0, 255) - shown.y).mean() > 2.0


def test_a_start_at_any_keyframe_shows_what_playing_through_shows() -> None:
    coded = VideoFormat(32, 24)
    keys = frozenset({0, 3, 4})
    plain = _frames(coded, 7, keys)
    fusion = Fusion(0.5, 0.2)
    through = [
        _enhancer(TWO, fusion, coded).enhance(f, i).enhanced
        for i, f in enumerate(with_neighbours(plain))
    ]
    played = _enhancer(TWO, fusion, coded)
    whole = list(played.enhance_all(with_neighbours(plain)))
    assert all(_same(a, b.enhanced) for a, b in zip(through, whole, strict=True))
    for first in sorted(keys):
        started = _enhancer(TWO, fusion, coded)
        for index, frame in enumerate(with_neighbours(plain[first:]), first):
            assert _same(started.enhance(frame, index).enhanced, through[index]), (first, index)


def test_neighbours_end_at_keyframes_and_at_both_ends() -> None:
    frames = list(with_neighbours(_frames(VideoFormat(16, 16), 5, frozenset({0, 2}))))
    known = [f.neighbours for f in frames]
    before = [n and n.before and n.before.pts for n in known]
    after = [n and n.after and n.after.pts for n in known]
    assert before == [None, 0, None, 2, 3]
    assert after == [1, None, 3, 4, None]
    (alone,) = with_neighbours(frames[:1])
    assert alone.neighbours is not None
    assert (alone.neighbours.before, alone.neighbours.after) == (None, None)


def test_what_fails_ahead_fails_after_the_frames_before_it() -> None:
    def failing() -> Iterator[Frame]:
        yield from _frames(VideoFormat(16, 16), 2)
        raise InputError("damaged")

    got = []
    with pytest.raises(InputError, match="damaged"):
        got.extend(frame.pts for frame in with_neighbours(failing()))
    frames = with_neighbours(failing())
    assert [frame.pts for frame in islice(frames, 2)] == [0, 1]


def test_the_neighbours_count_and_a_frame_without_them_is_our_error() -> None:
    coded = VideoFormat(32, 24)
    calm, wild = _frames(coded, 2)[0], _frames(coded, 9)[8]
    enhancer = _enhancer(TWO, Fusion(1.0), coded)
    first, second = with_neighbours([calm, wild])
    (alone,) = with_neighbours([calm])
    # Beside a wild frame a calm one is calm all over: more of it is the fidelity head's.
    assert not _same(enhancer.enhance(first, 0).enhanced, enhancer.enhance(alone, 0).enhanced)
    with pytest.raises(AssertionError, match="neighbours"):
        enhancer.enhance(calm, 0)
    assert second.neighbours is not None


def test_heads_that_are_equal_show_one_head() -> None:
    """A fused network whose heads agree is that network of one head, whatever the mask."""
    coded = VideoFormat(32, 24)
    one = net_config("tiny", X2)
    weights = _weights(one)
    (both,) = fidelity_alone([FloatSet(0, None, weights)])
    frames = list(with_neighbours(_frames(coded, 2)))
    shown = Enhancer(coded, (64, 48), TWO, [both], FP32, fusion=Fusion(0.25)).enhance(frames[0], 0)
    alone = Enhancer(coded, (64, 48), one, [FloatSet(0, None, weights)], FP32).enhance(frames[0], 0)
    difference = shown.enhanced.y.astype(int) - alone.enhanced.y
    assert np.abs(difference).max() <= 1  # lerp(a, a, m) rounds
    assert (difference != 0).mean() < 0.01


# ------------------------------------------------------------------------------ bases, fit, file


def test_both_heads_start_as_the_base() -> None:
    one = net_config("tiny", X2)
    base_id = default_base_id(TWO)
    assert base_id == default_base_id(one)
    ours, theirs = get_base(base_id, TWO), get_base(base_id, one)
    assert list(ours) == list(parameter_shapes(TWO))
    for part in ("weight", "bias"):
        np.testing.assert_array_equal(ours[f"perceptual.{part}"], theirs[f"last.{part}"])
        np.testing.assert_array_equal(ours[f"last.{part}"], theirs[f"last.{part}"])
    form = TrainingForm(TWO, {n: torch.from_numpy(a) for n, a in ours.items()})
    assert set(form.merged()) == set(ours)


def test_each_head_has_its_own_loss() -> None:
    colour = Colour()
    terms = LossTerms(OBJECTIVES["fused"], colour, None)
    generator = torch.Generator().manual_seed(1)
    y = torch.rand(2, 1, 128, 128, generator=generator)
    chroma = torch.zeros(2, 1, 64, 64)
    source = Planes(y, chroma, chroma)
    for wrong in (0, 1):
        parts = [y, y]
        parts[wrong] = (y + 0.1).requires_grad_()
        shown = Planes(torch.cat(parts), *(torch.cat((c, c)) for c in source[1:]))
        only = (
            OBJECTIVES["fused"].perceptual if wrong else replace(terms.objective, perceptual=None)
        )
        assert only is not None
        alone = LossTerms(only, colour, None)(Planes(parts[wrong], chroma, chroma), source)
        assert terms(shown, source).item() == pytest.approx(alone.item(), rel=1e-4)
    assert OBJECTIVES["fused"].wants_lpips
    assert OBJECTIVES["fused"].heads == 2


def _file(**changes: object) -> WeightsFile:
    rng = np.random.default_rng(5)
    tensors = {
        name: QuantisedTensor(rng.integers(-2, 3, shape).astype(np.int32), 0.03125)
        for name, shape in parameter_shapes(TWO).items()
    }
    hashes = StreamHash("0" * 64, "1" * 64)
    metadata = WeightsMetadata(TWO, 64, 48, 5, 8, Colour(), hashes, fusion=Fusion(0.5, 0.25))
    metadata = replace(metadata, **changes)  # type: ignore[arg-type]
    return WeightsFile(metadata, (WeightSet(0, None, tensors),))


def test_the_file_holds_both_heads_and_their_fusion() -> None:
    got = unpack(pack(_file()))
    assert got.metadata.format_version == 3
    assert got.metadata.architecture == TWO
    assert got.metadata.fusion == Fusion(0.5, 0.25)
    for name, tensor in _file().sets[0].tensors.items():
        np.testing.assert_array_equal(got.sets[0].tensors[name].values, tensor.values)


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("format_version", "2", "format_version to be at least 3"),
        ("format_version", "4", "newer codecaux"),
        ("fusion", "{}", "fusion"),
        ("fusion", '{"exponent":1.0}', "fusion"),
        ("fusion", '{"exponent":-1,"sharpen":0}', "exponent"),
        ("fusion", '{"exponent":1,"sharpen":1.5}', "sharpen"),
        ("fusion", '{"exponent":true,"sharpen":0}', "exponent"),
        ("fusion", '{"exponent":"1","sharpen":0}', "exponent"),
    ],
)
def test_a_damaged_fusion_is_a_weights_error(field: str, text: str, words: str) -> None:
    metadata = replace(_file().metadata, format_version=3)
    entries = metadata_to_text(metadata)
    assert metadata_from_text(entries).fusion == Fusion(0.5, 0.25)
    with pytest.raises(WeightsFormatError, match=words):
        metadata_from_text(entries | {field: text})
    del entries["fusion"]
    with pytest.raises(WeightsFormatError, match="fusion"):
        metadata_from_text(entries)


# -------------------------------------------------------------------------------------- the choices


def _scores(v1: float | None, neg: float | None, lpips: float | None) -> Scores:
    return Scores(v1, 80.0, neg, 30.0, 0.9, lpips, num_frames=8, lpips_frames=8)


def test_the_exponent_has_the_least_lpips_that_v1_allows() -> None:
    fidelity = _scores(90.0, 85.0, 0.2)
    ways = {
        1.0: _scores(89.9, 85, 0.19),
        0.5: _scores(89.8, 85, 0.15),
        0.25: _scores(89.6, 85, 0.1),
    }
    assert best_exponent(ways, fidelity) == 0.5
    assert best_exponent(ways, _scores(89.85, 85, 0.2)) == 0.25
    without = {e: replace(s, lpips=None) for e, s in ways.items()}
    assert best_exponent(without, fidelity) == 1.0
    assert best_exponent(ways, _scores(99.0, 85, 0.2)) == 1.0


def test_the_strength_never_costs_neg_or_lpips() -> None:
    plain = _scores(90.0, 85.0, 0.1)
    ways = {
        0.1: _scores(90.2, 85.0, 0.1),
        0.2: _scores(90.4, 84.9, 0.1),
        0.4: _scores(91, 85, 0.11),
    }
    assert best_strength(ways, plain) == 0.1
    assert best_strength({0.1: _scores(89.9, 86.0, 0.09)}, plain) == 0.0
    assert best_strength({0.1: _scores(91.0, None, 0.1)}, plain) == 0.0
    assert best_strength({0.1: _scores(91.0, 85.1, None)}, replace(plain, lpips=None)) == 0.1


def test_the_whole_title_has_the_last_word() -> None:
    fusion, plain = Fusion(0.5, 0.2), _scores(90.0, 85.0, 0.1)
    worse, better = replace(plain, vmaf_v061_neg=84.9), replace(plain, vmaf_v061_neg=85.1)
    assert drain(without_harm(fusion, better, plain, is_chosen=True)) == fusion
    assert drain(without_harm(fusion, worse, plain, is_chosen=True)) == Fusion(0.5, 0.0)
    events = without_harm(fusion, worse, plain, is_chosen=False)
    notice = next(events)
    assert isinstance(notice, Notice)
    assert notice.level == "warning"
    assert drain(events) == fusion
