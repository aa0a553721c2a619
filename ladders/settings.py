"""What a curve, a target or a ladder is asked for: samples, grids, pools. Light: no torch.

One source of defaults for the command line's help.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from codecaux.errors import UsageError
from codecaux.video import SCALES

__all__ = ["CurveSettings", "SamplingSettings", "Verify", "parse_crfs", "parse_scales"]

_MAX_CRFS = 64

Verify = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class CurveSettings:
    """``pool``: how scores of frames become one. ``least_gain``: VMAF a doubling of the rate, below
    which more bits are not worth it. ``verify``: the whole title is coded at the chosen point, by
    default where the title is longer than its samples. ``jobs``: processes at a time.
    """

    crfs: tuple[float, ...] = (18, 21, 24, 27, 30, 33, 36)
    scales: tuple[Fraction, ...] = SCALES
    pool: str = "mean"
    least_gain: float = 6.0
    verify: Verify = "auto"
    jobs: int = 1

    def __post_init__(self) -> None:
        if not self.crfs or not self.scales:
            raise UsageError("expected at least one CRF and one scale, got an empty grid")
        from codecaux.scores import POOLS  # which brings torch along

        if self.pool not in POOLS:
            raise UsageError(f"expected a pool of {', '.join(POOLS)}, got {self.pool!r}")
        if not self.least_gain > 0:
            raise UsageError(f"expected a gain a doubling above 0, got {self.least_gain:g}")


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """``seconds`` of each sample; one for every ``every_seconds`` begun of the title and at least
    ``least``, or ``count``. A sample is of as many pieces as have ``piece_seconds`` in it.

    A title is taken whole where the samples would be more than ``whole_share`` of it.
    """

    seconds: float = 20.0
    count: int | None = None
    every_seconds: float = 600.0
    least: int = 3
    piece_seconds: float = 5.0
    whole_share: float = 0.75

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise UsageError(f"expected samples of more than 0 seconds, got {self.seconds:g}")
        if self.count is not None and self.count < 1:
            raise UsageError(f"expected at least one sample, got {self.count}")
        assert self.every_seconds > 0
        assert self.piece_seconds > 0
        assert 0 < self.whole_share <= 1

    def wanted(self, duration_seconds: float) -> int:
        """How many samples a title of this length gets."""
        return self.count or max(self.least, math.ceil(duration_seconds / self.every_seconds))

    def pieces(self, duration_seconds: float) -> int:
        """Of how many parts of the title all samples are made."""
        return self.wanted(duration_seconds) * max(1, int(self.seconds // self.piece_seconds))

    def takes_whole(self, duration_seconds: float) -> bool:
        """Whether the title is its own sample."""
        sampled = self.wanted(duration_seconds) * self.seconds
        return sampled >= self.whole_share * duration_seconds

    def to_json(self) -> dict[str, Any]:
        """For the identity of what is made of the samples."""
        return asdict(self)


# -------------------------------------------------------------------------------- how it is written


def parse_crfs(text: str) -> tuple[float, ...]:
    """'18:36:3' (from, to, step; the end is in it where a step meets it) or '20,24.5', rising.

    UsageError for what is no grid, is empty, or leaves 0..51.
    """
    try:
        values = _range(text) if ":" in text else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"expected CRFs as 18:36:3 or as 20,24,28, got {text!r}") from error
    if not values:
        raise UsageError(f"expected at least one CRF, got the empty grid {text!r}")
    wrong = [value for value in values if not 0 <= value <= 51]
    if wrong:
        raise UsageError(f"expected CRFs of 0 to 51, got {wrong[0]:g} in {text!r}")
    return tuple(sorted(set(values)))


def _range(text: str) -> list[float]:
    first, last, step = (float(part) for part in text.split(":"))
    if not (all(map(math.isfinite, (first, last, step))) and step > 0 and first <= last):
        raise UsageError(f"expected FROM:TO:STEP with FROM <= TO and a step above 0, got {text!r}")
    # 1e-9: 18:19:0.1 has eleven CRFs, whatever a tenth is in binary.
    count = math.floor((last - first) / step + 1e-9) + 1
    if count > _MAX_CRFS:
        raise UsageError(f"expected at most {_MAX_CRFS} CRFs, got {count} of {text!r}")
    return [round(first + index * step, 6) for index in range(count)]


def parse_scales(text: str) -> tuple[Fraction, ...]:
    """'2,1.5,1' as Fractions, the largest first. UsageError for others than the product's."""
    try:
        scales = {Fraction(part.strip()) for part in text.split(",")}
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"expected scales of 2, 1.5 and 1, got {text!r}") from error
    if not scales <= set(SCALES):
        raise UsageError(f"expected scales of 2, 1.5 and 1, got {text!r}")
    return tuple(sorted(scales, reverse=True))
