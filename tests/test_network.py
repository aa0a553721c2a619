"""The SR-UNet: merged and training form agree; sizes; the generated base starts at bicubic."""

from __future__ import annotations

import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch

from codecaux.architecture import NETS, SrUnetConfig, net_config, parameter_shapes
from codecaux.bases import GENERATED_BASE_ID, get_base
from codecaux.errors import WeightsBaseError
from codecaux.network import TrainingForm, sr_unet, with_identity
from codecaux.video import SCALES


def _random_weights(config: SrUnetConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    # A deviation that neither dies out nor explodes through 20 blocks with identity branches.
    return {
        name: torch.randn(shape, generator=generator) * 0.025
        for name, shape in parameter_shapes(config).items()
    }


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("net", NETS)
def test_training_form_and_merged_form_agree(net: str, scale: Fraction) -> None:
    config = net_config(net, scale)
    form = TrainingForm(config, _random_weights(config))
    with torch.no_grad():
        for parameter in form.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    x = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    branched = form(x)
    merged = sr_unet(x, with_identity(form.merged(), config), config)
    # float32 sums in another order, through 13 to 20 layers.
    torch.testing.assert_close(merged, branched, rtol=1e-4, atol=1e-4)
    assert branched.abs().mean() > 1e-3


@pytest.mark.parametrize("scale", SCALES)
def test_output_is_scale_times_the_input(scale: Fraction) -> None:
    config = net_config("tiny", scale)
    y = sr_unet(torch.zeros(1, 3, 48, 80), with_identity(_random_weights(config), config), config)
    assert y.shape == (1, 3, 48 * scale, 80 * scale)
    assert y.dtype == torch.float32


def test_a_shifted_picture_gives_a_shifted_residual() -> None:
    config = net_config("tiny", Fraction(3, 2))
    weights = with_identity(_random_weights(config), config)
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    # 8 input pixels are one sample of the coarsest level and 12 output pixels.
    moved = sr_unet(torch.roll(x, 8, 3), weights, config)
    still = sr_unet(x, weights, config)
    middle = slice(84, 108)
    torch.testing.assert_close(
        moved[..., middle, 96:108], still[..., middle, 84:96], rtol=1e-3, atol=2e-3
    )


def test_the_base_starts_at_exactly_bicubic() -> None:
    config = net_config("light", Fraction(2))
    base = {n: torch.from_numpy(v) for n, v in get_base(GENERATED_BASE_ID, config).items()}
    y = sr_unet(torch.rand(1, 3, 16, 16) * 2 - 1, with_identity(base, config), config)
    assert torch.count_nonzero(y) == 0


def test_the_base_passes_gradients_to_every_tensor_once_the_last_layer_moved() -> None:
    config = net_config("light", Fraction(2))
    base = {n: torch.from_numpy(v) for n, v in get_base(GENERATED_BASE_ID, config).items()}
    base["last.weight"] = torch.full_like(base["last.weight"], 0.1)
    leaves = {name: value.requires_grad_() for name, value in base.items()}
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sr_unet(x, with_identity(leaves, config), config).square().mean().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert leaf.grad.abs().max() > 0, name


def test_the_generated_base_never_changes() -> None:
    """A file's integers are useless with another base: these bytes are part of the format."""
    base = get_base(GENERATED_BASE_ID, net_config("tiny", Fraction(2)))
    data = b"".join(np.ascontiguousarray(v, "<f4").tobytes() for v in base.values())
    assert zlib.crc32(data) == 0xEBF8B1A8


def test_no_base_is_zeros_and_an_unknown_one_is_named() -> None:
    config = net_config("tiny", Fraction(2))
    assert all(not value.any() for value in get_base(None, config).values())
    with pytest.raises(WeightsBaseError, match="light-x2-2031"):
        get_base("light-x2-2031", config)
