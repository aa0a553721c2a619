"""What a recurrent net remembers between two frames, and when it starts afresh.

Pure bookkeeping, without torch: the state itself is opaque.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Generic, TypeVar

__all__ = ["MAX_GAP_FRAMES", "RUN_UP_FRAMES", "Memory"]

# A player that is late passes over frames: so old a state is still worth more than none.
MAX_GAP_FRAMES = 4
# A net that starts in the middle of a scene shows, after so many frames, what it would have shown
# had it run from the scene's start (docs/format.md, section 5).
RUN_UP_FRAMES = 24

T = TypeVar("T")


class Memory(Generic[T]):
    """The state after the last frame. ``starts``: frames before which everything is forgotten."""

    def __init__(self, starts: Iterable[int]) -> None:
        self._starts = sorted({0, *starts})
        self._kept: tuple[int, T] | None = None

    def recall(self, index: int) -> T | None:
        """The state for frame ``index``; None where the net must start: at the first frame, at a
        start, after a seek (backwards, or by more than ``MAX_GAP_FRAMES``).
        """
        if self._kept is None:
            return None
        last, state = self._kept
        is_near = 1 <= index - last <= MAX_GAP_FRAMES
        return state if is_near and self.start_before(index) <= last else None

    def keep(self, index: int, state: T) -> None:
        """``state`` is what frame ``index`` left."""
        self._kept = index, state

    def forget(self) -> None:
        """The next frame is a start, whichever it is."""
        self._kept = None

    def start_before(self, index: int) -> int:
        """The latest start that is not after ``index``."""
        return self._starts[bisect_right(self._starts, index) - 1]

    def first_needed(self, index: int) -> int:
        """Where to begin for frame ``index`` alone: its start, or ``RUN_UP_FRAMES`` before it."""
        return max(self.start_before(index), index - RUN_UP_FRAMES)
