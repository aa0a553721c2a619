"""Prepared source -> the H.265 stream that plays everywhere, by ffmpeg and x265.

    source ─ pad right/bottom, edge replicated ─ scale ─ x265 ─┐
    original ─ audio, text subtitles, metadata ────────────────┴─> title.mp4 / title.mkv

Timestamps are the source's own (variable rate too), colour tags are kept, chroma siting survives
the scaling. Equal settings give equal bytes with the same ffmpeg: x265's result depends on the
number of frame threads, which is fixed here, and not on the size of its pool.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg as ffmpeg_python
import numpy as np

from codecaux.atomic import atomic_path
from codecaux.encoder.convert import Filter
from codecaux.encoder.mux import TrackPlan, held_audio, plan_tracks
from codecaux.encoder.padding import padded, timed
from codecaux.encoder.prepare import PreparedSource
from codecaux.encoder.x265 import check_parameter
from codecaux.errors import InputError, ToolFailedError, UsageError
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.ffmpeg import PICTURE_INPUT, Ffmpeg, file_argument, iterate_ffmpeg
from codecaux.frames import decode_pictures
from codecaux.video import Colour, Geometry

__all__ = [
    "AUTO_TUNING",
    "CONTAINERS",
    "DOWNSCALERS",
    "PRESETS",
    "TUNINGS",
    "StreamResult",
    "StreamSettings",
    "coded_colour",
    "coded_pictures",
    "encode_stream",
    "picture_filters",
    "timescale_of",
]

PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)
# What suits a stream that a network finishes, measured (docs/experiments.md): less of the texture
# that x265 invents for eyes, bits spread more evenly, and finer chroma where a title is worth it
# (codecaux.encoder.tuning). Parameters that a user gives come after.
TUNINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "network": (
        ("psy-rd", "1"),
        ("aq-strength", "0.5"),
        ("cbqpoffs", "-4"),
        ("crqpoffs", "-4"),
    ),
    "luma": (
        ("psy-rd", "1"),
        ("aq-strength", "0.5"),
    ),
    "none": (),
}
# "network" or "luma", as the title wants it; where nobody chose, "network".
AUTO_TUNING = "auto"
# swscale's names.
DOWNSCALERS = ("bicubic", "lanczos", "area", "spline", "bilinear", "gauss", "sinc")

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv")
_NO_TRACK = "v:999?"  # which no file has; "?" allows that
_FRAME_THREADS = 2
_MIN_CODED_SIZE = 16  # of ffmpeg's libx265
_MAX_TIMESCALE = 2**31 - 1
_MIN_TIMESCALE = 10_000


@dataclass(frozen=True)
class StreamSettings:
    """How the stream is coded.

    ``crf`` 0..51 (x265's constant rate factor), ``scale`` source size / coded size,
    ``downscale`` one of DOWNSCALERS, ``tuning`` one of TUNINGS or "auto" (an encode chooses:
    :func:`codecaux.encoder.tuning.choose_tuning`), ``keyint`` the most frames between random access
    points (None: x265's 250), ``threads`` x265's pool (0: all cores, same result).
    Raises UsageError otherwise.
    """

    crf: float
    preset: str = "medium"
    scale: Fraction = Fraction(2)
    x265_params: tuple[tuple[str, str], ...] = ()
    downscale: str = "lanczos"
    tuning: str = AUTO_TUNING
    keyint: int | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise UsageError(f"expected a CRF of 0 to 51, got {self.crf}")
        _check_choice("preset", self.preset, PRESETS)
        _check_choice("down-scaler", self.downscale, DOWNSCALERS)
        _check_choice("tuning", self.tuning, (AUTO_TUNING, *TUNINGS))
        if self.keyint is not None and self.keyint < 1:
            raise UsageError(f"expected a keyint of at least 1, got {self.keyint}")
        if self.threads < 0:
            raise UsageError(f"expected 0 or more threads, got {self.threads}")
        for name, value in self.x265_params:
            check_parameter(name, value)

    @property
    def tuned_params(self) -> tuple[tuple[str, str], ...]:
        """x265's parameters of the tuning."""
        return TUNINGS["network" if self.tuning == AUTO_TUNING else self.tuning]


@dataclass(frozen=True)
class StreamResult:
    """The written stream. ``dropped`` names tracks that the container cannot hold."""

    path: Path
    geometry: Geometry
    num_frames: int
    size_bytes: int
    dropped: tuple[str, ...] = ()


def encode_stream(
    source: PreparedSource,
    settings: StreamSettings,
    output: Path,
    ffmpeg: Ffmpeg,
    *,
    takes_pictures: bool = False,
) -> Events[StreamResult]:
    """Encode ``source`` to ``output`` (.mp4, or .mkv by its suffix), whole or not at all.

    A warning names the tracks that the container cannot hold, unless the caller ``takes_pictures``
    alone. The result is decoded and its frame count and every timestamp compared with the source's.
    Raises UsageError (suffix, scale), InputError (size, time base), ToolFailedError.
    """
    started = time.monotonic()
    if output.suffix.lower() not in CONTAINERS:
        raise UsageError(f"expected an output ending in {', '.join(CONTAINERS)}, got {output}")
    geometry = Geometry(source.info.format.width, source.info.format.height, settings.scale)
    _check_size(geometry)
    tracks = plan_tracks(
        source.original, is_matroska=_is_matroska(output), audio=held_audio(output)
    )
    yield StageStarted("stream", source.num_frames)
    if tracks.dropped and not takes_pictures:
        yield Notice(_dropped_message(tracks, output), "warning")
    with atomic_path(output) as temporary:
        arguments = stream_arguments(source, settings, geometry, tracks, temporary)
        with closing(iterate_ffmpeg(ffmpeg, arguments)) as running:
            for done in running:
                yield Progress("stream", min(done, source.num_frames), source.num_frames)
        _verify(source, temporary, [str(ffmpeg.path), *arguments])
    yield StageDone("stream", time.monotonic() - started)
    return StreamResult(output, geometry, source.num_frames, output.stat().st_size, tracks.dropped)


def _check_size(geometry: Geometry) -> None:
    width, height = geometry.coded_width, geometry.coded_height
    if min(width, height) < _MIN_CODED_SIZE:
        raise InputError(
            f"expected a coded picture of at least {_MIN_CODED_SIZE}x{_MIN_CODED_SIZE} for x265, "
            f"got {width}x{height} at --scale {float(geometry.scale):g}; give a smaller one"
        )


# -------------------------------------------------------------------------------------- arguments


def stream_arguments(
    source: PreparedSource,
    settings: StreamSettings,
    geometry: Geometry,
    tracks: TrackPlan,
    output: Path,
) -> list[str]:
    """ffmpeg's command line without the program. Pure."""
    video, others = _inputs(source, tracks)
    written = ffmpeg_python.output(
        coded_pictures(video, source, settings, geometry),
        *others,
        file_argument(output),
        **_video_options(source, settings),
        **_container_options(source, output),
        **_metadata_options(source),
        **tracks.options,
    )
    return [*ffmpeg_python.get_args(written.global_args("-v", "warning")), "-y"]


def _inputs(source: PreparedSource, tracks: TrackPlan) -> tuple[Any, list[Any]]:
    """The pictures, and the tracks to copy. Both files are put on one clock, the original's."""
    picture_file = file_argument(source.path)
    if source.original is None or not source.is_mezzanine:
        only = ffmpeg_python.input(picture_file, **PICTURE_INPUT)
        return only["V:0"], [only[specifier] for specifier in tracks.specifiers]
    # Left alone, ffmpeg starts every input at zero, and sound and picture would part.
    clock = {"copyts": None, "itsoffset": f"{-float(source.start_seconds):.6f}"}
    pictures = ffmpeg_python.input(picture_file, **PICTURE_INPUT, **clock)
    original = ffmpeg_python.input(file_argument(source.original), itsoffset=clock["itsoffset"])
    # Without a track the original would not be opened, but its metadata is wanted.
    specifiers = tracks.specifiers or (_NO_TRACK,)
    return pictures["V:0"], [original[specifier] for specifier in specifiers]


def coded_pictures(
    video: Any, source: PreparedSource, settings: StreamSettings, geometry: Geometry
) -> Any:
    """The source's pictures (a node of ffmpeg-python) timed, padded, scaled and tagged."""
    video = padded(timed(video, source), source.info.format, geometry)
    for name, arguments in picture_filters(source, settings, geometry):
        video = video.filter(name, **dict(arguments))
    return video


def picture_filters(
    source: PreparedSource, settings: StreamSettings, geometry: Geometry
) -> tuple[Filter, ...]:
    """Scale and tag: what happens to the padded pictures, as a chain of ffmpeg filters. Pure."""
    pixel_format = source.info.format.pixel_format
    colour = source.info.format.colour
    filters: list[Filter] = []
    needs_scaling = geometry.scale != 1
    if needs_scaling or source.info.pixel_format != pixel_format:
        filters.append(("scale", tuple(_scale_options(colour, settings, geometry).items())))
    filters.append(("format", (("pix_fmts", pixel_format),)))
    filters.append(("setparams", tuple(_tags(colour).items())))
    aspect = source.info.sample_aspect_ratio
    filters.append(("setsar", (("sar", f"{aspect.numerator}/{aspect.denominator}"),)))
    return tuple(filters)


def _scale_options(colour: Colour, settings: StreamSettings, geometry: Geometry) -> dict[str, str]:
    # swscale's own default is centred chroma, whatever the frame says: siting is always spelt out.
    across, down = {"left": ("0", "128"), "center": ("128", "128"), "topleft": ("0", "0")}[
        colour.chroma_location
    ]
    colour_range = "full" if colour.full_range else "limited"
    return {
        "width": str(geometry.coded_width),
        "height": str(geometry.coded_height),
        "flags": f"{settings.downscale}+accurate_rnd+full_chroma_int+full_chroma_inp",
        "in_h_chr_pos": across,
        "in_v_chr_pos": down,
        "out_h_chr_pos": across,
        "out_v_chr_pos": down,
        "in_range": colour_range,
        "out_range": colour_range,
    }


def coded_colour(colour: Colour) -> Colour:
    """The tags of the stream of a source with ``colour``. An unspecified matrix is spelt out: the
    small stream's height would suggest another one."""
    if colour.matrix_code in (1, 5, 6, 9, 10):
        return colour
    return replace(colour, matrix_code={"bt709": 1, "bt601": 6, "bt2020": 9}[colour.matrix])


def _tags(colour: Colour) -> dict[str, str]:
    return {
        "range": "full" if colour.full_range else "limited",
        "color_primaries": str(colour.primaries),
        "color_trc": str(colour.transfer),
        "colorspace": str(coded_colour(colour).matrix_code),
        "chroma_location": colour.chroma_location,
    }


def _video_options(source: PreparedSource, settings: StreamSettings) -> dict[str, str]:
    parameters = {
        "log-level": "error",
        "frame-threads": str(_FRAME_THREADS),
        # The text that x265 puts into the stream about itself costs rate and shows nothing.
        "info": "0",
    }
    if settings.threads:
        parameters["pools"] = str(settings.threads)
    if settings.keyint is not None:
        parameters["keyint"] = str(settings.keyint)
    parameters |= dict((*settings.tuned_params, *settings.x265_params))
    return {
        "c:v": "libx265",
        "crf": f"{settings.crf:g}",
        "preset": settings.preset,
        "x265-params": ":".join(f"{name}={value}" for name, value in parameters.items()),
        "fps_mode": "passthrough",
        "enc_time_base": _ratio(source.info.time_base),
    }


def _container_options(source: PreparedSource, output: Path) -> dict[str, str]:
    if _is_matroska(output):
        return {"format": "matroska", "fflags": "+bitexact"}
    return {
        "format": "mov" if output.suffix.lower() == ".mov" else "mp4",
        "tag:v": "hvc1",
        "movflags": "+faststart",
        "video_track_timescale": str(timescale_of(source)),
        "fflags": "+bitexact",
    }


def _metadata_options(source: PreparedSource) -> dict[str, str]:
    """Titles and chapters come from the original, which is the second input beside a mezzanine."""
    if source.original is None:
        return {"map_metadata": "-1"}
    index = "1" if source.is_mezzanine else "0"
    return {"map_metadata": index, "map_chapters": index}


def timescale_of(source: PreparedSource) -> int:
    """Ticks per second in which an mp4 can say every timestamp of the source exactly.

    Raises InputError where 31 bits are not enough.
    """
    base = source.info.time_base
    ticks_per_second = base.denominator
    if ticks_per_second > _MAX_TIMESCALE:
        common = int(np.gcd.reduce(np.diff(source.pts))) if source.num_frames > 1 else 1
        ticks_per_second = (base * common).denominator
    if ticks_per_second > _MAX_TIMESCALE:
        raise InputError(
            f"expected timestamps in ticks of at least 1/{_MAX_TIMESCALE} s, got "
            f"1/{base.denominator} s in {source.path}; write an .mkv, or re-time the source"
        )
    while ticks_per_second < _MIN_TIMESCALE:
        ticks_per_second *= 2
    return ticks_per_second


def _ratio(value: Fraction) -> str:
    return f"{value.numerator}:{value.denominator}"


def _is_matroska(output: Path) -> bool:
    return output.suffix.lower() == ".mkv"


def _dropped_message(tracks: TrackPlan, output: Path) -> str:
    return (
        f"{output.name} cannot hold {', '.join(tracks.dropped)}: left out; "
        "an output ending in .mkv keeps them"
    )


# ------------------------------------------------------------------------------------------ checks


def _verify(source: PreparedSource, written: Path, command: Sequence[str]) -> None:
    """Decode what was written: as many frames as the source, each shown when the source's is."""
    # Matroska counts milliseconds: there, a timestamp is the source's rounded to one.
    tolerance = Fraction(1, 1000) if _is_matroska(written) else Fraction(0)
    start: Fraction | None = None
    wrong: str | None = None
    num_frames = 0
    for index, picture in enumerate(decode_pictures(written)):
        num_frames += 1
        if wrong is not None or index >= source.num_frames:
            continue  # counted on: a wrong number of frames is the better thing to say
        got = None if picture.pts is None else picture.pts * Fraction(picture.time_base)
        start = got if index == 0 else start
        expected = (int(source.pts[index]) - int(source.pts[0])) * source.info.time_base
        if got is None or start is None or abs(got - start - expected) > tolerance:
            shown = "nothing" if got is None or start is None else f"{float(got - start):.6f} s"
            wrong = (
                f"expected frame {index} to be shown {float(expected):.6f} s after the first, got "
                f"{shown}"
            )
    if num_frames != source.num_frames:
        wrong = f"expected {source.num_frames} frames in the stream, got {num_frames}"
    if wrong is not None:
        raise ToolFailedError(wrong, command=command)


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"expected a {what} of {', '.join(known)}, got {value!r}")
