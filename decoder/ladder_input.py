"""A ladder's folder as input of the player: the rung that was asked for, its sound, its weights.

    master.m3u8 ─ variants ─┐
    manifest.mpd ─┐         ├─ rung ─ init and segments, joined ─> one mp4 that decodes
    codecaux.json ┴ rungs ──┘    └─ codecaux.json ─> its weights, and the hash of its stream

A copy, because players seek in files: what is joined lies in a folder of the caller's. Playlists,
manifests and the index are untrusted: nothing outside their folder is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as Xml

from codecaux.container import MAX_FILE_BYTES
from codecaux.decoder.parts import join_parts
from codecaux.decoder.playlist import MasterPlaylist, MediaPlaylist, Variant, parse_playlist
from codecaux.errors import InputError, UsageError, WeightsFormatError
from codecaux.ladderindex import (
    INDEX_NAME,
    INDEX_SCHEME,
    INIT_NAME,
    LadderIndex,
    RungEntry,
    WeightsEntry,
    is_plain_path,
    read_index,
    segment_name,
)

__all__ = ["SUFFIXES", "OpenedRung", "is_ladder", "open_rung"]

SUFFIXES = (".m3u8", ".mpd", ".json")
Parts = Callable[[], tuple[Path, ...]]
_MAX_MANIFEST_BYTES = 1 << 24
_FIRST_OF_H265 = ("hvc1", "hev1", "dvh1", "dvhe")


@dataclass(frozen=True, slots=True)
class OpenedRung:
    """One rung ready to play: ``stream`` and ``sound`` are joined files.

    ``weights`` and ``start_sha256`` (of the stream that they are for, see
    :func:`codecaux.hevc.hash_start`) come from the index, where there is one. ``number`` of
    ``count`` rungs, the lowest first. ``parts``: the files of the ladder that were read.
    """

    stream: Path
    sound: Path | None
    weights: Path | None
    start_sha256: str | None
    number: int
    count: int
    name: str
    parts: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A rung that could be played. Its files are listed when it is chosen."""

    name: str
    height: int
    bits_per_second: int
    is_h265: bool
    video: Parts
    audio: Parts | None = None
    entry: RungEntry | None = None


def is_ladder(path: Path) -> bool:
    """Whether a file's name says that it is a playlist, a manifest or an index."""
    return path.suffix.lower() in SUFFIXES


def open_rung(source: Path, rung: str | None, folder: Path) -> OpenedRung:
    """Join a rung of the ladder that ``source`` (.m3u8, .mpd, .json) describes, in ``folder``.

    ``rung``: its number, 1 for the lowest, or the height of its coded pictures (540 or 540p); None:
    the highest of H.265. Raises UsageError where there is no such rung, InputError for what is
    damaged, missing or outside the folder, WeightsFormatError where the weights file is not the
    one that the index names.
    """
    root, index, candidates = _candidates(source)
    ranked = sorted(candidates, key=lambda c: (not c.is_h265, c.bits_per_second))
    number = _choose(ranked, rung)
    chosen = ranked[number - 1]
    video = chosen.video()
    audio = chosen.audio() if chosen.audio else ()
    stream = folder / f"{chosen.name}.mp4"
    join_parts(video, stream)
    sound: Path | None = None
    if audio:
        # In a folder of its own: a rung may be called "sound", too.
        sound = folder / "sound" / "sound.mp4"
        sound.parent.mkdir()
        join_parts(audio, sound)
    entry = chosen.entry
    weights = _weights(root, index, entry) if index is not None and entry is not None else None
    start = entry.stream.start_sha256 if weights and entry and entry.stream else None
    parts = (source, *video, *audio)
    return OpenedRung(stream, sound, weights, start, number, len(ranked), chosen.name, parts)


def _choose(candidates: Sequence[_Candidate], rung: str | None) -> int:
    """The number of the rung, from 1."""
    if rung is None:
        h265 = [n for n, c in enumerate(candidates, start=1) if c.is_h265]
        return max(h265, default=len(candidates))
    digits = rung.removesuffix("p")
    heights = [candidate.height for candidate in candidates]
    if digits.isascii() and digits.isdigit() and len(digits) <= 6:
        value = int(digits)
        if digits == rung and 1 <= value <= len(candidates):
            return value
        if value in heights:
            # The best of several of one height, H.265 first.
            same = [n for n, c in enumerate(candidates, start=1) if c.height == value]
            return max((n for n in same if candidates[n - 1].is_h265), default=same[-1])
    known = ", ".join(f"{n} ({height}p)" for n, height in enumerate(heights, start=1))
    raise UsageError(f"expected a rung of {known}, got {rung!r}; give its number or its height")


def _candidates(source: Path) -> tuple[Path, LadderIndex | None, list[_Candidate]]:
    """(folder of the index, index, rungs) of whatever ``source`` is."""
    root = source.resolve().parent
    suffix = source.suffix.lower()
    if suffix == ".json":
        index = read_index(source)
        return root, index, _of_index(root, index)
    if suffix == ".mpd":
        index = read_index(_inside(root, root, _index_of_manifest(source)))
        return root, index, _of_index(root, index)
    playlist = _read_playlist(source)
    if isinstance(playlist, MediaPlaylist):
        return _of_media(source, playlist)
    named = playlist.index_uri
    known = read_index(_inside(root, root, named)) if named is not None else None
    return root, known, _of_master(root, playlist, known)


def _of_index(root: Path, index: LadderIndex) -> list[_Candidate]:
    audio = next((a for a in index.audio if a.is_default), next(iter(index.audio), None))
    sound = partial(_named_parts, root, audio.folder, audio.num_segments) if audio else None
    return [
        _Candidate(
            name=Path(entry.folder).name,
            height=entry.height,
            bits_per_second=entry.average_bits_per_second,
            is_h265=_is_h265(entry.codecs),
            video=partial(_named_parts, root, entry.folder, entry.num_segments),
            audio=sound,
            entry=entry,
        )
        for entry in index.rungs
    ]


def _of_master(root: Path, playlist: MasterPlaylist, index: LadderIndex | None) -> list[_Candidate]:
    entries = {entry.folder: entry for entry in index.rungs} if index is not None else {}
    # A rung stands once for each audio group: the first counts.
    variants = {variant.uri: variant for variant in reversed(playlist.variants)}
    return [
        _variant(root, playlist, variant, entries.get(str(Path(variant.uri).parent)))
        for variant in variants.values()
    ]


def _variant(
    root: Path, playlist: MasterPlaylist, variant: Variant, entry: RungEntry | None
) -> _Candidate:
    path = _inside(root, root, variant.uri)
    renditions = [r for r in playlist.audio if r.group == variant.audio_group and r.uri]
    chosen = next((r for r in renditions if r.is_default), next(iter(renditions), None))
    return _Candidate(
        name=path.parent.name,
        height=variant.height,
        bits_per_second=variant.bits_per_second,
        is_h265=_is_h265(variant.codecs),
        video=partial(_listed_parts, root, path),
        audio=partial(_listed_parts, root, _inside(root, root, chosen.uri)) if chosen else None,
        entry=entry,
    )


def _of_media(
    source: Path, playlist: MediaPlaylist
) -> tuple[Path, LadderIndex | None, list[_Candidate]]:
    """One rung's own playlist: the index lies beside it or one folder above, if there is one."""
    folder = source.resolve().parent
    video = _parts(folder, folder, playlist)
    for root in (folder, folder.parent):
        if not (root / INDEX_NAME).is_file():
            continue
        index = read_index(root / INDEX_NAME)
        name = folder.relative_to(root).as_posix()
        if any(track.folder == name for track in index.audio):
            raise InputError(
                f"expected a playlist of pictures, got {source}, which is sound alone; play the "
                "ladder's master playlist"
            )
        for candidate in _of_index(root, index):
            is_it = candidate.entry is not None and candidate.entry.folder == name
            if is_it and candidate.video() == video:
                return root, index, [candidate]
    return folder, None, [_Candidate(folder.name, 0, 0, True, lambda: video)]


# ------------------------------------------------------------------------------------------- files


def _inside(root: Path, folder: Path, name: str) -> Path:
    """``folder / name``, which must lie in ``root`` after every link was followed."""
    path = (folder / name).resolve()
    if not is_plain_path(name) or not path.is_relative_to(root):
        raise InputError(
            f"expected files of the ladder in its own folder {root}, got {name!a}; do not "
            "trust this ladder"
        )
    return path


def _named_parts(root: Path, folder: str, count: int) -> tuple[Path, ...]:
    names = [INIT_NAME, *(segment_name(number) for number in range(1, count + 1))]
    return tuple(_inside(root, root, f"{folder}/{name}") for name in names)


def _listed_parts(root: Path, path: Path) -> tuple[Path, ...]:
    playlist = _read_playlist(path)
    if not isinstance(playlist, MediaPlaylist):
        raise InputError(f"expected the playlist of one track at {path}, got a master playlist")
    return _parts(root, path.parent, playlist)


def _parts(root: Path, folder: Path, playlist: MediaPlaylist) -> tuple[Path, ...]:
    uris = (playlist.init_uri, *playlist.segment_uris)
    return tuple(_inside(root, folder, uri) for uri in uris)


def _read_playlist(path: Path) -> MasterPlaylist | MediaPlaylist:
    try:
        return parse_playlist(_read(path).decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"expected a playlist (UTF-8) at {path}, got: {error}") from error


def _index_of_manifest(path: Path) -> str:
    """What the manifest says the index is called."""
    try:
        text = _read(path).decode("utf-8-sig")
        # In another encoding this would not be found, but by the parser.
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise InputError(f"expected a manifest without a document type in {path}, got one")
        root = Xml.fromstring(text)  # noqa: S314 - no entities: see above; the size is bounded
    except (Xml.ParseError, ValueError) as error:
        raise InputError(f"expected a manifest (XML) at {path}, got: {error}") from error
    for element in root.iter("{urn:mpeg:dash:schema:mpd:2011}SupplementalProperty"):
        if element.get("schemeIdUri") == INDEX_SCHEME:
            return element.get("value", "")
    raise InputError(
        f"expected a manifest of `codecaux ladder` at {path}, got one that names no index "
        f"({INDEX_SCHEME}); play another of its files, or one of its playlists"
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"expected a playlist or manifest at {path}, got: {error.strerror}; check the name"
        ) from error
    if len(data) > _MAX_MANIFEST_BYTES:
        raise InputError(f"expected at most {_MAX_MANIFEST_BYTES} bytes in {path}, got more")
    return data


def _weights(root: Path, index: LadderIndex, entry: RungEntry) -> Path | None:
    """The weights of a rung, which must be the bytes that the index describes."""
    if entry.weights is None:
        return None
    path = _inside(root, root, entry.weights)
    expected = next(w for w in index.weights if w.path == entry.weights)
    _check_bytes(path, expected)
    return path


def _check_bytes(path: Path, expected: WeightsEntry) -> None:
    try:
        # Nothing larger is a weights file, whatever the index says: it is not even read.
        is_size = path.is_file() and path.stat().st_size == expected.bytes <= MAX_FILE_BYTES
        found = hashlib.sha256(path.read_bytes()).hexdigest() if is_size else "another size"
    except OSError as error:
        found = str(error.strerror)
    if found != expected.sha256:
        raise WeightsFormatError(
            f"expected the weights file {path} as the ladder's index describes it "
            f"({expected.bytes} bytes, SHA-256 {expected.sha256[:16]}), got {found[:16]}; copy "
            "the ladder's folder again"
        )


def _is_h265(codecs: str) -> bool:
    # A variant that does not say is taken for H.265, as ladders of ours always do say.
    return not codecs or codecs.startswith(_FIRST_OF_H265)
