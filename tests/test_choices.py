"""What is sent: loss + price x bytes decides: nothing, gains, all weights, sets per scene."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codecaux.architecture import coded_shapes, gain_name, net_config, parameter_shapes
from codecaux.bases import GENERATED_BASE_ID, get_base
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.sets import float_sets
from codecaux.device import choose_device
from codecaux.encoder.bank import BankSettings, PatchBank
from codecaux.encoder.bank_builder import build_banks
from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.choices import check_loss, least, set_bytes, weigh
from codecaux.encoder.fit import FitResult, FitTask, fit
from codecaux.encoder.objective import OBJECTIVES, LossTerms
from codecaux.encoder.parameters import GainParameters
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.encoder.price import Price, check_settings, measure_price
from codecaux.encoder.scene_sets import ScenePlan, SharedSet, fit_scenes
from codecaux.encoder.scenes import find_scenes, keyframe_indices
from codecaux.encoder.settings import FitSettings
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.errors import UsageError, WeightsFormatError
from codecaux.events import drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.frames import read_frames
from codecaux.hevc import StreamHash
from codecaux.quantise import QuantisedTensor
from codecaux.video import Colour, Frame, VideoFormat
from codecaux.weightsfile import (
    WeightSet,
    WeightsFile,
    WeightsMetadata,
    pack,
    reconstruct,
    unpack,
)
from stripes import STRIPES, stripe_pairs

TINY = net_config("tiny", Fraction(2))
SETTINGS = FitSettings(
    steps=240, batch=4, patch=24, objective="fidelity", rounding_errors=(0.05, 0.2), rate_weight=0.0
)
START = get_base(GENERATED_BASE_ID, TINY)


@pytest.fixture(scope="module")
def banks() -> list[PatchBank]:
    training = BankSettings(patch=24)
    wanted = (training, check_settings(training))
    pairs = stripe_pairs(8, turned_from=4)
    return drain(build_banks(pairs, 8, STRIPES, VideoFormat(96, 96), 8, wanted))


def _task(banks: list[PatchBank], **changes: object) -> FitTask:
    terms = LossTerms(OBJECTIVES["fidelity"], banks[0].format.colour, None)
    device = replace(choose_device("cpu"), compute_dtype=torch.float32)
    task = FitTask(TINY, GENERATED_BASE_ID, banks[0], terms, device, SETTINGS, banks[1])
    return replace(task, **changes)  # type: ignore[arg-type]


def _names(result: FitResult) -> list[str]:
    return [choice.name for choice in result.choices]


# ---------------------------------------------------------------------------------------- choices


def test_the_price_of_a_byte_decides(banks: list[PatchBank], tmp_path: Path) -> None:
    free = drain(fit(_task(banks), Checkpoint(tmp_path / "a"), 10))
    assert _names(free) == ["difference", "base"]  # gains are not worth the try
    difference, nothing = free.choices
    assert difference.loss < 0.8 * nothing.loss
    assert nothing.bytes == 0
    gain = nothing.loss - difference.loss
    # A byte costs ten times what it earns: nothing is sent, after gains and biases were tried.
    dear = _task(banks, price=10 * gain / difference.bytes)
    sent = drain(fit(dear, Checkpoint(tmp_path / "b"), 10))
    assert sorted(_names(sent)) == ["base", "difference", "gains and biases"]
    assert sent.choices[0].bytes < difference.bytes / 4
    assert sent.choices[0].cost == min(choice.cost for choice in sent.choices)


def test_a_dearer_byte_takes_coarser_steps(banks: list[PatchBank], tmp_path: Path) -> None:
    fine, coarse = (
        drain(fit(_task(banks, price=price), Checkpoint(tmp_path / f"{price}"), 10)).choices
        for price in (0.0, 3e-6)
    )
    sizes = [next(c.bytes for c in choices if c.name == "difference") for choices in (fine, coarse)]
    assert sizes[1] < sizes[0]


def test_nothing_costs_nothing(banks: list[PatchBank]) -> None:
    task = _task(banks, price=1.0)
    zeros = {"last.bias": QuantisedTensor(np.zeros(12, np.int32), 0.5)}
    choice = weigh(task, "zeros", zeros, START)
    assert (choice.bytes, choice.tensors) == (0, {})
    assert choice.cost == choice.loss == pytest.approx(check_loss(task, START))
    other = replace(choice, name="other", bytes=9)
    assert least([other, choice]) is choice


def test_bytes_are_those_of_the_compressed_set() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(-1, 2, parameter_shapes(TINY)["down4.0.weight"], dtype=np.int32)
    tensors = {"down4.0.weight": QuantisedTensor(values, 0.5)}
    entropy_bytes = values.size * np.log2(3) / 8
    assert entropy_bytes < set_bytes(tensors, TINY) < 1.1 * entropy_bytes + 300
    assert set_bytes({}, TINY) == 0


def test_senseless_rounding_errors_are_refused() -> None:
    for errors in ((), (0.0,), (1.0, -1.0)):
        with pytest.raises(UsageError, match="rounding errors"):
            FitSettings(rounding_errors=errors)


# ------------------------------------------------------------------------------------------ gains


def test_gains_multiply_output_channels() -> None:
    start = {n: np.ones(s, np.float32) for n, s in parameter_shapes(TINY).items()}
    gain = np.zeros(12, np.int32)
    gain[3] = 2
    tensors = {
        gain_name("last.weight"): QuantisedTensor(gain, 0.25),
        "last.bias": QuantisedTensor(np.full(12, -1, np.int32), 0.5),
    }
    found = reconstruct(tensors, start, TINY)
    assert found["last.weight"][3].ravel().tolist() == [1.5] * 12
    assert found["last.weight"][2].ravel().tolist() == [1.0] * 12
    assert found["last.bias"].tolist() == [0.5] * 12
    assert found["down1.0.weight"] is start["down1.0.weight"]


def test_gain_parameters_show_what_is_sent() -> None:
    base = {name: torch.from_numpy(value) for name, value in START.items()}
    steps = dict.fromkeys(GainParameters(base, {}).latents, 0.125)
    parameters = GainParameters(base, steps)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for latent in parameters.latents.values():
            latent.copy_(torch.randn(latent.shape, generator=generator) * 0.3)
    sent = parameters.quantised()
    assert set(sent) <= set(coded_shapes(TINY))
    assert sum(t.values.size for t in sent.values()) < 1000
    expected = reconstruct(sent, START, TINY)
    for name, value in parameters.merged().items():
        # One product and one sum in fp32: equal but for their order.
        np.testing.assert_allclose(value.detach().numpy(), expected[name], rtol=1e-6, atol=1e-7)


# ----------------------------------------------------------------------------------------- scenes


@given(
    st.lists(st.integers(0, 2000), max_size=40).map(lambda v: sorted(set(v))),
    st.integers(1, 2000),
)
def test_scenes_cover_the_title(keyframes: list[int], num_frames: int) -> None:
    inside = [k for k in keyframes if k < num_frames]
    scenes = find_scenes(inside, num_frames, Fraction(24))
    assert scenes[0][0] == 0
    assert scenes[-1][1] == num_frames
    assert all(a[1] == b[0] for a, b in itertools.pairwise(scenes))
    assert all(first == 0 or first in inside for first, _ in scenes)
    assert len(scenes) == 1 or all(end - first >= 48 for first, end in scenes)


def test_long_titles_have_few_scenes() -> None:
    scenes = find_scenes(range(0, 300_000, 50), 300_000, Fraction(24))
    assert 256 < len(scenes) <= 512


def test_scenes_earn_sets_of_their_own(banks: list[PatchBank], tmp_path: Path) -> None:
    scenes = ((0, 4), (4, 8))
    settings = replace(SETTINGS, steps=400, rounding_errors=(0.05,), scene_fraction=0.5)
    task = _task(banks, scenes=scenes, settings=settings)
    result = drain(fit(task, Checkpoint(tmp_path / "c"), 10))
    assert len(result.sets) > 1
    assert all(s.reference == 0 for s in result.sets[1:])
    file = WeightsFile(_metadata(), result.sets)
    assert unpack(pack(file)).metadata.format_version == 2
    weights = [reconstruct(result.sets[0].tensors, START, TINY)]
    for s in result.sets[1:]:
        weights.append(reconstruct(s.tensors, weights[0], TINY))
    for first, end in scenes:
        own = next(w for w, s in zip(weights, result.sets, strict=True) if _covers(s, first))
        part = replace(task, check=banks[1].of_frames(first, end))
        assert check_loss(part, own) <= check_loss(part, weights[0])
    # Resumed, nothing is done again and the same comes out.
    again = drain(fit(task, Checkpoint(tmp_path / "c"), 10))
    assert pack(WeightsFile(_metadata(), again.sets)) == pack(file)


def test_dear_scenes_share_one_set(banks: list[PatchBank], tmp_path: Path) -> None:
    """At a loss of 1 a byte no scene can earn even the 100 bytes of the smallest set."""
    free = drain(fit(_task(banks), Checkpoint(tmp_path / "a"), 10)).choices[0]
    steps = {name: tensor.step for name, tensor in free.tensors.items()}
    steps = {name: steps.get(name, 2.0**-7) for name in parameter_shapes(TINY)}
    shared = SharedSet(free.tensors, reconstruct(free.tensors, START, TINY), steps)
    plan = ScenePlan(((0, 4), (4, 8)), (20, 20), 240, 280)
    sets = drain(fit_scenes(_task(banks, price=1.0), shared, plan, Checkpoint(tmp_path / "b")))
    assert [(s.first_frame, s.end_frame, s.reference) for s in sets] == [(0, None, None)]


def _covers(weights: WeightSet, frame: int) -> bool:
    end = weights.end_frame
    return weights.first_frame <= frame and (end is None or frame < end)


def _metadata() -> WeightsMetadata:
    stream = StreamHash("01" * 32, "ef" * 32)
    return WeightsMetadata(TINY, 96, 96, 8, 8, Colour(), stream, base_id=GENERATED_BASE_ID)


def test_sets_refer_to_earlier_ones_only() -> None:
    one = {"last.bias": QuantisedTensor(np.ones(12, np.int32), 0.5)}
    good = (WeightSet(0, 0, one), WeightSet(0, 5, {}, 0), WeightSet(5, None, one, 1))
    read = unpack(pack(WeightsFile(_metadata(), good))).sets
    assert [(s.first_frame, s.end_frame, s.reference) for s in read] == [
        (0, 0, None),
        (0, 5, 0),
        (5, None, 1),
    ]
    for reference in (1, 2, -1):
        bad = (WeightSet(0, 5, one), WeightSet(5, None, one, reference))
        with pytest.raises(WeightsFormatError, match="reference"):
            pack(WeightsFile(_metadata(), bad))
    with pytest.raises(WeightsFormatError, match="reference"):
        pack(WeightsFile(_metadata(), (WeightSet(0, None, one, 0),)))


def test_a_player_follows_references() -> None:
    def bias(value: int) -> dict[str, QuantisedTensor]:
        return {"last.bias": QuantisedTensor(np.full(12, value, np.int32), 0.5)}

    sets = (
        WeightSet(0, 0, bias(1)),
        WeightSet(0, 3, bias(2), 0),
        WeightSet(3, 6, {}, 0),
        WeightSet(6, None, bias(4), 1),
    )
    shown = float_sets(unpack(pack(WeightsFile(_metadata(), sets))).sets, _metadata())
    # Steps of a half on top of the base's zero biases: 1; 1 + 2; 1; 1 + 2 + 4.
    assert [float(s.weights["last.bias"][0]) for s in shown] == [0.5, 1.5, 0.5, 3.5]
    coded = VideoFormat(48, 48)
    device = replace(choose_device("cpu"), compute_dtype=torch.float32)
    enhancer = Enhancer(coded, (96, 96), TINY, shown, device)
    grey = Frame(*(np.full((n, n), 128, np.uint8) for n in (48, 24, 24)), 0)
    levels = [int(enhancer.enhance(grey, index).enhanced.y[0, 0]) for index in (0, 2, 3, 6)]
    # A bias moves RGB in -1..1, half of it luma: larger biases, brighter pictures.
    assert levels[0] == levels[1] > levels[2] < levels[3]


# ------------------------------------------------------------------------------------------ price


@pytest.fixture(scope="module")
def prepared(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedSource:
    return drain(prepare(clip, SourceOptions(), tmp_path_factory.mktemp("work")))


def test_bits_are_worth_something(
    banks: list[PatchBank], prepared: PreparedSource, tmp_path: Path
) -> None:
    stream = StreamSettings(crf=30, preset="ultrafast")
    left = tmp_path / "price" / ".price-30.0.part.mkv"  # by a run that was killed
    left.parent.mkdir()
    left.write_bytes(b"half a stream")
    price = drain(measure_price(prepared, stream, _task(banks), tmp_path / "price"))
    # d loss / d ln rate of a noisy clip: some percent of its loss (about 0.05).
    assert 1e-4 < price.slope < 0.05
    assert not (tmp_path / "price").exists()
    assert Price(2.0).per_byte(1000) == pytest.approx(0.002)


def test_an_excerpt_is_its_part_of_the_title(
    prepared: PreparedSource, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    part = prepared.excerpt(5, 4)
    drain(encode_stream(part, StreamSettings(crf=0, scale=Fraction(1)), tmp_path / "p.mkv", ffmpeg))
    shown = list(read_frames(tmp_path / "p.mkv"))
    original = list(read_frames(prepared.path))[5:9]
    assert len(shown) == 4
    for a, b in zip(shown, original, strict=True):
        assert np.abs(a.y.astype(int) - b.y).mean() < 2.0  # CRF 0: all but lossless
    assert prepared.excerpt(0, prepared.num_frames) is prepared


def test_keyframes_of_a_stream(prepared: PreparedSource, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    stream = StreamSettings(
        crf=30, preset="ultrafast", keyint=4, x265_params=(("min-keyint", "4"), ("scenecut", "0"))
    )
    drain(encode_stream(prepared, stream, tmp_path / "k.mp4", ffmpeg))
    assert keyframe_indices(tmp_path / "k.mp4") == [0, 4, 8]
