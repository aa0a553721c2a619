"""Learning a look from two folders without pairs: RAVE's cyclic framework on our own network.

    x (source) ─ G ─> y^ ─ H ─> x'        D judges (x, y) against (x^, y^)
    y (target) ─ H ─> x^ ─ G ─> y'        x' near x, y' near y

G becomes a base for scale 1, H (the degrader) is thrown away. Both are SR-UNets that run through
the player's own frame function.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig, net_config
from codecaux.colour import Planes, chroma_to_444, yuv444_to_rgb
from codecaux.device import Device
from codecaux.encoder.corpus import Corpus
from codecaux.encoder.joint_discriminator import (
    JointDiscriminator,
    cycle_loss,
    discriminator_loss,
    generator_loss,
)
from codecaux.encoder.parameters import FloatParameters, show
from codecaux.encoder.pretrain import start_tensors
from codecaux.encoder.training_run import PretrainResult, TrainingRun
from codecaux.encoder.training_state import fill, flatten
from codecaux.encoder.unpaired_patches import FolderPatches, find_folder, load_patches
from codecaux.encoder.unpaired_settings import UnpairedSettings
from codecaux.errors import UsageError
from codecaux.events import Events, Notice, StageDone, StageStarted

__all__ = ["pretrain_unpaired"]


def pretrain_unpaired(settings: UnpairedSettings, device: Device) -> Events[PretrainResult]:
    """Train and write ``settings.output``, whole or not at all. Stopped, the same call goes on.

    Raises InputError for folders without usable pictures, before any time is spent; FitError on
    divergence.
    """
    config = net_config(settings.net, Fraction(1))
    if config.is_recurrent:
        raise UsageError(
            f"expected a net that sees one frame for single pictures, got {settings.net}; "
            "choose another --net"
        )
    if settings.output.exists() and not settings.overwrite:
        raise UsageError(f"{settings.output} exists; add -y to replace it, or choose another")
    if settings.source.resolve() == settings.target.resolve():
        raise UsageError(f"expected two folders, got {settings.source} for both")
    corpora = [find_folder(folder, settings.crop) for folder in (settings.source, settings.target)]
    start = start_tensors(settings.start, settings.net, config)
    settings.work.mkdir(parents=True, exist_ok=True)
    source, target = yield from _patches(settings, corpora)
    trainer = _Trainer(settings, config, source, target, device, start)
    items = sum(len(corpus.items) for corpus in corpora)
    return (yield from trainer.base(len(source) + len(target), items))


def _patches(settings: UnpairedSettings, corpora: list[Corpus]) -> Events[list[FolderPatches]]:
    started = time.monotonic()
    yield StageStarted("patches", None, "pictures")
    banks = []
    for index, (name, corpus) in enumerate(zip(("source", "target"), corpora, strict=True)):
        for path, reason in corpus.skipped[:8]:
            yield Notice(f"{path} is left out: {reason}", "warning")
        bank = yield from load_patches(
            corpus.items,
            settings.crop,
            settings.patches,
            # Different places, should a picture stand in both folders.
            2 * settings.seed + index,
            settings.bank_bytes // 2,
        )
        yield Notice(f"{name}: {len(corpus.items)} pictures, {len(bank)} patches")
        banks.append(bank)
    yield StageDone("patches", time.monotonic() - started)
    return banks


class _Trainer(TrainingRun[UnpairedSettings]):
    """G, H and D in alternating steps (equation 1), an Adam for G and H and one for D."""

    warm_up_steps = 50

    def __init__(
        self,
        settings: UnpairedSettings,
        config: SrUnetConfig,
        source: FolderPatches,
        target: FolderPatches,
        device: Device,
        start: Mapping[str, Tensor],
    ) -> None:
        on_device = {name: value.to(device.torch_device) for name, value in start.items()}
        self._enhancer = FloatParameters(config, on_device)
        super().__init__(settings, config, self._enhancer)
        self._device, self._source, self._target = device, source, target
        # "We use the same network for the degrader" (section 3.2.1); it starts as the identity.
        fresh = start_tensors(None, settings.net, config)
        identity = {name: value.to(device.torch_device) for name, value in fresh.items()}
        self._degrader = FloatParameters(config, identity)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._judge = JointDiscriminator().to(device.torch_device)
        self._groups: dict[str, dict[str, Tensor]] = {
            "enhancer": self._enhancer.latents,
            "degrader": self._degrader.latents,
            "judge": dict(self._judge.named_parameters()),
        }
        makers = [*self._groups["enhancer"].values(), *self._groups["degrader"].values()]
        rate = settings.learning_rate
        self._optimisers = {
            "makers": torch.optim.Adam(makers, rate, foreach=True),
            "judge": torch.optim.Adam(self._judge.parameters(), rate, foreach=True),
        }

    def _step(self, index: int) -> Tensor:
        """One step of G and H, one of D, on the same pictures; the sum of both losses."""
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = self._rate_at(index)
        x, y = self._batch(index)
        real = (self._rgb(x), self._rgb(y))
        loss, fake = self._make(x, y, real)
        return loss + self._judge_step(real, fake)

    def _make(
        self, x: Planes, y: Planes, real: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """min over G, H of L_GAN^G + alpha L_cyc (1); what they made, (x^, y^), without graph."""
        enhance, degrade = self._enhancer.merged(), self._degrader.merged()
        y_made, x_made = self._show(x, enhance), self._show(y, degrade)
        x_back, y_back = self._show(y_made, degrade), self._show(x_made, enhance)
        made = (self._rgb(x_made), self._rgb(y_made))
        self._judge.requires_grad_(False)
        with torch.no_grad():
            real_logits = self._judge(*real)
        loss = generator_loss(real_logits, self._judge(*made))
        cycle = cycle_loss(real[0], self._rgb(x_back), real[1], self._rgb(y_back))
        total = loss + self._settings.cycle * cycle
        _descend(self._optimisers["makers"], total)
        self._judge.requires_grad_(True)
        return total.detach(), (made[0].detach(), made[1].detach())

    def _judge_step(self, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> Tensor:
        """min over D of L_GAN^D (1)."""
        loss = discriminator_loss(self._judge(*real), self._judge(*fake))
        _descend(self._optimisers["judge"], loss)
        return loss.detach()

    def _batch(self, index: int) -> tuple[Planes, Planes]:
        """x and y, drawn independently of one another."""
        rng = self._rng(index)
        device, count = self._device.torch_device, self._settings.batch
        x, y = (
            bank.batch(rng.integers(0, len(bank), count).tolist(), device)
            for bank in (self._source, self._target)
        )
        return x, y

    def _show(self, planes: Planes, merged: Mapping[str, Tensor]) -> Planes:
        colour = self._source.format.colour
        return show(planes, merged, self._config, colour, self._device.compute_dtype)

    def _rgb(self, planes: Planes) -> Tensor:
        """RGB [N, 3, H, W], not clipped: beyond white there is still a way back."""
        colour, (height, width) = self._source.format.colour, planes.y.shape[2:]
        u, v = (chroma_to_444(plane, colour, height, width) for plane in planes[1:])
        return yuv444_to_rgb(planes.y, u, v, colour.matrix)

    def _tensors(self) -> dict[str, Tensor]:
        return flatten(self._groups, self._optimisers)

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        fill(self._groups, self._optimisers, tensors)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
