"""What ffmpeg is told when it takes our pictures and the stream's own audio to a file or pipe.

Pictures come as NUT on stdin (input 0); audio, subtitles, chapters and tags come from the stream
file itself (input 1) and are copied. ``-copyts`` keeps both on the stream's own clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Literal

import av
import ffmpeg as ffmpeg_python

from codecaux.decoder.nut import NutMuxer
from codecaux.decoder.pipeline import OutputFormat, SinkStopped
from codecaux.errors import CodecauxError, InputError
from codecaux.ffmpeg import Ffmpeg, FfmpegFeed, file_argument
from codecaux.video import Colour, Frame

__all__ = [
    "ENCODERS",
    "NutFeed",
    "OutputCodec",
    "VideoCodec",
    "colour_filter",
    "file_arguments",
    "pipe_arguments",
    "subtitle_codecs",
    "subtitle_names",
]

VideoCodec = Literal["ffv1", "x264", "x265"]
ENCODERS: dict[VideoCodec, str] = {"ffv1": "ffv1", "x264": "libx264", "x265": "libx265"}
_MATRIX_CODES = {"bt601": 6, "bt709": 1, "bt2020": 9}
_TEXT_SUBTITLES = frozenset({"mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text"})
_PIPE_INTERLEAVE_MICROSECONDS = 200_000


@dataclass(frozen=True, slots=True)
class OutputCodec:
    """How pictures are coded in a file. ``crf`` is not used by ffv1, which is lossless."""

    name: VideoCodec
    crf: float

    @property
    def encoder(self) -> str:
        """Name of ffmpeg's encoder."""
        return ENCODERS[self.name]


def file_arguments(
    output: OutputFormat, codec: OutputCodec, stream: Path, target: Path, shift_ticks: int
) -> list[str]:
    """Arguments that make ``target`` (.mkv or .mp4) out of NUT on stdin and ``stream``."""
    is_mp4 = target.suffix.lower() == ".mp4"
    video, source = _inputs(output, stream, shift_ticks)
    streams = [video["v:0"], source["a?"]]
    options: dict[str, Any] = _picture_options(output) | _codec_options(codec, is_mp4=is_mp4)
    options |= {"c:a": "copy", "map_metadata": 1, "map_chapters": 1}
    if shift_ticks:
        # Pictures before time 0 are shown all the same: move everything, sound included.
        options["avoid_negative_ts"] = "make_non_negative"
    kept = 0
    for index, name in enumerate(subtitle_codecs(subtitle_names(stream), is_mp4=is_mp4)):
        if name is not None:
            streams.append(source[f"s:{index}"])
            options[f"c:s:{kept}"] = name
            kept += 1
    if is_mp4:
        # The stream's own clock: every pts is a whole number of ticks of it, and so is the time
        # before the first one (which mp4 counts in the movie's ticks).
        ticks = output.time_base.denominator
        options |= {"video_track_timescale": ticks, "movie_timescale": ticks}
        options |= {"movflags": "+faststart"}
    return _compile(streams, file_argument(target), options)


def pipe_arguments(output: OutputFormat, stream: Path, shift_ticks: int) -> list[str]:
    """Arguments that write NUT to stdout: raw pictures, audio copied, original timestamps."""
    video, source = _inputs(output, stream, shift_ticks)
    options = _picture_options(output) | {
        "c:v": "rawvideo",
        "c:a": "copy",
        "f": "nut",
        # NUT knows no time before 0: without this, the encoder delay that AAC starts with (23 ms
        # before 0, never heard) would move the pictures.
        "bsf:a": "noise=drop='lt(pts,0)'",
        # Audio that ends early must not make the muxer hold ten seconds of raw pictures.
        "max_interleave_delta": _PIPE_INTERLEAVE_MICROSECONDS,
        "flush_packets": 1,
    }
    return _compile([video["v:0"], source["a?"]], "pipe:1", options)


def colour_filter(colour: Colour, sample_aspect_ratio: Fraction) -> str:
    """Filters that tag pictures and change none.

    The matrix is always given: a player that guesses it from the size would see another size now.
    """
    matrix = colour.matrix_code if colour.matrix_code != 2 else _MATRIX_CODES[colour.matrix]
    tags = {
        "range": 2 if colour.full_range else 1,
        "color_primaries": colour.primaries,
        "color_trc": colour.transfer,
        "colorspace": matrix,
    }
    joined = ":".join(f"{key}={value}" for key, value in tags.items())
    ratio = f"{sample_aspect_ratio.numerator}/{sample_aspect_ratio.denominator}"
    return f"setparams={joined},setsar=sar={ratio}:max=65535"


def subtitle_names(stream: Path) -> list[str]:
    """ffmpeg's codec name of each subtitle stream of a file ("" where it is not known)."""
    try:
        with av.open(f"file:{stream}", metadata_errors="replace") as container:
            contexts = [s.codec_context for s in container.streams.subtitles]
            return [context.name if context is not None else "" for context in contexts]
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"expected a readable video at {stream}, got: {error}") from error


def subtitle_codecs(names: Sequence[str], *, is_mp4: bool) -> list[str | None]:
    """What each subtitle stream is coded as in the output; None where it cannot be carried."""
    return [_subtitle_codec(name, is_mp4=is_mp4) for name in names]


def _subtitle_codec(name: str, *, is_mp4: bool) -> str | None:
    if is_mp4:
        if name == "mov_text":
            return "copy"
        return "mov_text" if name in _TEXT_SUBTITLES else None
    if name == "mov_text":
        return "srt"
    return "copy" if name else None


def _inputs(output: OutputFormat, stream: Path, shift_ticks: int) -> tuple[Any, Any]:
    options: dict[str, Any] = {"f": "nut"}
    if shift_ticks:
        options["itsoffset"] = f"{float(-shift_ticks * output.time_base):.6f}"
    if output.rotation_degrees:
        options |= {"display_rotation:v:0": output.rotation_degrees, "noautorotate": None}
    video = ffmpeg_python.input("pipe:0", **options)
    return video, ffmpeg_python.input(file_argument(stream))


def _picture_options(output: OutputFormat) -> dict[str, Any]:
    colour = output.format.colour
    return {
        "vf": colour_filter(colour, output.sample_aspect_ratio),
        "fps_mode": "passthrough",
        "enc_time_base": "demux",
        "pix_fmt": output.format.pixel_format,
        "chroma_sample_location": colour.chroma_location,
        # Without it ffmpeg converts full range to limited for encoders that list only the latter
        # (ffv1), and lossless would not be.
        "color_range": "pc" if colour.full_range else "tv",
    }


def _codec_options(codec: OutputCodec, *, is_mp4: bool) -> dict[str, Any]:
    if codec.name == "ffv1":
        return {"c:v": "ffv1", "level": 3, "g": 1, "slicecrc": 1}
    options: dict[str, Any] = {"c:v": codec.encoder, "crf": codec.crf, "preset": "medium"}
    if codec.name == "x265":
        options["x265-params"] = "log-level=error"
        if is_mp4:
            options["tag:v"] = "hvc1"
    return options


def _compile(streams: Sequence[Any], target: str, options: dict[str, Any]) -> list[str]:
    arguments = ffmpeg_python.output(*streams, target, **options).get_args()
    return ["-v", "warning", "-copyts", "-y", *arguments]


class NutFeed:
    """An ffmpeg that is started by the first frame and fed frames as NUT.

    ``arguments`` makes its command line out of the ticks that were added to every pts (not 0 only
    where the first one is negative). ``kill`` may come from another thread at any time.
    """

    def __init__(
        self,
        ffmpeg: Ffmpeg,
        output: OutputFormat,
        arguments: Callable[[int], list[str]],
        stdout: IO[bytes] | int | None = None,
    ) -> None:
        self._ffmpeg = ffmpeg
        self._output = output
        self._arguments = arguments
        self._stdout = stdout
        self._lock = threading.Lock()
        self._is_killed = False
        self._feed: FfmpegFeed | None = None
        self._muxer: NutMuxer | None = None

    def write(self, frame: Frame) -> None:
        """Start the program where this is the first frame; ToolFailedError where it fails."""
        if self._muxer is None:
            self._muxer = self._start(frame.pts)
        self._muxer.write(frame)

    def close(self) -> None:
        """Wait until the program has ended; InputError where there was no frame."""
        if self._muxer is None or self._feed is None:
            raise InputError("expected at least one picture in the stream, got none")
        self._muxer.close()
        self._muxer = None
        self._feed.close()

    def kill(self) -> None:
        """Stop the program at once. Never raises."""
        with self._lock:
            self._is_killed = True
            feed = self._feed
        if feed is not None:
            with suppress(CodecauxError):
                feed.kill()

    def _start(self, first_pts: int) -> NutMuxer:
        shift_ticks = max(-first_pts, 0)
        arguments = self._arguments(shift_ticks)
        with self._lock:
            if self._is_killed:
                raise SinkStopped
            self._feed = FfmpegFeed(self._ffmpeg, arguments, stdout=self._stdout)
        return NutMuxer(self._feed.write, self._output.format, self._output.time_base, shift_ticks)
