"""What finer chroma is worth, title by title: the choice that ``--tuning auto`` makes.

    python benchmarks/tunings.py CLIPS... --points 2:25 --points 3/2:28 --work build/tunings \\
        -o benchmarks/results/tunings.json

At every point the whole clip is coded as by ``--tuning network`` and, at its CRF and at 2 below, as
by ``--tuning luma``, and shown by the base network. A row has what finer chroma changes: the bytes
at equal CRF, and the rate at equal score, interpolated as in codecaux.encoder.tuning; and what the
encoder chooses, which sees an excerpt. Below 0 finer chroma saves bits. Points are cached as
rd.py's are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from common import write_results
from rd_cache import Point
from rd_points import Maker
from rd_settings import RdSettings, Task

from codecaux.device import Device, choose_device
from codecaux.encoder.tuning import CRF_STEP, CodedTry, change_by_chroma
from codecaux.ffmpeg import find_ffmpeg
from codecaux.lpips import find_lpips
from codecaux.scores import ScoreTools

# LPIPS falls as pictures get better, and between 0 and 1: as per cent, negated, it is like a VMAF.
FACTORS: Mapping[str, float] = {
    "vmaf_v1": 1.0,
    "vmaf_v061_neg": 1.0,
    "lpips": -100.0,
    "psnr_y_db": 1.0,
}


def main() -> int:
    options = _parse()
    device = choose_device(options.device)
    lpips = find_lpips("alex", explicit=options.lpips_weights).to(device.torch_device)
    tools = ScoreTools(find_ffmpeg(), lpips, lpips_max_frames=12, threads=options.threads or None)
    settings = RdSettings(
        work=options.work,
        families=("base",),
        crfs=(),
        points={},
        net=options.net,
        threads=options.threads,
    )
    rows = [
        _row(clip, Task("base", scale, crf), settings, tools, device)
        for clip in options.clips
        for scale, crf in options.points
    ]
    write_results(options.output, "tunings", {"net": options.net}, rows)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--points", type=_point, action="append", help="SCALE:CRF  [2:25]")
    parser.add_argument("--net", default="light")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--threads", type=int, default=0, help="of x265 and of VMAF")
    parser.add_argument("--work", type=Path, default=Path("build/tunings"))
    parser.add_argument("-o", "--output", type=Path, help="JSON; a .tsv lies beside it")
    options = parser.parse_args()
    options.points = options.points or [(Fraction(2), 25.0)]
    return options


def _point(text: str) -> tuple[Fraction, float]:
    scale, _, crf = text.partition(":")
    return Fraction(scale), float(crf)


def _row(
    clip: Path, task: Task, settings: RdSettings, tools: ScoreTools, device: Device
) -> dict[str, Any]:
    """What finer chroma changes at one point of one clip, in per cent."""
    tries = {}
    wanted = {"network": ("network", 0.0), "luma": ("luma", 0.0), "finer": ("luma", CRF_STEP)}
    for name, (tuning, less) in wanted.items():
        at = replace(task, crf=task.crf - less)
        maker = Maker(clip, "any", replace(settings, tuning=tuning), tools, device)
        tries[name] = coded_try(maker.made(at))
    chosen = Maker(clip, "any", settings, tools, device).stream(task).tuning
    ratio = tries["network"].size_bytes / tries["luma"].size_bytes
    row = {"clip": clip.stem, "scale": str(task.scale), "crf": task.crf}
    row |= {"bytes_percent": 100 * (ratio - 1)}
    for metric in FACTORS:
        change = change_by_chroma(tries, metric)
        row[f"{metric}_percent"] = None if change is None else 100 * change
    return row | {"chosen": chosen}


def coded_try(point: Point) -> CodedTry:
    """A cached point as what the encoder's rule compares: of every metric more is better."""
    scores = {metric: factor * point[metric] for metric, factor in FACTORS.items()}
    return CodedTry(point["stream_bytes"], scores)


if __name__ == "__main__":
    sys.exit(main())
