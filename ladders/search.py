"""Finding a CRF by few trials: a bracket on a margin that falls as x rises, and interpolation.

    margin(x): how far a trial is beyond what is wanted, in units of what is close enough
    wanted:    the largest x whose margin is 0 or more; done where it is not above 1, or where the
               next x of the grid is known to miss; after ``tighten`` only then

Pure: whoever searches asks for the next x, tries it, and tells the margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from codecaux.errors import UsageError
from codecaux.ladders.rd import Monotone

__all__ = ["Search"]

# Margins lost for each CRF, before anything is known: about 1.5 VMAF, in halves of one.
_SLOPE_FIRST = 3.0
_LEAST_MOVE, _LARGEST_MOVE = 0.5, 8.0
_AIM = 0.5
# More trials once only the very largest x will do.
_TIGHT_TRIALS = 8
# As many trials in a row may leave more than half of the bracket before it is halved.
_PATIENCE = 2


class Search:
    """Over multiples of ``grid`` from ``low`` to ``high``, first at ``start``; at most ``limit``
    trials. Margins are expected to fall; where they do not quite, the bracket counts.
    """

    def __init__(
        self, low: float, high: float, start: float, *, grid: float = 0.1, limit: int = 12
    ) -> None:
        assert low <= start <= high, f"expected a start between {low} and {high}, got {start}"
        self._low, self._high, self._grid, self._limit = low, high, grid, limit
        self._start = self._on_grid(start)
        self._close, self._aim = 1.0, _AIM
        self._told: dict[float, float] = {}
        self._widths: list[float] = []

    @property
    def told(self) -> Mapping[float, float]:
        """Margin of every x that was tried, in the order of the trials."""
        return self._told

    @property
    def best(self) -> float | None:
        """The largest x with a margin of 0 or more; None where there is none."""
        return max((x for x, margin in self._told.items() if margin >= 0), default=None)

    @property
    def nearest_miss(self) -> float | None:
        """The x that comes nearest where none has a margin of 0 or more."""
        return max(self._told, key=lambda x: self._told[x], default=None)

    def tell(self, x: float, margin: float) -> None:
        """What a trial at ``x`` gave."""
        self._told[self._on_grid(x)] = margin
        bracket = self._bracket()
        if bracket is not None:
            self._widths.append(bracket[1] - bracket[0])

    def tighten(self) -> None:
        """Close enough is not enough any more: from now on the very largest x is searched for."""
        if self._close:
            self._close = self._aim = 0.0
            self._limit += _TIGHT_TRIALS

    def ask(self) -> float | None:
        """The next x to try; None where the search is over."""
        if not self._told:
            return self._start
        best = self.best
        is_over = len(self._told) >= self._limit
        if is_over or (best is not None and self._close and self._told[best] <= self._close):
            return None
        bracket = self._bracket()
        proposed = self._outward() if bracket is None else self._inward(*bracket)
        return None if proposed is None or proposed in self._told else proposed

    def _bracket(self) -> tuple[float, float] | None:
        """The best x and the least one above it that misses."""
        best = self.best
        if best is None:
            return None
        above = [x for x in self._told if x > best]
        return (best, min(above)) if above else None

    def _inward(self, best: float, miss: float) -> float | None:
        if miss - best < 1.5 * self._grid:
            return None
        x = (best + miss) / 2
        if not self._is_slow():
            x = self._interpolated(best, miss)
        return self._on_grid(min(max(x, best + self._grid), miss - self._grid))

    def _is_slow(self) -> bool:
        """Have the last trials hardly narrowed the bracket?"""
        recent = self._widths[-1 - _PATIENCE :]
        return len(recent) > _PATIENCE and recent[-1] > recent[0] / 2

    def _interpolated(self, best: float, miss: float) -> float:
        """Where the margin is what is aimed at: through all trials where they fall, else on the
        line between the two that matter."""
        xs = sorted(self._told)
        try:
            return Monotone(xs, [self._told[x] for x in xs]).inverse()(self._aim)
        except UsageError:
            high, low = self._told[best], self._told[miss]
            return best + (miss - best) * (high - self._aim) / (high - low)

    def _outward(self) -> float | None:
        """A step up from the best, or down from the least that misses, by the slope so far."""
        best = self.best
        at = best if best is not None else min(self._told)
        distance = (self._told[at] - self._aim) / self._slope()
        size = min(max(abs(distance), _LEAST_MOVE), _LARGEST_MOVE)
        x = self._on_grid(min(max(at + math.copysign(size, distance), self._low), self._high))
        # Already at the end: nothing lies beyond it.
        return None if x == at else x

    def _slope(self) -> float:
        """Margin lost for each step of x, from the two trials nearest to the edge."""
        xs = sorted(self._told)
        if len(xs) < 2:
            return _SLOPE_FIRST
        a, b = (xs[-2], xs[-1]) if self.best is not None else (xs[0], xs[1])
        slope = (self._told[a] - self._told[b]) / (b - a)
        return slope if slope > _SLOPE_FIRST / 10 else _SLOPE_FIRST / 10

    def _on_grid(self, x: float) -> float:
        return round(round(x / self._grid) * self._grid, 6)
