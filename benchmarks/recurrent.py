"""What a recurrent net is worth beside its single-frame one: one CRF, one budget of time.

    python benchmarks/recurrent.py CLIPS... --steps 600 -o benchmarks/results/recurrent.json

Each clip is encoded with every net (the same stream: asserted). The first net makes --steps steps;
the others as many as take the same time, by steps timed in rounds (common.interleave) on a
synthetic bank, or as many (--equal steps). Scores are the player's. RPF is RAVE's relative
pixel-flow; ripple is the mean change of its deviation from one frame to the next. A recurrent net
is also started in the middle of the clip: ``converges_in_frames`` says after how many frames it
shows what it shows when it came from the start, to one code value (-1: not before the clip's end).
--crop and --frames cut the clips, to try it out.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from common import interleave, write_results
from fit import synthetic_bank

from codecaux.architecture import net_config
from codecaux.bases import default_base_id
from codecaux.cli.main import keep_freed_memory
from codecaux.decoder.load import open_enhancer
from codecaux.device import choose_device
from codecaux.encoder.bank import run_frames
from codecaux.encoder.encode import EncodeResult, encode
from codecaux.encoder.fit import FitTask, stepper
from codecaux.encoder.objective import LossTerms, objective_by_name
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import LpipsUnavailableError
from codecaux.events import drain
from codecaux.ffmpeg import file_argument, find_ffmpeg, run_ffmpeg
from codecaux.frames import read_frames
from codecaux.hevc import hash_stream
from codecaux.lpips import find_lpips
from codecaux.scores import Scores
from codecaux.video import Frame

METRICS = {
    "vmaf_v1": "vmaf_v1",
    "vmaf_neg": "vmaf_v061_neg",
    "lpips": "lpips",
    "psnr_y_db": "psnr_y_db",
    "tof": "tof",
    "rpf_mean": "rpf_mean",
    "rpf_deviation": "rpf_deviation",
}


@dataclass(frozen=True)
class Budget:
    """How many steps a net makes, and how long one takes."""

    steps: int
    milliseconds: float


def main() -> None:
    keep_freed_memory()  # as the program does
    options = _parse()
    options.work.mkdir(parents=True, exist_ok=True)
    budgets = find_budgets(options)
    rows: list[dict[str, Any]] = []
    for clip in options.clips:
        title = _cut(clip, options) if options.crop or options.frames else clip
        rows += measure_clip(title, budgets, options)
    settings = {
        name: str(getattr(options, name))
        for name in ("crf", "scale", "steps", "equal", "objective", "crop", "frames")
    }
    write_results(options.output, "recurrent", settings, rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--nets", default="light,recurrent", help="the first sets the budget")
    parser.add_argument("--crf", type=float, default=25.0)
    parser.add_argument("--scale", type=Fraction, default=Fraction(2))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--equal", choices=("time", "steps"), default="time")
    parser.add_argument("--objective", default="balanced")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing")
    parser.add_argument("--crop", help="WxH: the middle of every clip alone")
    parser.add_argument("--frames", type=int, help="the first so many alone")
    parser.add_argument("--work", type=Path, default=Path("build/recurrent"))
    parser.add_argument("-o", "--output", type=Path, help="JSON; a .tsv is written beside it")
    return parser.parse_args()


# ------------------------------------------------------------------------------------- the budget


def find_budgets(options: argparse.Namespace) -> dict[str, Budget]:
    """Steps of every net for the time that the first one's take."""
    nets = options.nets.split(",")
    if options.scale != 2:  # that of the synthetic bank
        assert options.equal == "steps", "expected --equal steps at another scale than 2"
        return {net: Budget(options.steps, math.nan) for net in nets}
    steppers = {net: _stepper(net, options) for net in nets}
    made = dict.fromkeys(nets, 0)

    def step(net: str) -> None:
        steppers[net](made[net])
        made[net] += 1

    timings = interleave({net: lambda net=net: step(net) for net in nets}, options.repeats)
    own = timings[nets[0]].median_seconds
    result = {}
    for net, timing in timings.items():
        share = own / timing.median_seconds if options.equal == "time" else 1.0
        steps = max(10, round(options.steps * share))
        result[net] = Budget(steps, 1e3 * timing.median_seconds)
    return result


def _stepper(net: str, options: argparse.Namespace) -> Callable[[int], Any]:
    config, device = net_config(net, options.scale), choose_device()
    fit = FitSettings(steps=max(10, options.repeats + 1))
    bank = replace(synthetic_bank(fit.patch), run=run_frames(config))
    lpips = None
    objective = objective_by_name(options.objective).for_net(config)
    try:
        if objective.wants_lpips:
            lpips = find_lpips("squeeze").to(device.torch_device).cast(device.compute_dtype)
    except LpipsUnavailableError as error:
        print(f"without LPIPS: {error}")
    terms = LossTerms(objective, bank.format.colour, lpips)
    return stepper(FitTask(config, default_base_id(config), bank, terms, device, fit), fit.steps)


# ------------------------------------------------------------------------------------- the clips


def _cut(clip: Path, options: argparse.Namespace) -> Path:
    """The part of a clip that was asked for, lossless."""
    cut: Path = options.work / f"{clip.stem}-{options.crop}-{options.frames}.mkv"
    size = options.crop.replace("x", ":") if options.crop else "iw:ih"
    arguments = ["-v", "error", "-i", file_argument(clip), "-an", "-vf", f"crop={size}"]
    arguments += ["-frames:v", str(options.frames)] if options.frames else []
    run_ffmpeg(find_ffmpeg(), [*arguments, "-c:v", "ffv1", "-y", file_argument(cut)])
    return cut


def measure_clip(
    clip: Path, budgets: Mapping[str, Budget], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each net."""
    rows, streams = [], set()
    for net, budget in budgets.items():
        result = _encode(clip, net, budget, options)
        streams.add(hash_stream(result.stream).whole_sha256)
        rows.append(_row(clip, net, budget, result))
        print(rows[-1])
    assert len(streams) == 1, "every net must enhance the same stream"
    return rows


def _encode(clip: Path, net: str, budget: Budget, options: argparse.Namespace) -> EncodeResult:
    output = options.work / f"{clip.stem}-{net}.mp4"
    fit = FitSettings(steps=budget.steps, objective=options.objective)
    settings = EncodeSettings(
        str(clip),
        output,
        output.with_suffix(".weights"),
        StreamSettings(options.crf, scale=options.scale),
        net=net,
        fit=fit,
        overwrite=True,
    )
    return drain(encode(settings))


def _row(clip: Path, net: str, budget: Budget, result: EncodeResult) -> dict[str, Any]:
    scores = result.scores["enhanced"]
    enhancer = open_enhancer(result.stream, result.weights, device=choose_device())
    row: dict[str, Any] = {
        "clip": clip.stem,
        "net": net,
        "steps": budget.steps,
        "milliseconds_per_step": budget.milliseconds,
        "macs_per_frame": enhancer.macs_per_frame,
        "stream_bytes": result.stream.stat().st_size,
        "weights_bytes": result.weights.stat().st_size,
    }
    row |= {name: scores.value(metric) for name, metric in METRICS.items()}
    row["rpf_ripple"] = ripple(scores)
    row["converges_in_frames"] = converges_in(result.stream, result.weights)
    return row | {"fit_seconds": result.stage_seconds["fit"]}


def ripple(scores: Scores) -> float | None:
    """Mean change of RPF's deviation from one frame to the next, in code values."""
    curve: Sequence[float] = scores.per_frame.get("rpf_deviation", ())
    steps = [abs(b - a) for a, b in pairwise(curve)]
    return statistics.fmean(steps) if steps else None


def converges_in(stream: Path, weights: Path) -> int | None:
    """Frames until a start in the middle shows what the whole run shows; None: no state."""
    device = choose_device()
    through, late = (open_enhancer(stream, weights, device=device) for _ in range(2))
    if not through.config.is_recurrent:
        return None
    frames = list(read_frames(stream))
    begin = len(frames) // 2
    differences: list[int] = []
    for index, frame in enumerate(frames):
        whole = through.enhance(frame, index).enhanced
        if index >= begin:
            differences.append(_largest(whole, late.enhance(frame, index).enhanced))
    far = [at for at, difference in enumerate(differences) if difference > 1]
    if not far:
        return 0
    return far[-1] + 1 if far[-1] + 1 < len(differences) else -1


def _largest(a: Frame, b: Frame) -> int:
    pairs = zip(a.planes, b.planes, strict=True)
    return max(int(np.abs(x.astype(np.int32) - y).max()) for x, y in pairs)


if __name__ == "__main__":
    main()
