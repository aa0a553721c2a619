"""Sinks: what was written is decoded again and compared, frame by frame and tick by tick."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from codecaux.decoder.muxing import OutputCodec, colour_filter, subtitle_codecs
from codecaux.decoder.pipeline import OutputFormat, Sink, SinkStopped
from codecaux.decoder.sinks import (
    FileSink,
    NutSink,
    Y4mSink,
    choose_codec,
    even_format,
    pad_to_even,
    y4m_header,
)
from codecaux.decoder.timing import constant_rate
from codecaux.decoder.window import Player, WindowSink, find_player, player_arguments
from codecaux.errors import InputError, ToolFailedError, ToolMissingError, UsageError
from codecaux.ffmpeg import find_ffmpeg, run_ffmpeg
from codecaux.frames import read_frames
from codecaux.probe import probe
from codecaux.video import Colour, Frame, SampleArray, VideoFormat

TIME_BASE = Fraction(1, 12800)
# Variable: one frame of 21 s, and steps that are no multiple of each other.
VARIABLE_PTS = (3, 515, 1100, 1601, 270_000, 270_513)
LOSSLESS = OutputCodec("ffv1", 0)


@dataclass(frozen=True)
class Decoded:
    """A written file, decoded."""

    times: list[Fraction]
    frames: list[Frame]


def make_frames(video_format: VideoFormat, pts: Sequence[int], seed: int = 1) -> list[Frame]:
    """Noise within the nominal range: any mix-up of planes, ranges or frames shows."""
    rng = np.random.default_rng(seed)
    low, high = (16, 236) if video_format.bit_depth == 8 else (64, 941)
    luma = (video_format.height, video_format.width)
    chroma = (video_format.chroma_height, video_format.chroma_width)

    def plane(shape: tuple[int, int]) -> SampleArray:
        return rng.integers(low, high, shape).astype(video_format.dtype)

    return [Frame(plane(luma), plane(chroma), plane(chroma), p) for p in pts]


def decode(path: Path) -> Decoded:
    info = probe(path)
    frames = list(read_frames(path, info=info))
    return Decoded([f.pts * info.time_base for f in frames], frames)


def assert_same_pictures(got: Sequence[Frame], expected: Sequence[Frame]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        for a, b in zip(one.planes, other.planes, strict=True):
            np.testing.assert_array_equal(a, b)


def write_frames(sink: Sink, frames: Iterable[Frame]) -> None:
    for frame in frames:
        sink.write(frame)


def write_all(sink: Sink, output: OutputFormat, frames: Iterable[Frame]) -> None:
    sink.open(output)
    write_frames(sink, frames)
    sink.close()


def audio_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


@pytest.fixture(scope="session")
def stream_with_audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 H.265 frames at 25 Hz with AAC (which begins before 0) and a text subtitle, in mp4."""
    folder = tmp_path_factory.mktemp("sinks")
    subtitle = folder / "text.srt"
    subtitle.write_text("1\n00:00:00,200 --> 00:00:00,800\nhello\n", encoding="utf-8")
    path = folder / "title.mp4"
    arguments = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=1"]
    arguments += ["-f", "lavfi", "-i", "sine=duration=1", "-i", str(subtitle)]
    arguments += ["-c:v", "libx265", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p"]
    arguments += ["-c:a", "aac", "-c:s", "mov_text", "-metadata", "title=A title", str(path)]
    run_ffmpeg(find_ffmpeg(), arguments)
    return path


def output_for(width: int, height: int, bit_depth: int = 8, **colour: object) -> OutputFormat:
    return OutputFormat(
        VideoFormat(width, height, bit_depth, Colour(**colour)),  # type: ignore[arg-type]
        TIME_BASE,
        average_fps=Fraction(25),
    )


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(("bit_depth", "size"), [(8, (64, 48)), (10, (64, 48)), (8, (33, 21))])
@pytest.mark.parametrize("full_range", [False, True])
def test_mkv_is_lossless_with_every_timestamp(
    tmp_path: Path,
    stream_with_audio: Path,
    bit_depth: int,
    size: tuple[int, int],
    full_range: bool,
) -> None:
    output = output_for(*size, bit_depth, full_range=full_range)
    frames = make_frames(output.format, VARIABLE_PTS)
    target = tmp_path / "out.mkv"
    write_all(FileSink(target, stream_with_audio, LOSSLESS), output, frames)
    got = decode(target)
    assert_same_pictures(got.frames, frames)
    for time_got, pts in zip(got.times, VARIABLE_PTS, strict=True):
        # Matroska's ticks are milliseconds: half of one is all that may be lost.
        assert abs(time_got - pts * TIME_BASE) <= Fraction(1, 2000)
    assert audio_packets(target) == audio_packets(stream_with_audio)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("codec", ["x264", "x265"])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_mp4_keeps_exact_timestamps_and_audio(
    tmp_path: Path, stream_with_audio: Path, codec: str, bit_depth: int
) -> None:
    output = output_for(64, 48, bit_depth)
    frames = make_frames(output.format, VARIABLE_PTS)
    target = tmp_path / "out.mp4"
    write_all(FileSink(target, stream_with_audio, choose_codec(target, codec, 2)), output, frames)
    got = decode(target)
    assert got.times == [pts * TIME_BASE for pts in VARIABLE_PTS]
    # Not lossless, but no other picture, range or depth: noise at CRF 2 stays within a few codes.
    for one, other in zip(got.frames, frames, strict=True):
        error = np.abs(one.y.astype(int) - other.y.astype(int)).mean()
        assert error < 3 * (1 << (bit_depth - 8))
    assert audio_packets(target) == audio_packets(stream_with_audio)


@pytest.mark.parametrize("time_base", [Fraction(1001, 30000), Fraction(1, 90000), Fraction(1, 25)])
def test_mp4_keeps_timestamps_in_any_time_base(
    tmp_path: Path, stream_with_audio: Path, time_base: Fraction
) -> None:
    output = replace(output_for(64, 48), time_base=time_base)
    pts = (0, 1, 2, 5, 6)
    target = tmp_path / "out.mp4"
    sink = FileSink(target, stream_with_audio, OutputCodec("x264", 20))
    write_all(sink, output, make_frames(output.format, pts))
    assert decode(target).times == [p * time_base for p in pts]


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_tags_survive(tmp_path: Path, stream_with_audio: Path, name: str) -> None:
    colour = Colour("bt2020", True, "topleft", primaries=9, transfer=16, matrix_code=9)
    output = replace(output_for(64, 48), format=VideoFormat(64, 48, 10, colour))
    output = replace(output, sample_aspect_ratio=Fraction(853, 720), rotation_degrees=90)
    target = tmp_path / name
    sink = FileSink(target, stream_with_audio, choose_codec(target, None, None))
    write_all(sink, output, make_frames(output.format, (0, 512, 1024)))
    info = probe(target)
    assert info.format == output.format
    assert info.sample_aspect_ratio == Fraction(853, 720)
    assert info.rotation_degrees == 90
    assert info.has_subtitles
    with av.open(str(target)) as container:
        assert container.metadata["title"] == "A title"


def test_unspecified_matrix_is_made_explicit() -> None:
    # 480 lines are guessed to be 601, and 960 lines to be 709: the guess must not be left open.
    assert "colorspace=6" in colour_filter(Colour("bt601"), Fraction(1))
    assert "colorspace=10" in colour_filter(Colour("bt2020", matrix_code=10), Fraction(1))


def test_odd_sizes_are_padded_for_x264(tmp_path: Path, stream_with_audio: Path) -> None:
    output = output_for(33, 21)
    frames = make_frames(output.format, (0, 512))
    target = tmp_path / "odd.mp4"
    write_all(FileSink(target, stream_with_audio, OutputCodec("x264", 0)), output, frames)
    got = decode(target)
    assert got.frames[0].y.shape == (22, 34)
    # CRF 0 is lossless for 8 bit in x264.
    np.testing.assert_array_equal(got.frames[1].y[:21, :33], frames[1].y)
    np.testing.assert_array_equal(got.frames[1].y[21, :33], frames[1].y[20])
    assert even_format(output.format) == replace(output.format, width=34, height=22)
    assert pad_to_even(got.frames[0]) is got.frames[0]


def test_negative_first_timestamp(tmp_path: Path, stream_with_audio: Path) -> None:
    output = output_for(64, 48)
    pts = (-1024, -512, 0, 512)
    target = tmp_path / "out.mp4"
    sink = FileSink(target, stream_with_audio, OutputCodec("x264", 20))
    write_all(sink, output, make_frames(output.format, pts))
    times = decode(target).times
    assert [b - a for a, b in pairwise(times)] == [Fraction(1, 25)] * 3


def test_repeated_timestamps_do_not_stop_the_file(tmp_path: Path, stream_with_audio: Path) -> None:
    output = output_for(64, 48)
    target = tmp_path / "out.mp4"
    sink = FileSink(target, stream_with_audio, OutputCodec("x264", 20))
    write_all(sink, output, make_frames(output.format, (0, 512, 512, 400, 1024)))
    assert decode(target).times == [p * TIME_BASE for p in (0, 512, 513, 514, 1024)]


def test_abort_leaves_nothing(tmp_path: Path, stream_with_audio: Path) -> None:
    target = tmp_path / "out.mkv"
    target.write_bytes(b"what was there before")
    sink = FileSink(target, stream_with_audio, LOSSLESS)
    output = output_for(64, 48)
    sink.open(output)
    for frame in make_frames(output.format, range(0, 5120, 512)):
        sink.write(frame)
    sink.abort()
    sink.abort()
    assert [p.name for p in tmp_path.iterdir()] == ["out.mkv"]
    assert target.read_bytes() == b"what was there before"


def test_no_frames_is_an_input_error(tmp_path: Path, stream_with_audio: Path) -> None:
    sink = FileSink(tmp_path / "out.mkv", stream_with_audio, LOSSLESS)
    sink.open(output_for(64, 48))
    with pytest.raises(InputError, match="at least one picture"):
        sink.close()
    sink.abort()
    assert not list(tmp_path.iterdir())


def test_ffmpeg_failing_is_a_tool_error(tmp_path: Path) -> None:
    output = output_for(64, 48)
    sink = FileSink(tmp_path / "out.mkv", tmp_path / "absent.mp4", LOSSLESS)
    with pytest.raises(InputError, match="absent"):
        write_all(sink, output, make_frames(output.format, (0,)))
    sink.abort()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "codec", "crf", "words"),
    [
        ("out.avi", None, None, ".mkv or .mp4"),
        ("out", None, None, ".mkv or .mp4"),
        ("out.mp4", "ffv1", None, "--codec x264 or x265"),
        ("out.mkv", "vp9", None, "ffv1, x264, x265"),
        ("out.mkv", None, 20.0, "lossless"),
        ("out.mp4", None, 52.0, "0 to 51"),
    ],
)
def test_refused_codecs(name: str, codec: str | None, crf: float | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_codec(Path(name), codec, crf)


def test_default_codecs() -> None:
    assert choose_codec(Path("a.MKV"), None, None).name == "ffv1"
    assert choose_codec(Path("a.mp4"), None, None).name == "x264"
    assert choose_codec(Path("a.mkv"), "x265", 30).crf == 30


def test_subtitles_by_container() -> None:
    names = ["mov_text", "subrip", "dvd_subtitle", ""]
    assert subtitle_codecs(names, is_mp4=True) == ["copy", "mov_text", None, None]
    assert subtitle_codecs(names, is_mp4=False) == ["srt", "copy", "copy", None]


# ---------------------------------------------------------------------------------------- windows

FAKE_PLAYER = """#!{python}
import os, sys
folder = os.path.dirname(os.path.abspath(__file__))
open(os.path.join(folder, "arguments"), "w").write("\\n".join(sys.argv[1:]))
limit = {limit}
with open(os.path.join(folder, "received.nut"), "wb") as copy:
    while (chunk := sys.stdin.buffer.read1(65536)) and (limit is None or limit > 0):
        copy.write(chunk)
        limit = None if limit is None else limit - len(chunk)
sys.stderr.write("the fake player's last words")
sys.exit({code})
"""


def fake_player(folder: Path, name: str = "mpv", limit: int | None = None, code: int = 0) -> Path:
    """A program that stores its stdin (all, or ``limit`` bytes) and exits with ``code``."""
    path = folder / name
    text = FAKE_PLAYER.format(python=sys.executable, limit=limit, code=code)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("name", ["mpv", "ffplay"])
def test_window_gets_pictures_sound_and_timestamps(
    tmp_path: Path, stream_with_audio: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fake_player(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    player = find_player()
    assert player == Player(name, tmp_path / name)
    output = output_for(33, 21, 10)
    frames = make_frames(output.format, VARIABLE_PTS)
    write_all(WindowSink(player, stream_with_audio), output, frames)
    got = decode(tmp_path / "received.nut")
    assert_same_pictures(got.frames, frames)
    assert got.times == [pts * TIME_BASE for pts in VARIABLE_PTS]
    # The first packet is the encoder's delay before time 0, which NUT cannot say.
    assert audio_packets(tmp_path / "received.nut") == audio_packets(stream_with_audio)[1:]
    assert (tmp_path / "arguments").read_text(encoding="utf-8").split("\n")[-1] in ("-", "pipe:0")


def test_audio_is_interleaved_by_time(tmp_path: Path, stream_with_audio: Path) -> None:
    output = output_for(64, 48)
    frames = make_frames(output.format, range(0, 25 * 512, 512))
    player = Player("mpv", fake_player(tmp_path))
    write_all(WindowSink(player, stream_with_audio), output, frames)
    with av.open(str(tmp_path / "received.nut")) as container:
        times = [(p.stream.type, float(p.pts * p.time_base)) for p in container.demux() if p.size]
    latest = 0.0
    for _, at in times:
        # Within a fifth of a second a player's own buffers even it out.
        assert at > latest - 0.25
        latest = max(latest, at)


def test_closing_the_window_is_a_clean_stop(tmp_path: Path, stream_with_audio: Path) -> None:
    output = output_for(160, 96)
    sink = WindowSink(Player("mpv", fake_player(tmp_path, limit=50_000)), stream_with_audio)
    sink.open(output)
    with pytest.raises(SinkStopped):
        write_frames(sink, make_frames(output.format, range(0, 400 * 512, 512)))
    sink.abort()


def test_a_player_that_fails_is_a_tool_error(tmp_path: Path, stream_with_audio: Path) -> None:
    output = output_for(160, 96)
    player = Player("mpv", fake_player(tmp_path, limit=0, code=2))
    sink = WindowSink(player, stream_with_audio)
    sink.open(output)
    with pytest.raises(ToolFailedError, match="exit code 2") as caught:
        write_frames(sink, make_frames(output.format, range(0, 400 * 512, 512)))
    assert "last words" in caught.value.stderr_tail
    sink.abort()


def test_abort_unblocks_a_window_that_does_not_read(
    tmp_path: Path, stream_with_audio: Path
) -> None:
    player = tmp_path / "mpv"
    player.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n", encoding="utf-8")
    player.chmod(0o755)
    output = output_for(160, 96)
    frames = make_frames(output.format, range(0, 400 * 512, 512))
    sink = WindowSink(Player("mpv", player), stream_with_audio)
    sink.open(output)
    outcome: list[BaseException] = []

    def write() -> None:
        try:
            for frame in frames:
                sink.write(frame)
        except (SinkStopped, ToolFailedError) as error:
            outcome.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()  # it waits for a player that does not read
    before = time.monotonic()
    sink.abort()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - before < 5
    assert outcome


def test_no_player_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match=r"install mpv.*-o out\.mkv"):
        find_player()
    with pytest.raises(ToolMissingError, match="nosuchplayer"):
        find_player("nosuchplayer")


def test_mpv_is_told_the_colours() -> None:
    hdr = output_for(64, 48, 10, matrix="bt2020", transfer=16, full_range=True)
    arguments = player_arguments(Player("mpv", Path("mpv")), hdr, "title")
    assert (
        "--vf=format=colormatrix=bt.2020-ncl:colorlevels=full:primaries=bt.2020:gamma=pq"
        in arguments
    )


def test_players_turn_the_picture() -> None:
    player = Player("mpv", Path("mpv"))
    turned = replace(output_for(64, 48), rotation_degrees=90)
    assert "--video-rotate=270" in player_arguments(player, turned, "title")
    ffplay = player_arguments(Player("ffplay", Path("ffplay")), turned, "title")
    assert ffplay[ffplay.index("-vf") + 1].endswith(",transpose=cclock")
    assert not any("rotate" in a for a in player_arguments(player, output_for(64, 48), "title"))


# ----------------------------------------------------------------------------------------- stdout


@pytest.mark.parametrize(
    ("bit_depth", "location", "tag"),
    [
        (8, "left", "C420mpeg2"),
        (8, "center", "C420jpeg"),
        (8, "topleft", "C420paldv"),
        (10, "left", "C420p10"),
    ],
)
@pytest.mark.parametrize("full_range", [False, True])
def test_y4m_round_trip(
    tmp_path: Path, bit_depth: int, location: str, tag: str, full_range: bool
) -> None:
    output = output_for(33, 21, bit_depth, chroma_location=location, full_range=full_range)
    output = replace(output, constant_fps=Fraction(30000, 1001))
    output = replace(output, sample_aspect_ratio=Fraction(4, 3))
    frames = make_frames(output.format, (0, 1, 2))
    target = tmp_path / "out.y4m"
    with target.open("wb") as file:
        write_all(Y4mSink(file.fileno()), output, frames)
    header = target.read_bytes().split(b"\n")[0].decode()
    level = "FULL" if full_range else "LIMITED"
    assert header == f"YUV4MPEG2 W33 H21 F30000:1001 Ip A4:3 {tag} XCOLORRANGE={level}"
    info = probe(target)
    assert info.average_fps == Fraction(30000, 1001)
    assert info.format.colour.full_range == full_range
    assert_same_pictures(decode(target).frames, frames)


def test_y4m_refuses_a_variable_rate() -> None:
    with pytest.raises(UsageError, match="nut"):
        y4m_header(output_for(64, 48))


def test_y4m_without_frames_is_an_input_error(tmp_path: Path) -> None:
    with (tmp_path / "out.y4m").open("wb") as file:
        sink = Y4mSink(file.fileno())
        sink.open(replace(output_for(64, 48), constant_fps=Fraction(25)))
        with pytest.raises(InputError):
            sink.close()


@pytest.mark.parametrize("kind", ["y4m", "nut"])
def test_a_reader_that_goes_away_is_a_clean_stop(stream_with_audio: Path, kind: str) -> None:
    output = replace(output_for(160, 96), constant_fps=Fraction(25))
    reading, writing = os.pipe()
    sink = Y4mSink(writing) if kind == "y4m" else NutSink(stream_with_audio, writing)
    frames = make_frames(output.format, range(0, 400 * 512, 512))
    sink.open(output)
    sink.write(frames[0])
    os.close(reading)
    with pytest.raises(SinkStopped):
        write_frames(sink, frames[1:])
    sink.abort()
    os.close(writing)


def test_a_pipe_that_does_not_wait() -> None:
    """Non-blocking standard output, as some shells and servers give it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    output = replace(output_for(640, 480), constant_fps=Fraction(25))
    frames = make_frames(output.format, (0, 1, 2))  # each larger than the pipe
    received = bytearray()

    def read_slowly() -> None:
        while chunk := os.read(reading, 50_000):
            received.extend(chunk)

    thread = threading.Thread(target=read_slowly)
    thread.start()
    write_all(Y4mSink(writing), output, frames)
    os.close(writing)
    thread.join()
    os.close(reading)
    header = received.index(b"\n") + 1
    assert len(received) == header + 3 * (len("FRAME\n") + 640 * 480 * 3 // 2)


def test_nut_on_stdout(tmp_path: Path, stream_with_audio: Path) -> None:
    output = replace(output_for(64, 48, 10), sample_aspect_ratio=Fraction(4, 3))
    frames = make_frames(output.format, VARIABLE_PTS)
    target = tmp_path / "out.nut"
    with target.open("wb") as file:
        write_all(NutSink(stream_with_audio, file.fileno()), output, frames)
    got = decode(target)
    assert got.times == [pts * TIME_BASE for pts in VARIABLE_PTS]
    assert_same_pictures(got.frames, frames)
    assert probe(target).sample_aspect_ratio == Fraction(4, 3)
    assert len(audio_packets(target)) == len(audio_packets(stream_with_audio)) - 1


def test_constant_rate(tmp_path: Path, stream_with_audio: Path) -> None:
    assert constant_rate(stream_with_audio) == 25
    output = replace(output_for(64, 48), time_base=Fraction(1, 30000))
    for name, steps, expected in [
        # 70 frames: before, a rate of 30 is within Matroska's milliseconds too.
        ("ntsc.mkv", range(0, 70 * 1001, 1001), Fraction(30000, 1001)),
        ("ntsc.mp4", range(0, 5 * 1001, 1001), Fraction(30000, 1001)),
        ("odd.mp4", range(0, 5 * 1234, 1234), Fraction(30000, 1234)),
        ("variable.mp4", [0, 1001, 2002, 6006, 7007], None),
    ]:
        target = tmp_path / name
        sink = FileSink(target, stream_with_audio, choose_codec(target, None, None))
        write_all(sink, output, make_frames(output.format, steps))
        assert constant_rate(target) == expected, name
