"""What a file says about its first video stream, through PyAV: a ClipInfo."""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.error

from codecaux.errors import InputError, ToolError
from codecaux.ffmpeg import describe_input, find_ffmpeg
from codecaux.folders import check_name
from codecaux.video import ChromaLocation, ClipInfo, Colour, Matrix, VideoFormat

__all__ = [
    "PLANAR_420_FORMATS",
    "VideoInput",
    "chroma_location_of",
    "matrix_of",
    "open_video",
    "probe",
]

# What every later stage reads as it is; yuvj420p is full-range yuv420p by another name.
PLANAR_420_FORMATS = ("yuv420p", "yuvj420p", "yuv420p10le")

_UNSPECIFIED = 2
_FRAMES_LOOKED_AT = 4
_FIELD_ORDERS_INTERLACED = (2, 3, 4, 5)  # AVFieldOrder: TT, BB, TB, BT
_PICTURE_LINE = re.compile(r"Stream #\d+:\d+.*?: Video: (?!.*\(attached pic\))(.*)")
_NEAREST_LOCATION: dict[str, ChromaLocation] = {
    "left": "left",
    "center": "center",
    "topleft": "topleft",
    # Not used in practice; the nearest of the three that are.
    "top": "center",
    "bottom": "center",
    "bottomleft": "left",
}


class VideoInput:
    """An open file and its first real video stream (cover art is none); close after use."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.container: Any = _open_container(path)
        try:
            self.stream: Any = _first_video_stream(self.container, path)
        except BaseException:
            self.container.close()
            raise
        self.stream.thread_type = "AUTO"
        if threads > 0:
            self.stream.codec_context.thread_count = threads

    def __enter__(self) -> VideoInput:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()


def open_video(path: Path, threads: int = 0) -> VideoInput:
    """Open a file for decoding, frame and slice threads on (0: as many as the machine has).

    Raises InputError: missing, a folder, not a video, no video stream.
    """
    return VideoInput(path, threads)


def probe(path: Path) -> ClipInfo:
    """Describe a video from its header and first few frames.

    ``format`` says how a 4:2:0 version of the clip looks: for another chroma layout or depth
    (``pixel_format``, ``log2_chroma_*``) its bit depth is the 8 or 10 the clip would become.
    A file without timestamps gets one frame per tick: ``time_base`` is 1 / ``average_fps``.
    Raises InputError: missing, a name that is not UTF-8, not a video, no video stream, zero size,
    an unknown format.
    """
    with open_video(path) as source:
        frames = _first_frames(source)
        return _describe(path, source, frames)


def matrix_of(code: int, height: int) -> Matrix:
    """The matrix for an H.273 code; by convention HD is 709 and SD 601 where it is not given."""
    known: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}
    return known.get(code, "bt709" if height >= 720 else "bt601")


def chroma_location_of(description: str) -> ChromaLocation | None:
    """Chroma siting in ffmpeg's verbose description of an input; None where it is not said."""
    match = _PICTURE_LINE.search(description)
    if match is None:
        return None
    for group in re.findall(r"\w\(([^()]*)\)", match.group(1)):
        for word in group.split(", "):
            if word in _NEAREST_LOCATION:
                return _NEAREST_LOCATION[word]
    return None


# ---------------------------------------------------------------------------------------- details


def _open_container(path: Path) -> Any:
    check_name(str(path))
    if not path.exists():
        raise InputError(f"expected a video, got {path}, which does not exist; check the name")
    if path.is_dir():
        raise InputError(f"expected a video file, got the folder {path}")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"expected a video, got {path}, which is empty")
    try:
        return av.open(f"file:{path}", mode="r", metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"expected a video, got {path}, which cannot be read as one ({reason}); for headerless "
            "frames give --size, --fps and --pix-fmt"
        ) from error


def _first_video_stream(container: Any, path: Path) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise InputError(f"expected a known video codec, got none that decodes {path}")
            return stream
    raise InputError(f"expected a video, got {path}, which has no video stream")


def _first_frames(source: VideoInput) -> list[Any]:
    # A file that does not decode is still described; reading its frames says what is wrong.
    frames: list[Any] = []
    with suppress(av.error.FFmpegError):
        frames.extend(islice(source.container.decode(source.stream), _FRAMES_LOOKED_AT))
    return frames


def _describe(path: Path, source: VideoInput, frames: list[Any]) -> ClipInfo:
    stream, codec = source.stream, source.stream.codec_context
    first = frames[0] if frames else None
    pixel_format = first.format if first is not None else codec.format
    width, height = (
        (first.width, first.height) if first is not None else (codec.width, codec.height)
    )
    if pixel_format is None or width < 1 or height < 1:
        raise InputError(
            f"expected pictures, got {path}, whose video stream says no size or format"
        )
    fps = _rate(stream)
    has_pts = first is None or first.pts is not None
    duration = source.container.duration
    return ClipInfo(
        path=path,
        format=VideoFormat(
            width, height, _working_depth(pixel_format), _colour(path, codec, first, pixel_format)
        ),
        pixel_format=pixel_format.name,
        log2_chroma_w=_log2_ratio(pixel_format.chroma_width(64)),
        log2_chroma_h=_log2_ratio(pixel_format.chroma_height(64)),
        codec_name=codec.name,
        time_base=_fraction(stream.time_base) if has_pts and stream.time_base else 1 / fps,
        average_fps=fps,
        num_frames_from_header=stream.frames or None,
        duration_seconds_from_header=duration / av.time_base if duration else None,
        sample_aspect_ratio=_aspect(stream.sample_aspect_ratio),
        is_interlaced=_is_interlaced(codec, frames),
        rotation_degrees=int(first.rotation) if first is not None else 0,
        has_audio=bool(source.container.streams.audio),
        has_subtitles=bool(source.container.streams.subtitles),
    )


def _colour(path: Path, codec: Any, first: Any, pixel_format: Any) -> Colour:
    def tag(name: str, unknown: int) -> int:
        values = [int(getattr(owner, name)) for owner in (first, codec) if owner is not None]
        return next((value for value in values if value != unknown), unknown)

    height = first.height if first is not None else codec.height
    matrix_code = tag("colorspace", _UNSPECIFIED)
    return Colour(
        matrix=matrix_of(matrix_code, height),
        full_range=tag("color_range", 0) == 2 or pixel_format.name.startswith("yuvj"),
        chroma_location=_chroma_location(path),
        primaries=tag("color_primaries", _UNSPECIFIED),
        transfer=tag("color_trc", _UNSPECIFIED),
        matrix_code=matrix_code,
    )


def _chroma_location(path: Path) -> ChromaLocation:
    # PyAV does not expose the siting, so the program is asked. Without one: H.26x's default.
    try:
        description = describe_input(find_ffmpeg(require_encoders=(), require_filters=()), path)
    except (ToolError, OSError, subprocess.TimeoutExpired):
        return "left"
    return chroma_location_of(description) or "left"


def _working_depth(pixel_format: Any) -> int:
    return 8 if max(component.bits for component in pixel_format.components) <= 8 else 10


def _log2_ratio(chroma_of_64: int) -> int:
    return (64 // chroma_of_64).bit_length() - 1


def _rate(stream: Any) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate:
            return _fraction(rate)
    return Fraction(25)


def _aspect(ratio: Any) -> Fraction:
    return _fraction(ratio) if ratio else Fraction(1)


def _fraction(value: Any) -> Fraction:
    return Fraction(int(value.numerator), int(value.denominator))


def _is_interlaced(codec: Any, frames: list[Any]) -> bool:
    return codec.field_order in _FIELD_ORDERS_INTERLACED or any(
        frame.interlaced_frame for frame in frames
    )
