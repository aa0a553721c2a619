"""Raw pictures with their own timestamps, as NUT: the container that ffmpeg reads from a pipe.

Raw video alone (``-f rawvideo``) has no timestamps, and Y4M only a constant rate.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np

from codecaux.video import Frame, SampleArray, VideoFormat

__all__ = ["NutMuxer", "frame_bytes"]

# PyAV gives `add_stream` a nominal rate; NUT stores none and the pts say everything.
_NOMINAL_FPS = 25
# Chunks that leave the muxer are pictures, not 32 kB pieces of them.
_HEADROOM_BYTES = 4096


def frame_bytes(frame: Frame) -> bytes:
    """The planes one after the other, each sample one byte, or two in little-endian order."""
    return b"".join(_plane_bytes(plane) for plane in frame.planes)


def _plane_bytes(plane: SampleArray) -> bytes:
    if plane.dtype.itemsize > 1 and sys.byteorder == "big":
        plane = plane.byteswap()
    return np.ascontiguousarray(plane).tobytes()


class NutMuxer:
    """Frames in, NUT out, a piece at a time to ``write``.

    Timestamps are kept as they are, plus ``shift_ticks`` (NUT knows no negative ones). Where a
    broken file repeats a timestamp or goes back in time, the frame comes one tick after the last.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        video_format: VideoFormat,
        time_base: Fraction,
        shift_ticks: int = 0,
    ) -> None:
        self._write = write
        self._format = video_format
        self._time_base = time_base
        self._shift_ticks = shift_ticks
        self._last_pts = -1
        self._chunks = _Chunks()
        self._container = av.open(
            self._chunks,
            "w",
            format="nut",
            options={"flush_packets": "1"},
            buffer_size=video_format.frame_bytes + _HEADROOM_BYTES,
        )
        self._stream = self._container.add_stream("rawvideo", rate=_NOMINAL_FPS)
        self._stream.width = video_format.width
        self._stream.height = video_format.height
        self._stream.pix_fmt = video_format.pixel_format
        self._stream.time_base = time_base
        self._stream.codec_context.time_base = time_base

    def write(self, frame: Frame) -> None:
        """One picture; whatever ``write`` raises is raised here."""
        assert frame.y.shape == (self._format.height, self._format.width)
        assert frame.y.dtype == self._format.dtype
        packet = av.Packet(frame_bytes(frame))
        self._last_pts = max(frame.pts + self._shift_ticks, self._last_pts + 1)
        packet.pts = packet.dts = self._last_pts
        packet.time_base = self._time_base
        packet.stream = self._stream
        packet.is_keyframe = True
        self._container.mux_one(packet)
        self._pass_on()

    def close(self) -> None:
        """Write what ends the stream. Not after a ``write`` that failed: just let go then."""
        self._container.close()
        self._pass_on()

    def _pass_on(self) -> None:
        for chunk in self._chunks.take():
            self._write(chunk)


class _Chunks:
    """A file for PyAV that only keeps what is written, so that pipe errors stay ours."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def take(self) -> list[bytes]:
        chunks, self._chunks = self._chunks, []
        return chunks
