"""Probes: operating points of a title's samples, made by the product's own encode, each cached.

    Probe(CRF, scale) ─ encode(samples) ─> stream, weights, scores ─> OperatingPoint (cached)
                          └ warm start: from the cached weights of a probe at a near CRF

What a probe is shown and scored by is exactly what the final encode is: :func:`encode` itself, told
only that the source stands for a longer title. x265's own points are coded at the source's size as
x265 comes, and scored in the same way.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from codecaux import __version__
from codecaux.architecture import net_config
from codecaux.bases import default_base_id
from codecaux.device import Device, choose_device
from codecaux.encoder.encode import EncodeResult, encode
from codecaux.encoder.headstart import HeadStart, weights_to_start_from
from codecaux.encoder.objective import objective_by_name
from codecaux.encoder.settings import EncodeSettings, FitSettings, default_steps
from codecaux.encoder.stream import AUTO_TUNING, StreamSettings, encode_stream
from codecaux.errors import LpipsUnavailableError
from codecaux.events import Events
from codecaux.ffmpeg import Ffmpeg, find_ffmpeg
from codecaux.frames import read_frames
from codecaux.ladders.cache import Cache, locked
from codecaux.ladders.points import Family, OperatingPoint, pooled_scores
from codecaux.ladders.titles import Title, sample_source, whole_source
from codecaux.lpips import Lpips, find_lpips
from codecaux.lpips_files import ENVIRONMENT_VARIABLE, lpips_sha256
from codecaux.measure import measure
from codecaux.probe import probe as describe
from codecaux.rate import total_rate
from codecaux.scores import ScoreTools
from codecaux.video import Frame, cropped

__all__ = [
    "WARM_SHARE",
    "Probe",
    "Prober",
    "settings_from_json",
    "settings_to_json",
    "stream_identity",
]

# Raised whenever the same settings begin to give other numbers.
_REVISION = 1
_KIND = "probe"
_PLAIN = "plain"
# Of the steps of a fit from the base, for one that starts from a near CRF's weights.
WARM_SHARE = 0.5
_LEAST_STEPS = 10


@dataclass(frozen=True, slots=True)
class Probe:
    """Which point. ``is_cold``: fitted from the base whatever there is to start from, as a plain
    ``codecaux encode`` does it.
    """

    crf: float
    scale: Fraction = Fraction(2)
    family: Family = "ours"
    is_cold: bool = False

    @property
    def label(self) -> str:
        """How people call it."""
        if self.family == "x265":
            return f"x265 CRF {self.crf:g}"
        return f"CRF {self.crf:g} scale {float(self.scale):.3g}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"scale": str(self.scale)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Probe:
        """What :meth:`to_json` wrote."""
        return cls(**{**record, "scale": Fraction(record["scale"])})


@dataclass(frozen=True, slots=True)
class Prober:
    """Makes and remembers the probes of one title.

    ``settings``: what all of them have in common; CRF, scale, input and outputs are replaced.
    """

    title: Title
    settings: EncodeSettings
    cache: Cache
    ffmpeg: Ffmpeg
    device: Device

    @classmethod
    def open(cls, title: Title, settings: EncodeSettings, cache: Cache) -> Prober:
        """Find the tools. ToolError, DeviceError, UsageError as an encode raises them."""
        return cls(title, settings, cache, find_ffmpeg(), choose_device(settings.device))

    # -------------------------------------------------------------------------------- what is known

    def identity(self, probe: Probe) -> dict[str, Any]:
        """Everything that the point depends on, as JSON values."""
        result = {
            "revision": _REVISION,
            "title": self.title.identity(),
            "family": probe.family,
            "crf": float(probe.crf),
            "stream": stream_identity(self._stream(probe)),
            "codecaux": __version__,
            "ffmpeg": self.ffmpeg.version,
            "lpips": self._lpips_identity("alex"),
            "lpips_frames": self.settings.lpips_frames,
            "score_seconds": str(self.settings.score_seconds),  # JSON has no infinity
        }
        if probe.family == "x265":
            return result
        config = net_config(self.settings.net, probe.scale)
        objective = objective_by_name(self.settings.fit.objective).for_net(config)
        fit_lpips = self._lpips_identity("squeeze") if objective.wants_lpips else None
        learned = objective.learned or (None if fit_lpips else objective.stand_in)
        if learned is not None:
            result |= {"learned": asdict(learned)}
        return result | {
            "net": self.settings.net,
            "base": self.settings.base or default_base_id(config),
            "fit": _jsonable(asdict(self._fit_settings())),
            "fit_lpips": fit_lpips,
            "dtype": str(self.device.compute_dtype),
            "warm_share": None if probe.is_cold else WARM_SHARE,
            "num_frames": self.title.num_frames,
        }

    def lpips(self) -> dict[str, str | None]:
        """SHA-256 of the LPIPS weights that scores (alex) and fits (squeeze) use; None where there
        are none, or none are wanted.
        """
        is_wanted = objective_by_name(self.settings.fit.objective).wants_lpips
        fits = self._lpips_identity("squeeze") if is_wanted else None
        return {"alex": self._lpips_identity("alex"), "squeeze": fits}

    def cached(self, probe: Probe) -> OperatingPoint | None:
        """The point, where it was made before."""
        entry = self.cache.get(_KIND, self.identity(probe))
        return OperatingPoint.from_json(entry.value) if entry is not None else None

    def weights(self, probe: Probe) -> bytes | None:
        """The weights file of a point that was made before."""
        entry = self.cache.get(_KIND, self.identity(probe))
        return entry.payload or None if entry is not None else None

    def final_settings(self, probe: Probe, output: Path, weights: Path) -> EncodeSettings:
        """The encode of the whole title at a point."""
        stream = replace(self.settings.stream, crf=probe.crf, scale=probe.scale)
        return replace(
            self.settings,
            input=str(self.title.path),
            source=self.title.options,
            output=output,
            weights=weights,
            stream=stream,
        )

    def final(
        self, probe: Probe, point: OperatingPoint, output: Path, weights: Path
    ) -> tuple[EncodeSettings, HeadStart]:
        """The encode of the whole title whose score ``point`` foretells.

        Of a title that was probed whole it is the same encode again, to the same start; else it
        starts from what was fitted to the samples.
        """
        settings = self.final_settings(probe, output, weights)
        if not self.title.is_whole:
            payload = self.weights(probe)
        elif point.started_from is None:
            payload = None
        else:
            payload = self.weights(Probe(point.started_from, probe.scale))
            if payload is not None:  # else what it started from is gone: all steps, from the base
                settings = replace(settings, fit=self._fit_settings(WARM_SHARE))
        start = None if payload is None else weights_to_start_from(payload)
        return settings, HeadStart(weights=start, content=self.title.content)

    def point_of(self, probe: Probe, result: EncodeResult) -> OperatingPoint:
        """An encode's result as a point of this title."""
        coded = describe(result.stream).format
        return OperatingPoint(
            family="ours",
            crf=probe.crf,
            scale=probe.scale,
            net=self.settings.net,
            coded_width=coded.width,
            coded_height=coded.height,
            rate=result.rate,
            title_seconds=self.title.duration_seconds,
            plain=pooled_scores(result.scores["bicubic"]),
            enhanced=pooled_scores(result.scores["enhanced"]),
            missing=dict(result.scores["enhanced"].missing),
            seconds=dict(result.stage_seconds),
        )

    # --------------------------------------------------------------------------------------- making

    def make(self, probe: Probe, starts: Sequence[Probe] = ()) -> Events[OperatingPoint]:
        """The point: from the cache, else made and kept there.

        ``starts``: whose weights a fit may start from, the first that is in the cache. Killed and
        called again, it goes on where it was. Raises what an encode raises.
        """
        found = self.cached(probe)
        if found is not None:
            return found
        identity = self.identity(probe)
        start = None if probe.is_cold else next((s for s in starts if self.weights(s)), None)
        started = None if start is None else start.crf
        folder = self.cache.work_folder(_KIND, identity | {"start": started})
        with locked(folder):
            found = self.cached(probe)  # another process may have made it meanwhile
            if found is None:
                began = time.monotonic()
                folder.mkdir(exist_ok=True)
                make = self._x265 if probe.family == "x265" else self._ours
                found, payload = yield from make(probe, start, folder)
                took = {**found.seconds, "all": time.monotonic() - began}
                found = replace(found, seconds=took, started_from=started)
                label = f"{self.title.path.name}, {self._label(probe)}"
                self.cache.put(_KIND, identity, found.to_json(), payload=payload, label=label)
            shutil.rmtree(folder, ignore_errors=True)
        return found

    def _label(self, probe: Probe) -> str:
        return probe.label + (f" {self.settings.net}" if probe.family == "ours" else "")

    def _stream(self, probe: Probe) -> StreamSettings:
        stream = replace(self.settings.stream, crf=probe.crf, scale=probe.scale)
        if probe.family == "x265":
            return replace(stream, scale=Fraction(1), tuning="none")
        return stream

    def _ours(
        self, probe: Probe, start: Probe | None, folder: Path
    ) -> Events[tuple[OperatingPoint, bytes]]:
        source = yield from sample_source(self.title, self.cache, self.ffmpeg)
        payload = self.weights(start) if start is not None else None
        settings = replace(
            self.final_settings(probe, folder / "title.mp4", folder / "title.weights"),
            fit=self._fit_settings(1.0 if payload is None else WARM_SHARE),
            resume=True,
            overwrite=True,
        )
        head = HeadStart(
            source,
            times_longer=self.title.num_frames / self.title.sample_frames,
            weights=None if payload is None else weights_to_start_from(payload),
            content=self.title.content,
            takes_pictures=True,
        )
        result = yield from encode(settings, head)
        return self.point_of(probe, result), result.weights.read_bytes()

    def _x265(
        self, probe: Probe, start: Probe | None, folder: Path
    ) -> Events[tuple[OperatingPoint, bytes]]:
        source = yield from sample_source(self.title, self.cache, self.ffmpeg)
        if source is None:
            source = yield from whole_source(self.title, folder, self.ffmpeg)
        stream = folder / "x265.mp4"
        silent = replace(source, original=None)  # audio is not counted
        yield from encode_stream(silent, self._stream(probe), stream, self.ffmpeg)
        layout = source.info.format

        def versions() -> Iterator[dict[str, Frame]]:
            with closing(read_frames(stream)) as frames:  # type: ignore[type-var]
                for frame in frames:
                    yield {_PLAIN: cropped(frame, layout)}

        tools = ScoreTools(self.ffmpeg, self._lpips(), lpips_max_frames=self.settings.lpips_frames)
        scores = yield from measure(source.path, versions(), (_PLAIN,), tools, format=layout)
        shown = pooled_scores(scores[_PLAIN])
        coded = describe(stream).format
        point = OperatingPoint(
            family="x265",
            crf=probe.crf,
            scale=Fraction(1),
            net="",
            coded_width=coded.width,
            coded_height=coded.height,
            rate=total_rate(stream),
            title_seconds=self.title.duration_seconds,
            plain=shown,
            enhanced=shown,
            missing=dict(scores[_PLAIN].missing),
        )
        return point, b""

    def _fit_settings(self, share: float = 1.0) -> FitSettings:
        """The settings' fit with its number of steps spelt out, and only a ``share`` of them."""
        fit = self.settings.fit
        if fit.minutes is not None:
            return replace(fit, minutes=fit.minutes * share)
        steps = fit.steps or default_steps(self.settings.net, self.title.sample_pixels)
        return replace(fit, steps=max(_LEAST_STEPS, round(steps * share)))

    def _lpips(self) -> Lpips | None:
        try:
            lpips = find_lpips("alex", explicit=self.settings.lpips_weights)
        except LpipsUnavailableError:
            return None
        return lpips.to(self.device.torch_device)

    def _lpips_identity(self, net: str) -> str | None:
        named = os.environ.get(ENVIRONMENT_VARIABLE)
        return _lpips_sha256(net, self.settings.lpips_weights, named)


@lru_cache
def _lpips_sha256(net: str, explicit: Path | None, named: str | None) -> str | None:
    """Of the file that would be used, fetched where it may be; None where there is none. ``named``
    by the environment: looked up by whoever is asked, and here a part of the question.
    """
    return lpips_sha256(net, explicit=explicit)


def stream_identity(stream: StreamSettings) -> dict[str, Any]:
    """All of ``stream`` that its bytes depend on, as JSON values."""
    record = _jsonable(asdict(stream))
    # The pool's size changes no bit, and of a tuning only what it stands for counts.
    del record["threads"]
    if stream.tuning != AUTO_TUNING:
        record["tuning"] = [list(pair) for pair in stream.tuned_params]
    assert isinstance(record, dict)
    return record


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(entry) for entry in value]
    return str(value) if isinstance(value, Fraction | Path) else value


# ---------------------------------------------------------------------------- for other processes


def settings_to_json(settings: EncodeSettings) -> dict[str, Any]:
    """The settings that probes have in common, for another process."""
    record = _jsonable(asdict(settings))
    assert isinstance(record, dict)
    return {name: value for name, value in record.items() if name != "source"}


def settings_from_json(record: Mapping[str, Any]) -> EncodeSettings:
    """What :func:`settings_to_json` wrote, but for ``source``, which is the title's."""
    values = dict(record)
    stream, fit = dict(values.pop("stream")), dict(values.pop("fit"))
    stream["scale"] = Fraction(stream["scale"])
    stream["x265_params"] = tuple((name, value) for name, value in stream["x265_params"])
    fit["rounding_errors"] = tuple(fit["rounding_errors"])
    for name in ("output", "weights", "lpips_weights"):
        values[name] = Path(values[name]) if values[name] is not None else None
    return EncodeSettings(**values, stream=StreamSettings(**stream), fit=FitSettings(**fit))


def run_probe_job(arguments: Mapping[str, Any]) -> Events[dict[str, Any]]:
    """A probe in another process (:mod:`codecaux.ladders.jobs`): arguments and result in JSON."""
    prober = Prober.open(
        Title.from_json(arguments["title"]),
        settings_from_json(arguments["settings"]),
        Cache(Path(arguments["cache"])),
    )
    starts = [Probe.from_json(record) for record in arguments["starts"]]
    point = yield from prober.make(Probe.from_json(arguments["probe"]), starts)
    return point.to_json()
