"""Scores of whole videos: pairs frames by index, fails when counts or sizes differ.

``measure`` takes the distorted versions as an iterator, so that a player's output is scored
without ever being written; ``measure_files`` is the same for two files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from codecaux.errors import InputError
from codecaux.events import Event, Events, Notice, Progress, StageDone, StageStarted
from codecaux.frames import read_frames
from codecaux.probe import probe
from codecaux.sampling import Runs
from codecaux.scores import Scorer, Scores, ScoreTools
from codecaux.video import ClipInfo, Frame, SampleArray, VideoFormat

__all__ = ["Watch", "common_format", "measure", "measure_files", "to_bit_depth"]

# Sees each frame of the reference with its versions by name, all of one format, as it is scored.
Watch = Callable[[VideoFormat, Frame, Mapping[str, Frame]], None]

_EVERYTHING = Runs()
_NO_MORE: Mapping[str, Frame] = {}
_STAGE = "score"
_NAME = "distorted"


def measure(
    reference: Path,
    versions: Iterable[Mapping[str, Frame] | None],
    names: Iterable[str],
    tools: ScoreTools,
    *,
    format: VideoFormat | None = None,
    watch: Watch | None = None,
    runs: Runs = _EVERYTHING,
) -> Events[dict[str, Scores]]:
    """Score one or more versions (by name, frame by frame, in display order) of ``reference``.

    ``format`` is what the pictures are compared in: the reference's own by default; another bit
    depth where the versions have it (the reference is then converted). ``watch`` sees
    every frame that is scored, for pictures beside the scores. Where ``runs`` leaves a frame out,
    its versions may be None: it is counted, not compared. Yields progress by frame.
    Raises InputError where the number of frames or a picture's size differs.
    """
    started = time.monotonic()
    info = probe(reference)
    target = format or info.format
    total = info.num_frames_from_header
    yield StageStarted(_STAGE, total)
    ours = (to_bit_depth(f, info.format, target) for f in read_frames(reference, info=info))
    hint = None if total is None else runs.count(total)
    with Scorer(target, tuple(names), tools, fps=info.average_fps, num_frames_hint=hint) as scorer:
        see = partial(watch, target) if watch is not None else None
        yield from _add_all(scorer, ours, iter(versions), total, see, runs)
        scores = scorer.finish()
    yield StageDone(_STAGE, time.monotonic() - started)
    return scores


def _add_all(
    scorer: Scorer,
    ours: Iterator[Frame],
    theirs: Iterator[Mapping[str, Frame] | None],
    total: int | None,
    see: Callable[[Frame, Mapping[str, Frame]], None] | None,
    runs: Runs,
) -> Generator[Event, None, None]:
    done = 0
    for frame in ours:
        version = next(theirs, _NO_MORE)
        if version is _NO_MORE:
            expected = done + 1 + sum(1 for _ in ours)
            raise _count_error(f"expected {expected} frames as in the reference, got {done}")
        if runs.wants(done):
            assert version is not None, f"expected versions of frame {done}, which is scored"
            if runs.begins(done):
                scorer.begin_run()
            scorer.add(frame, version)
            if see is not None:
                see(frame, version)
        done += 1
        yield Progress(_STAGE, done, total)
    if next(theirs, _NO_MORE) is not _NO_MORE:
        raise _count_error(f"expected {done} frames as in the reference, got more")


def _count_error(what: str) -> InputError:
    return InputError(
        f"{what}; frames are paired by index, so both must hold the same frames: cut them to the "
        "same part, or encode without dropping or doubling frames"
    )


def measure_files(
    reference: Path, distorted: Path, tools: ScoreTools, watch: Watch | None = None
) -> Events[Scores]:
    """Score one file against its reference, both at the reference's size.

    Where the bit depths differ, the 8-bit side is converted to 10 bits. Raises InputError as
    ``measure`` does, and for a file of another size.
    """
    ours, theirs = probe(reference), probe(distorted)
    target = common_format(ours, theirs)
    difference = _colour_difference(ours.format, theirs.format)
    if difference is not None:
        yield Notice(difference, "warning")
    frames = (
        {_NAME: to_bit_depth(frame, theirs.format, target)}
        for frame in read_frames(distorted, info=theirs)
    )
    scores = yield from measure(reference, frames, [_NAME], tools, format=target, watch=watch)
    return scores[_NAME]


def common_format(reference: ClipInfo, distorted: ClipInfo) -> VideoFormat:
    """The reference's format at the larger of both bit depths. InputError where sizes differ."""
    ours, theirs = reference.format, distorted.format
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        raise InputError(
            f"expected {distorted.path} to have the reference's size {ours.width}x{ours.height}, "
            f"got {theirs.width}x{theirs.height}; for a coded stream of codecaux add --weights (it "
            "is then shown as the player shows it), otherwise scale the file first"
        )
    return replace(ours, bit_depth=max(ours.bit_depth, theirs.bit_depth))


def _colour_difference(ours: VideoFormat, theirs: VideoFormat) -> str | None:
    """A warning where equal sample values mean different colours on the two sides."""
    reference, distorted = _meaning(ours), _meaning(theirs)
    if reference == distorted:
        return None
    return f"the reference is {reference}, the other file {distorted}; both scored as {reference}"


def _meaning(format: VideoFormat) -> str:
    return f"{format.colour.matrix} {'full' if format.colour.full_range else 'limited'} range"


def to_bit_depth(frame: Frame, source: VideoFormat, target: VideoFormat) -> Frame:
    """8-bit samples as 10-bit ones: times 4, or 1023/255 for full range; else the frame itself."""
    if source.bit_depth == target.bit_depth:
        return frame
    if source.bit_depth > target.bit_depth:
        raise InputError("expected to convert 8 bits to 10, got 10 to 8; compare at 10 bits")
    y, u, v = (
        _widen(plane, full_range=source.colour.full_range, is_chroma=index > 0)
        for index, plane in enumerate(frame.planes)
    )
    return Frame(y, u, v, frame.pts)


def _widen(plane: SampleArray, *, full_range: bool, is_chroma: bool) -> SampleArray:
    if not full_range:
        return plane.astype(np.uint16) * 4
    # Neutral chroma is 128 of 255 and 512 of 1023.
    zero, wide_zero = (128, 512) if is_chroma else (0, 0)
    wide = np.rint((plane.astype(np.float64) - zero) * (1023 / 255)) + wide_zero
    return wide.clip(0, 1023).astype(np.uint16)
