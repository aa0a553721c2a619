"""A ladder's folder played: the right rung with the right weights, and nothing outside it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecaux.cli.main import main
from codecaux.decoder.ladder_input import is_ladder, open_rung
from codecaux.decoder.load import open_enhancer
from codecaux.decoder.play import PlayReport, PlaySettings, play
from codecaux.decoder.playlist import MasterPlaylist, MediaPlaylist, parse_playlist
from codecaux.device import choose_device
from codecaux.errors import (
    InputError,
    UsageError,
    WeightsFormatError,
    WeightsStreamMismatchError,
)
from codecaux.events import drain
from codecaux.frames import read_frames
from codecaux.hevc import hash_stream
from codecaux.ladderindex import INDEX_NAME, index_from_json, index_to_json, read_index
from codecaux.probe import probe
from codecaux.video import Frame


@pytest.fixture
def copy(ladder: Path, tmp_path: Path) -> Path:
    """A ladder to spoil."""
    return Path(shutil.copytree(ladder, tmp_path / "copy"))


def played(source: Path, target: Path, **more: Any) -> tuple[PlayReport, list[Frame]]:
    report = drain(play(PlaySettings(source, output=target, device="cpu", **more)))
    return report, list(read_frames(target))


def expected(stream: Path, weights: Path, *, force: bool = False) -> list[Frame]:
    enhancer = open_enhancer(stream, weights, device=choose_device("cpu"), force=force)
    return [enhancer.enhance(f, n).enhanced for n, f in enumerate(read_frames(stream))]


def assert_same(got: list[Frame], wanted: list[Frame]) -> None:
    assert len(got) == len(wanted) == 85
    for one, other in zip(got, wanted, strict=True):
        for a, b in zip(one.planes, other.planes, strict=True):
            np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------------ playing


@pytest.mark.parametrize(
    ("name", "rung"),
    [
        ("master.m3u8", "2"),
        ("master.m3u8", "36"),
        ("master.m3u8", "36p"),
        ("manifest.mpd", "2"),
        (INDEX_NAME, "2"),
        ("video-2/media.m3u8", None),
    ],
)
def test_every_way_to_a_rung(
    ladder: Path, ladder_parts: Any, tmp_path: Path, name: str, rung: str | None
) -> None:
    opened = open_rung(ladder / name, rung, tmp_path)
    assert hash_stream(opened.stream) == hash_stream(ladder_parts.middle)
    assert opened.start_sha256 == hash_stream(ladder_parts.middle).start_sha256
    (weights,) = (ladder / "weights").iterdir()
    assert opened.weights == weights
    # A single rung's playlist names no sound, but the index does.
    assert opened.sound is not None
    assert (opened.number, opened.count) == ((1, 1) if rung is None else (2, 4))


def test_a_rung_is_the_original_with_its_weights(
    ladder: Path, ladder_parts: Any, tmp_path: Path
) -> None:
    report, frames = played(ladder / "master.m3u8", tmp_path / "out.mkv", rung="2")
    assert_same(frames, expected(ladder_parts.middle, ladder_parts.weights))
    assert report.enhanced_frames == 85
    assert (report.coded_size, report.shown_size) == ((64, 36), (128, 72))
    info = probe(tmp_path / "out.mkv")
    assert [f.pts * info.time_base * 25 for f in frames] == list(range(85))
    assert info.has_audio


def test_shared_weights_are_for_whom_the_index_says(
    ladder: Path, ladder_parts: Any, tmp_path: Path
) -> None:
    _, frames = played(ladder / "video-1" / "media.m3u8", tmp_path / "out.mkv")
    # By themselves they say that they are for another stream.
    with pytest.raises(WeightsStreamMismatchError):
        expected(ladder_parts.low, ladder_parts.weights)
    assert_same(frames, expected(ladder_parts.low, ladder_parts.weights, force=True))


def test_the_highest_rung_of_h265_is_the_default(
    ladder: Path, ladder_parts: Any, tmp_path: Path
) -> None:
    report, frames = played(ladder / "master.m3u8", tmp_path / "out.mkv")
    assert_same(frames, list(read_frames(ladder_parts.high)))
    assert report.enhanced_frames == 0
    assert not list(Path(report.output).parent.glob("*.mp4"))  # type: ignore[arg-type]


def test_the_fallback_rung(ladder: Path, ladder_parts: Any, tmp_path: Path) -> None:
    _, frames = played(ladder / "manifest.mpd", tmp_path / "out.mkv", rung="4")
    assert_same(frames, list(read_frames(ladder_parts.fallback)))


def test_through_links_and_odd_names(ladder: Path, tmp_path: Path) -> None:
    link = tmp_path / "a # ladder? 100 %"
    link.symlink_to(ladder, target_is_directory=True)
    opened = open_rung(link / "master.m3u8", "1", tmp_path)
    assert opened.weights is not None
    assert opened.weights.is_file()


def test_a_folder_of_somebody_else_plays_plain(
    copy: Path, ladder_parts: Any, tmp_path: Path
) -> None:
    """Without an index it is HLS as any other; its first audio is found all the same."""
    text = (copy / "master.m3u8").read_text(encoding="utf-8")
    (copy / "master.m3u8").write_text(re.sub("#EXT-X-SESSION-DATA.*\n", "", text))
    (copy / INDEX_NAME).unlink()
    report, frames = played(copy / "master.m3u8", tmp_path / "out.mkv", rung="1")
    assert_same(frames, list(read_frames(ladder_parts.low)))
    assert report.weights is None
    assert probe(tmp_path / "out.mkv").has_audio
    report, _ = played(copy / "video-2" / "media.m3u8", tmp_path / "one.mkv")
    assert report.num_frames == 85


def test_the_rungs_to_choose_from(ladder: Path, tmp_path: Path) -> None:
    known = re.escape("1 (36p), 2 (36p), 3 (72p), 4 (72p)")
    for wrong in ("0", "5", "1080p", "4p", "high", "-1", "٣"):
        with pytest.raises(UsageError, match=known):
            open_rung(ladder / "master.m3u8", wrong, tmp_path)
    # A height that two have: H.265 before the fallback.
    assert open_rung(ladder / "master.m3u8", "72", tmp_path).name == "video-3"
    assert not any(tmp_path.glob("seg-*"))


def test_rung_without_a_ladder(ladder_parts: Any) -> None:
    with pytest.raises(UsageError, match="--rung with a ladder"):
        drain(play(PlaySettings(ladder_parts.low, rung="1")))
    assert not is_ladder(ladder_parts.low)
    assert is_ladder(Path("X.M3U8"))


def test_nothing_of_the_ladder_is_overwritten(copy: Path) -> None:
    before = (copy / "video-1" / "init.mp4").read_bytes()
    target = copy / "video-1" / "init.mp4"
    options = PlaySettings(copy / "master.m3u8", output=target, rung="1", overwrite=True)
    with pytest.raises(UsageError, match="other than the input"):
        drain(play(options))
    assert target.read_bytes() == before


def test_weights_by_name_must_be_the_streams_own(
    ladder: Path, ladder_parts: Any, tmp_path: Path
) -> None:
    """The index vouches for its own files alone."""
    with pytest.raises(WeightsStreamMismatchError):
        played(ladder / "master.m3u8", tmp_path / "x.mkv", rung="1", weights=ladder_parts.weights)


def test_command_line(ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.mp4"
    arguments = ["play", "--json", "--rung", "3", "-o", str(target), "--device", "cpu"]
    assert main([*arguments, str(ladder / "master.m3u8")]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["event"] == "result"
    assert any(e.get("message") == "rung 3 of 4: video-3" for e in events)
    assert probe(target).has_audio
    assert main(["play", str(tmp_path / "none.m3u8")]) == 3
    (ladder_less := tmp_path / "empty.m3u8").write_text("")
    assert main(["play", str(ladder_less)]) == 3
    assert main(["play", "--rung", "9", str(ladder / "master.m3u8")]) == 2


# ------------------------------------------------------------------------------------------ damage

Spoil = Callable[[Path], object]


def edit(name: str, old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return spoil


def outside(folder: Path) -> None:
    """A segment that is a link to somewhere else."""
    secret = folder.parent / "secret.m4s"
    secret.write_bytes(b"secret")
    (folder / "video-1" / "seg-00002.m4s").unlink()
    (folder / "video-1" / "seg-00002.m4s").symlink_to(secret)


def no_mp4(folder: Path) -> None:
    """What a guess would take for a list of files to open."""
    (folder / "video-1" / "init.mp4").write_text("ffconcat version 1.0\nfile /etc/passwd\n")


def other_weights(folder: Path) -> None:
    (path,) = (folder / "weights").iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def no_weights(folder: Path) -> None:
    shutil.rmtree(folder / "weights")


def other_stream(folder: Path) -> None:
    """Rung 1 has the segments of rung 2."""
    shutil.rmtree(folder / "video-1")
    shutil.copytree(folder / "video-2", folder / "video-1")


MASTER, MEDIA = "master.m3u8", "video-1/media.m3u8"


@pytest.mark.parametrize(
    ("spoil", "kind", "match"),
    [
        (edit(MASTER, "#EXTM3U", "hello"), InputError, "begins with #EXTM3U"),
        (edit(MASTER, "video-1/media", "../video-1/media"), InputError, "plain names"),
        (edit(MASTER, "video-1/media", "/etc/media"), InputError, "plain names"),
        (edit(MASTER, "video-1/media", "http://x/media"), InputError, "plain names"),
        (edit(MASTER, "codecaux.json", "../codecaux.json"), InputError, "plain names"),
        (edit(MASTER, "BANDWIDTH=", "BANDWIDTH=x"), InputError, "BANDWIDTH, a number"),
        (edit(MASTER, "RESOLUTION=64x36", "RESOLUTION=64"), InputError, "WIDTHxHEIGHT"),
        (edit(MASTER, "CODECS=", 'CODECS="'), InputError, "NAME=value"),
        (edit(MEDIA, "seg-00002", "..\\seg-00002"), InputError, "plain names"),
        (edit(MEDIA, "seg-00002", "seg-00009"), InputError, "no such file"),
        (edit(MEDIA, "#EXT-X-ENDLIST\n", ""), InputError, "#EXT-X-ENDLIST"),
        (edit(MEDIA, '#EXT-X-MAP:URI="init.mp4"\n', ""), InputError, "init segment"),
        (edit(MEDIA, "#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="k"\n#EXTINF'), InputError, "KEY"),
        (edit(MEDIA, "#EXTINF", "#EXT-X-BYTERANGE:5@0\n#EXTINF"), InputError, "BYTERANGE"),
        (edit(INDEX_NAME, '"codecaux-ladder"', '"other"'), InputError, "format"),
        (edit(INDEX_NAME, '"format_version": 1', '"format_version": 2'), InputError, "upgrade"),
        (edit(INDEX_NAME, '"weights/', '"../weights/'), InputError, "relative path"),
        (edit(INDEX_NAME, '"folder": "video-2"', '"folder": "video-1"'), InputError, "another"),
        (edit(INDEX_NAME, "}", "]"), InputError, "JSON"),
        (outside, InputError, "do not trust"),
        (no_mp4, InputError, "mp4 init segment"),
        (other_weights, WeightsFormatError, "as the ladder's index describes"),
        (no_weights, WeightsFormatError, "as the ladder's index describes"),
        (other_stream, WeightsStreamMismatchError, "belongs to another stream"),
        (lambda f: (f / INDEX_NAME).unlink(), InputError, "expected a ladder's index"),
    ],
)
def test_damaged_ladders_are_refused(
    copy: Path, tmp_path: Path, spoil: Spoil, kind: type[Exception], match: str
) -> None:
    spoil(copy)
    with pytest.raises(kind, match=match):
        played(copy / MASTER, tmp_path / "out.mkv", rung="1")
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("<MPD", "<!DOCTYPE a [<!ENTITY b 'c'>]><MPD", "document type"),
        ("</MPD>", "", "XML"),
        ("urn:codecaux:ladder:1", "urn:other", "names no index"),
        ('value="codecaux.json"', 'value="../x.json"', "do not trust"),
    ],
)
def test_damaged_manifests_are_refused(
    copy: Path, tmp_path: Path, old: str, new: str, match: str
) -> None:
    path = copy / "manifest.mpd"
    path.write_text(path.read_text().replace(old, new).replace(old, new))
    with pytest.raises(InputError, match=match):
        open_rung(path, None, tmp_path)


def test_a_document_type_hides_in_no_other_encoding(copy: Path, tmp_path: Path) -> None:
    path = copy / "manifest.mpd"
    text = path.read_text().replace("<MPD", "<!DOCTYPE a [<!ENTITY b 'c'>]><MPD")
    path.write_bytes(text.replace('encoding="UTF-8"', 'encoding="UTF-16"').encode("utf-16"))
    with pytest.raises(InputError, match="XML"):
        open_rung(path, None, tmp_path)


def test_weights_larger_than_any_are_not_read(copy: Path, tmp_path: Path) -> None:
    """A sparse file of a terabyte, of which the index tells the truth."""
    index = json.loads((copy / INDEX_NAME).read_text())
    huge = index["weights"][0]
    huge["bytes"] = 1 << 40
    with (copy / huge["path"]).open("r+b") as file:
        file.truncate(1 << 40)
    (copy / INDEX_NAME).write_text(json.dumps(index))
    # Refused by what the index says of it, or by the size, and in no time.
    with pytest.raises((InputError, WeightsFormatError)):
        played(copy / MASTER, tmp_path / "out.mkv", rung="1")


def test_the_playlist_of_sound_alone(ladder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sound alone"):
        open_rung(ladder / "audio-1" / "media.m3u8", None, tmp_path)


def test_a_variant_that_is_a_master(copy: Path, tmp_path: Path) -> None:
    shutil.copy(copy / "master.m3u8", copy / "video-1" / "media.m3u8")
    with pytest.raises(InputError, match="playlist of one track"):
        open_rung(copy / "master.m3u8", "1", tmp_path)


# ------------------------------------------------------------------------------------------ parsing


def test_what_is_unknown_is_passed_over() -> None:
    text = (
        '#EXTM3U\r\n#EXT-X-NEW:A=1\r\n# a comment\r\n\r\n#EXT-X-MAP:URI="i.mp4"\r\n'
        "#EXTINF:4,\r\na.m4s\r\n#EXTINF:4,\r\nsub/b.m4s\r\n#EXT-X-ENDLIST\r\n"
    )
    assert parse_playlist(text, "x") == MediaPlaylist("i.mp4", ("a.m4s", "sub/b.m4s"))


def test_quoted_commas_and_groups() -> None:
    text = (
        '#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a,b",NAME="x",URI="s.m3u8",DEFAULT=YES\n'
        '#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="t",NAME="x",URI="../t.m3u8"\n'
        '#EXT-X-STREAM-INF:CODECS="hvc1.1,mp4a",AUDIO="a,b",BANDWIDTH=5\nv.m3u8\n'
    )
    playlist = parse_playlist(text, "x")
    assert isinstance(playlist, MasterPlaylist)
    assert playlist.variants[0].codecs == "hvc1.1,mp4a"
    assert [(r.group, r.uri, r.is_default) for r in playlist.audio] == [("a,b", "s.m3u8", True)]
    assert playlist.variants[0].audio_group == "a,b"


lines = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(
            (
                *("#EXT-X-STREAM-INF:BANDWIDTH=1", '#EXT-X-MAP:URI="a"', "a.m4s", "../x"),
                *("#EXT-X-KEY:", "#EXT-X-MEDIA:TYPE=AUDIO", "#EXT-X-SESSION-DATA:A=1"),
                "#EXT-X-ENDLIST",
            )
        ),
    )
)


@given(lines)
def test_any_text_is_a_playlist_or_an_input_error(text: list[str]) -> None:
    try:
        playlist = parse_playlist("\n".join(["#EXTM3U", *text]), "x")
    except InputError:
        return
    uris = (
        [v.uri for v in playlist.variants]
        if isinstance(playlist, MasterPlaylist)
        else [playlist.init_uri, *playlist.segment_uris]
    )
    assert uris
    assert not any(".." in u.split("/") or u.startswith("/") for u in uris)


def test_the_index_comes_back(ladder: Path) -> None:
    data = (ladder / INDEX_NAME).read_bytes()
    assert index_to_json(index_from_json(data)) == data


@settings(max_examples=60)
@given(st.data())
def test_any_change_of_type_in_the_index_is_refused(ladder: Path, data: st.DataObject) -> None:
    values = json.loads((ladder / INDEX_NAME).read_text(encoding="utf-8"))
    where = data.draw(st.sampled_from([values, values["rungs"][0], values["weights"][0]]))
    name = data.draw(st.sampled_from(sorted(where)))
    where[name] = data.draw(st.sampled_from([{}, -1, 1.5, True, "../x", [3], "\x1b", 2**60]))
    harmless = name in ("duration_seconds", "format_version") or (
        # A title's names of codecs and programs are any printable text.
        name in ("codecs", "created_by") and where[name] == "../x"
    )
    if (name == "duration_seconds" and where[name] == 1.5) or harmless:
        return
    with pytest.raises(InputError):
        index_from_json(json.dumps(values).encode())


def test_indices_beyond_bounds(ladder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most"):
        index_from_json(b" " * (2 << 20))
    with pytest.raises(InputError, match="JSON"):
        index_from_json(b"[" * 100_000)
    with pytest.raises(InputError, match="a JSON object"):
        index_from_json(b"[]")
    with pytest.raises(InputError, match="No such file"):
        read_index(tmp_path / "none.json")
