"""Samples of long titles: where they stand, and that scene cuts are found both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux.encoder.excerpt import Range
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.errors import ToolFailedError, UsageError
from codecaux.events import Notice, drain
from codecaux.ffmpeg import Ffmpeg, file_argument, run_ffmpeg
from codecaux.ladders import samples
from codecaux.ladders.samples import choose_ranges, find_cuts, measure_busyness
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
        assert len(ranges) == min(settings.pieces(float(num_frames / FPS)), num_frames)


def test_short_titles_are_taken_whole_and_long_ones_sampled() -> None:
    settings, fps = SamplingSettings(), Fraction(25)
    assert choose_ranges(25 * 80, fps, [100], settings) == ((0, 2000),)
    # Three samples of 20 s, of four pieces each: the middle 125 of every 250 frames.
    short = choose_ranges(25 * 120, fps, [], settings)
    assert short == tuple((62 + 250 * part, 125) for part in range(12))
    two_hours = choose_ranges(25 * 7200, fps, [], settings)
    assert len(two_hours) == 48
    assert {length for _, length in two_hours} == {125}


def test_pieces_are_not_shorter_than_a_scene_needs() -> None:
    fps = Fraction(25)
    assert choose_ranges(25 * 60, fps, [], SamplingSettings(4.0, 1)) == ((700, 100),)
    assert len(choose_ranges(25 * 60, fps, [], SamplingSettings(14.0, 1))) == 2


def test_a_sample_starts_where_a_scene_does() -> None:
    settings, fps = SamplingSettings(count=2, piece_seconds=20.0), Fraction(25)
    # Parts of 0..1500 and 1500..3000; the middles would be 500 and 2000.
    ranges = choose_ranges(3000, fps, [40, 430, 900, 1100, 2700], settings)
    # 1100 lies too late for 500 frames in its part, as 2700 does in the other.
    assert ranges == ((430, 500), (2000, 500))


def test_pieces_are_as_busy_as_the_title() -> None:
    """Scenes of 100 frames, the first of every three busy: the middles alone would miss it."""
    settings, fps = SamplingSettings(12.0, 1, piece_seconds=4.0), Fraction(25)
    scenes = [3.0, 1.0, 1.0] * 3
    busyness = np.repeat(np.array([scenes, scenes]).T, 100, axis=0)
    cuts = range(100, 900, 100)
    plain = choose_ranges(900, fps, cuts, settings)
    assert plain == ((100, 100), (400, 100), (700, 100))
    alike = choose_ranges(900, fps, cuts, settings, busyness)
    shown = [busyness[first : first + count].mean() for first, count in alike]
    assert sorted(shown) == [1.0, 1.0, 3.0]


@given(
    seed=st.integers(0, 1000),
    num_cuts=st.integers(0, 60),
    count=st.integers(1, 4),
)
def test_what_is_exchanged_comes_nearer_to_the_title(seed: int, num_cuts: int, count: int) -> None:
    random = np.random.default_rng(seed)
    cuts = sorted({int(cut) for cut in random.integers(1, 5000, num_cuts)})
    busyness = np.cumsum(random.normal(size=(5000, 2)), axis=0)
    busyness[:, 1] = 1.0  # which cannot tell frames apart

    def distance(ranges: tuple[Range, ...]) -> float:
        shown = np.concatenate([busyness[first : first + n] for first, n in ranges])
        return float(np.abs(shown.mean(axis=0) - busyness.mean(axis=0)).sum())

    settings, fps = SamplingSettings(count=count), Fraction(25)
    plain = choose_ranges(5000, fps, cuts, settings)
    alike = choose_ranges(5000, fps, cuts, settings, busyness)
    assert distance(alike) <= distance(plain) + 1e-9
    assert all(a[0] + a[1] <= b[0] for a, b in pairwise(alike))


@pytest.mark.parametrize("change", [{"seconds": 0.0}, {"seconds": float("nan")}, {"count": 0}])
def test_senseless_samples_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        SamplingSettings(**change)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------- cuts, busyness


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


def test_busyness_is_that_of_every_frame(scenes: PreparedSource, ffmpeg: Ffmpeg) -> None:
    found = drain(measure_busyness(scenes, ffmpeg))
    assert found is not None
    assert found.shape == (90, 2)
    spatial, temporal = found.T
    assert (spatial > 0).all()
    # Nothing moves where a title begins, everything where it is cut.
    assert temporal[0] == 0
    assert temporal[:60].argmax() == 30


def test_without_busyness_samples_are_placed_all_the_same(
    scenes: PreparedSource, ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(scenes, num_frames=91)
    events = list(measure_busyness(wrong, ffmpeg))
    assert any(isinstance(e, Notice) and "90 frames instead of 91" in e.message for e in events)
    assert drain(measure_busyness(wrong, ffmpeg)) is None
    monkeypatch.setattr(samples, "_LOG", "no such folder/log.txt")
    events = list(measure_busyness(scenes, ffmpeg))
    assert any(isinstance(e, Notice) and e.level == "warning" for e in events)
    assert drain(measure_busyness(scenes, ffmpeg)) is None


@pytest.mark.parametrize("log", ["lavfi.siti.si=much", "lavfi.siti.si=1.5"])
def test_a_log_without_numbers_is_refused(log: str) -> None:
    with pytest.raises(ToolFailedError, match="expected"):
        samples._parse_busyness([log])
