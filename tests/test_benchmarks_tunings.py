"""The benchmark of finer chroma: what a row of it says."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def tunings() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("tunings")
    finally:
        sys.path.remove(str(BENCHMARKS))


class FakeMaker:
    """Points whose scores are linear in the logarithm of the bytes, finer chroma above the line."""

    def __init__(self, _clip: Path, _split: str, settings: Any, *_: Any) -> None:
        self._tuning = settings.tuning

    def made(self, task: Any) -> dict[str, Any]:
        size = 1000 * math.exp(0.1 * (25 - task.crf))
        level = math.log(size / 1000)
        point = {"vmaf_v1": 80 + 10 * level, "vmaf_v061_neg": 75 + 10 * level}
        point |= {"lpips": 0.2 - 0.1 * level, "psnr_y_db": 30 + 5 * level}
        if self._tuning == "network":  # 5 % more bytes: v1 and LPIPS of twice that, NEG of none
            size *= 1.05
            point["vmaf_v1"] += 20 * math.log(1.05)
            point["lpips"] -= 0.2 * math.log(1.05)
        return point | {"stream_bytes": size}

    def stream(self, _task: Any) -> Any:
        return SimpleNamespace(tuning="network" if self._tuning == "auto" else self._tuning)


def test_a_row_says_what_finer_chroma_changes(
    tunings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tunings, "Maker", FakeMaker)
    settings = tunings.RdSettings(work=tmp_path, families=("base",), crfs=(), points={})
    task = tunings.Task("base", Fraction(2), 25.0)
    row = tunings._row(Path("title.mkv"), task, settings, None, None)
    saved, paid = 100 * (1 / 1.05 - 1), pytest.approx(5.0)
    assert row == {
        "clip": "title",
        "scale": "2",
        "crf": 25.0,
        "bytes_percent": paid,
        "vmaf_v1_percent": pytest.approx(saved),
        "vmaf_v061_neg_percent": paid,
        "lpips_percent": pytest.approx(saved),
        "psnr_y_db_percent": paid,
        "chosen": "network",
    }
