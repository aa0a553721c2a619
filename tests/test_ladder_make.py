"""The way of a whole ladder, its encodes made short: refused, made, interrupted, gone on with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import FakeProbes

from codecaux.cli.main import main
from codecaux.encoder import prepare as preparing
from codecaux.encoder.encode import EncodeResult
from codecaux.encoder.headstart import HeadStart
from codecaux.encoder.prepare import SourceOptions
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.encoder.workdir import LOCK_NAME
from codecaux.errors import FitError, InputError, UsageError
from codecaux.events import Event, Events, Notice, drain
from codecaux.ffmpeg import find_ffmpeg
from codecaux.ladderindex import INDEX_NAME, read_index
from codecaux.ladders import finals, probes, sharing
from codecaux.ladders.cache import Cache
from codecaux.ladders.jobs import Job, Outcome, resolve
from codecaux.ladders.ladder import Ladder, make_ladder
from codecaux.ladders.ladder_settings import LadderSettings
from codecaux.ladders.ladder_work import work_folder_of
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.settings import SamplingSettings
from codecaux.rate import total_rate
from codecaux.scores import Scores

SETTINGS = EncodeSettings(
    input="",
    output=Path("rung.mp4"),
    weights=Path("rung.weights"),
    stream=StreamSettings(crf=24, preset="ultrafast"),
    net="tiny",
    fit=FitSettings(steps=10),
    device="cpu",
    lpips_frames=1,
)
# Fake probes score 112 - CRF - 2 at scale 2, rates halve every 6 CRFs: 6 points apart.
WANTED = LadderSettings(
    crfs=(26.0, 32.0, 38.0), scales=(Fraction(2),), segment_seconds=Fraction(1), share=False
)


@dataclass
class FakeEncodes:
    """Stand in for encodes: real streams, made-up weights and scores. ``made``: CRFs, in order;
    ``raises``: what comes instead of an encode at a CRF. ``kept``: its last settings.
    """

    write_weights: Callable[[Path, Path, tuple[int, int], int], Path]
    made: list[float] = field(default_factory=list)
    raises: dict[float, BaseException] = field(default_factory=dict)
    kept: dict[float, EncodeSettings] = field(default_factory=dict)

    def encode(self, settings: EncodeSettings, head: HeadStart) -> Events[EncodeResult]:
        crf = settings.stream.crf
        if crf in self.raises:
            raise self.raises[crf]
        # Whose sound is the ladder's, not the rung's: what an mp4 cannot hold is not lost.
        assert head.takes_pictures
        assert head.source is not None
        self.made.append(crf)
        self.kept[crf] = settings
        source = head.source
        yield from encode_stream(source, settings.stream, settings.output, find_ffmpeg())
        layout = source.info.format
        size = (layout.width, layout.height)
        self.write_weights(settings.output, settings.weights, size, source.num_frames)
        scores = {"bicubic": _scores(crf, -4.0), "enhanced": _scores(crf, 0.0)}
        rate = total_rate(settings.output, settings.weights)
        return EncodeResult(
            settings.output, settings.weights, rate, scores, {"fit": 1.0}, "cpu", source.num_frames
        )


def _scores(crf: float, off: float) -> Scores:
    values = {"vmaf_v1": 109.9 - crf + off, "vmaf_v061": 108 - crf + off, "lpips": crf / 100}
    rest = {"vmaf_v061_neg": 100 - crf, "psnr_y_db": 30.0, "ssim": 0.9}
    found: dict[str, Any] = values | rest
    return Scores(
        **found, num_frames=1, lpips_frames=1, per_frame={m: (v,) for m, v in found.items()}
    )


@pytest.fixture
def fake_encodes(
    monkeypatch: pytest.MonkeyPatch,
    fake_probes: FakeProbes,
    random_weights: Callable[[Path, Path, tuple[int, int], int], Path],
) -> FakeEncodes:
    fake = FakeEncodes(random_weights)
    monkeypatch.setattr(finals, "encode", fake.encode)
    # Nothing to start from in made-up probes.
    monkeypatch.setattr(probes, "weights_to_start_from", lambda payload: None)
    return fake


@pytest.fixture
def title(make_clip: Callable[..., Path]) -> Path:
    """128x72, 3.4 s at 25 fps, with sound."""
    sound = ("-f", "lavfi", "-t", "3.4", "-i", "sine=frequency=440:sample_rate=48000")
    return make_clip(
        "title<b>&.mkv",
        size=(128, 72),
        fps="25",
        frames=85,
        filters="setparams=range=limited:colorspace=bt709:color_primaries=bt709:color_trc=bt709",
        inputs=sound,
        options=("-c:a", "flac", "-metadata:s:a:0", "title=Sine", "-metadata:s:a:0", "language=en"),
    )


def _make(
    title: Path, output: Path, wanted: LadderSettings = WANTED, **changes: Any
) -> tuple[Ladder, list[Event]]:
    settings = replace(SETTINGS, input=str(title), **changes)
    events = make_ladder(str(title), settings, wanted, output, cache=Cache.open())
    seen: list[Event] = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            return stop.value, seen


# -------------------------------------------------------------------------------------------- made


def test_a_ladder_is_made_whole(title: Path, fake_encodes: FakeEncodes, tmp_path: Path) -> None:
    output = tmp_path / "ladder"
    made, _ = _make(title, output, replace(WANTED, fallback=True))
    assert [rung.foretold.probe for rung in made.rungs] == [Probe(c) for c in (38.0, 32.0, 26.0)]
    assert not work_folder_of(output).exists()
    expected = {"master.m3u8", "manifest.mpd", "codecaux.json", "report.html", "report.json"}
    expected |= {"weights", "video-1", "video-2", "video-3", "h264-1", "audio-1"}
    assert {path.name for path in output.iterdir()} == expected
    index = read_index(output / "codecaux.json")
    assert [rung.height for rung in index.rungs] == [36, 36, 36, 72]
    assert len(index.weights) == 3
    assert [(audio.name, audio.language) for audio in index.audio] == [("Sine", "en")]
    assert index.audio[0].codecs == "mp4a.40.2"  # no segment holds FLAC
    assert all(rung.num_segments == 4 for rung in index.rungs)


def test_rungs_are_capped_on_the_grid_of_keyframes(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    made, _ = _make(title, tmp_path / "ladder", replace(WANTED, peak=2.5))
    for rung in made.rungs:
        stream = fake_encodes.kept[rung.point.crf].stream
        params = dict(stream.x265_params)
        assert (params["keyint"], params["min-keyint"], params["open-gop"]) == ("25", "25", "0")
        cap = round(2.5 * 0.8 * rung.foretold.point.stream_kbps)
        assert params["vbv-maxrate"] == str(cap)
        assert params["vbv-bufsize"] == str(round(cap / 2))


def test_probes_have_the_ladders_keyframes(
    title: Path, fake_encodes: FakeEncodes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    _make(title, tmp_path / "a")
    assert len(fake_probes.made) == 6
    # The same grid again: everything is known; other segments are other probes.
    _make(title, tmp_path / "b", replace(WANTED, count=2))
    assert len(fake_probes.made) == 6
    _make(title, tmp_path / "c", replace(WANTED, segment_seconds=Fraction(2)))
    assert len(fake_probes.made) == 12


def test_fewer_rungs_than_were_asked_for_are_said(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    made, seen = _make(title, tmp_path / "a", replace(WANTED, count=6))
    assert len(made.rungs) == 3
    (said,) = [e.message for e in seen if isinstance(e, Notice) and e.level == "warning"]
    assert said.startswith("3 of 6 rungs: ")
    assert "finer --crf" in said
    _, seen = _make(title, tmp_path / "b", replace(WANTED, count=3))
    assert not [e for e in seen if isinstance(e, Notice) and e.level == "warning"]


def test_a_long_title_is_probed_on_samples_and_made_whole(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, input=str(title))
    sampling = SamplingSettings(seconds=0.5, count=2)
    made = drain(
        make_ladder(
            str(title), settings, WANTED, tmp_path / "l", sampling=sampling, cache=Cache.open()
        )
    )
    assert made.title.sample_frames == 24
    assert all(entry.num_frames == 85 for entry in made.entries.values())
    html = (tmp_path / "l" / "report.html").read_text(encoding="utf-8")
    assert "probed on samples of 1.0 s" in html


def test_rates_are_probed_for(
    title: Path, fake_encodes: FakeEncodes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    # At scale 2 CRF 38 takes 173 kb/s and 32 takes 345, with 4 kB of weights over 3.4 s: 9.4 kb/s.
    wanted = replace(WANTED, rates_kbps=(300.0, 1e6))
    made, _ = _make(title, tmp_path / "ladder", wanted)
    low, high = (rung.foretold.point for rung in made.rungs)
    assert 285 < low.total_kbps <= 300
    assert high.crf == 26
    assert len(fake_probes.made) == 7


@pytest.mark.usefixtures("fake_encodes")
def test_a_title_that_has_to_be_converted_is_so_once_for_all_rungs(
    make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = make_clip("ladder-422.mkv", size=(128, 72), fps="25", frames=85, pixel_format="yuv422p")
    made = []
    real = preparing._mezzanine_arguments

    def counted(job: Any, output: Path) -> list[str]:
        made.append(output)
        return real(job, output)

    monkeypatch.setattr(preparing, "_mezzanine_arguments", counted)
    output = tmp_path / "ladder"
    ladder, _ = _make(title, output, source=SourceOptions(to_420=True))
    assert len(ladder.rungs) == 3
    # One to look the title over, one for the rungs.
    assert len(made) == 2
    assert output.is_dir()


def test_rungs_in_other_processes_are_the_same(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process is told is enough, as JSON, to make the same rung."""

    def run_jobs(jobs: Sequence[Job], count: int) -> Events[dict[str, Outcome]]:
        assert count == 2
        outcomes = {}
        for job in jobs:
            arguments = json.loads(json.dumps(job.arguments))
            outcomes[job.key] = Outcome((yield from resolve(job.function)(arguments)))
        return outcomes

    monkeypatch.setattr(finals, "run_jobs", run_jobs)
    apart, _ = _make(title, tmp_path / "apart", replace(WANTED, jobs=2))
    told = dict(fake_encodes.kept)
    here, _ = _make(title, tmp_path / "here")
    for rung, other in zip(apart.rungs, here.rungs, strict=True):
        assert rung.point == other.point
        crf = rung.point.crf
        assert told[crf].stream == fake_encodes.kept[crf].stream
        assert told[crf].fit == fake_encodes.kept[crf].fit
    for name in ("master.m3u8", "manifest.mpd", "codecaux.json"):
        same = [(tmp_path / folder / name).read_bytes() for folder in ("apart", "here")]
        assert same[0] == same[1], name


# ------------------------------------------------------------------------------------------ report


class _Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_needs_no_network_and_escapes(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    made, _ = _make(title, tmp_path / "ladder")
    html = (made.files.folder / "report.html").read_text(encoding="utf-8")
    page = _Page(html)
    names = [tag for tag, _ in page.tags]
    assert "script" not in names
    assert title.name in page.text
    assert "<b>&" not in html
    assert names.count("img") == 3
    assert names.count("svg") == 2
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/png;base64,"), (tag, value)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "probed on samples" not in page.text
    for heading in ("Rungs", "Curves and hulls", "Against x265", "Apple's fixed", "Time and bytes"):
        assert heading in page.text


def test_the_reports_numbers(title: Path, fake_encodes: FakeEncodes, tmp_path: Path) -> None:
    made, _ = _make(title, tmp_path / "ladder")
    fields = json.loads((made.files.folder / "report.json").read_text(encoding="utf-8"))
    index = read_index(made.files.index_path)
    storage = fields["storage"]
    assert storage["weights_bytes"] == sum(entry.bytes for entry in index.weights)
    streams = sum(rung.point.rate.stream_bytes for rung in made.rungs)
    assert storage["total_bytes"] == streams + storage["weights_bytes"]
    # Probes said 110 - CRF, the finished rungs 109.9 - CRF.
    assert fields["rungs"][0]["probe_error"]["vmaf_v1"] == pytest.approx(0.1)
    assert fields["rungs"][0]["folder"] == "video-1"
    assert fields["apple"]["rungs"] == []  # 72 lines
    assert sum(point["is_chosen"] for point in fields["points"]) == 3
    assert fields["num_probes"] == 6


# ---------------------------------------------------------------------------------- shared weights


def _rung_name(path: Path) -> str:
    """Without the digest of its settings."""
    return path.stem.rpartition("-")[0]


def test_weights_are_shared_where_that_pays(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, str]] = []

    def score(market: object, stream: Path, weights: Path) -> Events[dict[str, Any]]:
        tried.append((_rung_name(stream), _rung_name(weights)))
        crf = float(tried[-1][0].partition("crf")[2])
        lost = 0.0 if tried[-1] == ("36p-crf38", "36p-crf32") else 1.0
        yield from ()
        return {"vmaf_v1": {"mean": 109.9 - crf - lost}, "lpips": {"mean": crf / 100}}

    monkeypatch.setattr(sharing._Market, "_score", score)
    made, _ = _make(title, tmp_path / "ladder", replace(WANTED, share=True))
    assert len(tried) == 4  # neighbours, both ways
    low, middle, high = made.rungs
    assert (low.weights_of, middle.weights_of, high.weights_of) == (
        "36p-crf32",
        "36p-crf32",
        "36p-crf26",
    )
    index = read_index(made.files.index_path)
    assert [entry.rungs for entry in index.weights] == [("video-1", "video-2"), ("video-3",)]
    # Whoever plays the lowest rung alone fetches the other's file.
    assert low.point.rate.weights_bytes == middle.own_bytes
    fields = json.loads((made.files.folder / "report.json").read_text(encoding="utf-8"))
    assert fields["storage"]["weights_bytes"] == middle.own_bytes + high.own_bytes


def test_a_real_trial_scores_the_rung_with_the_others_weights(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    made, seen = _make(title, tmp_path / "ladder", replace(WANTED, share=True, count=2))
    # Random weights on another stream are as bad as on their own, and real scores of a picture
    # this small lack VMAF v1: nothing is shared without it.
    assert [rung.weights_of for rung in made.rungs] == [rung.name for rung in made.rungs]
    assert sum("trying the weights of" in getattr(event, "message", "") for event in seen) == 2


# ----------------------------------------------------------------------------------------- refused


def test_a_title_shorter_than_a_segment_is_refused(
    title: Path, fake_encodes: FakeEncodes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"longer than one segment of 4 s, got 3\.40 s"):
        _make(title, tmp_path / "ladder", replace(WANTED, segment_seconds=Fraction(4)))
    assert not fake_probes.made
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("ladder")]


def test_folders_that_a_ladder_may_not_become(
    title: Path, fake_encodes: FakeEncodes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not empty and no ladder"):
            _make(title, full, overwrite=overwrite)
    (full / INDEX_NAME).write_text("an older ladder's")
    with pytest.raises(UsageError, match="holds a ladder; add -y"):
        _make(title, full)
    with pytest.raises(UsageError, match="got the file"):
        _make(title, full / "mine.txt", overwrite=True)
    with pytest.raises(UsageError, match="create it first"):
        _make(title, tmp_path / "nowhere" / "ladder")
    shutil.copy(title, full / "title.mkv")
    with pytest.raises(UsageError, match="holds the source"):
        _make(full / "title.mkv", full, overwrite=True)
    assert (full / "mine.txt").exists()
    assert not fake_probes.made
    _make(title, full, overwrite=True)
    assert (full / "master.m3u8").exists()
    assert not (full / "mine.txt").exists()
    assert (full / INDEX_NAME).read_text() != "an older ladder's"


def test_parameters_that_are_the_ladders_own_are_refused(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    stream = replace(SETTINGS.stream, x265_params=(("keyint", "250"),))
    with pytest.raises(UsageError, match="keyint"):
        _make(title, tmp_path / "ladder", stream=stream)


# ------------------------------------------------------------------------------------- interrupted


def test_an_interrupted_ladder_is_gone_on_with(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    output = tmp_path / "ladder"
    fake_encodes.raises[32.0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _make(title, output)
    assert not output.exists()
    assert work_folder_of(output).is_dir()
    fake_encodes.raises.clear()
    with pytest.raises(UsageError, match="add --resume"):
        _make(title, output)
    with pytest.raises(UsageError, match=r"started with ladder\.peak = 2\.0, now it is 3\.0"):
        _make(title, output, replace(WANTED, peak=3.0), resume=True)
    assert fake_encodes.made == [38.0]
    # Another number of processes is no other ladder.
    _make(title, output, replace(WANTED, jobs=1), resume=True)
    assert fake_encodes.made == [38.0, 32.0, 26.0]
    assert (output / "master.m3u8").exists()
    assert not work_folder_of(output).exists()


def test_an_interrupted_ladder_is_bound_to_its_samples_and_lpips(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(seconds: float, **changes: Any) -> Ladder:
        settings = replace(SETTINGS, input=str(title), **changes)
        sampling = SamplingSettings(seconds=seconds, count=2)
        output = tmp_path / "ladder"
        return drain(
            make_ladder(str(title), settings, WANTED, output, sampling=sampling, cache=Cache.open())
        )

    fake_encodes.raises[32.0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        make(0.5)
    with pytest.raises(UsageError, match=r"started with sampling\.seconds = 0\.5, now it is 0\.8"):
        make(0.8, resume=True)
    monkeypatch.setattr(Prober, "lpips", lambda self: {"alex": "other", "squeeze": None})
    with pytest.raises(UsageError, match="other LPIPS weights"):
        make(0.5, resume=True)
    assert fake_encodes.made == [38.0]


def test_a_ladder_goes_on_though_its_title_was_renamed(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    before = tmp_path / "before.mkv"
    shutil.copy(title, before)
    fake_encodes.raises[32.0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _make(before, tmp_path / "ladder")
    fake_encodes.raises.clear()
    _make(before.rename(tmp_path / "after.mkv"), tmp_path / "ladder", resume=True)
    assert fake_encodes.made == [38.0, 32.0, 26.0]


def test_a_finished_rung_of_other_settings_is_made_again(
    title: Path, fake_encodes: FakeEncodes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    fake_encodes.raises[32.0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _make(title, tmp_path / "ladder")
    fake_encodes.raises.clear()
    # The probes are lost, and made anew they say that all rates are twice as high.
    shutil.rmtree(tmp_path / "cache")
    point = fake_probes.point

    def twice(prober: Prober, probe: Probe) -> OperatingPoint:
        found = point(prober, probe)
        rate = replace(found.rate, stream_bytes=2 * found.rate.stream_bytes)
        return replace(found, rate=rate)

    fake_probes.point = twice  # type: ignore[method-assign]
    made, _ = _make(title, tmp_path / "ladder", resume=True)
    assert fake_encodes.made == [38.0, 38.0, 32.0, 26.0]
    for rung in made.rungs:
        cap = round(2.0 * 0.8 * rung.foretold.point.stream_kbps)
        params = dict(fake_encodes.kept[rung.point.crf].stream.x265_params)
        assert params["vbv-maxrate"] == str(cap)


def test_an_interrupted_ladder_is_given_up_with_y(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    output = tmp_path / "ladder"
    fake_encodes.raises[32.0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _make(title, output)
    fake_encodes.raises.clear()
    _make(title, output, overwrite=True)
    assert fake_encodes.made == [38.0, 38.0, 32.0, 26.0]


def _files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("changes", [{}, {"resume": True}, {"overwrite": True}])
def test_two_ladders_of_one_output_do_not_mix(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path, changes: dict[str, Any]
) -> None:
    pytest.importorskip("fcntl")
    output = tmp_path / "ladder"
    settings = replace(SETTINGS, input=str(title))
    first = make_ladder(str(title), settings, WANTED, output, cache=Cache.open())
    with closing(first):
        while not fake_encodes.made:
            next(first)
        before = _files_in(work_folder_of(output))
        with pytest.raises(UsageError, match="got another ladder at work there; wait for it"):
            _make(title, output, **changes)
        assert _files_in(work_folder_of(output)) == before
        drain(first)
    assert fake_encodes.made == [38.0, 32.0, 26.0]
    assert (output / "master.m3u8").exists()
    assert not work_folder_of(output).exists()


def test_a_killed_process_holds_no_ladder(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl")
    output = tmp_path / "ladder"
    fake_encodes.raises[32.0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _make(title, output)
    fake_encodes.raises.clear()
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX)"
    code = f"{hold}; print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, str(work_folder_of(output) / LOCK_NAME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another ladder"):
            _make(title, output, resume=True)
        process.kill()
    _make(title, output, resume=True)
    assert fake_encodes.made == [38.0, 32.0, 26.0]


def test_a_folder_that_was_left_before_its_record_is_begun(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    work = work_folder_of(tmp_path / "ladder")
    work.mkdir()
    (work / LOCK_NAME).touch()
    _make(title, tmp_path / "ladder")
    assert not work.exists()


def test_a_source_that_changed_is_not_gone_on_with(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    copy, output = tmp_path / "copy.mkv", tmp_path / "ladder"
    shutil.copy(title, copy)
    fake_encodes.raises[32.0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _make(copy, output)
    shutil.copy(make_clip("other.mkv", size=(128, 72), fps="25", frames=80), copy)
    with pytest.raises(InputError, match="the source changed"):
        _make(copy, output, resume=True)


def test_a_folder_that_is_replaced_stays_until_then(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    output = tmp_path / "ladder"
    _make(title, output)
    before = (output / "codecaux.json").read_bytes()
    fake_encodes.raises[32.0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _make(title, output, replace(WANTED, peak=3.0), overwrite=True)
    assert (output / "codecaux.json").read_bytes() == before


# ------------------------------------------------------------------------------------------ failed


def test_a_failed_probe_does_not_lose_the_rest(
    title: Path, fake_encodes: FakeEncodes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    fake_probes.fails.add(Probe(32.0))
    made, _ = _make(title, tmp_path / "ladder")
    assert [rung.point.crf for rung in made.rungs] == [38, 26]
    assert list(made.plan.failures) == ["CRF 32 scale 2"]
    html = (made.files.folder / "report.html").read_text(encoding="utf-8")
    assert "CRF 32 scale 2 failed: the fit diverged twice" in html


def test_a_failed_probe_is_not_made_again_for_a_rate(
    title: Path, fake_encodes: FakeEncodes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    tried: list[Probe] = []
    make = fake_probes.make

    def fails_once(
        prober: Prober, probe: Probe, *rest: Any
    ) -> Events[tuple[OperatingPoint, bytes]]:
        tried.append(probe)
        if probe == Probe(26.0) and tried.count(probe) == 1:
            raise FitError("the fit diverged twice; try another --seed")
        return (yield from make(prober, probe, *rest))

    fake_probes.make = fails_once  # type: ignore[method-assign, assignment]
    made, _ = _make(title, tmp_path / "ladder", replace(WANTED, rates_kbps=(300.0, 1e6)))
    assert len(tried) == len(set(tried)) == 7
    assert list(made.plan.failures) == ["CRF 26 scale 2"]
    assert [rung.point.crf for rung in made.rungs] == [tried[-1].crf, 32.0]
    # From the weights of a neighbour that is there.
    assert fake_probes.made[-1] == (tried[-1], 32.0)


def test_no_probe_that_failed_is_asked_for_in_between(
    title: Path, fake_encodes: FakeEncodes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    # Where a probe for 300 kb/s falls between the two others, one has failed already.
    pair = replace(WANTED, crfs=(26.0, 38.0), rates_kbps=(300.0, 1e6))
    _make(title, tmp_path / "pair", pair)
    between, _ = fake_probes.made[-1]
    assert between.crf not in pair.crfs
    shutil.rmtree(tmp_path / "cache")
    fake_probes.fails = {between}
    wanted = replace(pair, crfs=(26.0, between.crf, 38.0))
    made, seen = _make(title, tmp_path / "ladder", wanted)
    failed = f"{between.label} failed"
    assert sum(getattr(event, "message", "").startswith(failed) for event in seen) == 1
    assert list(made.plan.failures) == [between.label]


def test_where_all_probes_fail_there_is_no_ladder(
    title: Path, fake_encodes: FakeEncodes, fake_probes: FakeProbes, tmp_path: Path
) -> None:
    fake_probes.fails |= {Probe(crf) for crf in WANTED.crfs}
    with pytest.raises(FitError, match="diverged twice"):
        _make(title, tmp_path / "ladder")
    assert not work_folder_of(tmp_path / "ladder").exists()


def test_a_failed_rung_stops_the_ladder_and_not_the_others(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path
) -> None:
    output = tmp_path / "ladder"
    fake_encodes.raises[38.0] = FitError("out of memory; try --net tiny")
    with pytest.raises(FitError, match="out of memory"):
        _make(title, output)
    assert fake_encodes.made == [32.0, 26.0]
    assert not output.exists()
    fake_encodes.raises.clear()
    _make(title, output, resume=True)
    assert fake_encodes.made == [32.0, 26.0, 38.0]


# --------------------------------------------------------------------------------------------- CLI


def _arguments(title: Path, output: Path, *more: str) -> list[str]:
    words = ["ladder", str(title), "-o", str(output), "--net", "tiny", "--scales", "2"]
    return [*words, "--crf", "26,32,38", "--segment", "1", "--device", "cpu", "--no-share", *more]


def test_the_command_prints_tables(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ladder"
    assert main(_arguments(title, output, "--hls")) == 0
    said = capsys.readouterr().out
    assert "36p-crf38" in said
    assert "all rungs: " in said
    assert f"wrote {output / 'report.html'}" in said
    assert (output / "master.m3u8").exists()
    assert not (output / "manifest.mpd").exists()


def test_the_json_says_the_same(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ladder"
    assert main(_arguments(title, output, "--h264", "--json")) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    record = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert {name: result[name] for name in record} == record
    assert result["event"] == "result"
    assert [rung["name"] for rung in result["rungs"]] == ["36p-crf38", "36p-crf32", "36p-crf26"]
    assert [entry["folder"] for entry in result["others"]] == ["h264-1", "audio-1"]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--crf", "40:18:2"], 2, "FROM <= TO"),
        (["--crf", ","], 2, "CRFs"),
        (["--crf", "60"], 2, "0 to 51"),
        (["--rungs", "0"], 2, "rungs"),
        (["--rungs", "3", "--rates", "1M"], 2, "give one"),
        (["--rates", "1Q"], 2, "rates like"),
        (["--rates", "1k"], 2, "which the smallest rung"),
        (["--target-step", "0"], 2, "above 0"),
        (["--max-height", "20"], 2, "at least one height"),
        (["--heights", "72"], 2, "give one"),
        (["--segment", "soon"], 2, "in seconds"),
        (["--segment", "0.1"], 2, "0.5"),
        (["--segment", "10"], 3, "shorter --segment"),
        (["--jobs", "0"], 2, "at least one job"),
        (["--x265-params", "vbv-maxrate=100"], 2, "vbv-maxrate"),
    ],
)
def test_bad_words_have_their_exit_codes(
    title: Path,
    fake_encodes: FakeEncodes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    said: str,
) -> None:
    output = tmp_path / "ladder"
    assert main(_arguments(title, output, *more)) == code
    assert said in capsys.readouterr().err
    assert not output.exists()
    assert not work_folder_of(output).exists()
    assert not fake_encodes.made


def test_an_interrupt_says_how_to_go_on(
    title: Path, fake_encodes: FakeEncodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_encodes.raises[32.0] = KeyboardInterrupt()
    assert main(_arguments(title, tmp_path / "ladder")) == 130
    assert "--resume" in capsys.readouterr().err


def test_without_the_cache_probes_are_kept_with_the_ladder_alone(
    title: Path,
    fake_encodes: FakeEncodes,
    fake_probes: FakeProbes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "ladder"
    fake_encodes.raises[32.0] = KeyboardInterrupt()
    assert main(_arguments(title, output, "--no-cache")) == 130
    fake_encodes.raises.clear()
    assert main(_arguments(title, output, "--no-cache", "--resume")) == 0
    assert len(fake_probes.made) == 6
    assert not (tmp_path / "cache").exists()


def test_probes_outlive_rates_that_are_too_small(
    title: Path,
    fake_encodes: FakeEncodes,
    fake_probes: FakeProbes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "ladder"
    assert main(_arguments(title, output, "--no-cache", "--rates", "1k")) == 2
    said = capsys.readouterr().err
    assert "which the smallest rung" in said
    assert f"the probes are kept in {work_folder_of(output)}: --resume goes on" in said
    assert len(fake_probes.made) == 6
    assert main(_arguments(title, output, "--no-cache", "--rates", "1M", "--resume")) == 0
    assert len(fake_probes.made) == 6
    assert fake_encodes.made == [26.0]
    assert not work_folder_of(output).exists()
