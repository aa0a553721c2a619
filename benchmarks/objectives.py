"""Objectives side by side at equal rate: what each fit makes of the same stream.

    python benchmarks/objectives.py CLIPS... --crf 25 --work build/objectives \\
        -o benchmarks/results/objectives.json

For every clip and objective ``codecaux encode`` itself, with the same stream (asserted: equal
hashes), scored on what the player shows. By default the ablations of the learned loss (Jo et al.
2020, Table 4), the SR-UNet paper's recipe, fidelity, and the default objective with and without
LPIPS. Each result is a file in --work, so that an interrupted run goes on where it was. Written are
a row for each, in -o and its .tsv, and -o's folder with a picture of the losses for each clip.

How steady a training is: the root mean square by which its loss (the network's smoothed, as it is
reported; the critic's in means over 20 steps) leaves its own straight line from a fifth to two
fifths of the steps, relative to its mean there: a part of the float phase in any fit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from common import write_results
from objectives_picture import draw_losses
from rd_saved import SAVED_METRICS, read_x265, saved_percent

from codecaux import __version__
from codecaux.atomic import write_atomic
from codecaux.cli.main import keep_freed_memory
from codecaux.encoder.encode import EncodeResult, encode
from codecaux.encoder.headstart import HeadStart
from codecaux.encoder.loop import FitTask
from codecaux.encoder.objective import ABLATIONS, OBJECTIVES, objective_by_name
from codecaux.encoder.prepare import SourceOptions, prepare
from codecaux.encoder.settings import DEFAULT_STEPS, EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.events import Progress, drain
from codecaux.hevc import hash_stream
from codecaux.scores import METRICS
from codecaux.video import SCALES

_PLAIN, _ENHANCED = "bicubic", "enhanced"
_DEFAULTS = ("fidelity", "balanced", "balanced-offline", "learned", *ABLATIONS, "perceptual")
_MEAN_STEPS = 20


@dataclass
class Losses:
    """What a fit's loss was, (step, loss) as reported, and the task, to look at its critic."""

    reported: list[tuple[int, float]]
    task: FitTask | None = None

    def watch(self, task: FitTask) -> None:
        """Called by the encode with what it is about to fit."""
        self.task = task

    def trace(self) -> list[tuple[float, float]]:
        """Of every step: the critic's term for the network, and the critic's own loss."""
        if self.task is None or self.task.critic is None:
            return []
        return [(float(term), float(own)) for term, own in self.task.critic.trace]


def main() -> int:
    keep_freed_memory()  # as the program does
    options = _parse()
    points, failures = [], []
    for clip in options.clips:
        for name in options.objectives:
            try:
                points.append(_point(clip, name, options))
            except Exception as error:  # one that fails is reported, the others are made
                failures.append(f"{clip.stem} {name}: {type(error).__name__}: {error}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if points:
        _write(points, options)
    return 1 if failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--objectives", type=_names, default=tuple(dict.fromkeys(_DEFAULTS)))
    parser.add_argument("--crf", type=float, default=25.0)
    parser.add_argument("--scale", type=_scale, default=Fraction(2))
    parser.add_argument("--net", default="light")
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--steps", type=int, help="of a fit")
    parser.add_argument("--patch", type=int, default=FitSettings().patch)
    parser.add_argument("--batch", type=int, default=FitSettings().batch)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--priced-for", type=float, default=10.0, help="seconds of the title that a fit is for"
    )
    parser.add_argument(
        "--rd", type=read_x265, default={}, help="TSV of rd.py: what is saved against its x265"
    )
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--lpips-frames", type=int, default=12)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, default=Path("build/objectives"))
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON; .tsv beside it")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    for name in text.split(","):
        objective_by_name(name)
    return tuple(text.split(","))


def _scale(text: str) -> Fraction:
    if Fraction(text) not in SCALES:
        raise argparse.ArgumentTypeError(f"expected a scale of 2, 1.5 or 1, got {text}")
    return Fraction(text)


# ---------------------------------------------------------------------------------------- a point


def _settings(clip: Path, name: str, folder: Path, options: argparse.Namespace) -> EncodeSettings:
    fit = FitSettings(
        steps=options.steps or DEFAULT_STEPS[options.net],
        objective=name,
        seed=options.seed,
        batch=options.batch,
        patch=options.patch,
    )
    return EncodeSettings(
        input=str(clip),
        output=folder / "title.mp4",
        weights=folder / "title.weights",
        stream=StreamSettings(options.crf, preset=options.preset, scale=options.scale),
        net=options.net,
        fit=fit,
        device=options.device,
        lpips_weights=options.lpips_weights,
        lpips_frames=options.lpips_frames,
        overwrite=True,
    )


def _point(clip: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """From the work folder, else made and kept there. Raises what an encode raises."""
    digest = hashlib.sha256(clip.read_bytes()).hexdigest()[:12]
    settings = _settings(clip, name, Path(), options)
    objective = (OBJECTIVES | ABLATIONS)[name]
    made_with = [digest, __version__, options.priced_for, options.lpips_frames]
    made_with += [asdict(settings.fit), asdict(settings.stream), asdict(objective), options.net]
    key = hashlib.sha256(json.dumps(made_with, default=str).encode()).hexdigest()[:10]
    path: Path = options.work / f"{clip.stem}.{name}.{key}.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    print(f"{clip.stem} {name} ...", file=sys.stderr, flush=True)
    folder = options.work / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(clip, name, folder, options)
    losses = Losses([])
    result = _encode(settings, losses, options.priced_for)
    point = _described(clip, name, result, options) | _steadiness(losses, settings.fit.steps or 0)
    point |= {"reported": losses.reported, "trace": losses.trace()}
    write_atomic(path, json.dumps(point).encode())
    return point


def _encode(settings: EncodeSettings, losses: Losses, priced_for: float) -> EncodeResult:
    """The encode; its losses as they are reported."""
    seconds = _seconds(Path(settings.input), settings.output.parent / "source")
    head = HeadStart(times_longer=max(1.0, priced_for / seconds), watch=losses.watch)
    events = encode(settings, head)
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                result: EncodeResult = stop.value
                return result
            if isinstance(event, Progress) and event.stage == "fit" and event.loss is not None:
                losses.reported.append((event.done, event.loss))


def _described(
    clip: Path, name: str, result: EncodeResult, options: argparse.Namespace
) -> dict[str, Any]:
    enhanced, plain = result.scores[_ENHANCED], result.scores[_PLAIN]
    row: dict[str, Any] = {
        "clip": clip.stem,
        "objective": name,
        "net": options.net,
        "scale": str(options.scale),
        "crf": options.crf,
        "steps": options.steps or DEFAULT_STEPS[options.net],
        "stream_sha256": hash_stream(result.stream).whole_sha256,
        "stream_kbps": result.rate.stream_kbps,
        "weights_bytes": result.rate.weights_bytes,
    }
    row |= {metric: enhanced.value(metric) for metric in METRICS}
    row |= {f"{metric}_bicubic": plain.value(metric) for metric in METRICS}
    return row | {"fit_seconds": result.stage_seconds["fit"]}


def _steadiness(losses: Losses, steps: int) -> dict[str, float | None]:
    """Of the network's loss and of the critic's; None where there is no such thing."""
    end = 2 * steps // 5
    own = [own for _, own in losses.trace()][:end]
    return {
        "loss_unsteadiness": unsteadiness([loss for step, loss in losses.reported if step <= end]),
        "critic_unsteadiness": unsteadiness(means(own, _MEAN_STEPS)),
    }


def means(values: Sequence[float], size: int) -> list[float]:
    """Of each ``size`` values in a row, the rest left out."""
    count = len(values) // size
    return [float(np.mean(values[i * size : (i + 1) * size])) for i in range(count)]


def unsteadiness(values: Sequence[float]) -> float | None:
    """Root mean square around the straight line through the second half, over its mean."""
    half = np.asarray(values[len(values) // 2 :], np.float64)
    if len(half) < 3:
        return None
    at = np.arange(len(half))
    line = np.polynomial.Polynomial.fit(at, half, 1)
    return float(np.sqrt(np.mean((half - line(at)) ** 2)) / abs(half.mean()))


def _seconds(clip: Path, folder: Path) -> float:
    return float(drain(prepare(clip, SourceOptions(), folder)).duration_seconds)


# -------------------------------------------------------------------------------------- the table


def _write(points: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    folder = options.output.with_suffix("")
    for clip in dict.fromkeys(point["clip"] for point in points):
        of_clip = [point for point in points if point["clip"] == clip]
        assert len({point["stream_sha256"] for point in of_clip}) == 1, f"{clip}: unequal streams"
        draw_losses(of_clip, folder / f"{clip}.png")
    settings = {
        name: str(getattr(options, name))
        for name in ("net", "scale", "crf", "preset", "batch", "patch", "seed", "priced_for")
    }
    rows = [_row(point, points) | _saved(point, options) for point in points]
    write_results(options.output, "objectives", settings, rows)
    print(markdown(rows))


def _row(point: dict[str, Any], points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A point without its curves, with its changes against fidelity on the same clip."""
    row = {k: v for k, v in point.items() if k not in ("reported", "trace", "stream_sha256")}
    plain = [p for p in points if p["clip"] == point["clip"] and p["objective"] == "fidelity"]
    for metric in ("lpips", "tof"):
        before = plain[0][metric] if plain else None
        known = before and point[metric] is not None
        change = 100.0 * (point[metric] / before - 1.0) if known else None
        row[f"{metric}_against_fidelity_percent"] = change
    return row


def _saved(point: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """By metric, the rate against x265's, the weights over the title that they are priced for."""
    x265 = options.rd.get(point["clip"], [])
    if not x265:
        return {}
    kbps = point["stream_kbps"] + point["weights_bytes"] * 8e-3 / options.priced_for
    return {
        f"rate_at_equal_{metric}_percent": saved_percent(x265, metric, point[metric], kbps)
        for metric in SAVED_METRICS
    }


_COLUMNS = {
    "vmaf_v1": ("VMAF v1", ".1f"),
    "vmaf_v061": ("v0.6.1", ".1f"),
    "vmaf_v061_neg": ("NEG", ".1f"),
    "lpips": ("LPIPS", ".3f"),
    "tof": ("tOF", ".3f"),
    "rpf_deviation": ("RPF deviation", ".3g"),
    "psnr_y_db": ("PSNR-Y", ".2f"),
    "weights_bytes": ("weights B", ",.0f"),
    "fit_seconds": ("fit s", ".0f"),
    "loss_unsteadiness": ("loss", ".4f"),
    "critic_unsteadiness": ("critic", ".4f"),
    "rate_at_equal_vmaf_v1_percent": ("rate, v1", "+.1f"),
    "rate_at_equal_vmaf_v061_neg_percent": ("NEG", "+.1f"),
    "rate_at_equal_lpips_percent": ("LPIPS", "+.1f"),
    "rate_at_equal_psnr_y_db_percent": ("PSNR-Y", "+.1f"),
}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The mean over the clips, an objective a line; empty where a clip has no such value."""
    lines = ["| objective | " + " | ".join(title for title, _ in _COLUMNS.values()) + " |"]
    lines.append("|---" * (len(_COLUMNS) + 1) + "|")
    for name in dict.fromkeys(row["objective"] for row in rows):
        of_name = [row for row in rows if row["objective"] == name]
        cells = []
        for metric, (_, form) in _COLUMNS.items():
            values = [row.get(metric) for row in of_name]
            cells.append("" if None in values else format(float(np.mean(values)), form))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
