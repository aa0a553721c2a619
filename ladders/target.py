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

from codecaux.encoder.checks import check_encode
from codecaux.encoder.encode import EncodeResult, encode
from codecaux.errors import FitError, InputError, TargetError
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.ladders.cache import digest_of
from codecaux.ladders.commands import encode_command
from codecaux.ladders.picture import METRIC_NAMES
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.search import Search
from codecaux.ladders.target_work import TargetWork, check_target_work, open_target_work
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
class Offset:
    """What the whole title is known to have beyond its probes, as margins: of what the search goes
    by, and of the ceiling beside floors.
    """

    searched: float = 0.0
    ceiling: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A probe, its point, and how far it is beyond what the search goes by (0..1: a hit).

    ``room``: how far it is below the ceiling, where there are floors too; 0 where not.
    """

    probe: Probe
    point: OperatingPoint
    margin: float
    room: float = 0.0

    @property
    def is_met(self) -> bool:
        """Are all targets met, as far as the probe can tell?"""
        return self.margin >= 0 and self.room >= 0


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

    @property
    def miss(self) -> TargetError | None:
        """What to raise where it is not met, once the files and this result are seen to."""
        if self.is_met:
            return None
        targets, result = self.found.targets, self.result
        return TargetError(
            f"expected {targets}, got a whole title of {_described(self.final, targets)}; "
            f"{result.stream} and {result.weights} are written all the same (another --scale, more "
            "--steps or longer samples may reach it)",
            best=self.final,
        )


def find_target(
    prober: Prober, targets: Targets, scales: Sequence[Fraction], offset: Offset | None = None
) -> Events[Found]:
    """Search every scale. ``offset`` is added to all margins.

    TargetError, with the best point, where no point meets all targets; InputError where a metric
    cannot be computed for this title.
    """
    searches: list[_ScaleSearch] = []
    start = _START_CRF
    for scale in scales:
        search = _ScaleSearch(prober, targets, scale, start, offset or Offset())
        searches.append(search)
        yield from search.run()
        met = [trial.probe.crf for trial in search.trials if trial.margin >= 0]
        start = min(max(max(met, default=start) + _CRF_A_SCALE, _LOW_CRF), _HIGH_CRF - 10)
    for search in searches:
        if not any(each.is_met for each in searches):
            yield from search.squeeze()
    trials = tuple(trial for search in searches for trial in search.trials)
    hits = [trial for trial in trials if trial.margin >= 0]
    if not hits:
        raise _out_of_reach(prober, targets, max(trials, key=lambda trial: trial.margin))
    if targets.is_for_quality:
        chosen = min(hits, key=lambda trial: trial.point.total_kbps)
    else:
        chosen = max(hits, key=lambda trial: _quality(trial.point, targets.pool))
    if not chosen.is_met:
        raise _out_of_reach(prober, targets, chosen)
    return Found(targets, trials, chosen)


class _ScaleSearch:
    """The search over CRF at one scale; ``trials`` in their order."""

    def __init__(
        self, prober: Prober, targets: Targets, scale: Fraction, start: float, offset: Offset
    ) -> None:
        self._prober, self._targets, self._scale, self._offset = prober, targets, scale, offset
        # The search wants margins that fall as x rises: under a ceiling they rise with the CRF.
        self._sign = 1.0 if targets.is_for_quality else -1.0
        low, high = sorted((self._sign * _LOW_CRF, self._sign * _HIGH_CRF))
        self._search = Search(low, high, self._sign * start)
        self.trials: list[Trial] = []

    @property
    def is_met(self) -> bool:
        """Has a trial met all targets?"""
        return any(trial.is_met for trial in self.trials)

    def run(self) -> Events[None]:
        """To what the search goes by."""
        while (x := self._search.ask()) is not None:
            yield from self._try(x)

    def squeeze(self) -> Events[None]:
        """On to the larger CRFs that meet the floors as well, until one fits below the ceiling."""
        self._search.tighten()
        while self._may_fit() and (x := self._search.ask()) is not None:
            yield from self._try(x)

    def _may_fit(self) -> bool:
        """Rates fall with the CRF, but for that of the weights: where the least CRF that misses the
        floors takes clearly too much, those below it do.
        """
        hits = [trial for trial in self.trials if trial.margin >= 0]
        if self.is_met or not hits:
            return False
        best = max(hit.probe.crf for hit in hits)
        above = [trial for trial in self.trials if trial.probe.crf > best]
        return min(above, key=_crf).room > -_CLOSE_ENOUGH if above else True

    def _try(self, x: float) -> Events[None]:
        targets, probe = self._targets, Probe(self._sign * x, self._scale)
        nearest = sorted(self.trials, key=lambda trial: abs(trial.probe.crf - probe.crf))
        made = self._prober.make(probe, [trial.probe for trial in nearest])
        point = yield from _as_one_stage(made, f"probe {probe.label}")
        margin = targets.searched(point)
        if margin is None:
            raise _missing(targets, point)
        room = targets.room(point)
        trial = Trial(
            probe,
            point,
            margin + self._offset.searched,
            0.0 if room is None else room + self._offset.ceiling,
        )
        self.trials.append(trial)
        self._search.tell(x, trial.margin)
        verdict = "meets" if trial.is_met else "misses"
        yield Notice(f"probe: {_described(point, targets)}: {verdict} the target")


def _crf(trial: Trial) -> float:
    return trial.probe.crf


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


def _quality(point: OperatingPoint, pool: str) -> float:
    """Of points within a ceiling: by VMAF v1, or by what there is."""
    for metric in ("vmaf_v1", "vmaf_v061", "psnr_y_db"):
        value = point.score(metric, pool)
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
    beside = targets.beside_bytes
    cost = f"{point.total_kbps:,.0f} kb/s, {(point.total_bytes + beside) / 1e6:.3g} MB"
    if beside:
        cost += f" with {beside / 1e6:.3g} MB of sound, subtitles and container"
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
    search goes on with what was learnt and the encode is made again, twice at most. Where even that
    misses it, the files are there all the same, and the result's ``miss`` says so.

    TargetError where the probes already say that it is out of reach.
    """
    settings = replace(prober.settings, output=output, weights=weights)
    check_encode(settings)
    check_target_work(settings)
    with sample_in_use(prober.title, prober.cache, prober.ffmpeg):
        found = yield from find_target(prober, targets, scales)
        with open_target_work(settings) as work:
            made = yield from _whole_titles(prober, found, scales, work)
            best = _best(made)
            work.publish(best.result, output, weights)
    return replace(best, result=replace(best.result, stream=output, weights=weights))


def _whole_titles(
    prober: Prober, found: Found, scales: Sequence[Fraction], work: TargetWork
) -> Events[list[TargetEncode]]:
    """The encode at what was found; of a sampled title more, as long as that may gain something."""
    targets, offset = found.targets, Offset()
    made = [(yield from _whole_title(prober, found, work))]
    while len(made) < _MAX_ENCODES and not prober.title.is_whole:
        last = made[-1]
        if _is_close(targets, last.final):
            break
        offset = _offset(last, offset)
        yield Notice(f"the whole title has {_described(last.final, targets)}: searching on")
        try:
            found = yield from find_target(prober, targets, scales, offset)
            if found.chosen.probe in [each.found.chosen.probe for each in made]:
                break
            made.append((yield from _whole_title(prober, found, work)))
        except (TargetError, FitError) as error:
            # What was made is there to be taken.
            yield Notice(str(error), "warning")
            break
    return made


def _best(made: Sequence[TargetEncode]) -> TargetEncode:
    """Of those that meet the targets the cheapest, or the best in a ceiling; else the nearest."""
    targets = made[0].found.targets
    met = [each for each in made if each.is_met]
    if not met:
        return max(made, key=lambda each: targets.worst(each.final))
    if targets.is_for_quality:
        return min(met, key=lambda each: each.final.total_kbps)
    return max(met, key=lambda each: _quality(each.final, targets.pool))


def _is_close(targets: Targets, final: OperatingPoint) -> bool:
    """Is there nothing to be gained by another search?"""
    margin = targets.searched(final)
    return margin is None or (targets.are_met(final) and margin <= _CLOSE_ENOUGH)


def _offset(made: TargetEncode, before: Offset) -> Offset:
    """What the whole title has beyond its probe, which was told with the offset ``before``."""
    targets, chosen = made.found.targets, made.found.chosen
    margin, room = targets.searched(made.final), targets.room(made.final)
    assert margin is not None, "a whole title lacks a metric that its probe had"
    return Offset(
        margin - (chosen.margin - before.searched),
        0.0 if room is None else room - (chosen.room - before.ceiling),
    )


def _whole_title(prober: Prober, found: Found, work: TargetWork) -> Events[TargetEncode]:
    """The encode at the chosen point; what was done before is not made again."""
    probe, point = found.chosen.probe, found.chosen.point
    yield Notice(f"chosen: {_described(point, found.targets)}")
    name = _name(prober, found.chosen)
    result = work.result(name)
    if result is None:
        settings, head = prober.final(probe, point, *work.files(name))
        result = yield from encode(replace(settings, resume=True, overwrite=True), head)
        work.keep(name, result)
    return TargetEncode(found, result, prober.point_of(probe, result))


def _name(prober: Prober, chosen: Trial) -> str:
    """Of the whole title's files: all that they depend on is in it."""
    probe = chosen.probe
    identity = prober.identity(probe) | {"start": chosen.point.started_from}
    return f"crf{probe.crf:g}-scale{float(probe.scale):g}-{digest_of(identity)[:16]}"
