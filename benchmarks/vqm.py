"""Video quality mapping as the NTIRE 2020 challenge, track 1, measures it, on our clips.

    python benchmarks/vqm.py CLIPS... --manifest clips.tsv -o benchmarks/results/vqm

More compressed to less compressed video: the target is a clip's first 120 frames as they are, the
input the same frames through H.264 (x264). PSNR and SSIM over RGB, every frame, and LPIPS-alex are
averaged over the clips; seconds per frame are the network's, on this machine. Our restoration
networks (scale 1) as they ship (general) and fitted to the clip in question, and no processing.

Every point is cached in --work, so that an interrupted run goes on where it was. At its end, and
alone with --assemble, the points become -o's .md (the columns of the paper's Table 1), .tsv
(clip by clip, then the means) and .json. A failed point is reported; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import machine
from rd import check_split, read_splits, write_table
from vqm_points import Maker, Point, VqmSettings, read_points

from codecaux.atomic import write_atomic
from codecaux.device import Device, choose_device
from codecaux.encoder.settings import FitSettings
from codecaux.errors import CodecauxError, LpipsUnavailableError
from codecaux.ffmpeg import find_ffmpeg
from codecaux.lpips import Lpips, LpipsNet, find_lpips

_MEAN = "mean"
_MEANS = ("psnr_rgb_db", "ssim_rgb", "lpips", "seconds_per_frame", "fit_minutes", "weights_bytes")
_COLUMNS = (
    *("clip", "method", "net", "size", "num_frames", "psnr_rgb_db", "ssim_rgb", "lpips"),
    *("seconds_per_frame", "parameters", "fit_steps", "fit_minutes", "weights_bytes"),
    *("stream_bytes", "lpips_frames", "clips"),
)
_HEADINGS = (
    *("Method", "↑PSNR", "↑SSIM", "↓LPIPS", "TrainingReq", "TrainingTime", "TestReq", "TestTime"),
    *("Parameters", "ExtraData"),
)


def main() -> int:
    options = _parse()
    failures = [] if options.assemble else _run(options)
    _assemble(options, failures)
    return 1 if failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--nets", default="tiny,light", help="a,b")
    parser.add_argument("--crf", type=float, default=VqmSettings.crf, help="x264's")
    parser.add_argument("--preset", default=VqmSettings.preset, help="x264's")
    parser.add_argument("--frames", type=int, default=VqmSettings.frames, help="of each clip")
    parser.add_argument("--steps", type=int, help="of a fit")
    parser.add_argument("--objective", default=FitSettings().objective, help="of a fit")
    parser.add_argument("--lpips-frames", type=int, default=VqmSettings.lpips_frames)
    parser.add_argument("--lpips-weights", type=Path, help="of the scores (alex)")
    parser.add_argument("--manifest", type=Path, help="table with the columns file and split")
    parser.add_argument("--allow-training", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, default=Path("build/vqm"))
    parser.add_argument("--assemble", action="store_true", help="make no points")
    parser.add_argument("-o", "--output", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    if not options.clips and not options.assemble:
        parser.error("expected clips, or --assemble")
    return options


def _run(options: argparse.Namespace) -> list[str]:
    """Make what is missing; the failures, a line each."""
    settings = VqmSettings(
        work=options.work,
        nets=tuple(options.nets.split(",")),
        crf=options.crf,
        preset=options.preset,
        frames=options.frames,
        lpips_frames=options.lpips_frames,
        fit=FitSettings(steps=options.steps, objective=options.objective),
    )
    splits, device, ffmpeg = (
        read_splits(options.manifest),
        choose_device(options.device),
        find_ffmpeg(require_encoders=("libx264", "ffv1"), require_filters=()),
    )
    for clip in options.clips:
        check_split(clip, splits.get(clip.name), allow_training=options.allow_training)
    lpips = _lpips("alex", options.lpips_weights, device)
    squeeze = _lpips("squeeze", None, device)
    squeeze = squeeze.cast(device.compute_dtype) if squeeze else None
    failures = []
    for clip in options.clips:
        maker = Maker(clip, settings, ffmpeg, device, lpips, squeeze)
        for task in maker.missing():
            name = " ".join(part for part in (clip.stem, task.method, task.net) if part)
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                maker.make(task)
            except (CodecauxError, RuntimeError, ValueError, OSError) as error:
                traceback.print_exc()
                failures.append(f"{name}: {type(error).__name__}: {error}")
    return failures


def _lpips(net: LpipsNet, weights: Path | None, device: Device) -> Lpips | None:
    try:
        return find_lpips(net, explicit=weights).to(device.torch_device)
    except LpipsUnavailableError as error:
        print(f"without LPIPS {net}: {error}", file=sys.stderr)
        return None


# --------------------------------------------------------------------------------------- assembling


def current_points(points: Sequence[Point]) -> list[Point]:
    """Of each clip, method and net the newest; of them those whose input is made as the newest's
    is, in the table's order.
    """
    newest: dict[tuple[str, ...], Point] = {}
    for point in sorted(points, key=lambda p: float(p["made_at"])):
        newest[point["clip"], point["method"], point["net"]] = point
    last = max(newest.values(), key=lambda p: float(p["made_at"]))
    same = [p for p in newest.values() if _protocol(p) == _protocol(last)]
    order = ("fitted", "general", "none")
    return sorted(same, key=lambda p: (p["clip"], order.index(p["method"]), p["net"]))


def _protocol(point: Point) -> tuple[Any, ...]:
    return tuple(point["settings"][key] for key in ("crf", "preset", "frames", "lpips_frames"))


def mean_rows(points: Sequence[Point]) -> list[Point]:
    """One row a method and net: means over the clips that all of them have; best PSNR first."""
    by_method: dict[tuple[str, str], dict[str, Point]] = {}
    for point in points:
        by_method.setdefault((point["method"], point["net"]), {})[point["clip"]] = point
    shared = set.intersection(*(set(clips) for clips in by_method.values()))
    rows = []
    for (method, net), clips in by_method.items():
        chosen = [clips[clip] for clip in sorted(shared)]
        row = {"clip": _MEAN, "method": method, "net": net, "clips": len(chosen)}
        row |= {key: _mean([point.get(key) for point in chosen]) for key in _MEANS}
        row |= {key: chosen[0].get(key) for key in ("parameters", "fit_steps") if chosen}
        row["device"] = chosen[0]["device"] if chosen else ""
        rows.append(row)
    # No processing last, as in the paper.
    return sorted(rows, key=lambda r: (r["method"] == "none", -(r["psnr_rgb_db"] or 0.0)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def markdown(rows: Sequence[Point]) -> str:
    """The paper's Table 1 with our methods in it; the best of a column in bold."""
    best = {
        "psnr_rgb_db": max(_known(rows, "psnr_rgb_db"), default=None),
        "ssim_rgb": max(_known(rows, "ssim_rgb"), default=None),
        "lpips": min(_known(rows, "lpips"), default=None),
    }
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|" + "---|" * len(_HEADINGS)]
    for row in rows:
        scores = [
            _cell(row[key], spec, row[key] == best[key])
            for key, spec in (("psnr_rgb_db", ".3f"), ("ssim_rgb", ".3f"), ("lpips", ".3f"))
        ]
        lines.append("| " + " | ".join([_name(row), *scores, *_facts(row)]) + " |")
    return "\n".join(lines) + "\n"


def _known(rows: Sequence[Point], key: str) -> list[float]:
    return [row[key] for row in rows if row[key] is not None]


def _name(row: Point) -> str:
    if row["method"] == "none":
        return "No processing"
    return f"codecaux {row['net']}, {'over-fitted' if row['method'] == 'fitted' else 'general'}"


def _facts(row: Point) -> list[str]:
    """The columns from TrainingReq on; empty without processing, as in the paper."""
    if row["method"] == "none":
        return [""] * 6
    device, seconds = row["device"], row["seconds_per_frame"]
    test = [device, f"{seconds:.3f}s", f"{row['parameters'] / 1e6:.3f}M"]
    if row["method"] == "general":
        return ["shipped", "none", *test, "Yes"]
    extra = f"Yes, {row['weights_bytes'] / 1000:.1f} kB of the clip"
    return [device, f"{row['fit_minutes']:.1f}min a clip", *test, extra]


def _cell(value: float | None, spec: str, is_best: bool) -> str:
    if value is None:
        return "n/a"
    return f"**{value:{spec}}**" if is_best else f"{value:{spec}}"


def _assemble(options: argparse.Namespace, failures: Sequence[str]) -> None:
    points = read_points(options.work)
    if not points:
        sys.exit(f"expected points in {options.work}, got none; run without --assemble first")
    points = current_points(points)
    rows = mean_rows(points)
    output: Path = options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    document: Mapping[str, Any] = {
        "benchmark": "vqm",
        "machine": machine(),
        "points": points,
        "means": rows,
        "failures": list(failures),
    }
    table = markdown(rows)
    text = json.dumps(document, indent=1).encode() + b"\n"
    write_atomic(output.with_name(output.name + ".json"), text)
    write_atomic(output.with_name(output.name + ".md"), table.encode())
    write_table(output.with_name(output.name + ".tsv"), _COLUMNS, [*points, *rows])
    print(table)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
