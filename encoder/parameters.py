"""What a fit moves: latent tensors, and how they become the network's weights.

The float phase moves the re-parameterised training form; the rounding phase moves the difference
to the base and shows the network the rounded one, straight through. Where a title is too short
for all weights, gains and biases alone are moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig, gain_name
from codecaux.colour import Planes
from codecaux.decoder.planes import enhance_next, enhance_planes
from codecaux.network import TrainingForm, with_identity
from codecaux.quantise import QuantisedTensor
from codecaux.recurrent import State
from codecaux.video import Colour

__all__ = ["FloatParameters", "GainParameters", "Parameters", "RoundedParameters", "gained", "show"]

# Of a tensor's integers that are not 0, for what one more costs: nothing is dearer than 9 bits.
_LEAST_PART = 1.0 / 256.0


class Parameters(Protocol):
    """Latent tensors by name, in a fixed order, and the merged weights made of them."""

    @property
    def latents(self) -> dict[str, Tensor]:
        """What is trained, name -> float32 leaf."""
        ...

    def merged(self) -> dict[str, Tensor]:
        """Float32 merged weights without identity, differentiable in the latents."""
        ...

    @property
    def steps(self) -> Mapping[str, float]:
        """Quantisation step of every latent; empty in the float phase."""
        ...

    def rate_bits(self) -> Tensor | None:
        """Differentiable estimate of the bits of what would be sent; None: not known."""
        ...


class FloatParameters:
    """The paper's re-parameterised blocks, starting as ``start`` (None: as ``base``).

    steps: what the merged weights' differences to ``base`` would be rounded to, for the estimate
    of their bits; empty: no estimate.
    """

    def __init__(
        self,
        config: SrUnetConfig,
        base: Mapping[str, Tensor],
        steps: Mapping[str, float] | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._form = TrainingForm(config, base if start is None else start)
        self._base, self._steps = base, steps or {}

    @property
    def latents(self) -> dict[str, Tensor]:
        """The kernels of every block, name -> float32 leaf."""
        return dict(self._form.kernels.items())

    def merged(self) -> dict[str, Tensor]:
        return self._form.merged()

    @property
    def steps(self) -> Mapping[str, float]:
        """Empty: nothing is rounded yet."""
        return {}

    def rate_bits(self) -> Tensor | None:
        if not self._steps:
            return None
        merged = self.merged()
        moved = {name: merged[name] - self._base[name] for name in self._steps}
        return _rate_bits(moved, self._steps)


class _Quantised:
    """Latents by name, each shown rounded to its step: what both rounding phases share."""

    def __init__(self, latents: dict[str, Tensor], steps: Mapping[str, float]) -> None:
        self._latents = {name: z.detach().requires_grad_() for name, z in latents.items()}
        self._steps = steps

    @property
    def latents(self) -> dict[str, Tensor]:
        return self._latents

    @property
    def steps(self) -> Mapping[str, float]:
        """Quantisation step of every latent."""
        return self._steps

    def rate_bits(self) -> Tensor:
        return _rate_bits(self._latents, self._steps)

    def quantised(self) -> dict[str, QuantisedTensor]:
        """The integers to be sent."""
        return {name: _quantised(z, self._steps[name]) for name, z in self._latents.items()}

    def _rounded(self) -> dict[str, Tensor]:
        return {name: _round_through(z, self._steps[name]) for name, z in self._latents.items()}


class RoundedParameters(_Quantised):
    """w = base + d * round(z / d), the gradient passed straight to the latent difference z.

    base, start: merged tensors by name; steps: d of each tensor.
    """

    def __init__(
        self, base: Mapping[str, Tensor], start: Mapping[str, Tensor], steps: Mapping[str, float]
    ) -> None:
        super().__init__({name: start[name] - base[name] for name in base}, steps)
        self._base = base

    def merged(self) -> dict[str, Tensor]:
        return {name: self._base[name] + z for name, z in self._rounded().items()}


class GainParameters(_Quantised):
    """w = base * (1 + gain) for kernels, one gain an output channel, and base + difference for
    biases, all rounded straight through: some thousand numbers instead of all weights.

    base: merged tensors by name; steps: of every gain and every bias.
    """

    def __init__(self, base: Mapping[str, Tensor], steps: Mapping[str, float]) -> None:
        names = {n: gain_name(n) if n.endswith(".weight") else n for n in base}
        super().__init__({names[n]: v.new_zeros(v.shape[0]) for n, v in base.items()}, steps)
        self._base = base

    def merged(self) -> dict[str, Tensor]:
        return gained(self._base, self._rounded())


def gained(base: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``base`` with its kernels' output channels times 1 + gain and its biases moved."""
    result = {}
    for name, value in base.items():
        if name.endswith(".weight"):
            gain = changes[gain_name(name)]
            result[name] = value * (1.0 + gain).reshape(-1, *(1,) * (value.dim() - 1))
        else:
            result[name] = value + changes[name]
    return result


def _rate_bits(latents: Mapping[str, Tensor], steps: Mapping[str, float]) -> Tensor:
    """What one more bit of integers costs, summed: for each tensor w * sum of log2(1 + (z / d)^2),
    a Student-t code length that is 0 at 0, w at 1 and rises by about 2 w per doubling.

    w = 1 + log2((1 - p) / p), of p of the tensor's integers that are not 0, is a sign and what an
    adaptive entropy coder's bits rise by where a 0 becomes a 1: in sparse tensors several bits. Its
    gradient is what matters, not its level.
    """
    terms = []
    for name, z in latents.items():
        relative = z / steps[name]
        terms.append(_bits_of_one(relative.detach()) * relative.square().log1p().sum())
    return torch.stack(terms).sum() / 0.6931471805599453


def _bits_of_one(relative: Tensor) -> Tensor:
    part = (relative.abs() > 0.5).float().mean().clamp(_LEAST_PART, 0.5)
    return 1.0 + torch.log2((1.0 - part) / part)


def _quantised(latent: Tensor, step: float) -> QuantisedTensor:
    integers = (latent.detach() / step).round().to(torch.int32).cpu().numpy()
    return QuantisedTensor(integers, step)


def show(
    coded: Planes,
    merged: Mapping[str, Tensor],
    config: SrUnetConfig,
    colour: Colour,
    dtype: torch.dtype,
    run: int = 1,
) -> Planes:
    """What the player shows for ``coded`` with the weights ``merged`` (without identity), computed
    in ``dtype``. Differentiable in ``merged``. Of two heads, which a patch alone cannot fuse: all
    pictures of the first, then those of the second.

    A recurrent net goes through each ``run`` of pictures in their order, from a start with temporal
    padding; gradients go back to the run's first picture and no further (truncated
    back-propagation through time).
    """
    cast = {
        name: value.to(dtype, memory_format=torch.channels_last)
        if value.dim() == 4
        else value.to(dtype)
        for name, value in with_identity(merged, config).items()
    }
    if run == 1:
        return enhance_planes(coded, cast, config, colour, dtype)[1]
    assert config.is_recurrent, "expected runs of frames for a recurrent network only"
    in_time = [torch.unflatten(plane, 0, (-1, run)) for plane in coded]  # [runs, run, 1, h, w]
    state: State | None = None
    shown: list[Planes] = []
    for at in range(run):
        planes = Planes(*(plane[:, at] for plane in in_time))
        _, enhanced, state = enhance_next(planes, state, cast, config, colour, dtype)
        shown.append(enhanced)
    return Planes(*(torch.stack(steps, 1).flatten(0, 1) for steps in zip(*shown, strict=True)))


def _round_through(z: Tensor, step: float) -> Tensor:
    """round(z / step) * step forward, identity backward (straight-through estimator)."""
    return z + ((z / step).round() * step - z).detach()
