"""What a ladder is asked for: its grid, how its rungs are chosen, its segments. Light: no torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from codecaux.errors import UsageError
from codecaux.video import SCALES

__all__ = ["DEFAULT_STEP", "LadderSettings", "parse_heights", "parse_rates"]

# About 6 points of VMAF are commonly taken for one just-noticeable difference.
DEFAULT_STEP = 6.0
_MAX_RUNGS = 32
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]*)\Z")
_UNITS = {"": 1e-3, "k": 1.0, "kb/s": 1.0, "kbps": 1.0, "M": 1e3, "Mb/s": 1e3, "Mbps": 1e3}


@dataclass(frozen=True, slots=True)
class LadderSettings:
    """One of ``count`` (rungs spread evenly over quality), ``rates_kbps`` (the best rung within
    each, weights counted) and ``step`` (rungs so much quality apart); none: a step of 6.

    ``heights``: of coded pictures, instead of ``scales``; no rung is higher than ``max_height``.
    ``least_gain``: quality a doubling of the rate, below which more bits buy nothing; ``top``: the
    quality of the top rung instead. ``peak``: what a rung's rate may rise to, in multiples of its
    mean. ``share``: rungs of one height may share weights. Without ``hls`` or ``dash``: both.
    """

    crfs: tuple[float, ...] = (18, 22, 26, 30, 34, 38, 42)
    scales: tuple[Fraction, ...] = SCALES
    heights: tuple[int, ...] = ()
    max_height: int | None = None
    count: int | None = None
    rates_kbps: tuple[float, ...] = ()
    step: float | None = None
    top: float | None = None
    least_gain: float = 3.0
    pool: str = "mean"
    segment_seconds: Fraction = Fraction(4)
    peak: float = 2.0
    share: bool = True
    fallback: bool = False
    hls: bool = False
    dash: bool = False
    jobs: int = 1

    def __post_init__(self) -> None:
        if not self.crfs or not self.scales:
            raise UsageError("expected at least one CRF and one scale, got an empty grid")
        asked = [self.count is not None, bool(self.rates_kbps), self.step is not None]
        if sum(asked) > 1:
            raise UsageError("--rungs, --rates and --target-step each say which rungs; give one")
        if self.count is not None and not 1 <= self.count <= _MAX_RUNGS:
            raise UsageError(f"expected 1 to {_MAX_RUNGS} rungs, got {self.count}")
        if len(self.rates_kbps) > _MAX_RUNGS:
            raise UsageError(f"expected at most {_MAX_RUNGS} rates, got {len(self.rates_kbps)}")
        _check_above("a step of quality", self.step)
        _check_above("a gain a doubling", self.least_gain)
        _check_above("a height", self.max_height)
        if self.top is not None and not 0 < self.top < 100:
            raise UsageError(f"expected a top quality between 0 and 100, got {self.top:g}")
        if not (math.isfinite(self.peak) and self.peak >= 1.25):
            raise UsageError(f"expected a peak of at least 1.25 times the mean, got {self.peak:g}")
        from codecaux.scores import POOLS  # which brings torch along

        if self.pool not in POOLS:
            raise UsageError(f"expected a pool of {', '.join(POOLS)}, got {self.pool!r}")

    @property
    def quality_step(self) -> float:
        """About how far rungs are apart."""
        return DEFAULT_STEP if self.step is None else self.step


def _check_above(what: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise UsageError(f"expected {what} above 0, got {value:g}")


# ------------------------------------------------------------------------------- how it is written


def parse_rates(text: str) -> tuple[float, ...]:
    """'1M,2.5M,800k' (plain numbers: bits a second) as kb/s, rising. UsageError for no rates."""
    rates = []
    for part in text.split(","):
        match = _RATE.match(part.strip())
        if match is None or match.group(2) not in _UNITS:
            raise UsageError(f"expected rates like 800k,1.5M,3M, got {part.strip()!r}")
        rates.append(float(match.group(1)) * _UNITS[match.group(2)])
    if min(rates) < 1:
        raise UsageError(f"expected rates of at least 1 kb/s, got {text!r}")
    return tuple(sorted(set(rates)))


def parse_heights(text: str) -> tuple[int, ...]:
    """'1080,720,540', the largest first. UsageError for what are no heights."""
    try:
        heights = {int(part.strip().removesuffix("p")) for part in text.split(",")}
    except ValueError as error:
        raise UsageError(f"expected heights like 1080,720,540, got {text!r}") from error
    if min(heights) < 1:
        raise UsageError(f"expected heights above 0, got {text!r}")
    return tuple(sorted(heights, reverse=True))
