"""Fitting a recurrent net: runs of frames, scene cuts, its weights file, an encode and its play."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from codecaux import metadata as metadata_module
from codecaux.architecture import coded_shapes, config_from_json, config_to_json, net_config
from codecaux.bases import BASES_VARIABLE, GENERATED_BASE_ID, get_base, parse_base
from codecaux.cli.main import main
from codecaux.decoder.load import open_enhancer
from codecaux.describe import describe, describe_rows
from codecaux.device import Device, choose_device
from codecaux.encoder.bank import RUN_FRAMES, BankSettings, PatchBank
from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.choices import check_loss
from codecaux.encoder.cuts import cuts_among, find_cuts
from codecaux.encoder.fit import FitTask, fit, stepper
from codecaux.encoder.goal import make_goal
from codecaux.encoder.objective import OBJECTIVES, LossTerms
from codecaux.encoder.pretrain import pretrain
from codecaux.encoder.pretrain_settings import PretrainSettings
from codecaux.encoder.settings import FitSettings
from codecaux.encoder.soap import Soap
from codecaux.encoder.warm_up import ready_critic
from codecaux.errors import WeightsBaseError, WeightsFormatError
from codecaux.events import Progress, drain
from codecaux.frames import read_frames
from codecaux.hevc import StreamHash
from codecaux.quantise import QuantisedTensor
from codecaux.video import Colour, Frame
from codecaux.weightsfile import (
    WeightSet,
    WeightsFile,
    WeightsMetadata,
    pack,
    read_weights,
    reconstruct,
    unpack,
)
from stripes import stripe_bank, stripe_pairs

TINY = net_config("recurrent-tiny", Fraction(2))


@pytest.fixture(scope="module")
def device() -> Device:
    # float32: runs are compared bit by bit.
    return replace(choose_device("cpu"), compute_dtype=torch.float32)


# ------------------------------------------------------------------------------------------ runs


def _bank(count: int, **changes: object) -> PatchBank:
    settings = BankSettings(**({"patch": 24, "run": 4} | changes))  # type: ignore[arg-type]
    return stripe_bank(count, settings, is_numbered=True)


def test_a_run_is_one_place_in_consecutive_frames_of_one_scene() -> None:
    bank = _bank(11, resets=(5,))
    assert bank.run == 4
    runs = bank.frame.reshape(-1, 4)
    assert len(bank) == len(runs) == len(bank.frame) // 4
    assert (np.diff(runs, axis=1) == 1).all()
    # Two starts before the cut at 5, three after it, four places in each.
    assert sorted({int(first) for first in runs[:, 0]}) == [0, 1, 5, 6, 7]
    assert bank.candidates == 5 * 4
    # Both sides of a pair are of that frame: its number is in the chroma.
    for planes in (bank.coded, bank.source):
        np.testing.assert_array_equal(planes[1][:, 0, 0], 100 + bank.frame)
    places = _bank(7, resets=()).coded[0].reshape(-1, 4, 24, 24)
    frames = [coded.y for coded, _ in stripe_pairs(7, is_numbered=True)]
    for run, first in zip(places, _bank(7).frame.reshape(-1, 4)[:, 0], strict=True):
        corners = [(top, left) for top in (0, 24) for left in (0, 24)]
        assert any(
            all(
                np.array_equal(patch, frames[first + t][top : top + 24, left : left + 24])
                for t, patch in enumerate(run)
            )
            for top, left in corners
        )


def test_batches_and_scenes_take_whole_runs() -> None:
    bank = _bank(11)
    coded, source = bank.batch(np.array([3, 1]), torch.device("cpu"))
    assert coded.y.shape == (8, 1, 24, 24)
    assert source.y.shape == (8, 1, 48, 48)
    expected = np.concatenate([bank.frame[12:16], bank.frame[4:8]])
    got = (coded.u[:, 0, 0, 0] * 224 + 128).round().numpy() - 100
    np.testing.assert_array_equal(got, expected)
    part = bank.of_frames(2, 8)
    assert part.run == 4
    assert {int(f) for f in part.frame.reshape(-1, 4)[:, 0]} == {2, 3, 4}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_title_shorter_than_a_run_gives_shorter_runs(count: int) -> None:
    bank = _bank(count)
    assert bank.run == count
    assert len(bank) == 4


def test_the_bound_on_memory_counts_runs() -> None:
    bank = _bank(40, max_bytes=16 << 20, keep=0.0, min_patches=24)
    assert len(bank) == 24 // 4
    assert len(bank) < bank.candidates


def test_without_runs_the_bank_is_what_it_was() -> None:
    one, other = _bank(9, run=1), _bank(9, run=1, resets=(4,))
    np.testing.assert_array_equal(one.coded[0], other.coded[0])
    assert one.run == 1
    assert len(one) == 9 * 4


# ------------------------------------------------------------------------------------------ cuts


def test_a_cut_is_a_change_that_stands_alone() -> None:
    assert cuts_among([0, 1, 1, 30, 1, 2]) == (3,)
    assert cuts_among([0, 20, 22, 25, 21, 45, 20]) == ()  # motion, and more of it
    assert cuts_among([0, 1, 40, 41, 1]) == ()  # a flash
    assert cuts_among([0, 1, 6, 1]) == ()  # too small
    assert cuts_among([0, 1, 1, 50]) == (3,)
    assert cuts_among([0]) == ()


@pytest.mark.parametrize("depth", [8, 10])
def test_cuts_are_found_in_pictures_of_either_depth(depth: int) -> None:
    def frames() -> Iterator[Frame]:
        rng = np.random.default_rng(0)
        for t in range(12):
            level = 60 if t < 5 else 160
            y = (level + rng.integers(0, 4, (32, 48))) << (depth - 8)
            yield Frame(y.astype(np.uint8 if depth == 8 else np.uint16), y, y, t)

    assert find_cuts(frames(), depth) == (5,)
    assert find_cuts(iter(())) == ()


# ------------------------------------------------------------------------------------------ files


def _file(resets: tuple[int, ...] = (7, 30)) -> WeightsFile:
    rng = np.random.default_rng(1)
    tensors = {
        name: QuantisedTensor(rng.integers(-2, 3, shape).astype(np.int32), 0.03125)
        for name, shape in coded_shapes(TINY).items()
        if "state" in name or "up1.prior" in name
    }
    about = WeightsMetadata(
        TINY, 64, 64, 40, 8, Colour(), StreamHash("0" * 64, "1" * 64), GENERATED_BASE_ID
    )
    return WeightsFile(replace(about, resets=resets), (WeightSet(0, None, tensors),))


def test_the_file_says_what_it_is_and_an_older_player_asks_for_an_upgrade(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = pack(_file())
    read = unpack(data)
    assert read.metadata.format_version == 3
    assert read.metadata.architecture == TINY
    assert read.metadata.resets == (7, 30)
    for name, tensor in _file().sets[0].tensors.items():
        np.testing.assert_array_equal(read.sets[0].tensors[name].values, tensor.values)
    monkeypatch.setattr(metadata_module, "FORMAT_VERSION", 2)
    with pytest.raises(WeightsFormatError, match="format version 2, got 3"):
        unpack(data)


def test_single_frame_files_stay_as_they_were() -> None:
    plain = replace(_file().metadata, architecture=TINY.single_frame, resets=())
    read = unpack(pack(WeightsFile(plain, (WeightSet(0, None, {}),))))
    assert read.metadata.format_version == 1
    assert json.loads(config_to_json(TINY.single_frame)).keys() == {
        "kind", "name", "widths", "blocks", "scale",
    }  # fmt: skip
    assert config_from_json(config_to_json(TINY)) == TINY


@pytest.mark.parametrize(
    "resets", ["", "7", "[7.5]", "[0]", "[9, 7]", "[7, 7]", "[true]", '["7"]', "[-1]", "{}"]
)
def test_damaged_resets_are_a_weights_error(resets: str) -> None:
    entries = metadata_module.metadata_to_text(replace(_file().metadata, format_version=3))
    assert metadata_module.metadata_from_text(entries).resets == (7, 30)
    with pytest.raises(WeightsFormatError):
        metadata_module.metadata_from_text(entries | {"resets": resets})
    with pytest.raises(WeightsFormatError, match="recurrent"):
        metadata_module.metadata_from_text(entries | {"format_version": "2"})


@pytest.mark.parametrize("change", [{"hidden": 0}, {"hidden": 999}, {"global_filters": True}])
def test_a_damaged_state_is_a_weights_error(change: dict[str, object]) -> None:
    with pytest.raises(WeightsFormatError):
        config_from_json(json.dumps(json.loads(config_to_json(TINY)) | change))


def test_inspect_knows_the_state() -> None:
    rows = dict(describe_rows(_file(), 1000))
    assert rows["state"].startswith("4 hidden channels, 4 global filters")
    assert "frame 0, 7, 30" in rows["state"]
    assert rows["network"].startswith("recurrent-tiny, x2")
    values = describe(_file(), 1000)
    assert values["resets"] == [7, 30]
    assert values["architecture"]["kind"] == "sr-unet-recurrent"  # type: ignore[index,call-overload]
    assert not any(label == "state" for label, _ in describe_rows(_plain(), 1000))


def _plain() -> WeightsFile:
    plain = replace(_file().metadata, architecture=TINY.single_frame, resets=())
    return WeightsFile(plain, (WeightSet(0, None, {}),))


# ------------------------------------------------------------------------------------------ fits

SETTINGS = FitSettings(
    steps=24, batch=4, patch=24, objective="fidelity", seed=3, rounding_errors=(0.05,)
)
BASE = "tiny-2x-5b25ba15"


def _task(device: Device, settings: FitSettings = SETTINGS) -> FitTask:
    bank = _bank(8)
    terms = LossTerms(OBJECTIVES["fidelity"], bank.format.colour, None)
    return FitTask(TINY, BASE, bank, terms, device, settings, bank.of_frames(0, 5))


def test_a_fit_learns_in_integers_and_resumes_exactly(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecaux.encoder.loop._CHECKPOINT_SECONDS", 0.0)
    task = _task(device)
    whole = drain(fit(task, Checkpoint(tmp_path / "whole"), 24))
    tensors = whole.sets[0].tensors
    start = get_base(BASE, TINY)
    fitted = reconstruct(tensors, start, TINY)
    assert check_loss(task, fitted) < 0.95 * check_loss(task, start)
    assert np.any(fitted["state.weight"])  # it looks back
    cut = Checkpoint(tmp_path / "cut")
    for event in fit(task, cut, 24):
        if isinstance(event, Progress) and event.done == 10:
            break
    again = drain(fit(task, cut, 24)).sets[0].tensors
    assert list(again) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name].values, tensor.values)


def test_a_recurrent_net_learns_at_a_quarter_of_the_rate(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(Soap, "step", lambda self, rate: rates.append(rate))
    step = stepper(_task(device), 3000)
    step(29)  # the warm-up's last; the cosine has hardly begun
    assert rates == [pytest.approx(SETTINGS.learning_rate / 4, rel=1e-3)]


def test_a_title_of_one_frame_is_fitted_too(device: Device, tmp_path: Path) -> None:
    task = replace(_task(device), bank=_bank(1), check=None, settings=replace(SETTINGS, steps=10))
    assert task.bank.run == 1
    assert drain(fit(task, Checkpoint(tmp_path / "fit"), 10)).steps == 10


def test_pretraining_on_runs_gives_a_base_of_its_own(
    photos: Path, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PretrainSettings(
        folders=(photos,),
        output=tmp_path / "base.safetensors",
        work=tmp_path / "work",
        net="recurrent-tiny",
        preset="ultrafast",
        steps=3,
        batch=4,
        objective="fidelity",
        jobs=1,
        start=BASE,
    )
    result = drain(pretrain(settings, device, None))
    file = parse_base(result.output.read_bytes())
    assert file.base_id.startswith("recurrent-tiny-2x-")
    assert file.base.config == TINY
    before = get_base(BASE, TINY)
    assert np.any(file.base.tensors["state.weight"])
    assert np.abs(file.base.tensors["up1.0.weight"] - before["up1.0.weight"]).max() < 0.05
    monkeypatch.setenv(BASES_VARIABLE, str(tmp_path))
    found = get_base(result.base_id, TINY)
    np.testing.assert_array_equal(found["state.weight"], file.base.tensors["state.weight"])
    with pytest.raises(WeightsBaseError, match="network"):
        get_base(result.base_id, TINY.single_frame)
    with pytest.raises(WeightsBaseError, match="network"):
        get_base("light-2x-47350fce", TINY)


# ------------------------------------------------------------------------------------ the program


@pytest.fixture(scope="module")
def encoded(make_clip, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    """A title of two scenes, encoded with the recurrent net: its stream."""
    clip = make_clip(
        "two-scenes.mkv", size=(128, 96), frames=18, filters="negate=enable='gte(n,12)'"
    )
    output: Path = tmp_path_factory.mktemp("recurrent") / "title.mp4"
    arguments = ["encode", str(clip), "-o", str(output), "--net", "recurrent-tiny", "--crf", "30"]
    arguments += ["--steps", "20", "--objective", "fidelity", "--preset", "ultrafast"]
    assert main([*arguments, "--device", "cpu"]) == 0
    return output


def test_play_shows_what_was_measured(
    encoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = encoded.with_suffix(".weights")
    file = read_weights(weights)
    assert file.metadata.architecture == TINY
    assert file.metadata.resets == (12,)
    assert file.metadata.base_id == BASE
    shown = tmp_path / "shown.mkv"
    play = ["play", str(encoded), str(weights), "-o", str(shown), "--codec", "ffv1"]
    assert main([*play, "--device", "cpu"]) == 0
    enhancer = open_enhancer(encoded, weights, device=choose_device("cpu"))
    expected = [pair.enhanced for pair in enhancer.enhance_all(read_frames(encoded))]
    played = list(read_frames(shown))
    assert len(played) == len(expected) == 18
    for got, frame in zip(played, expected, strict=True):
        for a, b in zip(got.planes, frame.planes, strict=True):
            np.testing.assert_array_equal(a, b)
    assert main(["verify", str(encoded), str(weights), "--device", "cpu"]) == 0
    assert main(["inspect", str(weights)]) == 0
    assert "starts at frame 0, 12" in capsys.readouterr().out


def test_a_fitted_net_converges_after_a_start_in_the_middle(encoded: Path) -> None:
    """From frame 4 on instead of from 0: as the others from frame 8 on, to one code value."""
    weights = encoded.with_suffix(".weights")
    device = choose_device("cpu")
    frames = list(read_frames(encoded))[:12]
    through = open_enhancer(encoded, weights, device=device)
    late = open_enhancer(encoded, weights, device=device)
    shown = [through.enhance(frame, at).enhanced for at, frame in enumerate(frames)]
    for at in range(4, 12):
        other = late.enhance(frames[at], at).enhanced
        if at >= 8:
            assert np.abs(other.y.astype(int) - shown[at].y.astype(int)).max() <= 1


def test_runs_fill_a_default_step() -> None:
    assert FitSettings().batch % RUN_FRAMES == 0


# ---------------------------------------------------------------------------------- learned losses


def test_a_learned_objective_fits_a_recurrent_net(device: Device, tmp_path: Path) -> None:
    """The bank's runs have their neighbours, so that the loss network sees what it always does."""
    objective = OBJECTIVES["learned"].for_net(TINY)
    assert objective.learned is not None
    # A narrow loss network on small patches: what is tested is not its size.
    narrow = replace(objective.learned, width=0.0625, size=32, patches=2)
    goal = make_goal(replace(objective, learned=narrow), Colour(), None, 0, device)
    assert goal.critic is not None
    bank = _bank(12, around=goal.critic.around)
    settings = FitSettings(steps=10, patch=32, batch=8)
    fixed = (TINY, GENERATED_BASE_ID, bank, goal.terms, device, settings)
    task = FitTask(*fixed, critic=goal.critic)
    checkpoint = Checkpoint(tmp_path / "fit")
    drain(ready_critic(task, checkpoint))
    before = {name: value.clone() for name, value in goal.critic.state().items()}
    fitted = drain(fit(task, checkpoint, 10))
    assert fitted.steps == 10
    assert np.isfinite(fitted.loss)
    after = goal.critic.state()
    assert any(not torch.equal(before[n], after[n]) for n in before if n.startswith("net/"))
