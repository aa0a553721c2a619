"""Play a small stream with made-up weights into files and pipes, through the real loader."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codecaux.architecture import SrUnetConfig, parameter_shapes
from codecaux.decoder.load import open_enhancer
from codecaux.decoder.play import PlayReport, PlaySettings, find_weights, play
from codecaux.device import choose_device
from codecaux.errors import InputError, ToolMissingError, UsageError, WeightsStreamMismatchError
from codecaux.events import Event, Notice
from codecaux.ffmpeg import find_ffmpeg, run_ffmpeg
from codecaux.frames import read_frames
from codecaux.hevc import hash_stream
from codecaux.probe import probe
from codecaux.quantise import QuantisedTensor
from codecaux.video import Frame
from codecaux.weightsfile import WeightSet, WeightsFile, WeightsMetadata, pack

NUM_FRAMES = 8
# The smallest net there is, and its picture: odd, 129x77 shown from 66x40 coded.
CONFIG = SrUnetConfig("test", (2, 2, 2, 2), (1, 1, 1, 1, 1, 1, 1), Fraction(2))
SHOWN = (129, 77)


def make_stream(path: Path, *, source: str = "testsrc2", pixel_format: str = "yuv420p") -> Path:
    """8 frames of 66x40 H.265 with AAC and a variable frame rate."""
    drawn = f"{source}=size=66x40:rate=25"
    arguments = ["-v", "error", "-f", "lavfi", "-i", drawn, "-f", "lavfi", "-i", "sine=duration=1"]
    # Frame n begins at n^2 ticks of 1/25 s.
    arguments += ["-vf", "setpts=N*N/(25*TB)", "-fps_mode", "passthrough"]
    arguments += ["-frames:v", str(NUM_FRAMES), "-pix_fmt", pixel_format, "-c:v", "libx265"]
    arguments += ["-x265-params", "log-level=none", "-c:a", "aac", "-tag:v", "hvc1", str(path)]
    run_ffmpeg(find_ffmpeg(), arguments)
    return path


def make_weights(stream: Path, path: Path, **changes: object) -> Path:
    """Random weights, large enough to change the picture, for ``stream``."""
    info = probe(stream)
    rng = np.random.default_rng(5)
    tensors = {
        name: QuantisedTensor(rng.integers(-3, 4, shape).astype(np.int32), 0.03125)
        for name, shape in parameter_shapes(CONFIG).items()
    }
    metadata = WeightsMetadata(
        architecture=CONFIG,
        source_width=SHOWN[0],
        source_height=SHOWN[1],
        num_frames=NUM_FRAMES,
        bit_depth=info.format.bit_depth,
        colour=info.format.colour,
        stream=hash_stream(stream),
    )
    metadata = replace(metadata, **changes)  # type: ignore[arg-type]
    path.write_bytes(pack(WeightsFile(metadata, (WeightSet(0, None, tensors),))))
    return path


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stream(tmp_path_factory.mktemp("play") / "title.mp4")


@pytest.fixture(scope="module")
def other_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stream(tmp_path_factory.mktemp("other") / "other.mp4", source="mandelbrot")


@pytest.fixture(scope="module")
def weights(stream: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # In a folder of its own, so that it is not found beside the stream.
    return make_weights(stream, tmp_path_factory.mktemp("weights") / "title.weights")


def run(settings: PlaySettings) -> tuple[PlayReport, list[Event]]:
    seen: list[Event] = []
    events = play(settings)
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            return stop.value, seen


def notices(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Notice))


def expected_frames(stream: Path, weights: Path) -> list[Frame]:
    """What encoder and scores see: the same loader, frame by frame."""
    enhancer = open_enhancer(stream, weights, device=choose_device("cpu"))
    return [enhancer.enhance(f, n).enhanced for n, f in enumerate(read_frames(stream))]


def assert_same(got: list[Frame], expected: list[Frame]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        for a, b in zip(one.planes, other.planes, strict=True):
            np.testing.assert_array_equal(a, b)


def test_file_holds_exactly_what_the_enhancer_makes(
    tmp_path: Path, stream: Path, weights: Path
) -> None:
    target = tmp_path / "out.mkv"
    report, events = run(PlaySettings(stream, weights, target, device="cpu"))
    expected = expected_frames(stream, weights)
    assert_same(list(read_frames(target)), expected)
    times = [f.pts * probe(target).time_base for f in read_frames(target)]
    assert times == [Fraction(n * n, 25) for n in range(NUM_FRAMES)]
    assert report.num_frames == report.enhanced_frames == NUM_FRAMES
    assert report.bypassed_frames == 0
    assert report.coded_size == (66, 40)
    assert report.shown_size == SHOWN
    assert report.output == target
    assert report.realtime_factor == pytest.approx(report.media_seconds / report.wall_seconds)
    assert report.device in notices(events)
    assert "CPU" in report.device
    assert probe(target).has_audio


def test_ten_bit_to_mp4(tmp_path: Path) -> None:
    stream = make_stream(tmp_path / "deep.mp4", pixel_format="yuv420p10le")
    weights = make_weights(stream, tmp_path / "deep.weights")
    target = tmp_path / "out.mp4"
    report, events = run(PlaySettings(stream, None, target, codec="x265", crf=1, device="cpu"))
    assert report.weights == weights
    assert "padded to 130x78" in notices(events)
    info = probe(target)
    assert info.format.bit_depth == 10
    frames = list(read_frames(target))
    times = [f.pts * info.time_base for f in frames]
    assert times == [Fraction(n * n, 25) for n in range(NUM_FRAMES)]
    expected = expected_frames(stream, weights)
    error = np.abs(frames[3].y[:77, :129].astype(int) - expected[3].y.astype(int))
    assert error.mean() < 12


def test_compare_shows_both(tmp_path: Path, stream: Path, weights: Path) -> None:
    target = tmp_path / "out.mkv"
    run(PlaySettings(stream, weights, target, compare=True, device="cpu"))
    enhancer = open_enhancer(stream, weights, device=choose_device("cpu"))
    pairs = [enhancer.enhance(f, n) for n, f in enumerate(read_frames(stream))]
    for got, pair in zip(read_frames(target), pairs, strict=True):
        np.testing.assert_array_equal(got.y[:, :64], pair.base.y[:, :64])
        np.testing.assert_array_equal(got.y[:, 66:], pair.enhanced.y[:, 66:])
        assert (pair.base.y[:, 66:] != pair.enhanced.y[:, 66:]).any()


def test_without_weights_the_stream_is_played_as_it_is(tmp_path: Path, stream: Path) -> None:
    target = tmp_path / "out.mkv"
    report, events = run(PlaySettings(stream, None, target))
    assert "no weights" in notices(events)
    assert report.enhanced_frames == 0
    assert report.shown_size == (66, 40)
    assert report.device == ""
    assert_same(list(read_frames(target)), list(read_frames(stream)))


def test_plain_leaves_out_weights_that_are_there(
    tmp_path: Path, stream: Path, weights: Path
) -> None:
    beside = tmp_path / "title.mp4"
    shutil.copy(stream, beside)
    shutil.copy(weights, tmp_path / "title.weights")
    report, _ = run(PlaySettings(beside, None, tmp_path / "out.mkv", plain=True))
    assert report.enhanced_frames == 0
    with pytest.raises(UsageError, match="--plain or weights"):
        run(PlaySettings(beside, weights, tmp_path / "out2.mkv", plain=True))


def test_weights_beside_the_stream_are_found(tmp_path: Path) -> None:
    stream = tmp_path / "a.b.mp4"
    assert find_weights(stream) is None
    (tmp_path / "a.b.mp4.weights").touch()
    assert find_weights(stream) == tmp_path / "a.b.mp4.weights"
    (tmp_path / "a.b.weights").touch()
    assert find_weights(stream) == tmp_path / "a.b.weights"


def test_foreign_weights_are_refused_unless_forced(
    tmp_path: Path, other_stream: Path, weights: Path
) -> None:
    target = tmp_path / "out.mkv"
    settings = PlaySettings(other_stream, weights, target, device="cpu")
    with pytest.raises(WeightsStreamMismatchError, match="--force"):
        run(settings)
    assert not list(tmp_path.iterdir())
    report, events = run(replace(settings, force=True))
    assert report.enhanced_frames == NUM_FRAMES
    assert any(isinstance(e, Notice) and e.level == "warning" for e in events)


def test_outputs_that_are_refused(tmp_path: Path, stream: Path, weights: Path) -> None:
    target = tmp_path / "out.mkv"
    target.write_bytes(b"mine")
    with pytest.raises(UsageError, match="-y"):
        run(PlaySettings(stream, weights, target))
    assert target.read_bytes() == b"mine"
    for source in (stream, weights):
        with pytest.raises(UsageError, match="other than the input"):
            run(PlaySettings(stream, weights, source, overwrite=True))
    link = tmp_path / "link.mp4"
    link.symlink_to(stream)
    with pytest.raises(UsageError, match="other than the input"):
        run(PlaySettings(stream, weights, link, overwrite=True))
    with pytest.raises(UsageError, match="nothing to compare"):
        run(PlaySettings(stream, None, tmp_path / "new.mkv", compare=True))
    with pytest.raises(UsageError, match="folder"):
        run(PlaySettings(stream, None, tmp_path / "absent" / "new.mkv"))


def test_overwrite_replaces(tmp_path: Path, stream: Path) -> None:
    target = tmp_path / "out.mkv"
    target.write_bytes(b"old")
    run(PlaySettings(stream, None, target, overwrite=True))
    assert probe(target).format.width == 66


def test_inputs_that_are_refused(tmp_path: Path, stream: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        run(PlaySettings(tmp_path / "absent.mp4", None, tmp_path / "out.mkv"))
    with pytest.raises(InputError, match="absent"):
        run(PlaySettings(stream, tmp_path / "absent.weights", tmp_path / "out.mkv"))
    assert not list(tmp_path.iterdir())


def test_a_damaged_stream_leaves_no_output(tmp_path: Path, stream: Path) -> None:
    damaged = tmp_path / "damaged.mkv"
    run_ffmpeg(find_ffmpeg(), ["-v", "error", "-i", str(stream), "-c", "copy", str(damaged)])
    with av.open(str(stream)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    data = bytearray(damaged.read_bytes())
    at = data.index(packets[5])
    # The NAL unit's length becomes nonsense: nothing of that picture can be decoded.
    data[at : at + 4] = b"\x7f\xff\xff\xff"
    damaged.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        run(PlaySettings(damaged, None, tmp_path / "out.mkv"))
    assert [p.name for p in tmp_path.iterdir()] == ["damaged.mkv"]


def test_a_truncated_stream_is_said(tmp_path: Path, stream: Path) -> None:
    whole = tmp_path / "whole.mp4"
    arguments = ["-v", "error", "-i", str(stream), "-map", "0:v", "-c", "copy"]
    run_ffmpeg(find_ffmpeg(), [*arguments, "-movflags", "+faststart", str(whole)])
    _, events = run(PlaySettings(whole, None, tmp_path / "whole.mkv"))
    assert "truncated" not in notices(events)
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as container:
        begins = [packet.pos for packet in container.demux(video=0) if packet.size]
    cut.write_bytes(whole.read_bytes()[: begins[4]])
    report, events = run(PlaySettings(cut, None, tmp_path / "out.mkv"))
    assert report.num_frames < NUM_FRAMES - 2
    assert f"expected {NUM_FRAMES} frames" in notices(events)


def test_closing_mid_way_leaves_no_output(tmp_path: Path, stream: Path) -> None:
    events = play(PlaySettings(stream, None, tmp_path / "out.mkv"))
    for _ in range(5):
        next(events)
    events.close()
    assert not list(tmp_path.iterdir())


def test_no_player(tmp_path: Path, stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match="-o"):
        run(PlaySettings(stream))


def test_window(tmp_path: Path, stream: Path, weights: Path) -> None:
    player = tmp_path / "mpv"
    text = f"#!{sys.executable}\nimport sys\n"
    text += f"open({str(tmp_path / 'got.nut')!r}, 'wb').write(sys.stdin.buffer.read())\n"
    player.write_text(text, encoding="utf-8")
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    report, _ = run(PlaySettings(stream, weights, device="cpu", player=str(player)))
    assert not report.is_stopped
    got = tmp_path / "got.nut"
    assert_same(list(read_frames(got)), expected_frames(stream, weights))
    times = [f.pts * probe(got).time_base for f in read_frames(got)]
    assert times == [Fraction(n * n, 25) for n in range(NUM_FRAMES)]


# --------------------------------------------------- standard output, in a process of its own

PROGRAM = """
import sys
from pathlib import Path
from codecaux.decoder.play import PlaySettings, play
from codecaux.events import drain
stream, output, kind = sys.argv[1:]
output = output if output == "-" else Path(output)
report = drain(play(PlaySettings(Path(stream), None, output, stdout_format=kind)))
print("stopped" if report.is_stopped else "whole", report.num_frames, file=sys.stderr)
"""


def test_playing_plain_does_not_wait_for_torch(stream: Path) -> None:
    code = PROGRAM + "assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, str(stream), "-", "nut"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def program(stream: Path, output: str, kind: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(PROGRAM), str(stream), output, kind]


@pytest.fixture(scope="module")
def long_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 frames at a constant rate: more than pipes hold."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    arguments = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=160x96:rate=25"]
    arguments += ["-frames:v", "600", "-pix_fmt", "yuv420p", "-c:v", "libx265"]
    arguments += ["-preset", "ultrafast", "-x265-params", "log-level=none", str(path)]
    run_ffmpeg(find_ffmpeg(), arguments)
    return path


@pytest.mark.parametrize("kind", ["y4m", "nut"])
def test_stdout_is_nothing_but_the_video(tmp_path: Path, long_stream: Path, kind: str) -> None:
    target = tmp_path / f"out.{kind}"
    with target.open("wb") as file:
        done = subprocess.run(
            program(long_stream, "-", kind), stdout=file, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"whole 600\n"
    assert_same(list(read_frames(target)), list(read_frames(long_stream)))


@pytest.mark.parametrize("kind", ["y4m", "nut"])
def test_a_reader_of_stdout_that_leaves(long_stream: Path, kind: str) -> None:
    with subprocess.Popen(
        program(long_stream, "-", kind), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(100)
        child.stdout.close()
        message = child.stderr.read()
        assert child.wait(30) == 0, message
    assert message.startswith(b"stopped")


def test_y4m_of_a_variable_rate_is_refused(stream: Path) -> None:
    done = subprocess.run(program(stream, "-", "y4m"), capture_output=True, check=False)
    assert b"UsageError" in done.stderr
    assert b"--format nut" in done.stderr
    assert done.stdout == b""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_killed_mid_way_no_final_name(tmp_path: Path, long_stream: Path) -> None:
    target = tmp_path / "out.mkv"
    with subprocess.Popen(program(long_stream, str(target), "y4m")) as child:
        deadline = time.monotonic() + 30
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    time.sleep(0.3)  # ffmpeg sees the end of its input, and ends too
    assert not target.exists()
    assert [p.name.endswith(".part.mkv") for p in tmp_path.iterdir()] == [True]
