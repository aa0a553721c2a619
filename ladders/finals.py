"""The rungs of a ladder as the product's own encodes of the whole title, on one grid of keyframes.

    chosen probe ─ cap from its rate ─ encode ─> rungs/NAME.mp4, NAME.weights, NAME.json

A rung whose record is there is finished and not made again. NAME has a digest of its settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from codecaux.encoder.encode import encode
from codecaux.encoder.settings import EncodeSettings, identity
from codecaux.errors import CodecauxError, UsageError
from codecaux.events import Events, Notice
from codecaux.ladders.cache import Cache, digest_of
from codecaux.ladders.curve import as_error
from codecaux.ladders.gops import rung_x265_params
from codecaux.ladders.jobs import Failure, Job, run_jobs
from codecaux.ladders.ladder_settings import LadderSettings
from codecaux.ladders.ladder_work import LadderWork
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober, settings_from_json, settings_to_json
from codecaux.ladders.titles import Title, whole_source

__all__ = ["FinalRung", "Foretold", "cap_kbps", "make_finals", "on_the_grid"]

_FUNCTION = "codecaux.ladders.finals:run_final_job"
# What the ladder sets itself, and with other values is no ladder any more.
_OWN_PARAMETERS = frozenset(
    ("keyint", "min-keyint", "open-gop", "no-open-gop", "intra-refresh")
) | frozenset(("bitrate", "strict-cbr", "vbv-maxrate", "vbv-bufsize", "const-vbv"))
# The buffer lasts half a segment, which leaves room for an I picture of most of a segment's bits.
_BUFFER_SHARE = Fraction(1, 2)
_CAP_SHARE = 0.8
_LOOSE_KBPS = 400_000


@dataclass(frozen=True, slots=True)
class Foretold:
    """A chosen rung before it is made: its probe, and what that scored."""

    probe: Probe
    point: OperatingPoint

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.point.coded_height}p-crf{self.probe.crf:g}"


@dataclass(frozen=True, slots=True)
class FinalRung:
    """A finished rung. ``point``: the whole title as it is shown, with ``weights``; ``own_bytes``:
    of the weights fitted to it; ``weights_of``: name of the rung whose weights it uses, its own or
    another's.
    """

    foretold: Foretold
    point: OperatingPoint
    stream: Path
    weights: Path
    weights_of: str
    own_bytes: int

    @property
    def name(self) -> str:
        """As the rung that was foretold."""
        return self.foretold.name


def on_the_grid(settings: EncodeSettings, fps: Fraction, segment: Fraction) -> EncodeSettings:
    """Settings whose streams have a keyframe each segment: probes are made so as well.

    With a cap that never binds: x265 codes otherwise as soon as there is one (4 to 9 % more bits
    and up to 2 VMAF on short clips), however large it is.

    UsageError where x265 parameters are given that the ladder sets.
    """
    given = settings.stream.x265_params
    taken = sorted({name for name, _ in given} & _OWN_PARAMETERS)
    if taken:
        raise UsageError(
            f"the ladder itself sets x265's {', '.join(taken)}, by --segment and --peak; leave "
            "it out of --x265-params"
        )
    params = (*given, *rung_x265_params(fps, segment, _LOOSE_KBPS, segment * _BUFFER_SHARE))
    return replace(settings, stream=replace(settings.stream, x265_params=params))


def cap_kbps(stream_kbps: float, peak: float) -> int:
    """What x265 is held to, in kb/s, for segments of about ``peak`` times the mean at most.

    With a buffer of half a segment, no segment is above 1.5 times this.
    """
    return max(1, round(stream_kbps * peak * _CAP_SHARE))


def capped_settings(
    settings: EncodeSettings, point: OperatingPoint, wanted: LadderSettings, fps: Fraction
) -> EncodeSettings:
    """A rung's settings: its probe's, and the cap."""
    segment = wanted.segment_seconds
    kbps = cap_kbps(point.stream_kbps, wanted.peak)
    params = rung_x265_params(fps, segment, kbps, segment * _BUFFER_SHARE)
    merged = tuple((dict(settings.stream.x265_params) | dict(params)).items())
    return replace(settings, stream=replace(settings.stream, x265_params=merged))


# ------------------------------------------------------------------------------------------ making


def make_finals(
    prober: Prober, chosen: Sequence[Foretold], wanted: LadderSettings, work: LadderWork
) -> Events[list[FinalRung]]:
    """Encode every rung that is not finished yet, ``wanted.jobs`` at a time.

    One that fails does not stop the others; its error is raised when they are done.
    """
    names = {rung.name: _file_name(prober, rung, wanted) for rung in chosen}
    missing = [rung for rung in chosen if _finished(rung, names[rung.name], work) is None]
    if len(missing) < len(chosen):
        yield Notice(f"{len(chosen) - len(missing)} of {len(chosen)} rungs are finished already")
    make = _make_here if wanted.jobs == 1 or len(missing) < 2 else _make_apart
    failures = yield from make(prober, missing, wanted, work)
    if failures:
        raise failures[0]
    finals = [_finished(rung, names[rung.name], work) for rung in chosen]
    return [rung for rung in finals if rung is not None]


def _make_here(
    prober: Prober, rungs: Sequence[Foretold], wanted: LadderSettings, work: LadderWork
) -> Events[list[CodecauxError]]:
    failures = []
    for number, rung in enumerate(rungs, 1):
        yield Notice(f"rung {number} of {len(rungs)}: {rung.point.label}")
        try:
            yield from make_final(prober, rung, wanted, work)
        except CodecauxError as error:
            failures.append(error)
            yield Notice(f"{rung.point.label} failed: {error}", "warning")
    return failures


def make_final(
    prober: Prober, rung: Foretold, wanted: LadderSettings, work: LadderWork
) -> Events[None]:
    """One rung; interrupted and called again, its encode goes on."""
    name = _file_name(prober, rung, wanted)
    settings, head = prober.final(rung.probe, rung.point, *_files(name, work))
    settings = capped_settings(settings, rung.point, wanted, prober.title.fps)
    settings = replace(settings, resume=True, overwrite=True)
    # Where it has to be converted, once for all rungs: that is as large as the whole title. The
    # ladder takes its sound from the original.
    source = yield from whole_source(prober.title, work.source, prober.ffmpeg)
    head = replace(head, source=source, takes_pictures=True)
    with closing(encode(settings, head)) as events:
        result = yield from events
    point = prober.point_of(rung.probe, result)
    work.keep(f"rungs/{name}", {"point": point.to_json()})


def _file_name(prober: Prober, rung: Foretold, wanted: LadderSettings) -> str:
    """With a digest of the settings: a rung of other ones (its cap is made from what its probe
    scored, and probes may be made anew) is another rung.
    """
    final = prober.final_settings(rung.probe, Path(), Path())
    settings = capped_settings(final, rung.point, wanted, prober.title.fps)
    asked = identity(settings) | {"input": prober.title.content, "start": rung.point.started_from}
    return f"{rung.name}-{digest_of(asked)[:12]}"


def _files(name: str, work: LadderWork) -> tuple[Path, Path]:
    return work.rungs / f"{name}.mp4", work.rungs / f"{name}.weights"


def _finished(rung: Foretold, name: str, work: LadderWork) -> FinalRung | None:
    record = work.record(f"rungs/{name}")
    stream, weights = _files(name, work)
    if record is None or not (stream.exists() and weights.exists()):
        return None
    point = OperatingPoint.from_json(record["point"])
    return FinalRung(rung, point, stream, weights, rung.name, point.rate.weights_bytes)


# ------------------------------------------------------------------------------- in other processes


def _make_apart(
    prober: Prober, rungs: Sequence[Foretold], wanted: LadderSettings, work: LadderWork
) -> Events[list[CodecauxError]]:
    # Before they all need it at once.
    yield from whole_source(prober.title, work.source, prober.ffmpeg)
    outcomes = yield from run_jobs([_job(prober, r, wanted, work) for r in rungs], wanted.jobs)
    failures: list[Failure] = [o.failure for o in outcomes.values() if o.failure is not None]
    for failure in failures:
        yield Notice(f"a rung failed: {failure.message}", "warning")
    return [as_error(failure) for failure in failures]


def _job(prober: Prober, rung: Foretold, wanted: LadderSettings, work: LadderWork) -> Job:
    arguments: dict[str, Any] = {
        "title": prober.title.to_json(),
        "settings": settings_to_json(prober.settings),
        "cache": str(prober.cache.root.absolute()),
        "probe": rung.probe.to_json(),
        "point": rung.point.to_json(),
        "segment_seconds": str(wanted.segment_seconds),
        "peak": wanted.peak,
        "work": str(work.path),
    }
    return Job(rung.name, _FUNCTION, arguments, label=rung.point.label)


def run_final_job(arguments: Mapping[str, Any]) -> Events[dict[str, Any]]:
    """A rung in another process (:mod:`codecaux.ladders.jobs`): arguments and result in JSON."""
    prober = Prober.open(
        Title.from_json(arguments["title"]),
        settings_from_json(arguments["settings"]),
        Cache(Path(arguments["cache"])),
    )
    rung = Foretold(
        Probe.from_json(arguments["probe"]), OperatingPoint.from_json(arguments["point"])
    )
    segment = Fraction(arguments["segment_seconds"])
    wanted = LadderSettings(segment_seconds=segment, peak=arguments["peak"])
    yield from make_final(prober, rung, wanted, LadderWork(Path(arguments["work"])))
    return {}
