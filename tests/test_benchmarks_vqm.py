"""The quality mapping benchmark: its figures by hand, its table, one small run."""

from __future__ import annotations

import csv
import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from codecaux.device import choose_device
from codecaux.ffmpeg import Ffmpeg

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MakeClip = Callable[..., Path]


@pytest.fixture(scope="module")
def modules() -> Iterator[Callable[[str], Any]]:
    """A benchmark's module by name: they import each other as scripts of one folder do."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(BENCHMARKS))


def _point(method: str, net: str, clip: str, psnr: float, **others: Any) -> dict[str, Any]:
    point: dict[str, Any] = {"clip": clip, "method": method, "net": net, "psnr_rgb_db": psnr}
    point |= {"ssim_rgb": psnr / 40, "lpips": 1 / psnr, "seconds_per_frame": 0.5, "made_at": psnr}
    point |= {"parameters": 65_432, "device": "a CPU", "fit_steps": 600, "fit_minutes": 2.0}
    settings = {"crf": 32.0, "preset": "medium", "frames": 120, "lpips_frames": 12}
    return point | {"weights_bytes": 9000, "settings": settings} | others


def test_psnr_and_ssim_are_of_8_bit_rgb(modules: Callable[[str], Any]) -> None:
    points = modules("vqm_points")
    grey = torch.full((1, 3, 16, 16), 100 / 255)
    other = grey.clone()
    other[:, 0] += 6 / 255  # one channel of three: MSE 12 in 8-bit steps
    assert points.psnr_rgb_db(grey, other) == pytest.approx(10 * math.log10(255**2 / 12), abs=1e-4)
    # Less than half a step is nothing once it is written as a PNG.
    assert points.psnr_rgb_db(grey, grey + 0.4 / 255) == 100.0
    assert points.ssim_rgb(grey, grey + 0.4 / 255) == pytest.approx(1.0)
    # Flat pictures: SSIM is its luminance part, here in one channel of three.
    a, b, c1 = 100 / 255, 106 / 255, 0.01**2
    part = (2 * a * b + c1) / (a * a + b * b + c1)
    assert points.ssim_rgb(grey, other) == pytest.approx((2 + part) / 3, abs=1e-5)


def test_the_table_is_the_papers(modules: Callable[[str], Any]) -> None:
    vqm = modules("vqm")
    points = [_point("none", "", clip, psnr) for clip, psnr in (("a", 30.0), ("b", 28.0))]
    points += [_point("fitted", "tiny", clip, p) for clip, p in (("a", 32.0), ("b", 30.0))]
    points += [_point("general", "tiny", clip, p) for clip, p in (("a", 31.0), ("b", 29.0))]
    points += [_point("none", "", "c", 99.0)]  # which the networks do not have yet
    rows = vqm.mean_rows(points)
    assert [(row["method"], row["psnr_rgb_db"], row["clips"]) for row in rows] == [
        ("fitted", 31.0, 2),
        ("general", 30.0, 2),
        ("none", 29.0, 2),
    ]
    lines = vqm.markdown(rows).splitlines()
    assert lines[0].startswith("| Method | ↑PSNR | ↑SSIM | ↓LPIPS | TrainingReq | TrainingTime |")
    assert lines[2].startswith("| codecaux tiny, over-fitted | **31.000** | **0.775** |")
    assert "| 2.0min a clip | a CPU | 0.500s | 0.065M | Yes, 9.0 kB of the clip |" in lines[2]
    assert lines[3].startswith("| codecaux tiny, general | 30.000 |")
    assert lines[4].replace(" ", "") == "|Noprocessing|29.000|0.725|0.035|||||||"
    assert all(line.count("|") == 11 for line in lines)


def test_only_one_protocol_is_in_a_table(modules: Callable[[str], Any]) -> None:
    vqm = modules("vqm")
    other = {"crf": 40.0, "preset": "medium", "frames": 120, "lpips_frames": 12}
    old = [_point("none", "", "a", 20.0, made_at=1.0), _point("general", "tiny", "a", 21.0)]
    new = _point("none", "", "a", 30.0, made_at=50.0)
    stray = _point("fitted", "tiny", "a", 25.0, settings=other)
    kept = vqm.current_points([*old, new, stray])
    assert [(p["method"], p["psnr_rgb_db"]) for p in kept] == [("general", 21.0), ("none", 30.0)]


def test_a_run_goes_on_where_it_was(
    modules: Callable[[str], Any],
    make_clip: MakeClip,
    ffmpeg: Ffmpeg,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = make_clip("vqm.mkv", size=(96, 64), frames=6)
    output = tmp_path / "results" / "vqm"
    vqm_points = modules("vqm_points")
    common = [str(clip), "--work", str(tmp_path / "work"), "-o", str(output), "--frames", "4"]
    common += ["--nets", "tiny", "--steps", "10", "--objective", "fidelity", "--allow-training"]

    def run(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["vqm.py", *common, *arguments])
        assert modules("vqm").main() == 0
        lines = capsys.readouterr().err.splitlines()
        return [line for line in lines if line.endswith(" ...")]

    assert run() == ["vqm none ...", "vqm general tiny ...", "vqm fitted tiny ..."]
    assert run() == []
    # More frames are another protocol: what is made again has a table of its own.
    settings = vqm_points.VqmSettings(tmp_path / "work", ("tiny",), frames=5)
    maker = vqm_points.Maker(clip, settings, ffmpeg, choose_device("cpu"), None, None)
    assert [task.method for task in maker.missing()] == ["none", "general", "fitted"]
    with output.with_name("vqm.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(r["clip"], r["method"]) for r in rows[:3]] == [
        ("vqm", "fitted"),
        ("vqm", "general"),
        ("vqm", "none"),
    ]
    assert {r["clip"] for r in rows[3:]} == {"mean"}
    fitted, general, plain = rows[:3]
    assert {row["num_frames"] for row in rows[:3]} == {"4"}
    assert plain["seconds_per_frame"] == ""
    assert float(general["seconds_per_frame"]) > 0
    assert int(fitted["weights_bytes"]) > 0
    assert fitted["parameters"] == general["parameters"] != plain["parameters"]
    assert {row["stream_bytes"] for row in rows[:3]} == {plain["stream_bytes"]}
    document = json.loads(output.with_name("vqm.json").read_text())
    assert document["failures"] == []
    assert {p["settings"]["crf"] for p in document["points"]} == {32.0}
    assert "No processing" in output.with_name("vqm.md").read_text(encoding="utf-8")
