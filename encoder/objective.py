"""What a fit minimises: named objectives, each a weighted sum of terms on the final picture.

Every term sees the picture as it will be shown: 4:2:0 planes after the network's residual was
added to the upscaled base, luma 0..1 and chroma -1/2..1/2::

    L = w_y C(Y) + w_c (C(U) + C(V)) + w_d (1 - D(Y)) + w_s (1 - SSIM(Y)) + w_p LPIPS(RGB)
      + a critic's term (:mod:`codecaux.encoder.critic`), where the objective has one

C is the Charbonnier distance, D the part of the source's detail that is kept
(:mod:`codecaux.encoder.detail`). The LPIPS network of the loss (squeeze) is never the one of the
scores (alex). D, SSIM and LPIPS run on a part of each batch, so that they cost less than the
network's own step. A network of two heads has an L for each, and its loss is their sum.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig, macs_per_coded_pixel
from codecaux.colour import Planes, chroma_to_444, yuv444_to_rgb
from codecaux.encoder.detail import MIN_DETAIL_SIZE, kept_detail
from codecaux.encoder.lossnet import DELTA, LearnedSettings, huber
from codecaux.errors import UsageError
from codecaux.lpips import Lpips
from codecaux.video import Colour

__all__ = [
    "ABLATIONS",
    "OBJECTIVES",
    "LossTerms",
    "Objective",
    "charbonnier",
    "mean_ssim",
    "middle_rgb",
    "objective_by_name",
]

_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
# Multiply-adds per source pixel: tiny has 3,300, light 13,000, full 34,000.
_CHEAP_MACS, _DEAR_MACS = 6_000, 25_000
# What stands in for 0.1 x LPIPS: about as much of the loss (docs/learned.md).
_STAND_IN = 0.05 / DELTA


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the terms of L. ``lpips_patches`` of each batch, cut to ``lpips_size`` source
    pixels, go through the LPIPS network; ``ssim_patches`` go through SSIM, ``detail_patches``
    through D. ``huber``: pixels by the Huber loss over its threshold (Jo et al. 2020, Eq. 5)
    instead of Charbonnier. ``learned``: the term of a loss network; ``stand_in``: the one that
    takes the place of LPIPS where that is not to be had. ``adversary``: weight of a discriminator's
    term (:mod:`codecaux.encoder.discriminator`). ``perceptual``: of the second head, where the
    network has one; the rest is then the fidelity head's.
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
    huber: bool = False
    learned: LearnedSettings | None = None
    stand_in: LearnedSettings | None = None
    adversary: float = 0.0
    perceptual: Objective | None = None

    @property
    def heads(self) -> int:
        """Of the network that it is for."""
        return 1 if self.perceptual is None else 2

    def for_net(self, config: SrUnetConfig) -> Objective:
        """With fewer patches for LPIPS and a smaller loss network where the net's own step is
        cheap: LPIPS may not cost more than that step, the learned term not more than two
        (benchmarks/fit.py). UsageError for a net that cannot be fitted for it.
        """
        if config.is_recurrent and self._is_of_single_frames:
            raise UsageError(
                f"expected a net that sees one frame for the objective {self.name}, got "
                f"{config.name}, which is recurrent; choose another of the two"
            )
        macs = macs_per_coded_pixel(config) * float(config.scale) ** -2
        lpips = min(self.lpips_patches, 2) if macs <= _CHEAP_MACS else self.lpips_patches
        learned, stand_in = (_sized(part, macs) for part in (self.learned, self.stand_in))
        changed = replace(self, lpips_patches=lpips, learned=learned, stand_in=stand_in)
        return replace(changed, perceptual=self.perceptual and self.perceptual.for_net(config))

    @property
    def _is_of_single_frames(self) -> bool:
        """Has it two heads, or a loss network that wants frames shown out of their order?"""
        return self.heads > 1 or (self.learned is not None and not self.learned.new_fake)

    def with_or_without(self, lpips: Lpips | None) -> Objective:
        """Without LPIPS its stand-in becomes the learned term."""
        if lpips is not None or not self.wants_lpips or self.stand_in is None:
            return self
        return replace(self, learned=self.stand_in)

    @property
    def wants_lpips(self) -> bool:
        """Has it, or its perceptual head, an LPIPS term?"""
        return self.lpips > 0.0 or (self.perceptual is not None and self.perceptual.wants_lpips)


def _sized(learned: LearnedSettings | None, macs: float) -> LearnedSettings | None:
    """As it is beside full; half the filters and fewer patches beside light and tiny."""
    if learned is None or macs > _DEAR_MACS:
        return learned
    most = 2 if macs <= _CHEAP_MACS else 3
    return replace(learned, patches=min(learned.patches, most), width=0.5 * learned.width)


# Eq. 6 over the threshold of its Huber losses, so that L is in the units of the other objectives:
# far from 0 the pixel term is then the mean absolute difference.
_LEARNED = Objective("learned", huber=True, learned=LearnedSettings(weight=1.0 / DELTA))
_OPPOSED = LearnedSettings(content=0.0, relation=0.0, adversarial=5e-3)


def _varied(name: str, **changes: Any) -> Objective:
    assert _LEARNED.learned is not None
    return replace(_LEARNED, name=name, learned=replace(_LEARNED.learned, **changes))


OBJECTIVES: dict[str, Objective] = {
    "balanced": Objective("balanced", lpips=0.1, detail=0.2, stand_in=LearnedSettings(_STAND_IN)),
    "fidelity": Objective("fidelity"),
    # The paper's section 3.3 less its adversarial term: LPIPS + (1 - SSIM), equal weights. The
    # two pixel terms only keep colour from drifting, which neither of the others sees well.
    "perceptual": Objective("perceptual", luma=0.1, chroma=0.25, ssim=1.0, lpips=1.0),
    "learned": _LEARNED,
    # ASTF's section 3.1: one head for pixels and detail, one for LPIPS. The second is "balanced"
    # with three times its LPIPS; both pull at one body, so they must not differ by orders.
    "fused": Objective(
        "fused", detail=0.2, perceptual=Objective("perceptual head", lpips=0.3, detail=0.2)
    ),
}

# Variants of the above that answer a question (benchmarks/objectives.py), by the same option.
ABLATIONS: dict[str, Objective] = {
    # What balanced is where there is no LPIPS, by name.
    "balanced-offline": Objective(
        "balanced-offline", detail=0.2, learned=OBJECTIVES["balanced"].stand_in
    ),
    # Table 4 of Jo et al. 2020, and of their Table 7 the row that makes L_R as large as L_C.
    "learned-no-content": _varied("learned-no-content", content=0.0),
    "learned-no-relation": _varied("learned-no-relation", relation=0.0),
    "learned-no-fake": _varied("learned-no-fake", new_fake=False),
    "learned-no-warm-up": _varied("learned-no-warm-up", warm_up=0),
    "learned-relation-100": _varied("learned-relation-100", relation=100.0),
    # T as the discriminator of a GAN, with LPIPS in the place of their VGG loss.
    "learned-adversarial": replace(
        _LEARNED, name="learned-adversarial", learned=_OPPOSED, lpips=0.1
    ),
    # Section 3.3 of the SR-UNet paper with its adversarial term, by its own discriminator.
    "sr-unet": Objective("sr-unet", luma=0.1, chroma=0.25, ssim=1.0, lpips=1.0, adversary=1e-3),
}


def objective_by_name(name: str) -> Objective:
    """The objective called ``name``; UsageError names the known ones."""
    known = OBJECTIVES | ABLATIONS
    if name not in known:
        raise UsageError(f"expected an objective of {', '.join(known)}, got {name!r}")
    return known[name]


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
        pixels = _scaled_huber if weights.huber else charbonnier
        loss = weights.luma * pixels(shown.y, source.y)
        chroma = pixels(shown.u, source.u) + pixels(shown.v, source.v)
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
        a, b = (middle_rgb(p, self.colour, count, (size, size)) for p in (shown, source))
        with torch.no_grad():
            features = net.features(b)
        return net.distance_from_features(net.features(a), features).mean()


def middle_rgb(planes: Planes, colour: Colour, count: int, size: tuple[int, int]) -> Tensor:
    """The first ``count`` patches' middles as RGB [count, 3, height, width] in 0..1, no larger than
    ``size`` (height, width).
    """
    height, width = (min(part, n) for part, n in zip(size, planes.y.shape[2:], strict=True))
    # Corners on multiples of 2, so that chroma is cut at the same place.
    top, left = (
        (n - part) // 4 * 2 for part, n in zip((height, width), planes.y.shape[2:], strict=True)
    )
    y = planes.y[:count, :, top : top + height, left : left + width]
    u, v = (
        chroma_to_444(
            plane[:count, :, top // 2 : (top + height) // 2, left // 2 : (left + width) // 2],
            colour,
            height,
            width,
        )
        for plane in planes[1:]
    )
    return yuv444_to_rgb(y, u, v, colour.matrix).clamp(0.0, 1.0)


def _scaled_huber(a: Tensor, b: Tensor) -> Tensor:
    return huber(a, b) / DELTA


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
