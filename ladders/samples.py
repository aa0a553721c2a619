"""Which parts of a long title stand for it: scenes' beginnings, spread, alike it in the mean.

    title ─ survey: scene cuts, SI and TI ─> ranges of frames ─ make_excerpt ─> one source to probe

Short titles are taken whole. All samples of a title are one source, one after the other: a probe of
it is one stream, one fit and one set of scores, as the final encode is. So the weights have to
serve the whole title here too, and do not fit one scene as they could never fit the title.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import ffmpeg as ffmpeg_python
import numpy as np
from numpy.typing import NDArray

from codecaux.encoder.excerpt import Range
from codecaux.encoder.prepare import PreparedSource
from codecaux.errors import ToolFailedError
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.ffmpeg import PICTURE_INPUT, Ffmpeg, file_argument, iterate_ffmpeg
from codecaux.ladders.settings import SamplingSettings

__all__ = ["Busyness", "choose_ranges", "detector_name", "find_cuts", "measure_busyness"]

Busyness: TypeAlias = NDArray[np.float64]  # (frames, 2): log(1 + SI), log(1 + TI)
IntArray: TypeAlias = NDArray[np.signedinteger[Any]]
Parsed = TypeVar("Parsed")

# ffmpeg's scene score, 0..1; its own documentation's proposal.
_FFMPEG_THRESHOLD = 0.3
_SCORE_WIDTH = 320
_STAGE = "scenes"
_BUSYNESS_STAGE = "spatial and temporal information"
_BUSYNESS_WIDTH = 240
_LOG = "log.txt"
_MAX_SWEEPS = 16
_LEAST_GAIN = 1e-9


def choose_ranges(
    num_frames: int,
    fps: Fraction,
    cuts: Sequence[int],
    settings: SamplingSettings,
    busyness: Busyness | None = None,
) -> tuple[Range, ...]:
    """Ranges of frames that stand for the title: rising, apart, each of at least one frame.

    The title is divided into as many equal parts as there are pieces of samples. In each a piece
    may start at every scene that begins early enough, or where none does, in the middle and whole
    pieces away from it. Those nearest to the middles are taken first; where ``busyness`` (a row for
    every frame) is known, they are then exchanged, one at a time, as long as the mean over all
    pieces comes nearer to the title's. ``cuts``: first frames of scenes, rising. Pure.
    """
    duration = float(num_frames / fps)
    if settings.takes_whole(duration):
        return ((0, num_frames),)
    count = min(settings.pieces(duration), num_frames)
    wanted = settings.wanted(duration) * settings.seconds * float(fps)
    length = max(1, min(round(wanted / count), num_frames // count))
    bounds = [num_frames * part // count for part in range(count + 1)]
    starts, chosen = [], []
    for start, end in pairwise(bounds):
        middle = start + (end - start - length) // 2
        inside = [cut for cut in cuts if start <= cut <= end - length]
        if not inside:
            inside = [*range(middle, start - 1, -length)][::-1]
            inside += range(middle + length, end - length + 1, length)
        starts.append(np.array(inside))
        chosen.append(min(range(len(inside)), key=lambda i: abs(inside[i] - middle)))
    if busyness is not None:
        assert len(busyness) == num_frames
        chosen = _most_alike(starts, chosen, length, busyness)
    return tuple((int(part[i]), length) for part, i in zip(starts, chosen, strict=True))


def _most_alike(
    starts: Sequence[IntArray], chosen: Sequence[int], length: int, busyness: Busyness
) -> list[int]:
    """Which start to take in each part: coordinate descent from ``chosen``, to a local optimum."""
    spread = busyness.std(axis=0)
    scaled = busyness / np.where(spread > 0, spread, 1)
    sums = np.concatenate([np.zeros((1, scaled.shape[1])), np.cumsum(scaled, axis=0)])
    means = [(sums[part + length] - sums[part]) / length for part in starts]
    wanted = scaled.mean(axis=0) * len(starts)
    chosen = list(chosen)
    total = sum(mean[i] for mean, i in zip(means, chosen, strict=True))
    for _ in range(_MAX_SWEEPS):
        before = list(chosen)
        for part, mean in enumerate(means):
            others = total - mean[chosen[part]]
            distance = ((others + mean - wanted) ** 2).sum(axis=1)
            best = int(distance.argmin())
            # A hair's worth: two that are equally good must not change places for ever.
            if distance[best] < distance[chosen[part]] - _LEAST_GAIN:
                chosen[part] = best
            total = others + mean[chosen[part]]
        if chosen == before:
            break
    return chosen


# ---------------------------------------------------------------------------------------- busyness


def measure_busyness(source: PreparedSource, ffmpeg: Ffmpeg) -> Events[Busyness | None]:
    """Spatial and temporal information (ITU-T P.910) of every frame, as log(1 + value).

    By ffmpeg's ``siti`` on pictures of 240 columns, which tell more of VMAF than 480
    (docs/experiments.md, G5): one pass of decoding. None, with a notice,
    where that fails: samples can be placed without.
    """
    started = time.monotonic()
    yield StageStarted(_BUSYNESS_STAGE, source.num_frames)
    video = _numbered(source).filter("scale", width=str(_BUSYNESS_WIDTH), height="-2")
    video = video.filter("siti").filter("metadata", mode="print", file=_LOG)
    found = None
    try:
        found = yield from _logged(video, source, ffmpeg, _BUSYNESS_STAGE, _parse_busyness)
    except ToolFailedError as error:
        yield Notice(f"no spatial and temporal information: {error}", "warning")
    if found is not None and len(found) != source.num_frames:
        yield Notice(
            f"spatial and temporal information of {len(found)} frames instead of "
            f"{source.num_frames}; samples are placed without",
            "warning",
        )
        found = None
    yield StageDone(_BUSYNESS_STAGE, time.monotonic() - started)
    return found


def _parse_busyness(log: Iterable[str]) -> Busyness:
    """Of the log of ffmpeg's ``siti``: two lines a frame, "lavfi.siti.si=67.81" and "...ti=...".

    On a line that is no number: ToolFailedError.
    """
    values: dict[str, list[float]] = {"lavfi.siti.si": [], "lavfi.siti.ti": []}
    for line in log:
        name, _, value = line.strip().partition("=")
        if name in values:
            try:
                values[name].append(float(value))
            except ValueError as error:
                raise ToolFailedError(f"expected a number, got {line!r}") from error
    spatial, temporal = values.values()
    if len(spatial) != len(temporal):
        raise ToolFailedError("expected SI and TI of every frame in ffmpeg's log")
    found = np.array([spatial, temporal], np.float64).T
    logarithms: Busyness = np.log1p(np.maximum(found, 0))
    return logarithms


# ------------------------------------------------------------------------------------- scene cuts


def detector_name() -> str:
    """What :func:`find_cuts` uses here, with its version: a part of what its result depends on."""
    try:
        return f"scenedetect {metadata.version('scenedetect')}"
    except metadata.PackageNotFoundError:
        return "ffmpeg"


def find_cuts(source: PreparedSource, ffmpeg: Ffmpeg) -> Events[list[int]]:
    """First frames of the scenes of a source (0 is not among them), rising.

    By PySceneDetect where it is installed, else by ffmpeg's scene score. One pass of decoding.
    """
    started = time.monotonic()
    yield StageStarted(_STAGE, source.num_frames)
    cuts = None
    if detector_name() != "ffmpeg":
        try:
            cuts = _by_scenedetect(source.path)
        except Exception as error:  # a detector that fails is no reason to have no curve
            yield Notice(f"PySceneDetect failed ({error}); ffmpeg finds the scenes", "warning")
    if cuts is None:
        cuts = yield from _by_ffmpeg(source, ffmpeg)
    yield StageDone(_STAGE, time.monotonic() - started)
    return [cut for cut in cuts if 0 < cut < source.num_frames]


def _by_scenedetect(path: Path) -> list[int]:
    from scenedetect import AdaptiveDetector, detect

    # From the root on: what is before a colon in a bare name would be taken for a protocol.
    scenes = detect(str(path.absolute()), AdaptiveDetector())
    return [int(start.get_frames()) for start, _ in scenes]


def _by_ffmpeg(source: PreparedSource, ffmpeg: Ffmpeg) -> Events[list[int]]:
    """Frames that ffmpeg's ``scene`` score sets apart from the one before."""
    video = _numbered(source).filter("scale", width=str(_SCORE_WIDTH), height="-2")
    video = video.filter("select", f"gt(scene,{_FFMPEG_THRESHOLD})")
    video = video.filter("metadata", mode="print", file=_LOG)
    return (yield from _logged(video, source, ffmpeg, _STAGE, _parse_cuts))


def _parse_cuts(log: Iterable[str]) -> list[int]:
    """Indices out of the log of ffmpeg's ``metadata``: lines like "frame:0 pts:48 ..."."""
    cuts = []
    for line in log:
        for word in line.split():
            if word.startswith("pts:"):
                with suppress(ValueError):
                    cuts.append(int(word[4:]))
    return cuts


# ---------------------------------------------------------------------------- looking with ffmpeg


def _numbered(source: PreparedSource):  # type: ignore[no-untyped-def]
    """ffmpeg's pictures of a source with their numbers as timestamps: what is printed of a
    timestamp is then the index itself.
    """
    tick = f"{source.info.time_base.numerator}/{source.info.time_base.denominator}"
    video = ffmpeg_python.input(file_argument(source.path.resolve()), **PICTURE_INPUT)["V:0"]
    return video.filter("settb", expr=tick).filter("setpts", expr="N")


def _logged(  # type: ignore[no-untyped-def]
    video,
    source: PreparedSource,
    ffmpeg: Ffmpeg,
    stage: str,
    parse: Callable[[Iterable[str]], Parsed],
) -> Events[Parsed]:
    """Run filters over a whole source and parse what they printed into the file ``_LOG``."""
    written = ffmpeg_python.output(video, "pipe:", format="null", fps_mode="passthrough")
    arguments = ffmpeg_python.get_args(written.global_args("-v", "warning"))
    # A simple name in a folder of its own: no path is ever inside a filter.
    with tempfile.TemporaryDirectory(prefix="codecaux-scenes-") as folder:
        running = iterate_ffmpeg(ffmpeg, arguments, cwd=Path(folder))
        try:
            for done in running:
                yield Progress(stage, done, source.num_frames)
        finally:
            running.close()
        log = Path(folder) / _LOG
        if not log.exists():
            return parse(())
        with log.open(encoding="utf-8") as lines:
            return parse(lines)
