"""Steps per second of a fit, in float32 and bfloat16, and what the loss's terms cost.

    python benchmarks/fit.py --nets tiny,light -o benchmarks/results/fit.json

The step is the fit's own (``codecaux.encoder.fit.stepper``), on a synthetic bank. All variants of
a net are timed in rounds (common.interleave). Asserted in the same run: after the same steps both
types have the same loss to 2 %. Flagged, and exit status 1 with --strict: SSIM or LPIPS costs
more than the network's own step (the fidelity objective), the learned term and what it takes to
train its network more than two, or bf16 is less than twice as fast where the CPU has matrix
instructions for it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Timing, interleave, write_results

from codecaux.architecture import net_config
from codecaux.bases import GENERATED_BASE_ID
from codecaux.cli.main import keep_freed_memory
from codecaux.device import choose_device
from codecaux.encoder.bank import PatchBank
from codecaux.encoder.fit import FitTask, stepper
from codecaux.encoder.goal import make_goal
from codecaux.encoder.lossnet import LearnedSettings
from codecaux.encoder.objective import OBJECTIVES, Objective
from codecaux.encoder.settings import FitSettings
from codecaux.errors import LpipsUnavailableError
from codecaux.lpips import Lpips, find_lpips
from codecaux.video import VideoFormat

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Two fits drift apart as they go: what is asserted is that both learn the same thing.
_LOSS_TOLERANCE = 0.05
_BF16_GAIN = 2.0
_LEARNED_COST = 2.0
_PATCHES = 64


@dataclass
class Variant:
    """One way to make a step, and the losses it has seen."""

    step: Callable[[int], torch.Tensor]
    steps_per_repeat: int
    losses: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        for _ in range(self.steps_per_repeat):
            self.losses.append(float(self.step(len(self.losses))))


def main() -> None:
    keep_freed_memory()  # as the program does
    options = _parse()
    bank = synthetic_bank(options.patch)
    lpips = None if options.no_lpips else _find_lpips(options.lpips_weights)
    rows: list[dict[str, Any]] = []
    for net in options.nets.split(","):
        rows += measure_net(net, bank, lpips, options)
    settings = {
        name: getattr(options, name) for name in ("batch", "patch", "repeats", "steps_per_repeat")
    }
    write_results(options.output, "fit", settings, rows)
    flags = [flag for net in options.nets.split(",") for flag in find_flags(net, rows)]
    for flag in flags:
        print(f"FLAG: {flag}", file=sys.stderr)
    sys.exit(1 if flags and options.strict else 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", default="tiny,light")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps-per-repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, default=FitSettings().batch)
    parser.add_argument("--patch", type=int, default=FitSettings().patch)
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--no-lpips", action="store_true", help="leave its terms out")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a flag is raised")
    parser.add_argument("-o", "--output", type=Path, help="JSON; a .tsv is written beside it")
    return parser.parse_args()


def synthetic_bank(patch: int) -> PatchBank:
    """Seeded edges, gratings and grain, and their 2x2 means with a codec's coarse steps."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0 : 2 * patch, 0 : 2 * patch]
    angle, pitch, phase = (rng.uniform(0, high, (_PATCHES, 1, 1)) for high in (3.14, 0.8, 6.28))
    wave = np.sin((np.cos(angle) * columns + np.sin(angle) * rows) * pitch + phase)
    y = 128 + 50 * wave + 20 * np.sign(wave) + rng.normal(0, 4, wave.shape)
    source_y = y.clip(16, 235).astype(np.uint8)
    source = with_chroma(source_y)

    def coded(plane: np.ndarray) -> np.ndarray:
        count, height, width = plane.shape
        means = plane.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))
        return (np.round(means / 6) * 6).astype(np.uint8)

    planes = tuple(coded(plane) for plane in source)
    frame = np.zeros(_PATCHES, np.int64)
    format, around = VideoFormat(2 * patch, 2 * patch), neighbours(source_y)
    return PatchBank(format, planes, source, frame, _PATCHES, around)


def with_chroma(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[K, h, w] luma with chroma planes that follow it."""
    grey = 120 + (y[:, ::2, ::2] >> 4)
    return y, grey, 255 - grey


def neighbours(source_y: np.ndarray) -> tuple[tuple[np.ndarray, ...], ...]:
    """The middles of the patches two pixels to the left and to the right: before and after."""
    size = min(LearnedSettings().size, source_y.shape[1])
    at = (source_y.shape[1] - size) // 4 * 2
    moved = (np.roll(source_y, pixels, 2) for pixels in (-2, 2))
    return tuple(with_chroma(y[:, at : at + size, at : at + size]) for y in moved)


def _find_lpips(explicit: Path | None) -> Lpips | None:
    try:
        return find_lpips("squeeze", explicit=explicit)
    except LpipsUnavailableError as error:
        print(f"without LPIPS: {error}", file=sys.stderr)
        return None


def objectives(has_lpips: bool) -> dict[str, Objective]:
    """What is timed: the named objectives, and fidelity with one term more."""
    plain = OBJECTIVES["fidelity"]
    result = {"fidelity": plain, "fidelity+ssim": replace(plain, ssim=1.0)}
    if has_lpips:
        result["fidelity+lpips"] = replace(plain, lpips=1.0)
        result |= {name: OBJECTIVES[name] for name in ("balanced", "perceptual")}
    learned = OBJECTIVES["learned"].learned
    result["fidelity+learned"] = replace(plain, learned=learned)
    result["balanced without lpips"] = OBJECTIVES["balanced"].with_or_without(None)
    return result


def measure_net(
    net: str, bank: PatchBank, lpips: Lpips | None, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each type and objective."""
    variants: dict[tuple[str, str], Variant] = {}
    config = net_config(net, Fraction(2))
    chosen = objectives(lpips is not None)
    total = options.steps_per_repeat * (options.repeats + 1)
    for dtype, (name, objective) in itertools.product(DTYPES, chosen.items()):
        device = replace(choose_device("cpu"), compute_dtype=DTYPES[dtype])
        cast = lpips.cast(DTYPES[dtype]) if lpips is not None else None
        goal = make_goal(objective.for_net(config), bank.format.colour, cast, 0, device)
        settings = FitSettings(steps=max(total, 10), batch=options.batch, patch=options.patch)
        base, critic = GENERATED_BASE_ID, goal.critic
        task = FitTask(config, base, bank, goal.terms, device, settings, critic=critic)
        step = stepper(task, max(total, 10))
        variants[dtype, name] = Variant(step, options.steps_per_repeat)
    actions = {f"{dtype} {name}": variant for (dtype, name), variant in variants.items()}
    timings = interleave(actions, options.repeats)
    check_losses(net, variants)
    return [_row(net, dtype, name, timings, options.steps_per_repeat) for dtype, name in variants]


def check_losses(net: str, variants: dict[tuple[str, str], Variant]) -> None:
    """Both types must be fitting the same thing."""
    for (dtype, name), variant in variants.items():
        exact, coarse = (statistics.fmean(v.losses) for v in (variants["fp32", name], variant))
        assert abs(exact - coarse) <= _LOSS_TOLERANCE * exact, (net, dtype, name, exact, coarse)


def _row(net: str, dtype: str, name: str, timings: dict[str, Timing], steps: int) -> dict[str, Any]:
    timing, plain = timings[f"{dtype} {name}"], timings[f"{dtype} fidelity"]
    return {
        "net": net,
        "dtype": dtype,
        "objective": name,
        "steps_per_second": timing.per_second(steps),
        "milliseconds_per_step": 1e3 * timing.median_seconds / steps,
        "iqr_milliseconds": 1e3 * timing.iqr_seconds / steps,
        "times_fp32": timings[f"fp32 {name}"].median_seconds / timing.median_seconds,
        "terms_cost_per_own_step": timing.median_seconds / plain.median_seconds - 1.0,
        "repeats": timing.repeats,
    }


def find_flags(net: str, rows: list[dict[str, Any]]) -> list[str]:
    """What misses its target, in words. The costs count in the type that fits run in."""
    device = choose_device("cpu")
    used = next(name for name, dtype in DTYPES.items() if dtype == device.compute_dtype)
    flags = []
    for row in rows:
        if row["net"] != net or row["dtype"] != used:
            continue
        cost, gain = row["terms_cost_per_own_step"], row["times_fp32"]
        if row["objective"] in ("fidelity+ssim", "fidelity+lpips") and cost > 1.0:
            flags.append(f"{net} {used}: the term of {row['objective']} costs {cost:.2f} own steps")
        if row["objective"] == "fidelity+learned":
            print(f"{net} {used}: the loss network costs {cost:.2f} of the net's own steps")
            if cost > _LEARNED_COST:
                flags.append(f"{net} {used}: the learned term costs {cost:.2f} own steps")
        if row["objective"] == "fidelity" and used == "bf16" and gain < _BF16_GAIN:
            flags.append(f"{net}: bf16 is {gain:.2f} times fp32, expected {_BF16_GAIN:g}")
    return flags


if __name__ == "__main__":
    main()
