"""Which tracks travel beside the video, and how: pure choices from what the original holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error

from codecaux.errors import InputError

__all__ = [
    "MOV_AUDIO",
    "MP4_AUDIO",
    "Track",
    "TrackPlan",
    "choose_tracks",
    "held_audio",
    "list_tracks",
    "other_bytes",
    "plan_tracks",
]

# What both the mp4 standards and common players take; anything else needs Matroska.
MP4_AUDIO = frozenset(
    ("aac", "ac3", "alac", "dca", "dts", "eac3", "flac", "mp1", "mp2", "mp3", "mp3float", "opus")
)
# QuickTime's own: plain samples it has always had, FLAC and Opus only mp4.
MOV_AUDIO = (MP4_AUDIO - {"flac", "opus"}) | {
    *(
        f"pcm_{kind}{order}"
        for kind in ("s16", "s24", "s32", "f32", "f64")
        for order in ("le", "be")
    ),
    *("pcm_alaw", "pcm_mulaw", "pcm_u8"),
}
# What mp4s of 54 to 5388 frames were seen to take beyond their packets: 18 bytes a frame and 1 to
# 2 kB. A Matroska takes less.
_CONTAINER_BYTES, _FRAME_BYTES, _PACKET_BYTES = 2000, 18, 8
_TEXT_SUBTITLES = frozenset(("ass", "mov_text", "srt", "ssa", "subrip", "text", "webvtt"))


@dataclass(frozen=True)
class Track:
    """One audio or subtitle track: ``kind`` a or s, ``position`` among its kind, codec name."""

    kind: str
    position: int
    codec_name: str


@dataclass(frozen=True)
class TrackPlan:
    """``specifiers`` of the streams to map, the options to write them with, what is left out."""

    specifiers: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def held_audio(output: Path) -> frozenset[str]:
    """What an output that is no Matroska holds, by its suffix: a .mov is QuickTime, else mp4."""
    return MOV_AUDIO if output.suffix.lower() == ".mov" else MP4_AUDIO


def plan_tracks(
    original: Path | None, *, is_matroska: bool, audio: frozenset[str] = MP4_AUDIO
) -> TrackPlan:
    """The plan for a file; an empty one where there is no file to take tracks from. ``audio``: the
    codecs that the container holds; Matroska holds all.
    """
    if original is None:
        return TrackPlan()
    return choose_tracks(list_tracks(original), is_matroska=is_matroska, audio=audio)


def other_bytes(original: Path | None, output: Path, num_frames: int) -> int:
    """What ``output`` holds beside the video's packets: the sound and subtitles of ``original``
    that travel with them, all their packets as they are there, and about what the container itself
    takes. One pass over the file, without decoding. InputError where that fails.
    """
    copied = num_packets = 0
    if original is not None:
        try:
            copied, num_packets = _copied(original, output)
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(
                f"expected to read the sound and subtitles of {original}, got: {error}; without "
                "them (ffmpeg -i in -c copy -an -sn out) there is nothing to count"
            ) from error
    container = _CONTAINER_BYTES + _FRAME_BYTES * num_frames + _PACKET_BYTES * num_packets
    return copied + container


def _copied(original: Path, output: Path) -> tuple[int, int]:
    """Bytes and number of the packets of all tracks that travel."""
    is_matroska = output.suffix.lower() == ".mkv"
    plan = plan_tracks(original, is_matroska=is_matroska, audio=held_audio(output))
    with av.open(f"file:{original}", metadata_errors="replace") as container:
        groups = {"a": container.streams.audio, "s": container.streams.subtitles}
        parts = (specifier.split(":") for specifier in plan.specifiers)
        tracks = [groups[kind][int(position)] for kind, position in parts]
        sizes = [packet.size for packet in container.demux(tracks)] if tracks else []
    return sum(sizes), len(sizes)


def list_tracks(path: Path) -> tuple[Track, ...]:
    """Audio and subtitle tracks of a file, in its order."""
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        groups = (("a", container.streams.audio), ("s", container.streams.subtitles))
        return tuple(
            Track(kind, position, _codec_name(stream))
            for kind, streams in groups
            for position, stream in enumerate(streams)
        )


def _codec_name(stream: Any) -> str:
    # The codec, not the library that would decode it (opus, not libopus).
    context = stream.codec_context
    return str(context.codec.canonical_name) if context is not None else "unknown"


def choose_tracks(
    tracks: tuple[Track, ...], *, is_matroska: bool, audio: frozenset[str] = MP4_AUDIO
) -> TrackPlan:
    """Copy what the container can hold, convert text subtitles, name the rest. Pure."""
    specifiers: list[str] = []
    options: dict[str, str] = {}
    dropped: list[str] = []
    counts = {"a": 0, "s": 0}
    for track in tracks:
        codec = _output_codec(track, is_matroska=is_matroska, audio=audio)
        if codec is None:
            kind = "audio" if track.kind == "a" else "subtitle"
            dropped.append(f"{kind} track {track.position + 1} ({track.codec_name})")
            continue
        specifiers.append(f"{track.kind}:{track.position}")
        options[f"c:{track.kind}:{counts[track.kind]}"] = codec
        counts[track.kind] += 1
    return TrackPlan(tuple(specifiers), options, tuple(dropped))


def _output_codec(track: Track, *, is_matroska: bool, audio: frozenset[str]) -> str | None:
    """``copy``, the codec to convert to, or None where the container cannot hold the track."""
    if is_matroska:
        return "srt" if track.codec_name == "mov_text" else "copy"
    if track.kind == "a":
        return "copy" if track.codec_name in audio else None
    if track.codec_name not in _TEXT_SUBTITLES:
        return None
    return "copy" if track.codec_name == "mov_text" else "mov_text"
