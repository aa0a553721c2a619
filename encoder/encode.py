"""The main job: one source in, a stream and its weights out, verified through the player's path.

    prepare -> tuning -> stream -> patches -> fit -> score -> finish

Every stage leaves a whole file in the work folder, so that a killed encode goes on where it was.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from codecaux import __version__
from codecaux.architecture import SrUnetConfig, net_config
from codecaux.atomic import write_atomic
from codecaux.bases import default_base_id
from codecaux.device import Device, choose_device
from codecaux.encoder.bank import PatchBank
from codecaux.encoder.bank_builder import build_banks, patch_shape
from codecaux.encoder.checks import bank_settings, check_encode
from codecaux.encoder.cuts import find_resets
from codecaux.encoder.fit import FitResult, FitTask, fit
from codecaux.encoder.fusion_choice import choose_fusion
from codecaux.encoder.goal import Goal, open_goal
from codecaux.encoder.headstart import HeadStart
from codecaux.encoder.objective import objective_by_name
from codecaux.encoder.prepare import PreparedSource, prepare
from codecaux.encoder.price import check_settings, measure_price
from codecaux.encoder.scenes import Scene, find_scenes, keyframe_indices
from codecaux.encoder.settings import EncodeSettings, changed_settings, default_steps
from codecaux.encoder.stream import AUTO_TUNING, StreamSettings, coded_colour, encode_stream
from codecaux.encoder.title_scores import TitleParts, score_title, title_runs, with_fusion
from codecaux.encoder.tuning import Viewer, choose_tuning
from codecaux.encoder.warm_up import ready_critic
from codecaux.encoder.workdir import WorkDir, held, open_work_dir
from codecaux.encoder.x265 import check_parameters
from codecaux.errors import (
    CodecauxError,
    InputError,
    LpipsUnavailableError,
)
from codecaux.events import Event, Events, Notice, StageDone, StageStarted
from codecaux.ffmpeg import Ffmpeg, find_ffmpeg
from codecaux.frames import read_frames
from codecaux.hevc import hash_stream
from codecaux.lpips import Lpips, LpipsNet, find_lpips
from codecaux.lpips_files import lpips_sha256
from codecaux.metadata import Fusion, Json, WeightsMetadata
from codecaux.rate import Rate, total_rate
from codecaux.scores import METRICS, Scores, ScoreTools
from codecaux.temporal import find_flow
from codecaux.video import Geometry
from codecaux.weightsfile import WeightsFile, pack, read_weights

__all__ = ["EncodeResult", "encode"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """What was made: two files, what they cost, how they score (plain and enhanced)."""

    stream: Path
    weights: Path
    rate: Rate
    scores: Mapping[str, Scores]
    stage_seconds: Mapping[str, float]
    device: str
    num_frames: int


def encode(settings: EncodeSettings, head: HeadStart | None = None) -> Events[EncodeResult]:
    """Make ``settings.output`` and ``settings.weights``; both appear whole or not at all.

    ``head``: what is there already, for whoever makes many encodes of one title.

    Interrupted at any moment, the same settings with ``resume`` go on. Raises the errors of its
    stages; see :mod:`codecaux.errors`.
    """
    check_encode(settings)
    ffmpeg = find_ffmpeg()
    check_parameters(ffmpeg, settings.stream.x265_params)
    device = choose_device(settings.device)
    head = head or HeadStart()
    work = open_work_dir(settings, head.content)
    with held(work):
        yield Notice(f"device: {device.description}")
        return (yield from _run(_Job(settings, ffmpeg, device, work, head)))


def _run(job: _Job) -> Events[EncodeResult]:
    settings, clock = job.settings, _Clock()
    try:
        source = yield from clock.watch(job.prepare())
        job = yield from clock.watch(job.tuned(source))
        yield from clock.watch(job.stream(source))
    except CodecauxError:
        # A refused source leaves nothing to go on with, and must not look like an interrupted one.
        if not settings.resume and not job.work.stream.exists():
            job.work.remove()
        raise
    yield from clock.watch(job.weights(source))
    scores = yield from clock.watch(job.score(source))
    yield from clock.watch(job.finish(scores))
    return EncodeResult(
        stream=settings.output,
        weights=settings.weights,
        rate=total_rate(settings.output, settings.weights),
        scores=scores,
        stage_seconds=clock.seconds,
        device=job.device.description,
        num_frames=source.num_frames,
    )


class _Clock:
    """Passes events through and notes how long each stage took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, events: Events[Result]) -> Events[Result]:
        with closing(events):
            while True:
                try:
                    event: Event = next(events)
                except StopIteration as stop:
                    result: Result = stop.value
                    return result
                if isinstance(event, StageDone):
                    passed = self.seconds.get(event.stage, 0.0)
                    self.seconds[event.stage] = passed + event.wall_seconds
                yield event


@dataclass(frozen=True, slots=True)
class _Job:
    """One encode's stages; each yields its own StageStarted and StageDone."""

    settings: EncodeSettings
    ffmpeg: Ffmpeg
    device: Device
    work: WorkDir
    head: HeadStart
    tuning: str = AUTO_TUNING

    @property
    def _stream_settings(self) -> StreamSettings:
        """With the tuning that was chosen. The settings stay as they were given: what is not the
        default is recorded in the weights, and every byte of that is paid for.
        """
        return replace(self.settings.stream, tuning=self.tuning)

    @property
    def _config(self) -> SrUnetConfig:
        heads = objective_by_name(self.settings.fit.objective).heads
        return replace(net_config(self.settings.net, self.settings.stream.scale), heads=heads)

    @property
    def _base_id(self) -> str:
        return self.settings.base or default_base_id(self._config)

    def prepare(self) -> Events[PreparedSource]:
        source = self.head.source
        if source is None:
            source = yield from prepare(
                self.settings.input, self.settings.source, self.work.path, ffmpeg=self.ffmpeg
            )
        self.work.bind(source.fingerprint)
        return source

    def tuned(self, source: PreparedSource) -> Events[_Job]:
        """This job with its stream's tuning; what was chosen before an interruption stays."""
        name = self.work.tuning
        if name is None:
            viewer = Viewer(self._config, self._base_id, self.device)
            tools, folder = ScoreTools(self.ffmpeg), self.work.tuning_folder
            name = yield from choose_tuning(source, self.settings.stream, viewer, tools, folder)
            self.work.keep_tuning(name)
        return replace(self, tuning=name)

    def stream(self, source: PreparedSource) -> Events[None]:
        if self.work.stream.exists():
            yield StageStarted("stream", source.num_frames)
            yield StageDone("stream", 0.0, resumed=True)
            return
        yield from encode_stream(
            source,
            self._stream_settings,
            self.work.stream,
            self.ffmpeg,
            takes_pictures=self.head.takes_pictures,
        )

    def weights(self, source: PreparedSource) -> Events[None]:
        """Patches, fit, pack: leaves the work folder's title.weights, without scores."""
        if self.work.weights.exists():
            yield StageStarted("fit", None, "steps")
            yield StageDone("fit", 0.0, resumed=True)
            return
        started = time.monotonic()
        yield StageStarted("patches", source.num_frames)
        scenes = self._scenes(source)
        goal = yield from self._goal(source)
        resets = find_resets(self._config, self.work.stream, source.info.format.bit_depth)
        bank, check = yield from self._banks(source, scenes, resets, goal)
        yield StageDone("patches", time.monotonic() - started)
        started = time.monotonic()
        yield StageStarted("fit", None, "steps")
        yield Notice(
            f"{len(bank)} of {bank.candidates} {bank.what}, {bank.size_bytes / 2**20:.0f} MiB"
        )
        fixed = (self._config, self._base_id, bank, goal.terms, self.device, self.settings.fit)
        start, critic = self.head.weights, goal.critic
        task = FitTask(*fixed, check, scenes=scenes, start=start, critic=critic)
        self.head.watch(task)
        # Before the price, which is judged by it.
        yield from ready_critic(task, self.work.checkpoint)
        price = yield from measure_price(
            source, self._stream_settings, task, self.work.price_folder
        )
        per_byte = price.per_byte(self.work.stream.stat().st_size) / self.head.times_longer
        task = replace(task, price=per_byte)
        size = source.info.format
        steps = default_steps(self.settings.net, source.num_frames * size.width * size.height)
        fitted = yield from fit(task, self.work.checkpoint, steps)
        file = self._file(source, fitted, resets)
        if self._config.heads > 1:
            lpips = yield from self._lpips("alex", "the fusion is chosen")
            title = TitleParts(
                source, self.work.stream, self.device, ScoreTools(self.ffmpeg, lpips)
            )
            fusion = yield from choose_fusion(file, title, self.settings.fit.sharpen)
            file = with_fusion(file, fusion)
        write_atomic(self.work.weights, pack(file))
        yield StageDone("fit", time.monotonic() - started)

    def _geometry(self, source: PreparedSource) -> Geometry:
        size = source.info.format
        return Geometry(size.width, size.height, self.settings.stream.scale)

    def _scenes(self, source: PreparedSource) -> tuple[Scene, ...]:
        if not self.settings.fit.scene_sets:
            return ((0, source.num_frames),)
        keyframes = keyframe_indices(self.work.stream)
        return find_scenes(keyframes, source.num_frames, source.info.average_fps)

    def _banks(
        self,
        source: PreparedSource,
        scenes: tuple[Scene, ...],
        resets: tuple[int, ...],
        goal: Goal,
    ) -> Events[tuple[PatchBank, PatchBank]]:
        """The patches to fit on, and those to judge by."""
        borders = tuple(sorted({*resets, *(first for first, _ in scenes)}))
        training = goal.bank_settings(replace(bank_settings(self.settings), resets=borders))
        with (
            closing(read_frames(self.work.stream)) as coded,  # type: ignore[type-var]
            closing(read_frames(source.path, info=source.info)) as original,  # type: ignore[type-var]
        ):
            bank, check = yield from build_banks(
                zip(coded, original, strict=True),
                source.num_frames,
                self._geometry(source),
                source.info.format,
                self._config.alignment,
                (training, check_settings(training, len(scenes))),
            )
        return bank, check

    def _goal(self, source: PreparedSource) -> Events[Goal]:
        bank, fit = bank_settings(self.settings), self.settings.fit
        height, width = patch_shape(self._geometry(source), bank.patch, self._config.alignment)
        scale = self.settings.stream.scale
        size = (int(height * scale), int(width * scale))
        objective = objective_by_name(fit.objective).for_net(self._config)
        colour = source.info.format.colour
        goal = yield from open_goal(objective, colour, size, fit.seed, self.device, self._lpips)
        has_lpips, named = goal.terms.lpips is not None, self.settings.lpips_weights
        self.work.bind_lpips(lpips_sha256("squeeze", explicit=named) if has_lpips else None)
        return goal

    def _lpips(self, net: LpipsNet, who: str) -> Events[Lpips | None]:
        """LPIPS on the device; None, and a notice, where its weights are not to be had."""
        try:
            lpips = find_lpips(net, explicit=self.settings.lpips_weights)
        except LpipsUnavailableError as error:
            yield Notice(f"{who} without LPIPS: {error}", "warning")
            return None
        return lpips.to(self.device.torch_device)

    def _file(
        self, source: PreparedSource, fitted: FitResult, resets: tuple[int, ...]
    ) -> WeightsFile:
        size = source.info.format
        stream = self._stream_settings
        metadata = WeightsMetadata(
            architecture=self._config,
            source_width=size.width,
            source_height=size.height,
            num_frames=source.num_frames,
            bit_depth=size.bit_depth,
            colour=coded_colour(size.colour),
            stream=hash_stream(self.work.stream),
            base_id=self._base_id,
            fusion=Fusion() if self._config.heads > 1 else None,
            codec={
                "encoder": "libx265",
                "crf": f"{stream.crf:g}",
                "preset": stream.preset,
                "downscale": stream.downscale,
                "tuning": stream.tuning,
                "x265_params": ":".join(f"{name}={value}" for name, value in stream.x265_params),
            },
            settings=self._recorded_settings(fitted),
            tools=_tools(self.ffmpeg),
            created_by=f"codecaux {__version__}",
            resets=resets,
        )
        return WeightsFile(metadata, fitted.sets)

    def _recorded_settings(self, fitted: FitResult) -> dict[str, Json]:
        """The settings that are not the defaults of the version that ``created_by`` names, and what
        was chosen: every byte of this is paid for. The input's path is nobody's business.
        """
        choices: dict[str, Json] = {c.name: [c.bytes, _short(c.loss)] for c in fitted.choices}
        done: dict[str, Json] = {"steps_done": fitted.steps, "final_loss": _short(fitted.loss)}
        done |= {"choices": choices, "price": _short(fitted.price)}
        return changed_settings(self.settings) | done

    def score(self, source: PreparedSource) -> Events[dict[str, Scores]]:
        """Decode both files through the player's own path and compare with the source."""
        lpips = yield from self._lpips("alex", "the scores are given")
        most = self.settings.lpips_frames
        tools = ScoreTools(
            self.ffmpeg, lpips, find_flow(), lpips_max_frames=most, tof_max_pairs=most
        )
        runs = title_runs(source, self.settings.score_seconds)
        title = TitleParts(source, self.work.stream, self.device, tools, runs)
        is_chosen = self.settings.fit.sharpen is None
        file, scores = yield from score_title(title, self.work.weights, is_chosen=is_chosen)
        write_atomic(self.work.weights, pack(file))
        return scores

    def finish(self, scores: Mapping[str, Scores]) -> Events[None]:
        """Write the scores into the weights file, give both files their final names."""
        started = time.monotonic()
        yield StageStarted("finish")
        file = read_weights(self.work.weights)
        plain = {name: {m: _short(s.value(m)) for m in METRICS} for name, s in scores.items()}
        scored = replace(file, metadata=replace(file.metadata, scores=plain))
        # The weights first: a stream without them plays, weights without a stream do not. They are
        # written, not moved: their folder may be on another disk.
        write_atomic(self.settings.weights, pack(scored))
        try:
            self.work.stream.replace(self.settings.output)
        except OSError as error:
            raise InputError(
                f"expected to move {self.work.stream} to {self.settings.output}, got: "
                f"{error.strerror}; it is where it was"
            ) from error
        self.work.remove()
        yield StageDone("finish", time.monotonic() - started)


def _short(value: float | None) -> float | None:
    """With five significant digits: more of them cost bytes and say nothing."""
    return None if value is None else float(f"{value:.5g}")


def _tools(ffmpeg: Ffmpeg) -> dict[str, str]:
    return {
        "codecaux": __version__,
        "ffmpeg": ffmpeg.version,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
