"""Training a base network: one loop over the patches of a whole corpus, resumable at any step.

    find_items ─> make_shards ─> load_bank ─> _Trainer ─> a base file (safetensors)

The loss is a fit's own objective on the picture as it will be shown, with the paper's adversarial
term by option. Random choices of a step depend on (seed, step) alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codecaux.architecture import SrUnetConfig, net_config
from codecaux.atomic import write_atomic
from codecaux.bases import GENERATED_BASE_ID, Base, base_bytes, get_base, known_base_ids, parse_base
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
from codecaux.encoder.warm_up import WarmUp, warm_up
from codecaux.errors import FitError, InputError, UsageError, WeightsBaseError
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.lpips import Lpips
from codecaux.video import SCALES, VideoFormat

__all__ = ["PretrainResult", "pretrain", "start_tensors"]

_WARM_UP_STEPS = 200
_RATE_END = 0.02
_ADAM_BETAS = (0.9, 0.99)
_CHECK_EVERY = 20
_CHECKPOINT_SECONDS = 60.0
_FIRST = "down1.0.weight"


@dataclass(frozen=True, slots=True)
class PretrainResult:
    """Where the base is, its id, the last smoothed loss and how long the steps took."""

    output: Path
    base_id: str
    steps: int
    loss: float
    patches: int
    items: int
    train_seconds: float


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
    yield StageStarted("train", settings.steps, "steps")
    started = time.monotonic()
    loss = yield from trainer.run()
    data = base_bytes(Base(config, trainer.merged()), {"settings": settings.identity()})
    write_atomic(settings.output, data)
    trainer.checkpoint.unlink(missing_ok=True)
    yield StageDone("train", time.monotonic() - started)
    return PretrainResult(
        output=settings.output,
        base_id=parse_base(data).base_id,
        steps=settings.steps,
        loss=loss,
        patches=len(bank),
        items=len(corpus.items),
        train_seconds=trainer.seconds,
    )


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


class _Trainer:
    """Adam with warm-up and a cosine, the adversary by option, checkpoints."""

    def __init__(
        self,
        settings: PretrainSettings,
        config: SrUnetConfig,
        bank: PatchBank,
        goal: Goal,
        device: Device,
        start: Mapping[str, Tensor],
    ) -> None:
        self._settings, self._config, self._bank = settings, config, bank
        self._terms, self._critic, self._device = goal.terms, goal.critic, device
        on_device = {name: value.to(device.torch_device) for name, value in start.items()}
        self._parameters = FloatParameters(config, on_device)
        self._latents = self._parameters.latents
        self._optimiser = torch.optim.Adam(
            list(self._latents.values()), settings.learning_rate, betas=_ADAM_BETAS, foreach=True
        )
        self._adversary: Adversary | None = None
        if settings.adversarial:
            colour = bank.format.colour
            self._adversary = Adversary(colour, device.torch_device, settings.seed)
        self._rate_scale = 1.0
        self._smoothed = math.nan
        self.seconds = 0.0
        self.checkpoint = settings.work / f"{settings.output.name}.checkpoint"

    def merged(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """The network as it stands, name -> float32 array."""
        return {n: v.detach().cpu().numpy() for n, v in self._parameters.merged().items()}

    def run(self) -> Events[float]:
        """All steps from the checkpoint's (or the first); returns the smoothed loss."""
        index = self._load()
        yield from self._ready()
        if index:
            yield Notice(f"going on from step {index}")
        saved_at, losses = time.monotonic(), []
        self._save(index)
        while index < self._settings.steps:
            began = time.monotonic()
            losses.append(self._step(index))
            self.seconds += time.monotonic() - began
            index += 1
            if index % _CHECK_EVERY and index != self._settings.steps:
                continue
            if not self._accept(losses):
                index = yield from self._retry()
                losses = []
                continue
            losses = []
            if time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
                self._save(index)
                saved_at = time.monotonic()
            left = self.seconds / index * (self._settings.steps - index)
            yield Progress("train", index, self._settings.steps, "steps", self._smoothed, left)
        return self._smoothed

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
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate_at(index)
        generator = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence((settings.seed, index)))
        )
        chosen = generator.integers(0, len(self._bank), max(1, settings.batch // self._bank.run))
        coded, source = self._bank.batch(chosen, self._device.torch_device)
        shown = self._shown(coded)
        loss = self._terms(shown, source)
        sample = Sample(shown, source, self._bank.around(chosen, self._device.torch_device))
        if self._critic is not None:
            loss = loss + self._critic.loss(sample)
        total = loss
        if self._adversary is not None:
            total = loss + settings.adversarial * self._adversary.generator_loss(shown)
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        if self._adversary is not None:
            self._adversary.learn(shown, source)
        if self._critic is not None:
            self._critic.learn(sample, torch.no_grad()(self._shown))
        return loss.detach()

    def _shown(self, coded: Planes) -> Planes:
        colour, dtype = self._bank.format.colour, self._device.compute_dtype
        merged = self._parameters.merged()
        return show(coded, merged, self._config, colour, dtype, self._bank.run)

    def _rate_at(self, index: int) -> float:
        cosine = 0.5 * (1.0 + math.cos(math.pi * index / self._settings.steps))
        rate = self._settings.learning_rate * (_RATE_END + (1.0 - _RATE_END) * cosine)
        return rate * min(1.0, (index + 1) / _WARM_UP_STEPS) * self._rate_scale

    def _accept(self, losses: list[Tensor]) -> bool:
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean) or (self._critic is not None and not self._critic.is_finite):
            return False
        old = self._smoothed
        self._smoothed = mean if math.isnan(old) else 0.95 * old + 0.05 * mean
        return True

    def _retry(self) -> Events[int]:
        if self._rate_scale < 1.0:
            raise FitError(
                "the training diverged twice: expected a finite loss, got NaN or infinity at half "
                "the learning rate too; give a lower --learning-rate"
            )
        index = self._load()
        self._rate_scale = 0.5
        if self._critic is not None:
            self._critic.scale_rate(0.5)
        yield Notice(f"the training diverged; back to step {index}, half the rate", "warning")
        return index

    def _save(self, index: int) -> None:
        tensors: dict[str, Tensor] = {}
        for name, latent in self._latents.items():
            tensors[f"latent/{name}"] = latent.detach()
            for key, value in self._optimiser.state.get(latent, {}).items():
                tensors[f"adam/{name}/{key}"] = torch.as_tensor(value)
        if self._adversary is not None:
            tensors |= self._adversary.state()
        if self._critic is not None:
            tensors |= {f"critic/{name}": value for name, value in self._critic.state().items()}
        record = {
            "step": index,
            "rate_scale": self._rate_scale,
            "loss": self._smoothed,
            "seconds": self.seconds,
            "settings": self._settings.identity(),
        }
        data = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        write_atomic(self.checkpoint, safetensors.torch.save(data, {"state": json.dumps(record)}))

    def _load(self) -> int:
        """Restore the checkpoint; its step, 0 where there is none."""
        if not self.checkpoint.exists():
            return 0
        try:
            with safe_open(self.checkpoint, "pt") as file:
                record = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"expected a checkpoint at {self.checkpoint}, got a damaged one ({error}); "
                "remove it to start again"
            ) from error
        _check_same(record["settings"], self._settings.identity(), self.checkpoint)
        self._restore(tensors)
        self._rate_scale = record["rate_scale"]
        if self._critic is not None:
            self._critic.scale_rate(self._rate_scale)
        self._smoothed, self.seconds = record["loss"], record["seconds"]
        return int(record["step"])

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, latent in self._latents.items():
                latent.copy_(tensors[f"latent/{name}"])
                prefix = f"adam/{name}/"
                found = {
                    key.removeprefix(prefix): value
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
                self._optimiser.state.pop(latent, None)
                if found:
                    self._optimiser.state[latent] = {
                        key: value if key == "step" else value.to(latent)
                        for key, value in found.items()
                    }
        if self._adversary is not None:
            self._adversary.restore(tensors)
        critic = {n.removeprefix("critic/"): t for n, t in tensors.items() if n[:7] == "critic/"}
        if self._critic is not None and critic:
            self._critic.restore(critic)


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    changed = sorted(key for key in wanted if found.get(key) != wanted[key])
    if changed:
        raise UsageError(
            f"{path} was made with another {', '.join(changed)}; give the same settings, another "
            "--work, or remove it"
        )
