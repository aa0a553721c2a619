"""What a fit minimises: named objectives, each a weighted sum of terms on the final picture.

Every term sees the picture as it will be shown: 4:2:0 planes after the network's residual was
added to the upscaled base, luma 0..1 and chroma -1/2..1/2::

    L = w_y C(Y) + w_c (C(U) + C(V)) + w_d (1 - D(Y)) + w_s (1 - SSIM(Y)) + w_p LPIPS(RGB)

C is the Charbonnier distance, D the part of the source's detail that is kept
(:mod:`codecaux.encoder.detail`). The LPIPS network of the loss (squeeze) is never the one of the
scores (alex). D, SSIM and LPIPS run on a part of each batch, so that they cost less than the
network's own step. A network of two heads has an L for each, and its loss is their sum.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig, macs_per_coded_pixel
from codecaux.colour import Planes, chroma_to_444, yuv444_to_rgb
from codecaux.encoder.detail import MIN_DETAIL_SIZE, kept_detail
from codecaux.errors import UsageError
from codecaux.lpips import Lpips
from codecaux.video import Colour

__all__ = ["OBJECTIVES", "LossTerms", "Objective", "charbonnier", "mean_ssim", "objective_by_name"]

_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
# Multiply-adds per source pixel: tiny has 3,300, light 13,000.
_CHEAP_MACS = 6_000


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the terms of L. ``lpips_patches`` of each batch, cut to ``lpips_size`` source
    pixels, go through the LPIPS network; ``ssim_patches`` go through SSIM, ``detail_patches``
    through D. ``perceptual``: of the second head, where the network has one; the rest is then the
    fidelity head's.
    """

    name: str
    luma: float = 1.0
    chroma: float = 0.25
    ssim: float = 0.0
    lpips: float = 0.0
    lpips_patches: int = 4
    lpips_size: int = 128
    ssim_patches: int = 4
    detail: float = 0.0
    detail_patches: int = 4
    perceptual: Objective | None = None

    @property
    def heads(self) -> int:
        """Of the network that it is for."""
        return 1 if self.perceptual is None else 2

    def for_net(self, config: SrUnetConfig) -> Objective:
        """With at most two LPIPS patches where the net's own step is cheap (tiny): the terms may
        not cost more than that step (benchmarks/fit.py).
        """
        if macs_per_coded_pixel(config) * float(config.scale) ** -2 > _CHEAP_MACS:
            return self
        second = self.perceptual and self.perceptual.for_net(config)
        return replace(self, lpips_patches=min(self.lpips_patches, 2), perceptual=second)

    @property
    def wants_lpips(self) -> bool:
        return self.lpips > 0.0 or (self.perceptual is not None and self.perceptual.wants_lpips)


OBJECTIVES: dict[str, Objective] = {
    "balanced": Objective("balanced", lpips=0.1, detail=0.2),
    "fidelity": Objective("fidelity"),
    # The paper's section 3.3 less its adversarial term: LPIPS + (1 - SSIM), equal weights. The
    # two pixel terms only keep colour from drifting, which neither of the others sees well.
    "perceptual": Objective("perceptual", luma=0.1, chroma=0.25, ssim=1.0, lpips=1.0),
    # ASTF's section 3.1: one head for pixels and detail, one for LPIPS. The second is "balanced"
    # with three times its LPIPS; both pull at one body, so they must not differ by orders.
    "fused": Objective(
        "fused", detail=0.2, perceptual=Objective("perceptual head", lpips=0.3, detail=0.2)
    ),
}


def objective_by_name(name: str) -> Objective:
    """The objective called ``name``; UsageError names the known ones."""
    if name not in OBJECTIVES:
        raise UsageError(f"expected an objective of {', '.join(OBJECTIVES)}, got {name!r}")
    return OBJECTIVES[name]


@dataclass(frozen=True, slots=True, eq=False)
class LossTerms:
    """Evaluates an objective. ``lpips`` None drops its term (no weights to be had)."""

    objective: Objective
    colour: Colour
    lpips: Lpips | None

    def __call__(self, shown: Planes, source: Planes) -> Tensor:
        """Scalar float32 loss of a batch of shown pictures against their sources.

        Of two heads, ``shown`` has all of the fidelity head's pictures and then the other's.
        """
        weights = self.objective
        if weights.perceptual is not None:
            halves = [plane.chunk(2) for plane in shown]
            first, second = (Planes(*part) for part in zip(*halves, strict=True))
            fidelity = replace(self, objective=replace(weights, perceptual=None))
            perceptual = replace(self, objective=weights.perceptual)
            return fidelity(first, source) + perceptual(second, source)
        loss = weights.luma * charbonnier(shown.y, source.y)
        chroma = charbonnier(shown.u, source.u) + charbonnier(shown.v, source.v)
        loss = loss + weights.chroma * chroma
        if weights.detail and min(shown.y.shape[2:]) >= MIN_DETAIL_SIZE:
            n = weights.detail_patches
            loss = loss + weights.detail * (1.0 - kept_detail(shown.y[:n], source.y[:n]))
        if weights.ssim:
            n = weights.ssim_patches
            loss = loss + weights.ssim * (1.0 - mean_ssim(shown.y[:n], source.y[:n]))
        if weights.lpips and self.lpips is not None:
            loss = loss + weights.lpips * self._lpips(shown, source, self.lpips)
        return loss

    def _lpips(self, shown: Planes, source: Planes, net: Lpips) -> Tensor:
        count, size = self.objective.lpips_patches, self.objective.lpips_size
        a, b = (self._rgb(planes, count, size) for planes in (shown, source))
        with torch.no_grad():
            features = net.features(b)
        return net.distance_from_features(net.features(a), features).mean()

    def _rgb(self, planes: Planes, count: int, size: int) -> Tensor:
        """The first ``count`` patches' middles as RGB [count, 3, <=size, <=size] in 0..1."""
        height, width = (min(size, n) for n in planes.y.shape[2:])
        # Corners on multiples of 2, so that chroma is cut at the same place.
        top, left = ((n - size) // 4 * 2 if n > size else 0 for n in planes.y.shape[2:])
        y = planes.y[:count, :, top : top + height, left : left + width]
        u, v = (
            chroma_to_444(
                plane[:count, :, top // 2 : (top + height) // 2, left // 2 : (left + width) // 2],
                self.colour,
                height,
                width,
            )
            for plane in planes[1:]
        )
        return yuv444_to_rgb(y, u, v, self.colour.matrix).clamp(0.0, 1.0)


def charbonnier(a: Tensor, b: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt((a - b)^2 + epsilon^2) - epsilon (Charbonnier et al. 1994)."""
    return ((a - b).square() + epsilon**2).sqrt().mean() - epsilon


def mean_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM (Wang et al. 2004, eq. 13, Gaussian window 11, sigma 1.5) of planes of 0..1.

    a, b: [N, 1, H, W] with H, W >= 11. The window is applied as two banded matrix products: a
    depthwise convolution of one channel costs ten times as much on a CPU.
    """
    height, width = a.shape[2:]
    rows = _gaussian_band(height, a.device)
    columns = _gaussian_band(width, a.device)

    def blur(x: Tensor) -> Tensor:
        return rows @ x @ columns.T  # [N, 1, H - 10, W - 10]

    mu_a, mu_b = blur(a), blur(b)
    var_a = blur(a * a) - mu_a.square()
    var_b = blur(b * b) - mu_b.square()
    covariance = blur(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mu_a * mu_b + c1) * (2 * covariance + c2)
    return (numerator / ((mu_a.square() + mu_b.square() + c1) * (var_a + var_b + c2))).mean()


@functools.lru_cache(maxsize=16)
def _gaussian_band(size: int, device: torch.device) -> Tensor:
    """[size - 10, size] matrix whose row i holds the window at columns i .. i + 10."""
    offsets = torch.arange(_SSIM_WINDOW, dtype=torch.float64) - _SSIM_WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * _SSIM_SIGMA**2))
    window = (window / window.sum()).float()
    band = torch.zeros(size - _SSIM_WINDOW + 1, size)
    for row in range(band.shape[0]):
        band[row, row : row + _SSIM_WINDOW] = window
    return band.to(device)
