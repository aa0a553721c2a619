"""The paper's adversarial option: a discriminator of shown and source pictures.

Vaccaro et al. 2021, section 3.3, and their released training code's sizes: eight 3x3
convolutions of 32, 32, 64, 64, 128, 128, 256, 256 channels with strides 1 and 2 in turn, batch
normalisation but in the first, LeakyReLU 0.2; then pooling to 6x6, a layer of 1024 and one output.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecaux.colour import Planes, chroma_to_444, yuv444_to_rgb
from codecaux.video import Colour

__all__ = ["LEARNING_RATE", "Adversary", "Discriminator"]

_WIDTHS = (32, 32, 64, 64, 128, 128, 256, 256)
_POOLED = 6
_HIDDEN = 1024
_SLOPE = 0.2
LEARNING_RATE = 1e-4


class Discriminator(nn.Module):
    """RGB [N, 3, H, W] in 0..1 with H, W >= 16 -> logits [N, 1]: how likely each is a source."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for index, width in enumerate(_WIDTHS):
            layers.append(nn.Conv2d(channels, width, 3, stride=1 + index % 2, padding=1))
            if index:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.LeakyReLU(_SLOPE))
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(channels * _POOLED**2, _HIDDEN),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(_HIDDEN, 1),
        )

    def forward(self, rgb: Tensor) -> Tensor:
        found = F.adaptive_avg_pool2d(self.features(2.0 * rgb - 1.0), _POOLED)
        logits: Tensor = self.head(found.flatten(1))
        return logits


class Adversary:
    """A discriminator with its optimiser, trained in turn with the network it judges.

    L_G = BCE(D(shown), 1) and L_D = BCE(D(source), 1) + BCE(D(shown), 0) (Goodfellow et al. 2014).
    """

    def __init__(self, colour: Colour, device: torch.device, seed: int) -> None:
        # Its own generator: what else is drawn in the process does not move it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = Discriminator().to(device)
        self._colour = colour
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=LEARNING_RATE)

    def generator_loss(self, shown: Planes) -> Tensor:
        """Scalar; differentiable in ``shown``, leaves the discriminator as it is."""
        logits = self.net(self._rgb(shown))
        return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))

    def learn(self, shown: Planes, source: Planes) -> float:
        """One step of the discriminator; returns its loss."""
        fake = self.net(self._rgb(Planes(*(plane.detach() for plane in shown))))
        real = self.net(self._rgb(source))
        loss = F.binary_cross_entropy_with_logits(
            real, torch.ones_like(real)
        ) + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """The discriminator's weights and its optimiser's moments by name."""
        tensors = {f"judge/{name}": value for name, value in self.net.state_dict().items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"judge-adam/{index}/{key}"] = torch.as_tensor(value)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What :meth:`state` gave, perhaps among other things."""
        judge = {n.removeprefix("judge/"): t for n, t in tensors.items() if n.startswith("judge/")}
        self.net.load_state_dict(judge)
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("judge-adam/"):
                _, index, key = name.split("/")
                states.setdefault(int(index), {})[key] = value
        saved = self.optimiser.state_dict()
        self.optimiser.load_state_dict({**saved, "state": states})

    def _rgb(self, planes: Planes) -> Tensor:
        height, width = planes.y.shape[2:]
        u, v = (chroma_to_444(plane, self._colour, height, width) for plane in planes[1:])
        return yuv444_to_rgb(planes.y, u, v, self._colour.matrix).clamp(0.0, 1.0)
