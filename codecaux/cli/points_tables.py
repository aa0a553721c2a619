"""Tables of operating points, made of the fields that --json says too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codecaux.cli.tables import (
    MISSING,
    RATE_COLUMNS,
    SCORE_COLUMNS,
    Column,
    Grid,
    Values,
    values_grid,
)

__all__ = ["bd_grid", "error_grid", "point_name", "points_grid"]

_PICTURE_COLUMNS = tuple(column for column in SCORE_COLUMNS if column.group == "scores")
_PLAIN_COLUMNS = (
    Column("plain v1", "plain_vmaf_v1", ".2f", "plain"),
    Column("plain NEG", "plain_vmaf_v061_neg", ".2f", "plain"),
    Column("plain LPIPS", "plain_lpips", ".4f", "plain"),
)
_COLUMNS = (*RATE_COLUMNS, *_PICTURE_COLUMNS, *_PLAIN_COLUMNS)


def point_name(point: Mapping[str, Any]) -> str:
    """CRF and scale, and a mark: > chosen, + on its hull."""
    mark = ">" if point.get("is_chosen") else "+" if point.get("is_on_hull") else " "
    name = f"x265 CRF {point['crf']:g}"
    if point["family"] != "x265":
        name = f"CRF {point['crf']:g} scale {point['scale']:.3g}"
    return f"{mark} {name}".lstrip()


def points_grid(points: Sequence[Mapping[str, Any]]) -> Grid:
    """A row for each point, by scale and CRF as they come; missing columns are left out."""
    rows = {point_name(point): _values(point) for point in points}
    columns = [c for c in _COLUMNS if any(row[c.key] is not None for row in rows.values())]
    cells = [
        (name, tuple(column.text(row[column.key]) for column in columns))
        for name, row in rows.items()
    ]
    return Grid(tuple(columns), tuple(cells), "> chosen, + hull")


def _values(point: Mapping[str, Any]) -> dict[str, float | None]:
    values: dict[str, float | None] = {c.key: point[c.key] for c in RATE_COLUMNS}
    values |= {c.key: point["scores"]["enhanced"][c.key] for c in _PICTURE_COLUMNS}
    plain = point["scores"]["bicubic"]
    is_ours = point["family"] != "x265"
    for column in _PLAIN_COLUMNS:
        values[column.key] = plain[column.key.removeprefix("plain_")] if is_ours else None
    return values


def bd_grid(bd_rates: Mapping[str, Mapping[str, Any] | None]) -> Grid:
    """One row: per cent by metric, a dash where the curves do not overlap."""
    columns = [column for column in _PICTURE_COLUMNS if column.key in bd_rates]
    cells = []
    for column in columns:
        found = bd_rates[column.key]
        cells.append(MISSING if found is None else format(found["percent"], "+.1f"))
    return Grid(tuple(columns), (("BD-rate %", tuple(cells)),))


def error_grid(probe: Mapping[str, Any], final: Mapping[str, Any]) -> Grid:
    """Probe, final, and their difference."""
    rows: dict[str, Values] = {}
    for name, point in (("probe", probe), ("whole title", final)):
        rows[name] = {k: v for k, v in _values(point).items() if not k.startswith("plain_")}
    known = {key for row in rows.values() for key, value in row.items() if value is not None}
    columns = [c for c in (*RATE_COLUMNS, *_PICTURE_COLUMNS) if c.key in known]
    return values_grid(columns, rows)
