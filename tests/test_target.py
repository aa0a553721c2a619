"""encode --target: what can be asked, how it is found, what is said where it cannot be had."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecaux.cli.encode import POOL_NAMES
from codecaux.cli.main import main
from codecaux.encoder.checks import check_encode
from codecaux.encoder.encode import EncodeResult
from codecaux.encoder.headstart import HeadStart
from codecaux.encoder.prepare import SourceOptions
from codecaux.encoder.settings import EncodeSettings
from codecaux.encoder.workdir import open_work_dir
from codecaux.errors import FitError, InputError, TargetError, UsageError
from codecaux.events import Events, Notice, drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.ladders import probes
from codecaux.ladders import target as module
from codecaux.ladders.cache import Cache
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.search import Search
from codecaux.ladders.settings import SamplingSettings
from codecaux.ladders.target import TargetEncode, encode_to_target, find_target
from codecaux.ladders.target_work import TargetWork
from codecaux.ladders.targets import parse_targets
from codecaux.ladders.titles import survey
from codecaux.rate import Rate
from codecaux.scores import POOLS, Scores
from codecaux.video import SCALES

if TYPE_CHECKING:
    from conftest import FakeProbes

X2 = (Fraction(2),)


# ------------------------------------------------------------------------------------------ parse


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("vmaf=94", "vmaf", 94),
        ("neg=90.5", "neg", 90.5),
        ("v0=.5", "v0", 0.5),
        ("lpips=0.1", "lpips", 0.1),
        ("psnr=38", "psnr", 38),
        ("size=40MB", "size", 40e6),
        ("size=1.5 GiB", "size", 1.5 * 2**30),
        ("rate=3M", "rate", 3000),
        ("rate=800k", "rate", 800),
        ("rate=3000000", "rate", 3000),
    ],
)
def test_targets_are_read(text: str, name: str, value: float) -> None:
    (target,) = parse_targets([text]).all
    assert (target.name, target.value) == (name, pytest.approx(value))
    (again,) = parse_targets([str(target)]).all
    # Six digits are said.
    assert (again.name, again.value) == (name, pytest.approx(value, rel=1e-5))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["vmaf"], "like vmaf=94"),
        (["ssim=0.9"], "like vmaf=94"),
        ([""], "like vmaf=94"),
        (["vmaf=high"], "a number"),
        (["vmaf=-3"], "a number"),
        (["vmaf=0"], "between 0 and 100"),
        (["vmaf=101"], "between 0 and 100"),
        (["vmaf=94MB"], "between 0 and 100"),
        (["lpips=2"], "between 0 and 1"),
        (["size=40"], "size=40MB"),
        (["size=0MB"], "above 0"),
        (["rate=3MB"], "rate=3M"),
        (["vmaf=94", "vmaf=90"], "contradict: vmaf=94 and vmaf=90"),
        (["size=40MB,rate=3M"], "contradict"),
    ],
)
def test_targets_that_make_no_sense(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_targets(texts)


def test_several_floors_and_a_ceiling_are_one_wish() -> None:
    targets = parse_targets(["vmaf=94,lpips=0.1", "size=40MB", "vmaf=94"], "p5")
    assert [target.name for target in targets.floors] == ["vmaf", "lpips"]
    assert targets.ceiling is not None
    assert targets.is_for_quality
    assert str(targets) == "vmaf=94, lpips=0.1, size=40MB (p5)"
    with pytest.raises(UsageError, match="pool"):
        parse_targets(["vmaf=94"], "median")


# ----------------------------------------------------------------------------------------- search


def _run(search: Search, margin: Callable[[float], float]) -> int:
    count = 0
    while (x := search.ask()) is not None:
        search.tell(x, margin(x))
        count += 1
    return count


@settings(deadline=None)  # the first call pays for the import of scipy
@given(
    edge=st.floats(9, 47),
    slope=st.floats(0.5, 12),
    bend=st.floats(-0.02, 0.02),
    noise=st.floats(0, 0.3),
)
def test_a_falling_margin_is_met_closely_in_few_trials(
    edge: float, slope: float, bend: float, noise: float
) -> None:
    def margin(x: float) -> float:
        d = x - edge
        return -slope * d * (1 + bend * d) + noise * (round(10 * x) % 3 - 1)

    search = Search(8, 48, 26)
    assert _run(search, margin) <= 12
    best = search.best
    assert best is not None
    assert margin(best) >= 0
    # A hit, or the next of the grid is known to miss, or as near as twelve trials come.
    assert margin(best) <= 1 + 2 * noise or best + 0.11 >= min(
        x for x in search.told if search.told[x] < 0
    )


@pytest.mark.parametrize(("shift", "expected"), [(100.0, 48.0), (-100.0, None)])
def test_what_is_met_everywhere_or_nowhere(shift: float, expected: float | None) -> None:
    search = Search(8, 48, 26)
    assert _run(search, lambda x: shift - 0.1 * x) <= 6
    assert search.best == expected
    assert expected is not None or search.nearest_miss == 8.0


def test_a_search_that_is_tightened_goes_on_to_the_largest_x() -> None:
    def margin(x: float) -> float:
        return 3 * (27.24 - x)

    search = Search(8, 48, 27)
    assert _run(search, margin) == 1
    assert search.best == 27.0
    search.tighten()
    assert _run(search, margin) <= 6
    assert search.best == 27.2
    # What is met everywhere ends at the end.
    search = Search(8, 48, 47.8)
    assert _run(search, lambda x: 0.5) == 1
    search.tighten()
    assert _run(search, lambda x: 0.5) == 1
    assert search.best == 48.0


def test_a_margin_that_is_not_monotone_ends_all_the_same() -> None:
    search = Search(8, 48, 26)
    assert _run(search, lambda x: 40 * (-1) ** round(10 * x)) <= 12


# ------------------------------------------------------------------------------------------- find


@pytest.fixture
def prober(make_clip: Callable[..., Path], tmp_path: Path, ffmpeg: Ffmpeg) -> Prober:
    clip = make_clip("wide.mkv", size=(256, 160), frames=24)
    cache = Cache.open(tmp_path / "cache")
    title = drain(survey(clip, SourceOptions(), SamplingSettings(), cache, ffmpeg))
    template = EncodeSettings(str(clip), Path("o.mp4"), Path("o.weights"), net="tiny", device="cpu")
    return Prober.open(title, template, cache)


def test_the_largest_crf_that_meets_it(prober: Prober, fake_probes: FakeProbes) -> None:
    # VMAF is 110 - CRF at scale 2: 84 is met up to CRF 26, and down to 25.5 closely enough.
    found = drain(find_target(prober, parse_targets(["vmaf=84"]), X2))
    assert 25.5 <= found.chosen.probe.crf <= 26
    score = found.chosen.point.score("vmaf_v1")
    assert score is not None
    assert 84 <= score <= 84.5
    assert len(found.trials) <= 5
    # Every probe after the first starts from the nearest before it.
    assert [start for _, start in fake_probes.made].count(None) == 1
    made = len(fake_probes.made)
    again = drain(find_target(prober, parse_targets(["vmaf=84"]), X2))
    assert again.chosen == found.chosen
    assert len(fake_probes.made) == made


@pytest.mark.parametrize(
    ("wish", "metric", "low", "high"),
    [
        ("neg=80", "vmaf_v061_neg", 80, 80.5),
        ("v0=90", "vmaf_v061", 90, 90.5),
        ("lpips=0.2", "lpips", 0.196, 0.2),
        ("psnr=34", "psnr_y_db", 34, 34.2),
    ],
)
@pytest.mark.usefixtures("fake_probes")
def test_every_metric_is_met_closely(
    prober: Prober, wish: str, metric: str, low: float, high: float
) -> None:
    score = drain(find_target(prober, parse_targets([wish]), X2)).chosen.point.score(metric)
    assert score is not None
    # 1e-9: rounding.
    assert low - 1e-9 <= score <= high


@pytest.mark.usefixtures("fake_probes")
def test_all_floors_are_met(prober: Prober) -> None:
    targets = parse_targets(["vmaf=80,neg=85"])  # NEG is 3 below: it decides
    point = drain(find_target(prober, targets, X2)).chosen.point
    assert targets.are_met(point)
    score = point.score("vmaf_v061_neg")
    assert score is not None
    assert 85 <= score <= 85.5


def test_a_quality_and_a_ceiling_that_only_one_crf_meets(
    prober: Prober, fake_probes: FakeProbes
) -> None:
    # CRF 25.5 is close enough to 84.3, but takes too much; 25.7 has 84.3 itself.
    kbps = {crf: fake_probes.point(prober, Probe(crf)).total_kbps for crf in (25.7, 25.9)}
    targets = parse_targets([f"vmaf=84.3,rate={1.0005 * kbps[25.7]:.3f}k"])
    found = drain(find_target(prober, targets, X2))
    assert found.chosen.probe.crf == 25.7
    assert targets.are_met(found.chosen.point)
    assert [trial.is_met for trial in found.trials].count(True) == 1
    with pytest.raises(TargetError, match=r"CRF 25\.7 "):
        drain(find_target(prober, parse_targets([f"vmaf=84.3,rate={kbps[25.9]:.3f}k"]), X2))
    # Far out of reach is seen at once.
    tried = len(fake_probes.made)
    with pytest.raises(TargetError):
        drain(find_target(prober, parse_targets(["vmaf=84.3,rate=10k"]), X2))
    assert len(fake_probes.made) == tried


@pytest.mark.parametrize(("wish", "limit"), [("rate=900k", 900.0), ("size=120kB", None)])
@pytest.mark.usefixtures("fake_probes")
def test_size_and_rate_are_kept_and_used(prober: Prober, wish: str, limit: float | None) -> None:
    found = drain(find_target(prober, parse_targets([wish]), X2))
    point = found.chosen.point
    spent, allowed = (point.total_kbps, limit) if limit else (point.total_bytes, 120e3)
    assert allowed is not None
    # A tenth of a CRF is 1.2 % of the rate: one of the grid lies within 2 %.
    assert 0.98 * allowed <= spent <= allowed


@pytest.mark.usefixtures("fake_probes")
def test_copied_sound_counts_in_a_size(prober: Prober) -> None:
    wished = parse_targets(["size=170kB"])
    found = drain(find_target(prober, wished.beside(50_000), X2))
    assert 0.98 * 170e3 <= found.chosen.point.total_bytes + 50_000 <= 170e3
    assert str(found.targets) == "size=0.17MB"
    assert found.targets.beside_bytes == 50_000
    with pytest.raises(TargetError, match=r"take 0\.17 MB by themselves"):
        wished.beside(170_000)
    # Of files nothing else is limited.
    assert not parse_targets(["rate=900k"]).has_size
    assert not parse_targets(["vmaf=84"]).has_size
    with pytest.raises(TargetError, match=r"with 0\.05 MB of sound, subtitles and container"):
        drain(find_target(prober, parse_targets(["size=51kB"]).beside(50_000), X2))


def test_the_cheapest_scale_is_taken(prober: Prober, fake_probes: FakeProbes) -> None:
    found = drain(find_target(prober, parse_targets(["vmaf=84"]), SCALES))
    cost = {}
    for trial in found.trials:
        if trial.margin >= 0:
            kbps = trial.point.total_kbps
            cost[trial.probe.scale] = min(kbps, cost.get(trial.probe.scale, kbps))
    assert set(cost) == set(SCALES)
    assert cost[found.chosen.probe.scale] == min(cost.values())
    # Where scale 2 cannot reach it at all, another one is taken.
    fake_probes.vmaf = lambda crf, scale: (70.0 if scale == 2 else 110.0) - crf
    high = drain(find_target(prober, parse_targets(["vmaf=90"]), SCALES))
    assert high.chosen.probe.scale != 2


@pytest.mark.usefixtures("fake_probes")
def test_out_of_reach_carries_the_best_and_its_command(prober: Prober) -> None:
    with pytest.raises(TargetError, match=r"codecaux encode --crf 8 --scale 2 --net tiny") as info:
        drain(find_target(prober, parse_targets(["psnr=60"]), X2))
    assert isinstance(info.value.best, OperatingPoint)
    assert info.value.best.crf == 8
    assert "PSNR-Y" in str(info.value)
    # Quality and size that do not go together.
    with pytest.raises(TargetError, match=r"vmaf=90, size=0.01MB, which is out of reach"):
        drain(find_target(prober, parse_targets(["vmaf=90", "size=10kB"]), X2))


@pytest.mark.usefixtures("fake_probes")
def test_a_metric_that_is_missing_is_an_input_error(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Prober.make

    def without(self: Prober, probe: Probe, starts: Any = ()) -> Events[OperatingPoint]:
        point = yield from real(self, probe, starts)
        kept = {m: v for m, v in point.enhanced.items() if m != "lpips"}
        return replace(point, enhanced=kept, missing={"lpips": "no weights were given"})

    monkeypatch.setattr(Prober, "make", without)
    with pytest.raises(InputError, match=r"lpips.*no weights were given"):
        drain(find_target(prober, parse_targets(["lpips=0.1"]), X2))


# ------------------------------------------------------------------------------------ whole titles


@dataclass
class FakeWholes:
    """Stand in for the encodes of whole titles, with their real refusals.

    ``made``: CRFs, in order; ``raises``: what comes instead of the n-th. ``lost``: (CRF) -> by how
    much less a whole title scores than its probe.
    """

    lost: Callable[[float], float]
    made: list[float] = field(default_factory=list)
    raises: dict[int, BaseException] = field(default_factory=dict)

    def encode(self, settings: EncodeSettings, head: HeadStart) -> Events[EncodeResult]:
        check_encode(settings)
        yield Notice("encoding")
        self.made.append(settings.stream.crf)
        if len(self.made) in self.raises:
            raise self.raises[len(self.made)]
        settings.output.write_text(f"stream at CRF {settings.stream.crf:g}")
        settings.weights.write_text(f"weights at CRF {settings.stream.crf:g}")
        scores = {"enhanced": Scores(*[90.0] * 6, num_frames=24, lpips_frames=1)}
        rate = Rate(1, 1, 1.0)
        return EncodeResult(settings.output, settings.weights, rate, scores, {}, "CPU", 24)


@pytest.fixture
def wholes(fake_probes: FakeProbes, monkeypatch: pytest.MonkeyPatch) -> FakeWholes:
    fake = FakeWholes(lambda crf: 1.2)

    def point_of(prober: Prober, probe: Probe, result: EncodeResult) -> OperatingPoint:
        assert result.scores["enhanced"].vmaf_v1 == 90.0
        point, lost = fake_probes.point(prober, probe), fake.lost(probe.crf)
        lower = {m: {p: v - lost for p, v in by.items()} for m, by in point.enhanced.items()}
        return replace(point, enhanced=lower)

    monkeypatch.setattr(module, "encode", fake.encode)
    monkeypatch.setattr(Prober, "point_of", point_of)
    # Nothing to start from in made-up probes.
    monkeypatch.setattr(probes, "weights_to_start_from", lambda payload: None)
    return fake


@pytest.fixture
def sampled(prober: Prober) -> Prober:
    return replace(prober, title=replace(prober.title, ranges=((0, 12),)))


def _made(prober: Prober, folder: Path, wish: str = "vmaf=84", **changes: bool) -> TargetEncode:
    prober = replace(prober, settings=replace(prober.settings, **changes))
    paths = (folder / "a.mp4", folder / "a.w")
    return drain(encode_to_target(prober, parse_targets([wish]), X2, *paths))


def test_a_sampled_title_that_misses_is_made_again(
    sampled: Prober, wholes: FakeWholes, tmp_path: Path
) -> None:
    (tmp_path / "o").mkdir()
    result = _made(sampled, tmp_path / "o")
    assert len(wholes.made) == 2
    assert result.is_met
    score = result.final.score("vmaf_v1")
    assert score is not None
    assert 84 <= score <= 84.5
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["a.mp4", "a.w"]
    assert result.result.stream.read_text() == f"stream at CRF {wholes.made[1]:g}"
    assert result.result.weights.read_text() == f"weights at CRF {wholes.made[1]:g}"


def test_killed_between_whole_titles_it_goes_on(
    sampled: Prober, wholes: FakeWholes, tmp_path: Path
) -> None:
    wholes.raises[2] = KeyboardInterrupt()
    (tmp_path / "o").mkdir()
    with pytest.raises(KeyboardInterrupt):
        _made(sampled, tmp_path / "o")
    # Nothing has the output's name that is not what was asked for.
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["a.mp4.codecaux-work"]
    with pytest.raises(UsageError, match="add --resume"):
        _made(sampled, tmp_path / "o")
    result = _made(sampled, tmp_path / "o", resume=True)
    first, second, again = wholes.made
    assert (first, second) == (26.0, again)
    assert result.is_met
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["a.mp4", "a.w"]
    # It is all the same as what was never killed.
    (tmp_path / "whole").mkdir()
    assert _made(sampled, tmp_path / "whole").final == result.final


def test_killed_it_starts_again_with_y(sampled: Prober, wholes: FakeWholes, tmp_path: Path) -> None:
    wholes.raises[2] = KeyboardInterrupt()
    (tmp_path / "o").mkdir()
    with pytest.raises(KeyboardInterrupt):
        _made(sampled, tmp_path / "o")
    _made(sampled, tmp_path / "o", overwrite=True)
    assert wholes.made[0] == wholes.made[2]
    with pytest.raises(UsageError, match="add -y"):
        _made(sampled, tmp_path / "o", resume=True)


def test_a_plain_encode_is_not_gone_on_with(
    sampled: Prober, wholes: FakeWholes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    settings = replace(sampled.settings, output=tmp_path / "a.mp4", weights=tmp_path / "a.w")
    open_work_dir(settings)
    with pytest.raises(UsageError, match="had no --target"):
        _made(sampled, tmp_path, resume=True)
    assert not fake_probes.made


def test_the_best_of_the_whole_titles_is_taken(
    sampled: Prober, wholes: FakeWholes, tmp_path: Path
) -> None:
    """The first has 3 more than it wants; those that make use of it miss."""
    wholes.lost = lambda crf: -3.0 if crf <= 26 else 1.0 + crf / 10
    result = _made(sampled, tmp_path)
    assert len(wholes.made) == 3
    assert result.is_met
    assert result.result.stream.read_text() == "stream at CRF 26"
    # A fit that fails loses nothing that was made.
    wholes.made.clear()
    wholes.raises[2] = FitError("the fit diverged twice; try another --seed")
    assert _made(sampled, tmp_path, overwrite=True).is_met
    assert len(wholes.made) == 2


@pytest.mark.usefixtures("wholes")
def test_a_ceiling_beside_a_quality_is_kept_by_the_whole_title(
    sampled: Prober, fake_probes: FakeProbes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which takes 5 % more than its samples said."""

    def point_of(prober: Prober, probe: Probe, result: EncodeResult) -> OperatingPoint:
        point = fake_probes.point(prober, probe)
        rate = replace(point.rate, stream_bytes=round(1.05 * point.rate.stream_bytes))
        return replace(point, rate=rate)

    monkeypatch.setattr(Prober, "point_of", point_of)
    kbps = 1.001 * fake_probes.point(sampled, Probe(26.0)).total_kbps
    result = _made(sampled, tmp_path, f"vmaf=82,rate={kbps:.3f}k")
    assert result.is_met


def test_a_whole_title_that_misses_is_written_and_exits_with_7(
    make_clip: Callable[..., Path],
    wholes: FakeWholes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It scores 30 less than its samples: no probe promises enough for that."""
    wholes.lost = lambda crf: 30.0
    clip = make_clip("wide.mkv", size=(256, 160), frames=24)
    output = tmp_path / "out.mp4"
    arguments = ["encode", "--target", "vmaf=94", "--net", "tiny", "--sample-seconds", "0.5"]
    assert main([*arguments, "-o", str(output), "--json", str(clip)]) == 7
    said = capsys.readouterr()
    *_, result, error = map(json.loads, said.out.splitlines())
    assert (result["event"], result["target"]["is_met"]) == ("result", False)
    assert result["target"]["final"]["scores"]["enhanced"]["vmaf_v1"] < 65
    assert (error["event"], error["exit_code"]) == ("error", 7)
    assert "VMAF v1 64." in error["message"]
    assert f"{output} and {output.with_suffix('.weights')} are written" in error["message"]
    assert output.exists()


# ---------------------------------------------------------------------------------------- command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "vmaf=94", "--target", "vmaf=90"), "contradict"),
        (("--target", "size=1MB,rate=3M"), "contradict"),
        (("--target", "vmaf=94", "--crf", "24"), "one of them"),
        (("--target", "beauty=1"), "vmaf=94"),
        (("--target", "vmaf=94", "--pool", "median"), "p5"),
        (("--target", "vmaf=94", "--sample-seconds", "0"), "more than 0"),
        (("--scale", "auto"), "--target"),
        (("--pool", "p5"), "--target"),
    ],
)
def test_senseless_command_lines(
    arguments: tuple[str, ...],
    message: str,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["encode", *arguments, str(clip)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_stdin_and_existing_outputs_are_refused_before_the_search(
    clip: Path, tmp_path: Path, fake_probes: FakeProbes, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    assert main(["encode", "--target", "vmaf=90", "-o", str(output), "-"]) == 2
    assert "only once" in capsys.readouterr().err
    output.write_bytes(b"")
    assert main(["encode", "--target", "vmaf=90", "-o", str(output), str(clip)]) == 2
    assert "-y" in capsys.readouterr().err
    assert fake_probes.made == []


def test_out_of_reach_is_exit_code_7(
    make_clip: Callable[..., Path],
    tmp_path: Path,
    fake_probes: FakeProbes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = make_clip("wide.mkv", size=(256, 160), frames=24)
    fake_probes.vmaf = lambda crf, scale: 80.0 - crf / 2
    output = tmp_path / "out.mp4"
    code = main(["encode", "--target", "vmaf=94", "--net", "tiny", "-o", str(output), str(clip)])
    assert code == 7
    err = capsys.readouterr().err
    assert "codecaux encode --crf 8 --scale 2 --net tiny" in err
    assert "VMAF v1 76.00" in err
    assert not output.exists()


def test_a_title_encoded_to_a_target(
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole way on a small title: the encode has exactly what its probe said."""
    monkeypatch.setenv("CODECAUX_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "out.mp4"
    small = ("--net", "tiny", "--steps", "10", "--objective", "fidelity", "--preset", "ultrafast")
    arguments = ["encode", "--target", "v0=50", *small, "-o", str(output), str(clip), "--json"]
    monkeypatch.setattr(module, "_START_CRF", 30.5)
    keep = TargetWork.keep

    def kept_whole(work: TargetWork, name: str, result: EncodeResult) -> None:
        keep(work, name, result)
        assert work.result(name) == result

    monkeypatch.setattr(TargetWork, "keep", kept_whole)
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    target = result["target"]
    assert target["is_met"]
    assert 50 <= result["scores"]["enhanced"]["vmaf_v061"] <= 51.5
    assert target["final"]["scores"] == target["chosen"]["scores"]
    assert [probe["is_chosen"] for probe in target["probes"]].count(True) == 1
    assert output.exists()


def test_the_pools_that_are_offered_are_those_known() -> None:
    assert set(POOL_NAMES) == set(POOLS)
