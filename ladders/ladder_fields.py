"""A ladder as data: one JSON object, which the report, the table and ``--json`` are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codecaux import __version__
from codecaux.ladderindex import LadderIndex
from codecaux.ladders.compare import (
    EqualTop,
    RatedRung,
    Versus,
    compare_apple,
    compare_x265,
)
from codecaux.ladders.curve import CURVE_METRICS
from codecaux.ladders.finals import FinalRung
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.reports import point_fields

if TYPE_CHECKING:
    from codecaux.ladders.ladder import Ladder, Plan

__all__ = ["REPORT_NAMES", "ladder_fields", "rated_rungs", "storage", "write_reports"]

REPORT_NAMES = ("report.html", "report.json")


def write_reports(ladder: Ladder, folder: Path) -> None:
    """``report.html`` and ``report.json`` into ``folder``, which is not the final one yet."""
    from codecaux.ladders.report import report_html

    fields = ladder_fields(ladder)
    text = json.dumps(fields, indent=1, allow_nan=False) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8", newline="\n")
    html = report_html(fields, ladder.thumbnails)
    (folder / "report.html").write_text(html, encoding="utf-8", newline="\n")


def ladder_fields(ladder: Ladder) -> dict[str, Any]:
    """Everything of a ladder, plain JSON types: docs/json-output.md, "Result of ladder"."""
    plan, title = ladder.plan, ladder.title
    versus = compare_x265(rated_rungs(ladder), plan.plain)
    apple, equal_top = compare_apple(
        title.height, rated_rungs(ladder), plan.rated(), plan.plain, ladder.wanted.quality_step
    )
    seconds = title.duration_seconds
    return {
        "codecaux_version": __version__,
        "title": {
            "name": title.path.name,
            "width": title.width,
            "height": title.height,
            "fps": float(title.fps),
            "num_frames": title.num_frames,
            "duration_seconds": seconds,
            "sample_seconds": title.sample_seconds,
        },
        "metric": plan.metric,
        "pool": plan.pool,
        "net": ladder.net,
        "device": ladder.device,
        "segment_seconds": float(ladder.wanted.segment_seconds),
        "rungs": [
            _rung_fields(rung, ladder, beside)
            for rung, beside in zip(ladder.rungs, versus, strict=True)
        ],
        "others": [_other_fields(entry) for entry in _others(ladder.files.index)],
        "points": _points_fields(plan),
        "plain_hull": [{"kbps": p.kbps, "quality": p.quality} for p in plan.plain],
        "storage": storage(ladder.rungs, versus, seconds),
        "apple": {
            "rungs": [asdict(rung) for rung in apple],
            "equal_top": None if equal_top is None else _equal_top_fields(equal_top, seconds),
        },
        "folder_bytes": _folder_bytes(ladder.files.index),
        "failures": [
            {"label": label, "kind": f.kind, "exit_code": f.exit_code, "message": f.message}
            for label, f in plan.failures.items()
        ],
        "num_cached": plan.num_cached,
        "num_probes": len(plan.points) + len(plan.x265_points),
        "probes_seconds": sum(p.seconds.get("all", 0.0) for p in _all_points(plan)),
        "seconds": dict(ladder.seconds),
    }


def rated_rungs(ladder: Ladder) -> list[RatedRung]:
    """The finished rungs as the comparisons take them."""
    plan, result = ladder.plan, []
    for rung in ladder.rungs:
        quality = rung.point.quality(plan.metric, plan.pool)
        assert quality is not None, "chosen on a metric that every rung has"
        result.append(RatedRung(rung.name, rung.point.total_kbps, quality))
    return result


def storage(rungs: Sequence[FinalRung], versus: Sequence[Versus], seconds: float) -> dict[str, Any]:
    """Bytes of all rungs, a shared weights file once; and of those that x265's hull is as good as,
    beside its bytes at equal quality.
    """
    comparable = [
        rung for rung, beside in zip(rungs, versus, strict=True) if beside.x265_kbps is not None
    ]
    x265_bytes = sum(beside.x265_kbps or 0.0 for beside in versus) * seconds * 125
    ours = sum(_bytes(comparable))
    saved = 100 * (1 - ours / x265_bytes) if x265_bytes else None
    streams, weights = _bytes(rungs)
    return {
        "stream_bytes": streams,
        "weights_bytes": weights,
        "total_bytes": streams + weights,
        "num_compared": len(comparable),
        "compared_bytes": ours,
        "x265_bytes": x265_bytes,
        "saved_percent": saved,
    }


def _bytes(rungs: Sequence[FinalRung]) -> tuple[int, int]:
    """Of the streams, and of the weights files that they use, each once."""
    weights = {rung.weights_of: rung.point.rate.weights_bytes for rung in rungs}
    return sum(rung.point.rate.stream_bytes for rung in rungs), sum(weights.values())


def _equal_top_fields(found: EqualTop, seconds: float) -> dict[str, Any]:
    return {
        "quality": found.quality,
        "apple_bytes": found.apple_kbps * seconds * 125,
        "ours_bytes": found.ours_kbps * seconds * 125,
        "saved_percent": found.saved_percent,
    }


# ------------------------------------------------------------------------------------------- rungs


def _rung_fields(rung: FinalRung, ladder: Ladder, beside: Versus) -> dict[str, Any]:
    entry = ladder.entries[rung.name]
    plan, probe = ladder.plan, rung.foretold.point
    errors = {}
    for metric in CURVE_METRICS:
        said, found = (p.score(metric, plan.pool) for p in (probe, rung.point))
        if said is not None and found is not None:
            errors[metric] = said - found
    return point_fields(rung.point, plan.pool) | {
        "name": rung.name,
        "folder": entry.folder,
        "codecs": entry.codecs,
        "peak_bits_per_second": entry.peak_bits_per_second,
        "average_bits_per_second": entry.average_bits_per_second,
        "weights_of": rung.weights_of,
        "own_weights_bytes": rung.own_bytes,
        "probe_total_kbps": probe.total_kbps,
        "probe_error": errors,
        "x265_kbps": beside.x265_kbps,
        "saved_percent": beside.saved_percent,
    }


def _others(index: LadderIndex) -> list[Any]:
    """What the folder holds beside our rungs: the fallback and the sound."""
    return [rung for rung in index.rungs if rung.stream is None] + list(index.audio)


def _other_fields(entry: Any) -> dict[str, Any]:
    return {
        "folder": entry.folder,
        "codecs": entry.codecs,
        "average_bits_per_second": entry.average_bits_per_second,
        "segment_bytes": entry.segment_bytes,
    }


def _folder_bytes(index: LadderIndex) -> int:
    """Of all segments and weights: what a server keeps, playlists and init segments aside."""
    pictures = sum(rung.segment_bytes for rung in index.rungs)
    sound = sum(audio.segment_bytes for audio in index.audio)
    return pictures + sound + sum(weights.bytes for weights in index.weights)


# ------------------------------------------------------------------------------------------ points


def _all_points(plan: Plan) -> tuple[OperatingPoint, ...]:
    return (*plan.points, *plan.x265_points)


def _points_fields(plan: Plan) -> list[Mapping[str, Any]]:
    hull = {id(point) for point in plan.hull}
    chosen = {id(rung.point) for rung in plan.rungs}
    return [
        point_fields(point, plan.pool)
        | {"is_on_hull": id(point) in hull, "is_chosen": id(point) in chosen}
        for point in _all_points(plan)
    ]
