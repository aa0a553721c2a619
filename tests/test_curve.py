"""codecaux curve: what is chosen, what is written, what a second run costs, what it refuses."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from codecaux.cli.encode import encode, settings_from_options
from codecaux.cli.main import main
from codecaux.cli.points_tables import bd_grid, point_name, points_grid
from codecaux.encoder.prepare import SourceOptions
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import FitError, UsageError
from codecaux.events import Events, Notice, drain
from codecaux.ladders.cache import Cache
from codecaux.ladders.commands import encode_command
from codecaux.ladders.curve import CURVE_METRICS, make_curve, open_prober
from codecaux.ladders.ladder import plan_ladder
from codecaux.ladders.ladder_settings import LadderSettings
from codecaux.ladders.picture import METRIC_NAMES, curve_png
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.reports import curve_fields
from codecaux.ladders.settings import CurveSettings, SamplingSettings
from codecaux.ladders.target import encode_to_target
from codecaux.ladders.targets import parse_targets
from codecaux.ladders.titles import sample_in_use, sample_source

if TYPE_CHECKING:
    from conftest import FakeProbes

GRID = CurveSettings(crfs=(18.0, 24.0, 30.0), scales=(Fraction(2), Fraction(1)))
SMALL = ("--net", "tiny", "--steps", "10", "--objective", "fidelity", "--preset", "ultrafast")


@pytest.fixture(scope="module")
def wide(make_clip: Callable[..., Path]) -> Path:
    return make_clip("wide.mkv", size=(256, 160), frames=24)


@pytest.fixture(scope="module")
def opened(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Prober:
    """Surveyed once: the survey reads all of the title."""
    settings = EncodeSettings(str(wide), Path("o.mp4"), Path("o.weights"), net="tiny", device="cpu")
    cache = Cache.open(tmp_path_factory.mktemp("survey"))
    return drain(open_prober(str(wide), settings, SamplingSettings(), cache))


@pytest.fixture
def prober(opened: Prober, tmp_path: Path) -> Prober:
    """With a cache of the test's own."""
    return replace(opened, cache=Cache.open(tmp_path / "cache"))


# ------------------------------------------------------------------------------------------ chosen


def test_the_whole_grid_is_measured_and_x265_beside_it(
    prober: Prober, fake_probes: FakeProbes
) -> None:
    curve = drain(make_curve(prober, GRID))
    assert len(fake_probes.made) == 9
    assert [(p.crf, p.scale) for p in curve.points] == [
        (crf, scale) for scale in (2, 1) for crf in (18, 24, 30)
    ]
    assert [p.crf for p in curve.x265_points] == [18, 24, 30]
    assert curve.metric == "vmaf_v1"
    assert all(point in curve.points for point in curve.hull)
    assert all(point in curve.x265_points for point in curve.x265_hull)
    assert curve.chosen in curve.hull
    assert curve.final is None
    assert set(curve.bd_rates) == set(CURVE_METRICS) == set(METRIC_NAMES)


@pytest.mark.usefixtures("fake_probes")
def test_bd_rates_count_the_weights(prober: Prober, fake_probes: FakeProbes) -> None:
    # At scale 1 the points are x265's with 1.5 VMAF more: 2 ** (-1.5 / 6) of its rate, and weights.
    only = replace(GRID, scales=(Fraction(1),))
    found = drain(make_curve(prober, only)).bd_rates["vmaf_v1"]
    assert found is not None
    without = (2 ** (-1.5 / 6) - 1) * 100
    # 4000 bytes over a second are 32 kb/s of 1000 to 4000.
    assert without + 0.5 < found.percent < without + 3
    assert found.low < found.high


def test_chosen_is_where_a_doubling_still_buys_enough(
    prober: Prober, fake_probes: FakeProbes
) -> None:
    # Six CRFs double the rate and cost 6 VMAF, up to CRF 24; from there on a third of it.
    fake_probes.vmaf = lambda crf, scale: 112 - max(crf, 24.0) - min(crf - 24.0, 0.0) / 3
    grid = replace(GRID, scales=(Fraction(1),))
    assert drain(make_curve(prober, replace(grid, least_gain=5.0))).chosen.crf == 24
    assert drain(make_curve(prober, replace(grid, least_gain=1.0))).chosen.crf == 18
    assert drain(make_curve(prober, replace(grid, least_gain=50.0))).chosen.crf == 30


@pytest.mark.usefixtures("fake_probes")
def test_the_chosen_point_is_verified_over_the_whole_title(
    prober: Prober, fake_probes: FakeProbes
) -> None:
    verified = drain(make_curve(prober, replace(GRID, verify="always")))
    assert verified.final is not None
    assert verified.error("vmaf_v1") == 0.0
    assert fake_probes.made[-1] == (
        Probe(verified.chosen.crf, verified.chosen.scale, is_cold=True),
        None,
    )
    sampled = replace(prober, title=replace(prober.title, ranges=((0, 12),)))
    assert drain(make_curve(sampled, GRID)).final is not None
    assert drain(make_curve(sampled, replace(GRID, verify="never"))).final is None


@pytest.mark.parametrize(
    "run",
    [
        lambda prober: make_curve(prober, GRID),
        lambda prober: plan_ladder(prober, LadderSettings(GRID.crfs, GRID.scales)),
        lambda prober: encode_to_target(
            prober, parse_targets(["vmaf=84"]), GRID.scales, Path("o.mp4"), Path("o.weights")
        ),
    ],
    ids=["curve", "ladder", "target"],
)
@pytest.mark.usefixtures("fake_probes")
def test_another_command_that_ends_leaves_the_sample_to_this_one(
    prober: Prober, run: Callable[[Prober], Events[object]]
) -> None:
    sampled = replace(prober, title=replace(prober.title, ranges=((0, 12),)))
    used = (sampled.title, sampled.cache, sampled.ffmpeg)
    drain(sample_source(*used))
    with closing(run(sampled)) as events:
        next(events)
        with sample_in_use(*used):
            pass
        assert len(list(prober.cache.root.rglob("excerpt.mov"))) == 1


def test_failures_are_reported_and_none_at_all_is_an_error(
    prober: Prober, fake_probes: FakeProbes
) -> None:
    fake_probes.fails = {Probe(24.0, Fraction(2)), Probe(30.0, Fraction(2))}
    curve = drain(make_curve(prober, GRID))
    assert len(curve.points) == 4
    assert set(curve.failures) == {"CRF 24 scale 2", "CRF 30 scale 2"}
    fake_probes.fails = {Probe(crf, Fraction(3, 2)) for crf in GRID.crfs}
    with pytest.raises(FitError, match="diverged"):
        drain(make_curve(prober, replace(GRID, scales=(Fraction(3, 2),))))


@pytest.mark.usefixtures("fake_probes")
def test_without_v1_the_next_metric_decides_and_says_so(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Prober.make

    def without(self: Prober, probe: Probe, starts: Any = ()) -> Any:
        point = yield from real(self, probe, starts)
        kept = {m: v for m, v in point.enhanced.items() if m not in ("vmaf_v1", "lpips")}
        return replace(point, enhanced=kept, missing={"vmaf_v1": "too small"})

    monkeypatch.setattr(Prober, "make", without)
    events, run = [], make_curve(prober, GRID)
    while True:
        try:
            events.append(next(run))
        except StopIteration as stop:
            curve = stop.value
            break
    assert curve.metric == "vmaf_v061"
    assert any(isinstance(e, Notice) and "too small" in e.message for e in events)
    assert curve.bd_rates["lpips"] is None
    assert curve_png(curve).startswith(b"\x89PNG")


def test_settings_that_make_no_sense() -> None:
    for changes in ({"crfs": ()}, {"scales": ()}, {"pool": "median"}, {"least_gain": 0.0}):
        with pytest.raises(UsageError, match="expected"):
            replace(GRID, **changes)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- written


@pytest.mark.usefixtures("fake_probes")
def test_the_table_marks_hull_and_choice(prober: Prober) -> None:
    fields = curve_fields(drain(make_curve(prober, GRID)), prober)
    grid = points_grid(fields["points"])
    names = [name for name, _ in grid.rows]
    assert len(names) == len(set(names)) == 9
    assert sum(name.startswith(">") for name in names) == 1
    assert sum(name.startswith("+ x265") for name in names) >= 2
    assert point_name({"family": "x265", "crf": 24.0}) == "x265 CRF 24"
    ((_, cells),) = bd_grid(fields["bd_rates"]).rows
    assert all(float(cell) < 0 for cell in cells[:3])


def test_the_command_says_all_that_is_not_the_default() -> None:
    settings = EncodeSettings(
        input="a title's.y4m",
        output=Path("o.mp4"),
        weights=Path("o.weights"),
        stream=StreamSettings(22.5, "slow", Fraction(3, 2), (("aq-mode", "3"),), "area", "none"),
        source=SourceOptions((64, 48), Fraction(25), "yuv420p", True, True),
        net="full",
        base="init-1",
        fit=FitSettings(steps=50, objective="fidelity", seed=2, bank_bytes=32 << 20),
        device="cpu",
        lpips_weights=Path("my lpips.safetensors"),
        score_seconds=90.0,
    )
    assert encode_command(settings) == (
        "codecaux encode --crf 22.5 --scale 1.5 --net full --preset slow --downscale area "
        "--tuning none --x265-params aq-mode=3 --base init-1 --steps 50 --objective fidelity "
        "--seed 2 --bank-mib 32 --size 64x48 --fps 25 --pix-fmt yuv420p --deinterlace --to-420 "
        "--score-seconds 90.0 --device cpu --lpips-weights 'my lpips.safetensors' -o o.mp4 "
        "'a title'\"'\"'s.y4m'"
    )
    plain = EncodeSettings("films/a.mkv", Path("a.mp4"), Path("a.weights"))
    assert encode_command(plain) == "codecaux encode --crf 21 --scale 2 --net light films/a.mkv"


@pytest.mark.parametrize(
    ("source", "output", "weights", "words"),
    [
        ("a.mkv", "a.mkv.mp4", "a.mkv.weights", "-o a.mkv.mp4 a.mkv"),
        ("a.mkv", "out/a.mp4", "out/a.weights", "-o out/a.mp4 a.mkv"),
        ("a.mkv", "b.mkv", "b.weights", "-o b.mkv a.mkv"),
        ("a.mkv", "a.mp4", "b.weights", "--weights b.weights a.mkv"),
        ("-a.mkv", "-a.mp4", "-a.weights", "-- -a.mkv"),
        ("-", "b.mp4", "b.weights", "-o b.mp4 -"),
    ],
)
def test_the_command_is_read_as_what_it_was_made_of(
    source: str, output: str, weights: str, words: str
) -> None:
    settings = EncodeSettings(
        source, Path(output), Path(weights), device="cpu", lpips_weights=Path("l"), score_seconds=9
    )
    command = encode_command(settings)
    assert command.partition(" --lpips-weights l ")[2] == words
    context = encode.make_context("encode", shlex.split(command)[2:])
    context.params.pop("json_output")
    assert settings_from_options(context.params) == settings


# ---------------------------------------------------------------------------------------- command


def test_table_csv_json_and_picture(
    wide: Path, tmp_path: Path, fake_probes: FakeProbes, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tmp_path / "report"
    arguments = ["curve", "--crf", "18:30:6", "--scales", "2,1", "--verify", "-o", str(name)]
    assert main([*arguments, str(wide)]) == 0
    out = capsys.readouterr().out
    for text in ("chosen: CRF", "BD-rate", "codecaux encode --crf", "whole title"):
        assert text in out
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines()))
    assert len(rows) == 9
    assert sum(row["is_chosen"] == "True" for row in rows) == 1
    assert float(rows[0]["enhanced_vmaf_v1"]) == pytest.approx(92.0)
    record = json.loads((tmp_path / "report.json").read_text())
    assert len(record["points"]) == 9
    assert record["probe_error"]["vmaf_v1"] == 0.0
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.width > picture.height > 300
    made = len(fake_probes.made)
    assert main([*arguments, str(wide)]) == 2
    assert "-y" in capsys.readouterr().err
    before = (tmp_path / "report.png").read_bytes()
    assert main([*arguments, "-y", str(wide)]) == 0
    assert len(fake_probes.made) == made
    assert (tmp_path / "report.png").read_bytes() == before


@pytest.mark.usefixtures("fake_probes")
@pytest.mark.parametrize("name", ["-title.mp4", "-title.mkv"])
def test_the_printed_command_runs_in_the_titles_own_folder(
    make_clip: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    lossless = make_clip(f"command{name}", codec="libx264", options=("-qp", "0"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(lossless, name)
    options = ["--crf", "30", "--scales", "2", *SMALL, "--device", "cpu", "--json"]
    assert main(["curve", *options, "--", name]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["chosen"]["command"]
    assert main(shlex.split(said)[1:]) == 0
    output = Path("-title-codecaux.mp4" if name.endswith(".mp4") else "-title.mp4")
    assert output.exists()
    assert output.with_suffix(".weights").exists()


def test_a_failed_probe_decides_the_exit_code_after_the_table(
    wide: Path, fake_probes: FakeProbes, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_probes.fails = {Probe(24.0)}
    assert main(["curve", "--crf", "18:30:6", "--scales", "2", str(wide)]) == 6
    out = capsys.readouterr().out
    assert "CRF 24 scale 2 failed: the fit diverged twice" in out
    assert "chosen:" in out
    fake_probes.fails = set()
    assert main(["curve", "--crf", "18:30:6", "--scales", "2", str(wide)]) == 0
    assert fake_probes.made[-1][0] == Probe(24.0)


def test_without_the_cache_nothing_is_kept(
    wide: Path, tmp_path: Path, fake_probes: FakeProbes
) -> None:
    arguments = ["curve", "--crf", "24", "--scales", "2", "--no-cache", str(wide)]
    assert main(arguments) == main(arguments) == 0
    assert len(fake_probes.made) == 4
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("more", [(), ("--no-cache",)])
def test_an_interrupt_says_how_to_go_on_where_one_can(
    wide: Path,
    fake_probes: FakeProbes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
) -> None:
    def stop(*arguments: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake_probes, "make", stop)
    assert main(["curve", "--crf", "24", "--scales", "2", *more, str(wide)]) == 130
    said = capsys.readouterr().err
    assert "interrupted" in said
    assert ("the same command goes on" in said) == (not more)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--crf", "", "clip.mkv"), 2, "expected CRFs"),
        (("--crf", "36:18:3", "clip.mkv"), 2, "FROM <= TO"),
        (("--crf", "18:60:3", "clip.mkv"), 2, "0 to 51"),
        (("--crf", "18:36:0", "clip.mkv"), 2, "step above 0"),
        (("--scales", "3", "clip.mkv"), 2, "2, 1.5 and 1"),
        (("--scales", "", "clip.mkv"), 2, "2, 1.5 and 1"),
        (("--jobs", "0", "clip.mkv"), 2, "at least one job"),
        (("--samples", "0", "clip.mkv"), 2, "at least one sample"),
        (("--least-gain", "-1", "clip.mkv"), 2, "above 0"),
        (("-o", "nowhere/report", "clip.mkv"), 2, "nowhere"),
        (
            ("-o", ".", "clip.mkv"),
            2,
            "got '.', which names a folder; add a name to it, like report",
        ),
        (("-o", "/", "clip.mkv"), 2, "got '/', which names a folder; add a name to it"),
        (("-o", "..", "clip.mkv"), 2, "add a name to it, like ../report"),
        (("-o", "", "clip.mkv"), 2, "expected -o NAME, from which NAME.csv, NAME.json, NAME.png"),
        (("-",), 2, "only once"),
        (("missing.mkv",), 3, "missing.mkv"),
        (("--net", "huge", "clip.mkv"), 2, "light"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    fake_probes: FakeProbes,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["curve", *arguments]) == code
    assert message in capsys.readouterr().err
    assert fake_probes.made == []


def test_a_real_curve_and_a_second_run_that_costs_next_to_nothing(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CODECAUX_CACHE", str(tmp_path / "cache"))
    arguments = ["curve", "--crf", "28,34", "--scales", "2", *SMALL, "--json", str(clip)]
    seconds, results = [], []
    for _ in range(2):
        began = time.monotonic()
        assert main(arguments) == 0
        seconds.append(time.monotonic() - began)
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    first, second = results
    assert (first["num_cached"], second["num_cached"]) == (0, 4)
    assert first["points"] == second["points"]
    # Next to nothing even beside ten steps of a fit; titles take minutes.
    assert seconds[1] < 0.2 * seconds[0]
    ours, x265 = first["points"][:2], first["points"][2:]
    assert [p["crf"] for p in ours] == [p["crf"] for p in x265] == [28, 34]
    assert {p["started_from_crf"] for p in ours} == {None, 34.0}
    for point in ours:
        shown = point["scores"]
        assert shown["enhanced"]["vmaf_v061"] > shown["bicubic"]["vmaf_v061"]
        assert point["total_kbps"] > point["stream_kbps"]


def test_a_killed_run_goes_on_where_it_was(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed outright, in two processes; what was whole by then is not made again."""
    monkeypatch.setenv("CODECAUX_CACHE", str(tmp_path / "cache"))
    arguments = ["curve", "--crf", "34", "--scales", "2", *SMALL, "--json", str(clip)]
    command = [sys.executable, "-m", "codecaux.cli.main", *arguments, "--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        for _ in range(600):
            if list((tmp_path / "cache").glob("entries/probe/*.entry")):
                break
            time.sleep(0.1)
        process.kill()
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["num_cached"] >= 1
    assert len(result["points"]) == 2
