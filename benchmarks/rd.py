"""Rate and distortion of whole clips, the weights counted in the rate, against x265 itself.

    python benchmarks/rd.py CLIPS... --manifest clips.tsv --anchors FOLDER --work build/rd \\
        -o benchmarks/results/rd

Six families of points (see rd_points.py): x265 at the source size, as it comes and with our own
streams' options; x265 at other sizes, shown through swscale; the SR-UNet authors' released
networks; our base network; our network fitted to the clip. Each point is cached as a file in
--work, so that an interrupted run goes on where it was and a finer grid costs only what is new;
--known takes the points of an earlier table, which may be another machine's. At the end of every
run, and alone with --assemble, all cached points become -o's .tsv, .json and -bd.tsv and a picture
for each clip.

A failed point is reported and left out; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

from common import machine
from rd_cache import Point, read_points, read_tunings, restore_points
from rd_picture import draw
from rd_points import Maker
from rd_settings import FAMILIES, RD_METRICS, RdSettings, Task
from rd_tables import (
    BD_COLUMNS,
    LENGTHS,
    POINT_COLUMNS,
    bd_table,
    clip_curves,
    current_points,
    fit_minus_base,
    markdown,
    nets,
    of_net,
    titles_table,
)

from codecaux.atomic import write_atomic
from codecaux.device import Device, choose_device
from codecaux.encoder.objective import ABLATIONS, OBJECTIVES
from codecaux.encoder.settings import FitSettings
from codecaux.errors import CodecauxError, LpipsUnavailableError
from codecaux.ffmpeg import find_ffmpeg
from codecaux.ladders.rd import MIN_OVERLAP
from codecaux.lpips import Lpips, find_lpips
from codecaux.scores import ScoreTools
from codecaux.video import SCALES

_DEFAULT_CRFS = (20.0, 24.0, 28.0, 32.0, 36.0)
_DEFAULT_POINTS = {
    Fraction(2): (20.0, 24.0, 28.0, 32.0),
    Fraction(3, 2): (22.0, 26.0, 30.0),
    Fraction(1): (24.0, 28.0, 32.0),
}


def main() -> int:
    options = _parse()
    failures: list[str] = []
    if options.known is not None:
        print(f"{restore_points(options.known, options.work)} points taken from {options.known}")
    if not options.assemble:
        failures = _run(options)
    _assemble(options, failures)
    return 1 if failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--families", type=_families, help="a,b,c  [all; anchor with --anchors]")
    parser.add_argument("--only", help="one of the clips, by its name without suffix")
    parser.add_argument("--crfs", type=_numbers, default=_DEFAULT_CRFS, help="of x265's own points")
    parser.add_argument(
        "--points", type=_points, action="append", help="SCALE:CRF,CRF,... of anchor, base and fit"
    )
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--x265-params", type=_pairs, default=(), help="name=value:name=value")
    parser.add_argument("--net", default="light")
    parser.add_argument("--steps", type=int, help="of a fit")
    parser.add_argument("--minutes", type=float, help="of a fit, instead of steps")
    parser.add_argument(
        "--objective",
        choices=sorted(OBJECTIVES | ABLATIONS),
        default=FitSettings().objective,
        help="of a fit",
    )
    parser.add_argument(
        "--priced-for", type=float, default=0.0, help="seconds of the title that a fit is for"
    )
    parser.add_argument("--anchors", type=Path, help="folder of the authors' networks")
    parser.add_argument("--manifest", type=Path, help="table with the columns file and split")
    parser.add_argument("--allow-training", action="store_true")
    parser.add_argument("--lpips-frames", type=int, default=12)
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="of x265 and of VMAF")
    parser.add_argument("--work", type=Path, default=Path("build/rd"))
    parser.add_argument("--known", type=Path, help="rd.py's JSON: its points need not be made")
    parser.add_argument("--assemble", action="store_true", help="make no points")
    parser.add_argument("-o", "--output", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    if options.families is None:
        has_anchors = options.assemble or options.anchors is not None
        options.families = tuple(n for n in FAMILIES if n != "anchor" or has_anchors)
    if "anchor" in options.families and options.anchors is None and not options.assemble:
        parser.error("expected --anchors FOLDER for the family anchor, or --families without it")
    if not options.clips and not options.assemble:
        parser.error("expected clips, or --assemble")
    return options


def _families(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = set(names) - set(FAMILIES)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(FAMILIES)}, got {text}")
    return names


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def _points(text: str) -> tuple[Fraction, tuple[float, ...]]:
    scale, _, crfs = text.partition(":")
    if Fraction(scale) not in SCALES:
        raise argparse.ArgumentTypeError(f"expected a scale of 2, 1.5 or 1, got {scale}")
    return Fraction(scale), _numbers(crfs)


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (part.partition("=") for part in text.split(":"))
    return tuple((name, value) for name, _, value in pairs)


def _settings(options: argparse.Namespace) -> RdSettings:
    return RdSettings(
        work=options.work,
        families=options.families,
        crfs=options.crfs,
        points=dict(options.points) if options.points else _DEFAULT_POINTS,
        preset=options.preset,
        x265_params=options.x265_params,
        net=options.net,
        fit=FitSettings(steps=options.steps, minutes=options.minutes, objective=options.objective),
        priced_for=options.priced_for,
        anchors=options.anchors,
        lpips_weights=options.lpips_weights,
        lpips_frames=options.lpips_frames,
        threads=options.threads,
    )


def _run(options: argparse.Namespace) -> list[str]:
    """Make what is missing; the failures, a line each."""
    settings, device = _settings(options), choose_device(options.device)
    splits = read_splits(options.manifest)
    clips = [clip for clip in options.clips if options.only in (None, clip.stem)]
    for clip in clips:
        check_split(clip, splits.get(clip.name), allow_training=options.allow_training)
    tools = ScoreTools(
        find_ffmpeg(),
        _lpips(options.lpips_weights, device),
        lpips_max_frames=settings.lpips_frames,
        threads=settings.threads or None,
    )
    failures: list[str] = []
    for clip in clips:
        maker = Maker(clip, splits.get(clip.name, "unknown"), settings, tools, device)
        for group in maker.missing():
            failures += _make(maker, clip, group)
    return failures


def check_split(clip: Path, split: str | None, *, allow_training: bool) -> None:
    """What a base may have been trained on says nothing about what it does for others."""
    if split != "test" and not allow_training:
        sys.exit(
            f"expected test clips only, got {clip.name} of the split {split or 'unknown'!r}; name "
            "the splits with --manifest, or allow others with --allow-training"
        )
    if not clip.is_file():
        sys.exit(f"expected a file at {clip}, got none")


def _lpips(weights: Path | None, device: Device) -> Lpips | None:
    try:
        return find_lpips("alex", explicit=weights).to(device.torch_device)
    except LpipsUnavailableError as error:
        print(f"without LPIPS: {error}", file=sys.stderr)
        return None


def _make(maker: Maker, clip: Path, group: Sequence[Task]) -> list[str]:
    """One pass over one stream. Where it fails for several families, each has a try alone."""
    first = group[0]
    families = "+".join(task.family for task in group)
    name = f"{clip.stem} {families} {first.scale}x CRF {first.crf:g}"
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        maker.make(group)
    except (CodecauxError, RuntimeError, ValueError, OSError) as error:
        if len(group) > 1:
            return [line for task in group for line in _make(maker, clip, [task])]
        traceback.print_exc()
        return [f"{name}: {type(error).__name__}: {error}"]
    return []


def _assemble(options: argparse.Namespace, failures: Sequence[str]) -> None:
    """From all cached points: OUTPUT.tsv, OUTPUT-bd.tsv, OUTPUT.json, OUTPUT/CLIP.png."""
    points = current_points(read_points(options.work))
    if not points:
        sys.exit(f"expected points in {options.work}, got none; run without --assemble first")
    output: Path = options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    clips = list(dict.fromkeys(point["clip"] for point in points))
    by_clip = {clip: [p for p in points if p["clip"] == clip] for clip in clips}
    bd_rows, gains = bd_table(points), fit_minus_base(points)
    document = {
        "benchmark": "rd",
        "machine": machine() | {name: metadata.version(name) for name in ("bjontegaard", "numpy")},
        "min_overlap": MIN_OVERLAP,
        "tunings": read_tunings(options.work),
        "points": points,
        "hulls": {clip: _hulls(its) for clip, its in by_clip.items()},
        "bd_rates": bd_rows,
        "fit_minus_base": gains,
        "failures": list(failures),
    }
    write_atomic(_with_suffix(output, ".json"), json.dumps(document, indent=1).encode() + b"\n")
    write_table(_with_suffix(output, ".tsv"), POINT_COLUMNS, points)
    write_table(_with_suffix(output, "-bd.tsv"), BD_COLUMNS, bd_rows)
    for clip, its in by_clip.items():
        draw(its, output / f"{clip}.png")
    print(markdown(bd_rows, gains))
    for net in nets(points):
        its = of_net(points, net)
        for scale, crf in sorted({(p["scale"], p["crf"]) for p in its if p["family"] == "fit"}):
            table = titles_table(its, scale, crf)
            print(f"\nFitted, {net}, at scale {scale}, CRF {crf:g}:\n\n{table}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)


def _hulls(points: Sequence[Point]) -> dict[str, Any]:
    """Length -> metric -> curve -> its points; quality as compared, LPIPS negated."""
    return {
        length: {
            metric: {
                name: [asdict(point) for point in curve]
                for name, curve in clip_curves(points, metric, length).items()
            }
            for metric in RD_METRICS
        }
        for length in LENGTHS
    }


def _with_suffix(output: Path, suffix: str) -> Path:
    return output.with_name(output.name + suffix)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    write_atomic(path, text.getvalue().encode())


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read_splits(manifest: Path | None) -> dict[str, str]:
    """File name -> split, from a table of tab-separated values."""
    if manifest is None:
        return {}
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {Path(row["file"]).name: row["split"] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
