"""ClipInfo says what the file says."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from codecaux.errors import InputError
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg
from codecaux.probe import chroma_location_of, matrix_of, probe
from codecaux.video import Colour


def test_plain_clip(clip: Path) -> None:
    info = probe(clip)
    assert (info.format.width, info.format.height, info.format.bit_depth) == (96, 64, 8)
    assert info.format.colour == Colour("bt709", False, "left", 1, 1, 1)
    assert (info.pixel_format, info.log2_chroma_w, info.log2_chroma_h) == ("yuv420p", 1, 1)
    assert info.average_fps == Fraction(24)
    assert info.num_frames_from_header == 12
    assert info.duration_seconds_from_header == pytest.approx(0.5)
    assert (info.is_interlaced, info.rotation_degrees, info.is_hdr) == (False, 0, False)
    assert (info.has_audio, info.has_subtitles) == (False, False)
    assert info.sample_aspect_ratio == 1


def test_rate_is_a_fraction(clip_vfr: Path) -> None:
    info = probe(clip_vfr)
    assert info.time_base == Fraction(1, 24000)
    assert isinstance(info.average_fps, Fraction)


def test_ten_bits_and_odd_size(clip_10bit: Path, clip_odd: Path) -> None:
    assert probe(clip_10bit).format.bit_depth == 10
    odd = probe(clip_odd).format
    assert (odd.width, odd.height, odd.chroma_width, odd.chroma_height) == (99, 75, 50, 38)


def test_full_range_centred_601(clip_full_range: Path) -> None:
    colour = probe(clip_full_range).format.colour
    assert (colour.full_range, colour.chroma_location, colour.matrix) == (True, "center", "bt601")


def test_hdr10(clip_hdr10: Path) -> None:
    info = probe(clip_hdr10)
    colour = info.format.colour
    assert (colour.matrix, colour.primaries, colour.transfer) == ("bt2020", 9, 16)
    assert info.is_hdr


def test_other_layouts_are_described(clip_444: Path, clip_interlaced: Path) -> None:
    info = probe(clip_444)
    assert (info.pixel_format, info.log2_chroma_w, info.log2_chroma_h) == ("yuv444p", 0, 0)
    assert probe(clip_interlaced).is_interlaced


def test_tracks(clip_with_tracks: Path) -> None:
    info = probe(clip_with_tracks)
    assert info.has_audio
    assert info.has_subtitles


def test_rotation_and_aspect(clip: Path, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    arguments = ["-v", "error", "-display_rotation", "90", "-i", str(clip)]
    run_ffmpeg(ffmpeg, [*arguments, "-c", "copy", "-aspect", "3:1", str(turned)])
    info = probe(turned)
    assert abs(info.rotation_degrees) == 90
    assert (info.format.width, info.format.height) == (96, 64)
    assert info.sample_aspect_ratio == Fraction(2)


def test_file_without_timestamps(make_clip: Callable[..., Path]) -> None:
    info = probe(make_clip("bare.h264", codec="libx264"))
    assert info.time_base == 1 / info.average_fps


def test_cover_art_is_not_the_video(ffmpeg: Ffmpeg, clip: Path, tmp_path: Path) -> None:
    cover, path = tmp_path / "cover.png", tmp_path / "song.mp4"
    run_ffmpeg(ffmpeg, ["-v", "error", "-i", str(clip), "-frames:v", "1", str(cover)])
    sound = ["-f", "lavfi", "-t", "0.1", "-i", "sine", "-i", str(cover)]
    mapping = ["-map", "0", "-map", "1", "-disposition:v", "attached_pic", "-c:v", "copy"]
    run_ffmpeg(ffmpeg, ["-v", "error", *sound, *mapping, str(path)])
    with pytest.raises(InputError, match="no video stream"):
        probe(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "does not exist"), (b"", "empty"), (b"not a video " * 100, "cannot be read as one")],
)
def test_what_is_no_video(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "x.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=expected):
        probe(path)


def test_folder_and_sound_are_no_video(tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    with pytest.raises(InputError, match="folder"):
        probe(tmp_path)
    sound = tmp_path / "sound.wav"
    run_ffmpeg(ffmpeg, ["-v", "error", "-f", "lavfi", "-t", "0.1", "-i", "sine", str(sound)])
    with pytest.raises(InputError, match="no video stream"):
        probe(sound)


def test_a_name_that_is_not_utf8() -> None:
    with pytest.raises(InputError, match=r"caf\\udce9\.y4m; rename the file"):
        probe(Path("caf\udce9.y4m"))


def test_strange_names(clip: Path, tmp_path: Path) -> None:
    for name in ("a:b %d 'c'.mp4", "-x.mp4", "ü[1].mp4"):
        path = tmp_path / name
        path.write_bytes(clip.read_bytes())
        assert probe(path).format == probe(clip).format


@pytest.mark.parametrize(
    ("code", "height", "expected"),
    [
        *((1, 480, "bt709"), (5, 1080, "bt601"), (6, 1080, "bt601"), (9, 480, "bt2020")),
        *((10, 480, "bt2020"), (2, 720, "bt709"), (2, 719, "bt601"), (0, 1080, "bt709")),
    ],
)
def test_matrix(code: int, height: int, expected: str) -> None:
    assert matrix_of(code, height) == expected


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ("yuv420p(tv, bt709/unknown/unknown, progressive, left)", "left"),
        ("yuvj420p(pc, bt470bg/unknown/unknown, center)", "center"),
        ("yuv420p10le(tv, progressive, topleft)", "topleft"),
        ("yuv420p(progressive)", None),
        ("yuv420p", None),
    ],
)
def test_chroma_location_is_read_from_the_description(pixels: str, expected: str | None) -> None:
    line = f"  Stream #0:0[0x1](und): Video: h264 (High) (avc1 / 0x31), {pixels}, 98x74 [SAR 1:1]\n"
    cover = "  Stream #0:0: Video: png, rgb24(pc, left), 9x9 (attached pic)\n"
    assert chroma_location_of(line) == expected
    assert chroma_location_of(cover + line) == expected


@pytest.mark.parametrize("location", ["left", "center", "topleft"])
def test_chroma_location_of_a_stream(
    ffmpeg: Ffmpeg, clip: Path, tmp_path: Path, location: str
) -> None:
    path = tmp_path / "sited.mp4"
    options = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error"]
    tag = ["-vf", f"setparams=chroma_location={location}"]
    run_ffmpeg(ffmpeg, ["-v", "error", "-i", str(clip), *tag, *options, str(path)])
    assert probe(path).format.colour.chroma_location == location


def test_real_clips(real_clips: Path) -> None:
    infos = [
        probe(path) for path in sorted(real_clips.iterdir())[:6] if path.suffix in (".mp4", ".mkv")
    ]
    assert infos
    for info in infos:
        size = f"_{info.format.width}x{info.format.height}"
        assert size in info.path.name
        assert info.average_fps > 1
