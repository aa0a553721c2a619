"""README's tables of the rate-distortion benchmark: those of the committed results."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "rd.json"


@pytest.fixture(scope="module")
def rd_summary() -> Iterator[Any]:
    """The benchmark's module: they import each other as scripts of one folder do."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("rd_summary")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def test_readme_shows_the_committed_results(rd_summary: Any, document: dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert rd_summary.with_tables(readme, rd_summary.tables(document)) == readme


def test_the_tables_have_every_clip_and_every_curve(
    rd_summary: Any, document: dict[str, Any]
) -> None:
    found = rd_summary.tables(document)
    clips = {point["clip"] for point in document["points"]}
    assert len(clips) == 10
    for name in ("titles", "clips"):
        assert all(f"| {clip} |" in found[name] for clip in clips)
    for line in found["means"].splitlines()[2:]:
        assert "-" not in line.replace(" ", "").split("|")[2:-1], "a curve that was not found"


def test_a_changed_figure_changes_its_table_alone(
    rd_summary: Any, document: dict[str, Any]
) -> None:
    rows = [dict(row) for row in document["bd_rates"]]
    key = {"clip": "mean", "curve": "fit light", "reference": "x265", "length": "10 s"}
    (row,) = (r for r in rows if r.items() >= (key | {"metric": "vmaf_v1"}).items())
    row.update(bd_rate_percent=-98.76, clips=9)
    before, after = rd_summary.tables(document), rd_summary.tables(document | {"bd_rates": rows})
    assert "| **fitted, against x265** | -98.8 (9) |" in after["means"]
    assert (after["titles"], after["clips"]) == (before["titles"], before["clips"])


def test_replacing_keeps_the_text_around_a_table(rd_summary: Any) -> None:
    text = "a\n\n<!-- rd: x -->\n\n| old |\n|---|\n| 1 |\n\nb | c\n"
    assert rd_summary.with_tables(text, {"x": "| new \\1 |"}) == (
        "a\n\n<!-- rd: x -->\n\n| new \\1 |\n\nb | c\n"
    )


@pytest.mark.parametrize("text", ["| old |\n", "<!-- rd: x -->\n\ntext\n"])
def test_a_missing_table_is_an_error(rd_summary: Any, text: str) -> None:
    with pytest.raises(ValueError, match="expected one table behind <!-- rd: x -->, got 0"):
        rd_summary.with_tables(text, {"x": "| new |"})


def test_the_summary_takes_means_over_the_default_fits(
    rd_summary: Any, document: dict[str, Any]
) -> None:
    gains = [
        row | {"vmaf_v1_gain": 3.0 if row["crf"] >= 28 else 1.0, "lpips_gain_percent": -7.0}
        for row in document["fit_minus_base"]
        if row["net"] == "light" and row["scale"] == "3/2" and row["crf"] in (24, 29)
    ]
    fits = [p for p in document["points"] if (p["family"], p["net"]) == ("fit", "light")]
    points = [fit | {"weights_bytes": 5000, "tof": fit["tof_bicubic"] * 1.1} for fit in fits]
    lines = rd_summary.summary(document | {"points": points, "fit_minus_base": gains}).splitlines()
    assert "  all (20): +2.00, -7.0 %" in lines
    assert "  CRF >= 28 (10): +3.00, -7.0 %" in lines
    assert "  scale 3/2, CRF 24 (10): +1.00, -7.0 %" in lines
    assert "Weights: 5.0 to 5.0 kB, mean 5.0, 60 fits" in lines
    assert "  scale 2: +10.0 %, +10.0 to +10.0 %" in lines
    assert any(line.startswith("  1080p (3): VMAF v1 ") for line in lines)


def test_nets_are_compared_on_the_streams_that_they_share(
    rd_summary: Any, document: dict[str, Any]
) -> None:
    light = [
        p
        for p in document["points"]
        if (p["family"], p["net"], p["scale"], p["crf"]) == ("fit", "light", "2", 25.0)
    ]
    tiny = [
        fit | {"net": "tiny", "weights_bytes": 2000, "vmaf_v1": fit["vmaf_v1_bicubic"] + 3}
        for fit in light[:4]
    ]
    tiny[0]["stream_bytes"] += 1  # coded in another way: no comparison
    table = rd_summary.tables(document | {"points": [*light, *tiny]})["nets"].splitlines()
    assert [line.split(" | ")[:3] for line in table[2:]] == [
        ["| scale 2, CRF 25, 3 clips", "light", table[2].split(" | ")[2]],
        ["| scale 2, CRF 25, 3 clips", "tiny", "+3.0"],
    ]
    assert table[3].endswith("| 2.0 kB | 2.0 kB |")
    assert "nets" not in rd_summary.tables(document | {"points": light})
