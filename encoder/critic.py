"""Networks that learn what to look at while a network is fitted, and the terms that they give it.

    warm-up     the critic alone learns, on what the base shows         ─> settled: a copy, kept
    every step  G: the objective + the critic's term;  then the critic learns from what G showed

A critic changes from step to step, and with it what its term means. So the price of a byte and the
choice of what to send are judged by the settled copy, which is the same all along.

:class:`LearnedLoss` is the loss network of Jo et al. 2020, :class:`Opponent` the discriminator of
the SR-UNet paper.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecaux.colour import Planes, chroma_to_444, yuv444_to_rgb
from codecaux.encoder.bank import Around, BankSettings
from codecaux.encoder.discriminator import LEARNING_RATE, Discriminator
from codecaux.encoder.lossnet import (
    LearnedSettings,
    LossNet,
    content_loss,
    relation_loss,
    sequence_loss,
)
from codecaux.encoder.objective import Objective, middle_rgb
from codecaux.errors import FitError
from codecaux.video import Colour

__all__ = ["Critic", "Generate", "LearnedLoss", "Opponent", "Sample", "open_critic"]

# Coded planes to what the network as it stands shows of them.
Generate: TypeAlias = Callable[[Planes], Planes]

_OPPONENT_WARM_UP = 60
_TRACE_STEPS = 20_000


class Sample(NamedTuple):
    """A batch: what is shown, the source, and what lies before and after it."""

    shown: Planes
    source: Planes
    around: Around | None


class Critic(ABC):
    """A network with its optimiser, trained in turn with the network whose pictures it judges.

    ``around``: source pixels that it wants of the frames before and after (0: none);
    ``wants_coded``: of the decoded ones, too. ``trace``: the term and the critic's own loss,
    detached, of the last steps it learnt in.
    """

    around = 0
    wants_coded = False

    def __init__(self, net: nn.Module, warm_up: int, learning_rate: float) -> None:
        self.net, self.warm_up = net, warm_up
        self._rate = learning_rate
        # Fused: millions of weights, passed through once.
        self.optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate, fused=True)
        self.judge: nn.Module | None = None
        self.trace: deque[tuple[Tensor, Tensor]] = deque(maxlen=_TRACE_STEPS)
        self._last_term = torch.tensor(math.nan)

    @abstractmethod
    def _term(self, net: nn.Module, sample: Sample) -> Tensor:
        """Scalar float32 for G, differentiable in ``sample.shown``."""

    @abstractmethod
    def _own_loss(self, sample: Sample, generate: Generate) -> Tensor:
        """Scalar float32 for the critic; nothing of ``sample`` has a gradient."""

    def loss(self, sample: Sample) -> Tensor:
        """G's term by the critic as it is; leaves the critic as it is."""
        with _frozen(self.net):
            term = self._term(self.net, sample)
        self._last_term = term.detach()
        return term

    def judged(self, sample: Sample) -> Tensor:
        """The same by the critic as it was when settled."""
        assert self.judge is not None, "expected a critic that has warmed up"
        return self._term(self.judge, sample)

    def learn(self, sample: Sample, generate: Generate) -> Tensor:
        """One step of the critic; returns its loss, detached. ``generate`` shows other patches."""
        shown = Planes(*(plane.detach() for plane in sample.shown))
        loss = self._own_loss(sample._replace(shown=shown), generate)
        self.optimiser.zero_grad(set_to_none=True)
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError as error:
            raise FitError(f"the device ran out of memory; use a smaller net: {error}") from error
        self.optimiser.step()
        self.trace.append((self._last_term, loss.detach()))
        return loss.detach()

    def settle(self) -> None:
        """Keep a copy to judge by; the warm-up is over."""
        self.judge = _untrained(copy.deepcopy(self.net))
        self.trace.clear()

    def scale_rate(self, scale: float) -> None:
        """Learn at ``scale`` times the first rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = scale * self._rate

    def bank_settings(self, settings: BankSettings) -> BankSettings:
        """``settings`` of a bank that has what it wants."""
        return replace(settings, around=self.around, coded_around=self.wants_coded)

    @property
    def is_finite(self) -> bool:
        """Is no weight NaN or infinite?"""
        sums = torch.stack([value.detach().abs().sum() for value in self.net.parameters()])
        return bool(torch.isfinite(sums).all())

    def state(self) -> dict[str, Tensor]:
        """Everything that it goes on from, by name, cloned."""
        tensors = {f"net/{name}": value for name, value in self.net.state_dict().items()}
        if self.judge is not None:
            judged = self.judge.state_dict().items()
            tensors |= {f"judge/{name}": value for name, value in judged}
        for index, moments in self.optimiser.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"adam/{index}/{key}"] = torch.as_tensor(value)
        return {name: value.detach().clone() for name, value in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """What :meth:`state` gave."""
        self.net.load_state_dict(_with_prefix(tensors, "net/"))
        judged = _with_prefix(tensors, "judge/")
        if judged:
            self.judge = self.judge or _untrained(copy.deepcopy(self.net))
            self.judge.load_state_dict(judged)
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in _with_prefix(tensors, "adam/").items():
            index, key = name.split("/")
            states.setdefault(int(index), {})[key] = value.clone()
        saved = self.optimiser.state_dict()
        self.optimiser.load_state_dict({**saved, "state": states})


class LearnedLoss(Critic):
    """The loss network T (:mod:`codecaux.encoder.lossnet`) and its losses.

    G's term: content and relation matching of Eq. 6 (its pixel loss is the objective's own). T's
    loss: Eq. 1 of (t-1, t, t+1) of the source against the same with the generated frame t.
    """

    def __init__(
        self, settings: LearnedSettings, colour: Colour, device: torch.device, seed: int
    ) -> None:
        # Its own generator: what else is drawn in the process does not move it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = LossNet(settings.width).to(device)
        super().__init__(net, settings.warm_up, settings.learning_rate)
        self.settings, self._colour = settings, colour
        self.dtype = torch.float32
        self.around, self.wants_coded = settings.size, not settings.new_fake

    def _term(self, net: nn.Module, sample: Sample) -> Tensor:
        assert isinstance(net, LossNet)
        settings = self.settings
        with self._computing(sample):
            maps = net.extractor(self._frames(sample))
            before, source, after, shown = ([m[:, i] for m in maps] for i in range(4))
            term: Tensor = shown[0].new_zeros((), dtype=torch.float32)
            if settings.content:
                term = term + settings.weight * settings.content * content_loss(shown, source)
            if settings.relation:
                related = relation_loss(shown, source, (before, after))
                term = term + settings.weight * settings.relation * related
            if settings.adversarial:
                fake: Tensor = net.classifier(maps[-1][:, [0, 3, 2]])
                term = term + settings.adversarial * F.softplus(-fake.float()).mean()
        return term

    def _own_loss(self, sample: Sample, generate: Generate) -> Tensor:
        net = self.net
        assert isinstance(net, LossNet)
        with self._computing(sample):
            if self.settings.new_fake:
                frames, fake = self._frames(sample), [0, 3, 2]
            else:
                frames, fake = self._generated(sample, generate), [4, 3, 5]
            last = net.extractor(frames)[-1]
            both: Tensor = net.classifier(torch.cat((last[:, :3], last[:, fake])))
            real, false = both.chunk(2)
            return sequence_loss(real, false)

    def _frames(self, sample: Sample) -> Tensor:
        """[n, 4, 3, H, W]: the source at t - 1, t and t + 1, and what is shown at t."""
        around = sample.around
        assert around is not None, "expected a bank with the frames before and after"
        height, width = around.before.y.shape[2:]
        size, count = (height, width), self.settings.patches
        four = (around.before, sample.source, around.after, sample.shown)
        return torch.stack([middle_rgb(p, self._colour, count, size) for p in four], 1)

    def _generated(self, sample: Sample, generate: Generate) -> Tensor:
        """[n, 6, 3, H, W]: :meth:`_frames`, and what is shown at t - 1 and t + 1."""
        around, count = sample.around, self.settings.patches
        assert around is not None
        assert around.coded_before is not None, "expected a bank with decoded neighbours"
        assert around.coded_after is not None
        shown = []
        for coded in (around.coded_before, around.coded_after):
            planes = generate(Planes(*(plane[:count] for plane in coded)))
            size = (planes.y.shape[2], planes.y.shape[3])
            shown.append(middle_rgb(planes, self._colour, count, size))
        return torch.cat((self._frames(sample), torch.stack(shown, 1)), 1)

    def _computing(self, sample: Sample) -> torch.autocast:
        device, is_cast = sample.shown.y.device.type, self.dtype != torch.float32
        return torch.autocast(device, torch.bfloat16, enabled=is_cast)


class Opponent(Critic):
    """The SR-UNet paper's discriminator. L_G = -log D(shown), L_D = -log D(source)
    - log(1 - D(shown)) (Goodfellow et al. 2014).
    """

    def __init__(self, weight: float, colour: Colour, device: torch.device, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Discriminator().to(device)
        super().__init__(net, _OPPONENT_WARM_UP, LEARNING_RATE)
        self._weight, self._colour = weight, colour

    def _term(self, net: nn.Module, sample: Sample) -> Tensor:
        return self._weight * F.softplus(-net(self._rgb(sample.shown))).mean()

    def _own_loss(self, sample: Sample, generate: Generate) -> Tensor:
        real, fake = (self.net(self._rgb(planes)) for planes in (sample.source, sample.shown))
        return sequence_loss(real, fake)

    def _rgb(self, planes: Planes) -> Tensor:
        height, width = planes.y.shape[2:]
        u, v = (chroma_to_444(plane, self._colour, height, width) for plane in planes[1:])
        return yuv444_to_rgb(planes.y, u, v, self._colour.matrix).clamp(0.0, 1.0)


def open_critic(
    objective: Objective, colour: Colour, device: torch.device, dtype: torch.dtype, seed: int
) -> Critic | None:
    """The critic that ``objective`` asks for, computing in ``dtype``; None if it asks for none."""
    if objective.learned is not None:
        learned = LearnedLoss(objective.learned, colour, device, seed)
        learned.dtype = dtype
        return learned
    if objective.adversary:
        return Opponent(objective.adversary, colour, device, seed)
    return None


@contextmanager
def _frozen(net: nn.Module) -> Iterator[None]:
    """No gradients for its weights: half of the backward pass is for them."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)


def _untrained(net: nn.Module) -> nn.Module:
    return net.requires_grad_(False)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
