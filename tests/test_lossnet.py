"""The loss network against Table 1 of Jo et al. 2020, its losses against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from codecaux.encoder.lossnet import (
    DELTA,
    LossNet,
    content_loss,
    huber,
    relation_loss,
    sequence_loss,
)


def _frames(count: int, length: int, size: int) -> torch.Tensor:
    return torch.rand(count, length, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_the_extractor_is_table_1a_in_three_dimensions() -> None:
    """conv3d of 1xkxk, stride (1, 2, 2), bn3d: row by row, lrelu 0.1 before all but the first."""
    torch.manual_seed(0)
    extractor = LossNet().extractor
    frames = _frames(2, 4, 32)
    found = extractor(frames)
    assert [tuple(maps.shape) for maps in found] == [
        (2, 4, channels, size, size) for channels, size in ((64, 16), (128, 8), (256, 4), (512, 2))
    ]
    x = frames.transpose(1, 2)  # [N, 3, T, H, W]
    for index, convolution in enumerate(extractor.convolutions):
        kernel = convolution.weight[:, :, None]  # [out, in, 1, k, k]
        assert kernel.shape[3:] == ((7, 7) if index == 0 else (3, 3))
        pad = (0, kernel.shape[3] // 2, kernel.shape[4] // 2)
        x = F.conv3d(F.leaky_relu(x, 0.1) if index else x, kernel, convolution.bias, (1, 2, 2), pad)
        x = F.batch_norm(x, None, None, training=True)
        torch.testing.assert_close(found[index], x.transpose(1, 2), rtol=1e-3, atol=1e-4)


def test_the_classifier_is_table_1b_in_three_dimensions() -> None:
    """lrelu conv3d 3x3x3 of 256 at stride (1, 2, 2), then lrelu conv3d 1x1x1 of 1."""
    torch.manual_seed(0)
    classifier = LossNet().classifier
    features = torch.randn(2, 3, 512, 8, 8)
    kernel = classifier.first.weight.unflatten(1, (3, 512)).transpose(1, 2)  # [256, 512, 3, 3, 3]
    assert kernel.shape == (256, 512, 3, 3, 3)
    x = F.leaky_relu(features.transpose(1, 2), 0.1)
    x = F.conv3d(x, kernel, classifier.first.bias, (1, 2, 2), (0, 1, 1))  # [2, 256, 1, 4, 4]
    last = classifier.last.weight[:, :, None]
    x = F.conv3d(F.leaky_relu(x, 0.1), last, classifier.last.bias)
    torch.testing.assert_close(classifier(features), x[:, :, 0], rtol=1e-3, atol=1e-4)


def test_statistics_are_the_batchs_own_and_of_all_frames() -> None:
    (first, *_) = LossNet(0.25).extractor(_frames(2, 4, 32))
    channels = first.transpose(1, 2).transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(channels.std(1), torch.ones(16), rtol=0, atol=1e-2)
    # A frame alone would have other features.
    assert not any("running" in name for name in LossNet(0.25).state_dict())


def test_width_is_a_fraction_of_the_filters() -> None:
    narrow = LossNet(0.25)
    assert [c.out_channels for c in narrow.extractor.convolutions] == [16, 32, 64, 128]
    assert narrow.classifier.first.out_channels == 64


def test_equation_1_by_hand() -> None:
    """-log C(real) - log(1 - C(fake)) of logits ln 3 (C = 3/4) and -ln 4 (C = 1/5)."""
    real, fake = torch.tensor([math.log(3.0)]), torch.tensor([-math.log(4.0)])
    expected = -math.log(0.75) - math.log(0.8)
    assert sequence_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)
    undecided = torch.zeros(2, 1, 3, 3)
    assert sequence_loss(undecided, undecided).item() == pytest.approx(2 * math.log(2.0))


def test_equation_3_by_hand() -> None:
    """Below, at and above the threshold of 0.01."""
    assert DELTA == 0.01
    zero = torch.zeros(1)
    assert huber(torch.tensor([0.004]), zero).item() == pytest.approx(0.5 * 0.004**2, rel=1e-5)
    assert huber(torch.tensor([-0.01]), zero).item() == pytest.approx(0.5e-4, rel=1e-5)
    expected = 0.01 * 0.3 - 0.5e-4
    assert huber(torch.tensor([0.3]), zero).item() == pytest.approx(expected, rel=1e-5)
    both = huber(torch.tensor([0.004, 0.3]), torch.zeros(2)).item()
    assert both == pytest.approx((0.5 * 0.004**2 + expected) / 2, rel=1e-5)


def test_equation_2_by_hand() -> None:
    """The mean over two layers, whatever their sizes."""
    shown = [torch.tensor([0.2, 0.0]), torch.tensor([0.5])]
    source = [torch.tensor([0.0, 0.0]), torch.tensor([0.1])]
    first = (0.01 * 0.2 - 0.5e-4 + 0.0) / 2
    second = 0.01 * 0.4 - 0.5e-4
    assert content_loss(shown, source).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_equation_4_by_hand() -> None:
    """One layer of one number, N = 1: phi of the shown frame to each true neighbour against phi of
    the true frame to it.
    """
    shown, source = [torch.tensor([0.5])], [torch.tensor([0.1])]
    before, after = [torch.tensor([0.3])], [torch.tensor([0.1])]

    def h(d: float) -> float:
        return 0.5 * d * d if abs(d) <= 0.01 else 0.01 * abs(d) - 0.5e-4

    # Distances .2 and .2 to the frame before: the relation is the true one though the frame is not.
    assert h(h(0.5 - 0.3) - h(0.1 - 0.3)) == pytest.approx(0.0, abs=1e-12)
    expected = (h(h(0.2) - h(-0.2)) + h(h(0.4) - h(0.0))) / 2
    found = relation_loss(shown, source, (before, after)).item()
    assert found == pytest.approx(expected, rel=1e-4)
    assert found > 0


def test_relations_are_compared_element_by_element() -> None:
    """Movement at the wrong place is no relation kept, though its mean is the same."""
    source, still = [torch.tensor([0.5, 0.0])], [torch.zeros(2)]
    elsewhere = [torch.tensor([0.0, 0.5])]
    assert relation_loss(elsewhere, source, (still, still)).item() > 0
    assert relation_loss(source, source, (still, still)).item() == 0.0


def test_relation_is_about_its_threshold_times_content() -> None:
    """As the equations have it; docs/learned.md says so, and why 100 is one of their weights."""
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(1, 64, 8, 8, generator=generator) for _ in range(4)]
    before, after, source, noise = maps
    shown = [source + 0.3 * noise]
    content = content_loss(shown, [source])
    relation = relation_loss(shown, [source], ([before], [after]))
    assert 0.0005 < (relation / content).item() < 0.01
