"""Whole ladders of real clips: storage against Apple's fixed ladder and x265's hull, probe errors.

    python benchmarks/ladder.py CLIPS... --segment 1 -o benchmarks/results/ladder.json

For each clip: the grid is probed; what Apple's top rung is worth on x265's own hull becomes the top
of our ladder (where our hull reaches it), so that both end at one quality; the ladder is made and
read back; a small curve is made twice. Probes, finished ladders and times stay in --work: killed
and started again it goes on where it was. OUTPUT is JSON with the machine, its .tsv has a row for
each clip, OUTPUT-rungs.tsv one for each rung.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from common import write_results

from codecaux.atomic import write_atomic
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import CodecauxError
from codecaux.events import drain
from codecaux.ladders.cache import Cache
from codecaux.ladders.compare import APPLE_HEVC, SAME_TOP, compare_apple
from codecaux.ladders.curve import make_curve, open_prober
from codecaux.ladders.finals import on_the_grid
from codecaux.ladders.ladder import make_ladder, plan_ladder
from codecaux.ladders.ladder_settings import LadderSettings, parse_rates
from codecaux.ladders.settings import CurveSettings, SamplingSettings, parse_crfs, parse_scales
from codecaux.scores import POOLS

# Apple's ladder is cut at heights up to the source's: below this there is only one rung of it.
_LEAST_HEIGHT = APPLE_HEVC[1][0]
# Options that decide where things lie, not what they are.
_PATHS = ("clips", "lpips_weights", "work", "output")


def main() -> int:
    options = _parse()
    assert options.pool in POOLS
    found: list[dict[str, Any]] = []
    failures = []
    for clip in options.clips:
        print(f"{clip.stem} ...", file=sys.stderr, flush=True)
        try:
            found.append(_Clip(clip, options).result())
        except CodecauxError as error:
            traceback.print_exc()
            failures.append(f"{clip.stem}: {type(error).__name__}: {error}")
    if found:
        asked = {name: value for name, value in vars(options).items() if name not in _PATHS}
        settings = {name: str(value) for name, value in asked.items()}
        write_results(options.output, "ladder", settings, [_row(result) for result in found])
        if options.output is not None:
            _write_rungs(options.output.with_name(options.output.stem + "-rungs.tsv"), found)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--crf", type=parse_crfs, default=LadderSettings().crfs)
    parser.add_argument("--scales", type=parse_scales, default=LadderSettings().scales)
    parser.add_argument("--segment", type=Fraction, default=Fraction(4), help="seconds")
    parser.add_argument("--step", type=float, help="VMAF between rungs")
    parser.add_argument("--rungs", type=int)
    parser.add_argument("--rates", type=parse_rates, default=())
    parser.add_argument("--pool", default="mean")
    parser.add_argument("--net", default="light")
    parser.add_argument("--steps", type=int, help="of a fit")
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--objective", default="balanced")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--lpips-weights", type=Path)
    parser.add_argument("--sample-seconds", type=float, default=SamplingSettings().seconds)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--curve-crf", type=parse_crfs, default=(24.0, 30.0, 36.0))
    parser.add_argument("--curve-scales", type=parse_scales, default=(Fraction(2),))
    parser.add_argument("--no-curve", action="store_true", help="do not time a second curve")
    parser.add_argument("--work", type=Path, default=Path("build/ladder"))
    parser.add_argument("-o", "--output", type=Path, help="JSON")
    return parser.parse_args()


class _Clip:
    """One clip's ladder and curve, and where their results are kept."""

    def __init__(self, clip: Path, options: argparse.Namespace) -> None:
        self.clip, self.options = clip, options
        self.folder = options.work / clip.stem
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cache = Cache.open(options.work / "probes")
        self.sampling = SamplingSettings(seconds=options.sample_seconds, count=options.samples)
        self.settings = EncodeSettings(
            input=str(clip),
            output=Path("rung.mp4"),
            weights=Path("rung.weights"),
            stream=StreamSettings(crf=24, preset=options.preset),
            net=options.net,
            fit=FitSettings(steps=options.steps, objective=options.objective),
            device=options.device,
            lpips_weights=options.lpips_weights,
        )

    def result(self) -> dict[str, Any]:
        """Everything of the clip, kept for the same question."""
        curve = None if self.options.no_curve else self._curve()
        wanted, top = self._wanted()
        ladder = self._ladder(wanted)
        return {"clip": self.clip.stem, "apple_top": top, "ladder": ladder, "curve": curve}

    def _wanted(self) -> tuple[LadderSettings, float | None]:
        """What is asked of the ladder: the quality of Apple's top rung as its own top."""
        options = self.options
        wanted = LadderSettings(
            crfs=options.crf,
            scales=options.scales,
            count=options.rungs,
            rates_kbps=options.rates,
            step=options.step,
            pool=options.pool,
            segment_seconds=options.segment,
            jobs=options.jobs,
        )
        prober = drain(open_prober(str(self.clip), self.settings, self.sampling, self.cache))
        settings = on_the_grid(self.settings, prober.title.fps, wanted.segment_seconds)
        plan = drain(plan_ladder(replace(prober, settings=settings), wanted))
        height = prober.title.height
        if height < _LEAST_HEIGHT:
            return wanted, None
        top = compare_apple(height, [], plan.rated(), plan.plain, wanted.quality_step)[1]
        quality = None if top is None else top.quality
        # A quality below the hull's worst point is no top for a ladder.
        is_inside = quality is not None and quality > plan.rated()[0].quality
        return (replace(wanted, top=quality) if is_inside else wanted), quality

    def _ladder(self, wanted: LadderSettings) -> dict[str, Any]:
        output = self.folder / "ladder"
        asked = {"settings": _plain(asdict(wanted)), "encode": _plain(asdict(self.settings))}
        known = _kept(self.folder / "ladder.json")
        if known is not None and known["asked"] == asked and output.is_dir():
            return dict(known["fields"])
        drain(self._made(wanted, output))
        fields = json.loads((output / "report.json").read_text(encoding="utf-8"))
        _keep(self.folder / "ladder.json", {"asked": asked, "fields": fields})
        return dict(fields)

    def _made(self, wanted: LadderSettings, output: Path) -> Any:
        work = output.with_name(output.name + ".codecaux-work")
        settings = replace(self.settings, overwrite=True, resume=work.exists())
        return make_ladder(
            str(self.clip), settings, wanted, output, sampling=self.sampling, cache=self.cache
        )

    def _curve(self) -> dict[str, float]:
        """Seconds of a curve and of the same once more.

        The first's are the sum over its points, each noted when it was made: so they are known
        though the run was interrupted, or part of it was made for something else.
        """
        options = self.options
        wanted = CurveSettings(
            crfs=options.curve_crf,
            scales=options.curve_scales,
            pool=options.pool,
            verify="never",
            jobs=options.jobs,
        )
        seconds = []
        for _ in range(2):
            started = time.monotonic()
            prober = drain(open_prober(str(self.clip), self.settings, self.sampling, self.cache))
            curve = drain(make_curve(prober, wanted))
            seconds.append(time.monotonic() - started)
        points = (*curve.points, *curve.x265_points)
        assert curve.num_cached == len(points), "a second curve made probes again"
        made = sum(point.seconds["all"] for point in points)
        return {"first_seconds": made, "second_seconds": seconds[1]}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _kept(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _keep(path: Path, value: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(value, indent=1).encode())


# ------------------------------------------------------------------------------------------ tables


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    """One clip. Storage is of pictures and weights; sound and containers are nobody's."""
    ladder, curve = result["ladder"], result["curve"]
    title, storage, metric = ladder["title"], ladder["storage"], ladder["metric"]
    seconds = title["duration_seconds"]
    apple = sum(rung["kbps"] for rung in ladder["apple"]["rungs"]) * seconds * 125
    errors = [abs(rung["probe_error"][metric]) for rung in ladder["rungs"]]
    best = ladder["rungs"][-1]["scores"]["enhanced"][metric]
    top = result["apple_top"]
    is_fair = top is not None and best >= top - SAME_TOP
    first = None if curve is None else curve["first_seconds"]
    second = None if curve is None else curve["second_seconds"]
    return {
        "clip": result["clip"],
        "width": title["width"],
        "height": title["height"],
        "seconds": seconds,
        "net": ladder["net"],
        "metric": metric,
        "rungs": len(ladder["rungs"]),
        "ours_bytes": storage["total_bytes"],
        "weights_bytes": storage["weights_bytes"],
        "ours_top": best,
        "apple_top": top,
        "apple_rungs": len(ladder["apple"]["rungs"]),
        "apple_bytes": apple,
        "saved_against_apple_percent": 100 * (1 - storage["total_bytes"] / apple)
        if is_fair
        else None,
        "compared_rungs": storage["num_compared"],
        "compared_bytes": storage["compared_bytes"],
        "x265_bytes": storage["x265_bytes"],
        "saved_against_x265_percent": storage["saved_percent"],
        "probe_error_mean": sum(errors) / len(errors),
        "probe_error_max": max(errors),
        "curve_first_seconds": first,
        "curve_second_seconds": second,
        "curve_second_percent": None if not first else 100 * (second or 0.0) / first,
        "probes_seconds": ladder["probes_seconds"],
        "rungs_seconds": ladder["seconds"]["rungs"],
        "device": ladder["device"],
    }


def _write_rungs(path: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """One row for each rung: its rates, its scores, its probe's error."""
    columns = ["clip", "rung", "coded_height", "crf", "stream_kbps", "weights_bytes", "weights_of"]
    columns += ["total_kbps", "peak_kbps", "metric", "plain", "enhanced", "lpips"]
    columns += ["probe_error", "probe_total_kbps", "x265_kbps", "saved_percent"]
    rows = []
    for result in found:
        metric = result["ladder"]["metric"]
        for rung in result["ladder"]["rungs"]:
            row = {"clip": result["clip"], "rung": rung["folder"], "metric": metric}
            row |= {name: rung[name] for name in columns if name in rung and name not in row}
            row["peak_kbps"] = rung["peak_bits_per_second"] / 1000
            row["plain"] = rung["scores"]["bicubic"][metric]
            row["enhanced"] = rung["scores"]["enhanced"][metric]
            row["lpips"] = rung["scores"]["enhanced"]["lpips"]
            row["probe_error"] = rung["probe_error"][metric]
            rows.append({name: _short(row[name]) for name in columns})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _short(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
