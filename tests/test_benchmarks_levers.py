"""The lever benchmark: every variant differs from the default, test clips are refused."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def levers() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("levers")
    finally:
        sys.path.remove(str(BENCHMARKS))


def _options(work: Path, family: str) -> argparse.Namespace:
    values = {"family": family, "steps": 600, "work": work, "scale": Fraction(2)}
    return argparse.Namespace(**values, crfs="20,26", net="tiny", threads=1)


def test_every_variant_is_another_curve(levers: Any, tmp_path: Path) -> None:
    for family in ("base", "fit"):
        options = _options(tmp_path, family)
        made = {name: levers._settings(name, options) for name in levers.VARIANTS}
        default = made.pop("default")
        for name, settings in made.items():
            stream, fit = "x265_params", settings.fit != default.fit
            moved = getattr(settings, stream) != getattr(default, stream)
            moved |= settings.downscale != default.downscale or fit
            # The product's own down-scaler is no change for a fit.
            assert moved or (family, name) == ("fit", "lanczos"), name
            assert settings.work != default.work
            assert settings.points == {Fraction(2): (20.0, 26.0)}


def test_equal_points_have_no_bd_rate(levers: Any, tmp_path: Path) -> None:
    points = [
        {"total_kbps_if_10_s": 100.0 * 2**k, "weights_bytes": 5, "fit_minutes": 1.0}
        | dict.fromkeys(levers.METRICS, 10.0 * k)
        | {"lpips": -0.1 * k}
        for k in range(3)
    ]
    dearer = [p | {"total_kbps_if_10_s": 1.1 * p["total_kbps_if_10_s"]} for p in points]
    row = levers._row("clip", "other", {"default": points, "other": dearer})
    assert row["vmaf_v1"] == pytest.approx(10.0, abs=0.01)
    assert row["weights_bytes"] == 5
    same = levers._row("clip", "default", {"default": points, "default ": points})
    assert same["psnr_y_db"] == pytest.approx(0.0, abs=1e-9)
    mean = levers._mean("other", [row, row | {"vmaf_v1": 20.0}])
    assert mean["vmaf_v1"] == pytest.approx(15.0, abs=0.01)


def test_test_clips_are_refused(
    levers: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "clips.tsv"
    manifest.write_text(f"file\tsplit\n{clip.name}\ttest\n")
    monkeypatch.setattr(levers, "find_lpips", lambda net: _NoLpips())
    arguments = ["levers.py", str(clip), "--manifest", str(manifest), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="of the split test"):
        levers.main()


class _NoLpips:
    def to(self, device: object) -> None:
        return None
