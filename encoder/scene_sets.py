"""A weight set for each scene, where that is worth its bytes.

Every scene starts from the title's shared set and trains on its own patches, rounded from the
first step on. It then takes what costs least of loss x its share of the title + price x bytes: the
shared set as it is, a set that an earlier scene made (a scene that comes back), or its own. Sets
are differences from the shared one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.choices import NumpyWeights, check_loss, weigh
from codecaux.encoder.loop import FitTask, Loop, Span
from codecaux.encoder.parameters import RoundedParameters
from codecaux.encoder.scenes import Scene
from codecaux.events import Events, Notice
from codecaux.quantise import QuantisedTensor
from codecaux.weightsfile import WeightSet, reconstruct

__all__ = ["ScenePlan", "SharedSet", "fit_scenes"]

_MIN_PATCHES = 8


@dataclass(frozen=True, slots=True, eq=False)
class SharedSet:
    """What all scenes start from: its integers, its weights, the quantisation steps."""

    tensors: Mapping[str, QuantisedTensor]
    weights: NumpyWeights
    steps: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """``scenes`` in order, the ``steps`` of each, and where they stand in the fit's ``total``."""

    scenes: tuple[Scene, ...]
    steps: tuple[int, ...]
    offset: int
    total: int


@dataclass(eq=False, slots=True)
class _Kept:
    """A scene's own set."""

    tensors: Mapping[str, QuantisedTensor]
    weights: NumpyWeights


def fit_scenes(
    task: FitTask, shared: SharedSet, plan: ScenePlan, checkpoint: Checkpoint
) -> Events[tuple[WeightSet, ...]]:
    """The title's sets; one alone, for all frames, where no scene earns its own."""
    kept: list[_Kept] = []
    chosen: list[int | None] = []  # index into kept; None: the shared set
    offset = plan.offset
    for number, (scene, steps) in enumerate(zip(plan.scenes, plan.steps, strict=True)):
        span = Span(steps, offset, plan.total)
        own = yield from _fit_scene(task, shared, scene, span, checkpoint.beside(f"scene{number}"))
        chosen.append(_choose(task, shared, scene, kept, own))
        offset += steps
    count = sum(choice is not None for choice in chosen)
    yield Notice(
        f"{count} of {len(chosen)} scenes take a set of their own or an earlier scene's "
        f"({len(kept)} more sets)"
    )
    return _sets(shared, plan.scenes, chosen, kept)


def _fit_scene(
    task: FitTask, shared: SharedSet, scene: Scene, span: Span, checkpoint: Checkpoint
) -> Events[_Kept | None]:
    bank = task.bank.of_frames(*scene)
    if len(bank) < _MIN_PATCHES or not span.steps:
        return None
    device = task.device.torch_device
    start = {name: torch.from_numpy(value).to(device) for name, value in shared.weights.items()}
    parameters = RoundedParameters(start, start, shared.steps)
    own = replace(task, bank=bank, price=task.price / _share(task, scene))
    yield from Loop(own, parameters, "scene", span, checkpoint).run(checkpoint.load())
    tensors = weigh(own, "scene", parameters.quantised(), shared.weights, 0).tensors
    return _Kept(tensors, reconstruct(tensors, shared.weights, task.config))


def _share(task: FitTask, scene: Scene) -> float:
    """The scene's part of the title, by the patches that stand for it evenly."""
    bank = task.check or task.bank
    return max(len(bank.of_frames(*scene)), 1) / max(len(bank), 1)


def _choose(
    task: FitTask, shared: SharedSet, scene: Scene, kept: list[_Kept], own: _Kept | None
) -> int | None:
    """Index into ``kept``, to which ``own`` is added where it is taken; None for the shared set."""
    check = (task.check or task.bank).of_frames(*scene)
    if not len(check):
        return None
    judged = replace(task, check=check, price=task.price / _share(task, scene))
    best: tuple[float, int | None] = (check_loss(judged, shared.weights), None)
    for index, earlier in enumerate(kept):
        cost = check_loss(judged, earlier.weights)
        if cost < best[0]:
            best = (cost, index)
    if own is not None:
        choice = weigh(judged, "scene", own.tensors, shared.weights, 0)
        if choice.cost < best[0]:
            kept.append(own)
            best = (choice.cost, len(kept) - 1)
    return best[1]


def _sets(
    shared: SharedSet,
    scenes: Sequence[Scene],
    chosen: Sequence[int | None],
    kept: Sequence[_Kept],
) -> tuple[WeightSet, ...]:
    """Set 0 is the shared one, for the first scene where that takes it, else for no frame."""
    runs: list[tuple[int, int | None]] = []  # first frame, choice
    for (first, _), choice in zip(scenes, chosen, strict=True):
        if not runs or runs[-1][1] != choice:
            runs.append((first, choice))
    if len(runs) == 1 and runs[0][1] is None:
        return (WeightSet(0, None, shared.tensors),)
    ends: list[int | None] = [first for first, _ in runs[1:]]
    ends.append(None)
    sets: list[WeightSet] = []
    if runs[0][1] is not None:
        sets.append(WeightSet(0, 0, shared.tensors))
    place: dict[int, int] = {}  # index into kept -> index into sets
    for (first, choice), end in zip(runs, ends, strict=True):
        if choice is None:
            is_first = not sets
            tensors, reference = (shared.tensors, None) if is_first else ({}, 0)
        elif choice in place:
            tensors, reference = {}, place[choice]
        else:
            place[choice] = len(sets)
            tensors, reference = kept[choice].tensors, 0
        sets.append(WeightSet(first, end, tensors, reference))
    return tuple(sets)
