"""Any source -> one progressive 4:2:0 file that every later stage reads, checked to its end.

    source ──usable as it is?── yes ─────────────────────────> PreparedSource(path = source)
                                no: raw frames, stdin, interlaced, other chroma or depth
                                └─ ffmpeg ─> work/source.mov (FFV1) ─> PreparedSource

The mezzanine is FFV1 in QuickTime: lossless, any size and depth, and, unlike Matroska's
milliseconds, any time base exactly. It says less about colour than ClipInfo does, so later stages
use ``PreparedSource.info`` and never probe the path again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import ffmpeg as ffmpeg_python
import numpy as np
import numpy.typing as npt

from codecaux.atomic import atomic_path, write_atomic
from codecaux.encoder.convert import Filter, SourceOptions, conversion
from codecaux.encoder.scan import Scan, fingerprint, quick_fingerprint, scan
from codecaux.encoder.y4m import (
    check_y4m_whole,
    frame_bytes_of,
    read_y4m_header,
    y4m_first_frame_bytes,
)
from codecaux.errors import InputError, UsageError
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.ffmpeg import (
    PICTURE_INPUT,
    BytesLike,
    Ffmpeg,
    file_argument,
    find_ffmpeg,
    iterate_ffmpeg,
)
from codecaux.probe import matrix_of, probe
from codecaux.video import ClipInfo, Colour, VideoFormat

__all__ = ["PreparedSource", "SourceOptions", "lossless_arguments", "prepare"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class PreparedSource:
    """A source that decodes to its end as progressive 4:2:0.

    ``path`` is what every later stage reads, described by ``info`` (do not probe it again).
    ``pts`` [num_frames] int64 counts ``info.time_base``, rising; a file without timestamps
    (``has_timestamps`` False) has 0, 1, 2, ... ``original`` is where audio, subtitles and
    metadata come from, None where there are none; ``start_seconds`` is where its clock starts.
    ``fingerprint`` identifies the content together with the options that changed it.
    """

    path: Path
    info: ClipInfo
    num_frames: int
    duration_seconds: Fraction
    original: Path | None
    pts: npt.NDArray[np.int64]
    fingerprint: str
    has_timestamps: bool = True
    start_seconds: Fraction = Fraction(0)
    first_frame: int = 0
    is_excerpt: bool = False

    def excerpt(self, first: int, count: int) -> PreparedSource:
        """``count`` frames from ``first`` on, silent. ``path`` still holds all: ``first_frame``
        says where the excerpt starts in it.
        """
        assert 0 <= first < first + count <= self.num_frames
        if count == self.num_frames:
            return self
        return replace(
            self,
            num_frames=count,
            duration_seconds=self.duration_seconds * count / self.num_frames,
            original=None,
            pts=self.pts[first : first + count],
            first_frame=self.first_frame + first,
            is_excerpt=True,
        )

    @property
    def is_mezzanine(self) -> bool:
        """Has the source been converted into another file?"""
        return self.path != self.original


def prepare(
    source: str | Path,
    options: SourceOptions,
    work_dir: Path,
    *,
    ffmpeg: Ffmpeg | None = None,
    stdin: IO[bytes] | None = None,
) -> Events[PreparedSource]:
    """Make ``source`` (a path, or ``-`` for y4m on stdin) usable and check it whole.

    Raises InputError (see ``codecaux.encoder.scan`` for a file that is not whole; here: an
    interlaced source without ``deinterlace``, other chroma or depth without ``to_420``, raw
    frames that do not divide the file) and UsageError for options that do not fit together.
    """
    started = time.monotonic()
    _check_options(options)
    yield StageStarted("prepare")
    work_dir.mkdir(parents=True, exist_ok=True)
    job = _plan(source, options, work_dir, stdin)
    if job.info.is_hdr:
        yield Notice("the source is HDR (PQ or HLG): VMAF is not defined for it", "warning")
    if job.filters or job.is_headerless:
        program = ffmpeg or find_ffmpeg()
        if not job.is_headerless:
            checked = yield from scan(job.info, stage="prepare")
            job = replace(job, num_frames_expected=checked.num_frames)
        resumed = yield from _make_mezzanine(job, program)
        result = yield from _finish_mezzanine(job)
    else:
        resumed = False
        counted = yield from scan(job.info, stage="prepare")
        result = _finish(job, job.info, counted, fingerprint(job.info.path))
    yield StageDone("prepare", time.monotonic() - started, resumed=resumed)
    return result


# --------------------------------------------------------------------------------------- planning


@dataclass(frozen=True)
class _Job:
    """What is to be done to one source. ``info`` describes it as it is, ``wanted`` its format
    after ``filters``; ``input_arguments`` are ffmpeg's for a source without a header."""

    info: ClipInfo
    wanted: VideoFormat
    filters: tuple[Filter, ...]
    mezzanine: Path
    original: Path | None = None
    input_arguments: tuple[tuple[str, str], ...] = ()
    stdin: IO[bytes] | None = None
    head: bytes = b""
    num_frames_expected: int | None = None

    @property
    def is_headerless(self) -> bool:
        return self.stdin is not None or bool(self.input_arguments)


def _check_options(options: SourceOptions) -> None:
    given = (options.raw_size, options.raw_fps, options.raw_pixel_format)
    if any(value is not None for value in given) and options.raw_size is None:
        raise UsageError("expected --size with --fps and --pix-fmt (raw frames), got none")
    if options.raw_size is not None:
        if min(options.raw_size) < 1:
            raise UsageError(f"expected a --size of at least 1x1, got {options.raw_size}")
        if options.raw_fps is None or options.raw_fps <= 0:
            raise UsageError("expected --fps above 0 with --size (raw frames), got none")
        if not _is_raw_format(options.raw_pixel_format or "yuv420p"):
            raise UsageError(
                f"expected ffmpeg's name of a pixel format, got {options.raw_pixel_format!r}; "
                "for example yuv420p or yuv420p10le"
            )


def _is_raw_format(name: str) -> bool:
    try:
        # A hardware surface (cuda, vaapi, ...) is a format by name, but has no samples.
        return bool(av.VideoFormat(name, 16, 16).components)
    except ValueError:
        return False


def _plan(
    source: str | Path, options: SourceOptions, work_dir: Path, stdin: IO[bytes] | None
) -> _Job:
    mezzanine = work_dir / "source.mov"
    if str(source) == "-":
        if options.is_raw:
            raise UsageError("expected y4m on stdin, got --size; y4m says its own size")
        return _plan_stdin(stdin or sys.stdin.buffer, options, mezzanine)
    path = Path(source)
    if options.is_raw:
        return _plan_raw(path, options, mezzanine)
    info = probe(path)
    wanted, filters = conversion(info, options)
    return _Job(info, wanted, filters, mezzanine, original=path)


def _plan_stdin(stdin: IO[bytes], options: SourceOptions, mezzanine: Path) -> _Job:
    header = read_y4m_header(stdin, "stdin")
    # One frame's worth is enough for PyAV to describe the stream as it would a file.
    head_path = mezzanine.with_name("stdin-head.y4m")
    head = header + _read_up_to(stdin, y4m_first_frame_bytes(header))
    try:
        head_path.write_bytes(head)
        info = replace(probe(head_path), num_frames_from_header=None)
    finally:
        head_path.unlink(missing_ok=True)
    wanted, filters = conversion(info, options)
    arguments = (("format", "yuv4mpegpipe"),)
    return _Job(info, wanted, filters, mezzanine, input_arguments=arguments, stdin=stdin, head=head)


def _read_up_to(stream: IO[bytes], size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes and (chunk := stream.read(size_bytes - len(data))):
        data += chunk
    return bytes(data)


def _plan_raw(path: Path, options: SourceOptions, mezzanine: Path) -> _Job:
    assert options.raw_size is not None
    assert options.raw_fps is not None
    if not path.is_file():
        raise InputError(f"expected a file of raw frames, got {path}, which is none")
    name = options.raw_pixel_format or "yuv420p"
    layout = av.VideoFormat(name, *options.raw_size)
    info = _raw_info(path, options, layout)
    _check_raw_size(info, frame_bytes_of(name, *options.raw_size))
    wanted, filters = conversion(info, options)
    width, height = options.raw_size
    arguments = (
        ("format", "rawvideo"),
        ("s", f"{width}x{height}"),
        ("framerate", str(options.raw_fps)),
        ("pixel_format", name),
    )
    return _Job(info, wanted, filters, mezzanine, input_arguments=arguments)


def _raw_info(path: Path, options: SourceOptions, layout: Any) -> ClipInfo:
    assert options.raw_size is not None
    assert options.raw_fps is not None
    width, height = options.raw_size
    depth = 8 if max(component.bits for component in layout.components) <= 8 else 10
    colour = Colour(matrix=matrix_of(2, height), full_range=layout.name.startswith("yuvj"))
    return ClipInfo(
        path=path,
        format=VideoFormat(width, height, depth, colour),
        pixel_format=layout.name,
        log2_chroma_w=(64 // layout.chroma_width(64)).bit_length() - 1,
        log2_chroma_h=(64 // layout.chroma_height(64)).bit_length() - 1,
        codec_name="rawvideo",
        time_base=1 / options.raw_fps,
        average_fps=options.raw_fps,
    )


def _check_raw_size(info: ClipInfo, frame_bytes: int) -> None:
    size_bytes = info.path.stat().st_size
    if size_bytes == 0:
        raise InputError(f"expected raw frames, got {info.path}, which is empty")
    whole, cut = divmod(size_bytes, frame_bytes)
    if cut:
        raise InputError(
            f"expected {info.path} to hold whole frames of {frame_bytes} bytes "
            f"({info.format.width}x{info.format.height} {info.pixel_format}), got {whole} of them "
            f"and {cut} bytes; check --size and --pix-fmt, or the file is truncated"
        )


# -------------------------------------------------------------------------------------- mezzanine


def _make_mezzanine(job: _Job, program: Ffmpeg) -> Events[bool]:
    """Write ``job.mezzanine`` unless it is there already for the same content and conversion
    (then True). What comes on stdin has no identity beforehand and is always written anew."""
    sidecar = job.mezzanine.with_suffix(".json")
    identity = _identity(job, program)
    if job.stdin is None and job.mezzanine.is_file() and _read_json(sidecar) == identity:
        return True
    sidecar.unlink(missing_ok=True)
    feed = None if job.stdin is None else _spool(job)
    with atomic_path(job.mezzanine) as temporary:
        arguments = _mezzanine_arguments(job, temporary)
        with closing(iterate_ffmpeg(program, arguments, feed=feed)) as running:
            for done in running:
                yield Progress("prepare", done, job.num_frames_expected)
    write_atomic(sidecar, json.dumps(identity, indent=1, sort_keys=True).encode())
    return False


def _identity(job: _Job, program: Ffmpeg) -> dict[str, Any]:
    return {
        "content": None if job.stdin is not None else fingerprint(job.info.path),
        "conversion": json.loads(json.dumps([job.filters, job.input_arguments])),
        "ffmpeg": program.version,
        "format": 1,
    }


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _spool(job: _Job) -> Iterator[BytesLike]:
    """Everything from stdin; raises InputError at its end where the last frame is cut."""
    assert job.stdin is not None
    total_bytes = len(job.head)
    yield job.head
    while chunk := job.stdin.read(_CHUNK_BYTES):
        total_bytes += len(chunk)
        yield chunk
    check_y4m_whole(job.head, total_bytes, job.info, "stdin")


def _mezzanine_arguments(job: _Job, output: Path) -> list[str]:
    name = "pipe:0" if job.stdin is not None else file_argument(job.info.path)
    options: dict[str, Any] = dict(job.input_arguments)
    if not job.is_headerless:
        options |= PICTURE_INPUT
    video = ffmpeg_python.input(name, **options)["V:0"]
    for filter_name, arguments in job.filters:
        video = video.filter(filter_name, **dict(arguments))
    return lossless_arguments(video, output)


def lossless_arguments(video: Any, output: Path) -> list[str]:
    """ffmpeg's command line that writes a filtered ``video`` as a mezzanine. Pure."""
    # FFV1 takes limited range only, and ffmpeg would squeeze the values to suit it: they pass under
    # a false flag, and ``PreparedSource.info`` keeps the true one.
    video = video.filter("setparams", range="limited")
    written = ffmpeg_python.output(
        video,
        file_argument(output),
        format="mov",
        vcodec="ffv1",
        level=3,
        g=1,
        fps_mode="passthrough",
        enc_time_base="demux",
        map_metadata=-1,
        fflags="+bitexact",
        **{"flags:v": "+bitexact"},
    )
    copied: list[str] = ffmpeg_python.get_args(written.global_args("-v", "warning", "-copyts"))
    return [*copied, "-y"]


def _finish_mezzanine(job: _Job) -> Events[PreparedSource]:
    written = probe(job.mezzanine)
    info = replace(
        written,
        format=job.wanted,
        sample_aspect_ratio=job.info.sample_aspect_ratio,
        average_fps=job.info.average_fps,
        rotation_degrees=job.info.rotation_degrees,
        is_interlaced=False,
        has_audio=job.info.has_audio,
        has_subtitles=job.info.has_subtitles,
    )
    counted = yield from scan(info, stage="prepare")
    expected = job.num_frames_expected
    if expected is not None and counted.num_frames != expected:
        raise InputError(
            f"expected {expected} frames after conversion of {job.info.path}, got "
            f"{counted.num_frames}; the file may be damaged: re-encode or fetch it again"
        )
    return _finish(job, info, counted, quick_fingerprint(job.mezzanine))


def _finish(job: _Job, info: ClipInfo, counted: Scan, identity: str) -> PreparedSource:
    ticks = int(counted.pts[-1]) - int(counted.pts[0]) + counted.last_duration
    return PreparedSource(
        path=info.path,
        info=info,
        num_frames=counted.num_frames,
        duration_seconds=ticks * info.time_base,
        original=job.original,
        pts=counted.pts,
        fingerprint=identity,
        has_timestamps=counted.has_timestamps,
        start_seconds=_start_seconds(job.original),
    )


def _start_seconds(path: Path | None) -> Fraction:
    if path is None:
        return Fraction(0)
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        return Fraction(container.start_time or 0, av.time_base)
