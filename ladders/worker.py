"""One job in a process of its own: `python -m codecaux.ladders.worker`, for ladders/jobs.py.

stdin: one line of JSON (function, arguments, cores), and then nothing: its end means that whoever
asked is gone. stdout: a line of JSON for each warning and now and then for progress, at last one
with ``result`` or ``failure``. What the job itself would print goes to stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import closing
from typing import IO, Any

from codecaux.errors import CodecauxError
from codecaux.events import Event, Notice, Progress
from codecaux.ladders.jobs import resolve

__all__ = ["main"]

_PROGRESS_SECONDS = 1.0


def main() -> int:
    """Read the task, do it, say what came of it; 0 where an outcome was given."""
    # SIGINT too: a command that a shell put into the background ignores it, and so would we.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    # Only outcomes may stand on stdout, whatever a library prints.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_stop_with_parent, name="parent", daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, task["cores"])
    try:
        _say(answers, _outcome(task, answers))
    except KeyboardInterrupt:
        return 130
    return 0


def _outcome(task: dict[str, Any], answers: IO[str]) -> dict[str, Any]:
    said_at = time.monotonic()
    try:
        # Here: it brings torch along, which counts its cores as it is loaded.
        events = resolve(task["function"])(task["arguments"])
        with closing(events):
            while True:
                try:
                    event = next(events)
                except StopIteration as stop:
                    return {"result": stop.value}
                record = _record(event, time.monotonic() - said_at)
                if record:
                    said_at = time.monotonic()
                    _say(answers, record)
    except CodecauxError as error:
        kind, code = type(error).__name__, error.exit_code
        return {"failure": {"kind": kind, "exit_code": code, "message": str(error)}}


def _record(event: Event, since_seconds: float) -> dict[str, Any]:
    if isinstance(event, Notice) and event.level == "warning":
        return {"warning": event.message}
    if isinstance(event, Progress) and since_seconds > _PROGRESS_SECONDS:
        return {"loss": event.loss}
    return {}


def _say(answers: IO[str], record: dict[str, Any]) -> None:
    answers.write(json.dumps(record) + "\n")
    answers.flush()


def _stop_with_parent() -> None:
    """Interrupt this process when its stdin ends, so that its own children are ended too."""
    # Not sys.stdin: its lock would be held by this thread when the interpreter ends.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
