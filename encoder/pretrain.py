"""Training a base network: one loop over the patches of a whole corpus, resumable at any step.

    find_items ─> make_shards ─> load_bank ─> _Trainer ─> a base file (safetensors)

The loss is a fit's own objective on the picture as it will be shown, with the paper's adversarial
term by option.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codecaux.architecture import SrUnetConfig, net_config
from codecaux.bases import GENERATED_BASE_ID, get_base, known_base_ids, parse_base
from codecaux.colour import Planes
from codecaux.device import Device
from codecaux.encoder.bank import PatchBank, run_frames
from codecaux.encoder.corpus import Corpus, find_items
from codecaux.encoder.critic import Critic, Sample
from codecaux.encoder.discriminator import Adversary
from codecaux.encoder.goal import Goal, make_goal
from codecaux.encoder.objective import objective_by_name
from codecaux.encoder.parameters import FloatParameters, show
from codecaux.encoder.pretrain_settings import PretrainSettings
from codecaux.encoder.shards import ShardSettings, load_bank, make_shards
from codecaux.encoder.soap import Soap
from codecaux.encoder.training_run import PretrainResult, TrainingRun
from codecaux.encoder.warm_up import WarmUp, warm_up
from codecaux.errors import InputError, UsageError, WeightsBaseError
from codecaux.events import Events, Notice, StageDone, StageStarted
from codecaux.lpips import Lpips
from codecaux.video import SCALES, VideoFormat

__all__ = ["PretrainResult", "pretrain", "start_tensors"]

_FIRST = "down1.0.weight"
_SOAP = "soap/"


def pretrain(
    settings: PretrainSettings, device: Device, lpips: Lpips | None
) -> Events[PretrainResult]:
    """Train and write ``settings.output``, whole or not at all. Stopped, the same call goes on.

    Raises InputError for folders without usable media, before any time is spent; FitError on
    divergence.
    """
    if objective_by_name(settings.objective).heads > 1:
        raise UsageError(f"a base has one head: the objective {settings.objective} is for encode")
    config = net_config(settings.net, settings.scale)
    objective = objective_by_name(settings.objective).for_net(config)
    if settings.output.exists() and not settings.overwrite:
        raise UsageError(f"{settings.output} exists; add -y to replace it, or choose another")
    corpus = find_items(settings.folders)
    start = start_tensors(settings.start, settings.net, config)
    yield from _report(corpus)
    settings.work.mkdir(parents=True, exist_ok=True)
    goal = make_goal(objective, VideoFormat(1, 1).colour, lpips, settings.seed, device)
    if goal.has_stand_in:
        yield Notice("a loss network that learns from the corpus itself stands in for LPIPS")
    bank = yield from _patches(settings, corpus, goal.critic)
    trainer = _Trainer(settings, config, bank, goal, device, start)
    return (yield from trainer.base(len(bank), len(corpus.items)))


def _report(corpus: Corpus) -> Events[None]:
    photos = sum(item.kind == "photo" for item in corpus.items)
    yield Notice(f"{photos} photos and {len(corpus.items) - photos} videos")
    for path, reason in corpus.skipped[:8]:
        yield Notice(f"{path} is left out: {reason}", "warning")
    if len(corpus.skipped) > 8:
        yield Notice(f"{len(corpus.skipped) - 8} more are left out", "warning")


def _patches(
    settings: PretrainSettings, corpus: Corpus, critic: Critic | None
) -> Events[PatchBank]:
    started = time.monotonic()
    yield StageStarted("patches", len(corpus.items), "shards")
    shards, num_neighbours = _shard_settings(settings), 0
    if critic is not None and critic.around:
        shards = replace(shards, around=critic.around, coded_around=critic.wants_coded)
        num_neighbours = 4 if critic.wants_coded else 2
    paths = yield from make_shards(corpus.items, shards, settings.work, settings.jobs)
    bank = load_bank(paths, settings.bank_bytes, num_neighbours, shards.run)
    yield Notice(f"{len(bank)} {bank.what}, {bank.size_bytes / 2**20:.0f} MiB")
    yield StageDone("patches", time.monotonic() - started)
    return bank


def _shard_settings(settings: PretrainSettings) -> ShardSettings:
    return ShardSettings(
        settings.scale,
        crf=settings.crf,
        preset=settings.preset,
        seed=settings.seed,
        moves=settings.moves,
        run=run_frames(net_config(settings.net, settings.scale)),
    )


def start_tensors(start: str | None, net: str, config: SrUnetConfig) -> dict[str, Tensor]:
    """The generated initialisation, and what ``start`` (an id or a file) has of equal name and
    shape.
    """
    result = {n: torch.from_numpy(a) for n, a in get_base(GENERATED_BASE_ID, config).items()}
    if start is None:
        return result
    path = Path(start)
    if path.exists():
        found = parse_base(path.read_bytes()).base.tensors
    else:
        found = _known(start, net)
    return _taken_over(result, found)


def _taken_over(
    fresh: dict[str, Tensor], found: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, Tensor]:
    """``fresh`` with what ``found`` has of equal name and shape.

    Between scale 1 and the others the first kernel sees four phases of a pixel instead of one:
    it starts on their mean, or with their sum. What the last layer adds there means something
    else, so it starts afresh: a wrong residual at full rate kills the layers before it.
    """
    result = dict(fresh)
    for name, array in found.items():
        if name in result and tuple(result[name].shape) == array.shape:
            result[name] = torch.from_numpy(array.copy())
    first, old = fresh[_FIRST], torch.from_numpy(found[_FIRST].copy())
    if first.shape == old.shape:
        return result
    if first.shape[1] == 4 * old.shape[1]:
        result[_FIRST] = old.repeat_interleave(4, 1) / 4.0
    elif old.shape[1] == 4 * first.shape[1]:
        result[_FIRST] = old.reshape(old.shape[0], -1, 4, *old.shape[2:]).sum(2)
    return result | {name: fresh[name] for name in ("last.weight", "last.bias")}


def _known(base_id: str, net: str) -> dict[str, Any]:
    """A base of this net at any scale: only what has equal shapes is taken."""
    for scale in SCALES:
        with suppress(WeightsBaseError):
            return get_base(base_id, net_config(net, scale))
    raise InputError(
        f"expected the id of a base of the net {net} or a base file, got {base_id!r}; known ids: "
        f"{', '.join(known_base_ids())}"
    )


class _Trainer(TrainingRun[PretrainSettings]):
    """SOAP on the objective, a critic where it has one, the adversary by option."""

    warm_up_steps = 200

    def __init__(
        self,
        settings: PretrainSettings,
        config: SrUnetConfig,
        bank: PatchBank,
        goal: Goal,
        device: Device,
        start: Mapping[str, Tensor],
    ) -> None:
        on_device = {name: value.to(device.torch_device) for name, value in start.items()}
        super().__init__(settings, config, FloatParameters(config, on_device))
        self._bank, self._device = bank, device
        self._terms, self._critic = goal.terms, goal.critic
        self._latents = self._parameters.latents
        self._optimiser = Soap(self._latents)
        self._adversary: Adversary | None = None
        if settings.adversarial:
            colour = bank.format.colour
            self._adversary = Adversary(colour, device.torch_device, settings.seed)

    def _ready(self) -> Events[None]:
        """A critic that comes from no checkpoint warms up."""
        critic, settings = self._critic, self._settings
        if critic is None or critic.judge is not None:
            return
        plan = WarmUp(critic.warm_up, settings.seed, settings.batch).within(settings.steps)
        merged = {name: value.detach() for name, value in self._parameters.merged().items()}
        yield from warm_up(critic, self._bank, merged, self._config, self._device, plan)

    def _step(self, index: int) -> Tensor:
        settings = self._settings
        count = max(1, settings.batch // self._bank.run)
        chosen = self._rng(index).integers(0, len(self._bank), count)
        coded, source = self._bank.batch(chosen, self._device.torch_device)
        shown = self._shown(coded)
        loss = self._terms(shown, source)
        sample = Sample(shown, source, self._bank.around(chosen, self._device.torch_device))
        if self._critic is not None:
            loss = loss + self._critic.loss(sample)
        total = loss
        if self._adversary is not None:
            total = loss + settings.adversarial * self._adversary.generator_loss(shown)
        self._optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step(self._rate_at(index))
        if self._adversary is not None:
            self._adversary.learn(shown, source)
        if self._critic is not None:
            self._critic.learn(sample, torch.no_grad()(self._shown))
        return loss.detach()

    def _shown(self, coded: Planes) -> Planes:
        colour, dtype = self._bank.format.colour, self._device.compute_dtype
        merged = self._parameters.merged()
        return show(coded, merged, self._config, colour, dtype, self._bank.run)

    def _is_sound(self) -> bool:
        return self._critic is None or self._critic.is_finite

    def _scale_rates(self, scale: float) -> None:
        if self._critic is not None:
            self._critic.scale_rate(scale)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"latent/{name}": latent.detach() for name, latent in self._latents.items()}
        tensors |= {f"{_SOAP}{name}": value for name, value in self._optimiser.state().items()}
        if self._adversary is not None:
            tensors |= self._adversary.state()
        if self._critic is not None:
            tensors |= {f"critic/{name}": value for name, value in self._critic.state().items()}
        return tensors

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, latent in self._latents.items():
                latent.copy_(tensors[f"latent/{name}"])
        soap = {n.removeprefix(_SOAP): t for n, t in tensors.items() if n.startswith(_SOAP)}
        self._optimiser.restore(soap)
        if self._adversary is not None:
            self._adversary.restore(tensors)
        critic = {n.removeprefix("critic/"): t for n, t in tensors.items() if n[:7] == "critic/"}
        if self._critic is not None and critic:
            self._critic.restore(critic)
