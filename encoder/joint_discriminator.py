"""RAVE's single discriminator of both domains at once, and its relativistic loss.

Fuoli et al., "An Efficient Recurrent Adversarial Framework for Unsupervised Real-Time Video
Enhancement": one network looks at a source and a target picture together, (x, y) real or
(x^, y^) = (H(y), G(x)) made, and gives a map of logits::

    (a [N,3,H,W], b [N,3,H,W]) ─ unshuffle 2 ─ local/global block x 3 ─ 3x3 ─ s [N,1,H/2,W/2]

Ours is of single frames, as the networks it trains are: no hidden state, no feedback. It works at
half the size and has 3 blocks of 24 channels instead of 8 at full size, because it has to cost no
more than the networks it judges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "JointDiscriminator",
    "cycle_loss",
    "discriminator_loss",
    "generator_loss",
    "relativistic_logits",
]

_WIDTH, _GLOBAL = 24, 8
_BLOCKS = 3
_FOLD = 2
# The paper's kernel and stride of the global branch are 8 at full size.
_GLOBAL_KERNEL = 8 // _FOLD
_SLOPE = 0.2


class _LocalGlobal(nn.Module):
    """[N, C, H, W] -> [N, F, H, W]: F - F' local features beside F' global ones (figure 2).

    v_g = 1/(H'W') sum_{h,w} g(h, w)   (9), the same at every place.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(in_channels, _WIDTH - _GLOBAL, 3, padding=1)
        self.wide = nn.Conv2d(in_channels, _GLOBAL, _GLOBAL_KERNEL, stride=_GLOBAL_KERNEL)

    def forward(self, f: Tensor) -> Tensor:
        local = F.leaky_relu(self.local(f), _SLOPE)
        pooled = F.leaky_relu(self.wide(f), _SLOPE).mean((2, 3), keepdim=True)
        return torch.cat((local, pooled.expand(-1, -1, *local.shape[2:])), 1)


class JointDiscriminator(nn.Module):
    """RGB pictures of both domains [N, 3, H, W] each, 0..1, sizes multiples of 8, at least 16
    -> logits [N, 1, H/2, W/2], large where the pair looks like (source, target).
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [6 * _FOLD**2, *[_WIDTH] * _BLOCKS]
        self.blocks = nn.Sequential(*(_LocalGlobal(width) for width in widths[:-1]))
        self.last = nn.Conv2d(_WIDTH, 1, 3, padding=1)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        pair = F.pixel_unshuffle(2.0 * torch.cat((source, target), 1) - 1.0, _FOLD)
        logits: Tensor = self.last(self.blocks(pair))
        return logits


def relativistic_logits(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """(rho, phi) of the logits s_rho = D(x, y) and s_phi = D(x^, y^), [N, 1, H, W] each::

        mean s_rho = 1/(HW) sum_h sum_w s_rho(h, w)      (5)
        mean s_phi = 1/(HW) sum_h sum_w s_phi(h, w)      (6)
        rho = D(x, y) - mean s_phi                       (7)
        phi = D(x^, y^) - mean s_rho                     (8)

    Means over a picture alone, never over the batch.
    """
    mean_real, mean_fake = (s.mean((2, 3), keepdim=True) for s in (real, fake))
    return real - mean_fake, fake - mean_real


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_GAN^G = -E log sigma(phi) - E log(1 - sigma(rho))   (2), of the logits of D."""
    rho, phi = relativistic_logits(real, fake)
    # -log sigma(z) = softplus(-z) and -log(1 - sigma(z)) = softplus(z).
    return F.softplus(-phi).mean() + F.softplus(rho).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_GAN^D = -E log sigma(rho) - E log(1 - sigma(phi))   (3), of the logits of D."""
    rho, phi = relativistic_logits(real, fake)
    return F.softplus(-rho).mean() + F.softplus(phi).mean()


def cycle_loss(x: Tensor, x_back: Tensor, y: Tensor, y_back: Tensor) -> Tensor:
    """L_cyc = E[(x' - x)^2 + (y' - y)^2]   (4), x' = H(G(x)) and y' = G(H(y)), RGB of 0..1."""
    return (x_back - x).square().mean() + (y_back - y).square().mean()
