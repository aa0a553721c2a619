"""The total rate: the video packets and the weights over the title's duration."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import imageio_ffmpeg
import pytest

from codecaux.errors import InputError
from codecaux.rate import Rate, amortised_weights_kbps, total_rate


def make(path: Path, *arguments: str, fps: int = 50, frames: int = 25) -> Path:
    source = ["-f", "lavfi", "-i", f"testsrc2=s=64x64:r={fps}", "-f", "lavfi", "-i", "sine"]
    x265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"]
    sound = ["-c:a", "aac", "-shortest"]
    if path.suffix == ".hevc":
        source, sound = source[:4], []
    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-nostdin", "-v", "error", "-y", *source, *x265, *sound, *arguments]
    subprocess.run([*command, "-frames:v", str(frames), str(path)], check=True, timeout=60)
    return path


def video_packet_bytes(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.size for packet in container.demux(video=0))


def test_sums() -> None:
    rate = Rate(stream_bytes=100_000, weights_bytes=25_000, duration_seconds=2.0)
    assert rate.stream_kbps == 400.0
    assert rate.weights_kbps == 100.0
    assert rate.total_kbps == 500.0
    assert rate.total_bytes == 125_000
    assert amortised_weights_kbps(rate, 10.0) == 20.0
    assert amortised_weights_kbps(rate, 2.0) == rate.weights_kbps


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.hevc"])
def test_only_video_packets_count_and_the_last_picture_lasts(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name)
    weights = tmp_path / "a.weights"
    weights.write_bytes(bytes(1234))
    rate = total_rate(path, weights)
    assert 0 < rate.stream_bytes == video_packet_bytes(path) < path.stat().st_size + 1
    assert rate.weights_bytes == 1234
    # mkv counts milliseconds.
    assert rate.duration_seconds == pytest.approx(0.5, abs=0.0011)
    assert total_rate(path).weights_bytes == 0
    assert total_rate(path).stream_kbps == rate.stream_kbps


def test_variable_frame_rate(tmp_path: Path) -> None:
    # Pictures at 0, 1, 4, 9, 16 ... 81 twenty-fifths of a second.
    times = ["-vf", "setpts=N*N/25/TB", "-fps_mode", "vfr", "-an"]
    rate = total_rate(make(tmp_path / "a.mp4", *times, frames=10, fps=25))
    assert 81 / 25 < rate.duration_seconds < 101 / 25


def test_one_picture(tmp_path: Path) -> None:
    rate = total_rate(make(tmp_path / "a.mp4", "-an", frames=1))
    assert rate.duration_seconds == pytest.approx(0.02)


def test_a_stream_that_does_not_start_at_zero(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", "-an", "-output_ts_offset", "100")
    assert total_rate(path).duration_seconds == pytest.approx(0.5, abs=0.0011)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", frames=2)
    with pytest.raises(InputError, match=r"none\.weights"):
        total_rate(path, tmp_path / "none.weights")
    with pytest.raises(InputError, match=r"none\.mp4"):
        total_rate(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(InputError, match=r"text\.mp4"):
        total_rate(tmp_path / "text.mp4")
