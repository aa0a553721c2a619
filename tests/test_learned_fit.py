"""Fits and pre-training beside a loss network: they improve, resume exactly, recover, say no."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from codecaux.architecture import net_config
from codecaux.bases import GENERATED_BASE_ID, get_base, parse_base
from codecaux.device import choose_device
from codecaux.encoder.bank import BankSettings, PatchBank
from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.choices import check_loss
from codecaux.encoder.critic import LearnedLoss
from codecaux.encoder.encode import encode
from codecaux.encoder.fit import FitResult, FitTask, fit
from codecaux.encoder.goal import make_goal, open_goal
from codecaux.encoder.headstart import HeadStart
from codecaux.encoder.lossnet import LearnedSettings
from codecaux.encoder.objective import ABLATIONS, OBJECTIVES, Objective
from codecaux.encoder.pretrain import pretrain
from codecaux.encoder.pretrain_settings import PretrainSettings
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import FitError, LpipsUnavailableError, UsageError
from codecaux.events import Event, Notice, Progress, drain
from codecaux.lpips import Lpips
from codecaux.video import Colour
from codecaux.weightsfile import read_weights, reconstruct
from stripes import stripe_bank

TINY = net_config("tiny", Fraction(2))
SETTINGS = FitSettings(steps=40, batch=3, patch=24, objective="learned", seed=3)
CPU = replace(choose_device("cpu"), compute_dtype=torch.float32)


def _small(objective: Objective) -> Objective:
    """With a narrow loss network on small patches: what is tested is not its size."""
    learned = objective.learned or LearnedSettings()
    learned = replace(learned, width=0.0625, size=32, patches=2, learning_rate=1e-3)
    return replace(objective, learned=learned)


LEARNED = _small(OBJECTIVES["learned"])


@pytest.fixture(scope="module")
def bank() -> PatchBank:
    settings = BankSettings(patch=24, around=32, coded_around=True)
    return stripe_bank(4, settings)


def _task(
    bank: PatchBank, objective: Objective = LEARNED, settings: FitSettings = SETTINGS
) -> FitTask:
    goal = make_goal(objective, bank.format.colour, None, settings.seed, CPU)
    terms, critic = goal.terms, goal.critic
    return FitTask(TINY, GENERATED_BASE_ID, bank, terms, CPU, settings, critic=critic)


def _same(a: FitResult, b: FitResult) -> bool:
    first, second = a.sets[0].tensors, b.sets[0].tensors
    return first.keys() == second.keys() and all(
        np.array_equal(tensor.values, second[name].values) and tensor.step == second[name].step
        for name, tensor in first.items()
    )


@pytest.mark.parametrize("name", ["learned", "learned-no-fake", "learned-adversarial"])
def test_a_fit_beside_a_loss_network_gains_by_its_own_measure(
    bank: PatchBank, tmp_path: Path, name: str
) -> None:
    objective = _small((OBJECTIVES | ABLATIONS)[name])
    # Fine steps: beside a generated base the usual ones are coarse, and so few cannot try any out.
    settings = replace(SETTINGS, steps=150, rounding_errors=(0.05,))
    task = _task(bank, objective, settings)
    result = drain(fit(task, Checkpoint(tmp_path / "c"), 10))
    base = get_base(GENERATED_BASE_ID, TINY)
    shown = reconstruct(result.sets[0].tensors, base, TINY)
    # By the settled copy, which is the same for both.
    assert check_loss(task, shown) < 0.8 * check_loss(task, base)
    assert result.choices[0].loss == pytest.approx(check_loss(task, shown))


@pytest.fixture(scope="module")
def whole_fit(bank: PatchBank, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """What a fit ends with that nobody stops."""
    return drain(fit(_task(bank), Checkpoint(tmp_path_factory.mktemp("whole") / "c"), 10))


@pytest.mark.parametrize("stop_after", [20, 40])
def test_a_killed_fit_ends_as_an_uninterrupted_one(
    bank: PatchBank,
    whole_fit: FitResult,
    tmp_path: Path,
    stop_after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed in the float phase and in the rounding phase: the loss network goes on, too."""
    monkeypatch.setattr("codecaux.encoder.loop._CHECKPOINT_SECONDS", 0.0)
    cut = Checkpoint(tmp_path / "cut")
    for event in fit(_task(bank), cut, 10):
        if isinstance(event, Progress) and event.done >= stop_after:
            break
    state = cut.load()
    assert state is not None
    assert state.phase == ("float" if stop_after == 20 else "rounded")
    assert any(name.startswith("adam/") for name in state.critic)
    assert any(name.startswith("judge/") for name in state.critic)
    resumed = drain(fit(_task(bank), cut, 10))
    assert _same(whole_fit, resumed)
    assert resumed.choices[0].loss == whole_fit.choices[0].loss


def test_a_checkpoint_without_a_loss_network_warms_one_up(bank: PatchBank, tmp_path: Path) -> None:
    """LPIPS was at hand when the fit began, and is not when it goes on."""
    checkpoint = Checkpoint(tmp_path / "c")
    plain = _task(bank, OBJECTIVES["fidelity"])
    for event in fit(plain, checkpoint, 10):
        if isinstance(event, Progress) and event.done >= 20:
            break
    task = _task(bank)
    assert task.critic is not None
    assert drain(fit(task, checkpoint, 10)).steps == 40
    assert task.critic.judge is not None


def test_a_loss_network_that_breaks_is_restored_with_the_fit(
    bank: PatchBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = LearnedLoss.learn

    def broken_once(self: LearnedLoss, *arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = real(self, *arguments)  # type: ignore[arg-type]
        if calls == 30:
            with torch.no_grad():
                self.net.classifier.last.bias.fill_(float("nan"))
        return loss

    monkeypatch.setattr(LearnedLoss, "learn", broken_once)
    task = _task(bank)
    events = list(fit(task, Checkpoint(tmp_path / "c"), 10))
    warnings = [e for e in events if isinstance(e, Notice) and e.level != "info"]
    assert ["half the rate" in notice.message for notice in warnings] == [True]
    assert task.critic is not None
    assert task.critic.is_finite
    assert task.critic.optimiser.param_groups[0]["lr"] == pytest.approx(0.5e-3)


def test_a_warm_up_that_diverges_is_said(bank: PatchBank, tmp_path: Path) -> None:
    assert LEARNED.learned is not None
    wild = replace(LEARNED, learned=replace(LEARNED.learned, learning_rate=float("inf")))
    with pytest.raises(FitError, match="while it warmed up"):
        drain(fit(_task(bank, wild), Checkpoint(tmp_path / "c"), 10))


def test_a_picture_too_small_for_a_loss_network_is_refused() -> None:
    def nobody(*arguments: object) -> Lpips:
        raise AssertionError(arguments)

    with pytest.raises(UsageError, match=r"at least 32x32 .* got 64x16"):
        drain(open_goal(OBJECTIVES["learned"], Colour(), (16, 64), 0, CPU, nobody))


def test_timing_leaves_the_loss_network_as_it_was(bank: PatchBank, tmp_path: Path) -> None:
    task = _task(bank, settings=replace(SETTINGS, steps=None, minutes=1e-4))
    assert task.critic is not None
    states = []
    for event in fit(task, Checkpoint(tmp_path / "c"), 10):
        states.append(task.critic.state())
        if isinstance(event, Notice) and "minutes are" in event.message:
            break
    warm = next(state for state in states if any(n.startswith("judge/") for n in state))
    assert warm.keys() == states[-1].keys()
    assert all(torch.equal(value, states[-1][name]) for name, value in warm.items())


# ---------------------------------------------------------------------------------------- encode


def _encode_settings(clip: Path, folder: Path, objective: str) -> EncodeSettings:
    return EncodeSettings(
        input=str(clip),
        output=folder / "title.mp4",
        weights=folder / "title.weights",
        stream=StreamSettings(crf=30, preset="ultrafast"),
        net="tiny",
        fit=FitSettings(steps=20, batch=2, patch=24, objective=objective),
        device="cpu",
        lpips_frames=1,
    )


def test_a_killed_encode_goes_on_with_its_loss_network(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecaux.encoder.loop._CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setitem(OBJECTIVES, "learned", LEARNED)
    (tmp_path / "whole").mkdir()
    whole = drain(encode(_encode_settings(clip, tmp_path / "whole", "learned")))
    settings = _encode_settings(clip, tmp_path, "learned")
    for event in encode(settings):
        if isinstance(event, Progress) and event.stage == "fit" and event.done >= 10:
            break
    events = list(encode(replace(settings, resume=True)))
    # It comes from the checkpoint: there is no second warm-up.
    assert not any("its own loss" in e.message for e in events if isinstance(e, Notice))
    files = [read_weights(path) for path in (whole.weights, settings.weights)]
    assert files[0].metadata.settings["fit"]["objective"] == "learned"  # type: ignore[index,call-overload]
    for record in ("price", "final_loss", "choices"):
        assert files[0].metadata.settings[record] == files[1].metadata.settings[record]
    first, second = (file.sets[0].tensors for file in files)
    assert first.keys() == second.keys()
    assert all(np.array_equal(t.values, second[name].values) for name, t in first.items())


def test_without_lpips_the_default_objective_learns_its_own(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*arguments: object, **options: object) -> Lpips:
        raise LpipsUnavailableError("none here")

    seen: list[FitTask] = []
    monkeypatch.setattr("codecaux.encoder.encode.find_lpips", nowhere)
    small = replace(OBJECTIVES["balanced"], stand_in=LEARNED.learned)
    monkeypatch.setitem(OBJECTIVES, "balanced", small)
    head = HeadStart(watch=seen.append)
    events = list(encode(_encode_settings(clip, tmp_path, "balanced"), head))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert any("stands in for LPIPS" in message for message in said)
    (task,) = seen
    assert isinstance(task.critic, LearnedLoss)
    assert task.terms.objective.detail > 0
    assert len(task.critic.trace) == 20


# -------------------------------------------------------------------------------------- pretrain


def test_pretraining_beside_a_loss_network_resumes_exactly(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecaux.encoder.training_run._CHECK_EVERY", 2)
    monkeypatch.setattr("codecaux.encoder.training_run._CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setitem(OBJECTIVES, "learned", replace(LEARNED, learned=_pretrained()))
    settings = PretrainSettings(
        folders=(photos,),
        output=tmp_path / "whole.safetensors",
        work=tmp_path / "work",
        net="tiny",
        preset="ultrafast",
        steps=6,
        batch=2,
        objective="learned",
        jobs=1,
    )
    events: list[Event] = list(pretrain(settings, CPU, None))
    assert sum("its own loss" in e.message for e in events if isinstance(e, Notice)) == 1
    # The shards are those of the first; the checkpoint has the output's name.
    cut = replace(settings, output=tmp_path / "cut.safetensors")
    for event in pretrain(cut, CPU, None):
        if isinstance(event, Progress) and event.stage == "train" and event.done >= 4:
            break
    assert not cut.output.exists()
    drain(pretrain(cut, CPU, None))
    whole, resumed = (
        parse_base(path.read_bytes()).base.tensors for path in (settings.output, cut.output)
    )
    for name, value in whole.items():
        np.testing.assert_array_equal(value, resumed[name])


def _pretrained() -> LearnedSettings:
    assert LEARNED.learned is not None
    return replace(LEARNED.learned, size=128)
