"""SOAP: Adam in the eigenbasis of Shampoo's factors, for the kernels of small networks.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024, algorithm 3. Of a kernel's
gradient G [out, in, kh, kw], read as three modes (out, in, kh kw), each mode k has a factor and an
orthogonal basis, near that factor's eigenvectors::

    G'    = G x_1 Q_1^T x_2 Q_2^T x_3 Q_3^T           G in the bases
    M    <- b1 M + (1 - b1) G'                        Adam's moments, both in the bases
    V    <- b2 V + (1 - b2) G' * G'
    W    <- W - rate * back(M / sqrt(V))              with Adam's bias corrections
    L_k  <- s L_k + (1 - s) G_(k) G_(k)^T             G_(k): the unfolding of mode k, [n_k, rest]
    Q_k  <- QR(L_k Q_k)                               every ten steps: one power iteration;
                                                      M is taken from the old bases to the new

Biases are Adam's alone. The kernels have at most some hundred channels, so all this is some per
cent of a step's time (docs/experiments.md has what it brings).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Soap"]

_BETAS = (0.9, 0.99)
_FACTOR_BETA = 0.95
_EPSILON = 1e-8
_REFRESH_STEPS = 10
_FIRST, _SECOND, _FACTOR, _BASIS, _STEP = "first", "second", "factor", "basis", "step"


@dataclass(slots=True, eq=False)
class _Moments:
    """Of one tensor. ``factors`` and ``bases`` by mode: none of a bias."""

    first: Tensor
    second: Tensor
    factors: dict[int, Tensor]
    bases: dict[int, Tensor]


class Soap:
    """Moves ``latents`` (name -> float32 leaf) in place. The rate comes with every step."""

    def __init__(self, latents: Mapping[str, Tensor]) -> None:
        self._latents = dict(latents)
        self._moments: dict[str, _Moments] = {}
        self._made = 0

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for latent in self._latents.values():
            latent.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at ``rate``; a latent without a gradient has one of 0.

        The first moves nothing, as in the paper: in bases made of one gradient alone most of that
        gradient is rounding noise, which Adam would scale up to full steps.
        """
        gradients = {name: _gradient(latent) for name, latent in self._latents.items()}
        if not self._moments:
            self._moments = {name: _begin(gradient) for name, gradient in gradients.items()}
            return
        self._made += 1
        latents, moments = list(self._latents.values()), list(self._moments.values())
        steps = self._steps(moments, list(gradients.values()))
        shaped = [step.reshape(w.shape) for step, w in zip(steps, latents, strict=True)]
        torch._foreach_add_(latents, shaped, alpha=-rate)
        for name, gradient in gradients.items():
            self._learn(self._moments[name], gradient)

    def _learn(self, moments: _Moments, gradient: Tensor) -> None:
        for mode, factor in moments.factors.items():
            factor.lerp_(_outer(gradient, mode), 1.0 - _FACTOR_BETA)
        if self._made % _REFRESH_STEPS == 1:
            _refresh(moments)

    def _steps(self, moments: Sequence[_Moments], gradients: list[Tensor]) -> list[Tensor]:
        """Both moments go on; the steps of rate 1, in the latents' own coordinates."""
        first, second = [m.first for m in moments], [m.second for m in moments]
        bases = [m.bases for m in moments]
        rotated = [_rotated(g, q) for g, q in zip(gradients, bases, strict=True)]
        torch._foreach_lerp_(first, rotated, 1.0 - _BETAS[0])
        torch._foreach_mul_(second, _BETAS[1])
        torch._foreach_addcmul_(second, rotated, rotated, 1.0 - _BETAS[1])
        scales = torch._foreach_div(second, 1.0 - _BETAS[1] ** self._made)
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, _EPSILON)
        torch._foreach_mul_(scales, 1.0 - _BETAS[0] ** self._made)
        steps = torch._foreach_div(first, scales)
        return [_rotated_back(step, q) for step, q in zip(steps, bases, strict=True)]

    def state(self) -> dict[str, Tensor]:
        """All that it goes on from, by name; nothing before the first step."""
        if not self._moments:
            return {}
        flat = {_STEP: torch.tensor(self._made)}
        for name, moments in self._moments.items():
            flat[f"{_FIRST}/{name}"] = moments.first.clone()
            flat[f"{_SECOND}/{name}"] = moments.second.clone()
            for mode, factor in moments.factors.items():
                flat[f"{_FACTOR}{mode}/{name}"] = factor.clone()
                flat[f"{_BASIS}{mode}/{name}"] = moments.bases[mode].clone()
        return flat

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """What :meth:`state` gave. KeyError where a tensor is missing."""
        self._moments, self._made = {}, 0
        if not state:
            return
        for name, latent in self._latents.items():
            first = state[f"{_FIRST}/{name}"].to(latent, copy=True)
            modes = _modes(first)
            factors, bases = (
                {k: state[f"{kind}{k}/{name}"].to(latent, copy=True) for k in modes}
                for kind in (_FACTOR, _BASIS)
            )
            second = state[f"{_SECOND}/{name}"].to(latent, copy=True)
            self._moments[name] = _Moments(first, second, factors, bases)
        self._made = int(state[_STEP])


def _gradient(latent: Tensor) -> Tensor:
    """With a kernel's taps as one mode. All here is contiguous: what is read back from a checkpoint
    is, and products of other strides would differ in their last bits.
    """
    gradient = torch.zeros_like(latent) if latent.grad is None else latent.grad
    if gradient.dim() > 2:
        gradient = gradient.flatten(2).squeeze(2)
    return gradient.contiguous()


def _modes(x: Tensor) -> list[int]:
    return [] if x.dim() < 2 else [mode for mode in range(x.dim()) if x.shape[mode] > 1]


def _begin(gradient: Tensor) -> _Moments:
    factors = {mode: _outer(gradient, mode) for mode in _modes(gradient)}
    # Where the gradient is not finite the loss will tell; an eigenvalue problem would raise.
    bases = {
        mode: torch.linalg.eigh(torch.nan_to_num(factor, 0.0, 0.0, 0.0))[1].flip(1).contiguous()
        for mode, factor in factors.items()
    }
    return _Moments(torch.zeros_like(gradient), torch.zeros_like(gradient), factors, bases)


def _outer(x: Tensor, mode: int) -> Tensor:
    unfolded = x.movedim(mode, 0).flatten(1)
    return unfolded @ unfolded.T


def _rotated(x: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    for mode, basis in bases.items():
        x = _times(x, basis, mode)
    return x


def _rotated_back(x: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    for mode, basis in bases.items():
        x = _times(x, basis.T, mode)
    return x


def _times(x: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """x x_mode matrix^T, contiguous like x: no axis is moved, which would take longer than this."""
    if mode == x.dim() - 1:
        return x @ matrix
    if mode == 0:
        return (matrix.T @ x.flatten(1)).reshape(-1, *x.shape[1:])
    return matrix.T @ x


def _refresh(moments: _Moments) -> None:
    """One power iteration of every basis, its vectors in the order of their eigenvalues; the second
    moment keeps to its vectors.
    """
    first = _rotated_back(moments.first, moments.bases)
    for mode, factor in moments.factors.items():
        basis = moments.bases[mode]
        image = factor @ basis
        order = (basis * image).sum(0).argsort(descending=True)
        moments.second = moments.second.index_select(mode, order)
        moments.bases[mode] = torch.linalg.qr(image[:, order])[0].contiguous()
    moments.first = _rotated(first, moments.bases)
