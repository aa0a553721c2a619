"""The sound of a ladder: what it is called, when it begins; the rung for players without H.265."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import m3u8
import numpy as np
import pytest
from mpegdash.parser import MPEGDASHParser

from codecaux.decoder.parts import join_parts
from codecaux.encoder.prepare import SourceOptions, prepare
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.errors import InputError
from codecaux.events import drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.hevc import coded_packets, open_video
from codecaux.ladders.gops import rung_x265_params
from codecaux.ladders.ladder_settings import LadderSettings
from codecaux.ladders.ladder_work import LadderWork
from codecaux.ladders.languages import _SHORTEST
from codecaux.ladders.package import PackageSettings, package
from codecaux.ladders.rungs import AudioTrack, Rung
from codecaux.ladders.soundtrack import (
    PicturesSpan,
    fallback_rung,
    language_tag,
    menu_name,
    sound_of,
)

MakeClip = Callable[..., Path]


@pytest.fixture
def work(tmp_path: Path) -> LadderWork:
    """A ladder's work folder with nothing in it."""
    folder = tmp_path / "work"
    folder.mkdir()
    return LadderWork(folder)


# ------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("said", "tag"),
    [
        *[("en", "en"), ("pt_BR", "pt-BR"), ("pt-BR", "pt-BR"), ("und", ""), ("", ""), ("x", "")],
        # Of ISO 639-2, by either of its codes, the shortest; what has no shorter one stays.
        *[("eng", "en"), ("ger", "de"), ("deu", "de"), ("fre", "fr"), ("FRA", "fr"), ("jpn", "ja")],
        *[("por-BR", "pt-BR"), ("zho-Hant", "zh-Hant"), ("gsw", "gsw"), ("mul", "mul")],
    ],
)
def test_languages_as_players_want_them(said: str, tag: str) -> None:
    assert language_tag(said) == tag


def test_every_menu_entry_has_a_name_of_its_own() -> None:
    names: list[str] = []
    for position, title in enumerate(["X", "X (3)", "X", "", 'X"\n', "Audio 4"]):
        names.append(menu_name(title, position, names))
    assert names == ["X", "X (3)", "X (4)", "Audio 4", "X (5)", "Audio 4 (6)"]


def test_tracks_of_a_file_with_careless_tags(
    make_clip: MakeClip, work: LadderWork, ffmpeg: Ffmpeg
) -> None:
    sound = ("-f", "lavfi", "-t", "0.5", "-i", "sine=sample_rate=48000")
    tags = [f"-metadata:s:a:{n}" for n in range(3)]
    options = ["-map", "0:v", *("-map", "1:a") * 3, "-c:a", "aac"]
    options += [tags[0], "language=pt_BR", tags[1], "language=no language", tags[2], "language=und"]
    options += [word for tag in tags for word in (tag, "title=Stereo")]
    clip = make_clip("careless.mkv", inputs=sound, options=options)
    pictures = PicturesSpan(Fraction(1, 2), Fraction(1))
    tracks = drain(sound_of(clip, pictures, work, ffmpeg))
    assert [track.name for track in tracks] == ["Stereo", "Stereo (2)", "Stereo (3)"]
    assert [track.language for track in tracks] == ["pt-BR", "", ""]


def test_the_table_of_languages() -> None:
    assert len(set(_SHORTEST.values())) == 183
    assert len(_SHORTEST) == 205
    assert all(len(code) == 3 and code.isalpha() and code.islower() for code in _SHORTEST)
    assert all(len(code) == 2 and code.isalpha() for code in _SHORTEST.values())


# ------------------------------------------------------------------------------- early, late sound


@pytest.fixture
def flash(make_clip: MakeClip) -> Callable[[float, str], Path]:
    """``flash(delay_seconds, codec)``: 4 s of black at 25 fps, white at 2 s, when there is a beep;
    the sound begins so much after the pictures.
    """

    def make(delay: float, codec: str) -> Path:
        beep = f"sine=1000:d=0.2:sample_rate=48000,adelay={round(2000 - 1000 * delay)}"
        sound = ("-f", "lavfi", "-i", f"{beep},apad=whole_dur={4 - delay}")
        white = "drawbox=c=white:t=fill:enable='between(n,50,60)'"
        colour = "setparams=range=limited:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
        return make_clip(
            f"flash{delay:+g}-{codec}.mkv",
            source="color",
            size=(128, 72),
            fps="25",
            frames=100,
            filters=f"{white},{colour},setpts=PTS+{max(0, -delay)}/TB",
            inputs=("-itsoffset", str(max(0, delay)), *sound),
            options=("-fps_mode", "passthrough", "-c:a", codec),
        )

    return make


def rung_of(clip: Path, folder: Path, ffmpeg: Ffmpeg) -> Rung:
    source = drain(prepare(clip, SourceOptions(), folder / "source"))
    params = rung_x265_params(source.info.average_fps, Fraction(1))
    settings = StreamSettings(40, "ultrafast", x265_params=params)
    return Rung(drain(encode_stream(source, settings, folder / "rung.mp4", ffmpeg)).path)


def when_white(path: Path) -> float:
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return next(frame.time for frame in frames if frame.to_ndarray(format="gray").mean() > 128)


def when_loud(path: Path) -> float:
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.abs(frame.to_ndarray()[0]) > 0.02
            if loud.any():
                return frame.time + float(loud.argmax()) / frame.sample_rate
    raise AssertionError("no beep")


def join(folder: Path, target: Path) -> Path:
    join_parts((folder / "init.mp4", *sorted(folder.glob("seg-*"))), target)
    return target


@pytest.mark.parametrize(
    ("delay", "codec", "is_copied"),
    [(-2.4, "ac3", True), (-2.4, "mp2", False), (1.5, "aac", False), (0.05, "aac", True)],
)
def test_sound_that_begins_elsewhere_than_the_pictures(
    flash: Callable[[float, str], Path],
    work: LadderWork,
    tmp_path: Path,
    ffmpeg: Ffmpeg,
    delay: float,
    codec: str,
    is_copied: bool,
) -> None:
    clip = flash(delay, codec)
    pictures = PicturesSpan(Fraction(4), Fraction(1))
    tracks = drain(sound_of(clip, pictures, work, ffmpeg))
    assert [track.path == clip for track in tracks] == [is_copied]
    rungs, out = [rung_of(clip, work.path, ffmpeg)], tmp_path / "ladder"
    drain(package(rungs, tracks, out, PackageSettings(Fraction(1))))
    playlist = m3u8.load(str(out / "audio-1" / "media.m3u8"))
    assert [s.duration for s in playlist.segments] == pytest.approx([1, 1, 1, 1], abs=0.08)
    period = MPEGDASHParser.parse(str(out / "manifest.mpd")).periods[0]
    (template,) = period.adaptation_sets[1].representations[0].segment_templates
    runs = template.segment_timelines[0].Ss
    assert 0 <= runs[0].t / template.timescale < 0.06
    assert sum(1 + (run.r or 0) for run in runs) == 4
    sound = join(out / "audio-1", tmp_path / "sound.mp4")
    pictures = join(out / "video-1", tmp_path / "pictures.mp4")
    assert when_white(pictures) == 2
    assert when_loud(sound) == pytest.approx(2, abs=0.02)


def test_late_sound_is_not_cut_as_it_is(
    flash: Callable[[float, str], Path], tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    clip = flash(1.5, "aac")
    rungs = [rung_of(clip, tmp_path, ffmpeg)]
    with pytest.raises(InputError, match=r"got it 1\.48 s later"):
        drain(package(rungs, [AudioTrack(clip)], tmp_path / "x", PackageSettings(Fraction(1))))
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------------------------------- fallback


@pytest.mark.parametrize(
    ("fps", "seconds", "keyframes"),
    # 12 pictures at 25 fps last 0.48 s, 1439 at 24000/1001 last 60.02: as near as there is.
    [("25", "0.5", [0, 12, 24, 36]), ("24000/1001", "60", [0])],
)
def test_a_fallback_of_the_shortest_and_the_longest_segments(
    make_clip: MakeClip, work: LadderWork, ffmpeg: Ffmpeg, fps: str, seconds: str, keyframes: object
) -> None:
    clip = make_clip(f"{fps[:2]}fps.mkv", fps=fps, frames=40)
    source = drain(prepare(clip, SourceOptions(), work.path / "source"))
    # Such a peak that one group is above it and the rung is made again with a cap.
    wanted = LadderSettings(segment_seconds=Fraction(seconds), peak=1.25)
    with open_video(drain(fallback_rung(source, Fraction(fps), wanted, work, ffmpeg))) as opened:
        kinds = [packet.is_keyframe for packet in coded_packets(*opened)]
    assert [index for index, is_keyframe in enumerate(kinds) if is_keyframe] == keyframes
