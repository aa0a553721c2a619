"""What one operating point saves against x265 at the same quality, by the points of rd.py."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from codecaux.errors import UsageError
from codecaux.ladders.rd import RdPoint, pareto, rate_at
from codecaux.scores import LOWER_IS_BETTER

SAVED_METRICS = ("vmaf_v1", "vmaf_v061_neg", "lpips", "psnr_y_db")


def read_x265(path: str | Path) -> dict[str, list[dict[str, str]]]:
    """Clip -> its x265 points at the source's size, of the TSV that rd.py writes."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["family"] == "x265"]
    return {clip: [r for r in rows if r["clip"] == clip] for clip in {r["clip"] for r in rows}}


def saved_percent(
    x265: Sequence[Mapping[str, str]], metric: str, quality: float, kbps: float
) -> float | None:
    """Rate in per cent of x265's at that quality, less 100 (below 0: fewer bits); None where x265's
    points do not reach so far.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    points = pareto(RdPoint(float(row["total_kbps"]), sign * float(row[metric])) for row in x265)
    try:
        return 100.0 * (kbps / rate_at(points, sign * quality) - 1.0)
    except UsageError:
        return None
