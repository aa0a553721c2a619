"""Encode whole titles and tabulate what the weights gain: the table of the README.

    python benchmarks/titles.py CLIPS... --crf 24 -o benchmarks/results/titles.tsv

Scores are those of ``codecaux encode``: both files decoded through the player's own path and
compared with the source; rates count the weights. Each title's files stay in --work, and a title
whose row is there already is not encoded again.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import sys
from pathlib import Path

import torch

from codecaux.encoder.encode import EncodeResult, encode
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.events import drain
from codecaux.rate import amortised_weights_kbps
from codecaux.scores import METRICS

COLUMNS = (
    ["title", "frames", "crf", "net", "stream_kbps", "weights_bytes", "weights_kbps"]
    + ["weights_kbps_if_10_s"]
    + [f"{metric}_{version}" for metric in METRICS for version in ("bicubic", "enhanced")]
    + ["fit_seconds", "total_seconds", "device", "torch"]
)


def main() -> None:
    options = _parse()
    rows = _read(options.output)
    for clip in options.clips:
        if (clip.stem, options.net, f"{options.crf:g}") in rows:
            continue
        print(f"{clip.stem} ...", file=sys.stderr, flush=True)
        rows[clip.stem, options.net, f"{options.crf:g}"] = _row(
            clip, _encode(clip, options), options
        )
        _write(options.output, list(rows.values()))
    print(_markdown([r for r in rows.values() if r["net"] == options.net]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--crf", type=float, default=24.0)
    parser.add_argument("--net", default="light")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--work", type=Path, default=Path("build/titles"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


def _encode(clip: Path, options: argparse.Namespace) -> EncodeResult:
    folder = options.work / f"{clip.stem}-{options.net}-crf{options.crf:g}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = EncodeSettings(
        input=str(clip),
        output=folder / "title.mp4",
        weights=folder / "title.weights",
        stream=StreamSettings(crf=options.crf),
        net=options.net,
        fit=FitSettings(steps=options.steps),
        resume=True,
        overwrite=True,
    )
    return drain(encode(settings))


def _row(clip: Path, result: EncodeResult, options: argparse.Namespace) -> dict[str, str]:
    row = {
        "title": clip.stem,
        "frames": str(result.num_frames),
        "crf": f"{options.crf:g}",
        "net": options.net,
        "stream_kbps": f"{result.rate.stream_kbps:.1f}",
        "weights_bytes": str(result.rate.weights_bytes),
        "weights_kbps": f"{result.rate.weights_kbps:.1f}",
        "weights_kbps_if_10_s": f"{amortised_weights_kbps(result.rate, 10.0):.1f}",
        "fit_seconds": f"{result.stage_seconds['fit']:.0f}",
        "total_seconds": f"{sum(result.stage_seconds.values()):.0f}",
        "device": result.device,
        "torch": torch.__version__,
    }
    for version, scores in result.scores.items():
        for metric in METRICS:
            value = scores.value(metric)
            row[f"{metric}_{version}"] = "" if value is None else f"{value:.4f}"
    return row


def _read(path: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {(row["title"], row["net"], row["crf"]): row for row in rows}


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _markdown(rows: list[dict[str, str]]) -> str:
    """The README's table: bicubic -> enhanced, and the mean gains."""
    lines = [
        "| title | stream | weights | VMAF v1 | v0.6.1 | NEG | LPIPS | PSNR-Y | SSIM |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    digits = {"lpips": 3, "ssim": 3}
    order = ("vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "lpips", "psnr_y_db", "ssim")
    for row in rows:
        cells = [row["title"], f"{float(row['stream_kbps']):,.0f} kb/s"]
        cells.append(f"{int(row['weights_bytes']) / 1000:.1f} kB")
        for metric in order:
            pair = [float(row[f"{metric}_{v}"]) for v in ("bicubic", "enhanced")]
            cells.append(" → ".join(f"{value:.{digits.get(metric, 1)}f}" for value in pair))
        lines.append("| " + " | ".join(cells) + " |")
    gains = []
    for metric in order:
        deltas = [float(r[f"{metric}_enhanced"]) - float(r[f"{metric}_bicubic"]) for r in rows]
        gains.append(f"{sum(deltas) / len(deltas):+.{digits.get(metric, 1)}f}")
    lines.append("| **mean gain** | | | " + " | ".join(f"**{g}**" for g in gains) + " |")
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {rows[0]['device']}"
    return "\n".join([*lines, "", f"Machine: {machine}"])


if __name__ == "__main__":
    main()
