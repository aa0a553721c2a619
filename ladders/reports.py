"""A curve as data: one JSON object, one CSV table. The NDJSON result says the same."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from codecaux import __version__
from codecaux.ladders.commands import encode_command, free_outputs
from codecaux.ladders.curve import CURVE_METRICS, Curve
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.rd import BdRate
from codecaux.scores import LOWER_IS_BETTER

__all__ = ["curve_csv", "curve_fields", "point_fields", "title_fields"]


def curve_fields(curve: Curve, prober: Prober) -> dict[str, Any]:
    """Everything of a curve, plain JSON types: docs/json-output.md, "Result of curve"."""
    marked = {id(point): True for point in (*curve.hull, *curve.x265_hull)}
    points = [
        point_fields(point, curve.pool)
        | {"is_on_hull": id(point) in marked, "is_chosen": point is curve.chosen}
        for point in (*curve.points, *curve.x265_points)
    ]
    probe = Probe(curve.chosen.crf, curve.chosen.scale)
    settings = prober.final_settings(probe, *free_outputs(str(curve.title.path)))
    return {
        "codecaux_version": __version__,
        "title": title_fields(curve),
        "metric": curve.metric,
        "pool": curve.pool,
        "device": prober.device.description,
        "points": points,
        "bd_rates": {m: _bd_fields(m, found) for m, found in curve.bd_rates.items()},
        "chosen": point_fields(curve.chosen, curve.pool) | {"command": encode_command(settings)},
        "final": None if curve.final is None else point_fields(curve.final, curve.pool),
        "probe_error": {m: curve.error(m) for m in CURVE_METRICS if curve.error(m) is not None},
        "failures": [
            {"label": label, "kind": f.kind, "exit_code": f.exit_code, "message": f.message}
            for label, f in curve.failures.items()
        ],
        "num_cached": curve.num_cached,
    }


def title_fields(curve: Curve) -> dict[str, Any]:
    """Which title, and what of it was looked at."""
    title = curve.title
    return {
        "path": str(title.path),
        "width": title.width,
        "height": title.height,
        "num_frames": title.num_frames,
        "duration_seconds": title.duration_seconds,
        "sample_seconds": title.sample_seconds,
        "ranges": [list(pair) for pair in title.ranges],
    }


def point_fields(point: OperatingPoint, pool: str = "mean") -> dict[str, Any]:
    """An operating point, its scores pooled in one way."""
    scores = {
        name: {metric: point.score(metric, pool, plain=plain) for metric in CURVE_METRICS}
        for name, plain in (("bicubic", True), ("enhanced", False))
    }
    return {
        "family": point.family,
        "crf": float(point.crf),
        "scale": float(point.scale),
        "net": point.net,
        "coded_width": point.coded_width,
        "coded_height": point.coded_height,
        "stream_kbps": point.stream_kbps,
        "weights_bytes": point.rate.weights_bytes,
        "weights_kbps": point.weights_kbps,
        "total_kbps": point.total_kbps,
        "started_from_crf": point.started_from,
        "scores": scores,
    }


def _bd_fields(metric: str, found: BdRate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    sign = -1 if metric in LOWER_IS_BETTER else 1
    low, high = sorted((sign * found.low, sign * found.high))
    return {"percent": found.percent, "quality_low": low, "quality_high": high}


def curve_csv(fields: Mapping[str, Any]) -> bytes:
    """One row a point, of :func:`curve_fields`' ``points``; UTF-8, comma, with a header."""
    rows = []
    for point in fields["points"]:
        row = {key: value for key, value in point.items() if key != "scores"}
        for name, scores in point["scores"].items():
            row |= {f"{name}_{metric}": value for metric, value in scores.items()}
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
