"""HLS playlists (RFC 8216 and its successor's VIDEO-RANGE) as text. Pure, byte-reproducible."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

from codecaux.errors import UsageError
from codecaux.ladderindex import INIT_NAME, SESSION_DATA_ID, segment_name
from codecaux.ladders.presentation import AudioRendition, Presentation, Variant
from codecaux.ladders.segments import Track

__all__ = ["MASTER_NAME", "MEDIA_NAME", "master_playlist", "media_playlist"]

MASTER_NAME = "master.m3u8"
MEDIA_NAME = "media.m3u8"
# fMP4 segments with EXT-X-MAP want 6, which every player of them has passed; 7 is what Apple's own
# tools write for CMAF.
_VERSION = 7
_ATTRIBUTE_NAME = re.compile(r"[A-Z0-9-]+")
_ENUMERATED = re.compile(r"[^\s\",]+")


def master_playlist(presentation: Presentation) -> str:
    """The master playlist: index of the weights, the group of sound, one variant a rung.

    UsageError where a name cannot stand in a playlist.
    """
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{_VERSION}", "#EXT-X-INDEPENDENT-SEGMENTS"]
    data = {"DATA-ID": _quoted(SESSION_DATA_ID), "URI": _quoted(presentation.index_name)}
    lines.append(_tag("EXT-X-SESSION-DATA", data))
    group = presentation.audio_group
    if group is not None:
        lines += [_tag("EXT-X-MEDIA", _media(group, audio)) for audio in presentation.audios]
    for variant in presentation.variants():
        lines.append(_tag("EXT-X-STREAM-INF", _stream_info(variant)))
        lines.append(f"{variant.video.folder}/{MEDIA_NAME}")
    return _text(lines)


def media_playlist(track: Track, target_seconds: int) -> str:
    """The playlist of one track, to lie beside its segments."""
    lines = [
        "#EXTM3U",
        f"#EXT-X-VERSION:{_VERSION}",
        f"#EXT-X-TARGETDURATION:{target_seconds}",
        "#EXT-X-PLAYLIST-TYPE:VOD",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        _tag("EXT-X-MAP", {"URI": _quoted(INIT_NAME)}),
    ]
    for number, seconds in enumerate(track.seconds, start=1):
        lines += [f"#EXTINF:{_decimal(seconds, 6)},", segment_name(number)]
    return _text([*lines, "#EXT-X-ENDLIST"])


def _media(group: str, audio: AudioRendition) -> dict[str, str]:
    values = {"TYPE": "AUDIO", "GROUP-ID": _quoted(group), "NAME": _quoted(audio.name)}
    if audio.language:
        values["LANGUAGE"] = _quoted(audio.language)
    values["DEFAULT"] = "YES" if audio.is_default else "NO"
    values["AUTOSELECT"] = "YES"
    values["CHANNELS"] = _quoted(str(audio.codec.channels))
    values["URI"] = _quoted(f"{audio.folder}/{MEDIA_NAME}")
    return values


def _stream_info(variant: Variant) -> dict[str, str]:
    codec = variant.video.codec
    values = {
        "BANDWIDTH": str(variant.peak_bits_per_second),
        "AVERAGE-BANDWIDTH": str(variant.average_bits_per_second),
        "CODECS": _quoted(variant.codecs),
        "RESOLUTION": f"{codec.width}x{codec.height}",
        "FRAME-RATE": _decimal(variant.video.highest_fps, 3),
        "VIDEO-RANGE": codec.range,
    }
    if variant.audio_group is not None:
        values["AUDIO"] = _quoted(variant.audio_group)
    return values


def _tag(name: str, attributes: dict[str, str]) -> str:
    for key, value in attributes.items():
        is_quoted = value[:1] == value[-1:] == '"' and len(value) > 1
        assert _ATTRIBUTE_NAME.fullmatch(key), key
        assert is_quoted or _ENUMERATED.fullmatch(value), value
    return f"#{name}:" + ",".join(f"{key}={value}" for key, value in attributes.items())


def _quoted(text: str) -> str:
    """A quoted-string, which has no escapes: RFC 8216, 4.2."""
    if '"' in text or not text.isprintable() or not text:
        raise UsageError(
            f"expected a name of printable characters without double quotes for a playlist, got "
            f"{text!r}; choose another"
        )
    return f'"{text}"'


def _decimal(value: Fraction, digits: int) -> str:
    """Decimal digits without an exponent, rounded to nearest; never through a float."""
    scaled = round(value * 10**digits)
    return f"{scaled // 10**digits}.{scaled % 10**digits:0{digits}d}"


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
