"""Progress events on a terminal, as plain lines, or as NDJSON.

The core yields ``codecaux.events``; here they become bars (rich, on stderr, when it is a
terminal), lines at a calm pace (when it is not) or NDJSON on stdout (docs/json-output.md).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from codecaux import __version__
from codecaux.events import Event, Events, Notice, Progress, StageDone, StageStarted

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = [
    "SCHEMA_VERSION",
    "BarRenderer",
    "JsonRenderer",
    "LineRenderer",
    "QuietRenderer",
    "Renderer",
    "follow",
    "format_seconds",
    "open_renderer",
    "to_json",
]

SCHEMA_VERSION = 1

Result = TypeVar("Result")
Clock = Callable[[], float]


class Renderer(Protocol):
    """Something that shows events as they come, and the result of the command at its end."""

    def show(self, event: Event) -> None: ...

    def result(self, fields: Mapping[str, Any]) -> None:
        """The fields of the NDJSON ``result`` event; the others print tables of their own."""

    def close(self) -> None: ...


def follow(events: Events[Result], renderer: Renderer) -> Result:
    """Run a generator of events to its end, show each, return its result.

    Whatever is raised here (Ctrl-C in particular) closes the generator at once, so that its
    children die before the message appears.
    """
    try:
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            renderer.show(event)
    finally:
        events.close()


@contextmanager
def open_renderer(command: str, *, json_output: bool, quiet: bool = False) -> Iterator[Renderer]:
    """The renderer for this terminal and these options; closed (bars removed) at the end."""
    renderer: Renderer
    if json_output:
        renderer = JsonRenderer(command, sys.stdout)
    elif quiet:
        renderer = QuietRenderer(sys.stderr)
    elif sys.stderr.isatty():
        renderer = BarRenderer()
    else:
        renderer = LineRenderer(sys.stderr)
    try:
        yield renderer
    finally:
        renderer.close()


class QuietRenderer:
    """Warnings only."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def show(self, event: Event) -> None:
        if isinstance(event, Notice) and event.level == "warning":
            print(_notice_text(event), file=self._stream, flush=True)

    def result(self, fields: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Pace:
    """Lets something through at most once in ``interval_seconds``; ``restart`` opens a new wait."""

    interval_seconds: float
    clock: Clock = time.monotonic
    _last: float = field(default=float("-inf"))

    def restart(self) -> None:
        self._last = self.clock()

    def due(self) -> bool:
        if self.clock() - self._last < self.interval_seconds:
            return False
        self.restart()
        return True


class LineRenderer:
    """One line when a stage begins or ends, and one every few seconds between."""

    def __init__(
        self, stream: IO[str], *, interval_seconds: float = 5.0, clock: Clock = time.monotonic
    ) -> None:
        self._stream = stream
        self._pace = Pace(interval_seconds, clock)

    def show(self, event: Event) -> None:
        """Write the event's line, if it is due."""
        match event:
            case StageStarted():
                self._pace.restart()
                total = "" if event.total is None else f" ({event.total} {event.unit})"
                self._write(f"{event.stage}: started{total}")
            case Progress():
                if self._pace.due():
                    self._write(f"{event.stage}: {_progress_text(event)}")
            case StageDone():
                self._write(f"{event.stage}: {_done_text(event)}")
            case Notice():
                self._write(_notice_text(event))

    def result(self, fields: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass

    def _write(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class BarRenderer:
    """A bar for the stage that runs, a line for each one that is done; on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True, highlight=False)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            transient=True,
            expand=True,
        )
        self._task: TaskID | None = None
        self._stage = ""

    def show(self, event: Event) -> None:
        """Move the bar of the event's stage."""
        match event:
            case StageStarted():
                self._begin(event.stage, event.total)
            case Progress():
                if self._task is None or event.stage != self._stage:
                    self._begin(event.stage, event.total)
                assert self._task is not None
                self._bars.update(
                    self._task,
                    completed=event.done,
                    total=event.total,
                    detail=_progress_text(event),
                )
            case StageDone():
                self._end()
                self._console.print(f"{event.stage}: {_done_text(event)}", markup=False)
            case Notice():
                style = "yellow" if event.level == "warning" else None
                self._console.print(_notice_text(event), style=style, markup=False)

    def result(self, fields: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        self._end()
        self._bars.stop()

    def _begin(self, stage: str, total: int | None) -> None:
        self._end()
        self._bars.start()
        self._stage = stage
        self._task = self._bars.add_task(stage, total=total, detail="")

    def _end(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


class JsonRenderer:
    """NDJSON: one object per line, each with its ``event`` name; the first is ``start``."""

    def __init__(
        self,
        command: str,
        stream: IO[str],
        *,
        interval_seconds: float = 0.2,
        clock: Clock = time.monotonic,
    ) -> None:
        self._command = command
        self._stream = stream
        self._pace = Pace(interval_seconds, clock)
        self._write(
            "start",
            {
                "schema_version": SCHEMA_VERSION,
                "codecaux_version": __version__,
                "command": command,
            },
        )

    def show(self, event: Event) -> None:
        if isinstance(event, Progress):
            if event.done == event.total or self._pace.due():
                self._write("progress", asdict(event))
            return
        self._write(_EVENT_NAMES[type(event)], asdict(event))

    def result(self, fields: Mapping[str, Any]) -> None:
        self._write("result", {"command": self._command, **fields})

    def close(self) -> None:
        pass

    def _write(self, name: str, fields: Mapping[str, Any]) -> None:
        line = json.dumps(to_json({"event": name, **fields}), allow_nan=False)
        print(line, file=self._stream, flush=True)


def to_json(value: Any) -> Any:
    """``value`` in JSON's types: NaN and infinities null; paths and Fractions text."""
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


_EVENT_NAMES: dict[type, str] = {
    StageStarted: "stage_started",
    StageDone: "stage_done",
    Notice: "notice",
}


def _notice_text(event: Notice) -> str:
    return f"warning: {event.message}" if event.level == "warning" else event.message


def _done_text(event: StageDone) -> str:
    took = format_seconds(event.wall_seconds)
    return "taken from the interrupted run" if event.resumed else f"done in {took}"


def _progress_text(event: Progress) -> str:
    total = "" if event.total is None else f"/{event.total}"
    parts = [f"{event.done}{total} {event.unit}"]
    if event.loss is not None:
        parts.append(f"loss {event.loss:.5f}")
    if event.eta_seconds is not None:
        parts.append(f"{format_seconds(event.eta_seconds)} left")
    return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 3 min 20 s, 1 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
