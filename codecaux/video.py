"""The data types that flow through everything: a clip's description, a frame, a geometry.

Pure: no torch, no ffmpeg, no PyAV. Sizes are luma pixels, times are integer pts in a Fraction
time base, rates are Fractions. Sample values are as decoded (8 bit in uint8, more in uint16).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from codecaux.errors import InputError, UsageError

__all__ = [
    "ChromaLocation",
    "ClipInfo",
    "Colour",
    "Frame",
    "Geometry",
    "Matrix",
    "VideoFormat",
    "cropped",
]

Matrix = Literal["bt601", "bt709", "bt2020"]
ChromaLocation = Literal["left", "center", "topleft"]
SampleArray = npt.NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, slots=True)
class Colour:
    """How code values become light, as the stream says (or as its size suggests).

    ``primaries`` and ``transfer`` are carried, never interpreted: H.273 integers, 2 = unspecified.
    ``matrix_code`` is the H.273 integer of the stream; ``matrix`` what we compute with.
    """

    matrix: Matrix = "bt709"
    full_range: bool = False
    chroma_location: ChromaLocation = "left"
    primaries: int = 2
    transfer: int = 2
    matrix_code: int = 2


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """What one must know to interpret a frame's planes: 4:2:0, 8 or 10 bit, size in luma pixels."""

    width: int
    height: int
    bit_depth: int = 8
    colour: Colour = Colour()

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"expected a picture of at least 1x1, got {self.width}x{self.height}")
        if self.bit_depth not in (8, 10):
            raise InputError(f"expected 8 or 10 bits a sample, got {self.bit_depth}")

    @property
    def chroma_width(self) -> int:
        """Width of u and v in chroma samples, rounded up."""
        return (self.width + 1) // 2

    @property
    def chroma_height(self) -> int:
        """Height of u and v in chroma samples, rounded up."""
        return (self.height + 1) // 2

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Type of one sample as decoded: uint8, or uint16 for 10 bit."""
        return np.uint8 if self.bit_depth == 8 else np.uint16

    @property
    def peak(self) -> int:
        """Largest code value: 255 or 1023."""
        return (1 << self.bit_depth) - 1

    @property
    def pixel_format(self) -> str:
        """ffmpeg's name of this sample layout (little-endian where wider than a byte)."""
        return "yuv420p" if self.bit_depth == 8 else "yuv420p10le"

    @property
    def frame_bytes(self) -> int:
        """Bytes of the three planes of one frame, two a sample for 10 bit."""
        samples = self.width * self.height + 2 * self.chroma_width * self.chroma_height
        return samples * (1 if self.bit_depth == 8 else 2)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture as decoded: planes [H, W], [ceil(H/2), ceil(W/2)] x 2, and its pts.

    ``pts`` counts the clip's ``time_base``. Planes may be views of a decoder's memory: treat as
    read-only, copy before keeping. ``is_keyframe``: decoding can start there. ``neighbours``: see
    :class:`Neighbours`; None where nobody has looked.
    """

    y: SampleArray
    u: SampleArray
    v: SampleArray
    pts: int
    is_keyframe: bool = False
    neighbours: Neighbours | None = None

    @property
    def planes(self) -> tuple[SampleArray, SampleArray, SampleArray]:
        """y [H, W], u and v [ceil(H/2), ceil(W/2)], code values."""
        return self.y, self.u, self.v


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The frames shown just before and after one, without their own neighbours.

    None where there is none, and across a keyframe: a frame from which decoding starts has none
    before it, and the one shown before it none after. So a player that starts at any keyframe has
    the same neighbours as one that plays through, and a scene knows nothing of the next.
    """

    before: Frame | None
    after: Frame | None


def cropped(frame: Frame, format: VideoFormat) -> Frame:
    """The picture without what it was padded with: the upper left ``format`` of it."""
    y, u, v = frame.planes
    chroma = (slice(format.chroma_height), slice(format.chroma_width))
    return replace(frame, y=y[: format.height, : format.width], u=u[chroma], v=v[chroma])


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What a file's header and first frame say about its first video stream.

    ``from_header`` values are claims of the container and may be wrong or missing.
    ``pixel_format`` is ffmpeg's name; ``log2_chroma_w/h`` are 1, 1 for 4:2:0.
    """

    path: Path
    format: VideoFormat
    pixel_format: str
    log2_chroma_w: int
    log2_chroma_h: int
    codec_name: str
    time_base: Fraction
    average_fps: Fraction
    num_frames_from_header: int | None = None
    duration_seconds_from_header: float | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    is_interlaced: bool = False
    rotation_degrees: int = 0
    has_audio: bool = False
    has_subtitles: bool = False

    @property
    def is_hdr(self) -> bool:
        """PQ (16) or HLG (18) transfer."""
        return self.format.colour.transfer in (16, 18)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a source's size, the coded stream's size and the scale factor hang together.

    The source is padded on the right and the bottom by fewer than 6 pixels (edge replicated) so
    that padded = scale * coded holds exactly and both are even, so for their chroma too: no phase
    drift, any source size works. The player crops the enhanced picture to the source size.
    """

    source_width: int
    source_height: int
    scale: Fraction

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            known = ", ".join(str(float(s)).removesuffix(".0") for s in SCALES)
            raise UsageError(f"expected a scale of {known}, got {self.scale}")

    @property
    def coded_width(self) -> int:
        """Width of the coded stream in luma pixels, even."""
        return _coded_size(self.source_width, self.scale)

    @property
    def coded_height(self) -> int:
        """Height of the coded stream in luma pixels, even."""
        return _coded_size(self.source_height, self.scale)

    @property
    def padded_width(self) -> int:
        """Width of the padded source in luma pixels: scale * coded."""
        return int(self.coded_width * self.scale)

    @property
    def padded_height(self) -> int:
        """Height of the padded source in luma pixels: scale * coded."""
        return int(self.coded_height * self.scale)


SCALES = (Fraction(2), Fraction(3, 2), Fraction(1))


def _coded_size(size: int, scale: Fraction) -> int:
    """Smallest size with scale * coded >= size where both are even (at 3/2 a multiple of 4)."""
    step = 2 * scale.denominator
    return step * -(-size // int(step * scale))
