"""Titles joined of several: where colour tags change on the way no frame is lost, and a change of
range is refused before anything is coded."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codecaux.encoder.excerpt import make_excerpt
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.errors import InputError
from codecaux.events import drain
from codecaux.ffmpeg import Ffmpeg, file_argument, run_ffmpeg
from codecaux.frames import count_frames, read_frames
from codecaux.ladders import samples
from codecaux.ladders.samples import find_cuts

# What a part's headers say.
BT709 = "matrix_coefficients=1:video_full_range_flag=0"
SMPTE170M = "matrix_coefficients=6:video_full_range_flag=0"
FULL_RANGE = "matrix_coefficients=1:video_full_range_flag=1"

Join = Callable[..., Path]


@pytest.fixture
def join(make_clip: Callable[..., Path], ffmpeg: Ffmpeg, tmp_path: Path) -> Join:
    """``join(name, *tags)``: 12 frames of H.264 for each of ``tags``, packets copied."""

    def make(name: str, *tags: str) -> Path:
        sources = ("testsrc2", "mandelbrot", "life")
        parts = []
        for number, (source, tag) in enumerate(zip(sources, tags, strict=False)):
            tagged = ("-bsf:v", f"h264_metadata={tag}", "-f", "h264")
            coded = ("-preset", "ultrafast", "-qp", "0", *tagged)
            file = f"part-{number}-{tag}.h264"
            parts.append(make_clip(file, source=source, filters="", codec="libx264", options=coded))
        path = tmp_path / name
        whole = tmp_path / "all.h264"
        whole.write_bytes(b"".join(part.read_bytes() for part in parts))
        arguments = ["-v", "error", "-fflags", "+genpts", "-r", "24", "-i", file_argument(whole)]
        run_ffmpeg(ffmpeg, [*arguments, "-c", "copy", "-y", file_argument(path)])
        return path

    return make


def _prepared(path: Path, folder: Path) -> PreparedSource:
    return drain(prepare(path, SourceOptions(), folder))


def test_an_excerpt_from_behind_a_change_of_tags(
    join: Join, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    source = _prepared(join("joined.mp4", BT709, SMPTE170M, BT709), tmp_path)
    assert source.num_frames == 36
    originals = list(read_frames(source.path))
    excerpt = drain(make_excerpt(source, ((2, 3), (20, 6)), tmp_path, ffmpeg))
    shown = list(read_frames(excerpt.path, info=excerpt.info))
    for index, frame in zip([2, 3, 4, *range(20, 26)], shown, strict=True):
        for ours, theirs in zip(frame.planes, originals[index].planes, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_scenes_are_counted_from_the_titles_start(
    join: Join, tmp_path: Path, ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _prepared(join("joined.mp4", BT709, SMPTE170M, BT709), tmp_path)
    monkeypatch.setattr(samples, "detector_name", lambda: "ffmpeg")
    assert set(drain(find_cuts(source, ffmpeg))) >= {12, 24}


def test_a_stream_without_timestamps_goes_on_counting(
    join: Join, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    source = _prepared(join("joined.h264", BT709, SMPTE170M), tmp_path)
    assert not source.has_timestamps
    settings = StreamSettings(30, preset="ultrafast", scale=Fraction(2))
    result = drain(encode_stream(source, settings, tmp_path / "out.mp4", ffmpeg))
    assert result.num_frames == count_frames(result.path) == 24


def test_limited_and_full_range_in_one_title(join: Join, tmp_path: Path) -> None:
    path = join("joined.mp4", BT709, FULL_RANGE)
    with pytest.raises(
        InputError, match=r"420p of limited range, got yuvj?420p of full.* 12,.*ffmpeg -i"
    ):
        _prepared(path, tmp_path)
