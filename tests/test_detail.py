"""The differentiable detail measure against what can be worked out by hand, and its laws."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from codecaux.encoder.detail import MIN_DETAIL_SIZE, kept_detail


def _luma(seed: int, size: int = MIN_DETAIL_SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, size, size, generator=generator)


def test_the_source_keeps_all_of_itself() -> None:
    source = _luma(1)
    assert kept_detail(source, source).item() == pytest.approx(1.0, abs=1e-4)


def test_paler_by_hand() -> None:
    """Every coefficient times 0.9 adds nothing and keeps 0.9 of all: 0.7 * 0.9 + 0.3."""
    source = _luma(1)
    assert kept_detail(0.9 * source, source).item() == pytest.approx(0.93, abs=1e-4)


def test_turned_round_keeps_nothing() -> None:
    """The negative keeps nothing and adds the source once over, hidden by nothing: 0 + 0.3 * 0."""
    source = _luma(1)
    assert kept_detail(1.0 - source, source).item() == pytest.approx(0.0, abs=1e-3)


def test_brightness_is_no_detail() -> None:
    source = _luma(1)
    assert kept_detail(source + 0.1, source).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_sharpening_earns_nothing(strength: float) -> None:
    source = _luma(2)
    sharp = source + strength * (source - F.avg_pool2d(source, 3, 1, 1))
    assert kept_detail(sharp, source) < 0.999


def test_more_loss_is_less_detail() -> None:
    source = _luma(3)
    kernels = (3, 5, 9)
    blurred = [kept_detail(F.avg_pool2d(source, k, 1, k // 2), source).item() for k in kernels]
    assert blurred == sorted(blurred, reverse=True)
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(4))
    noisy = [kept_detail(source + sigma * noise, source).item() for sigma in (0.02, 0.05, 0.1)]
    assert noisy == sorted(noisy, reverse=True)
    assert min(blurred + noisy) > 0.2
    assert max(blurred + noisy) < 1.0


def test_a_step_along_the_gradient_brings_detail_back() -> None:
    source = _luma(5)
    shown = F.avg_pool2d(source, 3, 1, 1).requires_grad_()
    before = kept_detail(shown, source)
    (gradient,) = torch.autograd.grad(before, shown)
    assert torch.isfinite(gradient).all()
    after = kept_detail(shown + 0.02 * gradient / gradient.abs().max(), source)
    assert after > before
    flat = torch.full_like(source, 0.5).requires_grad_()
    kept_detail(flat, torch.full_like(source, 0.5)).backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()
