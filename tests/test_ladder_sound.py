"""Sound that is longer or shorter than the pictures, missing, or of several codecs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import m3u8
import pytest
from mpegdash.parser import MPEGDASHParser

from codecaux.decoder.parts import join_parts
from codecaux.encoder.prepare import SourceOptions, prepare
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.errors import InputError
from codecaux.events import Events, Notice, drain
from codecaux.ffmpeg import Ffmpeg, file_argument, find_ffmpeg, run_ffmpeg
from codecaux.ladders.gops import rung_x265_params
from codecaux.ladders.ladder_work import LadderWork
from codecaux.ladders.package import PackageSettings, package
from codecaux.ladders.rungs import AudioTrack, Rung
from codecaux.ladders.segments import read_track
from codecaux.ladders.soundtrack import PicturesSpan, sound_of

MakeClip = Callable[..., Path]

# Pictures: 4 s at 25 fps; and 50 pictures at 25 fps, then 12 at 1 fps.
EVEN = "null"
UNEVEN = "settb=1/25,setpts='if(lt(N,50),N,50+(N-50)*25)'"


def clip_of(
    make_clip: MakeClip, folder: Path, pictures: str, *sound: str, codecs: Sequence[str] = ("aac",)
) -> Path:
    """A clip with an audio track for each of ``sound``, sources of lavfi, in such codecs."""
    is_even = pictures == EVEN
    silent = make_clip(
        f"silent-{'even' if is_even else 'uneven'}.mkv",
        size=(64, 64),
        fps="25",
        frames=100 if is_even else 62,
        filters=pictures,
        options=("-fps_mode", "passthrough"),
    )
    # Not in one go: with the last picture that it asks for ffmpeg would end the sound, too.
    arguments = ["-v", "error", "-i", file_argument(silent)]
    arguments += [word for text in sound for word in ("-f", "lavfi", "-i", text)]
    arguments += [word for n in range(1 + len(sound)) for word in ("-map", f"{n}:0")]
    arguments += [word for n, codec in enumerate(codecs) for word in (f"-c:a:{n}", codec)]
    path = folder / "clip.mkv"
    run_ffmpeg(find_ffmpeg(), [*arguments, "-c:v", "copy", file_argument(path)])
    return path


def rung_of(clip: Path, folder: Path, ffmpeg: Ffmpeg, segment: int = 1) -> Rung:
    source = drain(prepare(clip, SourceOptions(), folder / "source"))
    fps = source.num_frames / source.duration_seconds
    params = rung_x265_params(fps, Fraction(segment))
    settings = StreamSettings(40, "ultrafast", x265_params=params)
    return Rung(drain(encode_stream(source, settings, folder / "rung.mp4", ffmpeg)).path)


def seconds_of(playlist: Path) -> list[float]:
    return [segment.duration for segment in m3u8.load(str(playlist)).segments]


def packets_of(path: Path) -> list[tuple[float, bytes]]:
    """Seconds and bytes."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets]


def join(folder: Path, target: Path) -> Path:
    join_parts((folder / "init.mp4", *sorted(folder.glob("seg-*"))), target)
    return target


# ------------------------------------------------------------------------------ longer, other times


def test_sound_after_the_last_picture_is_left_out(
    make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    clip = clip_of(make_clip, tmp_path, EVEN, "sine=sample_rate=48000:d=20")
    out = tmp_path / "ladder"
    rungs = [rung_of(clip, tmp_path, ffmpeg)]
    events = list(package(rungs, [AudioTrack(clip)], out, PackageSettings(Fraction(1))))
    (message,) = [event.message for event in events if isinstance(event, Notice)]
    assert message.startswith("audio track 1 goes on for 1")
    assert " 15.9" in message or " 16.0" in message
    for name in ("video-1", "audio-1"):
        assert m3u8.load(str(out / name / "media.m3u8")).target_duration == 1
    assert seconds_of(out / "audio-1" / "media.m3u8") == pytest.approx([1, 1, 1, 1], abs=0.03)
    manifest = MPEGDASHParser.parse(str(out / "manifest.mpd"))
    assert manifest.min_buffer_time == "PT1.000S"
    assert manifest.max_segment_duration < "PT1.03S"


@pytest.mark.parametrize("codec", ["aac", "ac3", "libopus"])
def test_sound_is_cut_where_pictures_of_a_varying_rate_are(
    make_clip: MakeClip, tmp_path: Path, ffmpeg: Ffmpeg, codec: str
) -> None:
    """The pictures' segments of ~4.4 pictures a second last 0.4 s to 10 s; nothing of the sound
    is lost or changed.
    """
    sound = "anoisesrc=d=14:sample_rate=48000:seed=1,afade=d=14"
    clip = clip_of(make_clip, tmp_path, UNEVEN, sound, codecs=(codec,))
    out = tmp_path / "ladder"
    rungs = [rung_of(clip, tmp_path, ffmpeg, segment=2)]
    drain(package(rungs, [AudioTrack(clip)], out, PackageSettings(Fraction(2))))
    pictures = seconds_of(out / "video-1" / "media.m3u8")
    heard = seconds_of(out / "audio-1" / "media.m3u8")
    assert max(pictures) > 4 * min(pictures)
    assert heard == pytest.approx(pictures, abs=0.06)
    joined = join(out / "audio-1", tmp_path / "joined.mp4")
    got = packets_of(joined)
    expected = packets_of(clip)[: len(got)]
    assert [data for _, data in got] == [data for _, data in expected]
    # The source counts milliseconds.
    assert [time for time, _ in got] == pytest.approx([time for time, _ in expected], abs=0.001)
    (variant,) = m3u8.load(str(out / "master.m3u8")).playlists
    assert variant.stream_info.frame_rate == 25


# ------------------------------------------------------------------------------ shorter, or nothing


@pytest.fixture
def work(tmp_path: Path) -> LadderWork:
    """A ladder's work folder with nothing in it."""
    folder = tmp_path / "work"
    folder.mkdir()
    return LadderWork(folder)


@pytest.fixture
def half_empty(make_clip: MakeClip) -> Path:
    """2 s of pictures, a track that is declared and has no packet, and one with sound."""
    sound = ("-f", "lavfi", "-i", "sine=sample_rate=48000:d=2")
    return make_clip(
        "half-empty.mkv",
        size=(64, 64),
        fps="25",
        frames=50,
        inputs=sound,
        options=("-map", "0:v", *("-map", "1:a") * 2, "-c:a", "aac", "-bsf:a:0", "noise=drop=1"),
    )


def test_a_track_without_sound_is_left_out(
    half_empty: Path, work: LadderWork, ffmpeg: Ffmpeg
) -> None:
    events = sound_of(half_empty, PicturesSpan(Fraction(2), Fraction(1)), work, ffmpeg)
    messages, tracks = heard(events)
    assert messages == ["audio track 1 has no sound in it: left out"]
    assert [(track.path, track.position) for track in tracks] == [(half_empty, 1)]


def heard(events: Events[list[AudioTrack]]) -> tuple[list[str], list[AudioTrack]]:
    """What is said, and the tracks."""
    messages = []
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return messages, stop.value
        if isinstance(event, Notice):
            messages.append(event.message)


@pytest.mark.parametrize(("seconds", "is_copied"), [(1.5, False), (3.2, True)])
def test_sound_that_ends_long_before_the_pictures_goes_on_in_silence(
    make_clip: MakeClip,
    work: LadderWork,
    tmp_path: Path,
    ffmpeg: Ffmpeg,
    seconds: float,
    is_copied: bool,
) -> None:
    clip = clip_of(make_clip, tmp_path, EVEN, f"sine=sample_rate=48000:d={seconds}")
    pictures = PicturesSpan(Fraction(4), Fraction(1))
    messages, tracks = heard(sound_of(clip, pictures, work, ffmpeg))
    assert [track.path == clip for track in tracks] == [is_copied]
    assert is_copied == (not messages)
    assert is_copied or "before the pictures" in messages[0]
    rungs, out = [rung_of(clip, work.path, ffmpeg)], tmp_path / "ladder"
    drain(package(rungs, tracks, out, PackageSettings(Fraction(1))))
    expected = [1, 1, 1, 0.2] if is_copied else [1, 1, 1, 1]
    assert seconds_of(out / "audio-1" / "media.m3u8") == pytest.approx(expected, abs=0.05)


def test_tracks_of_several_codecs_become_one(
    make_clip: MakeClip, work: LadderWork, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    sound = ["sine=sample_rate=48000:d=4"] * 3
    clip = clip_of(make_clip, tmp_path, EVEN, *sound, codecs=("aac", "ac3", "mp2"))
    rungs, out = [rung_of(clip, work.path, ffmpeg)], tmp_path / "ladder"
    both = [AudioTrack(clip, position, f"{position}") for position in range(2)]
    with pytest.raises(InputError, match=r"one codec, got mp4a\.40\.2, ac-3"):
        drain(package(rungs, both, out, PackageSettings(Fraction(1))))
    pictures = PicturesSpan(Fraction(4), Fraction(1))
    messages, tracks = heard(sound_of(clip, pictures, work, ffmpeg))
    assert [track.path == clip for track in tracks] == [True, False, False]
    assert messages == [
        "audio track 2 becomes AAC: the audio tracks are of several codecs",
        "audio track 3 becomes AAC: segments cannot hold it",
    ]
    drain(package(rungs, tracks, out, PackageSettings(Fraction(1))))
    master = m3u8.load(str(out / "master.m3u8"))
    assert [media.group_id for media in master.media] == ["audio-mp4a.40.2"] * 3
    (variant,) = master.playlists
    assert variant.stream_info.codecs.endswith(",mp4a.40.2")


def test_tracks_of_one_codec_stay_as_they_are(
    make_clip: MakeClip, work: LadderWork, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    sound = ["sine=sample_rate=48000:d=4"] * 2
    clip = clip_of(make_clip, tmp_path, EVEN, *sound, codecs=("ac3", "ac3"))
    pictures = PicturesSpan(Fraction(4), Fraction(1))
    messages, tracks = heard(sound_of(clip, pictures, work, ffmpeg))
    assert (messages, [track.path for track in tracks]) == ([], [clip, clip])


def test_a_track_that_lasts_no_time_is_refused(
    half_empty: Path, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    clip = half_empty
    rungs = [rung_of(clip, tmp_path, ffmpeg)]
    with pytest.raises(InputError, match=r"audio track 1 of .* got none"):
        drain(package(rungs, [AudioTrack(clip)], tmp_path / "x", PackageSettings(Fraction(1))))


def test_segments_without_a_frame_are_no_track(ladder: Path, tmp_path: Path) -> None:
    (tmp_path / "init.mp4").write_bytes((ladder / "audio-1" / "init.mp4").read_bytes())
    (tmp_path / "seg-00001.m4s").write_bytes(b"\x00\x00\x00\x10stypmsdh\x00\x00\x00\x00")
    with pytest.raises(InputError, match=r"lasts some time in joined\.mp4, got one of 0 s"):
        read_track(tmp_path, "audio", tmp_path / "joined.mp4")
