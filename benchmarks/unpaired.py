"""Does `pretrain --unpaired` learn a mapping that was planted? On real photos, without pairs.

    python benchmarks/unpaired.py PHOTOS -o benchmarks/results/unpaired.json

The photos are dealt out: every tenth is held out, of the others every second one gives a target
picture as it is, the rest give source pictures with the planted fault, a faded, darker tone curve
and a blur. No photo is in both folders. After the training the held-out photos are spoilt in the
same way and enhanced by the product's own frame function: their PSNR against the unspoilt photo
must rise. Interrupted, the same command goes on; with --judge it judges what there is so far.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import write_results
from PIL import Image
from torch import Tensor

from codecaux.architecture import net_config
from codecaux.atomic import write_atomic
from codecaux.bases import Base, base_bytes, parse_base
from codecaux.colour import frame_to_rgb, planes_to_frame
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.sets import FloatSet
from codecaux.device import Device, choose_device
from codecaux.encoder.corpus import find_items, read_rgb
from codecaux.encoder.parameters import FloatParameters
from codecaux.encoder.pretrain import start_tensors
from codecaux.encoder.training_state import fill, read_state
from codecaux.encoder.unpaired import pretrain_unpaired
from codecaux.encoder.unpaired_patches import to_planes
from codecaux.encoder.unpaired_settings import UnpairedSettings
from codecaux.events import Events, Notice, Progress
from codecaux.video import VideoFormat

_HELD_OUT_EVERY = 10
_FADE, _GAMMA, _RANGE = 0.06, 1.5, 0.78
_SIGMA = 1.0
_TELL_SECONDS = 15.0


def main() -> int:
    options = _parse()
    held_out = _deal(options)
    device = choose_device("cpu")
    settings = UnpairedSettings(
        source=options.work / "source",
        target=options.work / "target",
        output=options.work / "base.safetensors",
        work=options.work,
        net=options.net,
        steps=options.steps,
        batch=options.batch,
        crop=options.crop,
        learning_rate=options.learning_rate,
        cycle=options.cycle,
        seed=options.seed,
        overwrite=True,
    )
    if options.judge:
        done, seconds = _so_far(settings)
    else:
        result = _follow(pretrain_unpaired(settings, device))
        done, seconds = result.steps, result.train_seconds
    pairs = [_judge(path, settings.output, options.net, device) for path in held_out]
    gains = [after - before for before, after in pairs]
    row = {
        "net": options.net,
        "source_photos": len(list(settings.source.iterdir())),
        "target_photos": len(list(settings.target.iterdir())),
        "held_out": len(pairs),
        "crop": options.crop,
        "batch": options.batch,
        "steps": options.steps,
        "steps_done": done,
        "learning_rate": options.learning_rate,
        "cycle": options.cycle,
        "seed": options.seed,
        "psnr_before_db": statistics.fmean(before for before, _ in pairs),
        "psnr_after_db": statistics.fmean(after for _, after in pairs),
        "gain_db": statistics.fmean(gains),
        "least_gain_db": min(gains),
        "photos_better": sum(gain > 0 for gain in gains),
        "train_seconds": seconds,
    }
    planted = {"fade": _FADE, "gamma": _GAMMA, "range": _RANGE, "blur_sigma": _SIGMA}
    write_results(options.output, "unpaired", {"planted": planted}, [row])
    return 0 if row["gain_db"] > 0 else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--most", type=int, default=120, help="photos, evenly spread over all")
    parser.add_argument("--size", type=int, default=256, help="of the square cut from each")
    parser.add_argument("--net", default="tiny")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--cycle", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", action="store_true", help="an unfinished training; no steps")
    parser.add_argument("--work", type=Path, default=Path("build/unpaired"))
    parser.add_argument("-o", "--output", type=Path, help="JSON; the table goes beside it")
    return parser.parse_args()


def _so_far(settings: UnpairedSettings) -> tuple[int, float]:
    """Write the base of the last checkpoint; its steps and seconds."""
    config = net_config(settings.net, Fraction(1))
    parameters = FloatParameters(config, start_tensors(settings.start, settings.net, config))
    path = settings.work / f"{settings.output.name}.checkpoint"
    state = read_state(path, settings.identity())
    if state is None:
        sys.exit(f"expected a training to judge at {path}, got none; leave out --judge")
    found, record = state
    fill({"enhancer": parameters.latents}, {}, found)
    tensors = {name: value.detach().numpy() for name, value in parameters.merged().items()}
    write_atomic(settings.output, base_bytes(Base(config, tensors), {}))
    return int(record["step"]), float(record["seconds"])


# ----------------------------------------------------------------------------------------- planting


def spoilt(rgb: Tensor) -> Tensor:
    """The planted mapping, RGB [3, H, W] of 0..1: a tone curve, 0.06 + 0.78 v^1.5, then a blur."""
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    window = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    kernel = (window / window.sum()).expand(3, 1, -1)
    faded = F.pad((_FADE + _RANGE * rgb.pow(_GAMMA))[None], (3, 3, 3, 3), mode="reflect")
    rows = F.conv2d(faded, kernel[..., None], groups=3)
    return F.conv2d(rows, kernel[:, :, None], groups=3)[0]


def _deal(options: argparse.Namespace) -> list[Path]:
    """Fill the folders source, target and held-out, once; the held-out pictures."""
    names = ("source", "target", "held-out")
    done = options.work / "dealt"
    folders = [options.work / name for name in names]
    if not done.exists():
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        items = find_items([options.photos]).items
        chosen = [items[i] for i in _evenly(len(items), options.most)]
        for index, item in enumerate(chosen):
            name = "held-out" if index % _HELD_OUT_EVERY == 0 else names[index % 2]
            rgb = _square(read_rgb(item.path), options.size)
            _save(spoilt(rgb) if name == "source" else rgb, options.work / name, item.path.stem)
        done.touch()
    return sorted(folders[2].glob("*.png"))


def _evenly(total: int, most: int) -> list[int]:
    return [i * total // min(most, total) for i in range(min(most, total))]


def _square(rgb: Tensor, size: int) -> Tensor:
    """The middle, after the photo was shrunk to half as much again: busy at the scale of a net."""
    factor = 1.5 * size / min(rgb.shape[1:])
    shape = [max(size, round(n * factor)) for n in rgb.shape[1:]]
    small = F.interpolate(rgb[None], size=shape, mode="bicubic", antialias=True)[0].clamp(0.0, 1.0)
    top, left = ((n - size) // 2 for n in small.shape[1:])
    return small[:, top : top + size, left : left + size]


def _save(rgb: Tensor, folder: Path, stem: str) -> None:
    array = (rgb.permute(1, 2, 0) * 255.0).round().to(torch.uint8).numpy()
    Image.fromarray(array).save(folder / f"{stem}.png")


# ------------------------------------------------------------------------------------------ judging


def _judge(path: Path, base: Path, net: str, device: Device) -> tuple[float, float]:
    """PSNR over RGB of a held-out photo, spoilt and then enhanced, in dB."""
    rgb = read_rgb(path)
    layout = VideoFormat(rgb.shape[2], rgb.shape[1])
    config = net_config(net, Fraction(1))
    tensors = parse_base(base.read_bytes()).base.tensors
    sets = (FloatSet(0, None, {n: torch.from_numpy(v) for n, v in tensors.items()}),)
    enhancer = Enhancer(layout, (layout.width, layout.height), config, sets, device)
    frame = planes_to_frame(to_planes(spoilt(rgb)[None], layout), layout, 0)
    pair = enhancer.enhance(frame, 0)
    # The reference goes through 4:2:0 as well: what that loses is not the net's to find again.
    reference = planes_to_frame(to_planes(rgb[None], layout), layout, 0)
    wanted, before, after = (
        frame_to_rgb(f, layout, torch.device("cpu")) for f in (reference, pair.base, pair.enhanced)
    )
    return _psnr(wanted, before), _psnr(wanted, after)


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10.0 * float(np.log10(float((a - b).square().mean())))


def _follow(events: Events[Any]) -> Any:
    """Run to the end, a line on stderr now and then."""
    last = 0.0
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value
        if isinstance(event, Notice):
            print(event.message, file=sys.stderr, flush=True)
        if isinstance(event, Progress) and time.monotonic() - last > _TELL_SECONDS:
            last = time.monotonic()
            print(f"{event.stage} {event.done}/{event.total} {event.loss}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
