"""`encode --target`: the cheapest CRF and scale that meet it, and the encode there.

    targets ─ for each scale: Search over CRF, a probe for each trial ─> trials ─ chosen ─> encode

Quality asks for the largest CRF whose *enhanced* pictures meet it; size and rate for the smallest
CRF that fits. Over several scales the cheapest of those points is taken, or the best one within a
size or rate.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from codecaux.encoder.encode import EncodeResult, encode
from codecaux.errors import InputError, TargetError
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.ladders.commands import encode_command
from codecaux.ladders.picture import METRIC_NAMES
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.search import Search
from codecaux.ladders.targets import Targets
from codecaux.ladders.titles import sample_in_use

__all__ = ["Found", "TargetEncode", "Trial", "encode_to_target", "find_target"]

# Beyond them x265 spends bits on nothing, or has nothing left to spend.
_LOW_CRF, _HIGH_CRF, _START_CRF = 8.0, 48.0, 26.0
# How much higher the CRF may be at the next smaller scale, about.
_CRF_A_SCALE = 4.0
_MAX_ENCODES = 3
_CLOSE_ENOUGH = 2.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A probe, its point, and how far it is beyond what the search goes by (0..1: a hit)."""

    probe: Probe
    point: OperatingPoint
    margin: float


@dataclass(frozen=True, slots=True)
class Found:
    """All trials in their order, and the chosen one."""

    targets: Targets
    trials: tuple[Trial, ...]
    chosen: Trial


@dataclass(frozen=True, slots=True)
class TargetEncode:
    """The encode at the point that was found, and that point as the whole title has it."""

    found: Found
    result: EncodeResult
    final: OperatingPoint

    @property
    def is_met(self) -> bool:
        """By the final title, not by its probe."""
        return self.found.targets.are_met(self.final)


def find_target(
    prober: Prober, targets: Targets, scales: Sequence[Fraction], offset: float = 0.0
) -> Events[Found]:
    """Search every scale. ``offset`` is added to all margins: what the whole title is known to gain
    on its probes.

    TargetError, with the best point, where no point meets all targets; InputError where a metric
    cannot be computed for this title.
    """
    trials: list[Trial] = []
    start = _START_CRF
    for scale in scales:
        tried = yield from _search(prober, targets, scale, start, offset)
        trials += tried
        met = [trial.probe.crf for trial in tried if trial.margin >= 0]
        start = min(max(max(met, default=start) + _CRF_A_SCALE, _LOW_CRF), _HIGH_CRF - 10)
    hits = [trial for trial in trials if trial.margin >= 0]
    if not hits:
        raise _out_of_reach(prober, targets, max(trials, key=lambda trial: trial.margin))
    if targets.is_for_quality:
        chosen = min(hits, key=lambda trial: trial.point.total_kbps)
    else:
        chosen = max(hits, key=_quality)
    ceiling = targets.ceiling
    if ceiling is not None and (ceiling.margin(chosen.point, targets.pool) or 0) < 0:
        raise _out_of_reach(prober, targets, chosen)
    return Found(targets, tuple(trials), chosen)


def _search(
    prober: Prober, targets: Targets, scale: Fraction, start: float, offset: float
) -> Events[list[Trial]]:
    # The search wants margins that fall as x rises: under a ceiling they rise with the CRF.
    sign = 1.0 if targets.is_for_quality else -1.0
    low, high = sorted((sign * _LOW_CRF, sign * _HIGH_CRF))
    search = Search(low, high, sign * start)
    trials: list[Trial] = []
    while (x := search.ask()) is not None:
        probe = Probe(sign * x, scale)
        nearest = sorted(trials, key=lambda trial: abs(trial.probe.crf - probe.crf))
        made = prober.make(probe, [trial.probe for trial in nearest])
        point = yield from _as_one_stage(made, f"probe {probe.label}")
        margin = targets.searched(point)
        if margin is None:
            raise _missing(targets, point)
        margin += offset
        trials.append(Trial(probe, point, margin))
        search.tell(x, margin)
        verdict = "misses" if margin < 0 else "meets"
        yield Notice(f"probe: {_described(point, targets)}: {verdict} the target")
    return trials


def _as_one_stage(events: Events[OperatingPoint], stage: str) -> Events[OperatingPoint]:
    """A probe's progress and warnings; that it is an encode inside is not the reader's business."""
    started = time.monotonic()
    said: set[str] = set()
    yield StageStarted(stage, None)
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                yield StageDone(stage, time.monotonic() - started)
                result: OperatingPoint = stop.value
                return result
            if isinstance(event, Progress):
                yield replace(event, stage=stage)
            elif (
                isinstance(event, Notice) and event.level == "warning" and event.message not in said
            ):
                said.add(event.message)
                yield event


def _quality(trial: Trial) -> float:
    """Of points within a ceiling: by VMAF v1, or by what there is."""
    for metric in ("vmaf_v1", "vmaf_v061", "psnr_y_db"):
        value = trial.point.score(metric)
        if value is not None:
            return value
    return 0.0


def _described(point: OperatingPoint, targets: Targets) -> str:
    scores = []
    for metric in [target.metric for target in targets.floors] or ["vmaf_v1"]:
        value = point.score(metric or "", targets.pool)
        if value is not None:
            digits = 4 if metric == "lpips" else 2
            scores.append(f"{METRIC_NAMES[metric or '']} {value:.{digits}f}")
    cost = f"{point.total_kbps:,.0f} kb/s, {point.total_bytes / 1e6:.2f} MB"
    return ", ".join([point.label, *scores, cost])


def _missing(targets: Targets, point: OperatingPoint) -> InputError:
    lacking = [t for t in targets.floors if t.metric and point.score(t.metric) is None]
    reasons = "; ".join(point.missing.get(t.metric or "", "not computed") for t in lacking)
    names = ", ".join(t.name for t in lacking)
    return InputError(
        f"expected to measure {names} of this title, which cannot be done: {reasons}; choose "
        "another target"
    )


def _out_of_reach(prober: Prober, targets: Targets, best: Trial) -> TargetError:
    settings = prober.settings
    made = prober.final_settings(best.probe, settings.output, settings.weights)
    return TargetError(
        f"expected {targets}, which is out of reach here; the best that can be had is "
        f"{_described(best.point, targets)}: {encode_command(made)} (another --scale, or more "
        "--steps, may reach further)",
        best=best.point,
    )


# ----------------------------------------------------------------------------------------- encode


def encode_to_target(
    prober: Prober,
    targets: Targets,
    scales: Sequence[Fraction],
    output: Path,
    weights: Path,
) -> Events[TargetEncode]:
    """Search, and make the encode; ``prober.settings`` says whether it resumes and overwrites.

    Where the title was probed on samples and its encode misses the target, or is far beyond it, the
    search goes on with what was learnt and the encode is made again, twice at most.
    """
    with sample_in_use(prober.title, prober.cache, prober.ffmpeg):
        return (yield from _to_target(prober, targets, scales, output, weights))


def _to_target(
    prober: Prober, targets: Targets, scales: Sequence[Fraction], output: Path, weights: Path
) -> Events[TargetEncode]:
    found = yield from find_target(prober, targets, scales)
    offset = 0.0
    made = yield from _encode(prober, found, output, weights)
    for _ in range(_MAX_ENCODES - 1):
        margin = targets.searched(made.final)
        if prober.title.is_whole or margin is None or 0 <= margin <= _CLOSE_ENOUGH:
            break
        offset = margin - (found.chosen.margin - offset)
        yield Notice(f"the whole title has {_described(made.final, targets)}: searching on")
        try:
            found = yield from find_target(prober, targets, scales, offset)
        except TargetError as error:
            yield Notice(str(error), "warning")
            break
        if found.chosen.probe == made.found.chosen.probe:
            break
        again = replace(prober, settings=replace(prober.settings, overwrite=True))
        made = yield from _encode(again, found, output, weights)
    if not made.is_met:
        yield Notice(f"the whole title misses {targets} by a little; ask for more", "warning")
    return made


def _encode(prober: Prober, found: Found, output: Path, weights: Path) -> Events[TargetEncode]:
    chosen = found.chosen
    yield Notice(f"chosen: {_described(chosen.point, found.targets)}")
    settings, head = prober.final(chosen.probe, chosen.point, output, weights)
    result = yield from encode(settings, head)
    return TargetEncode(found, result, prober.point_of(chosen.probe, result))
