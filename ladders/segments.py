"""One track of a file -> CMAF segments in a folder: init.mp4, seg-00001.m4s, ...

Packets are copied, never coded again: the coded slices stay as they are, and so does the hash that
a weights file knows its stream by. ffmpeg's hls muxer cuts (sound is then cut again, where the
pictures are); what it wrote is measured, and its playlist thrown away.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import av

from codecaux.decoder.parts import join_parts
from codecaux.errors import InputError, ToolFailedError
from codecaux.ffmpeg import Ffmpeg, file_argument, run_ffmpeg
from codecaux.hevc import nal_type, open_video, split_nal_units
from codecaux.ladderindex import INIT_NAME, MAX_SEGMENTS, segment_name
from codecaux.ladders.fragments import recut_sound

__all__ = [
    "MAX_DELAY_SECONDS",
    "Segment",
    "Track",
    "average_rate",
    "cut_audio",
    "cut_video",
    "peak_rate",
    "read_track",
    "sound_delay_seconds",
    "start_seconds",
]

_PLAYLIST = "ffmpeg.m3u8"
_MOVFLAGS = "+frag_custom+dash+delay_moov+default_base_moof+cmaf+skip_sidx"
# Below any distance of two keyframes: every keyframe starts a segment.
_EVERY_KEYFRAME = "0.001"
# Seconds that ffmpeg holds in memory, of sound that is cut again.
_SOUND_PIECES = "60"
_PACKETS_LOOKED_AT = 64
# More than any encoder's delay, and less than anyone hears.
MAX_DELAY_SECONDS = Fraction(1, 10)
_IDR_TYPES = {"hevc": (19, 20), "h264": (5,)}


@dataclass(frozen=True, slots=True)
class Segment:
    """When it is shown, in ticks of its track, how many pictures (or audio frames), its bytes."""

    start: int
    duration: int
    num_frames: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Track:
    """A track in segments. ``ticks_per_second`` is its timescale."""

    ticks_per_second: int
    segments: tuple[Segment, ...]

    @property
    def num_frames(self) -> int:
        """Frames of all segments."""
        return sum(segment.num_frames for segment in self.segments)

    @property
    def segment_bytes(self) -> int:
        """All segments, their own container bytes included; not init.mp4."""
        return sum(segment.bytes for segment in self.segments)

    @property
    def seconds(self) -> tuple[Fraction, ...]:
        """How long each segment lasts."""
        return tuple(Fraction(s.duration, self.ticks_per_second) for s in self.segments)

    @property
    def duration_seconds(self) -> Fraction:
        """Seconds of all segments together, exact."""
        return sum(self.seconds, Fraction(0))

    @property
    def starts_seconds(self) -> tuple[Fraction, ...]:
        """Where each segment starts, in seconds, exact."""
        return tuple(Fraction(s.start, self.ticks_per_second) for s in self.segments)


def average_rate(track: Track) -> int:
    """AVERAGE-BANDWIDTH: all segments' bits over all their time, bits a second rounded up."""
    return _rate(track.segment_bytes, track.duration_seconds)


def peak_rate(track: Track, target_seconds: int) -> int:
    """BANDWIDTH: the largest bit rate of any run of segments that lasts 0.5 to 1.5 times
    ``target_seconds`` (RFC 8216, 4.1), bits a second rounded up.

    Never less than the average: a title shorter than half a target duration has no such run.
    """
    shortest, longest = Fraction(target_seconds, 2), Fraction(3 * target_seconds, 2)
    seconds = track.seconds
    peak = average_rate(track)
    for first in range(len(seconds)):
        passed, size = Fraction(0), 0
        for index in range(first, len(seconds)):
            passed += seconds[index]
            size += track.segments[index].bytes
            if passed > longest:
                break
            if passed >= shortest:
                peak = max(peak, _rate(size, passed))
    return peak


def _rate(num_bytes: int, seconds: Fraction) -> int:
    return -(-8 * num_bytes * seconds.denominator // seconds.numerator)


# ---------------------------------------------------------------------------------------- cutting


def start_seconds(path: Path) -> Fraction:
    """When the first picture of a file is shown; 0 where it has none (a file of sound alone)."""
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            if not container.streams.video:
                return Fraction(0)
        with open_video(path) as (container, stream):
            return _first_seconds(container, stream) or Fraction(0)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"expected a readable file at {path}, got: {error}") from error


def sound_delay_seconds(path: Path, position: int) -> Fraction:
    """How long after the first picture of a file audio stream ``position``, which must be there,
    begins; below 0 where it begins before it.
    """
    pictures = start_seconds(path)
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            sound = _first_seconds(container, container.streams.audio[position])
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"expected readable sound at {path}, got: {error}") from error
    return Fraction(0) if sound is None else sound - pictures


def _first_seconds(container: Any, stream: Any) -> Fraction | None:
    packets = islice(container.demux(stream), _PACKETS_LOOKED_AT)
    times = [packet.pts for packet in packets if packet.size and packet.pts is not None]
    return min(times) * Fraction(stream.time_base or 1) if times else None


def cut_video(source: Path, folder: Path, shift_seconds: Fraction, ffmpeg: Ffmpeg) -> None:
    """A segment from each keyframe of the first video stream of ``source`` to the next.

    ``shift_seconds`` is taken off every timestamp. ``folder`` must exist and be empty.
    """
    _cut(source, "V:0", _EVERY_KEYFRAME, folder, shift_seconds, ffmpeg)


def cut_audio(
    source: Path,
    position: int,
    folder: Path,
    pictures: Track,
    shift_seconds: Fraction,
    ffmpeg: Ffmpeg,
) -> Fraction:
    """Audio stream ``position`` in segments that go with those of ``pictures``: each begins with
    the first frame of sound at or after its border. Sound long before the first picture and all
    that begins after the last one is left out; returns how many seconds of the latter.

    InputError where it begins more than ``MAX_DELAY_SECONDS`` after the first picture, for packets
    can be left out and not made up, and where there is no sound.
    """
    delay = sound_delay_seconds(source, position)
    if delay > MAX_DELAY_SECONDS:
        raise InputError(
            f"expected sound from the first picture on in audio track {position + 1} of {source}, "
            f"got it {float(delay):.2f} s later; convert the track to AAC with silence before it"
        )
    from_zero = ("-ss", "0", "-copypriorss", "0") if delay < -MAX_DELAY_SECONDS else ()
    _cut(source, f"a:{position}", _SOUND_PIECES, folder, shift_seconds, ffmpeg, from_zero)
    files = list(_segment_files(folder))
    borders, end = pictures.starts_seconds, pictures.duration_seconds
    left_out = recut_sound(folder, files, borders, end)
    if not (folder / segment_name(1)).is_file():
        raise InputError(
            f"expected sound with the pictures in audio track {position + 1} of {source}, got "
            "none; leave the track out"
        )
    return left_out


def _cut(
    source: Path,
    specifier: str,
    length: str,
    folder: Path,
    shift: Fraction,
    ffmpeg: Ffmpeg,
    options: Sequence[str] = (),
) -> None:
    arguments = ["-v", "warning", "-copyts", "-itsoffset", f"{-float(shift):.6f}"]
    arguments += ["-i", file_argument(source.resolve()), "-map", f"0:{specifier}", "-c", "copy"]
    arguments += options
    arguments += ["-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact"]
    if specifier.startswith("V") and _is_hevc(source):
        arguments += ["-tag:v", "hvc1"]
    arguments += ["-avoid_negative_ts", "disabled", "-f", "hls", "-hls_time", length]
    arguments += ["-hls_playlist_type", "vod", "-hls_list_size", "0", "-start_number", "1"]
    arguments += ["-hls_segment_type", "fmp4", "-hls_fmp4_init_filename", INIT_NAME]
    arguments += ["-hls_segment_options", f"movflags={_MOVFLAGS}"]
    # Names relative to the folder: a % in its path is no number of a segment.
    arguments += ["-hls_segment_filename", "seg-%05d.m4s", _PLAYLIST]
    tail = run_ffmpeg(ffmpeg, arguments, cwd=folder)
    (folder / _PLAYLIST).unlink(missing_ok=True)
    if not (folder / INIT_NAME).is_file() or not (folder / segment_name(1)).is_file():
        raise ToolFailedError(
            f"ffmpeg wrote no segments of {source}", command=arguments, stderr_tail=tail
        )


def _is_hevc(source: Path) -> bool:
    with open_video(source) as (_, stream):
        return stream.codec_context.name == "hevc"


def _segment_files(folder: Path) -> Iterator[Path]:
    for number in range(1, MAX_SEGMENTS + 1):
        path = folder / segment_name(number)
        if not path.is_file():
            return
        yield path


# --------------------------------------------------------------------------------------- measuring


@dataclass(slots=True)
class _Tally:
    """What is seen of one segment's packets, which come in decoding order."""

    first_pts: int | None = None
    earliest: int = 0
    end: int = 0
    num_frames: int = 0
    starts_with_idr: bool = False


def read_track(folder: Path, kind: Literal["video", "audio"], joined: Path) -> Track:
    """Measure what lies in ``folder``; ``joined`` is left behind: the track in one file.

    InputError where a segment of a video does not begin with an IDR picture, or a picture is shown
    before the segment that it is stored in begins, which is what players switch rungs by; and where
    a track lasts no time at all.
    """
    files = list(_segment_files(folder))
    join_parts((folder / INIT_NAME, *files), joined)
    sizes = [path.stat().st_size for path in files]
    ends, position = [], (folder / INIT_NAME).stat().st_size
    for size in sizes:
        position += size
        ends.append(position)
    with av.open(f"file:{joined}") as container:
        stream: Any = container.streams.video[0] if kind == "video" else container.streams.audio[0]
        tallies = _tally(container, stream, ends)
        ticks_per_second = int(1 / Fraction(stream.time_base))
    if kind == "video":
        _check_closed(tallies, joined)
    # Nothing is heard before 0: what is there is the encoder's delay.
    starts = [max(0, tally.earliest) for tally in tallies]
    if tallies[-1].end <= starts[0]:
        raise InputError(
            f"expected a {kind} track that lasts some time in {joined.name}, got one of 0 s; leave "
            "the track out, or write its file anew"
        )
    borders = [*starts[1:], tallies[-1].end]
    return Track(
        ticks_per_second,
        tuple(
            Segment(start, border - start, tally.num_frames, size)
            for start, border, tally, size in zip(starts, borders, tallies, sizes, strict=True)
        ),
    )


def _tally(container: Any, stream: Any, ends: Sequence[int]) -> list[_Tally]:
    tallies = [_Tally() for _ in ends]
    codec = stream.codec_context.name
    for packet in container.demux(stream):
        if not packet.size:
            continue
        tally = tallies[bisect_right(ends, packet.pos)]
        pts, duration = packet.pts, packet.duration or 0
        if tally.first_pts is None:
            tally.first_pts = tally.earliest = pts
            tally.starts_with_idr = codec in _IDR_TYPES and _is_idr(bytes(packet), codec)
        tally.earliest = min(tally.earliest, pts)
        tally.end = max(tally.end, pts + duration)
        tally.num_frames += 1
    return tallies


def _is_idr(packet: bytes, codec: str) -> bool:
    """Whether the first coded slice of a packet (4-byte lengths, as in every mp4 of ours) is of an
    IDR picture.
    """
    for unit in split_nal_units(packet, 4):
        kind = nal_type(unit) if codec == "hevc" else unit[0] & 0x1F
        if kind <= 31 if codec == "hevc" else 1 <= kind <= 5:
            return kind in _IDR_TYPES[codec]
    return False


def _check_closed(tallies: Sequence[_Tally], source: Path) -> None:
    for index, tally in enumerate(tallies):
        following = tallies[index + 1].first_pts if index + 1 < len(tallies) else None
        is_closed = tally.first_pts == tally.earliest and (
            following is None or tally.end <= following
        )
        if not tally.starts_with_idr or not is_closed:
            raise InputError(
                f"expected closed groups of pictures, each from an IDR picture, got another one in "
                f"segment {index + 1} of {source.name}; encode the rung with the ladder's own "
                "x265 parameters"
            )
