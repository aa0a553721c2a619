"""The recurrent net: its modules against hand-made values, its state, what the player remembers."""

from __future__ import annotations

import zlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codecaux.architecture import (
    NETS,
    SrUnetConfig,
    blocks,
    global_modules,
    macs_per_coded_pixel,
    net_config,
    parameter_shapes,
)
from codecaux.bases import GENERATED_BASE_ID, default_base_id, get_base
from codecaux.colour import Planes
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.memory import MAX_GAP_FRAMES, RUN_UP_FRAMES, Memory
from codecaux.decoder.planes import TEMPORAL_PADDING, enhance_next, enhance_planes
from codecaux.decoder.sets import FloatSet
from codecaux.device import choose_device
from codecaux.encoder.parameters import show
from codecaux.errors import InputError
from codecaux.network import sr_unet_phases, with_identity
from codecaux.recurrent import State, global_features, recurrent_phases, zero_state
from codecaux.video import SCALES, Colour, Frame, Geometry, VideoFormat

SMALL = SrUnetConfig("small", (4, 6, 6, 6), (1, 2, 1, 1, 2, 1, 2), hidden=3, global_filters=2)
FP32 = replace(choose_device("cpu"), compute_dtype=torch.float32)


def _weights(config: SrUnetConfig, deviation: float = 0.06, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * deviation
        for name, shape in parameter_shapes(config).items()
    }


def _random(*shape: int, seed: int = 2) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def _planes(count: int, height: int, width: int, seed: int = 3) -> Planes:
    y = 0.5 + 0.8 * _random(count, 1, height, width, seed=seed)
    chroma = 0.4 * _random(count, 2, height // 2, width // 2, seed=seed + 1)
    return Planes(y, chroma[:, :1], chroma[:, 1:])


# ------------------------------------------------------------------------------------ architecture


def test_multiply_adds_beside_the_single_frame_nets() -> None:
    """3x3 of 6 + 8 channels and 1x1 to 8 on 24; 8 filters on 24, 48 / 4 and 48 / 16 channels."""
    light, recurrent = (net_config(n, Fraction(2)) for n in ("light", "recurrent"))
    added = 24 * (9 * 14 + 8) + 8 * (24 + 12 + 3)
    assert macs_per_coded_pixel(recurrent) == macs_per_coded_pixel(light) + added == 55_656
    assert macs_per_coded_pixel(recurrent) < 1.07 * macs_per_coded_pixel(light)
    assert recurrent.single_frame == light
    for config in NETS.values():
        assert config.is_recurrent == bool(global_modules(config))


def test_windows_are_those_of_the_paper() -> None:
    """Section 3.2.1: k_g = 8/4 = 2, then 8/2 = 4 and 8; each module feeds the next layer."""
    modules = global_modules(net_config("recurrent", Fraction(2)))
    assert [(m.stage, m.block, m.window, m.consumer) for m in modules] == [
        ("up3", "up3.1", 2, "up2.0"),
        ("up2", "up2.1", 4, "up1.0"),
        ("up1", "up1.1", 8, "last"),
    ]


def test_the_single_frame_tensors_keep_their_names_and_shapes() -> None:
    for name in ("recurrent", "recurrent-tiny"):
        config = net_config(name, Fraction(2))
        shapes, single = parameter_shapes(config), parameter_shapes(config.single_frame)
        assert list(shapes.items())[: len(single)] == list(single.items())
        assert len(shapes) == len(single) + 3 + 3 * 3


# ------------------------------------------------------------------------------------ one step


def test_global_features_are_a_strided_convolution_averaged() -> None:
    """Equation 9 and figure 2, k_g = 2. f = 0..15 in rows of 4; the kernel adds a window's upper
    left and lower right: 5, 9, 21, 25; bias -9 and ReLU: 0, 0, 12, 16; the mean is 7.
    """
    f = torch.arange(16.0).reshape(1, 1, 4, 4)
    kernel = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    pooled = global_features(f, kernel, torch.tensor([-9.0]))
    assert pooled.shape == (1, 1, 1, 1)
    assert pooled.item() == 7.0


def test_a_step_is_the_cell_of_figure_3() -> None:
    """Against the cell written out with concatenations: inputs with state and feedback, pooled
    features replicated beside the local ones (figure 2) for the layer downstream.
    """
    config = SMALL
    weights = with_identity(_weights(config), config)
    x, state = _random(2, 3, 32, 16), State(_random(2, 6, 32, 16), _random(2, 3, 32, 16))

    def block(name: str, f: Tensor) -> Tensor:
        return F.relu(F.conv2d(f, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1))

    def concatenated(name: str, l: Tensor, v: Tensor) -> Tensor:  # noqa: E741 - the paper's
        """A layer on (l, replicated v_g): its kernel's part for v_g is the prior, at its centre."""
        stage = {"up2.0": "up3", "up1.0": "up2", "last": "up1"}[name]
        kernel, prior = weights[f"{name}.weight"], weights[f"{stage}.prior.weight"]
        pad = kernel.shape[2] // 2
        both = torch.cat((kernel, F.pad(prior, (pad,) * 4)), 1)
        replicated = v.expand(-1, -1, *l.shape[2:])
        return F.conv2d(torch.cat((l, replicated), 1), both, weights[f"{name}.bias"], padding=pad)

    def pooled(stage: str, f: Tensor) -> Tensor:
        g, bias = weights[f"{stage}.global.weight"], weights[f"{stage}.global.bias"]
        return F.relu(F.conv2d(f, g, bias, stride=g.shape[-1])).mean((2, 3), keepdim=True)

    def up(f: Tensor) -> Tensor:
        return F.interpolate(f, scale_factor=2, mode="bilinear", align_corners=False)

    first = torch.cat((weights["down1.0.weight"], weights["state.weight"]), 1)
    seen = torch.cat((x, *state), 1)
    d1 = F.relu(F.conv2d(seen, first, weights["down1.0.bias"], padding=1))
    d2 = block("down2.1", block("down2.0", F.max_pool2d(d1, 2)))
    d3 = block("down3.0", F.max_pool2d(d2, 2))
    d4 = block("down4.0", F.max_pool2d(d3, 2))
    f3 = block("up3.0", torch.cat((up(d4), d3), 1))
    f2 = torch.cat((up(block("up3.1", f3)), d2), 1)
    u2 = F.relu(concatenated("up2.0", f2, pooled("up3", f3)))
    f1 = F.relu(concatenated("up1.0", torch.cat((up(u2), d1), 1), pooled("up2", f2)))
    u1 = block("up1.1", f1)
    phases = concatenated("last", u1, pooled("up1", f1))
    hidden = torch.tanh(F.conv2d(u1, weights["hidden.weight"], weights["hidden.bias"]))
    got = recurrent_phases(x, state, weights, config)
    torch.testing.assert_close(got[0], phases, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[1], hidden, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_it_starts_as_exactly_the_single_frame_base(scale: Fraction) -> None:
    config = net_config("recurrent-tiny", scale)
    assert default_base_id(config) == default_base_id(config.single_frame)
    for base_id in (default_base_id(config), GENERATED_BASE_ID):
        arrays = get_base(base_id, config)
        single = get_base(base_id, config.single_frame)
        assert list(arrays) == list(parameter_shapes(config))
        weights = with_identity({n: torch.from_numpy(a) for n, a in arrays.items()}, config)
        before = with_identity({n: torch.from_numpy(a) for n, a in single.items()}, config)
        x = _random(1, 3, 32, 48)
        state = State(*(torch.rand_like(s) for s in zero_state(x, config)))
        phases, hidden = recurrent_phases(x, state, weights, config)
        assert torch.equal(phases, sr_unet_phases(x, before, config.single_frame))
        # Something to remember is there, for the state's kernels to learn from.
        assert 0.0 < hidden.abs().max().item() < 1.0
        assert sum(np.any(a) for n, a in arrays.items() if "global.weight" in n) == 3


def test_what_the_state_starts_as_never_changes() -> None:
    """A file's integers are useless with another start: these bytes are part of the format."""
    config = net_config("recurrent-tiny", Fraction(2))
    base, single = get_base("tiny-2x-5b25ba15", config), parameter_shapes(config.single_frame)
    added = [np.ascontiguousarray(v, "<f4").tobytes() for n, v in base.items() if n not in single]
    assert zlib.crc32(b"".join(added)) == 0x7281ADDB


# ------------------------------------------------------------------------------------ over time


def test_what_was_shown_is_fed_back_in_phases() -> None:
    """Scale 2: y_{t-1} as four phases of luma less 1/2 and chroma, clipped, padded to the net's
    alignment.
    """
    weights = with_identity(_weights(SMALL), SMALL)
    coded = _planes(2, 12, 20)  # padded to 16x24
    _, shown, state = enhance_next(coded, None, weights, SMALL, Colour(), torch.float32)
    assert state.shown.shape == (2, 6, 16, 24)
    y = shown.y.clamp(0, 1) - 0.5
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        got = state.shown[:, 2 * row + column, :12, :20]
        torch.testing.assert_close(got, y[:, 0, row::2, column::2])
    torch.testing.assert_close(state.shown[:, 5, :12, :20], shown.v[:, 0].clamp(-0.5, 0.5))
    assert torch.equal(state.shown[:, 4, 13], state.shown[:, 4, 11])


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_a_flat_picture_comes_back_flat_at_every_scale(scale: Fraction) -> None:
    config = net_config("recurrent-tiny", scale)
    arrays = get_base(GENERATED_BASE_ID, config)  # shows the plain picture
    weights = with_identity({n: torch.from_numpy(a) for n, a in arrays.items()}, config)
    flat = Planes(
        torch.full((1, 1, 20, 36), 0.7), *(torch.full((1, 1, 10, 18), c) for c in (0.1, -0.2))
    )
    _, _, state = enhance_next(flat, None, weights, config, Colour(), torch.float32)
    size = (32 // config.fold, 48 // config.fold) if config.fold == 2 else (24, 40)
    assert state.shown.shape[2:] == state.hidden.shape[2:] == size
    expected = torch.tensor([0.2] * 4 + [0.1, -0.2])[None, :, None, None].expand(1, 6, *size)
    torch.testing.assert_close(state.shown, expected, rtol=0, atol=1e-5)


def test_a_start_sees_its_frame_three_times_more() -> None:
    """Figure 5: padded with the first frame, from h^0 = y^0 = 0; the padding is not shown."""
    weights = with_identity(_weights(SMALL, 0.1), SMALL)
    coded = _planes(1, 16, 16)
    x_like = torch.zeros(1, 3, 16, 16)
    state = zero_state(x_like, SMALL)
    assert not any(s.any() for s in state)
    assert TEMPORAL_PADDING == 3
    shown = []
    for _ in range(4):
        _, enhanced, state = enhance_next(coded, state, weights, SMALL, Colour(), torch.float32)
        shown.append(enhanced.y)
    _, started, after = enhance_next(coded, None, weights, SMALL, Colour(), torch.float32)
    assert torch.equal(started.y, shown[3])
    assert not torch.equal(started.y, shown[0])
    assert torch.equal(after.hidden, state.hidden)
    alone = enhance_planes(coded, weights, SMALL, Colour(), torch.float32)[1]
    assert torch.equal(alone.y, started.y)


def test_runs_are_shown_as_the_player_shows_them() -> None:
    merged = _weights(SMALL, 0.1)
    weights = with_identity(merged, SMALL)
    coded = _planes(6, 16, 24)  # two runs of three
    shown = show(coded, merged, SMALL, Colour(), torch.float32, 3)
    for run in range(2):
        state = None
        for at in range(3 * run, 3 * run + 3):
            one = Planes(*(plane[at : at + 1] for plane in coded))
            _, enhanced, state = enhance_next(one, state, weights, SMALL, Colour(), torch.float32)
            torch.testing.assert_close(shown.y[at : at + 1], enhanced.y, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(shown.v[at : at + 1], enhanced.v, rtol=1e-5, atol=1e-6)


def test_gradients_go_back_through_the_run_and_no_further() -> None:
    """Truncated back-propagation: what makes the state learns from later frames of the run alone;
    in a run of one frame it only serves the padding, which has no gradient.
    """
    for run, learns in ((1, False), (2, True)):
        merged = {name: value.requires_grad_() for name, value in _weights(SMALL, 0.1).items()}
        show(_planes(2, 16, 16), merged, SMALL, Colour(), torch.float32, run).y.sum().backward()
        made, seen = merged["hidden.weight"].grad, merged["state.weight"].grad
        assert seen is not None
        assert seen.abs().max() > 0
        assert (made is not None and bool(made.abs().max() > 0)) == learns


# ------------------------------------------------------------------------------------ the player


def test_memory_is_for_the_next_frames_of_a_scene() -> None:
    memory: Memory[str] = Memory([40, 12])
    assert memory.recall(0) is None
    memory.keep(7, "seven")
    assert memory.recall(8) == "seven"
    assert memory.recall(7 + MAX_GAP_FRAMES) == "seven"  # late: frames were passed over
    assert memory.recall(8 + MAX_GAP_FRAMES) is None
    assert memory.recall(7) is None  # again, or backwards: a seek
    memory.keep(11, "eleven")
    assert memory.recall(12) is None  # a start
    assert memory.recall(13) is None
    memory.keep(12, "twelve")
    assert memory.recall(13) == "twelve"
    memory.forget()
    assert memory.recall(13) is None
    assert [memory.start_before(i) for i in (0, 11, 12, 39, 40, 999)] == [0, 0, 12, 12, 40, 40]
    assert [memory.first_needed(i) for i in (5, 14, 100)] == [0, 12, 100 - RUN_UP_FRAMES]


def _frames(coded: VideoFormat, count: int, seed: int = 0) -> list[Frame]:
    """A texture that moves by a pixel a frame."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(30, 220, (coded.height // 4, (coded.width + count) // 4 + 1))
    texture = np.kron(wide, np.ones((4, 4)))
    shape = (coded.chroma_height, coded.chroma_width)
    return [
        Frame(
            texture[: coded.height, t : t + coded.width].astype(np.uint8),
            *(np.full(shape, 128, np.uint8) for _ in "uv"),
            pts=t,
        )
        for t in range(count)
    ]


def _equal(a: Frame, b: Frame) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


def _difference(a: Frame, b: Frame) -> int:
    pairs = zip(a.planes, b.planes, strict=True)
    return max(int(np.abs(x.astype(int) - y.astype(int)).max()) for x, y in pairs)


CODED = VideoFormat(40, 24)


def _enhancer(sets: list[FloatSet] | None = None, resets: tuple[int, ...] = ()) -> Enhancer:
    sets = sets or [FloatSet(0, None, _weights(SMALL, 0.12))]
    return Enhancer(CODED, (80, 48), SMALL, sets, FP32, resets)


def test_the_same_frames_give_the_same_pictures_and_depend_on_what_came_before() -> None:
    frames = _frames(CODED, 6)
    enhancer = _enhancer()
    once = [pair.enhanced for pair in enhancer.enhance_all(iter(frames))]
    again = [pair.enhanced for pair in enhancer.enhance_all(iter(frames))]
    assert all(map(_equal, once, again))
    alone = _enhancer().enhance(frames[4], 4).enhanced
    assert not _equal(alone, once[4])


def test_resets_and_new_sets_are_starts() -> None:
    frames = _frames(CODED, 8)
    weights = _weights(SMALL, 0.12)
    sets = [FloatSet(0, 5, weights), FloatSet(5, None, weights)]
    shown = [p.enhanced for p in _enhancer(sets, resets=(3,)).enhance_all(iter(frames))]
    through = [p.enhanced for p in _enhancer().enhance_all(iter(frames))]
    assert all(_equal(a, b) for a, b in zip(shown[:3], through[:3], strict=True))
    for start in (3, 5):
        assert _equal(shown[start], _enhancer().enhance(frames[start], 0).enhanced)
        assert not _equal(shown[start], through[start])


def test_a_seek_starts_and_one_frame_alone_is_run_up_to() -> None:
    frames = _frames(CODED, 12)
    through = [p.enhanced for p in _enhancer(resets=(4,)).enhance_all(iter(frames))]
    enhancer = _enhancer(resets=(4,))
    fresh = enhancer.enhance(frames[9], 9).enhanced
    assert _equal(fresh, _enhancer().enhance(frames[9], 0).enhanced)
    # From the scene's start on, whatever was shown before.
    assert _equal(enhancer.enhance_one(iter(frames), 9).enhanced, through[9])
    assert not _equal(fresh, through[9])
    with pytest.raises(InputError, match="more than 12 frames"):
        enhancer.enhance_one(iter(frames), 12)


def test_a_start_in_the_middle_of_a_scene_converges() -> None:
    """docs/format.md: within RUN_UP_FRAMES a player that started anywhere shows what one shows
    that came from the scene's start, to one code value.
    """
    frames = _frames(CODED, 12 + RUN_UP_FRAMES + 4)
    through = [p.enhanced for p in _enhancer().enhance_all(iter(frames))]
    late = _enhancer()
    differences = [
        _difference(late.enhance(frames[at], at).enhanced, through[at])
        for at in range(12, len(frames))
    ]
    assert differences[0] > 1  # the state does something
    assert max(differences[RUN_UP_FRAMES:]) <= 1


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_bf16_stays_near_over_time(scale: Fraction) -> None:
    """Errors of the type do not grow from frame to frame."""
    config = replace(SMALL, scale=scale)
    geometry = Geometry(int(40 * scale), int(24 * scale), scale)
    assert (geometry.coded_width, geometry.coded_height) == (40, 24)
    sets = [FloatSet(0, None, _weights(config, 0.1))]
    size = (geometry.source_width, geometry.source_height)
    exact = Enhancer(CODED, size, config, sets, FP32)
    coarse = replace(FP32, compute_dtype=torch.bfloat16)
    rough = Enhancer(CODED, size, config, sets, coarse)
    for at, frame in enumerate(_frames(CODED, 12)):
        pair = [e.enhance(frame, at).enhanced for e in (exact, rough)]
        assert _difference(*pair) <= 3, at


def test_blocks_are_the_single_frame_nets() -> None:
    assert blocks(SMALL) == blocks(SMALL.single_frame)
