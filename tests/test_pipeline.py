"""The pipeline with stages that are slow, fail or hang; comparison pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux.decoder.compare import DIVIDER_PIXELS, compare_frame
from codecaux.decoder.enhance import Enhanced
from codecaux.decoder.pipeline import (
    OutputFormat,
    PipelineSettings,
    PipelineStatistics,
    SinkStopped,
    run_pipeline,
)
from codecaux.errors import InputError, ToolFailedError, UsageError
from codecaux.events import Progress, StageDone, StageStarted, drain
from codecaux.video import Colour, Frame, VideoFormat

FORMAT = VideoFormat(8, 4)
# A tick is a tenth of a second: ten frames a second.
OUTPUT = OutputFormat(FORMAT, Fraction(1, 10), average_fps=Fraction(10))
PROMPTLY_SECONDS = 3.0


def make_frame(pts: int, value: int = 0, video_format: VideoFormat = FORMAT) -> Frame:
    f = video_format
    chroma = np.full((f.chroma_height, f.chroma_width), value, f.dtype)
    return Frame(np.full((f.height, f.width), value, f.dtype), chroma, chroma.copy(), pts)


class FakeClock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeEnhancer:
    """Base 1, enhanced 2. ``fail_at`` raises; ``seconds`` of ``clock`` pass for each frame."""

    fail_at: int | None = None
    clock: FakeClock | None = None
    seconds: float = 0.0
    before: threading.Event | None = None
    indices: list[int] = field(default_factory=list)
    format: VideoFormat = FORMAT

    def enhance(self, frame: Frame, index: int) -> Enhanced:
        if index == self.fail_at:
            raise RuntimeError("the enhancer failed")
        if self.before is not None and index:
            assert self.before.wait(10)
        if self.clock is not None:
            self.clock.now += self.seconds
        self.indices.append(index)
        return Enhanced(make_frame(frame.pts, 1), make_frame(frame.pts, 2))

    def base(self, frame: Frame) -> Frame:
        return make_frame(frame.pts, 1)


@dataclass
class FakeSink:
    """Keeps frames; can fail, hang until aborted, or have a reader that leaves."""

    fail_at: int | None = None
    stop_at: int | None = None
    hang_at: int | None = None
    fail_in_close: bool = False
    seconds: float = 0.0
    frames: list[Frame] = field(default_factory=list)
    is_open: bool = False
    is_closed: bool = False
    num_aborts: int = 0
    first: threading.Event = field(default_factory=threading.Event)
    aborted: threading.Event = field(default_factory=threading.Event)

    def open(self, output: OutputFormat) -> None:
        assert output is OUTPUT
        self.is_open = True

    def write(self, frame: Frame) -> None:
        index = len(self.frames)
        if index == self.fail_at:
            raise ToolFailedError("the sink failed")
        if index == self.stop_at:
            raise SinkStopped
        if index == self.hang_at:
            assert self.aborted.wait(10)
            raise ToolFailedError("killed")
        time.sleep(self.seconds)
        self.frames.append(frame)
        if index == 1:
            self.first.set()

    def close(self) -> None:
        if self.fail_in_close:
            raise ToolFailedError("the sink failed at the end")
        self.is_closed = True

    def abort(self) -> None:
        self.num_aborts += 1
        self.aborted.set()


@dataclass
class FakeSource:
    """Frames 0, 1, 2, ...; counts how many were taken, and notes that it was closed."""

    count: int = 20
    fail_at: int | None = None
    taken: int = 0
    is_closed: bool = False

    def __iter__(self) -> Iterator[Frame]:
        try:
            for index in range(self.count):
                if index == self.fail_at:
                    raise InputError("the source failed")
                self.taken += 1
                yield make_frame(index)
        finally:
            self.is_closed = True


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Whatever happens to a pipeline, its threads end, and quickly."""
    yield
    deadline = time.monotonic() + PROMPTLY_SECONDS
    while time.monotonic() < deadline and _our_threads():
        time.sleep(0.01)
    assert not _our_threads()


def _our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("codecaux-")]


def run(
    source: FakeSource,
    enhancer: FakeEnhancer,
    sink: FakeSink,
    settings: PipelineSettings | None = None,
) -> PipelineStatistics:
    before = time.monotonic()
    try:
        return drain(run_pipeline(source, enhancer, sink, OUTPUT, settings))
    finally:
        assert time.monotonic() - before < PROMPTLY_SECONDS


def test_every_frame_arrives_in_order_once() -> None:
    source, enhancer, sink = FakeSource(50), FakeEnhancer(), FakeSink()
    statistics = run(source, enhancer, sink)
    assert [frame.pts for frame in sink.frames] == list(range(50))
    assert all((frame.y == 2).all() for frame in sink.frames)
    assert enhancer.indices == list(range(50))
    assert sink.is_closed
    assert sink.num_aborts == 0
    assert source.is_closed
    assert statistics.num_frames == statistics.enhanced_frames == 50
    assert statistics.media_seconds == pytest.approx(5.0)
    assert not statistics.is_stopped


def test_events() -> None:
    settings = PipelineSettings(stage="watch", num_frames=3)
    events = list(run_pipeline(FakeSource(3), FakeEnhancer(), FakeSink(), OUTPUT, settings))
    assert events[0] == StageStarted("watch", 3)
    assert events[1:4] == [Progress("watch", done, 3) for done in (1, 2, 3)]
    assert isinstance(events[4], StageDone)


def test_statistics_by_a_clock() -> None:
    clock = FakeClock()
    enhancer = FakeEnhancer(clock=clock, seconds=0.25)
    statistics = run(FakeSource(8), enhancer, FakeSink(), PipelineSettings(clock=clock))
    assert statistics.network_seconds == pytest.approx(2.0)
    assert statistics.wall_seconds == pytest.approx(2.0)
    assert statistics.realtime_factor == pytest.approx(0.8 / 2.0)


@pytest.mark.parametrize("at", [0, 1, 7, 19])
def test_a_source_that_fails_stops_the_rest(at: int) -> None:
    sink = FakeSink()
    with pytest.raises(InputError, match="the source failed"):
        run(FakeSource(20, fail_at=at), FakeEnhancer(), sink)
    assert sink.num_aborts == 1
    assert not sink.is_closed


@pytest.mark.parametrize("at", [0, 1, 7, 19])
def test_an_enhancer_that_fails_stops_the_rest(at: int) -> None:
    source, sink = FakeSource(1000), FakeSink()
    with pytest.raises(RuntimeError, match="the enhancer failed"):
        run(source, FakeEnhancer(fail_at=at), sink)
    assert sink.num_aborts == 1
    assert source.is_closed
    assert source.taken <= at + 1 + 4 + 1


@pytest.mark.parametrize("at", [0, 1, 7, 19])
def test_a_sink_that_fails_stops_the_rest(at: int) -> None:
    source, sink = FakeSource(1000), FakeSink(fail_at=at)
    with pytest.raises(ToolFailedError, match="the sink failed"):
        run(source, FakeEnhancer(), sink)
    assert source.is_closed
    assert source.taken < 1000
    assert sink.num_aborts == 1


def test_a_sink_that_fails_at_its_end() -> None:
    sink = FakeSink(fail_in_close=True)
    with pytest.raises(ToolFailedError, match="at the end"):
        run(FakeSource(3), FakeEnhancer(), sink)
    assert sink.num_aborts == 1


def test_a_sink_that_does_not_open() -> None:
    class Refusing(FakeSink):
        def open(self, output: OutputFormat) -> None:
            raise UsageError("no")

    source = FakeSource(3)
    with pytest.raises(UsageError):
        run(source, FakeEnhancer(), Refusing())
    assert source.taken == 0


@pytest.mark.parametrize("at", [0, 5])
def test_a_reader_that_leaves_is_no_failure(at: int) -> None:
    source, sink = FakeSource(1000), FakeSink(stop_at=at)
    statistics = run(source, FakeEnhancer(), sink)
    assert statistics.is_stopped
    assert source.taken < 1000
    assert not sink.is_closed


@pytest.mark.parametrize("after", [0, 1, 5])
def test_closing_the_generator_stops_all(after: int) -> None:
    source, sink = FakeSource(1000), FakeSink()
    events = run_pipeline(source, FakeEnhancer(), sink, OUTPUT)
    for _ in range(after):
        next(events)
    events.close()
    assert sink.num_aborts == (1 if after else 0)
    assert sink.is_open == bool(after)
    assert not sink.is_closed


def test_closing_frees_a_sink_that_hangs() -> None:
    sink = FakeSink(hang_at=0)
    events = run_pipeline(FakeSource(1000), FakeEnhancer(), sink, OUTPUT)
    for _ in range(4):
        next(events)
    before = time.monotonic()
    events.close()
    assert time.monotonic() - before < PROMPTLY_SECONDS


def test_a_slow_sink_bounds_what_is_decoded() -> None:
    source, sink = FakeSource(30), FakeSink(seconds=0.01)
    settings = PipelineSettings(queue_frames=2)
    most = 0
    for _ in run_pipeline(source, FakeEnhancer(), sink, OUTPUT, settings):
        most = max(most, source.taken - len(sink.frames))
    # Two wait before each of two stages, and one is in the hands of each of three.
    assert most <= 2 * 2 + 3
    assert len(sink.frames) == 30


def test_a_slow_caller_bounds_what_is_decoded() -> None:
    source, sink = FakeSource(100), FakeSink()
    events = run_pipeline(source, FakeEnhancer(), sink, OUTPUT, PipelineSettings(queue_frames=2))
    next(events)
    next(events)
    time.sleep(0.1)
    assert source.taken <= 5
    events.close()


def run_late(policy: str, seconds: float) -> tuple[PipelineStatistics, FakeSink, FakeEnhancer]:
    """12 frames of 0.1 s; the network takes ``seconds`` from the second one on."""
    clock, sink = FakeClock(), FakeSink()

    class Waiting(FakeEnhancer):
        def enhance(self, frame: Frame, index: int) -> Enhanced:
            # The wall clock starts with the first frame written: wait for that.
            deadline = time.monotonic() + 5
            while index and not sink.frames and time.monotonic() < deadline:
                time.sleep(0.001)
            if index == 1:
                time.sleep(0.05)
            return super().enhance(frame, index)

    enhancer = Waiting(clock=clock)
    settings = PipelineSettings(fps_policy=policy, clock=clock)  # type: ignore[arg-type]
    events = run_pipeline(FakeSource(12), enhancer, sink, OUTPUT, settings)
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return stop.value, sink, enhancer
        enhancer.seconds = seconds


def test_bypass_shows_late_frames_plain() -> None:
    # Each network run of 0.25 s makes the frames that are due meanwhile late.
    statistics, sink, enhancer = run_late("bypass", 0.25)
    plain = [frame.pts for frame in sink.frames if frame.y[0, 0] == 1]
    assert [frame.pts for frame in sink.frames] == list(range(12))
    assert statistics.bypassed_frames == statistics.late_frames == len(plain) > 0
    # Frame 1 takes until 0.25: 2 is late, 3 (due at 0.3) is not and takes until 0.5, ...
    assert plain == [2, 4, 6, 7, 9, 11]
    assert enhancer.indices == [0, 1, 3, 5, 8, 10]
    assert statistics.enhanced_frames == 6


def test_slow_enhances_every_frame_and_counts_the_late() -> None:
    statistics, sink, _ = run_late("slow", 0.25)
    assert all(frame.y[0, 0] == 2 for frame in sink.frames)
    assert statistics.bypassed_frames == 0
    assert statistics.late_frames == 10


def test_nothing_is_late_on_a_fast_machine() -> None:
    statistics, _, _ = run_late("bypass", 0.1)
    assert statistics.late_frames == 0


# ------------------------------------------------------------------------------------- comparison


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 9),
    bit_depth=st.sampled_from([8, 10]),
    full_range=st.booleans(),
)
def test_compare_takes_left_from_base_and_right_from_enhanced(
    width: int, height: int, bit_depth: int, full_range: bool
) -> None:
    f = VideoFormat(width, height, bit_depth, Colour(full_range=full_range))
    pair = Enhanced(make_frame(7, 50, f), make_frame(7, 60, f))
    got = compare_frame(pair, f)
    middle = width // 4 * 2
    divider = DIVIDER_PIXELS if width >= 8 else 0
    assert got.pts == 7
    assert got.y.dtype == f.dtype
    assert got.y.shape == (height, width)
    assert (got.y[:, :middle] == 50).all()
    assert (got.y[:, middle + divider :] == 60).all()
    white = (255 if bit_depth == 8 else 1023) if full_range else (235 if bit_depth == 8 else 940)
    assert (got.y[:, middle : middle + divider] == white).all()
    for plane in (got.u, got.v):
        assert (plane[:, : middle // 2] == 50).all()
        assert (plane[:, (middle + divider) // 2 :] == 60).all()
        neutral = 1 << (bit_depth - 1)
        assert (plane[:, middle // 2 : (middle + divider) // 2] == neutral).all()
    # The pair itself is as it was.
    assert (pair.enhanced.y == 60).all()
    assert (pair.base.y == 50).all()
