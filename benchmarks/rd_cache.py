"""Where rd.py keeps its points: one JSON file each in the folder points of its work folder."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from codecaux.atomic import write_atomic

__all__ = [
    "Point",
    "point_path",
    "read_points",
    "restore_points",
    "scale_text",
    "short_hash",
    "write_point",
]

Point: TypeAlias = dict[str, Any]


def point_path(
    work: Path, clip: str, family: str, scale: Fraction, crf: float, net: str, settings_hash: str
) -> Path:
    """Of a cached point; ``net`` may be empty. Equal paths are the same point made again."""
    name = f"{clip}.{family}.{scale_text(scale)}x.crf{crf:g}.{net or 'none'}.{settings_hash}.json"
    return work / "points" / name


def write_point(path: Path, point: Point) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(point, indent=1).encode() + b"\n")


def read_points(work: Path) -> list[Point]:
    """Every point cached in the work folder ``work``, in no order."""
    files = (work / "points").glob("*.json")
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def restore_points(table: Path, work: Path) -> int:
    """Put the points of ``table``, a JSON file that rd.py wrote, into the work folder ``work``, but
    for those that it has. A run then makes only what the table has not. Returns how many were put.
    """
    restored = 0
    for point in json.loads(table.read_text(encoding="utf-8"))["points"]:
        where = (point["clip"], point["family"], Fraction(point["scale"]), point["crf"])
        path = point_path(work, *where, point["net"], point["settings_hash"])
        if not path.exists():
            write_point(path, point)
            restored += 1
    return restored


def scale_text(scale: Fraction) -> str:
    """For a file name."""
    return str(scale).replace("/", "_")


def short_hash(value: object) -> str:
    """Of plain JSON types: ten hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
