"""The sound of a ladder: what it is called, when it begins; the rung for players without H.265."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from codecaux.encoder.prepare import SourceOptions, prepare
from codecaux.events import drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.hevc import coded_packets, open_video
from codecaux.ladders.ladder_settings import LadderSettings
from codecaux.ladders.ladder_work import LadderWork
from codecaux.ladders.soundtrack import fallback_rung, language_tag, menu_name, sound_of

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
    [("en", "en"), ("pt_BR", "pt-BR"), ("pt-BR", "pt-BR"), ("und", ""), ("", ""), ("x", "")],
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
    tracks = drain(sound_of(clip, work, ffmpeg))
    assert [track.name for track in tracks] == ["Stereo", "Stereo (2)", "Stereo (3)"]
    assert [track.language for track in tracks] == ["pt-BR", "", ""]


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
