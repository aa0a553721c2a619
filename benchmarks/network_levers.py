"""What one change of the network's input or of the fit's float phase is worth, on clips for tuning.

    python benchmarks/network_levers.py CLIP --scale 2 --crf 24 --variants neighbours-1,average \\
        --work build/levers -o benchmarks/results/network-levers

Each variant of VARIANTS fits the base network to the clip, unrounded, and is scored through the
decoder's own functions. Nothing but the variant differs: patches are drawn at any place of any
frame, each step's by its number. A variant that changes the stream has another rate: compare those
with levers.py. Rows are added to the TSV; one that is there is not made again. Not for test clips.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from rd_streams import make_stream
from torch import Tensor

from codecaux.architecture import SrUnetConfig, blocks, net_config
from codecaux.bases import default_base_id, get_base
from codecaux.colour import Planes, frame_to_planes, planes_to_frame
from codecaux.decoder.planes import _in_yuv, _network_input, _residual, upscale_planes
from codecaux.device import Device, choose_device
from codecaux.encoder.objective import LossTerms, objective_by_name
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.encoder.soap import Soap
from codecaux.encoder.stream import StreamSettings
from codecaux.events import drain
from codecaux.ffmpeg import find_ffmpeg
from codecaux.frames import read_frames
from codecaux.lpips import find_lpips
from codecaux.measure import measure
from codecaux.network import TrainingForm, sr_unet_phases, with_identity
from codecaux.probe import probe
from codecaux.rate import total_rate
from codecaux.scores import ScoreTools
from codecaux.temporal import find_flow
from codecaux.video import Frame, Geometry

COLUMNS = ("vmaf_v1", "vmaf_v061_neg", "lpips", "psnr_y_db", "tof")


@dataclass(frozen=True)
class Variant:
    """What differs from the default.

    ``average``: decay of a running mean of the weights, which is shown in the end. ``by_loss``:
    patches are drawn in proportion to what the base leaves in them. ``offsets`` of further decoded
    frames that are input too, their kernels starting at zero. ``types``: the network is told I, P
    and B pictures apart; a plane of one value acts as a bias of the first layer, so it is one.
    ``luma_only``: no residual for chroma. ``optimiser``: adam, which was the product's when the
    variants without "soap" in their names were made, or soap, which it has been since.
    """

    steps: int = 600
    batch: int = 8
    patch: int = 96
    rate: float = 4e-3
    rate_end: float = 0.05
    average: float = 0.0
    by_loss: bool = False
    offsets: tuple[int, ...] = ()
    types: bool = False
    luma_only: bool = False
    downscale: str = "lanczos"
    objective: str = "balanced"
    net: str = "light"
    chroma: float | None = None
    lpips_patches: int = 4
    detail_patches: int = 4
    optimiser: str = "adam"


VARIANTS: Mapping[str, Variant] = {
    "default": Variant(),
    "steps-1200": Variant(steps=1200),
    "steps-2400": Variant(steps=2400),
    "batch-16-half": Variant(steps=300, batch=16, rate=5.6e-3, lpips_patches=8, detail_patches=8),
    "batch-4-double": Variant(steps=1200, batch=4, lpips_patches=2, detail_patches=2),
    "lpips-2": Variant(lpips_patches=2),
    "lpips-2-same-time": Variant(steps=720, lpips_patches=2),
    "rate-8e-3": Variant(rate=8e-3),
    "average": Variant(average=0.98),
    "average-flat": Variant(average=0.98, rate_end=0.5),
    "by-loss": Variant(by_loss=True),
    "previous": Variant(offsets=(-1,)),
    "neighbours-1": Variant(offsets=(-1, 1)),
    "neighbours-2": Variant(offsets=(-2, -1, 1, 2)),
    "types": Variant(types=True),
    "luma-only": Variant(luma_only=True, chroma=0.0),
    "sinc": Variant(downscale="sinc"),
    "spline": Variant(downscale="spline"),
    "full": Variant(net="full"),
    "soap": Variant(optimiser="soap", rate=8e-3),
    "soap-rate-4e-3": Variant(optimiser="soap"),
    "soap-steps-300": Variant(optimiser="soap", rate=8e-3, steps=300),
    "soap-steps-1200": Variant(optimiser="soap", rate=8e-3, steps=1200),
}


@dataclass(frozen=True, eq=False)
class Clip:
    """All frames of a short clip as nominal planes, decoded and pristine, and picture types."""

    source: PreparedSource
    stream: Path
    coded: list[Planes]
    original: list[Planes]
    types: list[int]


def load_clip(path: Path, settings: StreamSettings, work: Path) -> Clip:
    ffmpeg = find_ffmpeg()
    source = drain(prepare(path, SourceOptions(), work / path.stem, ffmpeg=ffmpeg))
    scale = str(settings.scale).replace("/", "_")
    name = f"{scale}-{settings.crf:g}-{settings.downscale}"
    stream = make_stream(source, settings, work / path.stem / f"{name}.mp4", ffmpeg)
    coded_format = replace(probe(stream).format, colour=source.info.format.colour)
    coded = [frame_to_planes(f, coded_format, torch.device("cpu")) for f in read_frames(stream)]
    geometry = Geometry(source.info.format.width, source.info.format.height, settings.scale)
    original = [
        _padded(frame_to_planes(f, source.info.format, torch.device("cpu")), geometry)
        for f in read_frames(source.path, info=source.info)
    ]
    return Clip(source, stream, coded, original, _picture_types(stream))


def _padded(planes: Planes, geometry: Geometry) -> Planes:
    """Edge-replicated to the coded size times the scale."""
    result = []
    for plane, divisor in zip(planes, (1, 2, 2), strict=True):
        bottom = geometry.padded_height // divisor - plane.shape[2]
        right = geometry.padded_width // divisor - plane.shape[3]
        result.append(torch.nn.functional.pad(plane, (0, right, 0, bottom), mode="replicate"))
    return Planes(*result)


def _picture_types(stream: Path) -> list[int]:
    """0 for I, 1 for P, 2 for B, in presentation order."""
    with av.open(str(stream)) as container:
        return [min(2, max(0, int(f.pict_type) - 1)) for f in container.decode(video=0)]


class Net:
    """The training form with a variant's further inputs."""

    def __init__(self, clip: Clip, variant: Variant, scale: Fraction, device: Device) -> None:
        self.config: SrUnetConfig = net_config(variant.net, scale)
        self._clip, self._variant, self._device = clip, variant, device
        self._colour = clip.source.info.format.colour
        base = get_base(default_base_id(self.config), self.config)
        self._form = TrainingForm(self.config, {n: torch.from_numpy(v) for n, v in base.items()})
        self._first = f"{blocks(self.config)[0].name}"
        kernel = base[f"{self._first}.weight"]
        more = (len(kernel), kernel.shape[1] * len(variant.offsets), *kernel.shape[2:])
        self._more = torch.zeros(more, requires_grad=True)
        self._typed = torch.zeros((3, len(kernel)), requires_grad=True)

    def parameters(self) -> list[Tensor]:
        extra = [self._more] if self._variant.offsets else []
        return [*self._form.parameters(), *extra, *([self._typed] if self._variant.types else [])]

    def show(self, group: Sequence[Planes], kind: int) -> Planes:
        """``group``: the frame and those at the variant's offsets, all of ``kind``'s type."""
        dtype = self._device.compute_dtype
        full = with_identity(self._form.merged(), self.config)
        weights = dict(_in_yuv(full, self.config, self._colour))
        if self._variant.offsets:
            first = f"{self._first}.weight"
            weights[first] = torch.cat((weights[first], self._more), 1)
        if self._variant.types:
            bias = f"{self._first}.bias"
            weights[bias] = weights[bias] + self._typed[kind]
        cast = {
            n: w.to(dtype, memory_format=torch.channels_last) if w.dim() == 4 else w.to(dtype)
            for n, w in weights.items()
        }
        base = upscale_planes(group[0], self.config.scale, self._colour)
        inputs = [_network_input(p, self.config, self._colour, dtype) for p in group]
        x = torch.cat(inputs, 1).contiguous(memory_format=torch.channels_last)
        phases = sr_unet_phases(x, cast, self.config)
        luma, chroma = _residual(phases, base.y.shape[2:], self.config, self._colour)
        if self._variant.luma_only:
            chroma = torch.zeros_like(chroma)
        return Planes(base.y + luma, base.u + chroma[:, :1], base.v + chroma[:, 1:])


class Sampler:
    """Random patches of one step, all of one picture type where the network is told it."""

    def __init__(self, clip: Clip, variant: Variant, config: SrUnetConfig, net: Net) -> None:
        self._clip, self._variant, self._scale = clip, variant, config.scale
        self._size = variant.patch * config.fold
        self._weights = self._by_loss(net) if variant.by_loss else None

    def _by_loss(self, net: Net) -> Tensor:
        """[T, rows, columns]: mean luma error of the base in cells of the patch's size."""
        cells = []
        side = int(self._size * self._scale)
        with torch.inference_mode():
            for t, original in enumerate(self._clip.original):
                shown = net.show(self.group(t, None), self._clip.types[t])
                error = (shown.y - original.y).abs()
                cells.append(torch.nn.functional.avg_pool2d(error, side)[0, 0])
        return torch.stack(cells)

    def group(self, t: int, place: tuple[int, int] | None) -> list[Planes]:
        last = len(self._clip.coded) - 1
        times = [t, *(min(max(t + o, 0), last) for o in self._variant.offsets)]
        frames = [self._clip.coded[i] for i in times]
        return frames if place is None else [_cut(f, place, self._size) for f in frames]

    def batch(self, index: int) -> tuple[list[Planes], Planes, int]:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((0, index))))
        kind = self._clip.types[int(rng.integers(0, len(self._clip.coded)))]
        chosen: Sequence[int] = range(len(self._clip.coded))
        if self._variant.types:
            chosen = [t for t in chosen if self._clip.types[t] == kind]
        groups, sources = [], []
        for _ in range(self._variant.batch):
            t, top, left = self._place(rng, chosen)
            groups.append(self.group(t, (top, left)))
            place = (int(top * self._scale), int(left * self._scale))
            sources.append(_cut(self._clip.original[t], place, int(self._size * self._scale)))
        return [_stack(frames) for frames in zip(*groups, strict=True)], _stack(sources), kind

    def _place(self, rng: np.random.Generator, chosen: Sequence[int]) -> tuple[int, int, int]:
        height, width = self._clip.coded[0].y.shape[2:]
        if self._weights is None:
            t = chosen[int(rng.integers(0, len(chosen)))]
            spare = ((height - self._size) // 4 + 1, (width - self._size) // 4 + 1)
            return t, 4 * int(rng.integers(0, spare[0])), 4 * int(rng.integers(0, spare[1]))
        p = self._weights.flatten().double().numpy()
        cell = int(rng.choice(len(p), p=p / p.sum()))
        t, row, column = np.unravel_index(cell, self._weights.shape)
        return int(t), int(row) * self._size, int(column) * self._size


def _cut(planes: Planes, place: tuple[int, int], size: int) -> Planes:
    top, left = place
    return Planes(
        *(
            p[:, :, top // d : (top + size) // d, left // d : (left + size) // d]
            for p, d in zip(planes, (1, 2, 2), strict=True)
        )
    )


def _stack(planes: Sequence[Planes]) -> Planes:
    return Planes(*(torch.cat(group) for group in zip(*planes, strict=True)))


class _Adam:
    """As the product had it, with SOAP's way of being called."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._adam = torch.optim.Adam(parameters, betas=(0.9, 0.99), foreach=True)
        self.zero_grad = self._adam.zero_grad

    def step(self, rate: float) -> None:
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()


def _optimiser(variant: Variant, parameters: list[Tensor]) -> _Adam | Soap:
    if variant.optimiser == "adam":
        return _Adam(parameters)
    return Soap({str(index): value for index, value in enumerate(parameters)})


def fit(net: Net, sampler: Sampler, variant: Variant, terms: LossTerms) -> float:
    """All steps on a cosine; returns seconds a step."""
    parameters = net.parameters()
    optimiser = _optimiser(variant, parameters)
    means: list[Tensor] | None = None
    started = time.process_time()
    for index in range(variant.steps):
        cosine = 0.5 * (1.0 + np.cos(np.pi * index / variant.steps))
        rate = variant.rate * (variant.rate_end + (1.0 - variant.rate_end) * cosine)
        group, source, kind = sampler.batch(index)
        loss = terms(net.show(group, kind), source)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step(rate * min(1.0, (index + 1) / 30))
        if variant.average and index >= variant.steps // 2:
            with torch.no_grad():
                if means is None:
                    means = [p.detach().clone() for p in parameters]
                for mean, value in zip(means, parameters, strict=True):
                    mean.lerp_(value, 1.0 - variant.average)
    if means is not None:
        with torch.no_grad():
            for mean, value in zip(means, parameters, strict=True):
                value.copy_(mean)
    return (time.process_time() - started) / variant.steps


def run(path: Path, name: str, scale: Fraction, crf: float, work: Path) -> dict[str, object]:
    variant, device = VARIANTS[name], choose_device("cpu")
    stream = StreamSettings(crf=crf, scale=scale, downscale=variant.downscale, threads=1)
    clip = load_clip(path, stream, work)
    net = Net(clip, variant, scale, device)
    sampler = Sampler(clip, variant, net.config, net)
    objective = replace(
        objective_by_name(variant.objective),
        lpips_patches=variant.lpips_patches,
        detail_patches=variant.detail_patches,
    )
    if variant.chroma is not None:
        objective = replace(objective, chroma=variant.chroma)
    lpips = find_lpips("squeeze").cast(device.compute_dtype)
    terms = LossTerms(objective, clip.source.info.format.colour, lpips)
    seconds = fit(net, sampler, variant, terms)
    scores = score(clip, net, sampler)
    return {
        "clip": path.stem,
        "scale": str(scale),
        "crf": crf,
        "variant": name,
        "stream_kbps": round(float(total_rate(clip.stream).stream_kbps), 1),
        **{m: round(scores[m], 4) for m in COLUMNS},
        "cpu_seconds_a_step": round(seconds, 4),
        "settings": str({k: v for k, v in asdict(variant).items() if v != asdict(Variant())[k]}),
    }


def score(clip: Clip, net: Net, sampler: Sampler) -> dict[str, float]:
    source = clip.source
    lpips, flow = find_lpips("alex"), find_flow()
    tools = ScoreTools(find_ffmpeg(), lpips, flow, lpips_max_frames=12, tof_max_pairs=12, threads=1)

    def versions() -> Iterator[dict[str, Frame]]:
        for t, frame in enumerate(read_frames(clip.stream)):
            with torch.inference_mode():
                shown = net.show(sampler.group(t, None), clip.types[t])
            yield {"enhanced": planes_to_frame(shown, source.info.format, frame.pts)}

    found = drain(measure(source.path, versions(), ["enhanced"], tools, format=source.info.format))[
        "enhanced"
    ]
    return {m: float(found.value(m) or float("nan")) for m in COLUMNS}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--scale", type=Fraction, default=Fraction(2))
    parser.add_argument("--crf", type=float, default=24.0)
    parser.add_argument("--variants", default="default")
    parser.add_argument("--work", type=Path, default=Path("build/network-levers"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    target = options.output.with_suffix(".tsv")
    for path in options.clips:
        for name in options.variants.split(","):
            known = _rows(target)
            key = (path.stem, str(options.scale), str(options.crf), name)
            if any((r["clip"], r["scale"], r["crf"], r["variant"]) == key for r in known):
                continue
            row = run(path, name, options.scale, options.crf, options.work)
            _append(target, row)
            print(" ".join(str(v) for v in row.values()), flush=True)
    return 0


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _append(path: Path, row: Mapping[str, object]) -> None:
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), delimiter="\t", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main())
