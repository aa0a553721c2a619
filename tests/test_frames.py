"""Pictures come out exactly as ffmpeg itself decodes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from codecaux.errors import InputError
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg
from codecaux.frames import count_frames, read_frames
from codecaux.probe import probe


def ffmpegs_own(ffmpeg: Ffmpeg, path: Path, out: Path) -> bytes:
    arguments = ["-v", "error", "-i", str(path), "-map", "0:V:0", "-fps_mode", "passthrough"]
    run_ffmpeg(ffmpeg, [*arguments, "-f", "rawvideo", "-y", str(out)])
    return out.read_bytes()


@pytest.mark.parametrize("name", ["clip", "clip_10bit", "clip_odd", "clip_full_range", "clip_vfr"])
def test_bytes_are_ffmpegs(
    name: str, request: pytest.FixtureRequest, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    path: Path = request.getfixturevalue(name)
    info = probe(path)
    frames = list(read_frames(path, info=info))
    planes = [plane for frame in frames for plane in frame.planes]
    assert all(plane.flags.c_contiguous and plane.dtype == info.format.dtype for plane in planes)
    ours = b"".join(plane.tobytes() for plane in planes)
    assert ours == ffmpegs_own(ffmpeg, path, tmp_path / "raw")
    assert len(ours) == len(frames) * info.format.frame_bytes


def test_shapes_of_an_odd_size(clip_odd: Path) -> None:
    frame = next(iter(read_frames(clip_odd)))
    assert [plane.shape for plane in frame.planes] == [(75, 99), (38, 50), (38, 50)]


def test_timestamps_are_exact(clip_vfr: Path) -> None:
    expected = [1001 * n * (n + 1) // 2 for n in range(12)]
    assert [frame.pts for frame in read_frames(clip_vfr)] == expected


def test_without_timestamps_they_are_indices(make_clip: Callable[..., Path]) -> None:
    bare = make_clip("bare.h264", codec="libx264")
    assert [frame.pts for frame in read_frames(bare)] == list(range(12))


def test_kept_frames_stay_as_they_were(clip: Path) -> None:
    kept = list(read_frames(clip))
    for frame, again in zip(kept, read_frames(clip, threads=1), strict=True):
        assert np.array_equal(frame.y, again.y)


def test_count(clip: Path, clip_odd: Path) -> None:
    assert (count_frames(clip), count_frames(clip_odd)) == (12, 6)


def test_other_layouts_are_refused_with_the_option(clip_444: Path) -> None:
    with pytest.raises(InputError, match="--to-420"):
        next(iter(read_frames(clip_444)))


def test_closing_early_stops_the_decoder(clip: Path) -> None:
    threads = threading.active_count()
    frames = read_frames(clip)
    assert len(list(islice(frames, 2))) == 2
    frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
    with pytest.raises(StopIteration):
        next(frames)


def test_change_of_size_names_the_frame(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    options = ("-preset", "ultrafast", "-g", "1", "-bf", "0")
    small = make_clip("small.h264", frames=3, codec="libx264", options=options)
    large = make_clip("large.h264", size=(128, 96), frames=3, codec="libx264", options=options)
    joined = tmp_path / "joined.h264"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(InputError, match="got 128x96 yuv420p at frame 3"):
        list(read_frames(joined))


def test_damage_names_the_frame(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    """PNG has checksums: a damaged picture cannot pass."""
    options = ("-pred", "none")
    data = bytearray(
        make_clip("png.mkv", codec="png", pixel_format="gray", options=options).read_bytes()
    )
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "damaged.mkv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"got \d+ good frames: at frame \d+"):
        count_frames(path)
