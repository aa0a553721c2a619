"""Where rd.py keeps its points: one JSON file each in the folder points of its work folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from codecaux.atomic import write_atomic

__all__ = [
    "Point",
    "known_tuning",
    "point_path",
    "read_points",
    "read_tunings",
    "restore_points",
    "scale_text",
    "short_hash",
    "write_point",
    "write_tuning",
]

Point: TypeAlias = dict[str, Any]


def point_path(
    work: Path, clip: str, family: str, scale: Fraction, crf: float, net: str, settings_hash: str
) -> Path:
    """Of a cached point; ``net`` may be empty. Equal paths are the same point made again."""
    name = f"{clip}.{family}.{scale_text(scale)}x.crf{crf:g}.{net or 'none'}.{settings_hash}.json"
    return work / "points" / name


def write_point(path: Path, point: Point) -> None:
    """Whole or not at all."""
    _write(path, point)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(value, indent=1).encode() + b"\n")


def read_points(work: Path) -> list[Point]:
    """Every point cached in the work folder ``work``, in no order."""
    return _read_all(work / "points")


def read_tunings(work: Path) -> list[dict[str, Any]]:
    """Every choice of a tuning in the work folder ``work``, by clip."""
    return sorted(_read_all(work / "tunings"), key=lambda known: json.dumps(known["asked"]))


def _read_all(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]


def restore_points(table: Path, work: Path) -> int:
    """Put the points of ``table``, a JSON file that rd.py wrote, into the work folder ``work``, but
    for those that it has, and the tunings that were chosen for them. A run then makes only what the
    table has not. Returns how many points were put.
    """
    restored = 0
    document = json.loads(table.read_text(encoding="utf-8"))
    for known in document.get("tunings", ()):
        write_tuning(work, known["asked"], known["tuning"])
    for point in document["points"]:
        where = (point["clip"], point["family"], Fraction(point["scale"]), point["crf"])
        path = point_path(work, *where, point["net"], point["settings_hash"])
        if not path.exists():
            write_point(path, point)
            restored += 1
    return restored


def known_tuning(work: Path, asked: Mapping[str, Any]) -> str | None:
    """What was chosen for a clip's streams at one scale and CRF, where it was."""
    path = _tuning_path(work, asked)
    return str(json.loads(path.read_text(encoding="utf-8"))["tuning"]) if path.exists() else None


def write_tuning(work: Path, asked: Mapping[str, Any], tuning: str) -> None:
    """``asked``: all that the choice depends on, plain JSON types."""
    _write(_tuning_path(work, asked), {"asked": dict(asked), "tuning": tuning})


def _tuning_path(work: Path, asked: Mapping[str, Any]) -> Path:
    return work / "tunings" / f"{asked['clip']}.{short_hash(asked)}.json"


def scale_text(scale: Fraction) -> str:
    """For a file name."""
    return str(scale).replace("/", "_")


def short_hash(value: object) -> str:
    """Of plain JSON types: ten hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
