"""Any source becomes one progressive 4:2:0 file, or a refusal that says what to do."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codecaux.encoder.convert import SourceOptions
from codecaux.encoder.prepare import PreparedSource, prepare
from codecaux.encoder.scan import fingerprint, quick_fingerprint
from codecaux.encoder.y4m import frame_bytes_of
from codecaux.errors import InputError, UsageError
from codecaux.events import Notice, StageDone, drain
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg
from codecaux.frames import read_frames

MakeClip = Callable[..., Path]
PLAIN = SourceOptions()


def prepared(
    source: str | Path, work: Path, options: SourceOptions = PLAIN, **more: object
) -> PreparedSource:
    return drain(prepare(source, options, work, **more))  # type: ignore[arg-type]


def planes(path: Path, **more: object) -> bytes:
    frames = read_frames(path, **more)  # type: ignore[arg-type]
    return b"".join(plane.tobytes() for frame in frames for plane in frame.planes)


def as_y4m(ffmpeg: Ffmpeg, clip: Path, out: Path) -> Path:
    run_ffmpeg(ffmpeg, ["-v", "error", "-i", str(clip), "-strict", "-1", "-y", str(out)])
    return out


def test_usable_as_it_is(clip: Path, tmp_path: Path) -> None:
    source = prepared(clip, tmp_path)
    assert (source.path, source.original, source.is_mezzanine) == (clip, clip, False)
    assert source.num_frames == 12
    assert source.duration_seconds == Fraction(1, 2)
    assert source.pts.dtype == np.int64
    assert source.fingerprint == fingerprint(clip)
    assert list(tmp_path.iterdir()) == []


def test_variable_rate(clip_vfr: Path, tmp_path: Path) -> None:
    source = prepared(clip_vfr, tmp_path)
    assert source.pts.tolist() == [1001 * n * (n + 1) // 2 for n in range(12)]
    assert source.info.time_base == Fraction(1, 24000)


@pytest.mark.parametrize("name", ["clip_10bit", "clip_odd", "clip_full_range", "clip_with_tracks"])
def test_other_usable_sources(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path: Path = request.getfixturevalue(name)
    source = prepared(path, tmp_path)
    assert source.path == path
    assert source.num_frames == len(source.pts) > 0


def test_one_frame(make_clip: MakeClip, tmp_path: Path) -> None:
    source = prepared(make_clip("one.mkv", frames=1), tmp_path)
    assert source.num_frames == 1
    assert source.duration_seconds > 0


def test_hdr_works_with_a_warning(clip_hdr10: Path, tmp_path: Path) -> None:
    notices = [e for e in prepare(clip_hdr10, PLAIN, tmp_path) if isinstance(e, Notice)]
    assert [(n.level, "VMAF" in n.message) for n in notices] == [("warning", True)]


def test_truncated(clip_truncated: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"truncated.*got \d+ whole frames"):
        prepared(clip_truncated, tmp_path)


def test_truncated_matroska(make_clip: MakeClip, tmp_path: Path) -> None:
    data = make_clip("whole.mkv", frames=24).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="truncated"):
        prepared(path, tmp_path)


def test_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.y4m"
    path.write_bytes(b"YUV4MPEG2 W16 H16 F25:1 C420jpeg\n")
    with pytest.raises(InputError):
        prepared(path, tmp_path)


def test_cut_y4m(ffmpeg: Ffmpeg, clip: Path, tmp_path: Path) -> None:
    path = as_y4m(ffmpeg, clip, tmp_path / "a.y4m")
    assert prepared(path, tmp_path).num_frames == 12
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="got 11 whole frames"):
        prepared(path, tmp_path)


def test_timestamps_that_repeat(make_clip: MakeClip, tmp_path: Path) -> None:
    options = ("-fps_mode", "passthrough")
    clip = make_clip("twice.mkv", filters="setpts=floor(N/2)*2/24/TB", options=options)
    with pytest.raises(InputError, match="frame 1 "):
        prepared(clip, tmp_path)


def test_deinterlace(clip_interlaced: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--deinterlace"):
        prepared(clip_interlaced, tmp_path)
    source = prepared(clip_interlaced, tmp_path, SourceOptions(deinterlace=True))
    direct = 12
    assert source.num_frames == direct
    assert not source.info.is_interlaced
    assert source.original == clip_interlaced
    gaps = np.diff(source.pts) * float(source.info.time_base)
    assert gaps == pytest.approx(1 / 24, abs=1.1e-3)


def test_444(clip_444: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--to-420"):
        prepared(clip_444, tmp_path)
    source = prepared(clip_444, tmp_path, SourceOptions(to_420=True))
    assert source.info.pixel_format == "yuv420p"
    luma = next(iter(read_frames(source.path, info=source.info))).y
    assert luma.std() > 10


def test_rgb_becomes_limited_601(make_clip: MakeClip, tmp_path: Path) -> None:
    white = make_clip("rgb.mkv", pixel_format="gbrp", filters="drawbox=color=white:t=fill")
    source = prepared(white, tmp_path, SourceOptions(to_420=True))
    colour = source.info.format.colour
    assert (colour.matrix, colour.matrix_code, colour.full_range) == ("bt601", 6, False)
    frame = next(iter(read_frames(source.path, info=source.info)))
    assert [int(np.median(plane)) for plane in frame.planes] == [235, 128, 128]


def test_12_bit_becomes_10(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("12.mkv", pixel_format="yuv420p12le", filters="", frames=3)
    source = prepared(clip, tmp_path, SourceOptions(to_420=True))
    assert source.info.pixel_format == "yuv420p10le"
    assert source.info.format.bit_depth == 10


@pytest.mark.parametrize("size", [(96, 64), (99, 75)])
def test_raw_frames(
    ffmpeg: Ffmpeg, make_clip: MakeClip, tmp_path: Path, size: tuple[int, int]
) -> None:
    clip = make_clip(f"for-raw-{size[0]}.mkv", size=size, frames=5)
    raw = tmp_path / "a.yuv"
    run_ffmpeg(ffmpeg, ["-v", "error", "-i", str(clip), "-f", "rawvideo", str(raw)])
    options = SourceOptions(
        raw_size=size, raw_fps=Fraction(30000, 1001), raw_pixel_format="yuv420p"
    )
    source = prepared(raw, tmp_path / "work", options)
    assert planes(source.path, info=source.info) == raw.read_bytes()
    assert source.info.average_fps == Fraction(30000, 1001)
    assert source.duration_seconds == 5 * Fraction(1001, 30000)
    assert source.original is None
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(InputError, match="got 4 of them and"):
        prepared(raw, tmp_path / "other", options)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    for options in (
        SourceOptions(raw_fps=Fraction(25)),
        SourceOptions(raw_size=(4, 4)),
        SourceOptions(raw_size=(0, 4), raw_fps=Fraction(25)),
        SourceOptions(raw_size=(4, 4), raw_fps=Fraction(25), raw_pixel_format="nonsense"),
        SourceOptions(raw_size=(4, 4), raw_fps=Fraction(25), raw_pixel_format="cuda"),
    ):
        with pytest.raises(UsageError):
            prepared(tmp_path / "a.yuv", tmp_path, options)


@pytest.mark.parametrize("name", ["clip", "clip_odd", "clip_10bit", "clip_full_range"])
def test_y4m_on_stdin(
    name: str, request: pytest.FixtureRequest, ffmpeg: Ffmpeg, tmp_path: Path
) -> None:
    y4m = as_y4m(ffmpeg, request.getfixturevalue(name), tmp_path / "a.y4m")
    direct = prepared(y4m, tmp_path / "work")
    piped = prepared("-", tmp_path / "work", stdin=io.BytesIO(y4m.read_bytes()))
    assert piped.is_mezzanine
    assert piped.original is None
    assert piped.info.format == direct.info.format
    assert piped.duration_seconds == direct.duration_seconds
    assert planes(piped.path, info=piped.info) == planes(y4m)
    ours = [pts * piped.info.time_base for pts in piped.pts.tolist()]
    assert ours == [pts * direct.info.time_base for pts in direct.pts.tolist()]


def test_same_stdin_same_fingerprint(ffmpeg: Ffmpeg, clip: Path, tmp_path: Path) -> None:
    data = as_y4m(ffmpeg, clip, tmp_path / "a.y4m").read_bytes()
    one = prepared("-", tmp_path / "one", stdin=io.BytesIO(data))
    two = prepared("-", tmp_path / "two", stdin=io.BytesIO(data))
    assert one.fingerprint == two.fingerprint


def test_bad_stdin(ffmpeg: Ffmpeg, clip: Path, tmp_path: Path) -> None:
    for data in (b"", b"RIFF....", b"YUV4MPEG2 no size\n"):
        with pytest.raises(InputError, match="y4m"):
            prepared("-", tmp_path, stdin=io.BytesIO(data))
    cut = as_y4m(ffmpeg, clip, tmp_path / "a.y4m").read_bytes()[:-5]
    with pytest.raises(InputError, match="stdin is truncated"):
        prepared("-", tmp_path / "work", stdin=io.BytesIO(cut))
    assert not (tmp_path / "work" / "source.mov").exists()


def test_mezzanine_is_reused_only_for_the_same_content(
    clip_444: Path, make_clip: MakeClip, tmp_path: Path
) -> None:
    options = SourceOptions(to_420=True)

    def resumed(path: Path) -> list[bool]:
        events = list(prepare(path, options, tmp_path))
        return [event.resumed for event in events if isinstance(event, StageDone)]

    other = make_clip("444-other.mkv", source="mandelbrot", pixel_format="yuv444p", filters="")
    assert [resumed(clip_444), resumed(clip_444), resumed(other)] == [[False], [True], [False]]


def test_fingerprint_sees_content_not_names(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(bytes(5_000_000))
    two.write_bytes(bytes(5_000_000))
    assert fingerprint(one) == fingerprint(two)
    # One shot corrected, and exported anew: as long as before, and elsewhere the same.
    two.write_bytes(bytes(1_500_000) + b"x" + bytes(3_499_999))
    assert fingerprint(one) != fingerprint(two)
    # What we wrote ourselves is looked at more quickly.
    assert quick_fingerprint(one) == quick_fingerprint(two)
    two.write_bytes(bytes(2_500_000) + b"x" + bytes(2_499_999))
    assert quick_fingerprint(one) != quick_fingerprint(two)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("yuv420p", 99 * 75 + 2 * 50 * 38), ("yuv420p10le", 2 * (99 * 75 + 2 * 50 * 38))),
        *(("nv12", 99 * 75 + 2 * 50 * 38), ("rgb24", 3 * 99 * 75), ("yuv444p", 3 * 99 * 75)),
    ],
)
def test_frame_bytes(name: str, expected: int) -> None:
    assert frame_bytes_of(name, 99, 75) == expected
