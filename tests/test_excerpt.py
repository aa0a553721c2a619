"""Excerpts: the very frames, their colour and their times, and nothing half-made."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codecaux.encoder.excerpt import Range, make_excerpt, open_excerpt
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.errors import ToolFailedError
from codecaux.events import drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.frames import read_frames

CLIPS = ["clip", "clip_10bit", "clip_vfr", "clip_full_range", "clip_odd"]


def _cut(path: Path, ranges: tuple[Range, ...], folder: Path, ffmpeg: Ffmpeg) -> PreparedSource:
    source = drain(prepare(path, SourceOptions(), folder))
    return drain(make_excerpt(source, ranges, folder, ffmpeg))


@pytest.mark.parametrize("name", CLIPS)
def test_frames_and_times_are_the_sources_own(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    path: Path = request.getfixturevalue(name)
    source = drain(prepare(path, SourceOptions(), tmp_path))
    ranges = ((1, 2), (4, 2))
    excerpt = drain(make_excerpt(source, ranges, tmp_path, ffmpeg))
    chosen = [first + i for first, count in ranges for i in range(count)]
    originals = list(read_frames(source.path, info=source.info))
    shown = list(read_frames(excerpt.path, info=excerpt.info))
    assert len(shown) == excerpt.num_frames == 4
    for index, frame in zip(chosen, shown, strict=True):
        for ours, theirs in zip(frame.planes, originals[index].planes, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert excerpt.info.format == source.info.format
    # Each frame lasts as long as it did: gaps of the source, one after the other.
    ends = [*map(int, source.pts[1:]), None]
    gaps = [(ends[i] - int(source.pts[i])) * source.info.time_base for i in chosen[:-1]]  # type: ignore[operator]
    ours_gaps = [int(gap) * excerpt.info.time_base for gap in np.diff(excerpt.pts)]
    assert ours_gaps == gaps
    assert excerpt.original is None


def test_it_can_be_opened_again(clip_vfr: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    made = _cut(clip_vfr, ((2, 3), (6, 1)), tmp_path, ffmpeg)
    opened = open_excerpt(tmp_path)
    assert opened is not None
    assert opened.pts.tolist() == made.pts.tolist()
    assert (opened.info, opened.duration_seconds) == (made.info, made.duration_seconds)
    # 1001 N ticks are the gap after frame N: 3, 4, 5 and 7 of them.
    assert opened.duration_seconds == Fraction(1001 * (3 + 4 + 5 + 7), 24000)


def test_a_long_title_has_hundreds_of_ranges(
    make_clip: Callable[..., Path], tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    clip = make_clip("many-ranges.mkv", size=(64, 48), frames=603)
    ranges = tuple((first, 1) for first in range(0, 603, 2))
    excerpt = _cut(clip, ranges, tmp_path, ffmpeg)
    assert excerpt.num_frames == 302
    assert len(np.unique(np.diff(excerpt.pts))) <= 2  # of one rate, but for its rounding


def test_what_is_half_made_or_changed_is_not_opened(
    clip: Path, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    assert open_excerpt(tmp_path) is None
    made = _cut(clip, ((0, 3),), tmp_path, ffmpeg)
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[:-5])
    assert open_excerpt(tmp_path) is None
    made.path.write_bytes(whole)
    assert open_excerpt(tmp_path) is not None
    (tmp_path / "excerpt.json").write_text("{}")
    assert open_excerpt(tmp_path) is None


def test_other_frames_than_asked_for_are_an_error(
    make_clip: Callable[..., Path], tmp_path: Path, ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecaux.encoder.excerpt._closing_gaps", lambda *_: "2*(PTS-STARTPTS)")
    with pytest.raises(ToolFailedError, match="at their own times"):
        _cut(make_clip("short.mkv", frames=4), ((1, 2),), tmp_path, ffmpeg)
    assert open_excerpt(tmp_path) is None
