"""Where pictures go: a file, or our standard output. (A window: ``codecaux.decoder.window``.)"""

from __future__ import annotations

import errno
import os
import select
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from codecaux.atomic import atomic_path
from codecaux.decoder.muxing import (
    ENCODERS,
    NutFeed,
    OutputCodec,
    VideoCodec,
    file_arguments,
    pipe_arguments,
)
from codecaux.decoder.nut import frame_bytes
from codecaux.decoder.pipeline import OutputFormat, Sink, SinkStopped
from codecaux.errors import InputError, ToolFailedError, UsageError
from codecaux.ffmpeg import find_ffmpeg
from codecaux.video import Frame, VideoFormat

__all__ = [
    "DEFAULT_CRF",
    "FileSink",
    "NutSink",
    "StdoutFormat",
    "Y4mSink",
    "choose_codec",
    "even_format",
    "pad_to_even",
    "stdout_sink",
    "y4m_header",
]

StdoutFormat = Literal["y4m", "nut"]
# Visually lossless: what a viewer compares is the network, not this encode.
DEFAULT_CRF: dict[VideoCodec, float] = {"ffv1": 0.0, "x264": 14.0, "x265": 14.0}
_STDOUT = 1
_PATIENCE_SECONDS = 0.2  # for a reader, before looking whether we are aborted


def choose_codec(target: Path, codec: str | None, crf: float | None) -> OutputCodec:
    """The codec for a file: ffv1 for .mkv and x264 for .mp4 unless ``codec`` says otherwise.

    UsageError: another suffix, an unknown codec, ffv1 in mp4, crf out of 0..51 or with ffv1.
    """
    suffix = target.suffix.lower()
    if suffix not in (".mkv", ".mp4"):
        raise UsageError(
            f"expected an output ending in .mkv or .mp4 (or - for standard output), got {target}"
        )
    name = codec or ("ffv1" if suffix == ".mkv" else "x264")
    if name not in ENCODERS:
        raise UsageError(f"expected --codec of {', '.join(ENCODERS)}, got {name!r}")
    if name == "ffv1" and suffix == ".mp4":
        raise UsageError(
            "expected --codec x264 or x265 for an .mp4, got ffv1, which players do not read from "
            "mp4; choose one of them, or an output ending in .mkv"
        )
    if name == "ffv1" and crf is not None:
        raise UsageError("expected --crf only with --codec x264 or x265: ffv1 is lossless")
    if crf is not None and not 0 <= crf <= 51:
        raise UsageError(f"expected a --crf of 0 to 51, got {crf}")
    return OutputCodec(name, DEFAULT_CRF[name] if crf is None else crf)


def even_format(video_format: VideoFormat) -> VideoFormat:
    """The size that x264 and x265 take for 4:2:0: even, at most one pixel larger each way."""
    width, height = (size + size % 2 for size in (video_format.width, video_format.height))
    return replace(video_format, width=width, height=height)


def pad_to_even(frame: Frame) -> Frame:
    """Repeat the last luma column and row where the size is odd; chroma already has the size."""
    height, width = frame.y.shape
    if height % 2 == 0 and width % 2 == 0:
        return frame
    padded = np.pad(frame.y, ((0, height % 2), (0, width % 2)), mode="edge")
    return replace(frame, y=padded)


class FileSink:
    """``out.mkv`` or ``out.mp4``, whole or not at all, with the stream's audio and subtitles."""

    def __init__(self, target: Path, stream: Path, codec: OutputCodec) -> None:
        self._target = target
        self._stream = stream
        self._codec = codec
        self._lock = threading.Lock()
        self._feed: NutFeed | None = None
        self._pending: AbstractContextManager[Path] | None = None

    def open(self, output: OutputFormat) -> None:
        ffmpeg = find_ffmpeg(require_encoders=(self._codec.encoder,), require_filters=())
        if self._codec.name != "ffv1":
            output = replace(output, format=even_format(output.format))
        self._pending = atomic_path(self._target)
        temporary = self._pending.__enter__()
        self._feed = NutFeed(
            ffmpeg,
            output,
            lambda shift: file_arguments(output, self._codec, self._stream, temporary, shift),
        )

    def write(self, frame: Frame) -> None:
        assert self._feed is not None
        self._feed.write(frame if self._codec.name == "ffv1" else pad_to_even(frame))

    def close(self) -> None:
        assert self._feed is not None
        self._feed.close()
        with self._lock:
            pending, self._pending = self._pending, None
            if pending is not None:
                pending.__exit__(None, None, None)

    def abort(self) -> None:
        if self._feed is not None:
            self._feed.kill()
        with self._lock:
            pending, self._pending = self._pending, None
            if pending is not None:
                stopped = SinkStopped()
                pending.__exit__(SinkStopped, stopped, None)


class NutSink:
    """NUT on a file descriptor: raw pictures, audio copied, original timestamps."""

    def __init__(self, stream: Path, descriptor: int = _STDOUT) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._feed: NutFeed | None = None

    def open(self, output: OutputFormat) -> None:
        self._feed = NutFeed(
            find_ffmpeg(require_encoders=(), require_filters=()),
            output,
            lambda shift: pipe_arguments(output, self._stream, shift),
            stdout=self._descriptor,
        )

    def write(self, frame: Frame) -> None:
        assert self._feed is not None
        try:
            self._feed.write(frame)
        except ToolFailedError as error:
            raise _stopped_or(error) from error

    def close(self) -> None:
        assert self._feed is not None
        try:
            self._feed.close()
        except ToolFailedError as error:
            raise _stopped_or(error) from error

    def abort(self) -> None:
        if self._feed is not None:
            self._feed.kill()


def _stopped_or(error: ToolFailedError) -> Exception:
    """A reader that went away (``| head``) is no failure of ffmpeg's."""
    return SinkStopped() if "Broken pipe" in error.stderr_tail else error


class Y4mSink:
    """YUV4MPEG2 on a file descriptor; constant frame rate only, no audio."""

    def __init__(self, descriptor: int = _STDOUT) -> None:
        self._descriptor = descriptor
        self._header = b""
        self._is_aborted = False

    def open(self, output: OutputFormat) -> None:
        self._header = y4m_header(output)

    def write(self, frame: Frame) -> None:
        data = self._header + b"FRAME\n" + frame_bytes(frame)
        self._header = b""
        view = memoryview(data)
        while view:
            if self._is_aborted:
                raise SinkStopped
            view = view[self._write_some(view) :]

    def close(self) -> None:
        if self._header:
            raise InputError("expected at least one picture in the stream, got none")

    def abort(self) -> None:
        self._is_aborted = True

    def _write_some(self, view: memoryview) -> int:
        # Straight to the descriptor: nothing is left in a buffer that exit would have to flush.
        try:
            return os.write(self._descriptor, view)
        except BlockingIOError:
            # Whoever made our stdout did not want writes to wait: then we do.
            select.select([], [self._descriptor], [], _PATIENCE_SECONDS)
            return 0
        except BrokenPipeError as error:
            raise SinkStopped from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise InputError("the disk is full: standard output was not written") from error
            raise InputError(
                f"expected to write to standard output, got: {error.strerror}"
            ) from error


def y4m_header(output: OutputFormat) -> bytes:
    """The stream header; UsageError where the frame rate varies, which Y4M cannot say."""
    fps = output.constant_fps
    if fps is None:
        raise UsageError(
            "expected a constant frame rate for y4m, got one that varies; choose --format nut, "
            "which keeps every timestamp"
        )
    colour, ratio = output.format.colour, output.sample_aspect_ratio
    # The format has no tag for the siting of 10-bit chroma.
    chroma = {"left": "420mpeg2", "center": "420jpeg", "topleft": "420paldv"}
    tag = chroma[colour.chroma_location] if output.format.bit_depth == 8 else "420p10"
    words = (
        "YUV4MPEG2",
        f"W{output.format.width}",
        f"H{output.format.height}",
        f"F{fps.numerator}:{fps.denominator}",
        "Ip",
        f"A{ratio.numerator}:{ratio.denominator}",
        f"C{tag}",
        f"XCOLORRANGE={'FULL' if colour.full_range else 'LIMITED'}",
    )
    return " ".join(words).encode("ascii") + b"\n"


def stdout_sink(kind: StdoutFormat, stream: Path, descriptor: int = _STDOUT) -> Sink:
    """The sink for ``-o -``."""
    return Y4mSink(descriptor) if kind == "y4m" else NutSink(stream, descriptor)
