"""A weights file's sets as float32 weights, each made when it is first needed.

A file may hold a set for every scene of a film. Their integers are small, and the parser has bounds
for them; as floats each would be a whole network. So only the last few networks are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig, parameter_shapes
from codecaux.bases import get_base
from codecaux.metadata import WeightsMetadata
from codecaux.weightsfile import WeightSet, reconstruct

__all__ = ["FloatSet", "float_sets"]

# The shown set, the one it refers to, and a scene's that comes back.
_KEPT_NETWORKS = 4

_Arrays = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]


@dataclass(frozen=True, slots=True, eq=False)
class FloatSet:
    """Merged float32 weights (identity not included) for ``first_frame`` <= index < ``end_frame``
    (None: to the end).
    """

    first_frame: int
    end_frame: int | None
    weights: Mapping[str, Tensor]


def float_sets(sets: Sequence[WeightSet], metadata: WeightsMetadata) -> tuple[FloatSet, ...]:
    """A weights file's integers -> float32 weights, in numpy and so the same for every device.

    WeightsBaseError, at once, where the file's base is not here. Memory: a few networks, whatever
    the number of sets.
    """
    config = metadata.architecture
    base = get_base(metadata.base_id, config, made_by=metadata.created_by)
    networks = _Networks(sets, base, config)
    return tuple(
        FloatSet(s.first_frame, s.end_frame, _Weights(networks, index))
        for index, s in enumerate(sets)
    )


class _Networks:
    """Reconstructs networks by their set's index; keeps the last few."""

    def __init__(self, sets: Sequence[WeightSet], base: _Arrays, config: SrUnetConfig) -> None:
        self.config = config
        self._sets = tuple(sets)
        self._base = base
        self._kept: OrderedDict[int, _Arrays] = OrderedDict()

    def of(self, index: int) -> _Arrays:
        """The weights of set ``index``, made from the nearest kept one that it builds on."""
        chain: list[int] = []
        at: int | None = index
        while at is not None and at not in self._kept:
            chain.append(at)
            at = self._sets[at].reference
        arrays = self._base if at is None else self._kept[at]
        if at is not None:
            self._kept.move_to_end(at)
        for number in reversed(chain):
            arrays = reconstruct(self._sets[number].tensors, arrays, self.config)
            self._kept[number] = arrays
            if len(self._kept) > _KEPT_NETWORKS:
                self._kept.popitem(last=False)
        return arrays


class _Weights(Mapping[str, Tensor]):
    """One set's weights by name."""

    def __init__(self, networks: _Networks, index: int) -> None:
        self._networks = networks
        self._index = index
        self._names = tuple(parameter_shapes(networks.config))

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._networks.of(self._index)[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
