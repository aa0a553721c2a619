"""What a source must go through to become progressive 4:2:0: pure rules, ffmpeg filters as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

import av

from codecaux.errors import InputError
from codecaux.probe import PLANAR_420_FORMATS, matrix_of
from codecaux.video import ClipInfo, Colour, VideoFormat

__all__ = ["Filter", "SourceOptions", "conversion"]

# An ffmpeg filter's name and its options in order.
Filter: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]

_UNSPECIFIED = 2
_CONVERSION_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source. The ``raw_*`` three go together, for headerless frames; size is
    (width, height) in pixels, ``raw_pixel_format`` ffmpeg's name."""

    raw_size: tuple[int, int] | None = None
    raw_fps: Fraction | None = None
    raw_pixel_format: str | None = None
    deinterlace: bool = False
    to_420: bool = False

    @property
    def is_raw(self) -> bool:
        """Is the source headerless frames?"""
        return self.raw_size is not None


def conversion(info: ClipInfo, options: SourceOptions) -> tuple[VideoFormat, tuple[Filter, ...]]:
    """The format after preparation and the filters that get there (often none).

    Raises InputError naming the option where a conversion is needed that was not asked for.
    """
    filters: tuple[Filter, ...] = ()
    if info.is_interlaced:
        if not options.deinterlace:
            raise InputError(
                f"expected progressive video, got interlaced in {info.path}; give --deinterlace "
                "to turn every pair of fields into a frame"
            )
        filters = (("bwdif", (("mode", "send_frame"),)),)
    if info.pixel_format in PLANAR_420_FORMATS:
        # A lossless copy of yuvj420p needs its plain name, and must not be squeezed meanwhile.
        is_renamed = bool(filters) and info.pixel_format != info.format.pixel_format
        return info.format, filters + (_convert(info, info.format) if is_renamed else ())
    if not options.to_420:
        raise InputError(
            f"expected 4:2:0 with 8 or 10 bits, got {info.pixel_format} in {info.path}; give "
            "--to-420 to convert it"
        )
    wanted = replace(info.format, colour=_converted_colour(info))
    return wanted, filters + _convert(info, wanted)


def _is_rgb(info: ClipInfo) -> bool:
    layout = av.VideoFormat(info.pixel_format, 16, 16)
    return bool(layout.is_rgb or layout.has_palette)


def _converted_colour(info: ClipInfo) -> Colour:
    colour = replace(info.format.colour, chroma_location="left")
    if not _is_rgb(info):
        return colour
    matrix = matrix_of(_UNSPECIFIED, info.format.height)
    code = 1 if matrix == "bt709" else 6
    return replace(colour, matrix=matrix, matrix_code=code, full_range=False)


def _convert(info: ClipInfo, wanted: VideoFormat) -> tuple[Filter, ...]:
    """swscale with nothing left to its guesses: matrix, range, siting (422 is sited left)."""
    colour_range = "full" if wanted.colour.full_range else "limited"
    arguments = {"out_color_matrix": wanted.colour.matrix, "out_range": colour_range}
    if not _is_rgb(info):
        arguments |= {"in_color_matrix": wanted.colour.matrix, "in_range": colour_range}
    if wanted.colour.chroma_location == "left":
        arguments |= {"in_h_chr_pos": "0", "out_h_chr_pos": "0", "out_v_chr_pos": "128"}
    arguments["flags"] = _CONVERSION_FLAGS
    return (
        ("scale", tuple(arguments.items())),
        ("format", (("pix_fmts", wanted.pixel_format),)),
    )
