"""A title as a ladder that any player plays: probed, chosen, encoded, packaged, reported.

    heights x CRFs ─ probes ─> points ─> hull ─> rungs ─ encode ─> streams, weights ─ shared? ─┐
    source ─ sound, H.264 ─────────────────────────────────────────────────────────────────────┤
                                        DIR: segments, HLS, DASH, index, report <─ package ────┘

Rates are those of the whole title, weights included; everything is chosen on VMAF v1 (where the
picture is too small for it, on v0.6.1). Every part is kept as it is done: probes in the cache,
rungs in a work folder beside DIR, which appears whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from codecaux.atomic import atomic_folder
from codecaux.encoder.prepare import PreparedSource
from codecaux.encoder.settings import EncodeSettings
from codecaux.errors import CodecauxError, InputError
from codecaux.events import Events, Notice
from codecaux.hevc import hash_stream
from codecaux.ladderindex import LadderIndex, RungEntry
from codecaux.ladders.cache import Cache
from codecaux.ladders.choice import (
    SAME_QUALITY,
    candidates,
    choose_rungs,
    grid_scales,
    probes_between,
)
from codecaux.ladders.compare import plain_hull
from codecaux.ladders.curve import as_error, choice_metric, hull_of, open_prober
from codecaux.ladders.finals import FinalRung, Foretold, make_finals, on_the_grid
from codecaux.ladders.gops import segment_frames
from codecaux.ladders.grid import run_probes
from codecaux.ladders.jobs import Failure, check_jobs
from codecaux.ladders.ladder_settings import LadderSettings
from codecaux.ladders.ladder_work import LadderWork, check_output, open_ladder_work
from codecaux.ladders.package import LadderFiles, PackageSettings, package
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.rd import RdPoint
from codecaux.ladders.rungs import Rung
from codecaux.ladders.settings import SamplingSettings
from codecaux.ladders.sharing import share_weights
from codecaux.ladders.soundtrack import PicturesSpan, fallback_rung, sound_of
from codecaux.ladders.thumbnails import Thumbnails, make_thumbnails
from codecaux.ladders.titles import Title, sample_in_use, whole_source
from codecaux.ladders.tuning import tuned
from codecaux.probe import probe as describe

__all__ = ["Ladder", "Plan", "make_ladder", "plan_ladder"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the probes say. ``hull``: of ``points``, over log rate on ``metric``; ``plain``: of
    H.265 without weights, at all heights; ``rungs`` rise in rate.
    """

    metric: str
    pool: str
    points: tuple[OperatingPoint, ...]
    x265_points: tuple[OperatingPoint, ...]
    hull: tuple[OperatingPoint, ...]
    plain: tuple[RdPoint, ...]
    rungs: tuple[Foretold, ...]
    failures: Mapping[str, Failure] = field(default_factory=dict)
    num_cached: int = 0

    def rated(self) -> list[RdPoint]:
        """The hull as total kb/s and quality."""
        found = (point.rd_point(self.metric, self.pool) for point in self.hull)
        return [point for point in found if point is not None]


@dataclass(frozen=True, slots=True)
class Ladder:
    """What was made. ``rungs`` rise in rate; ``entries``: a rung's name -> its place in the index;
    ``seconds``: part of the work -> wall time now; what was done before costs nothing.
    """

    title: Title
    wanted: LadderSettings
    net: str
    device: str
    plan: Plan
    rungs: tuple[FinalRung, ...]
    files: LadderFiles
    entries: Mapping[str, RungEntry]
    thumbnails: Thumbnails
    seconds: Mapping[str, float]


def make_ladder(
    source: str,
    settings: EncodeSettings,
    wanted: LadderSettings,
    output: Path,
    *,
    sampling: SamplingSettings | None = None,
    cache: Cache | None = None,
) -> Events[Ladder]:
    """Make ``output`` out of ``source``. ``settings``: what all encodes have in common, and whether
    to resume and to overwrite; ``cache`` None: probes are kept in the work folder alone.

    Raises UsageError and InputError for what makes no ladder, before any probe; then what probes
    and encodes raise. Interrupted, the same settings with ``resume`` go on.
    """
    check_jobs(wanted.jobs)
    check_output(output, source, overwrite=settings.overwrite)
    sampling = sampling or SamplingSettings()
    opened = open_ladder_work(
        output, settings, wanted, sampling, resume=settings.resume, overwrite=settings.overwrite
    )
    with opened as work:
        job = _Job(settings, wanted, output, work, {})
        prober, plan = yield from job.plan(source, sampling, cache)
        yield Notice("rungs: " + "; ".join(_described(rung, plan) for rung in plan.rungs))
        return (yield from job.make(prober, plan))


def _described(rung: Foretold, plan: Plan) -> str:
    point = rung.point
    quality = point.score(plan.metric, plan.pool)
    return f"{point.coded_height}p CRF {point.crf:g} {point.total_kbps:,.0f} kb/s {quality:.1f}"


# ------------------------------------------------------------------------------------------- plan


def plan_ladder(prober: Prober, wanted: LadderSettings) -> Events[Plan]:
    """Probe the grid (what is cached is taken) and choose the rungs.

    Points that fail are left out; where none of ours is left, the first failure is raised.
    """
    with sample_in_use(prober.title, prober.cache, prober.ffmpeg):
        return (yield from _plan(prober, wanted))


def _plan(prober: Prober, wanted: LadderSettings) -> Events[Plan]:
    title = prober.title
    scales, notes = grid_scales(title.width, title.height, wanted)
    for note in notes:
        yield Notice(note, "warning")
    ours = [Probe(crf, scale) for scale in scales for crf in wanted.crfs]
    x265 = [Probe(crf, Fraction(1), "x265") for crf in wanted.crfs]
    run = yield from run_probes(prober, [*ours, *x265], wanted.jobs)
    points, failures = dict(run.points), dict(run.failures)
    if not any(probe in points for probe in ours):
        raise as_error(next(iter(failures.values())))
    metric = choice_metric(list(points.values()))
    made = [point for point in points.values() if point.family == "ours"]
    between = probes_between(made, _hull(points, metric, wanted.pool), metric, wanted)
    extra = [probe for probe in between if probe not in failures]
    if extra:
        # Those that are there are what the new ones start from; what failed would fail again.
        known = [probe for probe in ours if probe in points]
        again = yield from run_probes(prober, [*known, *extra], wanted.jobs)
        points |= again.points
        failures |= again.failures
    hull = _hull(points, metric, wanted.pool)
    mine, theirs = (
        [point for point in points.values() if point.family == family]
        for family in ("ours", "x265")
    )
    rungs = _chosen(mine, metric, wanted)
    if len(rungs) < (wanted.count or 0):
        yield _too_few(len(rungs), wanted)
    return Plan(
        metric=metric,
        pool=wanted.pool,
        points=tuple(mine),
        x265_points=tuple(theirs),
        hull=tuple(hull),
        plain=tuple(plain_hull(mine, theirs, metric, wanted.pool)),
        rungs=tuple(rungs),
        failures={p.label: failure for p, failure in failures.items() if p not in points},
        num_cached=run.num_cached,
    )


def _too_few(found: int, wanted: LadderSettings) -> Notice:
    limit = "--least-gain" if wanted.top is None else "--top"
    return Notice(
        f"{found} of {wanted.count} rungs: the hull of the probes has no more points that differ "
        f"by {SAME_QUALITY:g} VMAF up to {limit}; give a finer --crf for more",
        "warning",
    )


def _hull(points: Mapping[Probe, OperatingPoint], metric: str, pool: str) -> list[OperatingPoint]:
    return hull_of([p for p in points.values() if p.family == "ours"], metric, pool)


def _chosen(made: Sequence[OperatingPoint], metric: str, wanted: LadderSettings) -> list[Foretold]:
    by_rd = {point.rd_point(metric, wanted.pool): point for point in made}
    rated = candidates([rd for rd in by_rd if rd is not None], wanted)
    points = [by_rd[rd] for rd in choose_rungs(rated, wanted)]
    return [Foretold(Probe(point.crf, point.scale), point) for point in points]


# ----------------------------------------------------------------------------------------- making


@dataclass(frozen=True, slots=True)
class _Job:
    """One ladder in the making; ``seconds`` fills as parts of it are done."""

    settings: EncodeSettings
    wanted: LadderSettings
    output: Path
    work: LadderWork
    seconds: dict[str, float]

    @contextmanager
    def timed(self, part: str) -> Any:
        """Count the time of the block as spent on ``part``."""
        started = time.monotonic()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - started

    def plan(
        self, source: str, sampling: SamplingSettings, cache: Cache | None
    ) -> Events[tuple[Prober, Plan]]:
        """Everything up to the choice of rungs. What was refused leaves nothing to go on with, but
        for probes that are kept nowhere else.
        """
        try:
            with self.timed("probes"):
                prober = yield from self.prober(source, sampling, cache)
                plan = yield from plan_ladder(prober, self.wanted)
        except CodecauxError:
            if self.work.has_probes and not self.work.has_rungs:
                yield Notice(
                    f"the probes are kept in {self.work.path}: --resume goes on with them, with "
                    "other --rates or CRFs too"
                )
            elif not self.settings.resume:
                self.work.remove()
            raise
        return prober, plan

    def prober(
        self, source: str, sampling: SamplingSettings, cache: Cache | None
    ) -> Events[Prober]:
        """The title surveyed and found fit for a ladder."""
        cache = cache or Cache.open(self.work.probes)
        prober = yield from open_prober(source, self.settings, sampling, cache)
        title, segment = prober.title, self.wanted.segment_seconds
        self.work.bind(title.content, prober.lpips())
        if title.num_frames <= segment_frames(title.fps, segment):
            raise InputError(
                f"expected a title longer than one segment of {float(segment):g} s, got "
                f"{title.duration_seconds:.2f} s; choose a shorter --segment (0.5 at least)"
            )
        if self.wanted.fallback and title.options.raw_size is None and describe(title.path).is_hdr:
            raise InputError(
                "expected a standard dynamic range for an H.264 fallback, got PQ or HLG; leave "
                "--h264 out, or make a ladder of a tone-mapped master"
            )
        prober = yield from tuned(prober)
        return replace(prober, settings=on_the_grid(prober.settings, title.fps, segment))

    def make(self, prober: Prober, plan: Plan) -> Events[Ladder]:
        """Everything after the choice of rungs."""
        with self.timed("rungs"):
            rungs = yield from make_finals(prober, plan.rungs, self.wanted, self.work)
            source = yield from whole_source(prober.title, self.work.source, prober.ffmpeg)
        if self.wanted.share:
            with self.timed("shared weights"):
                rungs = yield from share_weights(
                    prober, source, rungs, self.work, plan.metric, plan.pool, plan.rated()
                )
        with self.timed("package"):
            files = yield from self._package(prober, source, rungs)
            shown = make_thumbnails(source, _most_gained(rungs, plan), prober.device)
        ladder = Ladder(
            title=prober.title,
            wanted=self.wanted,
            net=self.settings.net,
            device=prober.device.description,
            plan=plan,
            rungs=tuple(rungs),
            files=files,
            entries={rung.name: _entry_of(rung, files.index) for rung in rungs},
            thumbnails=shown,
            seconds=self.seconds,
        )
        self._publish(ladder)
        return ladder

    def _package(
        self, prober: Prober, source: PreparedSource, rungs: Sequence[FinalRung]
    ) -> Events[LadderFiles]:
        wanted, ffmpeg = self.wanted, prober.ffmpeg
        streams = [Rung(rung.stream, rung.weights) for rung in rungs]
        if wanted.fallback:
            path = yield from fallback_rung(source, prober.title.fps, wanted, self.work, ffmpeg)
            streams.append(Rung(path))
        span = PicturesSpan(source.duration_seconds, wanted.segment_seconds)
        sound = yield from sound_of(source.original, span, self.work, ffmpeg)
        both = not (wanted.hls or wanted.dash)
        settings = PackageSettings(
            wanted.segment_seconds, wanted.hls or both, wanted.dash or both, overwrite=True
        )
        files = yield from package(streams, sound, self.work.packaged, settings, ffmpeg)
        return replace(
            files,
            folder=self.output,
            index_path=self.output / files.index_path.name,
            master=files.master and self.output / files.master.name,
            manifest=files.manifest and self.output / files.manifest.name,
        )

    def _publish(self, ladder: Ladder) -> None:
        """Report and folder, under the final name, all at once; the work folder is gone."""
        from codecaux.ladders.ladder_fields import write_reports

        write_reports(ladder, self.work.packaged)
        with atomic_folder(self.output, overwrite=self.settings.overwrite) as folder:
            for child in sorted(self.work.packaged.iterdir()):
                child.rename(folder / child.name)
        self.work.remove()


def _entry_of(rung: FinalRung, index: LadderIndex) -> RungEntry:
    found = hash_stream(rung.stream)
    return next(entry for entry in index.rungs if entry.stream == found)


def _most_gained(rungs: Sequence[FinalRung], plan: Plan) -> FinalRung:
    """The rung whose weights gain most: there is something to see."""

    def gain(rung: FinalRung) -> float:
        shown = rung.point.quality(plan.metric, plan.pool)
        plain = rung.point.quality(plan.metric, plan.pool, plain=True)
        return 0.0 if shown is None or plain is None else shown - plain

    return max(rungs, key=gain)
