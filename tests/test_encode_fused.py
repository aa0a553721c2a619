"""`encode --objective fused`: two heads through fit, file, player and scores."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from codecaux.architecture import net_config
from codecaux.bases import GENERATED_BASE_ID, get_base
from codecaux.cli.encode import parse_sharpen
from codecaux.decoder.load import open_enhancer
from codecaux.decoder.play import PlaySettings, play
from codecaux.decoder.verify import verify
from codecaux.device import choose_device
from codecaux.encoder.bank import BankSettings, PatchBank
from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.choices import check_loss
from codecaux.encoder.encode import EncodeResult, encode
from codecaux.encoder.fit import FitResult, FitTask, fit
from codecaux.encoder.headstart import weights_to_start_from
from codecaux.encoder.objective import OBJECTIVES, LossTerms
from codecaux.encoder.pretrain import PretrainSettings, pretrain
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import UsageError
from codecaux.events import Progress, drain
from codecaux.frames import read_frames
from codecaux.ladders.commands import encode_command
from codecaux.probe import probe
from codecaux.weightsfile import read_weights
from stripes import stripe_bank

TWO = replace(net_config("tiny", Fraction(2)), heads=2)
FIT = FitSettings(steps=10, batch=1, patch=24, objective="fused", sharpen=0.3)


def _settings(source: Path, folder: Path, fit: FitSettings) -> EncodeSettings:
    return EncodeSettings(
        input=str(source),
        output=folder / "title.mp4",
        weights=folder / "title.weights",
        # Keyframes within the title: the mask's window ends there.
        stream=StreamSettings(crf=24, preset="ultrafast", x265_params=(("keyint", "5"),)),
        net="tiny",
        fit=fit,
        device="cpu",
        lpips_frames=1,
    )


@pytest.fixture(scope="module")
def encoded(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> EncodeResult:
    return drain(encode(_settings(clip, tmp_path_factory.mktemp("fused"), FIT)))


def test_the_file_says_how_it_is_fused(encoded: EncodeResult) -> None:
    file = read_weights(encoded.weights)
    assert file.metadata.format_version == 3
    assert file.metadata.architecture == TWO
    assert file.metadata.fusion is not None
    assert file.metadata.fusion.sharpen == 0.3  # as told, whatever it does to NEG
    assert set(weights_to_start_from(encoded.weights.read_bytes())) >= {"perceptual.weight"}


def test_what_is_scored_is_what_is_played(
    encoded: EncodeResult, clip: Path, tmp_path: Path
) -> None:
    """The player's file, the enhancer frame by frame, and PSNR-Y worked out from the former."""
    target = tmp_path / "out.mkv"
    drain(play(PlaySettings(encoded.stream, encoded.weights, target, device="cpu")))
    played = list(read_frames(target))
    enhancer = open_enhancer(encoded.stream, encoded.weights, device=choose_device("cpu"))
    coded = list(read_frames(encoded.stream))
    assert {f.pts for f in coded if f.is_keyframe} > {coded[0].pts}
    values = []
    for index, (frame, source) in enumerate(zip(coded, read_frames(clip), strict=True)):
        shown = enhancer.enhance(frame, index).enhanced
        for a, b in zip(shown.planes, played[index].planes, strict=True):
            np.testing.assert_array_equal(a, b)
        error = np.square(shown.y.astype(float) - source.y).mean()
        values.append(10 * np.log10(255**2 / error))
    assert encoded.scores["enhanced"].psnr_y_db == pytest.approx(np.mean(values), abs=1e-6)
    # In any order, as one who seeks asks for them.
    seeking = open_enhancer(encoded.stream, encoded.weights, device=choose_device("cpu"))
    for index in (7, 2, 11, 0):
        shown = seeking.enhance(coded[index], index).enhanced
        np.testing.assert_array_equal(shown.y, played[index].y)


def test_verify_knows_two_heads(encoded: EncodeResult) -> None:
    report = drain(verify(encoded.stream, encoded.weights, "cpu"))
    assert report.checks[-1].name == "network"
    assert report.num_frames == probe(encoded.stream).num_frames_from_header


# ------------------------------------------------------------------------------------------ the fit


@pytest.fixture(scope="module")
def bank() -> PatchBank:
    return stripe_bank(4, BankSettings(patch=24))


def _task(bank: PatchBank) -> FitTask:
    terms = LossTerms(OBJECTIVES["fused"], bank.format.colour, None)
    device = replace(choose_device("cpu"), compute_dtype=torch.float32)
    few = replace(FIT, steps=40, batch=2, learning_rate=4e-3)
    return FitTask(TWO, GENERATED_BASE_ID, bank, terms, device, few)


@pytest.fixture(scope="module")
def whole_fit(bank: PatchBank, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """What a fit ends with that nobody stops."""
    return drain(fit(_task(bank), Checkpoint(tmp_path_factory.mktemp("whole") / "c"), 10))


@pytest.mark.parametrize("stop_after", [10, 35])
def test_a_killed_fit_of_two_heads_ends_as_a_whole_one(
    bank: PatchBank,
    whole_fit: FitResult,
    tmp_path: Path,
    stop_after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("codecaux.encoder.loop._CHECKPOINT_SECONDS", 0.0)
    task = _task(bank)
    cut = Checkpoint(tmp_path / "cut")
    for event in fit(task, cut, 10):
        if isinstance(event, Progress) and event.done >= stop_after:
            break
    resumed = drain(fit(task, cut, 10))
    expected, got = whole_fit.sets[0].tensors, resumed.sets[0].tensors
    assert expected.keys() == got.keys()
    assert {"last.weight", "perceptual.weight"} <= expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensor.values, got[name].values)
        assert tensor.step == got[name].step
    # Both heads have moved, and not alike.
    assert not np.array_equal(expected["last.weight"].values, expected["perceptual.weight"].values)
    assert whole_fit.choices[0].loss < check_loss(task, get_base(task.base_id, task.config))


# ------------------------------------------------------------------------------------ what is told


def test_sharpen_is_for_fused_and_between_0_and_1(tmp_path: Path) -> None:
    assert [parse_sharpen(text) for text in ("auto", "off", "0.25")] == [None, 0.0, 0.25]
    with pytest.raises(Exception, match="auto, off"):
        parse_sharpen("much")
    with pytest.raises(UsageError, match="0 to 1"):
        FitSettings(objective="fused", sharpen=1.5)
    with pytest.raises(UsageError, match="fused"):
        FitSettings(sharpen=0.5)
    settings = _settings(tmp_path / "a.mkv", tmp_path, replace(FIT, sharpen=0.0))
    assert "--objective fused --sharpen off" in encode_command(settings).replace("--seed 0 ", "")


def test_a_base_has_one_head(tmp_path: Path) -> None:
    settings = PretrainSettings((tmp_path,), tmp_path / "b", tmp_path / "work", objective="fused")
    with pytest.raises(UsageError, match="one head"):
        drain(pretrain(settings, choose_device("cpu"), None))
