"""Samples of long titles: where they stand, and that scene cuts are found both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.errors import UsageError
from codecaux.events import Notice, drain
from codecaux.ffmpeg import Ffmpeg, file_argument, run_ffmpeg
from codecaux.ladders import samples
from codecaux.ladders.samples import choose_ranges, find_cuts
from codecaux.ladders.settings import SamplingSettings

FPS = Fraction(24000, 1001)


@given(
    num_frames=st.integers(1, 200_000),
    cuts=st.sets(st.integers(1, 200_000), max_size=50),
    seconds=st.floats(0.01, 60),
    count=st.none() | st.integers(1, 50),
)
def test_samples_lie_apart_inside_the_title(
    num_frames: int, cuts: set[int], seconds: float, count: int | None
) -> None:
    settings = SamplingSettings(seconds, count)
    ranges = choose_ranges(num_frames, FPS, sorted(cuts), settings)
    assert ranges
    assert ranges[0][0] >= 0
    assert all(length >= 1 for _, length in ranges)
    assert all(a[0] + a[1] <= b[0] for a, b in pairwise(ranges))
    assert ranges[-1][0] + ranges[-1][1] <= num_frames
    if count is not None and ranges != ((0, num_frames),):
        assert len(ranges) == min(count, num_frames)


def test_short_titles_are_taken_whole_and_long_ones_sampled() -> None:
    settings, fps = SamplingSettings(), Fraction(25)
    assert choose_ranges(25 * 26, fps, [100], settings) == ((0, 650),)
    (only,) = choose_ranges(25 * 60, fps, [], settings)
    assert only == (500, 500)
    two_hours = choose_ranges(25 * 7200, fps, [], settings)
    assert len(two_hours) == 12
    assert {length for _, length in two_hours} == {500}


def test_a_sample_starts_where_a_scene_does() -> None:
    settings, fps = SamplingSettings(count=2), Fraction(25)
    # Parts of 0..1500 and 1500..3000; the middles would be 500 and 2000.
    ranges = choose_ranges(3000, fps, [40, 430, 900, 1100, 2700], settings)
    # 1100 lies too late for 500 frames in its part, as 2700 does in the other.
    assert ranges == ((430, 500), (2000, 500))


@pytest.mark.parametrize("change", [{"seconds": 0.0}, {"seconds": float("nan")}, {"count": 0}])
def test_senseless_samples_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        SamplingSettings(**change)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- cuts


@pytest.fixture(scope="module")
def scenes(
    make_clip: Callable[..., Path], ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory
) -> PreparedSource:
    """Three scenes of 30 frames, named so that a filter would trip over it."""
    folder = tmp_path_factory.mktemp("it's a [title], 100%")
    names = ("mandelbrot", "testsrc2", "life")
    parts = [make_clip(f"cut-{s}.mkv", source=s, filters="", frames=30) for s in names]
    path = folder / "three: scenes.mkv"
    inputs = [word for part in parts for word in ("-i", file_argument(part))]
    graph = ["-filter_complex", "concat=n=3", "-c:v", "ffv1"]
    run_ffmpeg(ffmpeg, ["-v", "error", *inputs, *graph, file_argument(path)])
    return drain(prepare(path, SourceOptions(), folder))


def test_both_detectors_find_the_cuts(
    scenes: PreparedSource, ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scenedetect")
    assert drain(find_cuts(scenes, ffmpeg)) == [30, 60]
    monkeypatch.setattr(samples, "detector_name", lambda: "ffmpeg")
    assert set(drain(find_cuts(scenes, ffmpeg))) >= {30, 60}


def test_a_name_with_a_colon_is_no_protocol(
    scenes: PreparedSource, ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scenedetect")
    monkeypatch.chdir(scenes.path.parent)
    events = list(find_cuts(replace(scenes, path=Path(scenes.path.name)), ffmpeg))
    assert not [event for event in events if isinstance(event, Notice)]


def test_a_detector_that_fails_is_replaced(
    scenes: PreparedSource, ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> list[int]:
        raise RuntimeError("no backend")

    monkeypatch.setattr(samples, "detector_name", lambda: "scenedetect 9")
    monkeypatch.setattr(samples, "_by_scenedetect", fail)
    events = list(find_cuts(scenes, ffmpeg))
    assert any(isinstance(e, Notice) and "no backend" in e.message for e in events)
