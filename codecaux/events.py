"""Progress events. Long operations are generators of these, ending in a result.

Core, encoder, decoder and ladders yield; only the CLI turns them into bars, lines or NDJSON.
``docs/json-output.md`` is the contract for the latter: a field added here is added there.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

__all__ = ["Event", "Events", "Notice", "Progress", "StageDone", "StageStarted", "drain"]


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins. ``total`` counts ``unit``s, None where the number is not known."""

    stage: str
    total: int | None = None
    unit: str = "frames"


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` units of a stage. ``loss`` only where something is being fitted."""

    stage: str
    done: int
    total: int | None = None
    unit: str = "frames"
    loss: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StageDone:
    """A stage ended after ``wall_seconds``. ``resumed``: its result was already there."""

    stage: str
    wall_seconds: float
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know: the device used, LPIPS missing, a fallback taken."""

    message: str
    level: Literal["info", "warning"] = "info"


Event: TypeAlias = StageStarted | Progress | StageDone | Notice

Result = TypeVar("Result")
# `Events[Scores]` reads: yields events, returns Scores.
Events: TypeAlias = Generator[Event, None, Result]


def drain(events: Events[Result]) -> Result:
    """Run a generator of events to its end, drop the events, return its result."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
