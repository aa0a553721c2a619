"""An operating point: what one way to code a title costs, and how it scores, plain and enhanced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypeAlias

from codecaux.ladders.rd import RdPoint
from codecaux.rate import Rate, amortised_weights_kbps
from codecaux.scores import LOWER_IS_BETTER, METRICS, POOLS, Scores, pooled

__all__ = ["Family", "OperatingPoint", "PooledScores", "pooled_scores"]

# "ours": with weights; "x265": plain, at the source's own size, as it comes.
Family = Literal["ours", "x265"]
# Metric -> pool -> value; a metric that could not be computed is not there.
PooledScores: TypeAlias = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One point, measured on the samples of a title of ``title_seconds``.

    ``rate``: bytes of stream and weights, and the samples' duration. ``plain``: the stream upscaled
    by bicubic, ``enhanced``: with its weights; equal for x265. ``missing``: metric -> why it was
    not computed. ``started_from``: CRF of the point whose weights the fit started from, None where
    from the base. ``seconds``: stage -> wall time of its making.
    """

    family: Family
    crf: float
    scale: Fraction
    net: str
    coded_width: int
    coded_height: int
    rate: Rate
    title_seconds: float
    plain: PooledScores
    enhanced: PooledScores
    missing: Mapping[str, str] = field(default_factory=dict)
    started_from: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How people call it."""
        if self.family == "x265":
            return f"x265 CRF {self.crf:g}"
        return f"CRF {self.crf:g} scale {float(self.scale):.3g}"

    @property
    def stream_kbps(self) -> float:
        """Kilobits (1000) per second of the stream alone."""
        return self.rate.stream_kbps

    @property
    def weights_kbps(self) -> float:
        """The weights spread over the title's own length: they are sent once for all of it."""
        return amortised_weights_kbps(self.rate, self.title_seconds)

    @property
    def total_kbps(self) -> float:
        """Of the title: stream and weights."""
        return self.stream_kbps + self.weights_kbps

    @property
    def total_bytes(self) -> float:
        """Of the title, as far as its samples tell."""
        return self.total_kbps * self.title_seconds * 1000 / 8

    def score(self, metric: str, pool: str = "mean", *, plain: bool = False) -> float | None:
        """A metric of ``codecaux.scores.METRICS`` as it is; None where it was not computed."""
        return (self.plain if plain else self.enhanced).get(metric, {}).get(pool)

    def quality(self, metric: str, pool: str = "mean", *, plain: bool = False) -> float | None:
        """The same, larger where better: LPIPS and its like come negated."""
        value = self.score(metric, pool, plain=plain)
        return -value if value is not None and metric in LOWER_IS_BETTER else value

    def rd_point(self, metric: str, pool: str = "mean", *, plain: bool = False) -> RdPoint | None:
        """Total rate against quality; ``plain``: the stream alone. None where there is no score."""
        quality = self.quality(metric, pool, plain=plain)
        if quality is None:
            return None
        return RdPoint(self.stream_kbps if plain else self.total_kbps, quality, self.label)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, everything: :meth:`from_json` reads it."""
        return asdict(self) | {"scale": str(self.scale)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> OperatingPoint:
        """What :meth:`to_json` wrote."""
        values = dict(record)
        values["scale"] = Fraction(values["scale"])
        values["rate"] = Rate(**values["rate"])
        return cls(**values)


def pooled_scores(scores: Scores) -> dict[str, dict[str, float]]:
    """Every metric that was computed, pooled in every way."""
    result: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        values = {pool: pooled(scores, metric, pool) for pool in POOLS}
        kept = {pool: value for pool, value in values.items() if value is not None}
        if kept:
            result[metric] = kept
    return result
