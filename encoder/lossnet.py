"""The loss network T = F + C of Jo et al. 2020 and the losses that are built on it.

Jo, Kang, Oh, Nam, Vajda, Kim, *Learning the Loss Functions in a Discriminative Space for Video
Restoration*::

    frames [N, T, 3, H, W] ─ F: four layers ─> F^1 .. F^4 ─ C, three frames at once ─> logits

    F (Table 1a)                               C (Table 1b)
    conv 1x7x7 /2  64  bn                      lrelu conv 3x3x3 /2  256
    lrelu conv 1x3x3 /2 128  bn                lrelu conv 1x1x1       1
    lrelu conv 1x3x3 /2 256  bn
    lrelu conv 1x3x3 /2 512  bn

The slope of every lrelu is 0.1. Kernels of F see one frame each, so that they run as 2-D
convolutions over all frames at once; its normalisations take their statistics over the frames, too.
C's first kernel sees three frames at once, and nothing before or after them: it runs as a 2-D
convolution over their concatenated channels. Tests compare with the 3-D layers. Statistics are
always the batch's own: real and generated frames of a loss go through F together, so that features
that are compared are normalised alike.

What the paper leaves open: F^j is what row j of the table gives (before the next row's lrelu), and
the Huber loss is the mean over elements, each with the threshold (Eq. 3 writes norms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "DELTA",
    "FeatureExtractor",
    "LearnedSettings",
    "LossNet",
    "SequenceClassifier",
    "content_loss",
    "huber",
    "relation_loss",
    "sequence_loss",
]

# The threshold of every Huber loss (section 3.2).
DELTA = 0.01
_FILTERS = (64, 128, 256, 512)
_CLASSIFIER_FILTERS = 256
_SLOPE = 0.1
_NEIGHBOURS = 3


@dataclass(frozen=True, slots=True)
class LearnedSettings:
    """The learned term of an objective, and what it may cost.

    weight: of L_C and L_R within the objective; content, relation: their factors (1, 1: Eq. 6).
    new_fake: the fake sequence has one generated frame between two true ones; else all three are
    generated. adversarial: weight of -log C(fake) within the objective, which the paper does
    without. warm_up: steps in which T learns alone. learning_rate: of T's Adam. patches: how many
    of each batch T sees, cut to size source pixels; width: filters as a fraction of Table 1's.
    """

    weight: float = 1.0
    content: float = 1.0
    relation: float = 1.0
    new_fake: bool = True
    adversarial: float = 0.0
    warm_up: int = 60
    learning_rate: float = 1e-4
    patches: int = 4
    size: int = 128
    width: float = 1.0


class FeatureExtractor(nn.Module):
    """F: RGB [N, T, 3, H, W] in 0..1 -> four maps [N, T, c, h, w], each half as large as before."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        filters = [max(1, round(n * width)) for n in _FILTERS]
        ends = [3, *filters]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3 if index else 7, 2, 1 if index else 3)
            for index, (before, after) in enumerate(zip(ends, filters, strict=False))
        )
        # Batch statistics always: there is no other mode that a loss could be taken in.
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, track_running_stats=False) for n in filters)
        self.out_channels = filters[-1]

    def forward(self, frames: Tensor) -> list[Tensor]:
        count, length = frames.shape[:2]
        found: list[Tensor] = []
        x = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # [N * T, 3, H, W]
        for index, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            x = norm(convolution(F.leaky_relu(x, _SLOPE) if index else x))
            found.append(x.unflatten(0, (count, length)))
        return found


class SequenceClassifier(nn.Module):
    """C: features of three frames [N, 3, c, h, w] -> logits [N, 1, h', w'], one a region."""

    def __init__(self, channels: int, width: float = 1.0) -> None:
        super().__init__()
        filters = max(1, round(_CLASSIFIER_FILTERS * width))
        self.first = nn.Conv2d(_NEIGHBOURS * channels, filters, 3, 2, 1)
        self.last = nn.Conv2d(filters, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        joined = features.flatten(1, 2)  # [N, 3 * c, h, w], frame by frame
        hidden = self.first(F.leaky_relu(joined, _SLOPE))
        logits: Tensor = self.last(F.leaky_relu(hidden, _SLOPE))
        return logits


class LossNet(nn.Module):
    """T = F + C. ``width`` 1 is Table 1's."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.extractor = FeatureExtractor(width)
        self.classifier = SequenceClassifier(self.extractor.out_channels, width)


def huber(a: Tensor, b: Tensor, delta: float = DELTA) -> Tensor:
    """H of Eq. 3, the mean over elements: d^2 / 2 where |d| <= delta, else delta |d| - delta^2 / 2,
    with d = a - b.
    """
    return F.huber_loss(a.float(), b.float(), delta=delta)


def content_loss(shown: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    """(1 / J) sum_j L_C^j with L_C^j = H(F^j(I_t^Gen), F^j(I_t^GT)) (Eq. 2; its part of Eq. 6).

    shown, source: the J maps of frame t.
    """
    terms = [huber(a, b) for a, b in zip(shown, source, strict=True)]
    return torch.stack(terms).mean()


def relation_loss(
    shown: Sequence[Tensor], source: Sequence[Tensor], others: Sequence[Sequence[Tensor]]
) -> Tensor:
    """(1 / 2NJ) sum_n sum_j L_R,n^j, L_R,n^j = H(phi_{t+n}^Gen,j, phi_{t+n}^GT,j) (Eq. 4 and 6).

    phi_{t+n}^psi,j = H(F^j(I_t^psi), F^j(I_{t+n}^GT)), element by element: where something moves
    matters. others: the J maps of each true neighbour, 2N of them (N = 1: t - 1 and t + 1).
    """
    terms = [
        huber(_relation(a, other), _relation(b, other))
        for maps in others
        for a, b, other in zip(shown, source, maps, strict=True)
    ]
    return torch.stack(terms).mean()


def _relation(here: Tensor, other: Tensor) -> Tensor:
    return F.huber_loss(here.float(), other.float(), reduction="none", delta=DELTA)


def sequence_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_F,C = -log C(real) - log(1 - C(fake)) (Eq. 1), the mean over regions.

    real, fake: logits of C for the true sequence and for the one with a generated frame.
    """
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()
