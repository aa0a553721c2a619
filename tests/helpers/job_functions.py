"""What the tests of jobs have done in other processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codecaux.errors import FitError
from codecaux.events import Events, Notice, Progress


def double(arguments: Mapping[str, Any]) -> Events[dict[str, Any]]:
    """Says where it runs; ``log`` gets a line."""
    yield Notice("for everybody", "warning")
    yield Notice("for nobody")
    yield Progress("fit", 1, 2, "steps", 0.5)
    with Path(arguments["log"]).open("a") as log:
        log.write(f"{arguments['value']}\n")
    print("a library that prints")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    threads = os.environ.get("OMP_NUM_THREADS")
    twice = 2 * arguments["value"]
    return {"twice": twice, "pid": os.getpid(), "cores": cores, "threads": threads}


def fail(arguments: Mapping[str, Any]) -> Events[dict[str, Any]]:
    yield Progress("fit", 1, 2, "steps", 0.5)
    raise FitError("the fit diverged")


def die(arguments: Mapping[str, Any]) -> Events[dict[str, Any]]:
    yield Progress("fit", 1, 2, "steps", 0.5)
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def sleep(arguments: Mapping[str, Any]) -> Events[dict[str, Any]]:
    """Until it is interrupted; leaves a file that says that it was."""
    yield Notice("sleeping", "warning")
    try:
        # In here: whoever sees the file may interrupt at once.
        Path(arguments["started"]).write_text(str(os.getpid()))
        time.sleep(60)
    except KeyboardInterrupt:
        Path(arguments["stopped"]).write_text("interrupted")
        raise
    return {}
