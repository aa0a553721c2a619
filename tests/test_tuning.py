"""The choice between finer chroma and none, for an encode and for all probes of a title."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from codecaux.architecture import net_config
from codecaux.bases import default_base_id
from codecaux.device import choose_device
from codecaux.encoder.encode import encode
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import TUNINGS, StreamSettings
from codecaux.encoder.tuning import CodedTry, Viewer, change_by_chroma, choose_tuning
from codecaux.encoder.workdir import open_work_dir
from codecaux.errors import UsageError
from codecaux.events import Event, Events, Notice, Progress, StageDone, drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.ladders.cache import Cache
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.settings import SamplingSettings
from codecaux.ladders.titles import survey
from codecaux.ladders.tuning import tuned
from codecaux.scores import ScoreTools
from codecaux.weightsfile import read_weights

MakeClip = Callable[..., Path]

AUTO = StreamSettings(crf=28, preset="ultrafast")
# Without VMAF v1 there is nothing to choose by.
SIZE = (216, 160)


def _tries(**others: CodedTry) -> dict[str, CodedTry]:
    luma = CodedTry(1000, {"vmaf_v1": 80.0})
    finer = CodedTry(1210, {"vmaf_v1": 84.0})
    return {"network": CodedTry(1100, {"vmaf_v1": 82.0}), "luma": luma, "finer": finer} | others


def test_the_change_of_the_rate_by_hand() -> None:
    # Half way from 80 to 84 "luma" would take sqrt(1000 x 1210) = 1100 bytes.
    assert change_by_chroma(_tries(), "vmaf_v1") == pytest.approx(0.0, abs=1e-12)
    dearer = _tries(network=CodedTry(1210, {"vmaf_v1": 82.0}))
    assert change_by_chroma(dearer, "vmaf_v1") == pytest.approx(0.1)
    # Beyond both: 86 is another half of the way, 1100 x 1.1 x 1.1 = 1331 bytes.
    better = _tries(network=CodedTry(1000, {"vmaf_v1": 86.0}))
    assert change_by_chroma(better, "vmaf_v1") == pytest.approx(1000 / (1100 * 1.21) - 1.0)
    assert change_by_chroma(better, "vmaf_v1") == pytest.approx(math.exp(-math.log(1.331)) - 1.0)


def test_no_slope_no_change() -> None:
    flat = _tries(finer=CodedTry(1210, {"vmaf_v1": 80.0}))
    smaller = _tries(finer=CodedTry(1000, {"vmaf_v1": 84.0}))
    missing = _tries(network=CodedTry(1100, {}))
    for tries in (flat, smaller, missing):
        assert change_by_chroma(tries, "vmaf_v1") is None


def _viewer() -> Viewer:
    config = net_config("tiny", Fraction(2))
    return Viewer(config, default_base_id(config), choose_device("cpu"))


def _source(clip: Path, folder: Path) -> PreparedSource:
    return drain(prepare(clip, SourceOptions(), folder))


def _chosen(clip: Path, settings: StreamSettings, ffmpeg: Ffmpeg, folder: Path) -> list[Event]:
    """All events, the chosen name last as a notice of its own."""
    events: list[Event] = []
    choosing = choose_tuning(
        _source(clip, folder), settings, _viewer(), ScoreTools(ffmpeg), folder / "tries"
    )
    while True:
        try:
            events.append(next(choosing))
        except StopIteration as stop:
            assert not (folder / "tries").exists()
            return [*events, Notice(stop.value)]


def _messages(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice)]


def test_chroma_that_is_all_noise_is_left_alone(
    make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    """No VMAF can gain what finer chroma noise takes."""
    noisy = make_clip("noisy.mkv", size=SIZE, filters="noise=c1s=60:c1f=t:c2s=60:c2f=t:all_seed=3")
    events = _chosen(noisy, AUTO, ffmpeg, tmp_path)
    reason, name = _messages(events)
    assert name == "luma"
    assert reason.startswith("tuning luma: finer chroma changes the rate by +")
    assert isinstance(events[-2], StageDone)
    assert events[-2].stage == "tuning"


@pytest.mark.parametrize(
    ("v1", "neg", "expected"),
    [
        (83.0, 80.0, "network"),  # a quarter of the way up for nothing: more than NEG's 5 %
        (80.5, 80.0, "luma"),
        (82.0, None, "network"),
    ],
)
def test_what_vmaf_v1_saves_is_held_against_what_neg_pays(
    make_clip: MakeClip,
    ffmpeg: Ffmpeg,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    v1: float,
    neg: float | None,
    expected: str,
) -> None:
    def scored(*_: object) -> Events[dict[str, CodedTry]]:
        yield Progress("tuning", 1, 1)
        luma = CodedTry(1000, {"vmaf_v1": 80.0, "vmaf_v061_neg": 80.0})
        finer = CodedTry(1210, {"vmaf_v1": 84.0, "vmaf_v061_neg": 84.0})
        network = {"vmaf_v1": v1} | ({} if neg is None else {"vmaf_v061_neg": neg})
        return {"luma": luma, "finer": finer, "network": CodedTry(1050, network)}

    monkeypatch.setattr("codecaux.encoder.tuning._scored", scored)
    large = make_clip("large.mkv", size=SIZE)
    *_, reason, name = _messages(_chosen(large, AUTO, ffmpeg, tmp_path))
    assert name == expected
    assert ("does not tell" in reason) == (neg is None)


def test_nothing_is_tried_where_nothing_is_open(
    make_clip: MakeClip, clip: Path, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    large = make_clip("large.mkv", size=SIZE)
    own = replace(AUTO, x265_params=(("cbqpoffs", "2"),))
    for path, settings, expected in (
        *((large, replace(AUTO, tuning=name), name) for name in TUNINGS),
        (large, own, "network"),
        (clip, AUTO, "network"),  # too small for VMAF v1
    ):
        assert _messages(_chosen(path, settings, ffmpeg, tmp_path)) == [expected]


def test_unknown_tunings_are_named() -> None:
    with pytest.raises(UsageError, match=r"tuning of auto, network, luma, none, got 'film'"):
        StreamSettings(24, tuning="film")


def test_auto_is_coded_as_network_where_nobody_chose() -> None:
    assert StreamSettings(24).tuned_params == TUNINGS["network"]
    assert replace(AUTO, tuning="luma").tuned_params == TUNINGS["luma"]


def _encode_settings(source: Path, folder: Path) -> EncodeSettings:
    return EncodeSettings(
        input=str(source),
        output=folder / "title.mp4",
        weights=folder / "title.weights",
        stream=AUTO,
        net="tiny",
        fit=FitSettings(steps=10, batch=2, patch=24, objective="fidelity"),
        device="cpu",
        lpips_frames=1,
    )


def test_an_encode_says_what_it_chose_and_keeps_to_it(make_clip: MakeClip, tmp_path: Path) -> None:
    noisy = make_clip("noisy.mkv", size=SIZE, filters="noise=c1s=60:c1f=t:c2s=60:c2f=t:all_seed=3")
    settings = _encode_settings(noisy, tmp_path)
    result = drain(encode(settings))
    assert result.stage_seconds["tuning"] > 0
    metadata = read_weights(result.weights).metadata
    assert metadata.codec["tuning"] == "luma"
    assert "stream" not in metadata.settings or "tuning" not in str(metadata.settings["stream"])

    other = replace(settings, output=tmp_path / "b.mp4", weights=tmp_path / "b.weights")
    asked = replace(other, stream=replace(AUTO, tuning="luma"))
    assert drain(encode(asked)).rate.stream_bytes == result.rate.stream_bytes

    # Interrupted after the choice: it is not made again.
    last = replace(settings, output=tmp_path / "c.mp4", weights=tmp_path / "c.weights")
    open_work_dir(last).keep_tuning("none")
    again = drain(encode(replace(last, resume=True)))
    assert "tuning" not in again.stage_seconds
    assert read_weights(again.weights).metadata.codec["tuning"] == "none"


def test_probes_of_a_title_share_one_choice(
    make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    noisy = make_clip("noisy.mkv", size=SIZE, filters="noise=c1s=60:c1f=t:c2s=60:c2f=t:all_seed=3")
    cache = Cache.open(tmp_path / "cache")
    title = drain(survey(noisy, SourceOptions(), SamplingSettings(), cache, ffmpeg))
    prober = Prober.open(title, _encode_settings(noisy, tmp_path), cache)
    found = drain(tuned(prober))
    assert found.settings.stream == replace(AUTO, tuning="luma")
    assert not [path for path in (cache.root / "work").iterdir() if path.is_dir()]
    # It is a part of what a probe is, and kept: at once the second time, at any CRF.
    probe = Probe(30.0)
    assert found.identity(probe) != prober.identity(probe)
    other = replace(prober, settings=replace(prober.settings, stream=replace(AUTO, crf=40)))
    events = tuned(other)
    with pytest.raises(StopIteration) as stop:
        next(events)
    assert stop.value.value.settings.stream.tuning == "luma"
    # What was asked for by name is not asked about.
    named = replace(found, settings=replace(found.settings, stream=replace(AUTO, tuning="none")))
    assert drain(tuned(named)) == named
