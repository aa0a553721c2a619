"""One decoding pass over a source: how many pictures it really has, when they are shown, and
whether the file is whole."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error
import numpy as np
import numpy.typing as npt

from codecaux.encoder.y4m import check_y4m_file
from codecaux.errors import InputError
from codecaux.events import Events, Progress
from codecaux.probe import VideoInput, open_video
from codecaux.video import ClipInfo

__all__ = ["Scan", "fingerprint", "quick_fingerprint", "scan"]

_REPORT_EVERY = 50
# A header may count a frame or two that players never show; a cut file lacks far more.
_TOLERATED_SHARE = 0.02
_TOLERATED_FRAMES = 2
_SAMPLE_BYTES = 1 << 20
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG


@dataclass(frozen=True, eq=False)
class Scan:
    """What decoding everything showed. ``pts`` [num_frames] counts the clip's time_base; without
    ``has_timestamps`` it is 0, 1, 2, ... ``last_duration`` counts time_base too."""

    pts: npt.NDArray[np.int64]
    last_duration: int
    has_timestamps: bool

    @property
    def num_frames(self) -> int:
        """Frames that were decoded."""
        return len(self.pts)


def scan(info: ClipInfo, *, stage: str = "check") -> Events[Scan]:
    """Decode every picture of ``info.path`` (nothing is kept but its timestamp).

    Raises InputError: no frames; a decoding error; fewer frames than the header claims
    (truncated); a change of size, pixel format or range; timestamps that repeat or run backwards.
    """
    tally = _Tally()
    with open_video(info.path) as source:
        for picture in _pictures(source, info, tally):
            tally.add(picture, info)
            if tally.num_frames % _REPORT_EVERY == 0:
                yield Progress(stage, tally.num_frames, info.num_frames_from_header)
        if tally.num_frames == 0:
            raise InputError(
                f"expected a video, got {info.path}, in which no frame decodes; check that it plays"
            )
        _check_whole(source, info, tally)
        if source.container.format.name == "avi":
            tally.forget_decoding_order()
    result = tally.result(info)
    _check_timestamps(result.pts, info)
    return result


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's content. Renaming or touching a file does not change it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quick_fingerprint(path: Path) -> str:
    """Of a file that nobody edits, because we wrote it: SHA-256 of its size and its first, middle
    and last MiB."""
    size_bytes = path.stat().st_size
    digest = hashlib.sha256(size_bytes.to_bytes(8, "little"))
    with path.open("rb") as file:
        for start in (0, size_bytes // 2, max(0, size_bytes - _SAMPLE_BYTES)):
            file.seek(start, os.SEEK_SET)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


@dataclass
class _Tally:
    pts: array[int] = field(default_factory=lambda: array("q"))
    num_packets: int = 0
    has_cut_packet: bool = False
    has_timestamps: bool = True
    last_duration: int = 0
    layout: str = ""  # of the first picture, in words

    @property
    def num_frames(self) -> int:
        return len(self.pts)

    def add(self, picture: Any, info: ClipInfo) -> None:
        index = self.num_frames
        if index == 0:
            self.has_timestamps = picture.pts is not None
        elif self.has_timestamps != (picture.pts is not None):
            raise InputError(
                f"expected all frames of {info.path} to have a timestamp or none, got a change at "
                f"frame {index}; remux the file (ffmpeg -fflags +genpts -i in -c copy out)"
            )
        self.pts.append(picture.pts if self.has_timestamps else index)
        self.last_duration = int(picture.duration or 0)

    def forget_decoding_order(self) -> None:
        """AVI has but one time for a packet, that of decoding: where pictures are shown in another
        order than they are coded, their times are those, mixed up. At a constant rate nothing is
        lost with them.
        """
        pts = np.asarray(self.pts, np.int64)
        is_mixed_up = self.has_timestamps and bool((np.diff(pts) <= 0).any())
        if is_mixed_up and bool((np.diff(np.sort(pts)) == 1).all()):
            self.has_timestamps = False
            self.pts = array("q", range(len(pts)))

    def result(self, info: ClipInfo) -> Scan:
        pts = np.asarray(self.pts, np.int64)
        duration = self.last_duration if self.has_timestamps else 1
        if duration <= 0:
            duration = max(1, round(1 / (info.average_fps * info.time_base)))
        return Scan(pts, duration, self.has_timestamps)


def _pictures(source: VideoInput, info: ClipInfo, tally: _Tally) -> Iterator[Any]:
    try:
        for packet in source.container.demux(source.stream):
            tally.num_packets += packet.size > 0
            tally.has_cut_packet |= packet.is_corrupt
            for picture in packet.decode():
                if picture.is_corrupt:
                    raise _cut(info, tally, "the decoder says the next one is corrupt")
                _check_same(picture, tally, info)
                yield picture
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _cut(info, tally, f"decoding the next one fails ({reason})") from error


def _check_same(picture: Any, tally: _Tally, info: ClipInfo) -> None:
    expected, got = (info.format.width, info.format.height), (picture.width, picture.height)
    if got != expected:
        raise InputError(
            f"expected every frame of {info.path} to be {expected[0]}x{expected[1]}, got "
            f"{got[0]}x{got[1]} at frame {tally.num_frames}; split the file where its size changes"
        )
    layout = _describe_layout(picture)
    tally.layout = tally.layout or layout
    if layout != tally.layout:
        raise InputError(
            f"expected every frame of {info.path} to be {tally.layout}, got {layout} at frame "
            f"{tally.num_frames}, and no stream can have both; split the file where it changes, or "
            "convert it to one (ffmpeg -i in -vf scale=out_range=limited,format=yuv420p "
            "-c:v ffv1 -c:a copy out.mkv)"
        )


def _describe_layout(picture: Any) -> str:
    name = str(picture.format.name)
    is_full = name.startswith("yuvj") or picture.color_range == _FULL_RANGE
    return f"{name} of {'full' if is_full else 'limited'} range"


def _check_whole(source: VideoInput, info: ClipInfo, tally: _Tally) -> None:
    if tally.has_cut_packet:
        raise _cut(info, tally, "the file ends in the middle of one")
    if source.container.format.name == "yuv4mpegpipe":
        check_y4m_file(info)
    expected = info.num_frames_from_header
    if expected is None:
        _check_duration(source, info, tally)
        return
    # Packets, not pictures: an edit list hides pictures on purpose.
    missing = expected - tally.num_packets
    if missing > max(_TOLERATED_FRAMES, _TOLERATED_SHARE * expected):
        raise _cut(info, tally, f"the header promises {expected}")


def _check_duration(source: VideoInput, info: ClipInfo, tally: _Tally) -> None:
    promised_seconds = _stream_duration_seconds(source)
    if promised_seconds is None or not tally.has_timestamps:
        return
    end = (tally.pts[-1] + tally.last_duration) * info.time_base
    missing_seconds = promised_seconds - float(end)
    tolerated = max(_TOLERATED_SHARE * promised_seconds, 3 / float(info.average_fps))
    if missing_seconds > max(tolerated, 0.1):
        raise _cut(
            info,
            tally,
            f"they end at {float(end):.2f} s, the header promises {promised_seconds:.2f} s",
        )


def _stream_duration_seconds(source: VideoInput) -> float | None:
    """The video stream's own promise: Matroska's tag, else the stream's, else the file's where
    nothing but the video can have set it."""
    tag = source.stream.metadata.get("DURATION", "")
    parts = tag.strip("\x00").split(":")
    if len(parts) == 3:
        try:
            return int(parts[0]) * 3600 + int(parts[1]) * 60 + float(parts[2])
        except ValueError:
            return None
    if source.stream.duration:
        start = source.stream.start_time or 0
        return float((source.stream.duration + start) * Fraction(source.stream.time_base))
    if len(source.container.streams) == 1 and source.container.duration:
        start_us = source.container.start_time or 0
        return float(Fraction(source.container.duration + start_us, av.time_base))
    return None


def _check_timestamps(pts: npt.NDArray[np.int64], info: ClipInfo) -> None:
    # Repairing them would mean to guess when a picture is shown; the user can, we do not.
    wrong = np.flatnonzero(np.diff(pts) <= 0)
    if wrong.size:
        index = int(wrong[0]) + 1
        raise InputError(
            f"expected timestamps that rise, got {int(pts[index])} after {int(pts[index - 1])} at "
            f"frame {index} of {info.path} ({wrong.size} such frames); re-time the file first, for "
            "example with ffmpeg's setpts filter, or remux it from its origin"
        )


def _cut(info: ClipInfo, tally: _Tally, what: str) -> InputError:
    return InputError(
        f"{info.path} is truncated or damaged: got {tally.num_frames} whole frames, and {what}; "
        "fetch or export the file again (to use the part that is there, remux it: "
        "ffmpeg -i in -c copy out.mkv)"
    )
