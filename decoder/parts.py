"""The parts of a segmented track put together again: one file that decodes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from codecaux.errors import InputError

__all__ = ["join_parts"]

_CHUNK_BYTES = 1 << 20
_BOX_HEADER_BYTES = 8


def join_parts(parts: Sequence[Path], target: Path) -> None:
    """Write ``parts`` (an init segment, then media segments) one after the other to ``target``.

    InputError where a part is missing or unreadable, the first is no mp4 (it must begin with an
    ``ftyp`` box: what it is must not be left to a guess), or the disk is too full for the whole.
    """
    needed = sum(_size_of(part) for part in parts)
    if needed > shutil.disk_usage(target.parent).free:
        raise InputError(
            f"expected {needed} bytes of free space in {target.parent} for the joined segments, "
            "got less; free some, or set TMPDIR to a larger place"
        )
    try:
        with target.open("wb") as file:
            for index, part in enumerate(parts):
                with part.open("rb") as source:
                    if index == 0:
                        _check_is_mp4(source.read(_BOX_HEADER_BYTES), part)
                        source.seek(0)
                    shutil.copyfileobj(source, file, _CHUNK_BYTES)
    except OSError as error:
        raise InputError(f"expected to join segments in {target}, got: {error}") from error


def _size_of(part: Path) -> int:
    try:
        return part.stat().st_size if part.is_file() else _missing(part)
    except OSError as error:
        raise InputError(f"expected a segment at {part}, got: {error.strerror}") from error


def _missing(part: Path) -> int:
    raise InputError(
        f"expected a segment at {part}, got no such file; copy the ladder's folder again, whole"
    )


def _check_is_mp4(header: bytes, part: Path) -> None:
    if header[4:] != b"ftyp":
        raise InputError(
            f"expected an mp4 init segment at {part}, got something else; copy the ladder's "
            "folder again"
        )
