"""The sound of a ladder, and its rung for players without H.265: each made once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, count
from pathlib import Path
from typing import Any

import av

from codecaux.encoder.prepare import PreparedSource
from codecaux.errors import InputError
from codecaux.events import Events, Notice
from codecaux.ffmpeg import Ffmpeg
from codecaux.hevc import coded_packets, open_video
from codecaux.ladders.codecs import audio_codec
from codecaux.ladders.fallback import (
    AAC_CODECS,
    FallbackSettings,
    encode_audio,
    encode_fallback,
)
from codecaux.ladders.finals import cap_kbps
from codecaux.ladders.gops import segment_frames
from codecaux.ladders.ladder_settings import LadderSettings
from codecaux.ladders.ladder_work import LadderWork
from codecaux.ladders.languages import shortest_language
from codecaux.ladders.rungs import LANGUAGE, AudioTrack
from codecaux.ladders.segments import MAX_DELAY_SECONDS, sound_delay_seconds, start_seconds
from codecaux.video import SCALES, Geometry

__all__ = [
    "PicturesSpan",
    "TrackSpan",
    "fallback_rung",
    "fallback_scale",
    "language_tag",
    "menu_name",
    "peak_over_mean",
    "sound_of",
    "track_spans",
]

# Of players without H.265, few are for more lines than these.
_FALLBACK_LINES = 720
# What mp4 and others say where they know none.
_UNKNOWN_LANGUAGE = "und"


@dataclass(frozen=True, slots=True)
class PicturesSpan:
    """How long sound has to last: the pictures' ``seconds``, less ``segment_seconds`` at most."""

    seconds: Fraction
    segment_seconds: Fraction


def sound_of(
    original: Path | None, pictures: PicturesSpan, work: LadderWork, ffmpeg: Ffmpeg
) -> Events[list[AudioTrack]]:
    """The audio tracks of a file, as they are where segments can hold them all, else as stereo AAC:
    as long as the pictures, of one codec, those without any sound left out.
    """
    tracks: list[AudioTrack] = []
    if original is None:
        return tracks
    spans = track_spans(original)
    for position, span in enumerate(spans):
        if span.is_empty:
            yield Notice(f"audio track {position + 1} has no sound in it: left out", "warning")
    obstacles = _obstacles(original, spans, pictures)
    for position, obstacle in obstacles.items():
        path, place = original, position
        if obstacle:
            path, place = work.path / f"audio-{position + 1}.mp4", 0
            if not path.exists():
                yield Notice(f"audio track {position + 1} becomes AAC: {obstacle}")
                encode_audio(original, position, path, ffmpeg, seconds=pictures.seconds)
        name = menu_name(spans[position].title, position, [track.name for track in tracks])
        tracks.append(AudioTrack(path, place, name, language_tag(spans[position].language)))
    return tracks


def _obstacles(path: Path, spans: Sequence[TrackSpan], pictures: PicturesSpan) -> dict[int, str]:
    """Each track with sound in it -> why it cannot be taken as it is, empty where it can."""
    obstacles: dict[int, str] = {}
    codecs: dict[int, str] = {}
    end = start_seconds(path) + pictures.seconds
    for position, span in enumerate(spans):
        if span.is_empty:
            continue
        try:
            codecs[position] = audio_codec(path, position).codecs
        except InputError:
            obstacles[position] = "segments cannot hold it"
        else:
            missing = Fraction(0) if span.end is None else end - span.end
            obstacles[position] = _obstacle(path, position, missing, pictures.segment_seconds)
        if obstacles[position]:
            codecs[position] = AAC_CODECS
    if len(set(codecs.values())) > 1:
        # The groups of a playlist must all offer the same tracks: there is one, of one codec.
        others = [place for place, codec in codecs.items() if codec != AAC_CODECS]
        obstacles |= dict.fromkeys(others, "the audio tracks are of several codecs")
    return obstacles


def _obstacle(path: Path, position: int, missing: Fraction, segment_seconds: Fraction) -> str:
    """Why segments cannot have a track of a codec that they hold as it is; empty where they can.
    ``missing``: seconds at the end.
    """
    delay = sound_delay_seconds(path, position)
    if delay > MAX_DELAY_SECONDS:
        return f"it begins {float(delay):.2f} s after the pictures, and silence has to go before it"
    if missing > segment_seconds:
        return f"it ends {float(missing):.2f} s before the pictures, and silence has to follow it"
    return ""


@dataclass(frozen=True, slots=True)
class TrackSpan:
    """An audio track: title and language, empty where they are not known, and when its last frame
    ends on the file's clock, in seconds (None where the file does not say). ``is_empty``: it has
    no frame at all.
    """

    title: str
    language: str
    end: Fraction | None
    is_empty: bool


def track_spans(path: Path) -> list[TrackSpan]:
    """Of each audio track of a file; one pass over it, without decoding."""
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            streams = container.streams.audio
            ends: dict[int, Fraction | None] = {}
            for packet in container.demux(streams) if streams else ():
                if packet.size:
                    index = packet.stream.index
                    ends[index] = _later(ends.get(index), packet)
            return [
                TrackSpan(
                    stream.metadata.get("title", ""),
                    stream.metadata.get("language", ""),
                    ends.get(stream.index),
                    stream.index not in ends,
                )
                for stream in streams
            ]
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"expected a readable file at {path}, got: {error}") from error


def _later(end: Fraction | None, packet: Any) -> Fraction | None:
    if packet.pts is None:
        return end
    last: Fraction = (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base)
    return last if end is None else max(end, last)


def language_tag(language: str) -> str:
    """A file's language as players want it, BCP 47 with the shortest code (en for eng); empty where
    it is unknown or is no such tag.

    Files also say pt_BR and plain words. Pure.
    """
    tag = language.replace("_", "-")
    is_known = LANGUAGE.fullmatch(tag) and tag.lower() != _UNKNOWN_LANGUAGE
    return shortest_language(tag) if is_known else ""


def menu_name(title: str, position: int, taken: Sequence[str]) -> str:
    """What a menu can show: printable, of its own among those ``taken``. Pure."""
    plain = "".join(c for c in title if c.isprintable() and c != '"').strip()[:80]
    name = plain or f"Audio {position + 1}"
    numbered = (f"{name} ({number})" for number in count(position + 1))
    return next(free for free in chain([name], numbered) if free not in taken)


# --------------------------------------------------------------------------------------- fallback


def fallback_scale(width: int, height: int, max_height: int | None) -> Fraction:
    """The scale of the H.264 rung: the largest picture of at most 720 lines, or the smallest."""
    most = min(_FALLBACK_LINES, max_height or _FALLBACK_LINES)
    rising = sorted(SCALES)
    fitting = (s for s in rising if Geometry(width, height, s).coded_height <= most)
    return next(fitting, rising[-1])


def fallback_rung(
    source: PreparedSource, fps: Fraction, wanted: LadderSettings, work: LadderWork, ffmpeg: Ffmpeg
) -> Events[Path]:
    """The H.264 rung; coded again with a cap where its peak is above what was asked for."""
    path = work.path / "h264.mp4"
    if path.exists():
        return path
    layout = source.info.format
    # On the rungs' grid, whatever the header of a variable rate says.
    frames = segment_frames(fps, wanted.segment_seconds)
    scale = fallback_scale(layout.width, layout.height, wanted.max_height)
    settings = FallbackSettings(segment_frames=frames, scale=scale)
    trial = work.path / "h264-uncapped.mp4"
    with closing(encode_fallback(source, settings, trial, ffmpeg)) as events:
        yield from events
    peak, mean_kbps = peak_over_mean(trial)
    if peak > wanted.peak:
        buffer = frames / source.info.average_fps / 2
        kbps = cap_kbps(mean_kbps, wanted.peak)
        capped = replace(settings, max_kbps=kbps, buffer_seconds=buffer)
        with closing(encode_fallback(source, capped, trial, ffmpeg)) as events:
            yield from events
    trial.replace(path)
    return path


def peak_over_mean(stream: Path) -> tuple[float, float]:
    """The largest rate of a group of pictures over the mean of all, and that mean in kb/s.

    The last group may be short, and its rate says little: it counts where it is alone.
    """
    groups: list[list[int]] = []
    with open_video(stream) as (container, video):
        for packet in coded_packets(container, video):
            if packet.is_keyframe or not groups:
                groups.append([])
            groups[-1].append(packet.size)
        seconds = float((video.duration or 0) * Fraction(video.time_base or 0))
    total, count = sum(map(sum, groups)), sum(map(len, groups))
    if not count or seconds <= 0:
        raise InputError(f"expected coded pictures and their times in {stream}, got none")
    whole = groups[:-1] or groups
    rates = [sum(group) / len(group) for group in whole]
    return max(rates) / (total / count), total * 8 / seconds / 1000
