"""The README's tables of the rate-distortion benchmark, and the figures that its text quotes.

    python benchmarks/rd_summary.py benchmarks/results/rd.json [--readme README.md]

Prints both. With --readme the tables behind the marks ``<!-- rd: NAME -->`` of that file are
replaced; a test compares them with the committed results.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rd_cache import Point
from rd_settings import BICUBIC_SUFFIX
from rd_tables import (
    MEAN,
    Row,
    mean_change,
    nets,
    of_default_objective,
    of_net,
    priced_for,
    titles_table,
)

from codecaux.atomic import write_atomic
from codecaux.encoder.settings import FitSettings

__all__ = ["README_NET", "README_POINT", "SHOWN", "summary", "tables", "with_tables"]

SHOWN: Mapping[str, str] = {
    "vmaf_v1": "VMAF v1",
    "vmaf_v061": "v0.6.1",
    "vmaf_v061_neg": "NEG",
    "lpips": "LPIPS",
    "psnr_y_db": "PSNR-Y",
}
README_NET = "light"
README_POINT = ("2", 25.0)
HIGH_CRF = 28.0

# Name in the README -> curve, reference, length.
_MEANS: Mapping[str, tuple[str, str, str]] = {
    "**fitted, against x265**": ("fit light", "x265", "10 s"),
    "fitted, weights over the clip's own 1 to 5 s": ("fit light", "x265", "own"),
    "fitted, against x265's hull over sizes": ("fit light", "x265 over sizes", "10 s"),
    "fitted, against x265 with our options": ("fit light", "x265-tuned", "10 s"),
    "our base alone, no weights sent": ("base light", "x265", "own"),
    "x265 with our options, no network": ("x265-tuned", "x265", "own"),
    "the SR-UNet authors' own networks": ("anchor", "x265", "own"),
}
_BdRates = Mapping[tuple[str, ...], Row]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="rd.py's JSON")
    parser.add_argument("--readme", type=Path, help="file whose tables are replaced")
    options = parser.parse_args()
    document = json.loads(options.results.read_text(encoding="utf-8"))
    found = tables(document)
    print("\n\n".join([*found.values(), summary(document)]))
    if options.readme is not None:
        text = options.readme.read_text(encoding="utf-8")
        write_atomic(options.readme, with_tables(text, found).encode())
    return 0


# ----------------------------------------------------------------------------------------- tables


def tables(document: Mapping[str, Any]) -> dict[str, str]:
    """Name of the mark -> table in markdown."""
    bd_rates, light = _by_key(document["bd_rates"]), of_net(document["points"], README_NET)
    found = {
        "titles": titles_table(light, *README_POINT, {**SHOWN, "tof": "tOF"}),
        "means": _means(bd_rates, len(_clips(document))),
        "clips": _clip_by_clip(bd_rates, _clips(document)),
    }
    fits = _default_fits(document)
    return found | ({"nets": _net_by_net(fits)} if len(nets(fits)) > 1 else {})


def with_tables(text: str, found: Mapping[str, str]) -> str:
    """``text`` with the table behind each mark replaced; raises ValueError where a mark lacks."""
    for name, table in found.items():
        mark = re.escape(f"<!-- rd: {name} -->")
        text, count = re.subn(
            rf"({mark}\n\n)(?:\|[^\n]*\n)+", lambda match, new=table: f"{match[1]}{new}\n", text
        )
        if count != 1:
            raise ValueError(f"expected one table behind <!-- rd: {name} -->, got {count}")
    return text


def _by_key(rows: Sequence[Row]) -> _BdRates:
    keys = ("clip", "curve", "reference", "length", "metric")
    return {tuple(row[key] for key in keys): row for row in rows}


def _clips(document: Mapping[str, Any]) -> list[str]:
    return sorted({point["clip"] for point in document["points"]})


def _means(bd_rates: _BdRates, whole: int) -> str:
    lines = _head("")
    for name, curve in _MEANS.items():
        cells = [_cell(bd_rates.get((MEAN, *curve, metric)), whole) for metric in SHOWN]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _clip_by_clip(bd_rates: _BdRates, clips: Sequence[str]) -> str:
    lines = _head("fitted, 10 s, against x265")
    for clip in clips:
        cells = [_cell(bd_rates.get((clip, "fit light", "x265", "10 s", m)), 1) for m in SHOWN]
        lines.append(f"| {clip} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _net_by_net(fits: Sequence[Point]) -> str:
    """Mean gains over bicubic, where several nets were fitted to the same streams."""
    columns = ("at", "net", *SHOWN.values(), "weights", "largest")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for scale, crf in sorted({(fit["scale"], fit["crf"]) for fit in fits}):
        its = [fit for fit in fits if (fit["scale"], fit["crf"]) == (scale, crf)]
        streams = [{_stream(fit) for fit in of_net(its, net)} for net in nets(its)]
        common = set.intersection(*streams)
        its = [fit for fit in its if _stream(fit) in common]
        if its and len(streams) > 1:
            where = f"scale {scale}, CRF {crf:g}, {len(common)} clips"
            lines += [_net_line(where, net, of_net(its, net)) for net in nets(its)]
    return "\n".join(lines)


def _stream(fit: Point) -> tuple[str, int]:
    return fit["clip"], fit["stream_bytes"]


def _net_line(where: str, net: str, fits: Sequence[Point]) -> str:
    gains = [mean_change(fits, metric) for metric in SHOWN]
    sizes = [fit["weights_bytes"] / 1e3 for fit in fits]
    cells = [where, net, *gains, f"{statistics.fmean(sizes):.1f} kB", f"{max(sizes):.1f} kB"]
    return "| " + " | ".join(cells) + " |"


def _default_fits(document: Mapping[str, Any]) -> list[Point]:
    """Those of the default objective that were priced for the clip itself."""
    fits = [p for p in document["points"] if p["family"] == "fit" and not priced_for(p)]
    return of_default_objective(fits)


def _head(first: str) -> list[str]:
    return [f"| {first} | " + " | ".join(SHOWN.values()) + " |", "|---|" + "---|" * len(SHOWN)]


def _cell(row: Row | None, whole: int) -> str:
    if row is None or row["bd_rate_percent"] is None:
        return "-"
    count = f" ({row['clips']})" if row["clip"] == MEAN and row["clips"] < whole else ""
    return f"{row['bd_rate_percent']:+.1f}{count}"


# ---------------------------------------------------------------------------------------- summary


def summary(document: Mapping[str, Any]) -> str:
    """What the README's and the experiments' text say of the default objective, net by net."""
    fits, lines = _default_fits(document), []
    for net in nets(fits):
        its = of_net(fits, net)
        lines += [f"{net}:", "", *_groups(document, net), "", *_gains(document, net), ""]
        lines += [_weights(its), *_steadiness(its), *_versions(its), ""]
    return "\n".join(lines)


def _groups(document: Mapping[str, Any], net: str) -> list[str]:
    bd_rates, clips = _by_key(document["bd_rates"]), _clips(document)
    large = [clip for clip in clips if "1920x1080" in clip]
    groups = {"all": clips, "1080p": large, "smaller": [c for c in clips if c not in large]}
    lines = ["BD-rate of the fits against x265, 10 s, mean over the clips:"]
    for name, its in groups.items():
        keys = {m: [(clip, f"fit {net}", "x265", "10 s", m) for clip in its] for m in SHOWN}
        values = {m: [bd_rates[key] for key in keys[m] if key in bd_rates] for m in SHOWN}
        cells = [f"{SHOWN[m]} {_mean_percent(rows)}" for m, rows in values.items()]
        lines.append(f"  {name} ({len(its)}): " + ", ".join(cells))
    return lines


def _mean_percent(rows: Sequence[Row]) -> str:
    found = [row["bd_rate_percent"] for row in rows if row["bd_rate_percent"] is not None]
    if not found:
        return "-"
    return f"{statistics.fmean(found):+.1f} (worst {max(found):+.1f}; {len(found)})"


def _gains(document: Mapping[str, Any], net: str) -> list[str]:
    """Of the fit over its base at equal stream."""
    default = FitSettings().objective
    rows = [row for row in document["fit_minus_base"] if row["objective"] == default]
    rows = [row for row in rows if not row["priced_for"] and row["net"] == net]
    points = sorted({(row["scale"], row["crf"]) for row in rows})
    lines = ["Fit over base at equal CRF, mean VMAF v1 and LPIPS:", _gain("all", rows)]
    lines.append(_gain(f"CRF >= {HIGH_CRF:g}", [r for r in rows if r["crf"] >= HIGH_CRF]))
    for scale, crf in points:
        its = [row for row in rows if (row["scale"], row["crf"]) == (scale, crf)]
        lines.append(_gain(f"scale {scale}, CRF {crf:g}", its))
    return lines


def _gain(name: str, rows: Sequence[Row]) -> str:
    if not rows:
        return f"  {name} (0): -"
    v1 = statistics.fmean(row["vmaf_v1_gain"] for row in rows)
    lpips = statistics.fmean(row["lpips_gain_percent"] for row in rows)
    return f"  {name} ({len(rows)}): {v1:+.2f}, {lpips:+.1f} %"


def _weights(fits: Sequence[Point]) -> str:
    sizes = [fit["weights_bytes"] / 1e3 for fit in fits]
    mean = statistics.fmean(sizes)
    return f"Weights: {min(sizes):.1f} to {max(sizes):.1f} kB, mean {mean:.1f}, {len(sizes)} fits"


def _steadiness(fits: Sequence[Point]) -> list[str]:
    lines = ["tOF of the fit against the plainly shown stream's:"]
    for scale in sorted({fit["scale"] for fit in fits}):
        its = [fit for fit in fits if fit["scale"] == scale and fit.get("tof") is not None]
        changes = [100 * (fit["tof"] / fit["tof" + BICUBIC_SUFFIX] - 1) for fit in its]
        span = f"{min(changes):+.1f} to {max(changes):+.1f} %"
        lines.append(f"  scale {scale}: {statistics.fmean(changes):+.1f} %, {span}")
    return lines


def _versions(fits: Sequence[Point]) -> list[str]:
    """Whether the table is of one version: bases, learning rates and tunings that made it."""
    parts: Mapping[str, Callable[[Point], object]] = {
        "base": lambda fit: fit["base_id"],
        "learning rate": lambda fit: fit["settings"]["fit"]["learning_rate"],
        "tuning": lambda fit: ":".join("=".join(pair) for pair in fit["settings"]["tuning"]),
    }
    lines = ["Made with:"]
    for name, part in parts.items():
        values = [str(part(fit)) for fit in fits]
        counts = ", ".join(f"{value} ({values.count(value)})" for value in sorted(set(values)))
        lines.append(f"  {name}: {counts}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
