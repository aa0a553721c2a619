"""Parts of a prepared source as a source of its own: cut losslessly, put one after the other.

    source ─ pick frames by number ─ close the gaps in time ─> folder/excerpt.mov (FFV1)
                                                               folder/excerpt.json (what it is)

Frames are whole and bit-exact, with the source's own colour, depth, rate and shape; silent. What is
made of an excerpt is made by the same code as of a title: it is an ordinary PreparedSource.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import ffmpeg as ffmpeg_python
import numpy as np

from codecaux.atomic import atomic_path, write_atomic
from codecaux.encoder.prepare import PreparedSource, lossless_arguments
from codecaux.encoder.scan import quick_fingerprint, scan
from codecaux.errors import InputError, ToolFailedError
from codecaux.events import Events, Progress, StageDone, StageStarted
from codecaux.ffmpeg import PICTURE_INPUT, Ffmpeg, file_argument, iterate_ffmpeg
from codecaux.probe import probe
from codecaux.video import ClipInfo, Colour, VideoFormat

__all__ = ["Range", "make_excerpt", "open_excerpt"]

Range: TypeAlias = tuple[int, int]  # first frame, number of frames

_STAGE = "excerpt"
_COPY_FLAGS = "accurate_rnd+full_chroma_int+full_chroma_inp"


def make_excerpt(
    source: PreparedSource, ranges: Sequence[Range], folder: Path, ffmpeg: Ffmpeg
) -> Events[PreparedSource]:
    """Cut ``ranges`` (rising, apart, at least one) out of ``source`` into ``folder``.

    Every frame keeps its duration. ToolFailedError where ffmpeg gives other frames than were asked
    for.
    """
    _check_ranges(source, ranges)
    total = sum(count for _, count in ranges)
    started = time.monotonic()
    yield StageStarted(_STAGE, total)
    path = folder / "excerpt.mov"
    with atomic_path(path) as temporary:
        arguments = _arguments(source, ranges, temporary)
        with closing(iterate_ffmpeg(ffmpeg, arguments)) as running:
            for done in running:
                yield Progress(_STAGE, min(done, total), total)
    info = _info(path, source.info)
    counted = yield from scan(info, stage=_STAGE)
    starts, end = _expected_seconds(source, ranges)
    seconds = [int(pts) * info.time_base for pts in counted.pts]
    if [s - seconds[0] for s in seconds] != starts:
        raise ToolFailedError(
            f"expected {total} frames of {source.path} at their own times in an excerpt, got "
            f"{counted.num_frames} frames or other times"
        )
    result = replace(
        source,
        path=path,
        info=info,
        num_frames=total,
        duration_seconds=end,
        original=None,
        pts=counted.pts,
        fingerprint=quick_fingerprint(path),
        has_timestamps=True,
        start_seconds=Fraction(0),
    )
    write_atomic(folder / "excerpt.json", json.dumps(_to_json(result)).encode())
    yield StageDone(_STAGE, time.monotonic() - started)
    return result


def open_excerpt(folder: Path) -> PreparedSource | None:
    """What :func:`make_excerpt` left in ``folder``; None where it did not come to its end."""
    path = folder / "excerpt.mov"
    try:
        record = json.loads((folder / "excerpt.json").read_bytes())
        info = _info(path, _like(path, record))
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return PreparedSource(
        path=path,
        info=info,
        num_frames=len(record["pts"]),
        duration_seconds=Fraction(record["duration_seconds"]),
        original=None,
        pts=np.asarray(record["pts"], np.int64),
        fingerprint=record["fingerprint"],
    )


def _check_ranges(source: PreparedSource, ranges: Sequence[Range]) -> None:
    end = 0
    for first, count in ranges:
        assert end <= first, f"expected ranges that rise and lie apart, got {ranges}"
        assert count >= 1
        end = first + count
    assert 0 < end <= source.num_frames, f"expected ranges of {source.num_frames} frames: {ranges}"
    assert not source.is_excerpt


# -------------------------------------------------------------------------------------- arguments


def _arguments(source: PreparedSource, ranges: Sequence[Range], output: Path) -> list[str]:
    """ffmpeg's command line without the program. Pure."""
    video = ffmpeg_python.input(file_argument(source.path), **PICTURE_INPUT)["V:0"]
    tick = f"{source.info.time_base.numerator}/{source.info.time_base.denominator}"
    if not source.has_timestamps:
        video = video.filter("settb", expr=tick).filter("setpts", expr="N")
    within = [f"between(n,{first},{first + count - 1})" for first, count in ranges]
    chosen = _by_number("n", within, [first + count for first, count in ranges])
    video = video.filter("select", chosen).filter("settb", expr=tick)
    video = video.filter("setpts", expr=_closing_gaps(source, ranges))
    if source.info.pixel_format != source.info.format.pixel_format:
        # yuvj420p under its plain name; the values are left alone.
        colour_range = "full" if source.info.format.colour.full_range else "limited"
        video = video.filter(
            "scale", in_range=colour_range, out_range=colour_range, flags=_COPY_FLAGS
        )
        video = video.filter("format", pix_fmts=source.info.format.pixel_format)
    return lossless_arguments(video, output)


def _closing_gaps(source: PreparedSource, ranges: Sequence[Range]) -> str:
    """setpts' expression: each range begins where the one before ends. N counts chosen frames."""
    start = int(source.pts[ranges[0][0]])
    moves, ends = [], []
    elapsed = done = 0
    for first, count in ranges:
        moves.append(f"PTS-STARTPTS-{int(source.pts[first]) - start - elapsed}")
        done += count
        ends.append(done)
        if first + count < source.num_frames:
            elapsed += int(source.pts[first + count]) - int(source.pts[first])
    return _by_number("N", moves, ends)


def _by_number(variable: str, expressions: Sequence[str], ends: Sequence[int]) -> str:
    """The expression of the range that frame ``variable`` is of; range i ends before ``ends[i]``.

    A balanced tree of conditions: ffmpeg takes only about a hundred terms in one another.
    """
    if len(expressions) == 1:
        return expressions[0]
    half = len(expressions) // 2
    early = _by_number(variable, expressions[:half], ends[:half])
    late = _by_number(variable, expressions[half:], ends[half:])
    return f"if(lt({variable},{ends[half - 1]}),{early},{late})"


def _expected_seconds(
    source: PreparedSource, ranges: Sequence[Range]
) -> tuple[list[Fraction], Fraction]:
    """When each frame of the excerpt is to be shown, from 0 on, and when the last one ends."""
    base = source.info.time_base
    end_of_all = source.pts[0] + int(source.duration_seconds / base)
    ends = [*map(int, source.pts[1:]), int(end_of_all)]
    starts: list[Fraction] = []
    now = Fraction(0)
    for first, count in ranges:
        for index in range(first, first + count):
            starts.append(now)
            now += (ends[index] - int(source.pts[index])) * base
    return starts, now


# ---------------------------------------------------------------------------------------- the info


def _info(path: Path, like: ClipInfo) -> ClipInfo:
    """The file's own description, but for what FFV1 in QuickTime does not say."""
    return replace(
        probe(path),
        format=like.format,
        sample_aspect_ratio=like.sample_aspect_ratio,
        average_fps=like.average_fps,
        rotation_degrees=like.rotation_degrees,
        is_interlaced=False,
    )


def _to_json(source: PreparedSource) -> dict[str, Any]:
    info = source.info
    return {
        "format": asdict(info.format),
        "sample_aspect_ratio": str(info.sample_aspect_ratio),
        "average_fps": str(info.average_fps),
        "rotation_degrees": info.rotation_degrees,
        "pts": source.pts.tolist(),
        "duration_seconds": str(source.duration_seconds),
        "fingerprint": source.fingerprint,
    }


def _like(path: Path, record: dict[str, Any]) -> ClipInfo:
    if quick_fingerprint(path) != record["fingerprint"]:
        raise ValueError("another file")
    layout = dict(record["format"])
    colour = Colour(**layout.pop("colour"))
    return ClipInfo(
        path=path,
        format=VideoFormat(**layout, colour=colour),
        pixel_format="",
        log2_chroma_w=1,
        log2_chroma_h=1,
        codec_name="ffv1",
        time_base=Fraction(1),
        average_fps=Fraction(record["average_fps"]),
        sample_aspect_ratio=Fraction(record["sample_aspect_ratio"]),
        rotation_degrees=record["rotation_degrees"],
    )
