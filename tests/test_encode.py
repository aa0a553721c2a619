"""The whole encode on small clips: two files, honest scores, nothing half-made, resumable."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codecaux.decoder.load import open_enhancer
from codecaux.decoder.verify import verify
from codecaux.device import choose_device
from codecaux.encoder.encode import EncodeResult, encode
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.encoder.x265 import check_parameters
from codecaux.errors import InputError, UsageError, WeightsStreamMismatchError
from codecaux.events import Notice, Progress, StageDone, drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.frames import count_frames, read_frames
from codecaux.hevc import hash_stream
from codecaux.probe import probe
from codecaux.weightsfile import read_weights

MakeClip = Callable[..., Path]


def _settings(source: Path, folder: Path, **changes: object) -> EncodeSettings:
    settings = EncodeSettings(
        input=str(source),
        output=folder / "title.mp4",
        weights=folder / "title.weights",
        stream=StreamSettings(crf=24, preset="ultrafast"),
        net="tiny",
        fit=FitSettings(steps=12, batch=2, patch=24, objective="fidelity"),
        device="cpu",
        lpips_frames=1,
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def encoded(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> EncodeResult:
    return drain(encode(_settings(clip, tmp_path_factory.mktemp("encoded"))))


def test_two_files_and_nothing_else(encoded: EncodeResult) -> None:
    assert sorted(p.name for p in encoded.stream.parent.iterdir()) == ["title.mp4", "title.weights"]
    assert count_frames(encoded.stream) == encoded.num_frames == 12
    coded = probe(encoded.stream).format
    assert (coded.width, coded.height) == (48, 32)


def test_the_weights_file_says_what_it_belongs_to(encoded: EncodeResult) -> None:
    metadata = read_weights(encoded.weights).metadata
    assert metadata.stream == hash_stream(encoded.stream)
    assert (metadata.source_width, metadata.source_height, metadata.num_frames) == (96, 64, 12)
    assert metadata.codec["crf"] == "24"
    assert "input" not in metadata.settings
    assert metadata.tools["codecaux"]
    for name, scores in encoded.scores.items():
        # Recorded with five significant digits.
        assert metadata.scores[name]["psnr_y_db"] == pytest.approx(scores.psnr_y_db, rel=1e-4)
    # Of the settings only what is not the default.
    assert metadata.settings["net"] == "tiny"
    assert "scale" not in metadata.settings["stream"]


def test_an_unknown_base_is_refused_at_once(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="init-1"):
        drain(encode(_settings(clip, tmp_path, base="no-such")))
    assert not list(tmp_path.iterdir())
    result = drain(encode(_settings(clip, tmp_path, base="init-1")))
    assert read_weights(result.weights).metadata.base_id == "init-1"


def test_the_rate_counts_the_weights(encoded: EncodeResult) -> None:
    assert encoded.rate.weights_bytes == encoded.weights.stat().st_size
    assert encoded.rate.total_kbps == pytest.approx(
        (encoded.rate.stream_bytes + encoded.rate.weights_bytes) * 8 / 1000 / 0.5
    )
    assert set(encoded.stage_seconds) >= {"prepare", "stream", "patches", "fit", "score", "finish"}


def test_the_score_is_of_what_is_shown(encoded: EncodeResult, clip: Path) -> None:
    """PSNR-Y worked out here, from the written files, by the loader that play uses."""
    enhancer = open_enhancer(encoded.stream, encoded.weights, device=choose_device("cpu"))
    values = []
    shown = enhancer.enhance_all(read_frames(encoded.stream))
    for pair, source in zip(shown, read_frames(clip), strict=True):
        error = np.square(pair.enhanced.y.astype(float) - source.y).mean()
        values.append(10 * np.log10(255**2 / error))
    assert encoded.scores["enhanced"].psnr_y_db == pytest.approx(np.mean(values), abs=1e-6)


def test_the_same_seed_gives_the_same_weights(
    encoded: EncodeResult, clip: Path, tmp_path: Path
) -> None:
    again = drain(encode(_settings(clip, tmp_path)))
    assert again.stream.read_bytes() == encoded.stream.read_bytes()
    first, second = (read_weights(r.weights).sets[0].tensors for r in (encoded, again))
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor.values, second[name].values)


def test_foreign_weights_are_refused(encoded: EncodeResult, clip: Path, tmp_path: Path) -> None:
    other = _settings(clip, tmp_path, stream=StreamSettings(crf=40, preset="ultrafast"))
    made = drain(encode(other))
    device = choose_device("cpu")
    with pytest.raises(WeightsStreamMismatchError, match="--force"):
        open_enhancer(made.stream, encoded.weights, device=device)
    assert open_enhancer(made.stream, encoded.weights, device=device, force=True).has_weights


@pytest.mark.parametrize("scale", [Fraction(3, 2), Fraction(1)])
def test_other_scales(clip: Path, tmp_path: Path, scale: Fraction) -> None:
    stream = StreamSettings(crf=30, preset="ultrafast", scale=scale)
    result = drain(encode(_settings(clip, tmp_path, stream=stream)))
    coded = probe(result.stream).format
    assert (coded.width, coded.height) == ((64, 44) if scale != 1 else (96, 64))
    assert result.scores["enhanced"].num_frames == 12


def test_odd_size(clip_odd: Path, tmp_path: Path) -> None:
    result = drain(encode(_settings(clip_odd, tmp_path)))
    enhancer = open_enhancer(result.stream, result.weights, device=choose_device("cpu"))
    assert (enhancer.format.width, enhancer.format.height) == (99, 75)


def test_an_untagged_source_and_its_stream_agree(clip_odd: Path, tmp_path: Path) -> None:
    """The stream spells an unspecified matrix out; the weights file says what the stream says."""
    result = drain(encode(_settings(clip_odd, tmp_path)))
    file = read_weights(result.weights)
    assert file.metadata.colour == probe(result.stream).format.colour
    events = list(verify(result.stream, result.weights, "cpu"))
    assert not [e for e in events if isinstance(e, Notice) and e.level == "warning"]


def test_a_picture_too_small_for_lpips(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("small-tall.mkv", size=(15, 33), frames=3)
    fit = FitSettings(steps=10, batch=1, objective="balanced")
    stream = StreamSettings(crf=30, preset="ultrafast", scale=Fraction(1))
    events = list(encode(_settings(clip, tmp_path, fit=fit, stream=stream)))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert any("without LPIPS: the picture is only 16x32" in message for message in said)
    assert count_frames(tmp_path / "title.mp4") == 3


def test_ten_bits(clip_10bit: Path, tmp_path: Path) -> None:
    result = drain(encode(_settings(clip_10bit, tmp_path)))
    assert probe(result.stream).format.bit_depth == 10
    assert read_weights(result.weights).metadata.bit_depth == 10
    psnr = result.scores["enhanced"].psnr_y_db
    assert psnr is not None
    assert psnr > 15


def test_one_frame_and_variable_rate(make_clip: MakeClip, clip_vfr: Path, tmp_path: Path) -> None:
    one = drain(encode(_settings(make_clip("one.mkv", frames=1), tmp_path)))
    assert one.num_frames == 1
    folder = tmp_path / "vfr"
    folder.mkdir()
    vfr = drain(encode(_settings(clip_vfr, folder)))
    assert vfr.num_frames == 12


def test_an_existing_output_is_kept_without_y(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "title.mp4").write_bytes(b"precious")
    with pytest.raises(UsageError, match="-y"):
        drain(encode(_settings(clip, tmp_path)))
    assert (tmp_path / "title.mp4").read_bytes() == b"precious"
    drain(encode(_settings(clip, tmp_path, overwrite=True)))
    assert count_frames(tmp_path / "title.mp4") == 12


def test_the_input_is_never_the_output(clip: Path, tmp_path: Path) -> None:
    for key in ("output", "weights"):
        with pytest.raises(UsageError, match="input itself"):
            drain(encode(_settings(clip, tmp_path, **{key: clip}, overwrite=True)))


@pytest.mark.parametrize("parameter", [("foo", "bar"), ("aq-mode", "often")])
def test_an_x265_parameter_that_would_be_ignored_is_refused(
    clip: Path, tmp_path: Path, parameter: tuple[str, str]
) -> None:
    stream = StreamSettings(crf=24, preset="ultrafast", x265_params=(parameter,))
    with pytest.raises(UsageError, match=parameter[0]):
        drain(encode(_settings(clip, tmp_path, stream=stream)))
    assert not list(tmp_path.iterdir())


def test_a_known_x265_parameter_is_taken(ffmpeg: Ffmpeg) -> None:
    check_parameters(ffmpeg, (("aq-mode", "3"), ("no-sao", "1")))


def test_a_missing_folder_is_said(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="create it first"):
        drain(encode(_settings(clip, tmp_path / "nowhere")))


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": StreamSettings(crf=24, scale=Fraction(3))},
        {"fit": FitSettings(steps=12, bank_bytes=1 << 20)},
        {"output": Path("title.avi")},
        {"weights": Path("nowhere") / "title.weights"},
        {"lpips_weights": Path("nowhere.safetensors")},
    ],
)
def test_what_cannot_work_is_refused_at_once(
    clip: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    paths = {k: tmp_path / v for k, v in changes.items() if isinstance(v, Path)}
    with pytest.raises((UsageError, InputError), match="expected"):
        next(encode(_settings(clip, tmp_path, **(changes | paths))))
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_said_at_once(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the system's answer is made up.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match="read-only"):
        next(encode(_settings(clip, tmp_path)))
    monkeypatch.undo()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="Read-only file system"):
        next(encode(_settings(clip, tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_refused_source_leaves_nothing(
    clip_interlaced: Path, make_clip: MakeClip, tmp_path: Path
) -> None:
    """Else the corrected command would be told to resume."""
    small = make_clip("small.mkv", size=(17, 16), frames=3)
    for source, message in ((clip_interlaced, "--deinterlace"), (small, "at least 16x16")):
        with pytest.raises(InputError, match=message):
            drain(encode(_settings(source, tmp_path)))
        assert list(tmp_path.iterdir()) == []


def test_resume_of_nothing_replaces_nothing(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "title.mp4").write_bytes(b"precious")
    with pytest.raises(UsageError, match="-y"):
        drain(encode(_settings(clip, tmp_path, resume=True)))
    assert (tmp_path / "title.mp4").read_bytes() == b"precious"


def _stop_after(settings: EncodeSettings, stage: str) -> None:
    for event in encode(settings):
        if isinstance(event, StageDone) and event.stage == stage:
            return
    raise AssertionError(f"no stage {stage}")


@pytest.mark.parametrize("stage", ["prepare", "stream", "patches", "fit", "score"])
def test_stopped_after_any_stage_it_resumes(
    encoded: EncodeResult, clip: Path, tmp_path: Path, stage: str
) -> None:
    settings = _settings(clip, tmp_path)
    _stop_after(settings, stage)
    assert [p.name for p in tmp_path.iterdir()] == ["title.mp4.codecaux-work"]
    with pytest.raises(UsageError, match="--resume"):
        drain(encode(settings))
    events = encode(replace(settings, resume=True))
    resumed = set()
    try:
        while True:
            event = next(events)
            if isinstance(event, StageDone) and event.resumed:
                resumed.add(event.stage)
    except StopIteration as stop:
        result: EncodeResult = stop.value
    done = ["prepare", "stream", "patches", "fit", "score"]
    assert ("stream" in resumed) == (done.index(stage) >= 1)
    assert ("fit" in resumed) == (done.index(stage) >= 3)
    ours, theirs = (read_weights(r.weights).sets[0].tensors for r in (result, encoded))
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor.values, theirs[name].values)


def test_two_encodes_of_one_output_do_not_mix(clip: Path, tmp_path: Path) -> None:
    settings = _settings(clip, tmp_path)
    events = encode(settings)
    with closing(events):
        next(event for event in events if isinstance(event, StageDone))
        for second in (replace(settings, resume=True), replace(settings, overwrite=True)):
            with pytest.raises(UsageError, match="another encode at work"):
                drain(encode(second))
        assert settings.work_dir.exists()
    # The first one is gone: what it left may be gone on with.
    assert drain(encode(replace(settings, resume=True))).stream.exists()


def test_resume_needs_the_same_settings_and_source(
    clip: Path, clip_odd: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source.mkv"
    source.write_bytes(clip.read_bytes())
    settings = _settings(source, tmp_path)
    _stop_after(settings, "stream")
    other = replace(settings, net="light", resume=True)
    with pytest.raises(UsageError, match="net = tiny"):
        drain(encode(other))
    source.write_bytes(clip_odd.read_bytes())
    with pytest.raises(InputError, match="source changed"):
        drain(encode(replace(settings, resume=True)))


def test_killed_without_warning_it_resumes(clip: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of the fit, as a crash or the out-of-memory killer would."""
    output = tmp_path / "title.mp4"
    command = [sys.executable, "-m", "codecaux.cli.main", "encode", str(clip), "-o", str(output)]
    command += ["--net", "tiny", "--preset", "ultrafast", "--objective", "fidelity"]
    command += ["--device", "cpu", "--steps", "1000"]
    log = (tmp_path / "log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process:
        _wait_for(tmp_path / "title.mp4.codecaux-work" / "stream.mp4", process)
        time.sleep(2.0)
        os.killpg(process.pid, signal.SIGKILL)
    assert not output.exists()
    assert not output.with_suffix(".weights").exists()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert read_weights(output.with_suffix(".weights")).metadata.num_frames == 12
    assert not (tmp_path / "title.mp4.codecaux-work").exists()


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the encode ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_progress_counts_up(clip: Path, tmp_path: Path) -> None:
    fits = [
        event.done
        for event in encode(_settings(clip, tmp_path))
        if isinstance(event, Progress) and event.stage == "fit"
    ]
    assert fits == sorted(fits)
    # Gains and biases, tried where all weights are dear, come on top of the 12.
    assert 12 in fits
