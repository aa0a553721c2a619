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

from collections import defaultdict
from collections.abc import Mapping
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
    """Of all tensors of one shape, stacked: [n, *shape]. ``factors`` and ``bases`` [n, size, size]
    by mode: none of biases.
    """

    first: Tensor
    second: Tensor
    factors: dict[int, Tensor]
    bases: dict[int, Tensor]

    def parts(self) -> dict[str, Tensor]:
        """By the name that each has in a state."""
        named = {_FIRST: self.first, _SECOND: self.second}
        named |= {f"{_FACTOR}{mode}": value for mode, value in self.factors.items()}
        return named | {f"{_BASIS}{mode}": value for mode, value in self.bases.items()}


class Soap:
    """Moves ``latents`` (name -> float32 leaf) in place. The rate comes with every step."""

    def __init__(self, latents: Mapping[str, Tensor]) -> None:
        self._latents = dict(latents)
        shapes: dict[torch.Size, list[str]] = defaultdict(list)
        for name, latent in latents.items():
            shapes[_folded(latent).shape].append(name)
        # Tensors of one shape go together: on a GPU the number of small products is what costs.
        self._groups = list(shapes.values())
        self._moments: list[_Moments] = []
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
        gradients = [self._gradients(names) for names in self._groups]
        if not self._moments:
            self._moments = [_begin(gradient) for gradient in gradients]
            return
        self._made += 1
        for names, steps in zip(self._groups, self._steps(gradients), strict=True):
            latents = [self._latents[name] for name in names]
            shaped = [s.reshape(w.shape) for s, w in zip(steps.unbind(), latents, strict=True)]
            torch._foreach_add_(latents, shaped, alpha=-rate)
        for moments, gradient in zip(self._moments, gradients, strict=True):
            for mode, factor in moments.factors.items():
                factor.lerp_(_outer(gradient, mode), 1.0 - _FACTOR_BETA)
            if self._made % _REFRESH_STEPS == 1:
                _refresh(moments)

    def _gradients(self, names: list[str]) -> Tensor:
        """[n, *shape], contiguous."""
        gradients = []
        for name in names:
            latent = self._latents[name]
            gradients.append(torch.zeros_like(latent) if latent.grad is None else latent.grad)
        return torch.stack([_folded(gradient) for gradient in gradients])

    def _steps(self, gradients: list[Tensor]) -> list[Tensor]:
        """Both moments go on; the steps of rate 1, in the latents' own coordinates."""
        first, second = [m.first for m in self._moments], [m.second for m in self._moments]
        bases = [m.bases for m in self._moments]
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
        for names, moments in zip(self._groups, self._moments, strict=True):
            for kind, stacked in moments.parts().items():
                of_each = zip(names, stacked.unbind(), strict=True)
                flat |= {f"{kind}/{name}": value.clone() for name, value in of_each}
        return flat

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """What :meth:`state` gave. KeyError where a tensor is missing."""
        self._moments, self._made = [], 0
        if not state:
            return
        self._moments = [self._restored(names, state) for names in self._groups]
        self._made = int(state[_STEP])

    def _restored(self, names: list[str], state: Mapping[str, Tensor]) -> _Moments:
        like = self._latents[names[0]]

        def stacked(kind: str) -> Tensor:
            return torch.stack([state[f"{kind}/{name}"] for name in names]).to(like)

        first = stacked(_FIRST)
        factors, bases = (
            {mode: stacked(f"{kind}{mode}") for mode in _modes(first)} for kind in (_FACTOR, _BASIS)
        )
        return _Moments(first, stacked(_SECOND), factors, bases)


def _folded(tensor: Tensor) -> Tensor:
    """A kernel's taps as one mode, or none where there is but one.

    All here is contiguous, ones of size 1 left out: what is read back from a checkpoint is, and
    products of other strides would differ in their last bits.
    """
    return tensor.flatten(2).squeeze(2) if tensor.dim() > 2 else tensor


def _modes(stacked: Tensor) -> list[int]:
    sizes = stacked.shape[1:]
    return [] if len(sizes) < 2 else [mode for mode, size in enumerate(sizes) if size > 1]


def _begin(gradient: Tensor) -> _Moments:
    factors = {mode: _outer(gradient, mode) for mode in _modes(gradient)}
    bases = {mode: _eigenvectors(factor) for mode, factor in factors.items()}
    return _Moments(torch.zeros_like(gradient), torch.zeros_like(gradient), factors, bases)


def _eigenvectors(factors: Tensor) -> Tensor:
    """[n, size, size] of as many symmetric matrices, the largest eigenvalue's first.

    In float64: squares of small gradients, next to rows of zeros from dead units, are near enough
    to float32's least numbers for LAPACK to answer with NaN.
    """
    # Where the gradient is not finite the loss will tell; an eigenvalue problem would raise.
    finite = torch.nan_to_num(factors, 0.0, 0.0, 0.0).double()
    vectors: Tensor = torch.linalg.eigh(finite)[1]
    return vectors.flip(2).contiguous().to(factors.dtype)


def _outer(x: Tensor, mode: int) -> Tensor:
    unfolded = x.movedim(mode + 1, 1).flatten(2)
    return unfolded @ unfolded.mT


def _rotated(x: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    for mode, basis in bases.items():
        x = _times(x, basis, mode)
    return x


def _rotated_back(x: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    for mode, basis in bases.items():
        x = _times(x, basis.mT, mode)
    return x


def _times(x: Tensor, matrices: Tensor, mode: int) -> Tensor:
    """x x_mode matrix^T of each of the stack, contiguous."""
    if mode == x.dim() - 2:
        return (x.flatten(1, -2) @ matrices).reshape(x.shape)
    front = x.movedim(mode + 1, 1)
    turned = (matrices.mT @ front.flatten(2)).reshape(front.shape)
    return turned.movedim(1, mode + 1).contiguous()


def _refresh(moments: _Moments) -> None:
    """One power iteration of every basis, its vectors in the order of their eigenvalues; the second
    moment keeps to its vectors, the first is taken to the new ones.
    """
    first = _rotated_back(moments.first, moments.bases)
    for mode, factor in moments.factors.items():
        basis = moments.bases[mode]
        image = factor @ basis
        order = (basis * image).sum(1).argsort(dim=1, descending=True)  # [n, size]
        columns = order[:, None].expand_as(image)
        moments.bases[mode] = torch.linalg.qr(image.gather(2, columns))[0].contiguous()
        shape = [-1 if dim == mode + 1 else 1 for dim in range(moments.second.dim())]
        shape[0] = len(order)
        places = order.reshape(shape).expand_as(moments.second)
        moments.second = moments.second.gather(mode + 1, places)
    moments.first = _rotated(first, moments.bases)
