"""The fit: two phases of one loop, float then rounded, resumable at any step.

Float phase: the re-parameterised network, Adam, cosine decay, on random patches of the bank.
Then one Gauss-Newton step size per tensor. Rounding phase: the network that is shown is always
the rounded one (base + step * integers); the gradient goes straight through the rounding.

Random choices of a step depend on (seed, phase, step) alone, so that a resumed fit draws what an
uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig
from codecaux.bases import get_base
from codecaux.colour import Planes
from codecaux.decoder.enhance import enhance_planes
from codecaux.device import Device
from codecaux.encoder.bank import PatchBank
from codecaux.encoder.checkpoint import Checkpoint, FitState
from codecaux.encoder.gauss_newton import sensitivities, step_sizes
from codecaux.encoder.objective import LossTerms
from codecaux.encoder.parameters import FloatParameters, Parameters, RoundedParameters
from codecaux.encoder.settings import FitSettings
from codecaux.errors import FitError
from codecaux.events import Events, Notice, Progress
from codecaux.network import with_identity
from codecaux.quantise import QuantisedTensor

__all__ = ["FitResult", "FitTask", "fit", "stepper"]

Phase = Literal["float", "rounded"]

_WARM_UP_STEPS = 30
_FLOAT_END = 0.05  # the float phase's last rate, as a fraction of its first
_ADAM_BETAS = (0.9, 0.99)
_GAUSS_NEWTON_PASSES = 24
_CHECK_EVERY = 10
_CHECKPOINT_SECONDS = 20.0
_TIMING_STEPS = 12


@dataclass(frozen=True, slots=True, eq=False)
class FitTask:
    """What is fitted: a network of ``config`` on ``bank``, as a difference from ``base_id``."""

    config: SrUnetConfig
    base_id: str | None
    bank: PatchBank
    terms: LossTerms
    device: Device
    settings: FitSettings


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """The integers to send, how many steps were made and the last smoothed loss."""

    tensors: Mapping[str, QuantisedTensor]
    steps: int
    loss: float


def fit(task: FitTask, checkpoint: Checkpoint, default_steps: int) -> Events[FitResult]:
    """Run both phases, from ``checkpoint``'s state where it has one. FitError on divergence."""
    base = _to_device(get_base(task.base_id, task.config), task.device.torch_device)
    state = checkpoint.load()
    if state is None:
        total = yield from _total_steps(task, default_steps)
    else:
        total = state.total_steps
    rounding = round(total * task.settings.rounding_fraction)

    if state is None or state.phase == "float":
        floats = FloatParameters(task.config, base)
        loop = _Loop(task, floats, "float", total - rounding, total, checkpoint)
        yield from loop.run(state)
        weights = {name: value.detach() for name, value in floats.merged().items()}
        steps = _steps(task, weights)
        rounded, state = RoundedParameters(base, weights, steps), None
    else:
        rounded = RoundedParameters(base, base, state.step_sizes)
    loop = _Loop(task, rounded, "rounded", rounding, total, checkpoint, offset=total - rounding)
    loss = yield from loop.run(state)
    return FitResult(rounded.quantised(), total, loss)


def _to_device(
    arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]], device: torch.device
) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}


def _total_steps(task: FitTask, default_steps: int) -> Events[int]:
    """The number of steps: as told, or as many as fit the minutes by a short timing run."""
    settings = task.settings
    if settings.minutes is None:
        return settings.steps or default_steps
    step = stepper(task, _TIMING_STEPS)
    step(0)  # the first one also pays for set-up
    start = time.monotonic()
    for index in range(1, _TIMING_STEPS):
        step(index)
    seconds = (time.monotonic() - start) / (_TIMING_STEPS - 1)
    steps = max(10, round(settings.minutes * 60 / seconds))
    yield Notice(f"{settings.minutes:g} minutes are {steps} steps at {seconds * 1000:.0f} ms each")
    return steps


def stepper(task: FitTask, steps: int) -> Callable[[int], Tensor]:
    """The float phase's step, alone: given 0, 1, ... ``steps`` - 1 it makes that step and returns
    its loss. For timing: nothing is checked or saved.
    """
    base = _to_device(get_base(task.base_id, task.config), task.device.torch_device)
    return _Loop(task, FloatParameters(task.config, base), "float", steps, steps, None).step


def _steps(task: FitTask, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Gauss-Newton step size of every tensor, on patches spread over the bank."""

    def show_luma(planes: Planes, merged: Mapping[str, Tensor]) -> Tensor:
        # float32: this is measured once, and bf16 gradients would blur the small tensors.
        full = with_identity(merged, task.config)
        colour = task.bank.format.colour
        return enhance_planes(planes, full, task.config, colour, torch.float32)[1].y

    count = min(_GAUSS_NEWTON_PASSES, len(task.bank))
    chosen = np.linspace(0, len(task.bank) - 1, count).round().astype(np.int64)
    inputs = [task.bank.batch(chosen[i : i + 1], task.device.torch_device)[0] for i in range(count)]
    found = sensitivities(weights, show_luma, inputs, task.settings.seed)
    counts = {name: value.numel() for name, value in weights.items()}
    return step_sizes(found, counts, task.settings.rounding_error / 255.0)


class _Loop:
    """One phase: the optimiser, its schedule, checkpoints and the retry after a divergence."""

    def __init__(
        self,
        task: FitTask,
        parameters: Parameters,
        phase: Phase,
        steps: int,
        total_steps: int,
        checkpoint: Checkpoint | None,
        offset: int = 0,
    ) -> None:
        self._task, self._parameters, self._phase = task, parameters, phase
        self._steps, self._total, self._offset = steps, total_steps, offset
        self._checkpoint = checkpoint
        settings = task.settings
        is_float = phase == "float"
        self._rate = settings.learning_rate if is_float else settings.rounding_learning_rate
        self._rate_end = _FLOAT_END if is_float else 0.0
        self._rate_scale = 1.0
        latents = list(parameters.latents.values())
        self._optimiser = torch.optim.Adam(latents, lr=self._rate, betas=_ADAM_BETAS, foreach=True)
        self._smoothed = math.nan

    def run(self, state: FitState | None) -> Events[float]:
        """All steps from ``state``'s (or from the first); returns the smoothed loss."""
        first = self._restore(state) if state is not None else 0
        good = self._snapshot(first)
        saved_at = start = time.monotonic()
        losses: list[Tensor] = []
        index = first
        while index < self._steps:
            losses.append(self.step(index))
            index += 1
            if index % _CHECK_EVERY and index != self._steps:
                continue
            if not self._accept(losses):
                index = yield from self._retry(good)
                losses = []
                continue
            losses = []
            if time.monotonic() - saved_at > _CHECKPOINT_SECONDS or index == self._steps:
                good, saved_at = self._snapshot(index), time.monotonic()
                self._save(good)
            done = self._offset + index
            left = (time.monotonic() - start) / (index - first) * (self._total - done)
            yield Progress("fit", done, self._total, "steps", self._smoothed, left)
        return self._smoothed

    def step(self, index: int) -> Tensor:
        """One step of Adam; returns its loss, detached."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate_at(index)
        coded, source = self._batch(index)
        loss = self._loss(coded, source)
        self._optimiser.zero_grad(set_to_none=True)
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError as error:
            raise FitError(f"the device ran out of memory; use a smaller net: {error}") from error
        self._optimiser.step()
        return loss.detach()

    def _batch(self, index: int) -> tuple[Planes, Planes]:
        settings = self._task.settings
        key = (settings.seed, 0 if self._phase == "float" else 1, index)
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
        indices = generator.integers(0, len(self._task.bank), settings.batch)
        return self._task.bank.batch(indices, self._task.device.torch_device)

    def _loss(self, coded: Planes, source: Planes) -> Tensor:
        task = self._task
        weights = with_identity(self._parameters.merged(), task.config)
        dtype = task.device.compute_dtype
        cast = {
            name: value.to(dtype, memory_format=torch.channels_last)
            if value.dim() == 4
            else value.to(dtype)
            for name, value in weights.items()
        }
        shown = enhance_planes(coded, cast, task.config, task.bank.format.colour, dtype)[1]
        loss = task.terms(shown, source)
        if task.settings.rate_weight and isinstance(self._parameters, RoundedParameters):
            loss = loss + task.settings.rate_weight * self._parameters.rate_bits()
        return loss

    def _rate_at(self, index: int) -> float:
        """Linear warm-up (float phase only), then a cosine from the first to the last rate."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * index / max(self._steps, 1)))
        rate = self._rate * (self._rate_end + (1.0 - self._rate_end) * cosine)
        warm = min(1.0, (index + 1) / _WARM_UP_STEPS) if self._phase == "float" else 1.0
        return rate * warm * self._rate_scale

    def _accept(self, losses: list[Tensor]) -> bool:
        """Fold new losses into the smoothed one; False where one is not finite."""
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            return False
        old = self._smoothed
        self._smoothed = mean if math.isnan(old) else 0.8 * old + 0.2 * mean
        return True

    def _retry(self, good: FitState) -> Events[int]:
        """Go back to the last good state at half the rate, once."""
        if self._rate_scale < 1.0:
            raise FitError(
                f"the fit diverged twice ({self._phase} phase): expected a finite loss, got NaN or "
                "infinity at half the learning rate too; try another --seed or --objective fidelity"
            )
        index = self._restore(good)
        self._rate_scale = 0.5
        yield Notice(
            "the fit diverged; going on from its last good state, half the rate", "warning"
        )
        return index

    def _snapshot(self, index: int) -> FitState:
        latents = self._parameters.latents
        moments: dict[str, tuple[Tensor, Tensor]] = {}
        for name, latent in latents.items():
            state = self._optimiser.state.get(latent)
            if state:
                moments[name] = (state["exp_avg"].clone(), state["exp_avg_sq"].clone())
        sizes = self._parameters.steps if isinstance(self._parameters, RoundedParameters) else {}
        return FitState(
            phase=self._phase,
            step=index,
            total_steps=self._total,
            rate_scale=self._rate_scale,
            latents={name: latent.detach().clone() for name, latent in latents.items()},
            moments=moments,
            step_sizes=dict(sizes),
        )

    def _restore(self, state: FitState) -> int:
        with torch.no_grad():
            for name, latent in self._parameters.latents.items():
                latent.copy_(state.latents[name])
                self._optimiser.state.pop(latent, None)
                if name in state.moments:
                    first, second = (m.clone().to(latent) for m in state.moments[name])
                    step = torch.tensor(float(state.step))
                    self._optimiser.state[latent] = {
                        "step": step,
                        "exp_avg": first,
                        "exp_avg_sq": second,
                    }
        self._rate_scale = state.rate_scale
        return state.step

    def _save(self, state: FitState) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save(state)
