"""One phase of a fit: the optimiser, its schedule, checkpoints and the retry after a divergence.

Random choices of a step depend on (seed, phase, step) alone, so that a resumed fit draws what an
uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig
from codecaux.colour import Planes
from codecaux.device import Device
from codecaux.encoder.bank import Around, PatchBank
from codecaux.encoder.checkpoint import Checkpoint, FitState, Phase
from codecaux.encoder.critic import Critic, Sample
from codecaux.encoder.divergence import has_diverged
from codecaux.encoder.objective import LossTerms
from codecaux.encoder.parameters import Parameters, show
from codecaux.encoder.scenes import Scene
from codecaux.encoder.settings import FitSettings
from codecaux.encoder.soap import Soap
from codecaux.errors import FitError
from codecaux.events import Events, Notice, Progress

__all__ = ["FitTask", "Loop", "Span"]

_WARM_UP_STEPS = 30
# Of the float phase's rate, for a recurrent net: its errors grow along a run of frames, and a
# training at a good third of the rate exploded (F39 in docs/experiments.md).
_RECURRENT_SHARE = 0.25
_FLOAT_END = 0.05  # the float phase's last rate, as a fraction of its first
_CHECK_EVERY = 10
_CHECKPOINT_SECONDS = 20.0
# Of a step's random numbers; 0 and 1 are what they were before there were others.
_STREAMS: dict[Phase, int] = {"float": 0, "rounded": 1, "probe": 2, "gains": 3, "scene": 4}


@dataclass(frozen=True, slots=True, eq=False)
class FitTask:
    """What is fitted: a network of ``config`` on ``bank``, as a difference from ``base_id``.

    ``check``: patches that stand for the whole title evenly, on which choices are compared (None:
    the first of ``bank``). ``price``: loss that one more byte of stream would save, what a byte of
    weights has to be worth (0: bytes cost nothing). ``scenes``: ranges of frames that may have sets
    of their own, where there are two or more. ``start``: merged weights that the float phase starts
    from (None: the base's); what is sent stays the difference to the base. ``critic``: learns
    beside the network and adds its term; ``bank`` and ``check`` need to have what it asks for.
    """

    config: SrUnetConfig
    base_id: str | None
    bank: PatchBank
    terms: LossTerms
    device: Device
    settings: FitSettings
    check: PatchBank | None = None
    price: float = 0.0
    scenes: tuple[Scene, ...] = ()
    start: Mapping[str, npt.NDArray[np.float32]] | None = None
    critic: Critic | None = None

    def judged(self, shown: Planes, source: Planes, around: Around | None) -> Tensor:
        """The objective as choices are judged by it: the same from the first step to the last."""
        loss = self.terms(shown, source)
        if self.critic is None:
            return loss
        return loss + self.critic.judged(Sample(shown, source, around))


@dataclass(frozen=True, slots=True)
class Span:
    """A phase's ``steps`` within the fit: ``offset`` were made before it, ``total`` are in all."""

    steps: int
    offset: int
    total: int


class Loop:
    """Runs ``parameters`` through one phase. Without ``checkpoint`` nothing is saved."""

    def __init__(
        self,
        task: FitTask,
        parameters: Parameters,
        phase: Phase,
        span: Span,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._task, self._parameters, self._phase = task, parameters, phase
        self._steps, self._total, self._offset = span.steps, span.total, span.offset
        self._checkpoint = checkpoint
        # Where little changes the critic stays as it is: a checkpoint for every scene with a critic
        # in it would be large.
        self._learner = None if phase in ("gains", "scene") else task.critic
        settings = task.settings
        is_first = phase in ("float", "gains")
        self._rate = settings.learning_rate if is_first else settings.rounding_learning_rate
        self._rate_end = _FLOAT_END if phase == "float" else 0.0
        if is_first and task.config.is_recurrent:
            self._rate *= _RECURRENT_SHARE
        self._rate_scale = 1.0
        self._optimiser = Soap(parameters.latents)
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
        """One step of the optimiser; returns its loss, detached."""
        coded, source, around = self._batch(index)
        sample = Sample(self._shown(coded), source, around)
        loss = self._loss(sample)
        self._optimiser.zero_grad()
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError as error:
            raise FitError(f"the device ran out of memory; use a smaller net: {error}") from error
        self._optimiser.step(self._rate_at(index))
        if self._learner is not None:
            self._learner.learn(sample, torch.no_grad()(self._shown))
        return loss.detach()

    def _batch(self, index: int) -> tuple[Planes, Planes, Around | None]:
        settings = self._task.settings
        key = (settings.seed, _STREAMS[self._phase], index)
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
        bank, device = self._task.bank, self._task.device.torch_device
        indices = generator.integers(0, len(bank), max(1, settings.batch // bank.run))
        coded, source = bank.batch(indices, device)
        return coded, source, bank.around(indices, device)

    def _shown(self, coded: Planes) -> Planes:
        task = self._task
        colour, dtype = task.bank.format.colour, task.device.compute_dtype
        merged = self._parameters.merged()
        return show(coded, merged, task.config, colour, dtype, task.bank.run)

    def _loss(self, sample: Sample) -> Tensor:
        task = self._task
        loss = task.terms(sample.shown, sample.source)
        if task.critic is not None:
            loss = loss + task.critic.loss(sample)
        per_bit = task.settings.rate_weight * task.price / 8.0
        bits = self._parameters.rate_bits() if per_bit else None
        return loss if bits is None else loss + per_bit * bits

    def _rate_at(self, index: int) -> float:
        """Linear warm-up (float phase only), then a cosine from the first to the last rate."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * index / max(self._steps, 1)))
        rate = self._rate * (self._rate_end + (1.0 - self._rate_end) * cosine)
        warm = min(1.0, (index + 1) / _WARM_UP_STEPS) if self._phase == "float" else 1.0
        return rate * warm * self._rate_scale

    def _accept(self, losses: list[Tensor]) -> bool:
        """Fold new losses into the smoothed one; False where they or the critic went astray."""
        mean = float(torch.stack(losses).mean())
        if has_diverged(mean, self._smoothed):
            return False
        if self._learner is not None and not self._learner.is_finite:
            return False
        old = self._smoothed
        self._smoothed = mean if math.isnan(old) else 0.8 * old + 0.2 * mean
        return True

    def _retry(self, good: FitState) -> Events[int]:
        """Go back to the last good state at half the rate, once."""
        if self._rate_scale < 1.0:
            raise FitError(
                f"the fit diverged twice ({self._phase} phase): expected a loss that falls, got "
                "NaN, infinity or eight times as much at half the learning rate too; try another "
                "--seed or --objective fidelity"
            )
        index = self._restore(good)
        self._rate_scale = 0.5
        if self._learner is not None:
            self._learner.scale_rate(0.5)
        yield Notice(
            "the fit diverged; going on from its last good state, half the rate", "warning"
        )
        return index

    def _snapshot(self, index: int) -> FitState:
        latents = self._parameters.latents
        return FitState(
            phase=self._phase,
            step=index,
            total_steps=self._total,
            rate_scale=self._rate_scale,
            latents={name: latent.detach().clone() for name, latent in latents.items()},
            optimiser=self._optimiser.state(),
            step_sizes=dict(self._parameters.steps),
            critic={} if self._learner is None else self._learner.state(),
        )

    def _restore(self, state: FitState) -> int:
        with torch.no_grad():
            for name, latent in self._parameters.latents.items():
                latent.copy_(state.latents[name])
        self._optimiser.restore(state.optimiser)
        self._rate_scale = state.rate_scale
        if self._learner is not None and state.critic:
            self._learner.restore(state.critic)
            self._learner.scale_rate(state.rate_scale)
        return state.step

    def _save(self, state: FitState) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save(state)
