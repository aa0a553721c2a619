"""Loss terms against values worked out otherwise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from codecaux.architecture import net_config
from codecaux.colour import Planes
from codecaux.encoder.objective import (
    OBJECTIVES,
    LossTerms,
    charbonnier,
    mean_ssim,
    objective_by_name,
)
from codecaux.errors import UsageError
from codecaux.video import SCALES, Colour


def _planes(seed: int, size: int = 64) -> Planes:
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(3, 1, size, size, generator=generator)
    u, v = (torch.rand(3, 1, size // 2, size // 2, generator=generator) - 0.5 for _ in "uv")
    return Planes(y, u, v)


def test_charbonnier_by_hand() -> None:
    a, b = torch.tensor([0.0, 0.3]), torch.tensor([0.4, 0.3])
    expected = (math.sqrt(0.16 + 1e-6) + 1e-3) / 2 - 1e-3
    assert charbonnier(a, b).item() == pytest.approx(expected, rel=1e-5)
    assert charbonnier(a, a).item() == pytest.approx(0.0, abs=1e-7)


def test_ssim_equals_a_direct_convolution() -> None:
    """The definition, with a 2-D Gaussian window slid by conv2d."""
    a, b = _planes(1).y, (_planes(1).y + 0.2 * _planes(2).y) / 1.2
    x = torch.arange(11.0) - 5
    window = torch.exp(-x.square() / (2 * 1.5**2))
    kernel = torch.outer(window, window)
    kernel = (kernel / kernel.sum())[None, None]

    def blur(z: torch.Tensor) -> torch.Tensor:
        return F.conv2d(z, kernel)

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    ssim = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert mean_ssim(a, b).item() == pytest.approx(ssim.mean().item(), abs=1e-5)
    assert mean_ssim(a, a).item() == pytest.approx(1.0, abs=1e-6)


def _shown(terms: LossTerms, planes: Planes) -> Planes:
    """The same from every head."""
    return Planes(*(torch.cat([plane] * terms.objective.heads) for plane in planes))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_least_at_the_source(name: str) -> None:
    terms = LossTerms(objective_by_name(name), Colour(), None)
    source, other = _planes(1), _planes(2)
    assert terms(_shown(terms, source), source).item() == pytest.approx(0.0, abs=1e-5)
    assert terms(_shown(terms, other), source).item() > 0.05


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_plane_gets_a_gradient(name: str) -> None:
    terms = LossTerms(objective_by_name(name), Colour(), None)
    shown = Planes(*(plane.requires_grad_() for plane in _planes(2)))
    terms(_shown(terms, shown), _planes(1)).backward()
    for plane in shown:
        assert plane.grad is not None
        assert plane.grad.abs().sum() > 0


def test_the_terms_are_weighted_as_told() -> None:
    source, other = _planes(1), _planes(2)
    only = replace(OBJECTIVES["fidelity"], luma=2.0, chroma=0.0)
    loss = LossTerms(only, Colour(), None)(other, source)
    assert loss.item() == pytest.approx(2 * charbonnier(other.y, source.y).item())


def test_a_cheap_net_gets_fewer_lpips_patches() -> None:
    balanced = objective_by_name("balanced")
    for scale in SCALES:
        assert balanced.for_net(net_config("light", scale)).lpips_patches == 4
        assert balanced.for_net(net_config("tiny", scale)).lpips_patches == 2


def test_unknown_objective_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="balanced, fidelity, perceptual"):
        objective_by_name("pretty")


@pytest.mark.parametrize("name", ["balanced", "learned"])
def test_the_loss_network_is_as_large_as_the_nets_step_allows(name: str) -> None:
    sizes = {}
    for net in ("tiny", "light", "full"):
        objective = objective_by_name(name).for_net(net_config(net, SCALES[0]))
        learned = objective.with_or_without(None).learned
        assert learned is not None
        sizes[net] = (learned.width, learned.patches)
    assert sizes == {"tiny": (0.5, 2), "light": (0.5, 3), "full": (1.0, 4)}


def test_a_learned_loss_stands_in_for_lpips_where_there_is_none() -> None:
    balanced = objective_by_name("balanced")
    assert balanced.learned is None
    assert balanced.with_or_without(None).learned == balanced.stand_in is not None
    for name in ("fidelity", "perceptual", "learned"):
        objective = objective_by_name(name)
        assert objective.with_or_without(None) is objective


def test_the_pixel_loss_of_learned_is_equation_5_over_its_threshold() -> None:
    """L_P = H(shown, source): |d| - 0.005 above 0.01, d^2 / 0.02 below."""
    source = _planes(1)
    by_luma = source._replace(y=source.y + 0.3)
    by_chroma = source._replace(u=source.u + 0.004)
    terms = LossTerms(objective_by_name("learned"), Colour(), None)
    assert terms(by_luma, source).item() == pytest.approx(0.3 - 0.005, rel=1e-4)
    assert terms(by_chroma, source).item() == pytest.approx(0.25 * 0.004**2 / 0.02, rel=1e-3)


@pytest.mark.parametrize("name", ["fused", "learned-no-fake"])
def test_what_needs_single_frames_is_refused_for_a_recurrent_net(name: str) -> None:
    with pytest.raises(UsageError, match="sees one frame"):
        objective_by_name(name).for_net(net_config("recurrent", SCALES[0]))
    assert objective_by_name("learned").for_net(net_config("recurrent", SCALES[0])).learned
