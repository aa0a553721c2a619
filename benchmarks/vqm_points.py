"""The points of the quality mapping benchmark: one clip, one method, one JSON file.

    method          shown
    none            the H.264 stream as it decodes
    general NET     through the shipped base network of scale 1
    fitted NET      through the same, fitted to this very clip, its weights packed and read again

All three are shown by the product's own path (:class:`codecaux.decoder.enhance.Enhancer`) and
compared with the clip itself over RGB. A point's file name ends in a hash of all that its numbers
depend on: a cached point is the one that would be made again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from codecaux import __version__
from codecaux.architecture import merged_parameter_count, net_config
from codecaux.atomic import atomic_path, write_atomic
from codecaux.bases import default_base_id, get_base
from codecaux.colour import frame_to_rgb
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.load import enhancer_for
from codecaux.decoder.sets import FloatSet
from codecaux.device import Device
from codecaux.encoder.bank import BankSettings
from codecaux.encoder.bank_builder import build_banks
from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.choices import check_loss
from codecaux.encoder.fit import FitTask, fit
from codecaux.encoder.objective import LossTerms, mean_ssim, objective_by_name
from codecaux.encoder.price import Price, check_settings
from codecaux.encoder.settings import DEFAULT_STEPS, FitSettings
from codecaux.errors import InputError
from codecaux.events import drain
from codecaux.ffmpeg import Ffmpeg, file_argument, run_ffmpeg
from codecaux.frames import count_frames, read_frames
from codecaux.hevc import StreamHash
from codecaux.lpips import Lpips
from codecaux.metadata import WeightsMetadata
from codecaux.probe import probe
from codecaux.sampling import EvenSampling
from codecaux.video import ClipInfo, Frame, Geometry
from codecaux.weightsfile import WeightsFile, pack, unpack

__all__ = ["METHODS", "Maker", "Point", "VqmSettings", "psnr_rgb_db", "read_points", "ssim_rgb"]

METHODS = ("none", "general", "fitted")
_SCALE = Fraction(1)
_PRICE_CRF_STEP = 2.0
_SSIM_MIN = 11

Point: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class VqmSettings:
    """What every point of a run has in common. ``frames``: of each clip, from its start (the
    challenge's validation and test clips have 120). ``crf`` and ``preset`` are x264's.
    """

    work: Path
    nets: tuple[str, ...] = ("tiny", "light")
    crf: float = 32.0
    preset: str = "medium"
    frames: int = 120
    lpips_frames: int = 12
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True, slots=True)
class Task:
    """One point to be made. ``net`` is empty for the method none."""

    method: str
    net: str = ""


def read_points(work: Path) -> list[Point]:
    """Every point cached in the work folder, in no order."""
    paths = (work / "points").glob("*.json")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def psnr_rgb_db(reference: Tensor, shown: Tensor) -> float:
    """10 log10(255^2 / MSE) over all of RGB [1, 3, H, W], 0..1, rounded to 8 bits as a PNG is."""
    a, b = (_eight_bits(rgb) for rgb in (reference, shown))
    error = float((a - b).square().mean())
    return 100.0 if error == 0.0 else min(100.0, -10.0 * math.log10(error))


def ssim_rgb(reference: Tensor, shown: Tensor) -> float:
    """Mean SSIM (Gaussian window of 11) of the three channels of RGB [1, 3, H, W], 0..1."""
    a, b = (_eight_bits(rgb).transpose(0, 1) for rgb in (reference, shown))
    return float(mean_ssim(a, b))


def _eight_bits(rgb: Tensor) -> Tensor:
    return (rgb * 255.0).round() / 255.0


class Maker:
    """Makes and caches the points of one clip."""

    def __init__(
        self,
        clip: Path,
        settings: VqmSettings,
        ffmpeg: Ffmpeg,
        device: Device,
        lpips: Lpips | None,
        lpips_of_fit: Lpips | None,
    ) -> None:
        self._clip, self._settings, self._ffmpeg, self._device = clip, settings, ffmpeg, device
        self._lpips, self._lpips_of_fit = lpips, lpips_of_fit
        self._digest = hashlib.sha256(clip.read_bytes()).hexdigest()[:12]
        self._folder = settings.work / clip.stem

    def tasks(self) -> list[Task]:
        nets = [Task(method, net) for net in self._settings.nets for method in METHODS[1:]]
        return [Task("none"), *nets]

    def missing(self) -> list[Task]:
        return [task for task in self.tasks() if not self.path(task).exists()]

    def points(self) -> list[Point]:
        """Those of :meth:`tasks` that are cached."""
        paths = [self.path(task) for task in self.tasks()]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]

    def identity(self, task: Task) -> dict[str, Any]:
        """All that the numbers of a task depend on; plain JSON types."""
        s = self._settings
        result: dict[str, Any] = {
            "clip_sha256": self._digest,
            "crf": s.crf,
            "preset": s.preset,
            "frames": s.frames,
            "lpips_frames": s.lpips_frames if self._lpips is not None else 0,
        }
        if task.net:
            config = net_config(task.net, _SCALE)
            result |= {"net": task.net, "base_id": default_base_id(config)}
            result |= {"dtype": str(self._device.compute_dtype)}
        if task.method == "fitted":
            result |= {"fit": asdict(self._fit_settings(task.net))}
            result |= {"fit_lpips": self._lpips_of_fit is not None}
        return result

    def path(self, task: Task) -> Path:
        """Of the cached point."""
        name = "-".join(part for part in (task.method, task.net) if part)
        digest = _short_hash(self.identity(task))
        return self._settings.work / "points" / f"{self._clip.stem}.{name}.{digest}.json"

    def make(self, task: Task) -> None:
        """Make and cache one point. Raises what its stages raise."""
        target, coded = self._target(), self._coded(self._settings.crf)
        found: Point = {}
        show = None
        if task.method == "general":
            show = self._general(task, coded, target)
        elif task.method == "fitted":
            show, found = self._fitted(task, coded, target)
        config = net_config(task.net, _SCALE) if task.net else None
        point = {
            "clip": self._clip.stem,
            "method": task.method,
            "net": task.net,
            "parameters": merged_parameter_count(config) if config else 0,
            "size": f"{probe(target).format.width}x{probe(target).format.height}",
            "stream_bytes": coded.stat().st_size,
            "settings": self.identity(task),
            "device": self._device.description,
            "ffmpeg": self._ffmpeg.version,
            "torch": torch.__version__,
            "codecaux": __version__,
            "made_at": time.time(),
        }
        point |= found | self._scored(target, coded, show)
        self.path(task).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path(task), json.dumps(point, indent=1).encode() + b"\n")

    # ---------------------------------------------------------------------------------- streams

    def _target(self) -> Path:
        """The less compressed video: the clip's first frames, without loss."""
        path = self._folder / f"target-{self._digest}-{self._settings.frames}.mkv"
        arguments = ["-i", file_argument(self._clip), "-map", "0:V:0", "-an", "-sn"]
        arguments += ["-frames:v", str(self._settings.frames), "-fps_mode", "passthrough"]
        return self._made(path, [*arguments, "-pix_fmt", "yuv420p", "-c:v", "ffv1"])

    def _coded(self, crf: float) -> Path:
        """The more compressed video: H.264 by x264, as it comes."""
        target = self._target()
        size = probe(target).format
        if size.width % 2 or size.height % 2:
            raise InputError(
                f"expected an even size for H.264, got {size.width}x{size.height} in {self._clip}; "
                "crop the clip"
            )
        digest = target.stem.removeprefix("target-")
        path = self._folder / f"coded-{digest}-{self._settings.preset}-crf{crf:g}.mp4"
        arguments = ["-i", file_argument(target), "-an", "-fps_mode", "passthrough"]
        # Threads change x264's result: a number of them that is the same everywhere.
        arguments += ["-c:v", "libx264", "-preset", self._settings.preset, "-threads", "2"]
        return self._made(path, [*arguments, "-crf", f"{crf:g}", "-pix_fmt", "yuv420p"])

    def _made(self, path: Path, arguments: list[str]) -> Path:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                run_ffmpeg(
                    self._ffmpeg, ["-v", "error", *arguments, "-y", file_argument(temporary)]
                )
        return path

    # ---------------------------------------------------------------------------------- methods

    def _general(self, task: Task, coded: Path, target: Path) -> Enhancer:
        config = net_config(task.net, _SCALE)
        base = get_base(default_base_id(config), config)
        sets = (FloatSet(0, None, {n: torch.from_numpy(v) for n, v in base.items()}),)
        shown, layout = probe(target).format, probe(coded).format
        layout = replace(layout, colour=shown.colour)
        return Enhancer(layout, (shown.width, shown.height), config, sets, self._device)

    def _fitted(self, task: Task, coded: Path, target: Path) -> tuple[Enhancer, Point]:
        """The encoder's own fit, on this pair; an interrupted one goes on."""
        began = time.monotonic()
        config = net_config(task.net, _SCALE)
        fit_task = self._fit_task(task, coded, target)
        slope = self._price(fit_task, coded, target)
        fit_task = replace(fit_task, price=slope.per_byte(coded.stat().st_size))
        checkpoint = Checkpoint(self._folder / f"{self.path(task).stem}.fit.safetensors")
        is_resumed = checkpoint.path.exists()
        fitted = drain(fit(fit_task, checkpoint, DEFAULT_STEPS[task.net]))
        info = probe(target)
        metadata = WeightsMetadata(
            architecture=config,
            source_width=info.format.width,
            source_height=info.format.height,
            num_frames=count_frames(target),
            bit_depth=info.format.bit_depth,
            colour=info.format.colour,
            stream=_hash_of(coded),
            base_id=fit_task.base_id,
            created_by=f"codecaux {__version__}",
        )
        data = pack(WeightsFile(metadata, fitted.sets))
        enhancer = enhancer_for(unpack(data), probe(coded).format, self._device)
        checkpoint.path.unlink(missing_ok=True)
        minutes = (time.monotonic() - began) / 60.0
        found = {"weights_bytes": len(data), "fit_steps": fitted.steps, "fit_minutes": minutes}
        return enhancer, found | {"fit_is_resumed": is_resumed}

    def _fit_settings(self, net: str) -> FitSettings:
        fit = self._settings.fit
        return fit if fit.steps or fit.minutes else replace(fit, steps=DEFAULT_STEPS[net])

    def _fit_task(self, task: Task, coded: Path, target: Path) -> FitTask:
        config, settings = net_config(task.net, _SCALE), self._fit_settings(task.net)
        training = BankSettings(
            patch=settings.patch * config.fold, max_bytes=settings.bank_bytes, seed=settings.seed
        )
        info, layout = probe(target), probe(target).format
        with (
            closing(read_frames(coded)) as ours,  # type: ignore[type-var]
            closing(read_frames(target, info=info)) as theirs,  # type: ignore[type-var]
        ):
            bank, check = drain(
                build_banks(
                    zip(ours, theirs, strict=True),
                    info.num_frames_from_header or self._settings.frames,
                    Geometry(layout.width, layout.height, _SCALE),
                    layout,
                    config.alignment,
                    (training, check_settings(training)),
                )
            )
        objective = objective_by_name(settings.objective).for_net(config)
        lpips = self._lpips_of_fit if objective.wants_lpips else None
        terms = LossTerms(objective, layout.colour, lpips)
        return FitTask(config, default_base_id(config), bank, terms, self._device, settings, check)

    def _price(self, task: FitTask, coded: Path, target: Path) -> Price:
        """:func:`codecaux.encoder.price.measure_price`, of an H.264 stream."""
        other = self._coded(self._settings.crf + _PRICE_CRF_STEP)
        base = get_base(task.base_id, task.config)
        worse = self._fit_task(Task("fitted", task.config.name), other, target)
        losses = [check_loss(t, base) for t in (task, worse)]
        change = math.log(coded.stat().st_size / other.stat().st_size)
        return Price(max(0.0, (losses[1] - losses[0]) / change) if change > 0 else 0.0)

    # ---------------------------------------------------------------------------------- scores

    def _scored(self, target: Path, coded: Path, enhancer: Enhancer | None) -> Point:
        """Means over the frames, and the median time of a frame, decoding not counted."""
        reference, device = probe(target), self._device.torch_device
        psnr, ssim, seconds = [], [], []
        sampling = EvenSampling(self._settings.lpips_frames, count_frames(target))
        for index, (wanted, shown, spent) in enumerate(self._shown(reference, coded, enhancer)):
            a, b = (frame_to_rgb(frame, reference.format, device) for frame in (wanted, shown))
            psnr.append(psnr_rgb_db(a, b))
            ssim.append(ssim_rgb(a, b))
            seconds.append(spent)
            if self._lpips is not None and sampling.wants(index):
                sampling.put(index, self._lpips.distances(a, [b]))
        lpips = sampling.of_version(0)
        return {
            "num_frames": len(psnr),
            "psnr_rgb_db": statistics.fmean(psnr),
            "ssim_rgb": statistics.fmean(ssim),
            "lpips": statistics.fmean(lpips) if lpips else None,
            "lpips_frames": len(lpips),
            "seconds_per_frame": statistics.median(seconds) if enhancer else None,
        }

    def _shown(
        self, reference: ClipInfo, coded: Path, enhancer: Enhancer | None
    ) -> Iterator[tuple[Frame, Frame, float]]:
        """(target's frame, what is shown, seconds) in order; both must have as many frames."""
        pairs = itertools.zip_longest(
            read_frames(reference.path, info=reference), read_frames(coded)
        )
        for index, (wanted, frame) in enumerate(pairs):
            if wanted is None or frame is None:
                raise InputError(f"expected {coded} to have as many frames as its source")
            began = time.perf_counter()
            shown = enhancer.enhance(frame, index).enhanced if enhancer else frame
            if self._device.is_cuda:
                torch.cuda.synchronize()
            yield wanted, shown, time.perf_counter() - began


def _hash_of(coded: Path) -> StreamHash:
    """Of the whole file: an H.264 stream has no coded slices that codecaux knows."""
    digest = hashlib.sha256(coded.read_bytes()).hexdigest()
    return StreamHash(whole_sha256=digest, start_sha256=digest)


def _short_hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
