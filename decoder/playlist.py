"""HLS playlists as far as a local player needs them, read strictly: every line is untrusted. Pure.

What would change how segments decode and is not done here (keys, byte ranges, discontinuities) is
refused; what is merely unknown is passed over, as RFC 8216 asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from codecaux.errors import InputError
from codecaux.ladderindex import MAX_SEGMENTS, SESSION_DATA_ID, is_plain_path

__all__ = ["MasterPlaylist", "MediaPlaylist", "Rendition", "Variant", "parse_playlist"]

MAX_PLAYLIST_CHARS = 1 << 24
_MAX_LINE_CHARS = 4096
_MAX_VARIANTS = 1024
_ATTRIBUTE = re.compile(r'([A-Z0-9-]+)=("[^"]*"|[^",\s]+)(?:,|$)')
_RESOLUTION = re.compile(r"(\d{1,5})x(\d{1,5})")
_REFUSED_TAGS = ("EXT-X-BYTERANGE", "EXT-X-DISCONTINUITY", "EXT-X-I-FRAMES-ONLY", "EXT-X-DEFINE")


@dataclass(frozen=True, slots=True)
class Variant:
    """One EXT-X-STREAM-INF: bits a second, coded size (0 where not said), its audio group."""

    uri: str
    bits_per_second: int
    width: int
    height: int
    codecs: str
    audio_group: str


@dataclass(frozen=True, slots=True)
class Rendition:
    """One EXT-X-MEDIA of type AUDIO; ``uri`` "" where the sound lies in the variants."""

    group: str
    uri: str
    is_default: bool


@dataclass(frozen=True, slots=True)
class MasterPlaylist:
    """``index_uri``: the ladder's index, where it is one of ours."""

    variants: tuple[Variant, ...]
    audio: tuple[Rendition, ...] = ()
    index_uri: str | None = None


@dataclass(frozen=True, slots=True)
class MediaPlaylist:
    """A whole track: its init segment, then its segments."""

    init_uri: str
    segment_uris: tuple[str, ...]


def parse_playlist(text: str, source: str) -> MasterPlaylist | MediaPlaylist:
    """Read a playlist; ``source`` is named in the errors.

    InputError: no playlist, damaged, too long, of a live stream, encrypted, without EXT-X-MAP (only
    mp4 segments are played), or naming what does not lie below its folder.
    """
    reader = _Reader(source)
    lines = reader.lines(text)
    is_master = any(line.startswith("#EXT-X-STREAM-INF:") for line in lines)
    return reader.master(lines) if is_master else reader.media(lines)


@dataclass(slots=True)
class _Reader:
    """Reads the lines of one playlist."""

    source: str
    variants: list[Variant] = field(default_factory=list)
    audio: list[Rendition] = field(default_factory=list)

    def fail(self, expected: str, got: str) -> NoReturn:
        raise InputError(
            f"expected {expected} in {self.source}, got {got[:120]}; copy the ladder's folder "
            "again, whole"
        )

    def lines(self, text: str) -> list[str]:
        if len(text) > MAX_PLAYLIST_CHARS:
            self.fail(f"at most {MAX_PLAYLIST_CHARS} characters", "more")
        lines = [line.rstrip("\r") for line in text.split("\n")]
        if not lines[0].removeprefix("\ufeff").startswith("#EXTM3U"):
            self.fail("a playlist, which begins with #EXTM3U,", ascii(lines[0]))
        if max(map(len, lines)) > _MAX_LINE_CHARS:
            self.fail(f"lines of at most {_MAX_LINE_CHARS} characters", "a longer one")
        return [line.strip() for line in lines[1:] if line.strip()]

    def master(self, lines: list[str]) -> MasterPlaylist:
        index_uri: str | None = None
        pending: dict[str, str] | None = None
        for line in lines:
            name, _, rest = line.removeprefix("#").partition(":")
            if not line.startswith("#"):
                if pending is None:
                    self.fail("#EXT-X-STREAM-INF before a variant's URI", ascii(line))
                self.variants.append(self.variant(pending, line))
                pending = None
            elif name == "EXT-X-STREAM-INF":
                pending = self.attributes(rest)
            elif name == "EXT-X-MEDIA":
                self.rendition(self.attributes(rest))
            elif name == "EXT-X-SESSION-DATA":
                values = self.attributes(rest)
                if values.get("DATA-ID") == SESSION_DATA_ID and "URI" in values:
                    index_uri = self.uri(values["URI"])
        if not 1 <= len(self.variants) <= _MAX_VARIANTS:
            self.fail(f"1 to {_MAX_VARIANTS} variants", str(len(self.variants)))
        return MasterPlaylist(tuple(self.variants), tuple(self.audio), index_uri)

    def media(self, lines: list[str]) -> MediaPlaylist:
        inits: list[str] = []
        segments: list[str] = []
        for line in lines:
            name, _, rest = line.removeprefix("#").partition(":")
            if not line.startswith("#"):
                segments.append(self.uri(line))
            elif name == "EXT-X-MAP":
                values = self.attributes(rest)
                if "BYTERANGE" in values or "URI" not in values:
                    self.fail("a whole init segment", ascii(rest))
                inits.append(self.uri(values["URI"]))
            elif name == "EXT-X-KEY" and self.attributes(rest).get("METHOD") != "NONE":
                self.fail("segments that are not encrypted", "#EXT-X-KEY")
            elif name in _REFUSED_TAGS:
                self.fail("a plain list of whole segments", f"#{name}")
        if "#EXT-X-ENDLIST" not in lines:
            self.fail("#EXT-X-ENDLIST, the end of a whole title,", "none: a live or cut playlist")
        if len(inits) != 1:
            self.fail("one init segment (#EXT-X-MAP: mp4 segments)", str(len(inits)))
        if not 1 <= len(segments) <= MAX_SEGMENTS:
            self.fail(f"1 to {MAX_SEGMENTS} segments", str(len(segments)))
        return MediaPlaylist(inits[0], tuple(segments))

    def variant(self, values: dict[str, str], uri: str) -> Variant:
        bandwidth = values.get("BANDWIDTH", "")
        if not (bandwidth.isascii() and bandwidth.isdigit() and len(bandwidth) <= 15):
            self.fail("BANDWIDTH, a number, of every variant", ascii(bandwidth))
        size = _RESOLUTION.fullmatch(values.get("RESOLUTION", "0x0"))
        if size is None:
            self.fail("RESOLUTION as WIDTHxHEIGHT", ascii(values["RESOLUTION"]))
        return Variant(
            uri=self.uri(uri),
            bits_per_second=int(bandwidth),
            width=int(size.group(1)),
            height=int(size.group(2)),
            codecs=values.get("CODECS", ""),
            audio_group=values.get("AUDIO", ""),
        )

    def rendition(self, values: dict[str, str]) -> None:
        if values.get("TYPE") != "AUDIO":
            return
        uri = self.uri(values["URI"]) if "URI" in values else ""
        group = values.get("GROUP-ID", "")
        self.audio.append(Rendition(group, uri, is_default=values.get("DEFAULT") == "YES"))

    def attributes(self, text: str) -> dict[str, str]:
        """An attribute list (RFC 8216, 4.2), quotes taken off."""
        values: dict[str, str] = {}
        for name, value in self._pairs(text):
            if name in values:
                self.fail("each attribute once", ascii(name))
            values[name] = value[1:-1] if value.startswith('"') else value
        return values

    def _pairs(self, text: str) -> Iterator[tuple[str, str]]:
        position = 0
        while position < len(text):
            match = _ATTRIBUTE.match(text, position)
            if match is None:
                self.fail("a list of NAME=value", ascii(text[position : position + 60]))
            yield match.group(1), match.group(2)
            position = match.end()

    def uri(self, text: str) -> str:
        """A relative path below the playlist's folder; anything else is refused."""
        if not is_plain_path(text):
            self.fail("files below its own folder, with plain names,", ascii(text))
        return text
