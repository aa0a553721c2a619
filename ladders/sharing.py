"""Weights that several rungs of a ladder use: fewer bytes in all, a little quality given up.

    rungs of one coded size, by rate:    a ── b ── c
    trial: b's weights on a's stream, scored as any rung is ─> quality lost, LPIPS lost
    a sharing pays where its bytes saved are more than what buys the lost quality in stream bytes

A rung borrows from a neighbour that has its own. Trials cost a pass over the title each, and are
made only where a weights file is a part of its rung that is worth it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

from codecaux.decoder.load import open_enhancer
from codecaux.encoder.prepare import PreparedSource
from codecaux.encoder.title_scores import title_runs
from codecaux.errors import LpipsUnavailableError
from codecaux.events import Events, Notice
from codecaux.frames import read_frames
from codecaux.hevc import hash_start
from codecaux.ladders.finals import FinalRung
from codecaux.ladders.ladder_work import LadderWork
from codecaux.ladders.points import PooledScores, pooled_scores
from codecaux.ladders.probes import Prober
from codecaux.ladders.rd import RdPoint
from codecaux.lpips import find_lpips
from codecaux.measure import measure
from codecaux.rate import Rate
from codecaux.scores import ScoreTools
from codecaux.video import Frame

__all__ = ["Loss", "best_assignment", "bytes_a_quality", "net_saving", "share_weights"]

_ENHANCED = "enhanced"
# Weights below this part of a rung's bytes are not worth a pass over the title.
_LEAST_SHARE = 0.002
# What may be lost at most, whatever it saves: VMAF, LPIPS.
_MOST_QUALITY, _MOST_LPIPS = 0.25, 0.002


@dataclass(frozen=True, slots=True)
class Loss:
    """What a rung loses with another's weights; below 0: it gains. ``lpips`` 0 where unknown."""

    quality: float
    lpips: float = 0.0

    @property
    def is_small(self) -> bool:
        """May the rung take the other's weights?"""
        return self.quality <= _MOST_QUALITY and self.lpips <= _MOST_LPIPS


# -------------------------------------------------------------------------------------------- pure


def bytes_a_quality(hull: Sequence[RdPoint], quality: float, seconds: float) -> float:
    """Bytes of the title that one unit of quality costs at ``quality`` on a hull; 0 on a lone
    point, whose slope nobody knows.
    """
    steps = list(pairwise(hull))
    if not steps:
        return 0.0
    low, high = next((step for step in steps if quality <= step[1].quality), steps[-1])
    return (high.kbps - low.kbps) / (high.quality - low.quality) * seconds * 125


def net_saving(own_bytes: int, loss: Loss, byte_price: float) -> float | None:
    """Bytes gained by borrowing, the lost quality bought back; None where it does not pay."""
    if not loss.is_small:
        return None
    saved = own_bytes - max(loss.quality, 0.0) * byte_price
    return saved if saved > 0 else None


def best_assignment(count: int, savings: Mapping[tuple[int, int], float]) -> list[int]:
    """Whose weights each of ``count`` rungs uses, itself or a neighbour that uses its own, for the
    largest sum of ``savings``: (borrower, lender) -> bytes. Exact, by dynamic programming.
    """
    # State of the last rung: offset of its lender. +1 promises that the next has its own.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for index in range(count):
        reached: dict[int, tuple[float, list[int]]] = {}
        for last, (total, chosen) in best.items():
            for offset in (0, -1, 1):
                gain = 0.0 if offset == 0 else savings.get((index, index + offset))
                if gain is None or not _may_follow(offset, last, index, count):
                    continue
                if offset not in reached or total + gain > reached[offset][0]:
                    reached[offset] = (total + gain, [*chosen, index + offset])
        best = reached
    _, chosen = max(
        (pair for offset, pair in best.items() if offset != 1), key=lambda pair: pair[0]
    )
    return chosen


def _may_follow(offset: int, last: int, index: int, count: int) -> bool:
    """Whether rung ``index`` may borrow from ``offset`` when the one before it did ``last``."""
    if offset == 0:
        return True
    return last != 1 and index + 1 < count if offset == 1 else last == 0 and index > 0


# ------------------------------------------------------------------------------------------ trials


@dataclass(frozen=True, slots=True)
class _Market:
    """What trials need to know."""

    prober: Prober
    source: PreparedSource
    work: LadderWork
    metric: str
    pool: str
    hull: Sequence[RdPoint]

    def price(self, rung: FinalRung) -> float:
        quality = rung.point.quality(self.metric, self.pool)
        assert quality is not None, "chosen on a metric that every rung has"
        return bytes_a_quality(self.hull, quality, self.prober.title.duration_seconds)

    def loss(self, rung: FinalRung, scores: PooledScores) -> Loss:
        lent = replace(rung.point, enhanced=scores)
        before, after = (p.quality(self.metric, self.pool) for p in (rung.point, lent))
        own, other = (p.score("lpips", self.pool) for p in (rung.point, lent))
        lost = 0.0 if own is None or other is None else other - own
        assert before is not None
        return Loss(before - after if after is not None else float("inf"), lost)

    def trial(self, rung: FinalRung, lender: FinalRung) -> Events[PooledScores]:
        """The rung's scores with the lender's weights; kept in the work folder."""
        name = f"rungs/{rung.stream.stem}-with-{lender.weights.stem}"
        record = self.work.record(name)
        if record is None:
            yield Notice(f"trying the weights of {lender.name} on {rung.name}")
            record = yield from self._score(rung.stream, lender.weights)
            self.work.keep(name, record)
        return record

    def _score(self, stream: Path, weights: Path) -> Events[dict[str, dict[str, float]]]:
        prober = self.prober
        enhancer = open_enhancer(
            stream, weights, device=prober.device, start_sha256=hash_start(stream)
        )

        runs = title_runs(self.source, prober.settings.score_seconds)

        def versions() -> Iterator[dict[str, Frame] | None]:
            for index, frame in enumerate(read_frames(stream)):
                is_needed = runs.wants(index) or enhancer.config.is_recurrent
                yield {_ENHANCED: enhancer.enhance(frame, index).enhanced} if is_needed else None

        try:
            lpips = find_lpips("alex", explicit=prober.settings.lpips_weights)
            lpips = lpips.to(prober.device.torch_device)
        except LpipsUnavailableError:
            lpips = None
        tools = ScoreTools(
            prober.ffmpeg, lpips, lpips_max_frames=prober.settings.lpips_frames, tof_max_pairs=1
        )
        layout = self.source.info.format
        scores = yield from measure(
            self.source.path, versions(), (_ENHANCED,), tools, format=layout, runs=runs
        )
        return pooled_scores(scores[_ENHANCED])


def share_weights(
    prober: Prober,
    source: PreparedSource,
    rungs: Sequence[FinalRung],
    work: LadderWork,
    metric: str,
    pool: str,
    hull: Sequence[RdPoint],
) -> Events[list[FinalRung]]:
    """The rungs, some of them with a neighbour's weights and the scores that they have with them.

    ``hull``: total kb/s against quality, which says what a byte of stream buys.
    """
    market = _Market(prober, source, work, metric, pool, hull)
    shared = {rung.name: rung for rung in rungs}
    by_size = sorted(rungs, key=lambda rung: (rung.point.scale, rung.point.stream_kbps))
    for _, members in groupby(by_size, key=lambda rung: rung.point.scale):
        found = yield from _share_one_size(market, list(members))
        shared |= {rung.name: rung for rung in found}
    return [shared[rung.name] for rung in rungs]


def _share_one_size(market: _Market, rungs: Sequence[FinalRung]) -> Events[list[FinalRung]]:
    tried: dict[tuple[int, int], PooledScores] = {}
    savings: dict[tuple[int, int], float] = {}
    for index, rung in enumerate(rungs):
        if rung.own_bytes < _LEAST_SHARE * rung.point.rate.total_bytes:
            continue
        for lender in (index - 1, index + 1):
            if not 0 <= lender < len(rungs):
                continue
            scores = yield from market.trial(rung, rungs[lender])
            loss = market.loss(rung, scores)
            saving = net_saving(rung.own_bytes, loss, market.price(rung))
            if saving is not None:
                tried[index, lender], savings[index, lender] = scores, saving
    result = []
    for index, lender in enumerate(best_assignment(len(rungs), savings)):
        rung = rungs[index]
        if lender != index:
            rung = _with_weights_of(rung, rungs[lender], tried[index, lender])
            yield Notice(
                f"{rung.name} uses the weights of {rung.weights_of}: {rung.own_bytes:,} bytes saved"
            )
        result.append(rung)
    return result


def _with_weights_of(rung: FinalRung, lender: FinalRung, scores: PooledScores) -> FinalRung:
    """Its rate is what whoever plays this rung alone fetches: the lender's file."""
    rate = rung.point.rate
    lent = Rate(rate.stream_bytes, lender.own_bytes, rate.duration_seconds)
    point = replace(rung.point, rate=lent, enhanced=scores)
    return replace(rung, point=point, weights=lender.weights, weights_of=lender.name)
