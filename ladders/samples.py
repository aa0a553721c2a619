"""Which parts of a long title stand for it: whole scenes' beginnings, spread, cut losslessly.

    title ─ survey: frames, scene cuts ─> ranges of frames ─ make_excerpt ─> one source to probe

Short titles are taken whole. All samples of a title are one source, one after the other: a probe of
it is one stream, one fit and one set of scores, as the final encode is. So the weights have to
serve the whole title here too, and do not fit one scene as they could never fit the title.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import ffmpeg as ffmpeg_python

from codecaux.encoder.excerpt import Range
from codecaux.encoder.prepare import PreparedSource
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.ffmpeg import PICTURE_INPUT, Ffmpeg, file_argument, iterate_ffmpeg
from codecaux.ladders.settings import SamplingSettings

__all__ = ["choose_ranges", "detector_name", "find_cuts"]

# ffmpeg's scene score, 0..1; its own documentation's proposal.
_FFMPEG_THRESHOLD = 0.3
_SCORE_WIDTH = 320
_STAGE = "scenes"


def choose_ranges(
    num_frames: int, fps: Fraction, cuts: Sequence[int], settings: SamplingSettings
) -> tuple[Range, ...]:
    """Ranges of frames that stand for the title: rising, apart, each of at least one frame.

    The title is divided into as many equal parts as there are samples; in each the sample starts at
    the scene cut nearest to where it would stand in the middle, or there, where no scene starts
    early enough in the part. ``cuts``: first frames of scenes, rising. Pure.
    """
    duration = float(num_frames / fps)
    if settings.takes_whole(duration):
        return ((0, num_frames),)
    count = min(settings.wanted(duration), num_frames)
    length = max(1, min(round(settings.seconds * float(fps)), num_frames // count))
    bounds = [num_frames * part // count for part in range(count + 1)]
    ranges = []
    for start, end in pairwise(bounds):
        middle = start + (end - start - length) // 2
        inside = [cut for cut in cuts if start <= cut <= end - length]
        first = min(inside, key=lambda cut: abs(cut - middle), default=middle)
        ranges.append((first, length))
    return tuple(ranges)


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
    tick = f"{source.info.time_base.numerator}/{source.info.time_base.denominator}"
    video = ffmpeg_python.input(file_argument(source.path.resolve()), **PICTURE_INPUT)["V:0"]
    # Numbers of frames as timestamps: what is printed is then the index itself.
    video = video.filter("settb", expr=tick).filter("setpts", expr="N")
    video = video.filter("scale", width=str(_SCORE_WIDTH), height="-2")
    video = video.filter("select", f"gt(scene,{_FFMPEG_THRESHOLD})")
    video = video.filter("metadata", mode="print", file="cuts.txt")
    written = ffmpeg_python.output(video, "pipe:", format="null", fps_mode="passthrough")
    arguments = ffmpeg_python.get_args(written.global_args("-v", "warning"))
    # A simple name in a folder of its own: no path is ever inside a filter.
    with tempfile.TemporaryDirectory(prefix="codecaux-scenes-") as folder:
        running = iterate_ffmpeg(ffmpeg, arguments, cwd=Path(folder))
        try:
            for done in running:
                yield Progress(_STAGE, done, source.num_frames)
        finally:
            running.close()
        log = Path(folder) / "cuts.txt"
        return _parse_cuts(log.read_text(encoding="utf-8")) if log.exists() else []


def _parse_cuts(log: str) -> list[int]:
    """Indices out of the log of ffmpeg's ``metadata``: lines like "frame:0 pts:48 ..."."""
    cuts = []
    for line in log.splitlines():
        for word in line.split():
            if word.startswith("pts:"):
                with suppress(ValueError):
                    cuts.append(int(word[4:]))
    return cuts
