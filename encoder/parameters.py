"""What a fit moves: latent tensors, and how they become the network's weights.

The float phase moves the re-parameterised training form; the rounding phase moves the difference
to the base and shows the network the rounded one, straight through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig
from codecaux.network import TrainingForm
from codecaux.quantise import QuantisedTensor

__all__ = ["FloatParameters", "Parameters", "RoundedParameters"]


class Parameters(Protocol):
    """Latent tensors by name, in a fixed order, and the merged weights made of them."""

    @property
    def latents(self) -> dict[str, Tensor]: ...

    def merged(self) -> dict[str, Tensor]:
        """Float32 merged weights without identity, differentiable in the latents."""
        ...


class FloatParameters:
    """The paper's re-parameterised blocks, starting as ``start``."""

    def __init__(self, config: SrUnetConfig, start: Mapping[str, Tensor]) -> None:
        self._form = TrainingForm(config, start)

    @property
    def latents(self) -> dict[str, Tensor]:
        return dict(self._form.kernels.items())

    def merged(self) -> dict[str, Tensor]:
        return self._form.merged()


class RoundedParameters:
    """w = base + d * round(z / d), the gradient passed straight to the latent difference z.

    base, start: merged tensors by name; steps: d of each tensor.
    """

    def __init__(
        self, base: Mapping[str, Tensor], start: Mapping[str, Tensor], steps: Mapping[str, float]
    ) -> None:
        self._base, self._steps = base, steps
        self._latents = {n: (start[n] - base[n]).detach().requires_grad_() for n in base}

    @property
    def latents(self) -> dict[str, Tensor]:
        return self._latents

    def merged(self) -> dict[str, Tensor]:
        return {
            name: self._base[name] + _round_through(z, self._steps[name])
            for name, z in self._latents.items()
        }

    @property
    def steps(self) -> Mapping[str, float]:
        """Quantisation step of every tensor."""
        return self._steps

    def rate_bits(self) -> Tensor:
        """Differentiable estimate of the integers' bits: sum of log2(1 + (z / d)^2) (a Student-t
        code length up to constants: 0 at 0, one bit at 1, about two more per doubling).
        """
        terms = [(z / self._steps[n]).square().log1p().sum() for n, z in self._latents.items()]
        return torch.stack(terms).sum() / 0.6931471805599453

    def quantised(self) -> dict[str, QuantisedTensor]:
        """The integers to be sent."""
        result = {}
        for name, z in self._latents.items():
            integers = (z.detach() / self._steps[name]).round().to(torch.int32).cpu().numpy()
            result[name] = QuantisedTensor(integers, self._steps[name])
        return result


def _round_through(z: Tensor, step: float) -> Tensor:
    """round(z / step) * step forward, identity backward (straight-through estimator)."""
    return z + ((z / step).round() * step - z).detach()
