"""What to send: the choice among weight sets by loss + price x bytes, in the fit's own currency.

The loss is the objective's mean over patches that stand for the whole title evenly, of what the
player would show with exactly those integers; bytes are those of the set compressed by itself; the
price is what a byte of stream would save (:mod:`codecaux.encoder.price`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from codecaux.architecture import SrUnetConfig, coded_shapes
from codecaux.colour import Planes
from codecaux.container import Archive, compress, serialise_archive
from codecaux.encoder.bank import Around
from codecaux.encoder.loop import FitTask
from codecaux.encoder.parameters import show
from codecaux.quantise import QuantisedTensor
from codecaux.weightsfile import WeightSet, reconstruct, set_arrays

__all__ = ["Choice", "NumpyWeights", "check_loss", "least", "luma_rms", "set_bytes", "weigh"]

NumpyWeights = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
Tensors = Mapping[str, QuantisedTensor]

_CHECK_PATCHES = 64
_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One way to send a set. ``cost`` = ``loss`` + price x ``bytes``; the least is taken."""

    name: str
    tensors: Tensors
    loss: float
    bytes: int
    cost: float


def set_bytes(tensors: Tensors, config: SrUnetConfig, reference: int | None = None) -> int:
    """Bytes of a set compressed by itself, without metadata; 0 where it holds nothing."""
    if not tensors:
        return 0
    arrays = set_arrays(WeightSet(0, None, tensors, reference), config)
    return len(compress(serialise_archive(Archive({}, arrays))))


def check_loss(task: FitTask, weights: NumpyWeights) -> float:
    """The objective's mean over the check patches, in the type that the player computes in."""
    return _mean_over_check(task, weights, task.judged)


def luma_rms(task: FitTask, weights: NumpyWeights) -> float:
    """RMS error of the shown luma (0..1) over the check patches; of two heads the first one's."""
    return math.sqrt(_mean_over_check(task, weights, _luma_error))


def _luma_error(shown: Planes, source: Planes, _: Around | None) -> torch.Tensor:
    return (shown.y[: len(source.y)] - source.y).square().mean()


def _mean_over_check(
    task: FitTask,
    weights: NumpyWeights,
    distance: Callable[[Planes, Planes, Around | None], torch.Tensor],
) -> float:
    bank = task.check or task.bank
    count = len(bank) if task.check is not None else min(len(bank), _CHECK_PATCHES // bank.run)
    batch = max(1, _BATCH // bank.run)
    device = task.device.torch_device
    merged = {name: torch.from_numpy(value).to(device) for name, value in weights.items()}
    total = 0.0
    with torch.no_grad():
        for first in range(0, count, batch):
            indices = np.arange(first, min(first + batch, count))
            coded, source = bank.batch(indices, device)
            colour, dtype = bank.format.colour, task.device.compute_dtype
            shown = show(coded, merged, task.config, colour, dtype, bank.run)
            around = bank.around(indices, device)
            total += float(distance(shown, source, around)) * len(indices)
    return total / count


def weigh(
    task: FitTask, name: str, tensors: Tensors, start: NumpyWeights, reference: int | None = None
) -> Choice:
    """The choice that sends ``tensors`` on top of ``start``."""
    kept = {key: t for key, t in tensors.items() if np.any(t.values)}
    # In the file's order, so that equal choices are equal bytes.
    ordered = {key: kept[key] for key in coded_shapes(task.config) if key in kept}
    loss = check_loss(task, reconstruct(ordered, start, task.config))
    size = set_bytes(ordered, task.config, reference)
    return Choice(name, ordered, loss, size, loss + task.price * size)


def least(choices: Sequence[Choice]) -> Choice:
    """The cheapest; of equals the one with fewer bytes."""
    return min(choices, key=lambda choice: (choice.cost, choice.bytes))
