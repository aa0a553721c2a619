"""Decode, enhance and write at the same time, with bounded memory.

    frames ──> [decode thread] ──> channel ──> enhance (caller's thread) ──> channel ──>
                                                        [write thread] ──> sink

A stage that fails, or a generator that is closed, stops all the others at once. At most
``queue_frames`` pictures wait before each stage, whatever the stages' speeds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Generic, Literal, Protocol, TypeVar

from codecaux.events import Events, Progress, StageDone, StageStarted
from codecaux.video import Frame, VideoFormat

__all__ = [
    "FpsPolicy",
    "FrameEnhancer",
    "OutputFormat",
    "Pair",
    "PipelineSettings",
    "PipelineStatistics",
    "PlainPair",
    "Sink",
    "SinkStopped",
    "run_pipeline",
    "take_enhanced",
]

FpsPolicy = Literal["slow", "bypass"]
Item = TypeVar("Item")

_JOIN_TIMEOUT_SECONDS = 10.0


class Pair(Protocol):
    """One picture plain and enhanced: ``codecaux.decoder.enhance.Enhanced``, without torch."""

    @property
    def base(self) -> Frame:
        """Plainly upscaled."""

    @property
    def enhanced(self) -> Frame:
        """As the network makes it."""


@dataclass(frozen=True, slots=True)
class PlainPair:
    """A picture that no network has seen: it stands for both."""

    base: Frame

    @property
    def enhanced(self) -> Frame:
        return self.base


class FrameEnhancer(Protocol):
    """What the pipeline needs of ``codecaux.decoder.enhance.Enhancer``."""

    @property
    def format(self) -> VideoFormat:
        """Size, depth and colour of the pictures it makes."""

    def enhance(self, frame: Frame, index: int) -> Pair:
        """Frame ``index`` (0-based, presentation order), plainly upscaled and enhanced."""

    def base(self, frame: Frame) -> Frame:
        """The plain bicubic picture alone."""


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What a sink must know of the pictures it gets.

    ``time_base``: of the frames' pts. ``constant_fps`` is None where the rate varies (or nobody
    looked). The sample aspect ratio is the coded stream's: both axes are scaled alike.
    """

    format: VideoFormat
    time_base: Fraction
    average_fps: Fraction = Fraction(0)
    constant_fps: Fraction | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    rotation_degrees: int = 0


class SinkStopped(Exception):
    """Raised by a sink's ``write`` or ``close`` when its reader went away: a clean stop."""


class Sink(Protocol):
    """Where pictures go. ``open``, any number of ``write``, then ``close`` or ``abort``."""

    def open(self, output: OutputFormat) -> None:
        """Check and get ready; raises UsageError, ToolError."""

    def write(self, frame: Frame) -> None:
        """Take one picture; blocks while the reader is busy. SinkStopped when it has gone."""

    def close(self) -> None:
        """Finish: afterwards the output is whole."""

    def abort(self) -> None:
        """Give up: no output remains. May be called from another thread, and more than once;
        makes a blocked ``write`` return or raise. Never raises."""


@dataclass(frozen=True, slots=True)
class PipelineStatistics:
    """What a run did. ``late_frames``: their time to be shown had passed when their turn came.

    ``media_seconds`` is the frames' own duration, ``network_seconds`` the time in the enhancer.
    ``is_stopped``: the reader went away before the end.
    """

    num_frames: int
    late_frames: int
    bypassed_frames: int
    media_seconds: float
    wall_seconds: float
    network_seconds: float
    is_stopped: bool

    @property
    def enhanced_frames(self) -> int:
        """Frames that went through the enhancer."""
        return self.num_frames - self.bypassed_frames

    @property
    def realtime_factor(self) -> float:
        """Media time per wall time: above 1 it plays as it should."""
        return self.media_seconds / self.wall_seconds if self.wall_seconds > 0 else 0.0


def take_enhanced(pair: Pair) -> Frame:
    """The picture to show: the enhanced one."""
    return pair.enhanced


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """``bypass`` shows plain bicubic for frames that are late; ``slow`` never does.

    ``compose`` picks (or makes) the picture to show out of a pair. ``clock`` counts seconds.
    """

    fps_policy: FpsPolicy = "slow"
    queue_frames: int = 4
    compose: Callable[[Pair], Frame] = take_enhanced
    clock: Callable[[], float] = time.monotonic
    stage: str = "play"
    num_frames: int | None = None


def run_pipeline(
    frames: Iterable[Frame],
    enhancer: FrameEnhancer,
    sink: Sink,
    output: OutputFormat,
    settings: PipelineSettings | None = None,
) -> Events[PipelineStatistics]:
    """Play ``frames`` into ``sink``; yields a Progress for each frame handed to it.

    Whatever a stage raises is raised here, after the others have stopped and the sink was
    aborted. ``frames`` is closed (where it can be) in the thread that read it.
    """
    settings = settings or PipelineSettings()
    sink.open(output)
    run = _Run(frames, enhancer, sink, output, settings)
    try:
        yield StageStarted(settings.stage, settings.num_frames)
        run.start()
        for done in run.enhance_all():
            yield Progress(settings.stage, done, settings.num_frames)
        run.wait_for_writer()
    finally:
        run.stop()
    run.raise_failure()
    statistics = run.statistics()
    yield StageDone(settings.stage, statistics.wall_seconds)
    return statistics


class _Closed(Exception):
    """The channel was closed: everything stops."""


class _Channel(Generic[Item]):
    """A bounded queue that can be finished (after what is in it) or closed (at once)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._is_finished = False
        self._is_closed = False

    def put(self, item: Item) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._items) < self._capacity)
            if self._is_closed:
                raise _Closed
            self._items.append(item)
            self._changed.notify_all()

    def finish(self) -> None:
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._is_finished or self._items)
                if self._is_closed:
                    raise _Closed
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


@dataclass(slots=True)
class _Counts:
    """What the enhancing thread counts as it goes."""

    frames: int = 0
    late: int = 0
    bypassed: int = 0
    network_seconds: float = 0.0
    first_pts: int = 0
    last_pts: int = 0


@dataclass(slots=True)
class _Run:
    """One run: its threads, channels, and the first failure."""

    frames: Iterable[Frame]
    enhancer: FrameEnhancer
    sink: Sink
    output: OutputFormat
    settings: PipelineSettings
    counts: _Counts = field(default_factory=_Counts)
    started_at: float = 0.0
    ended_at: float = 0.0
    # (clock, pts) of the first frame written: zero of the wall clock that decides what is late.
    first_shown: tuple[float, int] | None = None
    failure: BaseException | None = None
    is_stopped: bool = False
    is_whole: bool = False
    decoded: _Channel[Frame] = field(init=False)
    ready: _Channel[Frame] = field(init=False)
    threads: list[threading.Thread] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.decoded = _Channel(self.settings.queue_frames)
        self.ready = _Channel(self.settings.queue_frames)

    # -- the caller's thread

    def start(self) -> None:
        self.started_at = self.settings.clock()
        for name, target in (("decode", self._decode), ("write", self._write)):
            # Daemons: a reader of our stdout that hangs must not keep the program from ending.
            thread = threading.Thread(target=target, name=f"codecaux-{name}", daemon=True)
            self.threads.append(thread)
            thread.start()

    def enhance_all(self) -> Iterator[int]:
        """Enhance what was decoded; yields the number of frames passed on so far."""
        with suppress(_Closed):
            for index, frame in enumerate(self.decoded):
                self.ready.put(self._enhance(frame, index))
                self._count(frame)
                yield self.counts.frames
            self.ready.finish()

    def wait_for_writer(self) -> None:
        self.threads[1].join()
        self.ended_at = self.settings.clock()

    def stop(self) -> None:
        """Stop all threads; roll the sink back unless it was closed."""
        self._close_channels()
        if not self.is_whole:
            self.sink.abort()
        for thread in self.threads:
            thread.join(_JOIN_TIMEOUT_SECONDS)

    def raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def statistics(self) -> PipelineStatistics:
        counts = self.counts
        return PipelineStatistics(
            num_frames=counts.frames,
            late_frames=counts.late,
            bypassed_frames=counts.bypassed,
            media_seconds=self._media_seconds(),
            wall_seconds=self.ended_at - self.started_at,
            network_seconds=counts.network_seconds,
            is_stopped=self.is_stopped,
        )

    def _enhance(self, frame: Frame, index: int) -> Frame:
        is_late = self._is_late(frame)
        self.counts.late += is_late
        if is_late and self.settings.fps_policy == "bypass":
            self.counts.bypassed += 1
            return self.settings.compose(PlainPair(self.enhancer.base(frame)))
        before = self.settings.clock()
        pair = self.enhancer.enhance(frame, index)
        self.counts.network_seconds += self.settings.clock() - before
        return self.settings.compose(pair)

    def _is_late(self, frame: Frame) -> bool:
        shown = self.first_shown
        if shown is None:
            return False
        due = shown[0] + float((frame.pts - shown[1]) * self.output.time_base)
        return self.settings.clock() > due

    def _count(self, frame: Frame) -> None:
        if not self.counts.frames:
            self.counts.first_pts = frame.pts
        self.counts.frames += 1
        self.counts.last_pts = frame.pts

    def _media_seconds(self) -> float:
        if not self.counts.frames:
            return 0.0
        span = (self.counts.last_pts - self.counts.first_pts) * self.output.time_base
        fps = self.output.average_fps
        # A frame's pts says when it begins: the last one lasts as long as one does on average.
        last = 1 / fps if fps > 0 else span / max(self.counts.frames - 1, 1)
        return float(span + last)

    # -- the other threads

    def _decode(self) -> None:
        iterator = iter(self.frames)
        try:
            for frame in iterator:
                self.decoded.put(frame)
            self.decoded.finish()
        except _Closed:
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _write(self) -> None:
        try:
            for frame in self.ready:
                self.sink.write(frame)
                if self.first_shown is None:
                    self.first_shown = (self.settings.clock(), frame.pts)
            self.sink.close()
            self.is_whole = True
        except _Closed:
            pass
        except SinkStopped:
            self.is_stopped = True
            self._close_channels()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self.lock:
            if self.failure is None:
                self.failure = error
        self._close_channels()

    def _close_channels(self) -> None:
        self.decoded.close()
        self.ready.close()
