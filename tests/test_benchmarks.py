"""Each benchmark runs, checks itself, and writes what its page documents."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def _run(name: str, output: Path, *arguments: str) -> dict[str, Any]:
    """Run a benchmark; its JSON, once it has agreed with its TSV."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments, "-o", str(output)]
    # One thread: enough for what is tiny, and no spinning where other tests run.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(output.read_text())
    assert document["benchmark"] == name
    assert {"codecaux", "cpu", "cores", "threads", "torch", "load_average_1_minute"} <= set(
        document["machine"]
    )
    with output.with_suffix(".tsv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert len(table) == len(document["results"])
    for line, result in zip(table, document["results"], strict=True):
        assert list(line) == ["codecaux", *result]
    return document


def test_fit(tmp_path: Path) -> None:
    arguments = "--nets tiny --no-lpips --batch 1 --patch 32 --repeats 2 --steps-per-repeat 1"
    rows = _run("fit", tmp_path / "fit.json", *arguments.split())["results"]
    assert {(row["dtype"], row["objective"]) for row in rows} == {
        (dtype, objective)
        for dtype in ("fp32", "bf16")
        for objective in (
            *("fidelity", "fidelity+ssim", "fidelity+learned", "balanced without lpips"),
        )
    }
    for row in rows:
        assert row["steps_per_second"] * row["milliseconds_per_step"] == pytest.approx(1000)
        assert row["repeats"] == 2
        if row["dtype"] == "fp32":
            assert row["times_fp32"] == 1.0
        if row["objective"] == "fidelity":
            assert row["terms_cost_per_own_step"] == 0.0


def test_enhance(tmp_path: Path) -> None:
    arguments = "--nets tiny --sizes 64x46 --frames 3 --repeats 2 --matrix-size 128"
    (row,) = _run("enhance", tmp_path / "enhance.json", *arguments.split())["results"]
    assert (row["coded"], row["shown"]) == ("64x46", "128x92")
    assert row["macs_per_frame"] == 64 * 48 * 13_266
    for part in ("network", "enhance", "player_to_nowhere", "player_to_pipe"):
        assert row[f"{part}_of_limit"] == pytest.approx(row[f"{part}_fps"] / row["limit_fps"])
    assert row["player_to_pipe_fps"] > 0


def test_memory(tmp_path: Path) -> None:
    # Titles of 6 and 12 frames do not fill the bank, and start-up is most of their memory.
    arguments = "--size 96x64 --seconds 0.25 --loops 2 --steps 10 --limit 2"
    rows = _run("memory", tmp_path / "memory.json", *arguments.split())["results"]
    assert [row["frames"] for row in rows] == [6, 12]
    assert rows[0]["encoder_ratio"] == 1.0
    assert 50 < rows[1]["encoder_mib"] < 2000
    assert rows[1]["encoder_ratio"] == pytest.approx(
        rows[1]["encoder_mib"] / rows[0]["encoder_mib"]
    )


def test_recurrent(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip = make_clip("bench-recurrent.mkv", size=(112, 80), frames=10)
    words = [str(clip), "--nets", "tiny,recurrent-tiny", "--crop", "96x64", "--frames", "6"]
    words += ["--steps", "10", "--repeats", "1", "--objective", "fidelity"]
    rows = _run("recurrent", tmp_path / "a.json", *words, "--work", str(tmp_path / "w"))["results"]
    single, recurrent = rows
    assert [row["net"] for row in rows] == ["tiny", "recurrent-tiny"]
    assert single["macs_per_frame"] == 48 * 32 * 13_266
    assert recurrent["macs_per_frame"] == 48 * 32 * 14_472
    assert single["stream_bytes"] == recurrent["stream_bytes"]
    assert single["converges_in_frames"] is None
    assert recurrent["converges_in_frames"] in (-1, 0, 1, 2)
    for row in rows:
        assert row["rpf_ripple"] >= 0
        assert row["steps"] >= 10


def test_ladder(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    """Made once; the second run takes ladder and curve from where they are kept."""
    clip = make_clip("bench-ladder.mkv", size=(128, 72), fps="25", frames=30)
    fast = "--net tiny --steps 10 --objective fidelity --preset ultrafast --device cpu"
    grid = "--crf 24,40 --scales 2 --segment 1 --curve-crf 40 --curve-scales 2"
    words = [str(clip), *fast.split(), *grid.split(), "--work", str(tmp_path / "work")]
    (row,) = _run("ladder", tmp_path / "a.json", *words)["results"]
    assert row["rungs"] == 2
    assert 0 < row["weights_bytes"] < row["ours_bytes"]
    assert (row["apple_rungs"], row["saved_against_apple_percent"]) == (0, None)
    assert row["probe_error_max"] >= row["probe_error_mean"] >= 0
    assert row["curve_second_seconds"] < row["curve_first_seconds"]
    lines = (tmp_path / "a-rungs.tsv").read_text().splitlines()
    assert len(lines) == 3
    (again,) = _run("ladder", tmp_path / "b.json", *words)["results"]
    timed = {"curve_second_seconds", "curve_second_percent"}
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in row.items() if k not in timed
    }


def test_objectives(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    """The same stream for every objective; the second run takes all from where it is kept."""
    clip = make_clip("bench-objectives.mkv", size=(96, 64), fps="25", frames=8)
    fast = "--net tiny --steps 20 --patch 24 --batch 2 --preset ultrafast --device cpu --crf 30"
    names = "fidelity,learned,learned-no-fake,learned-adversarial,sr-unet"
    words = [str(clip), *fast.split(), "--objectives", names, "--work", str(tmp_path / "work")]
    rows = _run("objectives", tmp_path / "a.json", *words)["results"]
    assert [row["objective"] for row in rows] == names.split(",")
    assert len({row["stream_kbps"] for row in rows}) == 1
    assert len({row["psnr_y_db_bicubic"] for row in rows}) == 1
    assert len({row["psnr_y_db"] for row in rows}) > 1
    assert all(row["fit_seconds"] > 0 and row["vmaf_v061"] is not None for row in rows)
    assert (tmp_path / "a" / f"{clip.stem}.png").stat().st_size > 10_000
    again = _run("objectives", tmp_path / "b.json", *words)["results"]
    assert again == rows


def test_unsteadiness_is_what_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from objectives import means, unsteadiness

    assert means([1.0, 3.0, 5.0, 7.0, 9.0], 2) == [2.0, 6.0]
    falling = [20.0 - step for step in range(12)]
    assert unsteadiness(falling) == pytest.approx(0.0, abs=1e-9)
    assert unsteadiness([1.0, 1.0]) is None
    # The second half is 1, 3, 1, 3, ...: 1 around 2, less a little that a line explains.
    assert unsteadiness([1.0, 3.0] * 20) == pytest.approx(0.5, abs=0.01)


def test_what_a_point_saves_is_read_off_x265s_curve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from rd_saved import read_x265, saved_percent

    lines = ["clip\tfamily\ttotal_kbps\tvmaf_v1\tlpips"]
    lines += [
        f"a\tx265\t{kbps}\t{v}\t{lpips}" for kbps, v, lpips in ((1000, 90, 0.1), (500, 80, 0.2))
    ]
    lines += ["a\tfit\t400\t95\t0.05"]
    table = tmp_path / "rd.tsv"
    table.write_text("\n".join(lines) + "\n")
    x265 = read_x265(str(table))["a"]
    assert len(x265) == 2
    assert saved_percent(x265, "vmaf_v1", 90.0, 750.0) == pytest.approx(-25.0)
    assert saved_percent(x265, "lpips", 0.2, 600.0) == pytest.approx(20.0)
    assert saved_percent(x265, "vmaf_v1", 91.0, 750.0) is None


def test_fused(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip = make_clip("bench-fused.mkv", size=(96, 64), frames=8)
    fast = "--net tiny --steps 10 --preset ultrafast --device cpu --frames 6 --repeats 1"
    words = [str(clip), *fast.split(), "--sharpen", "0.2", "--work", str(tmp_path / "work")]
    rows = _run("fused", tmp_path / "fused.json", *words)["results"]
    ways = ["bicubic", "fidelity head", "perceptual head", "fused, exponent 1", "fused"]
    assert [row["shown"] for row in rows] == ways
    # So short a fit may send nothing: then the heads are alike, and differ from both others.
    assert len({row["psnr_y_db"] for row in rows}) >= 3
    assert rows[0]["sharpen"] == 0.2
    assert rows[0]["time_ratio"] > 0.5
