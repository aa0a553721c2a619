"""The fit: float phase, choice of the step sizes, rounding phase, choice of what to send.

    base ─ float phase ─> weights ─ probes ─> step sizes ─ rounding phase ─> "difference" ┐
         └ where bytes are dear: gains and biases alone ────────────────> "gains" ────────┼─> least
         └ nothing ─────────────────────────────────────────────────────> "base" ─────────┘
    where there are scenes: each trains on from the shared difference (scene_sets)

Float phase: the re-parameterised network, SOAP, cosine decay, on random patches of the bank.
Step sizes: one per tensor by its Gauss-Newton sensitivity, and a common factor (the rounding
error) that is tried out: a short rounding phase for each, the one with the least loss + price x
bytes goes on. Rounding phase: the network that is shown is always the rounded one (base + step *
integers); the gradient goes straight through the rounding, and the expected bits have their price.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codecaux.bases import get_base
from codecaux.colour import Planes
from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.choices import Choice, NumpyWeights, check_loss, least, luma_rms, weigh
from codecaux.encoder.gauss_newton import sensitivities, step_sizes
from codecaux.encoder.loop import FitTask, Loop, Span
from codecaux.encoder.parameters import (
    FloatParameters,
    GainParameters,
    RoundedParameters,
    gained,
    show,
)
from codecaux.encoder.scene_sets import ScenePlan, SharedSet, fit_scenes
from codecaux.encoder.warm_up import ready_critic
from codecaux.events import Events, Notice
from codecaux.weightsfile import WeightSet, reconstruct

__all__ = ["FitResult", "FitTask", "fit", "stepper"]

_GAUSS_NEWTON_PASSES = 24
_TIMING_STEPS = 12
# Fewer steps than this for a probe decide nothing.
_MIN_PROBE_STEPS = 10
_MAX_PROBES = 4
# RMS in luma of 0..1 below which no title is worth finer steps.
_LEAST_ERROR = 0.5 / 255.0
# Gains and biases are tried where the difference's bytes eat this part of what it gains.
_DEAR = 0.5
# So few numbers cost little: they are rounded more finely than a whole network's.
_GAIN_ERROR = 0.1
_GAIN_SHARE = 0.15
_DIFFERENCE = "difference"


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """The sets to send, how many steps were made, the last smoothed loss, and what was chosen among
    for the whole title (the first of ``choices`` was taken) at which ``price`` of a byte.
    """

    sets: tuple[WeightSet, ...]
    steps: int
    loss: float
    choices: tuple[Choice, ...]
    price: float


@dataclass(frozen=True, slots=True)
class _Plan:
    """Steps of the phases; they add up to ``total``, but for the rarely tried gains. ``shared``
    are those of the set for the whole title, the rest are the scenes'.
    """

    total: int
    shared: int
    float_steps: int
    probe: int
    rounded: int


def fit(task: FitTask, checkpoint: Checkpoint, default_steps: int) -> Events[FitResult]:
    """Run all phases, from ``checkpoint``'s state where it has one. FitError on divergence."""
    start = get_base(task.base_id, task.config)
    base = _to_device(start, task.device.torch_device)
    yield from ready_critic(task, checkpoint)
    state = checkpoint.load()
    if state is None:
        total = yield from _total_steps(task, default_steps)
    else:
        total = state.total_steps
    plan = _plan(task, total)
    if state is None or state.phase == "float":
        warm = None if task.start is None else _to_device(task.start, task.device.torch_device)
        floats = FloatParameters(task.config, base, _first_steps(task, base, start), warm)
        loop = Loop(task, floats, "float", Span(plan.float_steps, 0, total), checkpoint)
        yield from loop.run(state)
        weights = {name: value.detach() for name, value in floats.merged().items()}
        shown = {name: value.cpu().numpy() for name, value in weights.items()}
        yield Notice(
            f"loss on the whole title: {check_loss(task, start):.5f} by the base alone, "
            f"{check_loss(task, shown):.5f} before rounding"
        )
        rounded = yield from _probed(task, base, weights, start, plan)
        state = None
    else:
        rounded = RoundedParameters(base, base, state.step_sizes)
    span = Span(plan.rounded, plan.shared - plan.rounded, total)
    loss = yield from Loop(task, rounded, "rounded", span, checkpoint).run(state)
    choices = yield from _choices(task, rounded, start, base, plan)
    sets: tuple[WeightSet, ...] = (WeightSet(0, None, choices[0].tensors),)
    if len(task.scenes) > 1 and choices[0].name == _DIFFERENCE:
        tensors = choices[0].tensors
        shown = reconstruct(tensors, start, task.config)
        shared = SharedSet(tensors, shown, rounded.steps)
        sets = yield from fit_scenes(task, shared, _scene_plan(task, plan), checkpoint)
    return FitResult(sets, total, loss, choices, task.price)


def _plan(task: FitTask, total: int) -> _Plan:
    settings = task.settings
    shared = total
    if len(task.scenes) > 1:
        shared = max(10, round(total * (1.0 - settings.scene_fraction)))
    rounding = round(shared * settings.rounding_fraction)
    count = min(len(settings.rounding_errors), _MAX_PROBES)
    probe = rounding // (3 * count) if count > 1 else 0
    if probe < _MIN_PROBE_STEPS:
        return _Plan(total, shared, shared - rounding, 0, rounding)
    return _Plan(total, shared, shared - rounding, probe, rounding - probe * count)


def _scene_plan(task: FitTask, plan: _Plan) -> ScenePlan:
    """The steps that are left, shared out by the scenes' lengths."""
    ends = [end for _, end in task.scenes]
    left, frames = plan.total - plan.shared, ends[-1]
    made = [round(left * end / frames) for end in (0, *ends)]
    steps = tuple(b - a for a, b in itertools.pairwise(made))
    return ScenePlan(task.scenes, steps, plan.shared, plan.total)


def _to_device(
    arrays: Mapping[str, npt.NDArray[np.float32]], device: torch.device
) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}


def _total_steps(task: FitTask, default_steps: int) -> Events[int]:
    """The number of steps: as told, or as many as fit the minutes by a short timing run."""
    settings = task.settings
    if settings.minutes is None:
        return settings.steps or default_steps
    critic = None if task.critic is None else task.critic.state()
    step = stepper(task, _TIMING_STEPS)
    step(0)  # the first one also pays for set-up
    start = time.monotonic()
    for index in range(1, _TIMING_STEPS):
        step(index)
    seconds = (time.monotonic() - start) / (_TIMING_STEPS - 1)
    if task.critic is not None and critic is not None:
        task.critic.restore(critic)  # it learns in earnest later
    steps = max(10, round(settings.minutes * 60 / seconds))
    yield Notice(f"{settings.minutes:g} minutes are {steps} steps at {seconds * 1000:.0f} ms each")
    return steps


def stepper(task: FitTask, steps: int) -> Callable[[int], Tensor]:
    """The float phase's step, alone: given 0, 1, ... ``steps`` - 1 it makes that step and returns
    its loss. For timing: nothing is checked or saved.
    """
    base = _to_device(get_base(task.base_id, task.config), task.device.torch_device)
    parameters = FloatParameters(task.config, base)
    return Loop(task, parameters, "float", Span(steps, 0, steps), None).step


# ------------------------------------------------------------------------------------- step sizes


def _probed(
    task: FitTask,
    base: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    start: NumpyWeights,
    plan: _Plan,
) -> Events[RoundedParameters]:
    """Rounded parameters at the rounding error that costs least after a few steps of training."""
    found = _sensitivities(task, weights, lambda leaves: leaves)
    ladder = _ladder(task, start)
    middle = len(ladder) // 2
    if not plan.probe:
        return RoundedParameters(base, weights, _steps(found, weights, ladder[middle]))
    tried: dict[int, tuple[Choice, RoundedParameters]] = {}
    rung: int | None = middle
    while rung is not None and len(tried) < _MAX_PROBES:
        rounded = RoundedParameters(base, weights, _steps(found, weights, ladder[rung]))
        offset = plan.float_steps + len(tried) * plan.probe
        span = Span(plan.probe, offset, plan.total)
        yield from Loop(task, rounded, "probe", span, None).run(None)
        tried[rung] = (weigh(task, _DIFFERENCE, rounded.quantised(), start), rounded)
        rung = _next_rung({at: choice.cost for at, (choice, _) in tried.items()}, len(ladder))
    best = min(tried, key=lambda at: tried[at][0].cost)
    others = ", ".join(
        f"{255 * ladder[at]:.2g}: {c.bytes / 1000:.1f} kB, {c.cost:.5f}"
        for at, (c, _) in sorted(tried.items())
    )
    yield Notice(f"rounding error {255 * ladder[best]:.2g} costs least ({others})")
    return tried[best][1]


def _next_rung(costs: Mapping[int, float], count: int) -> int | None:
    """The next rung of the ladder to try: beside the cheapest so far, coarser first; None where
    both its neighbours are known.
    """
    best = min(costs, key=lambda at: costs[at])
    beside = (at for at in (best + 1, best - 1) if 0 <= at < count and at not in costs)
    return next(beside, None)


def _ladder(task: FitTask, start: NumpyWeights) -> list[float]:
    """The rounding errors to try, RMS in luma of 0..1: parts of what the base leaves to be gained.
    A clean picture needs finer steps than a poor one.
    """
    left = max(luma_rms(task, start), _LEAST_ERROR)
    return [part * left for part in task.settings.rounding_errors]


def _first_steps(
    task: FitTask, base: Mapping[str, Tensor], start: NumpyWeights
) -> dict[str, float]:
    """What the float phase's differences are measured in for their expected bits."""
    if not task.price or not task.settings.rate_weight:
        return {}
    found = _sensitivities(task, base, lambda leaves: leaves)
    ladder = _ladder(task, start)
    return _steps(found, base, ladder[len(ladder) // 2])


def _sensitivities(
    task: FitTask,
    leaves: Mapping[str, Tensor],
    to_merged: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
) -> dict[str, float]:
    """Gauss-Newton sensitivity of the shown luma to every leaf, on patches spread over the bank."""

    def show_luma(planes: Planes, values: Mapping[str, Tensor]) -> Tensor:
        # float32: this is measured once, and bf16 gradients would blur the small tensors.
        colour, merged = task.bank.format.colour, to_merged(values)
        return show(planes, merged, task.config, colour, torch.float32, task.bank.run).y

    count = min(_GAUSS_NEWTON_PASSES // task.bank.run, len(task.bank))
    chosen = np.linspace(0, len(task.bank) - 1, count).round().astype(np.int64)
    inputs = [task.bank.batch(chosen[i : i + 1], task.device.torch_device)[0] for i in range(count)]
    return sensitivities(leaves, show_luma, inputs, task.settings.seed)


def _steps(
    sensitivity: Mapping[str, float], leaves: Mapping[str, Tensor], error: float
) -> dict[str, float]:
    counts = {name: value.numel() for name, value in leaves.items()}
    return step_sizes(sensitivity, counts, error)


# ----------------------------------------------------------------------------------- what to send


def _choices(
    task: FitTask,
    rounded: RoundedParameters,
    start: NumpyWeights,
    base: Mapping[str, Tensor],
    plan: _Plan,
) -> Events[tuple[Choice, ...]]:
    """All that was tried, the cheapest first."""
    difference = weigh(task, _DIFFERENCE, rounded.quantised(), start)
    nothing = weigh(task, "base", {}, start)
    choices = [difference, nothing]
    if difference.cost - difference.loss > _DEAR * (nothing.loss - difference.loss):
        choices.append((yield from _gains(task, base, start, plan)))
    best = least(choices)
    if best is not difference:
        yield Notice(
            f"for so short a title, {best.name} ({best.bytes} bytes) costs less than all weights "
            f"({difference.bytes} bytes)"
        )
    return (best, *(choice for choice in choices if choice is not best))


def _gains(
    task: FitTask, base: Mapping[str, Tensor], start: NumpyWeights, plan: _Plan
) -> Events[Choice]:
    zero = {name: torch.zeros_like(z) for name, z in GainParameters(base, {}).latents.items()}
    found = _sensitivities(task, zero, lambda changes: gained(base, changes))
    ladder = _ladder(task, start)
    error = _GAIN_ERROR * ladder[len(ladder) // 2]
    parameters = GainParameters(base, _steps(found, zero, error))
    steps = max(10, round(_GAIN_SHARE * plan.total))
    span = Span(steps, plan.total, plan.total + steps)
    yield from Loop(task, parameters, "gains", span, None).run(None)
    return weigh(task, "gains and biases", parameters.quantised(), start)
