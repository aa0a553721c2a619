"""Whole videos against each other: pairing, counts, sizes, bit depths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux.errors import InputError
from codecaux.events import Event, Notice, Progress, StageDone, StageStarted, drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.frames import read_frames
from codecaux.measure import common_format, measure, measure_files, to_bit_depth
from codecaux.probe import probe
from codecaux.scores import PSNR_CAP_DB, Scores, ScoreTools
from codecaux.video import Colour, Frame, VideoFormat

MakeClip = Callable[..., Path]


@pytest.fixture
def tools(ffmpeg: Ffmpeg) -> ScoreTools:
    return ScoreTools(ffmpeg)


def run(events: Iterator[Event]) -> tuple[list[Event], Scores]:
    """All events and the result."""
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            return seen, stop.value


def test_a_file_against_itself(clip: Path, tools: ScoreTools) -> None:
    events, scores = run(measure_files(clip, clip, tools))
    assert scores.num_frames == 12
    assert scores.psnr_y_db == PSNR_CAP_DB
    assert scores.ssim == 1.0
    assert isinstance(events[0], StageStarted)
    assert isinstance(events[-1], StageDone)
    assert [e.done for e in events if isinstance(e, Progress)] == list(range(1, 13))


def test_versions_are_scored_by_name(clip: Path, tools: ScoreTools) -> None:
    def versions() -> Iterator[dict[str, Frame]]:
        for frame in read_frames(clip):
            darker = Frame((frame.y // 2).astype(np.uint8), frame.u, frame.v, frame.pts)
            yield {"same": frame, "darker": darker}

    scores = drain(measure(clip, versions(), ["same", "darker"], tools))
    assert scores["same"].psnr_y_db == PSNR_CAP_DB
    assert scores["darker"].psnr_y_db < 20  # type: ignore[operator]


def test_counts_must_be_equal(clip: Path, make_clip: MakeClip, tools: ScoreTools) -> None:
    longer = make_clip("measure-15.mkv", frames=15)
    with pytest.raises(InputError, match="expected 15 frames as in the reference, got 12"):
        drain(measure_files(longer, clip, tools))
    with pytest.raises(InputError, match="expected 12 frames as in the reference, got more"):
        drain(measure_files(clip, longer, tools))


def test_sizes_must_be_equal(clip: Path, clip_odd: Path, tools: ScoreTools) -> None:
    with pytest.raises(InputError, match=r"size 96x64, got 99x75.*--weights"):
        drain(measure_files(clip, clip_odd, tools))


def test_odd_size(clip_odd: Path, tools: ScoreTools) -> None:
    scores = drain(measure_files(clip_odd, clip_odd, tools))
    assert scores.ssim == 1.0
    assert scores.vmaf_v1 is None
    assert "216x160" in scores.missing["vmaf_v1"]


def test_10_bit_against_8_bit(clip: Path, make_clip: MakeClip, tools: ScoreTools) -> None:
    info = probe(clip)
    deep = make_clip(
        "measure-deep.mkv",
        frames=12,
        pixel_format="yuv420p10le",
        # The same picture as `clip`, noise included, then widened.
        filters="noise=alls=12:allf=t:all_seed=7,format=yuv420p",
    )
    assert common_format(info, probe(deep)).bit_depth == 10
    for reference, distorted in ((clip, deep), (deep, clip)):
        scores = drain(measure_files(reference, distorted, tools))
        assert scores.psnr_y_db == PSNR_CAP_DB


def test_different_colour_is_said(clip: Path, make_clip: MakeClip, tools: ScoreTools) -> None:
    other = make_clip(
        "measure-601.mkv",
        filters="noise=alls=12:allf=t:all_seed=7,setparams=range=tv:colorspace=smpte170m",
    )
    events, _ = run(measure_files(clip, other, tools))
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert notices == [
        "the reference is bt709 limited range, the other file bt601 limited range; "
        "both scored as bt709 limited range"
    ]


def test_nothing_is_left_when_stopped(clip: Path, tools: ScoreTools) -> None:
    # The fixture of conftest.py fails the test if a child is still there.
    events = measure_files(clip, clip, tools)
    assert any(isinstance(event, Progress) for event in events)  # stops at the first
    events.close()
    assert next(events, None) is None


@given(value=st.integers(0, 255), full_range=st.booleans())
def test_widening_keeps_the_light(value: int, full_range: bool) -> None:
    narrow = VideoFormat(2, 2, 8, Colour(full_range=full_range))
    wide = replace(narrow, bit_depth=10)
    chroma = np.full((1, 1), value, np.uint8)
    frame = Frame(np.full((2, 2), value, np.uint8), chroma, chroma, 7)
    out = to_bit_depth(frame, narrow, wide)
    luma = round(value * 1023 / 255) if full_range else 4 * value
    # Neutral stays neutral: 128 of 255 is 512 of 1023, though 513.5 is the nearest share.
    colour = min(max(round((value - 128) * 1023 / 255) + 512, 0), 1023) if full_range else luma
    for plane, expected in zip(out.planes, (luma, colour, colour), strict=True):
        assert plane.dtype == np.uint16
        assert (plane == expected).all()
    assert out.pts == 7
    assert to_bit_depth(frame, narrow, narrow) is frame
    with pytest.raises(InputError, match="10 to 8"):
        to_bit_depth(out, wide, narrow)
