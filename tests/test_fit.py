"""The fit: it improves the picture, resumes exactly, and says so when it diverges."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from codecaux.architecture import net_config
from codecaux.bases import GENERATED_BASE_ID, get_base
from codecaux.colour import Planes
from codecaux.decoder.planes import enhance_planes
from codecaux.device import choose_device
from codecaux.encoder.bank import BankSettings, PatchBank
from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.divergence import has_diverged
from codecaux.encoder.fit import FitResult, FitTask, fit
from codecaux.encoder.gauss_newton import sensitivities, step_sizes
from codecaux.encoder.objective import OBJECTIVES, LossTerms, charbonnier
from codecaux.encoder.parameters import RoundedParameters
from codecaux.encoder.settings import FitSettings
from codecaux.errors import FitError, InputError, UsageError
from codecaux.events import Event, Notice, Progress, drain
from codecaux.network import with_identity
from codecaux.weightsfile import reconstruct
from stripes import stripe_bank

TINY = net_config("tiny", Fraction(2))
SETTINGS = FitSettings(steps=60, batch=4, patch=24, objective="fidelity", seed=3)


@pytest.fixture(scope="module")
def bank() -> PatchBank:
    return stripe_bank(4, BankSettings(patch=24))


def _task(bank: PatchBank, settings: FitSettings = SETTINGS) -> FitTask:
    terms = LossTerms(OBJECTIVES[settings.objective], bank.format.colour, None)
    # float32: a golden comparison of two runs must not hang on the machine's bf16.
    device = replace(choose_device("cpu"), compute_dtype=torch.float32)
    return FitTask(TINY, GENERATED_BASE_ID, bank, terms, device, settings)


def _error(task: FitTask, result: FitResult) -> tuple[float, float]:
    """Luma distance of (bicubic, enhanced) to the source over the bank."""
    indices = np.arange(len(task.bank))
    coded, source = task.bank.batch(indices, torch.device("cpu"))
    base = get_base(GENERATED_BASE_ID, TINY)
    shown = reconstruct(result.sets[0].tensors, base, TINY)
    merged = {name: torch.from_numpy(value) for name, value in shown.items()}
    weights = with_identity(merged, TINY)
    with torch.no_grad():
        pair = enhance_planes(coded, weights, TINY, task.bank.format.colour, torch.float32)
    plain, enhanced = (charbonnier(planes.y, source.y).item() for planes in pair)
    return plain, enhanced


def test_the_rounded_network_beats_bicubic(bank: PatchBank, tmp_path: Path) -> None:
    task = _task(bank, replace(SETTINGS, steps=150, learning_rate=4e-3))
    result = drain(fit(task, Checkpoint(tmp_path / "c"), 10))
    plain, enhanced = _error(task, result)
    assert enhanced < 0.8 * plain
    assert result.steps == 150
    assert any(np.any(q.values) for q in result.sets[0].tensors.values())


@pytest.mark.parametrize("stop_after", [20, 50])
def test_a_killed_fit_ends_as_an_uninterrupted_one(
    bank: PatchBank, tmp_path: Path, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the float phase (20 of 42 steps) and in the rounding phase (50 of 60)."""
    monkeypatch.setattr("codecaux.encoder.loop._CHECKPOINT_SECONDS", 0.0)
    whole = drain(fit(_task(bank), Checkpoint(tmp_path / "whole"), 10))
    cut = Checkpoint(tmp_path / "cut")
    for event in fit(_task(bank), cut, 10):
        if isinstance(event, Progress) and event.done >= stop_after:
            break
    state = cut.load()
    assert state is not None
    assert state.phase == ("float" if stop_after == 20 else "rounded")
    resumed = drain(fit(_task(bank), cut, 10))
    expected, got = whole.sets[0].tensors, resumed.sets[0].tensors
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensor.values, got[name].values)
        assert tensor.step == got[name].step


def test_minutes_become_steps(bank: PatchBank, tmp_path: Path) -> None:
    task = _task(bank, replace(SETTINGS, steps=None, minutes=0.03))
    events: list[Event] = []
    generator = fit(task, Checkpoint(tmp_path / "c"), 10)
    try:
        while True:
            events.append(next(generator))
    except StopIteration as stop:
        result: FitResult = stop.value
    assert result.steps >= 10
    assert any(isinstance(e, Notice) and f"{result.steps} steps" in e.message for e in events)


def test_divergence_is_retried_once_then_an_error(
    bank: PatchBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def poisoned(self: LossTerms, shown: Planes, source: Planes) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return shown.y.sum() * (float("nan") if calls > 12 else 0.0)

    monkeypatch.setattr(LossTerms, "__call__", poisoned)
    events: list[Event] = []
    with pytest.raises(FitError, match="diverged twice"):
        events.extend(fit(_task(bank), Checkpoint(tmp_path / "c"), 10))
    assert calls > 20


@pytest.mark.parametrize(
    ("factor", "first", "count"),
    [(float("nan"), 25, 1), (1e3, 15, 5)],
    ids=["nan", "exploding, need not come to infinity first"],
)
def test_bad_steps_are_gone_back_from(
    factor: float,
    first: int,
    count: int,
    bank: PatchBank,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    real = LossTerms.__call__

    def spoilt(self: LossTerms, shown: Planes, source: Planes) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(self, shown, source) * (factor if first <= calls < first + count else 1.0)

    monkeypatch.setattr(LossTerms, "__call__", spoilt)
    notices = [e for e in fit(_task(bank), Checkpoint(tmp_path / "c"), 10) if isinstance(e, Notice)]
    (warning,) = [notice for notice in notices if notice.level != "info"]
    assert warning.level == "warning"
    assert "half the rate" in warning.message


def test_a_damaged_checkpoint_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "c"
    assert Checkpoint(path).load() is None
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="without --resume"):
        Checkpoint(path).load()


def test_steps_and_minutes_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="both"):
        FitSettings(steps=10, minutes=1.0)


def test_sensitivity_of_a_linear_picture_is_exact() -> None:
    """o = a * x + b * 3: g_a is the mean of x^2 and g_b is 9, whatever the noise drawn."""
    x = torch.rand(1, 1, 64, 64)
    planes = [Planes(x, x, x)] * 64

    def show(p: Planes, w: object) -> torch.Tensor:
        assert isinstance(w, dict)
        return w["a"] * p.y + w["b"] * 3.0 * torch.ones_like(p.y)

    # One weight per tensor: E[(v . x)^2] / pixels, over 64 draws.
    found = sensitivities({"a": torch.zeros(()), "b": torch.zeros(())}, show, planes, 0)
    # The estimate's relative deviation is sqrt(2 / 64) = 0.18.
    assert found["a"] == pytest.approx(x.square().mean().item(), rel=0.6)
    assert found["b"] == pytest.approx(9.0, rel=0.6)


def test_steps_share_the_error_equally() -> None:
    steps = step_sizes({"a": 4.0, "b": 0.01, "c": 0.0}, {"a": 10, "b": 990, "c": 1}, 0.01)
    total = sum(n * g * steps[t] ** 2 / 12 for t, n, g in (("a", 10, 4.0), ("b", 990, 0.01)))
    # 1000 of the 1001 weights show anything at all.
    assert total == pytest.approx(0.01**2 * 1000 / 1001, rel=1e-4)
    assert steps["b"] == pytest.approx(20 * steps["a"], rel=1e-5)
    assert steps["c"] == steps["b"]
    assert float(np.float32(steps["a"])) == steps["a"]


def test_rounding_passes_gradients_straight_through() -> None:
    base = {"a": torch.zeros(4)}
    start = {"a": torch.tensor([0.04, 0.06, -0.16, 0.2])}
    rounded = RoundedParameters(base, start, {"a": float(np.float32(0.1))})
    merged = rounded.merged()["a"]
    torch.testing.assert_close(merged, torch.tensor([0.0, 0.1, -0.2, 0.2]))
    (merged * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    torch.testing.assert_close(rounded.latents["a"].grad, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert rounded.quantised()["a"].values.tolist() == [0, 1, -2, 2]


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3])
def test_expected_bits_rise_as_an_entropy_coders_do(part: float) -> None:
    """One more +-1 among the zeros costs what it adds to the entropy, and its sign."""
    count = 20_000
    ones = round(part * count)

    def expected(nonzero: int) -> float:
        values = torch.zeros(count)
        values[:nonzero] = 0.25
        rounded = RoundedParameters({"t": torch.zeros(count)}, {"t": values}, {"t": 0.25})
        return float(rounded.rate_bits().detach())

    def coded(nonzero: int) -> float:
        p = nonzero / count
        return count * -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) + nonzero

    # The weight follows the part, so a single step at one weight is looked at.
    marginal = expected(ones) / ones
    assert marginal == pytest.approx(coded(ones + 1) - coded(ones), rel=0.01)


def test_a_warm_start_goes_on_from_there_and_sends_the_difference_to_the_base(
    bank: PatchBank, tmp_path: Path
) -> None:
    cold = _task(bank, replace(SETTINGS, steps=100, learning_rate=4e-3))
    first = drain(fit(cold, Checkpoint(tmp_path / "first"), 10))
    base = get_base(GENERATED_BASE_ID, TINY)
    start = reconstruct(first.sets[0].tensors, base, TINY)
    few = replace(SETTINGS, steps=20)
    from_base = drain(fit(_task(bank, few), Checkpoint(tmp_path / "base"), 10))
    warm = drain(fit(replace(_task(bank, few), start=start), Checkpoint(tmp_path / "warm"), 10))
    errors = [_error(cold, result)[1] for result in (from_base, warm)]
    # 20 steps from the base are far from the 100 that the warm start has behind it.
    assert errors[1] < 0.9 * errors[0]
    shown = reconstruct(warm.sets[0].tensors, base, TINY)
    name = max(start, key=lambda name: float(np.square(start[name] - base[name]).sum()))
    assert np.square(shown[name] - start[name]).sum() < np.square(shown[name] - base[name]).sum()


@pytest.mark.parametrize(
    ("mean", "smoothed", "expected"),
    [
        (math.nan, 0.04, True),
        (math.inf, math.nan, True),
        (0.9, math.nan, False),  # nothing to compare with yet
        (0.9, 0.04, True),
        (0.4, 0.01, False),  # hard scenes after easy ones
        (3.0, 1.0, False),
    ],
)
def test_what_counts_as_divergence(mean: float, smoothed: float, expected: bool) -> None:
    assert has_diverged(mean, smoothed) is expected
