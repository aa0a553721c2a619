"""What players without H.265 get: an H.264 rung on the ladder's grid; and AAC for sound that no
segment can hold.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import ffmpeg as ffmpeg_python

from codecaux.atomic import atomic_path
from codecaux.encoder.prepare import PreparedSource
from codecaux.encoder.stream import PRESETS, StreamSettings, coded_pictures, timescale_of
from codecaux.errors import InputError, UsageError
from codecaux.events import Events, Progress, StageDone, StageStarted
from codecaux.ffmpeg import PICTURE_INPUT, Ffmpeg, file_argument, iterate_ffmpeg, run_ffmpeg
from codecaux.ladders.gops import h264_level
from codecaux.ladders.segments import start_seconds
from codecaux.video import Geometry

__all__ = ["AAC_CODECS", "FallbackSettings", "encode_audio", "encode_fallback", "x264_params"]

# With a rate cap the result depends on their number: fixed, so that it does not on the machine.
_THREADS = 4
# What encode_audio writes: AAC-LC.
AAC_CODECS = "mp4a.40.2"


@dataclass(frozen=True, slots=True)
class FallbackSettings:
    """How the H.264 rung is coded. ``segment_frames``: pictures from one keyframe to the next;
    ``scale``: source size / coded size; ``max_kbps`` caps the CRF, as in
    :func:`~codecaux.ladders.gops.rung_x265_params`.
    """

    segment_frames: int = 100
    crf: float = 23.0
    preset: str = "medium"
    scale: Fraction = Fraction(1)
    max_kbps: int | None = None
    buffer_seconds: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.segment_frames < 1:
            raise UsageError(f"expected segments of 1 picture or more, got {self.segment_frames}")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"expected a CRF of 0 to 51 for the fallback, got {self.crf}")
        if self.preset not in PRESETS:
            raise UsageError(f"expected a preset of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.max_kbps is not None and (self.max_kbps < 1 or self.buffer_seconds <= 0):
            raise UsageError(
                f"expected a cap of at least 1 kb/s and a buffer above 0 s, got {self.max_kbps} "
                f"kb/s and {float(self.buffer_seconds):g} s"
            )


def x264_params(settings: FallbackSettings) -> tuple[tuple[str, str], ...]:
    """An IDR every segment and nowhere else, closed groups, the cap: as x264 names them. Pure."""
    frames = str(settings.segment_frames)
    # x264 lowers min-keyint to half of keyint: without scene cuts there is nothing between.
    params = [("keyint", frames), ("min-keyint", frames), ("scenecut", "0"), ("open-gop", "0")]
    if settings.max_kbps is not None:
        buffer_kbits = max(1, round(settings.max_kbps * settings.buffer_seconds))
        params += [("vbv-maxrate", str(settings.max_kbps)), ("vbv-bufsize", str(buffer_kbits))]
    return tuple(params)


def encode_fallback(
    source: PreparedSource, settings: FallbackSettings, output: Path, ffmpeg: Ffmpeg
) -> Events[Path]:
    """Encode ``source`` as silent 8-bit H.264 to ``output`` (.mp4), whole or not at all.

    Raises InputError for an HDR source (in 8 bits without tone mapping it would only look wrong),
    UsageError for a picture beyond H.264's levels, ToolFailedError.
    """
    started = time.monotonic()
    if source.info.is_hdr:
        raise InputError(
            f"expected a standard dynamic range for an H.264 fallback, got PQ or HLG in "
            f"{source.info.path}; leave the fallback out, or make it from a tone-mapped master"
        )
    yield StageStarted("fallback", source.num_frames)
    with atomic_path(output) as temporary:
        arguments = fallback_arguments(source, settings, temporary)
        with closing(iterate_ffmpeg(ffmpeg, arguments)) as running:
            for done in running:
                yield Progress("fallback", min(done, source.num_frames), source.num_frames)
    yield StageDone("fallback", time.monotonic() - started)
    return output


def fallback_arguments(
    source: PreparedSource, settings: FallbackSettings, output: Path
) -> list[str]:
    """ffmpeg's command line without the program. Pure."""
    layout, fps = source.info.format, source.info.average_fps
    geometry = Geometry(layout.width, layout.height, settings.scale)
    pictures = ffmpeg_python.input(file_argument(source.path), **PICTURE_INPUT)["V:0"]
    stream = StreamSettings(settings.crf, scale=settings.scale)
    video = coded_pictures(pictures, source, stream, geometry)
    params = x264_params(settings)
    base = source.info.time_base
    written = ffmpeg_python.output(
        video.filter("format", pix_fmts="yuv420p"),
        file_argument(output),
        **{
            "c:v": "libx264",
            "crf": f"{settings.crf:g}",
            "preset": settings.preset,
            "profile:v": "high",
            "level": h264_level(geometry.coded_width, geometry.coded_height, fps),
            "x264-params": ":".join(f"{name}={value}" for name, value in params),
            "threads:v": str(_THREADS),
            "fps_mode": "passthrough",
            "enc_time_base": f"{base.numerator}:{base.denominator}",
            "video_track_timescale": str(timescale_of(source)),
            "map_metadata": "-1",
            "format": "mp4",
            "movflags": "+faststart",
            "fflags": "+bitexact",
            "flags:v": "+bitexact",
        },
    )
    return [*ffmpeg_python.get_args(written.global_args("-v", "warning")), "-y"]


def encode_audio(
    source: Path,
    position: int,
    output: Path,
    ffmpeg: Ffmpeg,
    *,
    kbps: int = 128,
    seconds: Fraction | None = None,
) -> None:
    """Audio stream ``position`` of ``source`` as stereo AAC to ``output`` (.mp4), on the clock of
    the source's pictures: it begins with the first of them, with silence where there is no sound
    yet, and lasts for ``seconds`` of them (None: as long as it does), with silence where there is
    none any more. ToolFailedError where ffmpeg fails.
    """
    if not 16 <= kbps <= 512:
        raise UsageError(f"expected 16 to 512 kb/s for sound, got {kbps}")
    with atomic_path(output) as temporary:
        arguments = [
            "-v",
            "warning",
            "-copyts",
            "-itsoffset",
            f"{-float(start_seconds(source)):.6f}",
        ]
        arguments += ["-i", file_argument(source), "-map", f"0:a:{position}", "-c:a", "aac"]
        # Counted from the first picture on: what is early is left out, what is missing is silence.
        filters = "aresample=async=1:first_pts=0"
        if seconds is not None:
            # apad only adds, and atrim only takes away.
            filters += f",apad=whole_dur={float(seconds):.6f},atrim=end={float(seconds):.6f}"
        arguments += ["-af", filters]
        arguments += ["-b:a", f"{kbps}k", "-ac", "2", "-map_metadata", "-1"]
        arguments += ["-fflags", "+bitexact", "-flags:a", "+bitexact", "-f", "mp4"]
        run_ffmpeg(ffmpeg, [*arguments, "-y", file_argument(temporary)])
