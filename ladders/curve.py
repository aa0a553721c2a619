"""A title's curves: operating points over CRF and scale, beside x265's own, and one of them chosen.

    grid of (CRF, scale) ─ probes ─> points ─> hull over log rate ─> chosen point ─ verified on
    grid of CRF at 1 ──── x265 ───> points ─> hull                                 the whole title

Rates are those of the whole title, weights included. Everything is chosen on VMAF v1 (where the
picture is too small for it, on v0.6.1): the best point up to which each doubling of the rate still
buys ``least_gain`` of quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from codecaux import errors
from codecaux.encoder.settings import EncodeSettings
from codecaux.errors import CodecauxError, InputError
from codecaux.events import Events, Notice
from codecaux.ffmpeg import find_ffmpeg
from codecaux.ladders.cache import Cache
from codecaux.ladders.grid import ProbeRun, run_probes
from codecaux.ladders.jobs import Failure
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.rd import BdRate, bd_rate, capped, convex_hull, pareto
from codecaux.ladders.settings import CurveSettings, SamplingSettings
from codecaux.ladders.titles import Title, sample_in_use, survey

__all__ = [
    "CURVE_METRICS",
    "Curve",
    "as_error",
    "choice_metric",
    "hull_of",
    "make_curve",
    "open_prober",
]

CURVE_METRICS = ("vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "lpips", "psnr_y_db", "ssim")
_CHOICE_METRICS = ("vmaf_v1", "vmaf_v061", "psnr_y_db")


@dataclass(frozen=True, slots=True)
class Curve:
    """What was found. ``hull`` and ``x265_hull`` are parts of ``points`` and ``x265_points``, over
    log rate on ``metric``; ``bd_rates``: metric -> our reachable hull against x265's front.
    ``final``: the chosen point, coded and scored over the whole title as a plain encode does it;
    ``failures``: label -> why a point is missing.
    """

    title: Title
    metric: str
    pool: str
    points: tuple[OperatingPoint, ...]
    x265_points: tuple[OperatingPoint, ...]
    hull: tuple[OperatingPoint, ...]
    x265_hull: tuple[OperatingPoint, ...]
    bd_rates: Mapping[str, BdRate | None]
    chosen: OperatingPoint
    final: OperatingPoint | None
    failures: Mapping[str, Failure]
    num_cached: int

    def error(self, metric: str) -> float | None:
        """The probe's score less the final one: how far it promised too much."""
        if self.final is None:
            return None
        probe, final = (p.score(metric, self.pool) for p in (self.chosen, self.final))
        return None if probe is None or final is None else probe - final


def open_prober(
    path: str, settings: EncodeSettings, sampling: SamplingSettings, cache: Cache
) -> Events[Prober]:
    """Survey the title and find the tools, for a curve, a target or a ladder."""
    title = yield from survey(path, settings.source, sampling, cache, find_ffmpeg())
    prober = Prober.open(title, settings, cache)
    yield Notice(f"device: {prober.device.description}")
    if not title.is_whole:
        yield Notice(
            f"{len(title.ranges)} piece(s) of {title.sample_seconds:.1f} s in all stand for "
            f"{title.duration_seconds:.1f} s"
        )
    return prober


def make_curve(prober: Prober, settings: CurveSettings) -> Events[Curve]:
    """Measure the grid (what is cached is taken), choose, verify.

    Points that fail are left out and reported; where none of ours or no x265 point is left, the
    first failure is raised.
    """
    with sample_in_use(prober.title, prober.cache, prober.ffmpeg):
        return (yield from _curve(prober, settings))


def _curve(prober: Prober, settings: CurveSettings) -> Events[Curve]:
    run = yield from run_probes(prober, _probes(settings), settings.jobs)
    ours = _points(run, "ours")
    x265 = _points(run, "x265")
    if not ours or not x265:
        raise as_error(next(iter(run.failures.values())))
    metric = choice_metric([*ours, *x265])
    if metric != _CHOICE_METRICS[0]:
        why = ours[0].missing.get(_CHOICE_METRICS[0], "not computed")
        yield Notice(f"chosen on {metric}: {_CHOICE_METRICS[0]} is missing ({why})", "warning")
    hull = hull_of(ours, metric, settings.pool)
    chosen = _knee(hull, metric, settings)
    final = None
    if settings.verify == "always" or (settings.verify == "auto" and not prober.title.is_whole):
        final = yield from _final(prober, chosen)
    return Curve(
        title=prober.title,
        metric=metric,
        pool=settings.pool,
        points=tuple(ours),
        x265_points=tuple(x265),
        hull=tuple(hull),
        x265_hull=tuple(hull_of(x265, metric, settings.pool)),
        bd_rates={m: _bd_rate(ours, x265, m, settings.pool) for m in CURVE_METRICS},
        chosen=chosen,
        final=final,
        failures={probe.label: failure for probe, failure in run.failures.items()},
        num_cached=run.num_cached,
    )


def _probes(settings: CurveSettings) -> list[Probe]:
    """Everything that is to be measured: ours, then x265's."""
    ours = [Probe(crf, scale) for scale in settings.scales for crf in settings.crfs]
    return ours + [Probe(crf, Fraction(1), "x265") for crf in settings.crfs]


def hull_of(
    points: Sequence[OperatingPoint], metric: str, pool: str = "mean"
) -> list[OperatingPoint]:
    """Of points of one kind, those on the hull over log rate, by rising rate."""
    rated = {p.rd_point(metric, pool): p for p in points}
    rated.pop(None, None)
    return [rated[point] for point in convex_hull([p for p in rated if p is not None], "log rate")]


def _points(run: ProbeRun, family: str) -> list[OperatingPoint]:
    return [point for probe, point in run.points.items() if probe.family == family]


def as_error(failure: Failure) -> CodecauxError:
    """A failure of another process as the error that it was."""
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, CodecauxError):
        return kind(failure.message)
    return CodecauxError(failure.message)


def choice_metric(points: Sequence[OperatingPoint]) -> str:
    """The best metric that all points have: things are chosen on it. InputError for none."""
    for metric in _CHOICE_METRICS:
        if all(point.score(metric) is not None for point in points):
            return metric
    raise InputError("expected a picture that VMAF or PSNR can score, got one that neither can")


def _knee(hull: Sequence[OperatingPoint], metric: str, settings: CurveSettings) -> OperatingPoint:
    by_rd = {point.rd_point(metric, settings.pool): point for point in hull}
    return by_rd[capped([rd for rd in by_rd if rd is not None], settings.least_gain)[-1]]


def _bd_rate(
    ours: Sequence[OperatingPoint], x265: Sequence[OperatingPoint], metric: str, pool: str
) -> BdRate | None:
    """Over the rate itself: what can be reached in time (see codecaux.ladders.rd)."""
    test, reference = (
        [rd for rd in (point.rd_point(metric, pool) for point in points) if rd is not None]
        for points in (ours, x265)
    )
    return bd_rate(pareto(reference), convex_hull(test, "rate"))


def _final(prober: Prober, chosen: OperatingPoint) -> Events[OperatingPoint]:
    """The whole title at the chosen point, from the base: what a plain encode would give."""
    whole = replace(prober, title=prober.title.taken_whole())
    probe = Probe(chosen.crf, chosen.scale, is_cold=True)
    if whole.cached(probe) is None:
        yield Notice(f"the whole title at {chosen.label}, to compare with its probe")
    return (yield from whole.make(probe))
