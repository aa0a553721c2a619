"""Probes: exactly what an encode gives, remembered by everything that they depend on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from codecaux.encoder.encode import encode
from codecaux.encoder.headstart import HeadStart
from codecaux.encoder.prepare import SourceOptions
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import FitError, InputError, TargetError, UsageError
from codecaux.events import Events, Notice, StageStarted, drain
from codecaux.ffmpeg import Ffmpeg, file_argument, run_ffmpeg
from codecaux.ladders import probes as module
from codecaux.ladders import samples
from codecaux.ladders.cache import Cache, digest_of
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober, settings_from_json, settings_to_json
from codecaux.ladders.settings import SamplingSettings
from codecaux.ladders.titles import Title, sample_in_use, sample_source, survey
from codecaux.rate import Rate

WHOLE = SamplingSettings()
SETTINGS = EncodeSettings(
    input="",
    output=Path("out.mp4"),
    weights=Path("out.weights"),
    stream=StreamSettings(crf=24, preset="ultrafast"),
    net="tiny",
    fit=FitSettings(steps=12, batch=2, patch=24, objective="fidelity"),
    device="cpu",
    lpips_frames=1,
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache.open(tmp_path / "cache")


def _prober(clip: Path, cache: Cache, ffmpeg: Ffmpeg, sampling: SamplingSettings = WHOLE) -> Prober:
    title = drain(survey(clip, SourceOptions(), sampling, cache, ffmpeg))
    return Prober.open(title, SETTINGS, cache)


def test_a_probe_of_a_whole_title_is_its_encode(
    clip: Path, cache: Cache, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    prober, probe = _prober(clip, cache, ffmpeg), Probe(28.0)
    point = drain(prober.make(probe))
    settings = prober.final_settings(probe, tmp_path / "t.mp4", tmp_path / "t.weights")
    result = drain(encode(settings))
    assert point.rate == result.rate
    for metric in ("vmaf_v061", "psnr_y_db", "ssim"):
        assert point.score(metric) == result.scores["enhanced"].value(metric)
        assert point.score(metric, plain=True) == result.scores["bicubic"].value(metric)
    assert point.total_kbps == pytest.approx(result.rate.total_kbps)
    assert point.missing.keys() >= {"vmaf_v1"}
    # Byte for byte, but for scores and times that are said in it.
    assert prober.weights(probe) is not None
    again = drain(prober.make(probe))
    assert again == point
    assert not [p for p in (cache.root / "work").iterdir() if p.is_dir()]


def test_a_score_of_everything_is_another_probe(clip: Path, cache: Cache, ffmpeg: Ffmpeg) -> None:
    prober = _prober(clip, cache, ffmpeg)
    whole = replace(prober, settings=replace(SETTINGS, score_seconds=math.inf))
    assert digest_of(whole.identity(Probe(28.0))) != digest_of(prober.identity(Probe(28.0)))


@pytest.fixture
def long_clip(make_clip: Callable[..., Path]) -> Path:
    return make_clip("long-title.mkv", frames=72, fps="24")


def test_samples_stand_for_the_title(long_clip: Path, cache: Cache, ffmpeg: Ffmpeg) -> None:
    prober = _prober(long_clip, cache, ffmpeg, SamplingSettings(seconds=0.5, count=2))
    title = prober.title
    assert (title.is_whole, title.sample_frames, title.num_frames) == (False, 24, 72)
    events = list(prober.make(Probe(28.0)))
    point = prober.cached(Probe(28.0))
    assert point is not None
    assert any(isinstance(e, Notice) and "cutting 2 piece(s)" in e.message for e in events)
    assert point.rate.duration_seconds == pytest.approx(1.0, abs=0.01)
    assert point.title_seconds == pytest.approx(3.0, abs=0.01)
    assert point.weights_kbps == pytest.approx(point.rate.weights_kbps / 3, rel=0.01)
    # The next one finds the samples cut.
    events = list(prober.make(Probe(32.0), [Probe(28.0)]))
    assert not any(isinstance(e, StageStarted) and e.stage == "excerpt" for e in events)
    warm = prober.cached(Probe(32.0))
    assert warm is not None
    assert warm.started_from == 28.0
    x265 = drain(prober.make(Probe(28.0, Fraction(1), "x265")))
    assert (x265.rate.weights_bytes, x265.plain) == (0, x265.enhanced)
    assert (x265.coded_width, x265.coded_height) == (96, 64)
    with sample_in_use(title, cache, ffmpeg):
        pass
    assert not list(cache.root.rglob("excerpt.mov"))


def test_the_last_of_its_users_removes_a_sample(
    long_clip: Path, cache: Cache, ffmpeg: Ffmpeg
) -> None:
    sampling = SamplingSettings(seconds=0.5, count=2)
    title = drain(survey(long_clip, SourceOptions(), sampling, cache, ffmpeg))
    used = (title, cache, ffmpeg)
    # Two open files of one lock are as two processes.
    with sample_in_use(*used):
        with sample_in_use(*used):
            drain(sample_source(*used))
        assert len(list(cache.root.rglob("excerpt.mov"))) == 1
        with pytest.raises(FitError), sample_in_use(*used):
            raise FitError("it stays for whoever goes on")
    assert not list(cache.root.rglob("excerpt.mov"))
    drain(sample_source(*used))
    with pytest.raises(FitError), sample_in_use(*used):
        raise FitError("as here")
    assert len(list(cache.root.rglob("excerpt.mov"))) == 1


def test_a_warm_start_makes_half_the_steps(
    clip: Path,
    cache: Cache,
    ffmpeg: Ffmpeg,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prober = _prober(clip, cache, ffmpeg)
    steps: list[int | None] = []
    starts: list[object] = []

    def watched(settings: EncodeSettings, head: HeadStart) -> Events[None]:
        steps.append(settings.fit.steps)
        starts.append(head.weights)
        raise FitError("far enough")
        yield

    monkeypatch.setattr(module, "encode", watched)
    monkeypatch.setattr(module, "weights_to_start_from", lambda payload: payload)
    prober = replace(prober, settings=replace(SETTINGS, fit=replace(SETTINGS.fit, steps=40)))
    prober.cache.put("probe", prober.identity(Probe(28.0)), {}, payload=b"w")
    for probe in (Probe(27.0), Probe(30.0), Probe(30.0, is_cold=True)):
        candidates = [Probe(26.0), Probe(28.0)] if probe.crf != 27.0 else []
        with pytest.raises(FitError):
            drain(prober.make(probe, candidates))
    assert (steps, starts) == ([40, 20, 40], [None, b"w", None])


@pytest.mark.parametrize(
    ("ranges", "started_from", "steps", "start"),
    [
        (None, None, 40, None),  # the same encode again, from the base
        (None, 28.0, 20, b"28"),  # the same again, from where the probe started
        (((0, 6),), 28.0, 40, b"30"),  # from what was fitted to the samples
        (None, 26.0, 40, None),  # what it started from is gone: all steps, from the base
    ],
)
def test_the_final_encode_is_the_probe_s_own_or_goes_on_from_it(
    clip: Path,
    cache: Cache,
    ffmpeg: Ffmpeg,
    monkeypatch: pytest.MonkeyPatch,
    ranges: tuple[tuple[int, int], ...] | None,
    started_from: float | None,
    steps: int,
    start: bytes | None,
) -> None:
    monkeypatch.setattr(module, "weights_to_start_from", lambda payload: payload)
    prober = _prober(clip, cache, ffmpeg)
    title = replace(prober.title, ranges=ranges or prober.title.ranges)
    settings = replace(SETTINGS, fit=replace(SETTINGS.fit, steps=40))
    prober = replace(prober, title=title, settings=settings)
    for crf in (28.0, 30.0):
        identity = prober.identity(Probe(crf))
        cache.put("probe", identity, {}, payload=f"{crf:g}".encode())
    point = OperatingPoint(
        "ours", 30.0, Fraction(2), "tiny", 48, 32, Rate(1, 1, 1.0), 1.0, {}, {}, {}, started_from
    )
    made, head = prober.final(Probe(30.0), point, Path("a.mp4"), Path("a.weights"))
    assert (made.fit.steps, head.weights, head.source) == (steps, start, None)
    assert (made.stream.crf, made.input) == (30.0, str(clip))


def test_a_probe_warns_of_no_sound_that_its_stream_cannot_hold(
    make_clip: Callable[..., Path], cache: Cache, ffmpeg: Ffmpeg
) -> None:
    clip = make_clip(
        "probe-with-pcm.mkv",
        inputs=("-f", "lavfi", "-t", "0.5", "-i", "sine=sample_rate=48000"),
        options=("-c:a", "pcm_s16le"),
    )
    events = _prober(clip, cache, ffmpeg).make(Probe(28.0))
    messages = [event.message for event in events if isinstance(event, Notice)]
    assert messages
    assert not [message for message in messages if "cannot hold" in message]


def test_a_killed_probe_goes_on_where_it_was_though_its_source_was_renamed(
    clip: Path, cache: Cache, ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "before.mkv"
    source.write_bytes(clip.read_bytes())
    prober = _prober(source, cache, ffmpeg)
    running = prober.make(Probe(28.0))
    for event in running:
        if isinstance(event, StageStarted) and event.stage == "fit":
            break
    running.close()
    (stream,) = cache.root.rglob("stream.mp4")
    made = stream.stat().st_mtime_ns
    seen: list[int] = []
    real = module.encode

    def watched(*arguments: object) -> object:
        seen.append(next(cache.root.rglob("stream.mp4")).stat().st_mtime_ns)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "encode", watched)
    renamed = _prober(source.rename(tmp_path / "after.mkv"), cache, ffmpeg)
    drain(renamed.make(Probe(28.0)))
    assert seen == [made]


def test_a_probe_whose_entry_is_damaged_is_made_again(
    clip: Path, cache: Cache, ffmpeg: Ffmpeg
) -> None:
    prober, probe = _prober(clip, cache, ffmpeg), Probe(30.0, Fraction(1), "x265")
    first = drain(prober.make(probe))
    (entry,) = (cache.root / "entries" / "probe").iterdir()
    entry.write_bytes(entry.read_bytes()[:-100])
    assert prober.cached(probe) is None
    again = drain(prober.make(probe))
    assert (again.rate, again.plain) == (first.rate, first.plain)


# --------------------------------------------------------------------------------------- identity


def test_everything_that_matters_is_in_the_identity(
    clip: Path, clip_odd: Path, cache: Cache, ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    prober, probe = _prober(clip, cache, ffmpeg), Probe(28.0)
    base = prober.identity(probe)
    json.dumps(base)

    def changed(**changes: object) -> Prober:
        return replace(prober, settings=replace(SETTINGS, **changes))  # type: ignore[arg-type]

    others = [
        prober.identity(replace(probe, crf=28.5)),
        prober.identity(replace(probe, scale=Fraction(1))),
        prober.identity(replace(probe, is_cold=True)),
        prober.identity(replace(probe, family="x265")),
        _prober(clip_odd, cache, ffmpeg).identity(probe),
        changed(net="light").identity(probe),
        changed(base="init-1").identity(probe),
        changed(fit=replace(SETTINGS.fit, steps=13)).identity(probe),
        changed(fit=replace(SETTINGS.fit, seed=1)).identity(probe),
        changed(fit=replace(SETTINGS.fit, objective="balanced")).identity(probe),
        changed(stream=replace(SETTINGS.stream, preset="fast")).identity(probe),
        changed(stream=replace(SETTINGS.stream, tuning="none")).identity(probe),
        changed(lpips_frames=2).identity(probe),
        replace(prober, ffmpeg=replace(ffmpeg, version="0")).identity(probe),
        replace(prober, title=replace(prober.title, ranges=((0, 6),))).identity(probe),
    ]
    monkeypatch.setattr(module, "__version__", "0.0.0")
    others.append(prober.identity(probe))
    monkeypatch.undo()
    texts = {json.dumps(each, sort_keys=True) for each in [base, *others]}
    assert len(texts) == len(others) + 1
    same = [
        changed(stream=replace(SETTINGS.stream, threads=3, crf=40)),
        changed(output=Path("elsewhere.mp4"), resume=True),
        replace(prober, title=replace(prober.title, path=Path("renamed.mp4"))),
    ]
    assert all(each.identity(probe) == base for each in same)


def test_default_steps_are_those_spelt_out(clip: Path, cache: Cache, ffmpeg: Ffmpeg) -> None:
    prober = _prober(clip, cache, ffmpeg)
    identities = [
        replace(
            prober, settings=replace(SETTINGS, fit=replace(SETTINGS.fit, steps=steps))
        ).identity(Probe(28.0))
        for steps in (None, 600)
    ]
    assert identities[0] == identities[1]


def test_what_goes_to_another_process_comes_back(
    clip: Path, cache: Cache, ffmpeg: Ffmpeg, fake_probes: object
) -> None:
    prober = _prober(clip, cache, ffmpeg)
    point = drain(prober.make(Probe(28.0)))
    assert OperatingPoint.from_json(json.loads(json.dumps(point.to_json()))) == point
    title = replace(
        prober.title,
        options=SourceOptions((64, 48), Fraction(30000, 1001), "yuv420p", to_420=True),
        ranges=((0, 3), (6, 2)),
    )
    again = Title.from_json(json.loads(json.dumps(title.to_json())))
    assert replace(again, path=title.path) == title
    settings = replace(
        SETTINGS,
        stream=replace(SETTINGS.stream, scale=Fraction(3, 2), x265_params=(("aq-mode", "3"),)),
        lpips_weights=Path("w.safetensors"),
    )
    assert settings_from_json(json.loads(json.dumps(settings_to_json(settings)))) == settings
    probe = Probe(24.5, Fraction(3, 2), is_cold=True)
    assert Probe.from_json(json.loads(json.dumps(probe.to_json()))) == probe


# ----------------------------------------------------------------------------------------- survey


def test_a_survey_is_remembered_by_content(
    clip: Path, cache: Cache, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    first = drain(survey(clip, SourceOptions(), WHOLE, cache, ffmpeg))
    assert (first.num_frames, first.width, first.height) == (12, 96, 64)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    events = list(survey(copy, SourceOptions(), WHOLE, cache, ffmpeg))
    assert events == []


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("-", UsageError, "only once"),
        ("missing.mkv", InputError, "missing.mkv"),
        (".", InputError, "folder"),
    ],
)
def test_what_cannot_be_surveyed(
    name: str, error: type[Exception], message: str, cache: Cache, ffmpeg: Ffmpeg
) -> None:
    with pytest.raises(error, match=message):
        drain(survey(name, SourceOptions(), WHOLE, cache, ffmpeg))


def test_what_went_wrong_once_is_tried_again(
    long_clip: Path, cache: Cache, ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingSettings(seconds=0.5, count=2)
    asked = (long_clip, SourceOptions(), sampling, cache, ffmpeg)
    with monkeypatch.context() as patch:
        patch.setattr(samples, "_LOG", "no such folder/log.txt")
        events = list(survey(*asked))
    assert any(isinstance(event, Notice) and event.level == "warning" for event in events)
    events = list(survey(*asked))
    assert any(isinstance(event, StageStarted) for event in events)
    assert not any(isinstance(event, Notice) and event.level == "warning" for event in events)
    assert list(survey(*asked)) == []


def test_a_playlist_is_no_title(clip: Path, cache: Cache, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    """Two equal ones may name files of other content."""
    part = tmp_path / "part.mp4"
    run_ffmpeg(ffmpeg, ["-v", "error", "-i", file_argument(clip), "-c", "copy", str(part)])
    listed = tmp_path / "list.ffconcat"
    listed.write_text("ffconcat version 1.0\nfile part.mp4\n")
    with pytest.raises(InputError, match="names others"):
        drain(survey(listed, SourceOptions(), WHOLE, cache, ffmpeg))


def test_samples_of_a_target_out_of_reach_are_removed(
    make_clip: Callable[..., Path], cache: Cache, ffmpeg: Ffmpeg
) -> None:
    clip = make_clip("interlaced-title.mkv", frames=72, filters="tinterlace=mode=merge,fps=24")
    sampling = SamplingSettings(seconds=0.5, count=2)
    title = drain(survey(clip, SourceOptions(deinterlace=True), sampling, cache, ffmpeg))
    used = (title, cache, ffmpeg)

    def fail() -> None:
        with sample_in_use(*used):
            drain(sample_source(*used))
            # What the whole title was converted to is gone as soon as the samples are cut.
            assert {path.name for path in cache.root.rglob("*.mov")} == {"excerpt.mov"}
            raise TargetError("out of reach")

    with pytest.raises(TargetError):
        fail()
    assert not list(cache.root.rglob("*.mov"))
    assert clip.exists()
