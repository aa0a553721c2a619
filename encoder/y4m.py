"""Uncompressed frames: how large one is, and whether a y4m ends with a whole one.

A y4m is a header line, then per frame a ``FRAME`` line and the planes. ffmpeg drops a cut last
frame without a word; here it is an error.
"""

from __future__ import annotations

from typing import IO

import av

from codecaux.errors import InputError
from codecaux.video import ClipInfo

__all__ = [
    "check_y4m_file",
    "check_y4m_whole",
    "frame_bytes_of",
    "read_y4m_header",
    "y4m_first_frame_bytes",
]

_MAGIC = b"YUV4MPEG2"
_HEADER_LIMIT_BYTES = 4096
_FRAME_LINE = b"FRAME\n"
_SLACK_BYTES = 64
_MOST_BYTES_PER_PIXEL = 8  # 4:4:4 with alpha, 16 bits


def frame_bytes_of(pixel_format: str, width: int, height: int) -> int:
    """Bytes of one tightly packed frame in ffmpeg's ``pixel_format``, chroma sizes rounded up."""
    layout = av.VideoFormat(pixel_format, width, height)
    if not layout.is_planar:
        return layout.padded_bits_per_pixel * width * height // 8
    return sum(part.width * part.height * -(-part.bits // 8) for part in layout.components)


def read_y4m_header(stream: IO[bytes], name: str) -> bytes:
    """The first line with its end. Raises InputError where it is not y4m's."""
    header = stream.readline(_HEADER_LIMIT_BYTES)
    if not header.startswith(_MAGIC) or not header.endswith(b"\n"):
        got = repr(header[:16]) if header else "nothing"
        raise InputError(f"expected y4m on {name} (it starts with YUV4MPEG2), got {got}")
    return header


def y4m_first_frame_bytes(header: bytes) -> int:
    """So many bytes after the header surely hold the first frame, whatever its layout."""
    fields = {field[:1]: field[1:] for field in header.split()[1:]}
    try:
        return _SLACK_BYTES + int(fields[b"W"]) * int(fields[b"H"]) * _MOST_BYTES_PER_PIXEL
    except (KeyError, ValueError) as error:
        raise InputError(f"expected a y4m header with a size, got {header[:80]!r}") from error


def check_y4m_file(info: ClipInfo) -> None:
    """Raises InputError where ``info.path``, a y4m, ends in the middle of a frame."""
    with info.path.open("rb") as file:
        head = file.read(_HEADER_LIMIT_BYTES)
    check_y4m_whole(head, info.path.stat().st_size, info, str(info.path))


def check_y4m_whole(head: bytes, total_bytes: int, info: ClipInfo, name: str) -> None:
    """The same from the first bytes and the length of a stream called ``name``."""
    header, _, rest = head.partition(b"\n")
    if not rest.startswith(_FRAME_LINE):
        return  # FRAME lines with parameters may differ in length: nothing to count with
    frame_bytes = frame_bytes_of(info.pixel_format, info.format.width, info.format.height)
    whole, cut = divmod(total_bytes - len(header) - 1, len(_FRAME_LINE) + frame_bytes)
    if cut:
        raise InputError(
            f"{name} is truncated: got {whole} whole frames, and it ends after {cut} bytes of the "
            "next one; write it again"
        )
