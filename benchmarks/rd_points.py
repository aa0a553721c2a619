"""The points of the rate-distortion benchmark: one operating point of one family, one JSON file.

    family      coded               shown                                weights in the rate
    x265        at the source size  as it is                             none
    x265-tuned  the same, coded with the options of our own streams      none
    x265-sizes  at 3/4 and 1/2      swscale, bicubic or lanczos          none
    anchor      scale 2 and 1.5     the authors' released networks       none
    base        scale 2, 1.5 and 1  our shipped base network             none
    fit         scale 2, 1.5 and 1  the network fitted to the clip       the weights file

Anchor, base and fit are shown from the same coded streams. A point's file name ends in a hash of
all settings that its numbers depend on: a cached point is the one that would be made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from anchors import ANCHOR_FILES, anchor_digest, load_anchor
from rd_cache import (
    Point,
    known_tuning,
    point_path,
    scale_text,
    short_hash,
    write_point,
    write_tuning,
)
from rd_settings import BICUBIC_SUFFIX, RD_METRICS, RdSettings, Task
from rd_streams import (
    UPSCALE_REVISION,
    SizedGeometry,
    make_sized_stream,
    make_stream,
    upscaled_frames,
)

from codecaux import __version__
from codecaux.architecture import net_config
from codecaux.bases import default_base_id, get_base
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.sets import FloatSet
from codecaux.device import Device
from codecaux.encoder.encode import encode
from codecaux.encoder.headstart import HeadStart
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.encoder.settings import DEFAULT_STEPS, EncodeSettings, FitSettings
from codecaux.encoder.stream import AUTO_TUNING, StreamSettings
from codecaux.encoder.tuning import Viewer, choose_tuning
from codecaux.events import drain
from codecaux.frames import read_frames
from codecaux.measure import measure
from codecaux.probe import probe
from codecaux.rate import Rate, amortised_weights_kbps, total_rate
from codecaux.scores import Scores, ScoreTools
from codecaux.video import Frame, cropped

__all__ = ["Maker"]

AMORTISED_SECONDS = (10, 60)
SIZES = (Fraction(4, 3), Fraction(2))
KERNELS = ("bicubic", "lanczos")
_PLAIN, _ENHANCED = "bicubic", "enhanced"
_STEADINESS = ("tof", "rpf_deviation")


class Maker:
    """Makes and caches the points of one clip."""

    def __init__(
        self, clip: Path, split: str, settings: RdSettings, tools: ScoreTools, device: Device
    ) -> None:
        self._clip, self._split = clip, split
        self._settings, self._tools, self._device = settings, tools, device
        self._digest = hashlib.sha256(clip.read_bytes()).hexdigest()[:12]
        self._folder = settings.work / clip.stem
        self._prepared: PreparedSource | None = None

    # ----------------------------------------------------------------------------------- planning

    def tasks(self) -> list[Task]:
        """Everything that the settings ask for, cached or not."""
        s = self._settings
        tasks = [Task("x265", Fraction(1), crf) for crf in s.crfs]
        tasks += [Task("x265-tuned", Fraction(1), crf) for crf in s.crfs]
        tasks += [Task("x265-sizes", scale, crf) for scale in SIZES for crf in s.crfs]
        for family in ("anchor", "base", "fit"):
            for scale, crfs in s.points.items():
                if family != "anchor" or scale in ANCHOR_FILES:
                    tasks += [Task(family, scale, crf) for crf in crfs]
        return [task for task in tasks if task.family in s.families]

    def missing(self) -> list[list[Task]]:
        """Tasks without a cached point, those that share a coded stream together."""
        groups: dict[tuple[Any, ...], list[Task]] = {}
        for task in self.tasks():
            if not self.path(task).exists():
                # A fit makes its own stream and scores itself.
                key = (task.family if task.family == "fit" else "", *task.stream)
                groups.setdefault(key, []).append(task)
        return sorted(groups.values(), key=lambda group: group[0].family == "fit")

    def points(self) -> list[Point]:
        """Those of :meth:`tasks` that are cached."""
        paths = [self.path(task) for task in self.tasks()]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]

    def identity(self, task: Task) -> dict[str, Any]:
        """All that the numbers of a task depend on, but for the CRF; plain JSON types."""
        s = self._settings
        result: dict[str, Any] = {
            "clip_sha256": self._digest,
            "preset": s.preset,
            "x265_params": [list(pair) for pair in s.x265_params],
            "lpips_frames": s.lpips_frames,
        }
        if not task.is_plain:
            tuned = self.stream(task).tuned_params
            result |= {"downscale": s.downscale, "tuning": list(map(list, tuned))}
        if self._tools.lpips is None:
            result |= {"lpips_frames": 0}
        if task.family == "x265-sizes":
            return result | {"kernels": list(KERNELS), "upscale_revision": UPSCALE_REVISION}
        if task.family == "anchor":
            assert s.anchors is not None, "expected the anchors' folder to be checked before"
            digest = anchor_digest(s.anchors, task.scale)
            return result | {"anchor_sha256": digest, "dtype": str(self._device.compute_dtype)}
        if task.family in ("base", "fit"):
            config = net_config(s.net, task.scale)
            result |= {"net": s.net, "base_id": default_base_id(config)}
            result |= {"dtype": str(self._device.compute_dtype)}
        if task.family == "fit":
            result |= {"fit": asdict(self._fit_settings())}
            if s.priced_for:
                result |= {"priced_for": s.priced_for}
        return result

    def path(self, task: Task) -> Path:
        """Of the cached point: clip, family, scale, CRF, net and a hash of the settings."""
        identity = self.identity(task)
        net, digest = identity.get("net", ""), short_hash(identity)
        return point_path(
            self._settings.work, self._clip.stem, task.family, task.scale, task.crf, net, digest
        )

    def _fit_settings(self) -> FitSettings:
        fit = self._settings.fit
        if fit.steps is None and fit.minutes is None:
            return replace(fit, steps=DEFAULT_STEPS[self._settings.net])
        return fit

    # ------------------------------------------------------------------------------------- making

    def made(self, task: Task) -> Point:
        """The point of a task, from the cache or made now."""
        path = self.path(task)
        if not path.exists():
            self.make([task])
        point: Point = json.loads(path.read_text(encoding="utf-8"))
        return point

    def make(self, group: Sequence[Task]) -> None:
        """Make and cache the points of tasks that share a stream. Raises what its stages raise."""
        started = time.monotonic()
        if group[0].family == "fit":
            (task,) = group
            parts = {task: self._fit(task)}
        elif group[0].family == "x265-sizes":
            (task,) = group
            parts = {task: self._sized(task)}
        else:
            parts = self._shown(group)
        seconds = (time.monotonic() - started) / len(parts)
        for task, part in parts.items():
            point = self._point(task) | part | {"making_seconds": seconds, "made_at": time.time()}
            write_point(self.path(task), point)

    def _source(self) -> PreparedSource:
        if self._prepared is None:
            options, folder = SourceOptions(), self._folder / "source"
            self._prepared = drain(prepare(self._clip, options, folder, ffmpeg=self._tools.ffmpeg))
        return self._prepared

    def _point(self, task: Task) -> Point:
        identity = self.identity(task)
        return {
            "clip": self._clip.stem,
            "split": self._split,
            "family": task.family,
            "net": identity.get("net", ""),
            "scale": str(task.scale),
            "crf": task.crf,
            "settings_hash": short_hash(identity),
            "priced_for": identity.get("priced_for", 0.0),
            "objective": identity.get("fit", {}).get("objective", ""),
            "settings": identity,
            "device": self._device.description,
            "ffmpeg": self._tools.ffmpeg.version,
            "torch": torch.__version__,
            "codecaux": __version__,
        }

    def stream(self, task: Task) -> StreamSettings:
        """With the tuning that the encoder chooses for the clip at this scale and CRF."""
        s, settings = self._settings, self._settings.stream(task)
        if settings.tuning != AUTO_TUNING:
            return settings
        config = net_config(s.net, task.scale)
        base_id = default_base_id(config)
        asked = asdict(settings) | {"clip": self._clip.stem, "clip_sha256": self._digest}
        asked |= {"scale": str(task.scale), "base_id": base_id}
        asked |= {"dtype": str(self._device.compute_dtype), "threads": 0}
        tuning = known_tuning(s.work, asked)
        if tuning is None:
            viewer = Viewer(config, base_id, self._device)
            folder = self._folder / "tuning"
            events = choose_tuning(self._source(), settings, viewer, self._tools, folder)
            tuning = drain(events)
            write_tuning(s.work, asked, tuning)
        return replace(settings, tuning=tuning)

    def _stream_path(self, kind: str, task: Task) -> Path:
        s = self._settings
        identity = {"clip": self._digest, "preset": s.preset, "x265_params": list(s.x265_params)}
        if not task.is_plain:
            tuned = self.stream(task).tuned_params
            identity |= {"downscale": s.downscale, "tuning": list(tuned)}
        name = f"{kind}-{scale_text(task.scale)}x-crf{task.crf:g}-{short_hash(identity)}.mp4"
        return self._folder / name

    def _sized(self, task: Task) -> Point:
        """x265 at another size, up-scaled by each kernel: the one with the higher VMAF v1."""
        source, layout = self._source(), self._source().info.format
        geometry = SizedGeometry(layout.width, layout.height, task.scale)
        stream = make_sized_stream(
            source,
            self.stream(task),
            geometry,
            self._stream_path("sized", task),
            self._tools.ffmpeg,
        )
        scores = self._score(upscaled_frames(stream, source, KERNELS), KERNELS)
        best = max(KERNELS, key=lambda kernel: scores[kernel].vmaf_v1 or 0.0)
        every = {kernel: _values(scores[kernel]) for kernel in KERNELS}
        return (
            _rated(total_rate(stream))
            | _scored(scores[best])
            | {
                "upscaler": best,
                "by_upscaler": every,
                "coded": f"{geometry.coded_width}x{geometry.coded_height}",
            }
        )

    def _shown(self, group: Sequence[Task]) -> dict[Task, Point]:
        """x265, anchor and base: every way to show one of the product's streams, in one pass."""
        source, first = self._source(), group[0]
        stream = make_stream(
            source,
            self.stream(first),
            self._stream_path("stream", first),
            self._tools.ffmpeg,
        )
        shows = {task.family: self._show(task, stream) for task in group}

        def versions() -> Iterator[dict[str, Frame]]:
            for index, frame in enumerate(read_frames(stream)):
                yield {family: show(frame, index) for family, show in shows.items()}

        scores = self._score(versions(), list(shows))
        coded = probe(stream).format
        shared = _rated(total_rate(stream)) | {"coded": f"{coded.width}x{coded.height}"}
        return {task: shared | _scored(scores[task.family]) | self._base_id(task) for task in group}

    def _base_id(self, task: Task) -> Point:
        known = task.family in ("base", "fit")
        return {"base_id": self.identity(task)["base_id"]} if known else {}

    def _show(self, task: Task, stream: Path) -> Callable[[Frame, int], Frame]:
        """How a family turns frame ``index`` of the stream into the picture of the source's size.

        For ours the player's own path, with the base network as the only set of weights.
        """
        coded, shown = probe(stream).format, self._source().info.format
        coded = replace(coded, colour=shown.colour)
        if task.family in ("x265", "x265-tuned"):
            return lambda frame, _: cropped(frame, shown)
        if task.family == "anchor":
            assert self._settings.anchors is not None
            anchor = load_anchor(self._settings.anchors, task.scale, coded, shown, self._device)
            return lambda frame, _: anchor.enhance(frame)
        config = net_config(self._settings.net, task.scale)
        base = get_base(default_base_id(config), config)
        weights = {name: torch.from_numpy(value) for name, value in base.items()}
        sets = (FloatSet(0, None, weights),)
        size = (shown.width, shown.height)
        enhancer = Enhancer(coded, size, config, sets, self._device)
        return lambda frame, index: enhancer.enhance(frame, index).enhanced

    def _fit(self, task: Task) -> Point:
        """``codecaux encode`` itself, in a folder of its own; an interrupted one goes on."""
        folder = self._folder / self.path(task).stem
        folder.mkdir(parents=True, exist_ok=True)
        settings = EncodeSettings(
            input=str(self._clip),
            output=folder / "title.mp4",
            weights=folder / "title.weights",
            stream=self.stream(task),
            net=self._settings.net,
            fit=self._fit_settings(),
            device="cuda" if self._device.is_cuda else "cpu",
            resume=True,
            overwrite=True,
            lpips_weights=self._settings.lpips_weights,
            lpips_frames=self._settings.lpips_frames,
        )
        is_resumed = settings.work_dir.exists()
        seconds = float(self._source().duration_seconds)
        head = HeadStart(times_longer=max(1.0, self._settings.priced_for / seconds))
        result = drain(encode(settings, head))
        coded = probe(result.stream).format
        return (
            _rated(result.rate)
            | _scored(result.scores[_ENHANCED])
            | self._base_id(task)
            | _beside_bicubic(result.scores)
            | {
                "coded": f"{coded.width}x{coded.height}",
                # Of a resumed fit, the minutes since it was resumed.
                "fit_minutes": result.stage_seconds["fit"] / 60,
                "fit_is_resumed": is_resumed,
                "stage_seconds": dict(result.stage_seconds),
            }
        )

    def _score(
        self, versions: Iterator[Mapping[str, Frame]], names: Sequence[str]
    ) -> dict[str, Scores]:
        source = self._source()
        return drain(measure(source.path, versions, names, self._tools, format=source.info.format))


def _rated(rate: Rate) -> Point:
    """A rate as it is, and as it would be had the same scene lasted longer (same weights)."""
    result: Point = {
        "seconds": rate.duration_seconds,
        "stream_bytes": rate.stream_bytes,
        "weights_bytes": rate.weights_bytes,
        "stream_kbps": rate.stream_kbps,
        "weights_kbps": rate.weights_kbps,
        "total_kbps": rate.total_kbps,
    }
    for seconds in AMORTISED_SECONDS:
        weights_kbps = amortised_weights_kbps(rate, float(seconds))
        result[f"total_kbps_if_{seconds}_s"] = rate.stream_kbps + weights_kbps
    return result


def _scored(scores: Scores) -> Point:
    counts = {"frames": scores.num_frames, "lpips_frames": scores.lpips_frames}
    missing = {metric: why for metric, why in scores.missing.items() if metric in RD_METRICS}
    return counts | {"missing": missing} | _values(scores)


def _beside_bicubic(scores: Mapping[str, Scores]) -> Point:
    """What the decoded stream shown plainly has, and how steady both are."""
    plain, enhanced = scores[_PLAIN], scores[_ENHANCED]
    result: Point = {name: enhanced.value(name) for name in _STEADINESS}
    every = (*RD_METRICS, *_STEADINESS)
    return result | {name + BICUBIC_SUFFIX: plain.value(name) for name in every}


def _values(scores: Scores) -> dict[str, float | None]:
    return {metric: scores.value(metric) for metric in RD_METRICS}
