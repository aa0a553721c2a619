"""The H.265 stream: exact timestamps, the source's colour tags, its tracks, its geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from codecaux.encoder.convert import SourceOptions
from codecaux.encoder.mux import Track, choose_tracks, held_audio, other_bytes
from codecaux.encoder.prepare import PreparedSource, prepare
from codecaux.encoder.stream import StreamResult, StreamSettings, encode_stream, timescale_of
from codecaux.errors import InputError, ToolFailedError, UsageError
from codecaux.events import Notice, Progress, drain
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg
from codecaux.frames import read_frames
from codecaux.probe import probe
from codecaux.video import Frame

MakeClip = Callable[..., Path]
FAST = StreamSettings(crf=30, preset="ultrafast")
# Same size and lossless: what is decoded is what the filters made.
EXACT = StreamSettings(1, "ultrafast", Fraction(1), x265_params=(("lossless", "1"),))


def source_of(path: Path, work: Path, **options: bool) -> PreparedSource:
    return drain(prepare(path, SourceOptions(**options), work))  # type: ignore[arg-type]


def encoded(
    path: Path, out: Path, ffmpeg: Ffmpeg, settings: StreamSettings = FAST, **options: bool
) -> StreamResult:
    source = source_of(path, out.parent / "work", **options)
    return drain(encode_stream(source, settings, out, ffmpeg))


def shown_at(path: Path) -> list[Fraction]:
    info = probe(path)
    return [frame.pts * info.time_base for frame in read_frames(path, info=info)]


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        stream: Any = getattr(container.streams, kind)[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def test_what_is_written(clip: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    result = encoded(clip, tmp_path / "title.mp4", ffmpeg)
    info = probe(result.path)
    assert (info.format.width, info.format.height) == (48, 32)
    assert (info.codec_name, info.format.bit_depth) == ("hevc", 8)
    assert (result.num_frames, result.size_bytes) == (12, result.path.stat().st_size)
    data = result.path.read_bytes()
    assert b"hvc1" in data
    assert data.index(b"moov") < data.index(b"mdat")
    assert str(tmp_path).encode() not in data
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["title.mp4"]


def test_equal_settings_give_equal_bytes(clip: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    # Not at half the size: of 48x32 pictures x265 makes, now and then, another stream.
    settings = replace(FAST, preset="veryfast", scale=Fraction(1))
    written = [
        encoded(clip, tmp_path / f"{threads}.mp4", ffmpeg, replace(settings, threads=threads))
        for threads in (0, 1, 2)
    ]
    assert len({result.path.read_bytes() for result in written}) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_variable_rate_is_exact(
    clip_vfr: Path, tmp_path: Path, ffmpeg: Ffmpeg, suffix: str
) -> None:
    result = encoded(clip_vfr, tmp_path / f"title{suffix}", ffmpeg)
    assert shown_at(result.path) == [Fraction(1001 * n * (n + 1) // 2, 24000) for n in range(12)]


def test_matroska_is_exact_to_a_millisecond(clip_vfr: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    result = encoded(clip_vfr, tmp_path / "title.mkv", ffmpeg)
    expected = [1001 * n * (n + 1) / 2 / 24000 for n in range(12)]
    assert [float(t) for t in shown_at(result.path)] == pytest.approx(expected, abs=1e-3)


def test_without_timestamps(make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    bare = make_clip("bare.h264", codec="libx264")
    times = shown_at(encoded(bare, tmp_path / "title.mp4", ffmpeg).path)
    fps = probe(bare).average_fps
    assert [t - times[0] for t in times] == [n / fps for n in range(12)]


def test_an_avi_with_reordered_pictures_has_a_constant_rate(
    make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    """Its times are those of decoding: 1, 4, 3, 5, 2, ..."""
    sound = ("-f", "lavfi", "-t", "1", "-i", "sine")
    clip = make_clip(
        "reordered.avi", codec="libx264", inputs=sound, options=("-bf", "3", "-c:a", "ac3")
    )
    source = drain(prepare(clip, SourceOptions(), tmp_path))
    assert not source.has_timestamps
    assert source.pts.tolist() == list(range(12))
    assert source.duration_seconds == Fraction(12, 24)
    made = drain(encode_stream(source, EXACT, tmp_path / "made.mp4", ffmpeg))
    assert made.num_frames == 12
    with av.open(str(made.path)) as container:
        times = [float(p.pts * p.time_base) for p in container.decode(video=0)]
    np.testing.assert_allclose(np.diff(times), 1 / 24, atol=1e-4)
    for shown, coded in zip(read_frames(made.path), read_frames(clip), strict=True):
        np.testing.assert_array_equal(shown.y, coded.y)


def test_wrong_timestamps_are_noticed(clip: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    source = source_of(clip, tmp_path)
    out = tmp_path / "title.mp4"
    with pytest.raises(ToolFailedError, match="frame 1 to be shown"):
        drain(encode_stream(replace(source, pts=source.pts * 2), FAST, out, ffmpeg))
    with pytest.raises(ToolFailedError, match="expected 11 frames"):
        drain(encode_stream(replace(source, pts=source.pts[:-1], num_frames=11), FAST, out, ffmpeg))
    assert not out.exists()


@pytest.mark.parametrize("name", ["clip", "clip_full_range", "clip_hdr10", "clip_10bit"])
def test_colour_survives(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    path: Path = request.getfixturevalue(name)
    before = probe(path).format
    after = probe(encoded(path, tmp_path / "title.mp4", ffmpeg).path).format
    assert after.bit_depth == before.bit_depth
    # An unspecified matrix is spelt out; everything else is the same.
    assert after.colour.matrix_code in (before.colour.matrix_code, 6)
    code = before.colour.matrix_code
    assert replace(after.colour, matrix_code=code) == before.colour


def test_unspecified_matrix_does_not_change_with_the_size(
    make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    """720 lines suggest BT.709, the stream's 360 would suggest BT.601."""
    tall = make_clip("tall.mkv", size=(64, 720), frames=2, filters="")
    assert probe(tall).format.colour.matrix_code == 2
    after = probe(encoded(tall, tmp_path / "title.mp4", ffmpeg).path)
    assert (after.format.height, after.format.colour.matrix) == (360, "bt709")


def test_hdr10_metadata_survives(clip_hdr10: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    path = encoded(clip_hdr10, tmp_path / "title.mp4", ffmpeg).path
    seen = run_ffmpeg(
        ffmpeg,
        ["-v", "info", "-i", str(path), "-vf", "showinfo", "-frames:v", "1", "-f", "null", "-"],
    )
    assert "mastering display" in seen.lower()
    assert "MaxCLL=1000" in seen


def expected_padding(frame: Frame, width: int, height: int) -> list[np.ndarray]:
    sizes = [(height, width), (height // 2, width // 2), (height // 2, width // 2)]
    return [
        np.pad(plane, ((0, h - plane.shape[0]), (0, w - plane.shape[1])), mode="edge")
        for plane, (h, w) in zip(frame.planes, sizes, strict=True)
    ]


@pytest.mark.parametrize("name", ["clip", "clip_odd", "clip_10bit", "clip_full_range"])
def test_padding_replicates_edges_and_values_pass_unchanged(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    path: Path = request.getfixturevalue(name)
    result = encoded(path, tmp_path / "title.mp4", ffmpeg, EXACT)
    size = (result.geometry.coded_width, result.geometry.coded_height)
    for before, after in zip(read_frames(path), read_frames(result.path), strict=True):
        for ours, theirs in zip(expected_padding(before, *size), after.planes, strict=True):
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("scale", [Fraction(2), Fraction(3, 2), Fraction(1)])
def test_odd_sizes_at_every_scale(
    clip_odd: Path, tmp_path: Path, ffmpeg: Ffmpeg, scale: Fraction
) -> None:
    result = encoded(clip_odd, tmp_path / "title.mp4", ffmpeg, replace(FAST, scale=scale))
    written = probe(result.path).format
    assert (written.width, written.height) == (
        result.geometry.coded_width,
        result.geometry.coded_height,
    )
    assert result.geometry.padded_width >= 99


@pytest.mark.parametrize("width", [124, 126, 127, 128])
def test_no_drift_at_any_width(
    make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg, width: int
) -> None:
    """Coded sample j lies at 1.5 (j + 1/2) - 1/2 among the source's, to the last one."""
    waves = "geq=lum='128+80*sin(X/4)':cb='128+80*sin(X/4)':cr=128"
    clip = make_clip(f"waves-{width}.mkv", size=(width, 64), frames=1, filters=waves)
    scaled = replace(EXACT, scale=Fraction(3, 2))
    frame = next(iter(read_frames(encoded(clip, tmp_path / "title.mp4", ffmpeg, scaled).path)))
    # But for the padded edge, which a kernel of six source samples sees.
    count = int((width - 6) / 1.5)
    expected = 128 + 80 * np.sin((1.5 * (np.arange(4, count) + 0.5) - 0.5) / 4)
    assert np.abs(frame.y[32, 4:count] - expected).max() < 4
    # Chroma on the left: 2 j among the coded luma, 3 j + 1/4 among the source's, half of that.
    chroma = np.arange(4, count // 2 - 2)
    expected = 128 + 80 * np.sin((1.5 * chroma + 0.125) / 4)
    assert np.abs(frame.u[16, chroma] - expected).max() < 4


@pytest.mark.parametrize(
    ("location", "shift_x", "shift_y"),
    [("left", 0.25, 0.5), ("center", 0.5, 0.5), ("topleft", 0.25, 0.25)],
)
def test_chroma_siting_survives_scaling(
    make_clip: MakeClip,
    tmp_path: Path,
    ffmpeg: Ffmpeg,
    location: str,
    shift_x: float,
    shift_y: float,
) -> None:
    """A chroma sample of the half-size picture lies at 2 i + shift among the source's, where
    shift follows from the siting: luma sample j lies at 2 j + 1/2."""
    ramp = (
        "format=yuv444p10le,geq=lum=512:cb=200+4*X:cr=200+4*Y,"
        "scale=96:64:in_h_chr_pos=0:out_h_chr_pos=128:out_v_chr_pos=128:flags=bilinear"
    )
    clip = make_clip(
        f"ramp-{location}.mkv",
        pixel_format="yuv420p10le",
        frames=1,
        filters=f"{ramp},setparams=chroma_location={location}",
    )
    settings = replace(EXACT, scale=Fraction(2))
    source = source_of(clip, tmp_path)
    sited = replace(source.info.format.colour, chroma_location=location)  # type: ignore[arg-type]
    info = replace(source.info, format=replace(source.info.format, colour=sited))
    output = tmp_path / "title.mp4"
    drain(encode_stream(replace(source, info=info), settings, output, ffmpeg))
    before, after = next(iter(read_frames(clip))), next(iter(read_frames(output)))
    step_x = float(before.u[10, 11]) - float(before.u[10, 10])
    step_y = float(before.v[11, 10]) - float(before.v[10, 10])
    moved_x = (float(after.u[8, 8]) - float(before.u[8, 16])) / step_x
    moved_y = (float(after.v[8, 8]) - float(before.v[16, 8])) / step_y
    # One code value is 1/8 of a step.
    assert (moved_x, moved_y) == pytest.approx((shift_x, shift_y), abs=0.13)


def test_audio_is_copied_and_text_converted(
    clip_with_tracks: Path, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    result = encoded(clip_with_tracks, tmp_path / "title.mp4", ffmpeg)
    assert packets(result.path, "audio") == packets(clip_with_tracks, "audio")
    with av.open(str(result.path)) as container:
        assert container.streams.subtitles[0].codec_context.name == "mov_text"
        assert container.streams.audio[0].metadata["language"] == "fra"
        assert container.metadata["title"] == "A title"
    assert result.dropped == ()


def test_tracks_beside_a_mezzanine_stay_in_step(
    ffmpeg: Ffmpeg, make_clip: MakeClip, tmp_path: Path
) -> None:
    """The pictures start half a second after the sound; they must after conversion too."""
    late = make_clip("late.mkv", pixel_format="yuv444p", filters="setpts=PTS+0.5/TB")
    both = tmp_path / "both.mkv"
    sound = ["-f", "lavfi", "-t", "1", "-i", "sine", "-map", "0:v", "-map", "1:a"]
    arguments = ["-v", "error", "-copyts", "-i", str(late), *sound, "-c:v", "copy", "-c:a", "aac"]
    run_ffmpeg(ffmpeg, [*arguments, "-metadata", "title=Late", str(both)])
    with av.open(str(both)) as container:
        gap = float(container.streams.video[0].start_time or 0) / 1000
    result = encoded(both, tmp_path / "title.mp4", ffmpeg, to_420=True)
    with av.open(str(result.path)) as container:
        assert container.metadata["title"] == "Late"
        audio, video = container.streams.audio[0], container.streams.video[0]
        starts = [float(s.start_time * s.time_base) for s in (audio, video)]
    first_picture = float(shown_at(result.path)[0])
    assert first_picture - max(starts[0], 0) == pytest.approx(0.5, abs=0.05), (gap, starts)
    assert packets(result.path, "audio") == packets(both, "audio")


def test_a_mezzanine_of_a_silent_source_keeps_its_title(
    make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    clip = make_clip(
        "silent-444.mkv", pixel_format="yuv444p", options=("-metadata", "title=Silent")
    )
    result = encoded(clip, tmp_path / "title.mp4", ffmpeg, to_420=True)
    with av.open(str(result.path)) as container:
        assert container.metadata["title"] == "Silent"
        assert [stream.type for stream in container.streams] == ["video"]


def test_what_x265_cannot_code_is_refused(
    make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    clip = make_clip("small.mkv", size=(17, 16), frames=3)
    with pytest.raises(InputError, match=r"at least 16x16.*10x8.*--scale 2"):
        encoded(clip, tmp_path / "title.mp4", ffmpeg)
    assert not (tmp_path / "title.mp4").exists()


@pytest.mark.parametrize(("codec", "is_held"), [("pcm_s16le", True), ("flac", False)])
def test_sound_beside_the_pictures_of_a_mov(
    make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg, codec: str, is_held: bool
) -> None:
    sound = ("-f", "lavfi", "-t", "0.5", "-i", "sine")
    options = ("-map", "0:v", "-map", "1:a", "-c:a", codec)
    clip = make_clip(f"sound-{codec}.mkv", inputs=sound, options=options)
    result = encoded(clip, tmp_path / "title.mov", ffmpeg)
    with av.open(str(result.path)) as container:
        assert len(container.streams.audio) == is_held
    assert bool(result.dropped) != is_held


def test_what_a_container_cannot_hold_is_named(
    make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    sound = ("-f", "lavfi", "-t", "0.5", "-i", "sine")
    options = ("-map", "0:v", "-map", "1:a", "-c:a", "libvorbis")
    clip = make_clip("vorbis.mkv", inputs=sound, options=options)
    source = source_of(clip, tmp_path)
    events = list(encode_stream(source, FAST, tmp_path / "title.mp4", ffmpeg))
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert any(isinstance(event, Progress) for event in events)
    assert len(notices) == 1
    assert "vorbis" in notices[0]
    assert ".mkv" in notices[0]
    kept = encoded(clip, tmp_path / "title.mkv", ffmpeg)
    assert packets(kept.path, "audio") == packets(clip, "audio")


def test_choice_of_tracks() -> None:
    tracks = (
        *(Track("a", 0, "vorbis"), Track("a", 1, "aac")),
        *(Track("s", 0, "hdmv_pgs_subtitle"), Track("s", 1, "subrip"), Track("s", 2, "mov_text")),
    )
    mp4 = choose_tracks(tracks, is_matroska=False)
    assert mp4.specifiers == ("a:1", "s:1", "s:2")
    assert mp4.options == {"c:a:0": "copy", "c:s:0": "mov_text", "c:s:1": "copy"}
    assert mp4.dropped == ("audio track 1 (vorbis)", "subtitle track 1 (hdmv_pgs_subtitle)")
    assert choose_tracks(tracks, is_matroska=True).dropped == ()


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("x.mp4", ("audio track 4 (pcm_s24le)",)),
        ("x.MOV", ("audio track 2 (flac)", "audio track 3 (opus)")),
    ],
)
def test_a_mov_holds_other_sound_than_an_mp4(name: str, dropped: tuple[str, ...]) -> None:
    codecs = ("aac", "flac", "opus", "pcm_s24le")
    tracks = tuple(Track("a", position, codec) for position, codec in enumerate(codecs))
    found = choose_tracks(tracks, is_matroska=False, audio=held_audio(Path(name)))
    assert found.dropped == dropped


def test_rotation_and_aspect_are_kept(clip: Path, ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    arguments = ["-v", "error", "-display_rotation", "90", "-i", str(clip), "-c", "copy"]
    run_ffmpeg(ffmpeg, [*arguments, "-aspect", "3:1", str(turned)])
    before, after = probe(turned), probe(encoded(turned, tmp_path / "title.mp4", ffmpeg).path)
    assert after.rotation_degrees == before.rotation_degrees != 0
    assert after.sample_aspect_ratio == before.sample_aspect_ratio == 2
    assert after.format.width > after.format.height


def test_one_frame(make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    result = encoded(make_clip("one.mkv", frames=1), tmp_path / "title.mp4", ffmpeg)
    assert result.num_frames == 1


def test_names_with_odd_characters(clip: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    strange = tmp_path / "a:b %d 'c',[d].mp4"
    strange.write_bytes(clip.read_bytes())
    assert encoded(strange, tmp_path / "-ü 'x'.mp4", ffmpeg).num_frames == 12


@pytest.mark.parametrize(
    "wrong",
    [
        {"crf": 52},
        {"crf": -1},
        {"crf": float("nan")},
        {"preset": "quick"},
        {"downscale": "bicubic+bitexact"},
        {"keyint": 0},
        {"threads": -1},
        {"x265_params": (("aq-mode", "1:log=2"),)},
        {"x265_params": (("aq mode", "1"),)},
        {"x265_params": (("csv", "log"),)},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        StreamSettings(**{"crf": 20, **wrong})


def test_unknown_container(clip: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    with pytest.raises(UsageError, match=r"\.mkv"):
        encoded(clip, tmp_path / "title.avi", ffmpeg)


@pytest.mark.parametrize(
    ("base", "expected"), [((1, 24), 12288), ((1001, 24000), 24000), ((1, 90000), 90000)]
)
def test_timescale(clip: Path, tmp_path: Path, base: tuple[int, int], expected: int) -> None:
    source = source_of(clip, tmp_path)
    timed = replace(source, info=replace(source.info, time_base=Fraction(*base)))
    assert timescale_of(timed) == expected


def test_what_travels_beside_the_video_is_counted(clip_with_tracks: Path, clip: Path) -> None:
    with av.open(str(clip_with_tracks)) as container:
        sizes = {"video": 0, "audio": 0, "subtitle": 0}
        for packet in container.demux():
            sizes[packet.stream.type] += packet.size
    beside = sizes["audio"] + sizes["subtitle"]
    assert beside > 0
    container = 2000 + 18 * 12
    with av.open(str(clip_with_tracks)) as opened:
        packets = [packet for packet in opened.demux() if packet.stream.type != "video"]
    container += 8 * len(packets)
    for name in ("out.mp4", "out.mkv"):
        assert other_bytes(clip_with_tracks, Path(name), 12) == beside + container
    assert other_bytes(None, Path("out.mp4"), 100) == 3800
    with pytest.raises(InputError, match="sound and subtitles"):
        other_bytes(Path(__file__), Path("out.mp4"), 12)


def test_the_container_takes_no_more_than_is_thought(
    clip_with_tracks: Path, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    for name in ("size.mp4", "size.mkv"):
        made = encoded(clip_with_tracks, tmp_path / name, ffmpeg)
        with av.open(str(made.path)) as container:
            video = sum(p.size for p in container.demux(video=0))
        # x265's own words about itself are in the file of every title, however short.
        thought = other_bytes(clip_with_tracks, made.path, 12) + 900
        assert made.path.stat().st_size - video <= thought
