"""The training of a base, whatever its losses: one loop over steps, resumable at any of them.

checkpoint ─> steps ─> sound?  ── yes ──> checkpoint, once a minute ─> ... ─> a base file
                          └─ no, once: back to the checkpoint, half the rate
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig
from codecaux.atomic import write_atomic
from codecaux.bases import Base, base_bytes, parse_base
from codecaux.encoder.divergence import has_diverged
from codecaux.encoder.parameters import FloatParameters
from codecaux.encoder.pretrain_settings import PretrainSettings
from codecaux.encoder.training_state import damaged, read_state, write_state
from codecaux.encoder.unpaired_settings import UnpairedSettings
from codecaux.errors import FitError
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted

__all__ = ["PretrainResult", "TrainingRun"]

_RATE_END = 0.02
_CHECK_EVERY = 20
_CHECKPOINT_SECONDS = 60.0

Settings = TypeVar("Settings", bound=PretrainSettings | UnpairedSettings)


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """Where the base is, its id, the last smoothed loss and how long the steps took."""

    output: Path
    base_id: str
    steps: int
    loss: float
    patches: int
    items: int
    train_seconds: float


class TrainingRun(ABC, Generic[Settings]):
    """Steps of ``settings``, at the end of which ``parameters`` are a base of ``config``.

    The rate warms up over ``warm_up_steps`` and follows a cosine. A subclass says what a step is,
    and which tensors it goes on from beside what is kept here.
    """

    warm_up_steps: ClassVar[int]

    def __init__(
        self, settings: Settings, config: SrUnetConfig, parameters: FloatParameters
    ) -> None:
        self._settings, self._config, self._parameters = settings, config, parameters
        self._checkpoint = settings.work / f"{settings.output.name}.checkpoint"
        self._rate_scale = 1.0
        self._smoothed = math.nan
        self._seconds = 0.0

    @abstractmethod
    def _step(self, index: int) -> Tensor:
        """Make the step ``index``; its loss, a detached scalar."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """All that the training goes on from, by name."""

    @abstractmethod
    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What :meth:`_tensors` gave. Raises KeyError or RuntimeError for anything else."""

    def _ready(self) -> Events[None]:
        """What comes after the checkpoint (or its absence) and before the first step."""
        yield from ()

    def _is_sound(self) -> bool:
        """May the training go on, as far as its losses do not say?"""
        return True

    def _scale_rates(self, scale: float) -> None:
        """Scale the learning rates that :meth:`_rate_at` does not give."""

    def base(self, patches: int, items: int) -> Events[PretrainResult]:
        """Train and write the base file, whole or not at all; then the checkpoint goes.

        Raises FitError on divergence, InputError and UsageError for a checkpoint of no use.
        """
        settings = self._settings
        yield StageStarted("train", settings.steps, "steps")
        started = time.monotonic()
        loss = yield from self.run()
        tensors = {n: v.detach().cpu().numpy() for n, v in self._parameters.merged().items()}
        data = base_bytes(Base(self._config, tensors), {"settings": settings.identity()})
        write_atomic(settings.output, data)
        self._checkpoint.unlink(missing_ok=True)
        yield StageDone("train", time.monotonic() - started)
        return PretrainResult(
            output=settings.output,
            base_id=parse_base(data).base_id,
            steps=settings.steps,
            loss=loss,
            patches=patches,
            items=items,
            train_seconds=self._seconds,
        )

    def run(self) -> Events[float]:
        """All steps from the checkpoint's (or the first); returns the smoothed loss."""
        index = self._load()
        yield from self._ready()
        if index:
            yield Notice(f"going on from step {index}")
        saved_at, losses = time.monotonic(), []
        self._save(index)
        while index < self._settings.steps:
            began = time.monotonic()
            losses.append(self._step(index))
            self._seconds += time.monotonic() - began
            index += 1
            if index % _CHECK_EVERY and index != self._settings.steps:
                continue
            if not self._accept(losses):
                index = yield from self._retry()
                losses = []
                continue
            losses = []
            if time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
                self._save(index)
                saved_at = time.monotonic()
            left = self._seconds / index * (self._settings.steps - index)
            yield Progress("train", index, self._settings.steps, "steps", self._smoothed, left)
        return self._smoothed

    def _rng(self, index: int) -> np.random.Generator:
        """The random choices of a step depend on (seed, step) alone."""
        sequence = np.random.SeedSequence((self._settings.seed, index))
        return np.random.Generator(np.random.PCG64(sequence))

    def _rate_at(self, index: int) -> float:
        cosine = 0.5 * (1.0 + math.cos(math.pi * index / self._settings.steps))
        rate = self._settings.learning_rate * (_RATE_END + (1.0 - _RATE_END) * cosine)
        return rate * min(1.0, (index + 1) / self.warm_up_steps) * self._rate_scale

    def _accept(self, losses: list[Tensor]) -> bool:
        """Fold new losses into the smoothed one; False where the training has diverged."""
        mean = float(torch.stack(losses).mean())
        if has_diverged(mean, self._smoothed) or not self._is_sound():
            return False
        old = self._smoothed
        self._smoothed = mean if math.isnan(old) else 0.95 * old + 0.05 * mean
        return True

    def _retry(self) -> Events[int]:
        """Go back to the checkpoint at half the rate, once; its step."""
        if self._rate_scale < 1.0:
            raise FitError(
                "the training diverged twice: expected a loss that falls, got NaN, infinity or "
                "eight times as much at half the learning rate too; give a lower --learning-rate"
            )
        index = self._load()
        self._rate_scale = 0.5
        self._scale_rates(0.5)
        yield Notice(f"the training diverged; back to step {index}, half the rate", "warning")
        return index

    def _save(self, index: int) -> None:
        record: dict[str, Any] = {
            "step": index,
            "rate_scale": self._rate_scale,
            "loss": self._smoothed,
            "seconds": self._seconds,
            "settings": self._settings.identity(),
        }
        write_state(self._checkpoint, self._tensors(), record)

    def _load(self) -> int:
        """Restore the checkpoint; its step, 0 where there is none."""
        state = read_state(self._checkpoint, self._settings.identity())
        if state is None:
            return 0
        tensors, record = state
        try:
            self._restore(tensors)
        except (KeyError, RuntimeError) as error:
            raise damaged(self._checkpoint, error) from error
        self._rate_scale = record["rate_scale"]
        self._scale_rates(self._rate_scale)
        self._smoothed, self._seconds = record["loss"], record["seconds"]
        return int(record["step"])
