"""What a title costs: the stream's bytes and the weights' bytes over its duration.

:func:`total_rate` is the only place where rates are added up, so the weights are never forgotten.
kb/s are 1000 bits a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.video.stream import VideoStream

from codecaux.errors import InputError
from codecaux.hevc import coded_packets, open_video

__all__ = ["Rate", "amortised_weights_kbps", "total_rate"]


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes of the video packets (no audio, no container), of the weights file, and seconds."""

    stream_bytes: int
    weights_bytes: int
    duration_seconds: float

    @property
    def total_bytes(self) -> int:
        """Bytes of stream and weights together."""
        return self.stream_bytes + self.weights_bytes

    @property
    def stream_kbps(self) -> float:
        """Kilobits (1000) per second of the stream alone."""
        return _kbps(self.stream_bytes, self.duration_seconds)

    @property
    def weights_kbps(self) -> float:
        """The weights file spread over this title's own duration."""
        return _kbps(self.weights_bytes, self.duration_seconds)

    @property
    def total_kbps(self) -> float:
        """Kilobits (1000) per second of stream and weights together."""
        return _kbps(self.total_bytes, self.duration_seconds)


def total_rate(stream_path: Path, weights_path: Path | None = None) -> Rate:
    """The rate of a coded title with its weights (None: shown plain).

    ``stream_bytes`` counts the packets of the first video stream as the container holds them. The
    duration is from the first picture's pts to the end of the last one. InputError where a file
    cannot be read or holds no coded picture.
    """
    with open_video(stream_path) as (container, stream):
        stream_bytes = 0
        times = _Times()
        for packet in coded_packets(container, stream):
            stream_bytes += packet.size
            times.add(packet.pts, packet.duration)
        duration_seconds = _duration_seconds(times, stream)
    if not times.num_pictures or duration_seconds <= 0:
        raise InputError(
            f"expected coded pictures and their times in {stream_path}, got "
            f"{times.num_pictures} pictures: put the stream in an mp4 or mkv file"
        )
    return Rate(stream_bytes, _file_bytes(weights_path), duration_seconds)


def amortised_weights_kbps(rate: Rate, seconds: float) -> float:
    """The weights' kb/s as if the same scene lasted ``seconds``: not a rate of this title.

    Weights are sent once, however long their scene: short test clips overstate their share.
    """
    return _kbps(rate.weights_bytes, seconds)


class _Times:
    """Extent of the pts seen so far, in the stream's time base; packets come in coding order."""

    def __init__(self) -> None:
        self.num_pictures = 0
        self._first: int | None = None
        self._last: int | None = None
        self._last_duration = 0
        self._complete = True

    def add(self, pts: int | None, duration: int | None) -> None:
        self.num_pictures += 1
        if pts is None:
            self._complete = False
            return
        if self._first is None or pts < self._first:
            self._first = pts
        if self._last is None or pts > self._last:
            self._last, self._last_duration = pts, duration or 0

    def extent(self) -> int | None:
        """Ticks from the first picture to the last one's end; None where some lack a pts.

        A last picture without a duration lasts as long as the mean of the others.
        """
        if not self._complete or self._first is None or self._last is None:
            return None
        span = self._last - self._first
        if self._last_duration > 0:
            return span + self._last_duration
        return span + round(span / (self.num_pictures - 1)) if self.num_pictures > 1 else None


def _duration_seconds(times: _Times, stream: VideoStream) -> float:
    extent = times.extent()
    if extent is not None and stream.time_base is not None:
        return float(extent * stream.time_base)
    return float(times.num_pictures / rate) if (rate := _frame_rate(stream)) else 0.0


def _frame_rate(stream: VideoStream) -> Fraction | None:
    """For raw .hevc, whose pictures have no times: the rate its parameter sets give, if any.

    The average rate comes last: of a raw stream it is the demuxer's own default of 25.
    """
    rates: Iterable[Fraction | None] = (stream.guessed_rate, stream.base_rate, stream.average_rate)
    return next((rate for rate in rates if rate), None)


def _kbps(num_bytes: int, seconds: float) -> float:
    return num_bytes * 8 / seconds / 1000


def _file_bytes(path: Path | None) -> int:
    if path is None:
        return 0
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"expected a weights file at {path}, got: {error.strerror}") from error
