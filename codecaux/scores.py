"""How close a distorted video is to its pristine source: the numbers everything is judged by.

    VMAF v1        Netflix 2026; banding and chroma, no gain for sharpening: choices are made on it
    VMAF v0.6.1    what the papers report; can be gamed by sharpening
    VMAF NEG       v0.6.1 without enhancement gain
    LPIPS          alex, v0.1: the perceptual guard; lower is better; on some frames only
    PSNR-Y, SSIM   luma; SSIM as ffmpeg's filter computes it (8x8 blocks, step 4)
    tOF, RPF       steadiness in time, of pairs of consecutive frames: codecaux/temporal.py

Frames are paired by index. A score is the mean over frames of the per-frame values.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import numpy as np

from codecaux.colour import frame_to_rgb
from codecaux.errors import InputError, ToolFailedError, UsageError
from codecaux.ffmpeg import Ffmpeg, FfmpegFeed
from codecaux.lpips import Lpips, min_size
from codecaux.sampling import EvenSampling
from codecaux.temporal import TEMPORAL_METRICS, Flow, TemporalScores, TemporalSteps
from codecaux.video import Frame, SampleArray, VideoFormat
from codecaux.vmaf import (
    V0_MODELS,
    VmafPlan,
    missing_reasons,
    parse_ssim_log,
    parse_vmaf_log,
    stacked_planes,
    vmaf_arguments,
    vmaf_v1_model,
)

__all__ = [
    "LOWER_IS_BETTER",
    "LPIPS_MAX_FRAMES",
    "METRICS",
    "POOLS",
    "PSNR_CAP_DB",
    "TOF_MAX_PAIRS",
    "ScoreTools",
    "Scorer",
    "Scores",
    "pooled",
    "psnr_db",
]

_FFMPEG_METRICS = ("vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "ssim")
_PICTURE_METRICS = ("vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "lpips", "psnr_y_db", "ssim")
METRICS = (*_PICTURE_METRICS, *TEMPORAL_METRICS)
LOWER_IS_BETTER = frozenset({"lpips", *TEMPORAL_METRICS})
# What a frame equal to its reference counts for (its PSNR is infinite).
PSNR_CAP_DB = 100.0
LPIPS_MAX_FRAMES = 24
TOF_MAX_PAIRS = LPIPS_MAX_FRAMES


@dataclass(frozen=True)
class Scores:
    """Means over the frames of one distorted version. None = not computed, see ``missing``.

    VMAF 0..100, PSNR-Y in dB (at most ``PSNR_CAP_DB``), SSIM up to 1, LPIPS from 0 (equal) up,
    over ``lpips_frames`` evenly spread frames of ``num_frames``. tOF in pixels of the source per
    frame, over ``tof_pairs`` evenly spread pairs of consecutive frames; RPF's mean (of its size)
    and deviation in 8-bit luma code values, over all pairs; all three from 0 (as steady as the
    source) up. ``per_frame`` holds the values that were averaged, by metric, ``steps`` the
    curves over time. ``missing`` says, by metric, why there is no value.
    """

    vmaf_v1: float | None
    vmaf_v061: float | None
    vmaf_v061_neg: float | None
    psnr_y_db: float | None
    ssim: float | None
    lpips: float | None
    num_frames: int
    lpips_frames: int
    tof: float | None = None
    rpf_mean: float | None = None
    rpf_deviation: float | None = None
    tof_pairs: int = 0
    vmaf_v1_model: str | None = None
    per_frame: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    missing: Mapping[str, str] = field(default_factory=dict)
    steps: TemporalSteps = field(default_factory=TemporalSteps, repr=False)

    def value(self, metric: str) -> float | None:
        """The mean of one of ``METRICS``."""
        return pooled(self, metric, "mean")

    def to_json_dict(self) -> dict[str, Any]:
        """Means, counts, the v1 model, what is missing: plain JSON types, no per-frame values."""
        result: dict[str, Any] = {metric: self.value(metric) for metric in METRICS}
        result |= {"num_frames": self.num_frames, "lpips_frames": self.lpips_frames}
        result["tof_pairs"] = self.tof_pairs
        return result | {"vmaf_v1_model": self.vmaf_v1_model, "missing": dict(self.missing)}


def _harmonic(values: Sequence[float]) -> float:
    """libvmaf's: of values shifted by one, so that a zero does not take it all."""
    return len(values) / math.fsum(1.0 / (value + 1.0) for value in values) - 1.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _fifth_percentile(values: Sequence[float]) -> float:
    return float(np.percentile(values, 5))


POOLS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": _mean,
    "harmonic": _harmonic,
    "p5": _fifth_percentile,
    "min": min,
}


def pooled(scores: Scores, metric: str, pool: str) -> float | None:
    """One number from a metric's per-frame values; None where the metric is missing.

    ``p5`` and ``min`` mean the bad end: where lower is better (LPIPS, tOF, RPF) the 95th
    percentile and the maximum. ``harmonic`` is libvmaf's, and there the plain mean. Raises
    UsageError.
    """
    if metric not in METRICS or pool not in POOLS:
        raise UsageError(
            f"expected a metric of {', '.join(METRICS)} and a pool of {', '.join(POOLS)}, got "
            f"{metric!r} and {pool!r}"
        )
    values = scores.per_frame.get(metric)
    if not values:
        return None
    if metric not in LOWER_IS_BETTER:
        return POOLS[pool](values)
    return _mean(values) if pool == "harmonic" else -POOLS[pool]([-value for value in values])


def psnr_db(reference: SampleArray, distorted: SampleArray, peak: int) -> float:
    """10 log10(peak^2 / MSE) of two planes of code values, at most ``PSNR_CAP_DB``."""
    difference = np.subtract(reference, distorted, dtype=np.float64).ravel()
    squares = float(difference @ difference)
    if squares == 0.0:
        return PSNR_CAP_DB
    return min(PSNR_CAP_DB, 10.0 * math.log10(peak * peak * difference.size / squares))


@dataclass(frozen=True)
class ScoreTools:
    """What scoring needs. ``lpips`` or ``flow`` (see codecaux.temporal.find_flow) None: LPIPS or
    tOF is left out. ``threads``, of libvmaf, None: all cores. ``only``: the metrics of ffmpeg's
    (VMAF and SSIM) that are wanted, None: all.
    """

    ffmpeg: Ffmpeg
    lpips: Lpips | None = None
    flow: Flow | None = None
    lpips_max_frames: int = LPIPS_MAX_FRAMES
    tof_max_pairs: int = TOF_MAX_PAIRS
    threads: int | None = None
    only: frozenset[str] | None = None


class Scorer:
    """Scores one or several distorted versions against one reference, frame by frame.

        with Scorer(format, ["bicubic", "enhanced"], tools, fps=..., ...) as scorer:
            for reference, versions in ...:
                scorer.add(reference, versions)
            scores = scorer.finish()

    All pictures have ``format`` (the source's own size). VMAF and SSIM run in an ffmpeg beside us
    while frames come in; ``add`` blocks when it falls behind, so memory stays bounded. LPIPS runs
    here, on the device ``tools.lpips`` is on, the reference's features shared by the versions; tOF
    and RPF run here on the CPU. Metrics that a small picture or a very short clip does not allow
    are None (see ``Scores.missing``), never an error.
    An odd width or height is made even for ffmpeg by repeating the last column or row.

    ``fps`` is for ffmpeg's timestamps only and changes no score. ``num_frames_hint`` spreads the
    ``lpips_max_frames`` and the ``tof_max_pairs`` (see ``EvenSampling``).
    """

    def __init__(
        self,
        format: VideoFormat,
        names: Sequence[str],
        tools: ScoreTools,
        *,
        fps: Fraction,
        num_frames_hint: int | None,
    ) -> None:
        if not names or len(set(names)) != len(names):
            raise UsageError(f"expected one or more different names to score, got {list(names)}")
        self._format = format
        self._names = tuple(names)
        self._missing = missing_reasons(format) | _lpips_missing(format, tools.lpips)
        self._missing |= _unwanted(tools.only)
        self._lpips = tools.lpips if "lpips" not in self._missing else None
        self._sampling = EvenSampling(tools.lpips_max_frames, num_frames_hint)
        self._temporal = TemporalScores(
            format,
            len(names),
            flow=tools.flow,
            max_pairs=tools.tof_max_pairs,
            num_frames_hint=num_frames_hint,
        )
        self._psnr: dict[str, list[float]] = {name: [] for name in names}
        self._num_frames = 0
        self._plan = _plan(format, len(names), fps, tools.threads, self._missing)
        self._folder = TemporaryDirectory(prefix="codecaux-scores-")
        self._feed: FfmpegFeed | None = None
        if self._plan.models or self._plan.ssim:
            arguments = vmaf_arguments(self._plan)
            self._feed = FfmpegFeed(tools.ffmpeg, arguments, cwd=Path(self._folder.name))

    def add(self, reference: Frame, distorted: Mapping[str, Frame]) -> None:
        """The next frame and its versions by name. Raises InputError where a size does not fit."""
        if set(distorted) != set(self._names):
            raise UsageError(f"expected versions {list(self._names)}, got {list(distorted)}")
        pictures = [reference, *(distorted[name] for name in self._names)]
        # A generator: each plane goes straight into the pipe, none is collected.
        for plane in stacked_planes(self._format, pictures):
            if self._feed is not None:
                self._feed.write(plane)
        for name in self._names:
            value = psnr_db(reference.y, distorted[name].y, self._format.peak)
            self._psnr[name].append(value)
        if self._lpips is not None and self._sampling.wants(self._num_frames):
            self._sampling.put(self._num_frames, self._lpips_of(self._lpips, pictures))
        self._temporal.add(reference.y, [distorted[name].y for name in self._names])
        self._num_frames += 1

    def begin_run(self) -> None:
        """The next frame does not follow the last one, as at a scene cut (``sampling.Runs``)."""
        self._temporal.begin_run()

    def finish(self) -> dict[str, Scores]:
        """Wait for ffmpeg and return the scores by name. Raises InputError without any frame."""
        if self._num_frames == 0:
            self.close()
            raise InputError("expected at least one frame to score, got none")
        try:
            if self._feed is not None:
                self._feed.close()
            per_frame = [self._per_frame(version) for version in range(len(self._names))]
        finally:
            self.close()
        steps = [self._temporal.steps_of_version(version) for version in range(len(self._names))]
        return {
            name: self._scores(values, its_steps)
            for name, values, its_steps in zip(self._names, per_frame, steps, strict=True)
        }

    def close(self) -> None:
        """Stop what still runs and remove the temporary files. Harmless when done twice."""
        if self._feed is not None:
            self._feed.kill()
            self._feed = None
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _lpips_of(self, lpips: Lpips, pictures: Sequence[Frame]) -> list[float]:
        reference, *distorted = (frame_to_rgb(p, self._format, lpips.device) for p in pictures)
        return lpips.distances(reference, distorted)

    def _per_frame(self, version: int) -> dict[str, tuple[float, ...]]:
        folder, plan = Path(self._folder.name), self._plan
        values = {"psnr_y_db": tuple(self._psnr[self._names[version]])}
        if plan.models:
            values |= parse_vmaf_log(folder / plan.vmaf_log(version), tuple(plan.models))
        if plan.ssim:
            values["ssim"] = parse_ssim_log(folder / plan.ssim_log(version))
        for metric, series in values.items():
            if len(series) != self._num_frames:
                raise ToolFailedError(
                    f"expected {self._num_frames} values of {metric} from ffmpeg, got {len(series)}"
                )
        values["lpips"] = self._sampling.of_version(version)
        return values | self._temporal.of_version(version)

    def _scores(self, per_frame: Mapping[str, tuple[float, ...]], steps: TemporalSteps) -> Scores:
        per_frame = {metric: values for metric, values in per_frame.items() if values}
        missing = self._missing | self._temporal.missing_reasons()
        if "lpips" not in per_frame:
            missing.setdefault("lpips", "no frame was chosen: fewer frames came than announced")
        means = {m: _mean(per_frame[m]) if m in per_frame else None for m in METRICS}
        return Scores(
            **means,
            num_frames=self._num_frames,
            lpips_frames=len(per_frame.get("lpips", ())),
            tof_pairs=len(per_frame.get("tof", ())),
            vmaf_v1_model=self._plan.models.get("vmaf_v1"),
            per_frame=per_frame,
            missing=missing,
            steps=steps,
        )


def _unwanted(only: frozenset[str] | None) -> dict[str, str]:
    if only is None:
        return {}
    return {metric: "was not asked for" for metric in _FFMPEG_METRICS if metric not in only}


def _lpips_missing(format: VideoFormat, lpips: Lpips | None) -> dict[str, str]:
    if lpips is None:
        return {"lpips": "no LPIPS weights were given"}
    smallest = min_size(lpips.net)
    if min(format.width, format.height) < smallest:
        got = f"{format.width}x{format.height}"
        return {"lpips": f"needs a picture of {smallest}x{smallest} or more, got {got}"}
    return {}


def _plan(
    format: VideoFormat,
    num_distorted: int,
    fps: Fraction,
    threads: int | None,
    missing: Mapping[str, str],
) -> VmafPlan:
    models = {"vmaf_v1": vmaf_v1_model(format)} | dict(V0_MODELS)
    return VmafPlan(
        format=format,
        num_distorted=num_distorted,
        fps=fps,
        threads=threads or os.cpu_count() or 1,
        models={key: name for key, name in models.items() if key not in missing},
        ssim="ssim" not in missing,
    )
