"""What one change of a setting is worth: BD-rate against the default, on clips for tuning.

    python benchmarks/levers.py CLIPS... --family base --variants psy-rd-0 --crfs 20,26,32 \\
        --work build/levers -o benchmarks/results/levers

Every variant is one entry of VARIANTS below. Its curve is that of the base network alone (--family
base: cheap, for what happens before the network; its "default" is x265 as it comes and bicubic
down-scaling), of fits (--family fit; its "default" is the product's), both at one scale, or of x265
alone at the source's size (--family x265: what a change gives anybody). It is compared with the
variant "default" at equal quality, per metric; the weights count as for a title of 10 s. Points are
cached as rd.py's are. Never run it on test clips: what is chosen here must not have seen them
(--manifest refuses them).
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from common import write_results
from rd_cache import Point
from rd_points import Maker
from rd_settings import RdSettings

from codecaux.device import choose_device
from codecaux.encoder.settings import FitSettings
from codecaux.ffmpeg import find_ffmpeg
from codecaux.ladders.rd import RdPoint, bd_rate, pareto
from codecaux.lpips import find_lpips
from codecaux.measure import ScoreTools
from codecaux.scores import LOWER_IS_BETTER

METRICS = ("vmaf_v1", "vmaf_v061_neg", "lpips", "psnr_y_db")
_RATE = "total_kbps_if_10_s"

# Name -> what differs from the defaults: fields of RdSettings, x265's parameters, the fit's fields.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "psy-rd-1": {"x265": {"psy-rd": "1"}},
    "psy-rd-0": {"x265": {"psy-rd": "0"}},
    "aq-off": {"x265": {"aq-mode": "0"}},
    "aq-3": {"x265": {"aq-mode": "3"}},
    "aq-half": {"x265": {"aq-strength": "0.5"}},
    "psy-rd-1-aq-half": {"x265": {"psy-rd": "1", "aq-strength": "0.5"}},
    "no-sao": {"x265": {"sao": "0"}},
    "deblock-low": {"x265": {"deblock": "-3,-3"}},
    "no-deblock-no-sao": {"x265": {"deblock": "0", "sao": "0"}},
    "psy-rd-0-aq-off": {"x265": {"psy-rd": "0", "aq-mode": "0"}},
    "qcomp-0.7": {"x265": {"qcomp": "0.7"}},
    "cutree-off": {"x265": {"cutree": "0"}},
    "lanczos": {"downscale": "lanczos"},
    "area": {"downscale": "area"},
    "spline": {"downscale": "spline"},
    "lanczos-psy-rd-1": {"downscale": "lanczos", "x265": {"psy-rd": "1"}},
    "lanczos-psy-rd-1-aq-half": {
        "downscale": "lanczos",
        "x265": {"psy-rd": "1", "aq-strength": "0.5"},
    },
    "lanczos-psy-rd-0-aq-half": {
        "downscale": "lanczos",
        "x265": {"psy-rd": "0", "aq-strength": "0.5"},
    },
    "chroma-3": {"x265": {"cbqpoffs": "-3", "crqpoffs": "-3"}},
    "chroma-6": {"x265": {"cbqpoffs": "-6", "crqpoffs": "-6"}},
    "lanczos-psy-rd-1-aq-half-chroma-4": {
        "downscale": "lanczos",
        "x265": {"psy-rd": "1", "aq-strength": "0.5", "cbqpoffs": "-4", "crqpoffs": "-4"},
    },
    "spline-psy-rd-1-aq-half-chroma-4": {
        "downscale": "spline",
        "x265": {"psy-rd": "1", "aq-strength": "0.5", "cbqpoffs": "-4", "crqpoffs": "-4"},
    },
    "sinc-psy-rd-1-aq-half-chroma-4": {
        "downscale": "sinc",
        "x265": {"psy-rd": "1", "aq-strength": "0.5", "cbqpoffs": "-4", "crqpoffs": "-4"},
    },
    "steps-half": {"fit": {"steps_factor": 0.5}},
    "steps-double": {"fit": {"steps_factor": 2.0}},
    "rate-2e-3": {"fit": {"learning_rate": 2e-3}},
    "rate-1e-3": {"fit": {"learning_rate": 1e-3}},
    "rounding-rate-2e-3": {"fit": {"rounding_learning_rate": 2e-3}},
    "rounding-half": {"fit": {"rounding_fraction": 0.5}},
    "no-rate-term": {"fit": {"rate_weight": 0.0}},
    "rate-term-3": {"fit": {"rate_weight": 3.0}},
    "fidelity": {"fit": {"objective": "fidelity"}},
    "perceptual": {"fit": {"objective": "perceptual"}},
    "batch-16": {"fit": {"batch": 16, "steps_factor": 0.5}},
    "batch-4": {"fit": {"batch": 4, "steps_factor": 2.0}},
}


def main() -> int:
    options = _parse()
    splits = _splits(options.manifest)
    device = choose_device(options.device)
    lpips = find_lpips("alex").to(device.torch_device)
    tools = ScoreTools(find_ffmpeg(), lpips, lpips_max_frames=8, threads=options.threads or None)
    rows: list[dict[str, Any]] = []
    for clip in options.clips:
        if splits.get(clip.name) == "test":
            sys.exit(f"expected clips for tuning, got {clip.name} of the split test")
        curves = {}
        for name in options.variants:
            maker = Maker(
                clip, splits.get(clip.name, "unknown"), _settings(name, options), tools, device
            )
            curves[name] = _points(maker, f"{clip.stem} {name}")
        rows += [_row(clip.stem, name, curves) for name in options.variants]
    rows += [_mean(name, rows) for name in options.variants]
    about = {"family": options.family, "scale": _scale(options), "crfs": options.crfs}
    about |= {"net": options.net, "steps": options.steps}
    write_results(options.output, "levers", about, [about | row for row in rows])
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--variants", type=_names, default=tuple(VARIANTS))
    parser.add_argument("--family", choices=("base", "fit", "x265"), default="base")
    parser.add_argument("--scale", type=Fraction, default=Fraction(2))
    parser.add_argument("--crfs", default="20,26,32")
    parser.add_argument("--net", default="light")
    parser.add_argument("--steps", type=int, default=600, help="of a fit")
    parser.add_argument("--manifest", type=Path, help="table with the columns file and split")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("build/levers"))
    parser.add_argument("-o", "--output", type=Path, help="without suffix")
    return parser.parse_args()


def _scale(options: argparse.Namespace) -> str:
    return "1" if options.family == "x265" else str(options.scale)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = set(names) - set(VARIANTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(VARIANTS)}, got {unknown}")
    return ("default", *(name for name in names if name != "default"))


def _splits(manifest: Path | None) -> dict[str, str]:
    if manifest is None:
        return {}
    with manifest.open(newline="", encoding="utf-8") as stream:
        return {
            Path(row["file"]).name: row["split"] for row in csv.DictReader(stream, delimiter="\t")
        }


def _settings(name: str, options: argparse.Namespace) -> RdSettings:
    change = VARIANTS[name]
    fit = dict(change.get("fit", {}))
    is_stream = options.family != "fit"
    crfs = tuple(float(crf) for crf in options.crfs.split(","))
    steps = round(options.steps * fit.pop("steps_factor", 1.0))
    return RdSettings(
        work=options.work / name,
        families=(options.family,),
        crfs=crfs,
        points={options.scale: crfs},
        x265_params=tuple(change.get("x265", {}).items()),
        # What happens before the network is measured from x265 as it comes and bicubic.
        downscale=change.get("downscale", "bicubic" if is_stream else "lanczos"),
        tuning="none" if is_stream else "network",
        net=options.net,
        fit=replace(FitSettings(steps=steps), **fit),
        lpips_frames=8,
        threads=options.threads,
    )


def _points(maker: Maker, name: str) -> list[Point]:
    for group in maker.missing():
        print(f"{name} CRF {group[0].crf:g} ...", file=sys.stderr, flush=True)
        maker.make(group)
    return maker.points()


def _row(clip: str, name: str, curves: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    row: dict[str, Any] = {"clip": clip, "variant": name}
    for metric in METRICS:
        found = bd_rate(_curve(curves["default"], metric), _curve(curves[name], metric))
        row[metric] = None if found is None else found.percent
    points = curves[name]
    row["weights_bytes"] = statistics.fmean(point["weights_bytes"] for point in points)
    row["fit_minutes"] = statistics.fmean(point.get("fit_minutes") or 0.0 for point in points)
    return row


def _curve(points: Sequence[Point], metric: str) -> list[RdPoint]:
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return pareto(RdPoint(point[_RATE], sign * point[metric]) for point in points)


def _mean(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    its = [row for row in rows if row["variant"] == name]
    row: dict[str, Any] = {"clip": "mean", "variant": name}
    for column in (*METRICS, "weights_bytes", "fit_minutes"):
        values = [r[column] for r in its if r[column] is not None]
        row[column] = statistics.fmean(values) if values else None
    return row


if __name__ == "__main__":
    sys.exit(main())
