"""The rate-distortion benchmark: what it compares, one small run."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import ToolFailedError
from codecaux.events import drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.frames import read_frames

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


@pytest.fixture(scope="module")
def tables(modules: Callable[[str], Any]) -> Any:
    return modules("rd_tables")


# ----------------------------------------------------------------------------------------- tables


def _point(family: str, scale: str, crf: float, kbps: float, v1: float, **others: Any) -> Any:
    """Three points of a family make a curve; LPIPS falls as VMAF rises."""
    point = {
        "clip": "a",
        "split": "test",
        "family": family,
        "net": "light" if family in ("base", "fit") else "",
        "scale": scale,
        "crf": crf,
        "settings": {},
        "stream_bytes": 1000,
        "weights_bytes": 0,
        "fit_minutes": 2.0,
        "fit_is_resumed": False,
        "made_at": crf,
        "lpips": 1 - v1 / 100,
    }
    point |= dict.fromkeys(("vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "psnr_y_db", "ssim"), v1)
    rates = ("total_kbps", "total_kbps_if_10_s", "total_kbps_if_60_s")
    return point | dict.fromkeys(rates, kbps) | others


def _curve(family: str, factor: float, **others: Any) -> list[Any]:
    grid = ((20.0, 800.0, 95.0), (28.0, 400.0, 85.0), (36.0, 200.0, 70.0))
    return [_point(family, "1", crf, factor * kbps, v1, **others) for crf, kbps, v1 in grid]


def test_every_metric_and_length_has_the_rate_it_is_for(tables: Any) -> None:
    fits = _curve("fit", 1.0, weights_bytes=500)
    for point in fits:  # the weights cost as much as the stream, at 10 s a tenth of it, then none
        kbps = point["total_kbps"] / 2
        point |= {"total_kbps_if_10_s": 1.1 * kbps, "total_kbps_if_60_s": kbps}
        point["total_kbps"] = 2 * kbps
    rows = tables.bd_table(_curve("x265", 1.0) + _curve("base", 0.8) + fits)
    found = {
        (row["curve"], row["length"], row["metric"]): row["bd_rate_percent"]
        for row in rows
        if row["clip"] == "a"
    }
    expected = {("base light", "own"): -20, ("fit light", "own"): 0}
    expected |= {("fit light", "10 s"): -45, ("fit light", "60 s"): -50}
    assert {key[:2] for key in found} == set(expected)
    for (curve, length, metric), value in found.items():
        # LPIPS as well: it is negated before it is compared. 1e-9: exact but for rounding.
        assert value == pytest.approx(expected[curve, length], abs=1e-9), metric
    # A range is given in the metric's own sense.
    (row,) = (
        r
        for r in rows
        if r["clip"] == "a" and r["curve"] == "base light" and r["metric"] == "lpips"
    )
    assert (row["quality_low"], row["quality_high"]) == pytest.approx((0.05, 0.30))


def test_the_mean_counts_the_clips_that_overlap(tables: Any) -> None:
    points = []
    for clip, factor in (("a", 0.9), ("b", 0.7)):
        points += [p | {"clip": clip} for p in _curve("x265", 1.0) + _curve("base", factor)]
    points += [p | {"clip": "c"} for p in _curve("x265", 1.0) + _curve("base", 1.0)[:1]]
    (mean,) = (r for r in tables.bd_table(points) if r["clip"] == "mean" and r["metric"] == "ssim")
    assert mean["bd_rate_percent"] == pytest.approx(-20)
    assert mean["clips"] == 2


def test_the_hull_over_sizes_joins_both_families(tables: Any) -> None:
    small = [
        _point("x265-sizes", "2", 20.0, 100.0, 55.0),
        _point("x265-sizes", "2", 30.0, 390.0, 40.0),
    ]
    curves = tables.clip_curves(_curve("x265", 1.0) + small, "vmaf_v1", "own")
    assert set(curves) == {"x265", "x265 over sizes"}
    assert [point.kbps for point in curves["x265"]] == [200.0, 400.0, 800.0]
    assert [point.kbps for point in curves["x265 over sizes"]] == [100.0, 200.0, 400.0, 800.0]
    assert curves["x265 over sizes"][0].label == "x265-sizes 2x CRF 20"


def test_of_several_settings_the_newest_count_alone(tables: Any) -> None:
    old = _curve("fit", 1.0, settings={"base_id": "old"}, made_at=1.0)
    new = _curve("fit", 1.0, settings={"base_id": "new"}, made_at=2.0)[:1]
    other = _curve("base", 1.0, settings={"base_id": "old"}, made_at=0.0)
    kept = tables.current_points(old + new + other)
    assert [(p["family"], p["settings"]["base_id"]) for p in kept] == [("base", "old")] * 3 + [
        ("fit", "new")
    ]


def test_the_tuning_may_differ_from_point_to_point(tables: Any) -> None:
    network = _curve("fit", 1.0, settings={"base_id": "b", "tuning": [["cbqpoffs", "-4"]]})
    luma = _curve("fit", 0.9, settings={"base_id": "b", "tuning": []}, made_at=99.0)[2:]
    kept = tables.current_points(network + luma)
    assert [(p["crf"], p["total_kbps"]) for p in kept] == [
        (20.0, 800.0),
        (28.0, 400.0),
        (36.0, 180),
    ]


def test_fit_minus_base_is_at_one_operating_point(tables: Any) -> None:
    base = _point("base", "2", 24.0, 100.0, 80.0, lpips=0.20)
    fit = _point("fit", "2", 24.0, 110.0, 81.5, lpips=0.15, weights_bytes=9000)
    lonely = _point("fit", "1", 24.0, 110.0, 81.5)
    other_stream = _point("fit", "2", 24.0, 110.0, 81.5, stream_bytes=1001)
    (row,) = tables.fit_minus_base([base, fit, lonely])
    assert row["vmaf_v1_gain"] == pytest.approx(1.5)
    assert row["lpips_gain_percent"] == pytest.approx(-25.0)
    assert (row["weights_bytes"], row["fit_minutes"], row["is_same_stream"]) == (9000, 2.0, True)
    assert not tables.fit_minus_base([base, other_stream])[0]["is_same_stream"]


# ---------------------------------------------------------------------------------------- anchors


def _trained(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A small network in the authors' training form, with their names."""
    widths = {"down1": (3, 4), "down2": (4, 8), "down3": (8, 8), "down4": (8, 8)}
    widths |= {"up3": (16, 8), "up2": (16, 8), "up1": (12, 4)}
    result = {}

    def layer(name: str, cin: int, cout: int, size: int) -> None:
        shape = (cout, cin, size, size)
        result[f"{name}.weight"] = 0.2 * torch.randn(shape, generator=generator)
        result[f"{name}.bias"] = 0.2 * torch.randn(cout, generator=generator)

    for stage, (first, width) in widths.items():
        for index, cin in enumerate((first, width)):
            layer(f"dconv_{stage}.{index}.conv1", cin, width, 3)
            layer(f"dconv_{stage}.{index}.conv_adapter", cin, width, 1)
    layer("conv_last", 4, 12, 1)
    layer("to_rgb", 4, 3, 1)
    return result


def _authors_forward(x: torch.Tensor, trained: dict[str, torch.Tensor]) -> torch.Tensor:
    """The training form block by block, as the paper's section 3.1 draws it."""

    def stage(x: torch.Tensor, name: str) -> torch.Tensor:
        for index in range(2):
            weights = {
                k: trained[f"dconv_{name}.{index}.{k}"]
                for k in ("conv1.weight", "conv1.bias", "conv_adapter.weight", "conv_adapter.bias")
            }
            y = F.conv2d(x, weights["conv1.weight"], weights["conv1.bias"], padding=1)
            if x.shape[1] == y.shape[1]:
                y = (
                    y
                    + x
                    + F.conv2d(x, weights["conv_adapter.weight"], weights["conv_adapter.bias"])
                )
            x = F.relu(y)
        return x

    up = torch.nn.Upsample(scale_factor=2, mode="bilinear")
    one = stage(x, "down1")
    two = stage(F.max_pool2d(one, 2), "down2")
    three = stage(F.max_pool2d(two, 2), "down3")
    y = up(stage(F.max_pool2d(three, 2), "down4"))
    y = up(stage(torch.cat([y, three], 1), "up3"))
    y = up(stage(torch.cat([y, two], 1), "up2"))
    y = stage(torch.cat([y, one], 1), "up1")
    y = F.pixel_shuffle(F.conv2d(y, trained["conv_last.weight"], trained["conv_last.bias"]), 2)
    return torch.clamp(y + F.interpolate(x, scale_factor=2, mode="bicubic"), -1, 1)


def test_an_anchor_merged_is_the_network_as_trained(modules: Callable[[str], Any]) -> None:
    anchors, generator = modules("anchors"), torch.Generator().manual_seed(1)
    trained = _trained(generator)
    x = torch.rand((1, 3, 20, 40), generator=generator) * 2 - 1
    padded = torch.zeros(1, 3, 32, 48)
    padded[:, :, :20, :40] = x
    expected = _authors_forward(padded, trained)
    weights = anchors.merged(trained)
    found = anchors.anchor_forward(x, weights, Fraction(2))
    # float32 sums in another order, through 14 blocks, and activations of the order of 10.
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    assert (found.abs() < 1).float().mean() > 0.05  # not all clamped: the network was seen
    smaller = anchors.anchor_forward(x, weights, Fraction(3, 2))
    assert smaller.shape == (1, 3, 48, 72)
    # Corners aligned: the corner samples stay where they are.
    torch.testing.assert_close(smaller[..., 0, 0], found[..., 0, 0], atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------------------- streams


def test_sizes_are_the_nearest_even_ones(modules: Callable[[str], Any]) -> None:
    geometry = modules("rd_streams").SizedGeometry
    for width, height, scale, expected in (
        (1920, 1080, Fraction(4, 3), (1440, 810)),
        (854, 480, Fraction(4, 3), (640, 360)),
        (416, 240, Fraction(2), (208, 120)),
        (97, 65, Fraction(2), (48, 32)),
    ):
        found = geometry(width, height, scale)
        assert (found.coded_width, found.coded_height) == expected
        assert (found.padded_width, found.padded_height) == (width, height)


@pytest.fixture(params=["bt709", "bt470bg"])
def flat(
    request: pytest.FixtureRequest, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path
) -> PreparedSource:
    """A clip of one saturated colour, 92x64, in the matrix of the parameter."""
    matrix = request.param
    filters = f"drawbox=color=red:t=fill,setparams=colorspace={matrix}:range=limited"
    options = ["-colorspace", matrix, "-color_range", "tv"]
    clip = make_clip(
        f"flat-{matrix}.mkv", size=(92, 64), frames=3, filters=filters, options=options
    )
    return drain(prepare(clip, SourceOptions(), tmp_path, ffmpeg=ffmpeg))


def test_down_and_up_again_keeps_a_colour(
    modules: Callable[[str], Any], flat: PreparedSource, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    streams = modules("rd_streams")
    geometry = streams.SizedGeometry(92, 64, Fraction(2))
    stream = streams.make_sized_stream(
        flat, StreamSettings(crf=1.0), geometry, tmp_path / "small.mp4", ffmpeg
    )
    original = next(read_frames(flat.path, info=flat.info))
    coded = next(read_frames(stream))
    assert coded.y.shape == (32, 46)
    shown = list(streams.upscaled_frames(stream, flat, ("bicubic", "lanczos")))
    assert len(shown) == 3
    for version in shown[0].values():
        for plane, small, source in zip(version.planes, coded.planes, original.planes, strict=True):
            assert plane.shape == source.shape
            # A flat plane stays what was decoded, to the rounding of 8 bits; a conversion between
            # the matrices would move this red by more than 5. x265 itself may be 2 off.
            assert np.ptp(plane) <= 1
            assert abs(int(plane[0, 0]) - int(small[0, 0])) <= 1
            assert abs(int(plane[0, 0]) - int(source[0, 0])) <= 3


# -------------------------------------------------------------------------------------------- run


def test_a_failed_pass_loses_one_family_only(modules: Callable[[str], Any]) -> None:
    rd, points = modules("rd"), modules("rd_settings")
    tasks = [points.Task(family, Fraction(2), 24.0) for family in ("anchor", "base")]
    made: list[str] = []

    class Broken:
        def make(self, group: Sequence[Any]) -> None:
            if any(task.family == "anchor" for task in group):
                raise ToolFailedError("no such network")
            made.extend(task.family for task in group)

    (failure,) = rd._make(Broken(), Path("a.mkv"), tasks)
    assert failure == "a anchor 2x CRF 24: ToolFailedError: no such network"
    assert made == ["base"]


@pytest.fixture
def run(
    modules: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., list[str]]:
    """Run the command as far as its exit status 0; the points that it made, as it names them."""

    def run_it(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["rd.py", *arguments])
        assert modules("rd").main() == 0
        lines = capsys.readouterr().err.splitlines()
        return [line.removesuffix(" ...") for line in lines if line.endswith(" ...")]

    return run_it


def test_only_test_clips_are_taken(run: Callable[..., list[str]], tmp_path: Path) -> None:
    manifest = tmp_path / "clips.tsv"
    manifest.write_text("file\tsplit\nclips/a.mkv\ttrain\nclips/b.mkv\ttest\n")
    arguments = ["--manifest", str(manifest), "--families", "x265", "-o", str(tmp_path / "rd")]
    with pytest.raises(SystemExit, match=r"got a\.mkv of the split 'train'.*--allow-training"):
        run("b.mkv", "a.mkv", "--only", "a", *arguments)
    with pytest.raises(SystemExit, match=r"got c\.mkv of the split 'unknown'"):
        run("c.mkv", *arguments)
    with pytest.raises(SystemExit, match=r"expected a file at a\.mkv"):
        run("a.mkv", "--allow-training", *arguments)


def test_ours_is_compared_with_x265_with_our_options_too(tables: Any) -> None:
    tuned, fits = _curve("x265-tuned", 0.9), _curve("fit", 0.72)
    rows = tables.bd_table(_curve("x265", 1.0) + tuned + fits)
    found = {
        (row["curve"], row["reference"]): row["bd_rate_percent"]
        for row in rows
        if (row["clip"], row["length"], row["metric"]) == ("a", "own", "vmaf_v1")
    }
    assert found == {
        ("x265-tuned", "x265"): pytest.approx(-10),
        ("fit light", "x265"): pytest.approx(-28),
        ("fit light", "x265-tuned"): pytest.approx(-20),
    }


def test_the_table_of_titles_is_of_one_operating_point(tables: Any) -> None:
    plain = {f"{name}_bicubic": 80.0 for name in ("vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "ssim")}
    plain |= {"psnr_y_db_bicubic": 30.0, "lpips_bicubic": 0.25, "tof": 1.0, "tof_bicubic": 1.5}
    fits = [_point("fit", "2", 25.0, 400.0, v1, stream_kbps=390.0, **plain) for v1 in (90.0, 84.0)]
    other = _point("fit", "1", 25.0, 400.0, 99.0, stream_kbps=390.0, **plain)
    lines = tables.titles_table([*fits, other], "2", 25.0).splitlines()
    assert len(lines) == 5
    assert "80.0 → 90.0" in lines[2]
    assert "**+7.0**" in lines[4]  # VMAF v1: the mean of +10 and +4
    assert "**-0.120**" in lines[4]  # LPIPS: the mean of .10 and .16, less .25
    assert lines[4].endswith("| **-0.500** |")


def test_each_length_takes_the_fits_priced_for_it(tables: Any) -> None:
    own = _curve("fit", 0.9, weights_bytes=500)
    priced = _curve("fit", 0.8, weights_bytes=900, settings={"priced_for": 10.0})
    kept = tables.current_points(own + priced)
    assert len(kept) == 6  # neither replaces the other
    rows = tables.bd_table(_curve("x265", 1.0) + kept)
    found = {
        row["length"]: row["bd_rate_percent"]
        for row in rows
        if (row["clip"], row["metric"]) == ("a", "vmaf_v1")
    }
    assert found == {n: pytest.approx(p) for n, p in (("own", -10), ("10 s", -20), ("60 s", -20))}
    # Another net has curves of its own.
    tiny = _curve("fit", 0.95, net="tiny", weights_bytes=200)
    rows = tables.bd_table(_curve("x265", 1.0) + kept + tiny)
    assert {
        (row["curve"], row["length"]): row["bd_rate_percent"]
        for row in rows
        if (row["clip"], row["metric"], row["length"]) == ("a", "vmaf_v1", "10 s")
    } == {("fit light", "10 s"): pytest.approx(-20), ("fit tiny", "10 s"): pytest.approx(-5)}
    # Where there are none, those priced for the clip itself.
    rows = tables.bd_table(_curve("x265", 1.0) + own)
    assert {row["length"] for row in rows} == {"own", "10 s", "60 s"}
    assert all(row["bd_rate_percent"] == pytest.approx(-10) for row in rows)


def test_an_objective_has_a_curve_of_its_own(tables: Any) -> None:
    def of(name: str, factor: float, **others: Any) -> list[Any]:
        settings = {"fit": {"objective": name}} | others
        return _curve("fit", factor, weights_bytes=500, settings=settings)

    fits = of("balanced", 0.9) + of("balanced", 0.7, priced_for=10.0) + of("fidelity", 0.8)
    kept = tables.current_points(_curve("base", 1.0) + fits)
    assert len(kept) == 12  # none replaces another
    found = {
        (row["curve"], row["length"]): row["bd_rate_percent"]
        for row in tables.bd_table(_curve("x265", 1.0) + kept)
        if (row["clip"], row["metric"]) == ("a", "vmaf_v1") and row["length"] != "60 s"
    }
    assert found == {
        ("base light", "own"): pytest.approx(0, abs=1e-9),
        ("fit light", "own"): pytest.approx(-10),
        ("fit light", "10 s"): pytest.approx(-30),
        ("fit light fidelity", "own"): pytest.approx(-20),
        ("fit light fidelity", "10 s"): pytest.approx(-20),
    }
    gains = tables.fit_minus_base(kept)
    assert {row["objective"] for row in gains} == {"balanced", "fidelity"}


def test_a_run_goes_on_where_it_was(
    run: Callable[..., list[str]], make_clip: MakeClip, tmp_path: Path
) -> None:
    clip = make_clip("rd.mkv", size=(96, 64), frames=5)
    manifest, output = tmp_path / "clips.tsv", tmp_path / "results" / "rd"
    manifest.write_text(f"file\tsplit\nclips/{clip.name}\ttest\n")
    common = [str(clip), "--manifest", str(manifest), "--work", str(tmp_path / "work")]
    common += ["--points", "2:24", "--net", "tiny", "--steps", "10", "-o", str(output)]
    families = "x265,x265-tuned,x265-sizes,base,fit"
    made = run(*common, "--families", families, "--crfs", "20")
    assert made == [
        *("rd x265 1x CRF 20", "rd x265-tuned 1x CRF 20"),
        *("rd x265-sizes 4/3x CRF 20", "rd x265-sizes 2x CRF 20"),
        *("rd base 2x CRF 24", "rd fit 2x CRF 24"),
    ]
    # A finer grid: only what is new.
    assert run(*common, "--families", "x265,base", "--crfs", "20,32") == ["rd x265 1x CRF 32"]

    with (output.parent / "rd.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["family"] for row in rows] == [
        *("base", "fit", "x265", "x265", "x265-sizes", "x265-sizes", "x265-tuned")
    ]
    # Base and fit share a stream, and so the choice of its tuning.
    (known,) = json.loads((output.parent / "rd.json").read_text())["tunings"]
    assert known["tuning"] == "network"
    assert (known["asked"]["clip"], known["asked"]["scale"]) == ("rd", "2")
    # Elsewhere, what the table has need not be made.
    elsewhere = [*common, "--known", str(output) + ".json", "--work", str(tmp_path / "elsewhere")]
    elsewhere += ["-o", str(tmp_path / "elsewhere" / "rd"), "--families", "x265,fit"]
    assert run(*elsewhere, "--crfs", "20,32,40") == ["rd x265 1x CRF 40"]
    assert len((tmp_path / "elsewhere" / "rd.tsv").read_text().splitlines()) == len(rows) + 2
    assert json.loads((tmp_path / "elsewhere" / "rd.json").read_text())["tunings"] == [known]

    # With our options it is another stream of the same pictures.
    assert rows[6]["stream_bytes"] != rows[2]["stream_bytes"]
    assert {row["split"] for row in rows} == {"test"}
    base, fit, fine, coarse = rows[:4]
    assert base["stream_bytes"] == fit["stream_bytes"]
    assert base["total_kbps"] == base["stream_kbps"] == base["total_kbps_if_60_s"]
    assert 0 < float(fit["rpf_deviation"]) != float(fit["rpf_deviation_bicubic"]) > 0
    rates = [float(fit[f"total_kbps{s}"]) for s in ("", "_if_10_s", "_if_60_s")]
    assert rates == sorted(rates, reverse=True)
    weights_kbits = int(fit["weights_bytes"]) * 8 / 1000
    # The columns have six digits.
    assert rates[1] - float(fit["stream_kbps"]) == pytest.approx(weights_kbits / 10, rel=0.02)
    assert float(fine["psnr_y_db"]) > float(coarse["psnr_y_db"]) > 20

    document = json.loads((output.parent / "rd.json").read_text())
    assert document["benchmark"] == "rd"
    assert document["failures"] == []
    assert {"codecaux", "torch", "cores", "bjontegaard"} <= set(document["machine"])
    assert len(document["points"]) == 7
    assert len(document["hulls"]["rd"]["own"]["psnr_y_db"]["x265"]) == 2
    assert document["fit_minus_base"][0]["is_same_stream"]
    assert (output / "rd.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "rd.png").stat().st_size < 120_000
    assert (output.parent / "rd-bd.tsv").read_text().startswith("clip\tsplit\tcurve\treference")
