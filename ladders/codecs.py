"""CODECS and VIDEO-RANGE of a track, from what the stream itself says (RFC 6381).

hvc1.1.6.L93.90    ISO/IEC 14496-15, E.3: profile, compatibility, tier and level, constraints
avc1.64001F        ISO/IEC 14496-15, 3.3.1: profile_idc, constraint flags, level_idc
mp4a.40.2          RFC 6381, 3.3: the audio object type
ac-3, ec-3, opus   the sample entry
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av

from codecaux.errors import InputError
from codecaux.hevc import nal_type, open_video, parse_extradata, split_nal_units
from codecaux.ladders.sps import AvcSps, BitReader, HevcSps, parse_avc_sps, parse_hevc_sps

__all__ = [
    "AudioCodec",
    "VideoCodec",
    "VideoRange",
    "aac_codec",
    "audio_codec",
    "avc_codec",
    "hevc_codec",
    "video_codec",
    "video_range",
]

VideoRange = Literal["SDR", "PQ", "HLG"]
_HEVC_SPS, _AVC_SPS = 33, 7
_PLAIN_AUDIO = {"ac3": "ac-3", "eac3": "ec-3", "opus": "opus"}
_ESCAPED_OBJECT_TYPE = 31


@dataclass(frozen=True, slots=True)
class VideoCodec:
    """``name`` hevc or h264, the CODECS string, the range, the coded picture's size and depth."""

    name: str
    codecs: str
    range: VideoRange
    width: int
    height: int
    bit_depth: int = 8


@dataclass(frozen=True, slots=True)
class AudioCodec:
    """The CODECS string, and how many channels there are; 48 kHz is ``sample_rate`` 48000."""

    codecs: str
    channels: int
    sample_rate: int


def video_codec(path: Path) -> VideoCodec:
    """Of the first video stream of ``path``; InputError where it is neither H.265 nor H.264, or
    its parameter sets cannot be read.
    """
    with open_video(path) as (_, stream):
        context = stream.codec_context
        name = context.name if context is not None else "an unknown codec"
        if name not in ("hevc", "h264"):
            raise InputError(
                f"expected H.265 or H.264 in {path}, got {name}; encode the rung again"
            )
        extradata = bytes(context.extradata or b"")
        width, height = context.width, context.height
    try:
        if name == "hevc":
            hevc = parse_hevc_sps(_first(_hevc_units(extradata)))
            shown = video_range(hevc.transfer)
            size = (hevc.width, hevc.height, hevc.bit_depth)
            return VideoCodec(name, hevc_codec(hevc), shown, *size)
        avc = parse_avc_sps(_first(_avc_units(extradata)))
    except ValueError as error:
        raise InputError(
            f"expected the parameter sets of {name} in {path}, got: {error}; put the stream into "
            "an mp4, or encode the rung again"
        ) from error
    return VideoCodec(name, avc_codec(avc), video_range(avc.transfer), width, height)


def hevc_codec(sps: HevcSps) -> str:
    """``hvc1...`` of an H.265 SPS. Pure."""
    space = ("", "A", "B", "C")[sps.profile_space]
    # Reverse bit order: flag 0, the highest bit of the field, becomes the lowest.
    compatibility = int(f"{sps.compatibility_flags:032b}"[::-1], 2)
    tier = "H" if sps.is_high_tier else "L"
    words = ["hvc1", f"{space}{sps.profile_idc}", f"{compatibility:X}", f"{tier}{sps.level_idc}"]
    words += [f"{byte:X}" for byte in sps.constraint_bytes.rstrip(b"\x00")]
    return ".".join(words)


def avc_codec(sps: AvcSps) -> str:
    """``avc1.PPCCLL`` of an H.264 SPS. Pure."""
    return f"avc1.{sps.profile_idc:02X}{sps.constraint_flags:02X}{sps.level_idc:02X}"


def video_range(transfer: int) -> VideoRange:
    """VIDEO-RANGE of an H.273 transfer: 16 is PQ, 18 HLG, all else SDR (RFC 8216bis, 4.4.6.2)."""
    return {16: "PQ", 18: "HLG"}.get(transfer, "SDR")  # type: ignore[return-value]


def audio_codec(path: Path, position: int = 0) -> AudioCodec:
    """Of audio stream ``position`` (from 0) of ``path``.

    InputError where there is none, or a segment of it could not be played in a browser: only AAC,
    AC-3, E-AC-3 and Opus are taken.
    """
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            streams = container.streams.audio
            if position >= len(streams):
                raise InputError(
                    f"expected audio track {position + 1} in {path}, got {len(streams)} of them"
                )
            context = streams[position].codec_context
            name = context.codec.canonical_name if context is not None else "an unknown codec"
            if name != "aac" and name not in _PLAIN_AUDIO:
                raise InputError(
                    f"expected AAC, AC-3, E-AC-3 or Opus sound in {path}, got {name}; convert the "
                    "track to AAC first"
                )
            codecs = _PLAIN_AUDIO.get(name) or aac_codec(bytes(context.extradata or b""))
            return AudioCodec(codecs, context.channels, context.sample_rate)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"expected readable sound at {path}, got: {error}") from error
    except ValueError as error:
        raise InputError(f"expected the configuration of AAC in {path}, got: {error}") from error


def aac_codec(config: bytes) -> str:
    """``mp4a.40.N`` of an AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1). Pure; ValueError."""
    bits = BitReader(config)
    object_type = bits.u(5)
    if object_type == _ESCAPED_OBJECT_TYPE:
        object_type = 32 + bits.u(6)
    return f"mp4a.40.{object_type}"


def _hevc_units(extradata: bytes) -> list[bytes]:
    units = parse_extradata(extradata).parameter_sets
    return [unit for unit in units if nal_type(unit) == _HEVC_SPS]


def _avc_units(extradata: bytes) -> list[bytes]:
    """SPS of an avcC record (ISO/IEC 14496-15, 5.3.3.1), or of Annex B."""
    if extradata[:1] != b"\x01":
        units = [bytes(unit) for unit in split_nal_units(extradata, None)]
        return [unit for unit in units if unit[0] & 0x1F == _AVC_SPS]
    units = []
    position = 6
    for _ in range(extradata[5] & 0x1F if len(extradata) > 5 else 0):
        size = int.from_bytes(extradata[position : position + 2], "big")
        units.append(extradata[position + 2 : position + 2 + size])
        position += 2 + size
    return units


def _first(units: list[bytes]) -> bytes:
    if not units:
        raise ValueError("no sequence parameter set")
    return units[0]
