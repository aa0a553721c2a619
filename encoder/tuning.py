"""Which of x265's options a title wants: is finer chroma worth its bits?

VMAF v1 sees chroma, and what chroma loses no network finds again: most titles have the same VMAF v1
for fewer bits where chroma is coded 4 QP finer (the tuning "network", F15 in docs/experiments.md).
NEG, which sees luma alone, pays for that. Where chroma is a large part of the bits it costs more
than it brings (F42), and "luma", the same without, is the better one.

An excerpt is coded three times, "network" at the stream's CRF c, "luma" at c and c - 2, and shown
through the base network: the fitted one does not exist yet. With R the bytes and V the mean of a
metric over what is shown::

    ln R*  = ln R_luma(c) + (V_network(c) - V_luma(c)) * slope
    slope  = (ln R_luma(c - 2) - ln R_luma(c)) / (V_luma(c - 2) - V_luma(c))
    change = R_network(c) / R* - 1        of the rate at equal V, by finer chroma

"network" it is where the rate that it saves at equal VMAF v1 is no less than what it costs at equal
NEG.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from codecaux.architecture import SrUnetConfig
from codecaux.bases import get_base
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.sets import FloatSet
from codecaux.device import Device
from codecaux.encoder.prepare import PreparedSource
from codecaux.encoder.price import middle
from codecaux.encoder.stream import AUTO_TUNING, StreamSettings, encode_stream
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted, drain
from codecaux.frames import read_frames
from codecaux.probe import probe
from codecaux.scores import Scorer, Scores, ScoreTools
from codecaux.video import ClipInfo, Frame, VideoFormat
from codecaux.vmaf import missing_reasons

__all__ = ["CRF_STEP", "CodedTry", "Viewer", "change_by_chroma", "choose_tuning", "named_tuning"]

_STAGE = "tuning"
CRF_STEP = 2.0
_CHROMA_PARAMETERS = frozenset({"cbqpoffs", "crqpoffs"})
# Frames of the excerpt: as many as have so many luma pixels, within these bounds.
_EXCERPT_PIXELS = 25_000_000
_FEWEST_FRAMES, _MOST_FRAMES = 24, 96
_METRICS = ("vmaf_v1", "vmaf_v061_neg")
# Of a VMAF, between two CRFs: with less there is nothing to measure by.
_LEAST_SLOPE = 0.05


@dataclass(frozen=True, slots=True)
class Viewer:
    """How a stream will be shown: by which network, before it is fitted, on which device."""

    config: SrUnetConfig
    base_id: str
    device: Device


@dataclass(frozen=True, slots=True)
class CodedTry:
    """An excerpt coded in one way: its bytes, and the mean scores of what is shown of it."""

    size_bytes: int
    scores: Mapping[str, float]


def change_by_chroma(tries: Mapping[str, CodedTry], metric: str) -> float | None:
    """The rate of "network" at equal ``metric``, by that of "luma", less 1 (below 0: fewer bits).

    ``tries``: these two and "finer", which is "luma" at a lower CRF. None where the metric is
    missing, or shows no more for more bits: a title that is perfect already, or black.
    """
    network, luma, finer = (tries[name] for name in ("network", "luma", "finer"))
    if any(metric not in each.scores for each in (network, luma, finer)):
        return None
    gain = finer.scores[metric] - luma.scores[metric]
    if gain < _LEAST_SLOPE or finer.size_bytes <= luma.size_bytes:
        return None
    slope = math.log(finer.size_bytes / luma.size_bytes) / gain
    wanted = (network.scores[metric] - luma.scores[metric]) * slope
    return math.expm1(math.log(network.size_bytes / luma.size_bytes) - wanted)


def named_tuning(settings: StreamSettings, layout: VideoFormat) -> str | None:
    """The tuning of a source of ``layout`` where there is nothing to try; None where it is open.

    "auto" is "network" where the user's own x265 parameters say what chroma gets, and where the
    pictures are too small for VMAF.
    """
    if settings.tuning != AUTO_TUNING:
        return settings.tuning
    has_own = _CHROMA_PARAMETERS & {name for name, _ in settings.x265_params}
    return "network" if has_own or missing_reasons(layout).keys() & _METRICS else None


def choose_tuning(
    source: PreparedSource,
    settings: StreamSettings,
    viewer: Viewer,
    tools: ScoreTools,
    folder: Path,
) -> Events[str]:
    """The name of the tuning for ``source`` at the CRF and scale of ``settings``: that one itself,
    but for "auto". ``folder`` holds the coded excerpts meanwhile, and is removed.

    Where VMAF cannot tell, it is "network".
    """
    named = named_tuning(settings, source.info.format)
    if named is not None:
        return named
    started = time.monotonic()
    yield StageStarted(_STAGE)
    network, luma = (replace(settings, tuning=name) for name in ("network", "luma"))
    finer = replace(luma, crf=max(settings.crf - CRF_STEP, 0.0))
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    folder.mkdir(parents=True)
    excerpt = middle(source, _num_frames(source.info.format))
    streams = {}
    for name, way in {"network": network, "luma": luma, "finer": finer}.items():
        streams[name] = folder / f"{name}.mkv"
        drain(encode_stream(excerpt, way, streams[name], tools.ffmpeg))
    tries = yield from _scored(excerpt, streams, viewer, tools)
    shutil.rmtree(folder)
    chosen, reason = _chosen([change_by_chroma(tries, metric) for metric in _METRICS])
    yield Notice(f"tuning {chosen}: {reason}")
    yield StageDone(_STAGE, time.monotonic() - started)
    return chosen


def _num_frames(layout: VideoFormat) -> int:
    wanted = _EXCERPT_PIXELS // (layout.width * layout.height)
    return min(max(wanted, _FEWEST_FRAMES), _MOST_FRAMES)


def _chosen(changes: Sequence[float | None]) -> tuple[str, str]:
    """A tuning and why, by what finer chroma changes at equal VMAF v1 and at equal NEG."""
    v1, neg = changes
    if v1 is None or neg is None:
        return "network", "VMAF does not tell what finer chroma is worth here"
    reason = f"finer chroma changes the rate by {v1:+.1%} at equal VMAF v1, {neg:+.1%} at equal NEG"
    return ("luma" if v1 + neg > 0 else "network"), reason


def _scored(
    excerpt: PreparedSource, streams: Mapping[str, Path], viewer: Viewer, tools: ScoreTools
) -> Events[dict[str, CodedTry]]:
    """Bytes and scores of every stream, shown side by side."""
    info, count, first = excerpt.info, excerpt.num_frames, excerpt.first_frame
    tools = replace(tools, lpips=None, flow=None, only=frozenset(_METRICS))
    with ExitStack() as stack:
        scorer = stack.enter_context(
            Scorer(info.format, tuple(streams), tools, fps=info.average_fps, num_frames_hint=count)
        )
        original = stack.enter_context(closing(_frames(excerpt.path, first, count, info)))
        pictures = {
            name: stack.enter_context(closing(_enhanced(path, info, viewer)))
            for name, path in streams.items()
        }
        for done, frame in enumerate(original, 1):
            scorer.add(frame, {name: next(frames) for name, frames in pictures.items()})
            yield Progress(_STAGE, done, count)
        scores = scorer.finish()
    return {
        name: CodedTry(path.stat().st_size, _means(scores[name])) for name, path in streams.items()
    }


def _means(scores: Scores) -> dict[str, float]:
    values = {metric: scores.value(metric) for metric in _METRICS}
    return {metric: value for metric, value in values.items() if value is not None}


def _enhanced(stream: Path, source: ClipInfo, viewer: Viewer) -> Generator[Frame, None, None]:
    """What the player shows of ``stream`` with the base network's own weights."""
    config = replace(viewer.config, heads=1)
    base = get_base(viewer.base_id, config)
    weights = {name: torch.from_numpy(value) for name, value in base.items()}
    sets = (FloatSet(0, None, weights),)
    coded = replace(probe(stream).format, colour=source.format.colour)
    size = (source.format.width, source.format.height)
    enhancer = Enhancer(coded, size, config, sets, viewer.device)
    with closing(read_frames(stream)) as frames:  # type: ignore[type-var]
        for index, frame in enumerate(frames):
            yield enhancer.enhance(frame, index).enhanced


def _frames(path: Path, first: int, count: int, info: ClipInfo) -> Generator[Frame, None, None]:
    with closing(read_frames(path, info=info)) as frames:  # type: ignore[type-var]
        yield from islice(frames, first, first + count)
