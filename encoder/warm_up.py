"""A critic learns alone on what the starting network shows, before the network moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig
from codecaux.bases import get_base
from codecaux.colour import Planes
from codecaux.device import Device
from codecaux.encoder.bank import PatchBank
from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.critic import Critic, Sample
from codecaux.encoder.loop import FitTask
from codecaux.encoder.parameters import show
from codecaux.errors import FitError
from codecaux.events import Events, Notice

__all__ = ["WarmUp", "ready_critic", "warm_up"]

# Of a step's random numbers, beside the phases of a fit.
_STREAM = 5
_REPORTED_STEPS = 5
# Of the steps of a fit: short ones are not for the critic's sake.
_MOST = 0.2


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How many steps of how many patches, drawn by which seed."""

    steps: int
    seed: int
    batch: int

    def within(self, fit_steps: int | None) -> WarmUp:
        """No more than a fifth of ``fit_steps`` (None: not known)."""
        if fit_steps is None:
            return self
        return replace(self, steps=min(self.steps, math.ceil(_MOST * fit_steps)))


def ready_critic(task: FitTask, checkpoint: Checkpoint) -> Events[None]:
    """See to it that the task's critic, if it has one, can judge: by ``checkpoint``'s state, else
    by a warm-up on what the weights that the fit starts from show.
    """
    critic = task.critic
    if critic is None or critic.judge is not None:
        return
    state = checkpoint.load()
    if state is not None and state.critic:
        critic.restore(state.critic)
        return
    arrays = get_base(task.base_id, task.config) if task.start is None else task.start
    device = task.device.torch_device
    start = {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}
    settings = task.settings
    plan = WarmUp(critic.warm_up, settings.seed, settings.batch).within(settings.steps)
    yield from warm_up(critic, task.bank, start, task.config, task.device, plan)


def warm_up(
    critic: Critic,
    bank: PatchBank,
    start: Mapping[str, Tensor],
    config: SrUnetConfig,
    device: Device,
    plan: WarmUp,
) -> Events[None]:
    """The critic alone learns on random batches, then it settles. FitError where it diverges."""

    @torch.no_grad()
    def generate(coded: Planes) -> Planes:
        return show(coded, start, config, bank.format.colour, device.compute_dtype, bank.run)

    losses: list[Tensor] = []
    for index in range(plan.steps):
        sequence = np.random.SeedSequence((plan.seed, _STREAM, index))
        generator = np.random.Generator(np.random.PCG64(sequence))
        chosen = generator.integers(0, len(bank), max(1, plan.batch // bank.run))
        coded, source = bank.batch(chosen, device.torch_device)
        around = bank.around(chosen, device.torch_device)
        losses.append(critic.learn(Sample(generate(coded), source, around), generate))
    if not critic.is_finite:
        raise FitError(
            f"the loss network diverged while it warmed up ({plan.steps} steps); try another "
            "--seed or --objective fidelity"
        )
    critic.settle()
    if losses:
        first, last = (
            float(torch.stack(part).mean())
            for part in (losses[:_REPORTED_STEPS], losses[-_REPORTED_STEPS:])
        )
        yield Notice(f"loss network: its own loss {first:.3f} to {last:.3f} in {len(losses)} steps")
