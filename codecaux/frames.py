"""Decoded pictures of a file, one after the other, in bounded memory, through PyAV."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import av.error
import numpy as np

from codecaux.errors import CodecauxError, InputError
from codecaux.probe import PLANAR_420_FORMATS, open_video, probe
from codecaux.video import ClipInfo, Frame, Neighbours, SampleArray

__all__ = [
    "count_frames",
    "decode_pictures",
    "read_frames",
    "require_planar_420",
    "with_neighbours",
]


def read_frames(path: Path, *, info: ClipInfo | None = None, threads: int = 0) -> Iterator[Frame]:
    """Every picture of the first video stream in presentation order, as decoded.

    Planes are contiguous copies: uint8, or uint16 for 10 bit. ``pts`` counts ``info.time_base``
    (a file without timestamps: the picture's index). Each has its neighbours: it is decoded one
    picture ahead. ``threads`` 0: as many as the machine has.
    Closing the generator closes the file. Raises InputError: a layout other than 4:2:0 with 8 or
    10 bit, a decoding error, a change of size; from the middle of a file it names the picture.
    """
    info = info if info is not None else probe(path)
    require_planar_420(info)
    with closing(_decoded(path, info, threads)) as frames:
        yield from with_neighbours(frames)


def _decoded(path: Path, info: ClipInfo, threads: int) -> Generator[Frame, None, None]:
    for index, picture in enumerate(decode_pictures(path, threads=threads)):
        _check_same(info, picture, index)
        pts = index if picture.pts is None else int(picture.pts)
        yield _to_frame(picture, pts, is_wide=info.format.bit_depth > 8)


def with_neighbours(frames: Iterable[Frame]) -> Iterator[Frame]:
    """``frames`` in order of presentation, each with its neighbours; one is read ahead.

    What ``frames`` raises comes after all of the frames before it.
    """
    iterator = iter(frames)
    before: Frame | None = None
    frame = next(iterator, None)
    while frame is not None:
        failure: CodecauxError | None = None
        after: Frame | None = None
        try:
            after = next(iterator, None)
        except CodecauxError as error:
            failure = error
        known = Neighbours(
            before=None if frame.is_keyframe else before,
            after=None if after is None or after.is_keyframe else after,
        )
        yield replace(frame, neighbours=known)
        if failure is not None:
            raise failure
        before, frame = frame, after


def count_frames(path: Path) -> int:
    """Number of pictures that decode (not what the header says). Raises InputError as above."""
    return sum(1 for _ in decode_pictures(path))


def require_planar_420(info: ClipInfo) -> None:
    """Raises InputError naming the way out, unless frames can be used as decoded."""
    if info.pixel_format not in PLANAR_420_FORMATS:
        raise InputError(
            f"expected 4:2:0 pictures of 8 or 10 bits ({', '.join(PLANAR_420_FORMATS)}), got "
            f"{info.pixel_format} in {info.path}; encode it with --to-420, which converts it"
        )


def decode_pictures(path: Path, *, threads: int = 0) -> Iterator[Any]:
    """PyAV's own frames of the first video stream; the memory is the decoder's.

    Raises InputError naming the picture where decoding fails or a picture is flagged corrupt.
    """
    index = 0
    with open_video(path, threads) as source:
        pictures = source.container.decode(source.stream)
        while True:
            try:
                picture = next(pictures, None)
            except (av.error.FFmpegError, OSError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise _damaged(path, index, f"decoding fails there ({reason})") from error
            if picture is None:
                return
            if picture.is_corrupt:
                raise _damaged(path, index, "the decoder says that picture is corrupt")
            yield picture
            index += 1


def _damaged(path: Path, index: int, what: str) -> InputError:
    return InputError(
        f"expected {path} to decode to its end, got {index} good frames: at frame {index} {what}; "
        "the file is damaged or cut short: fetch or export it again"
    )


def _check_same(info: ClipInfo, picture: Any, index: int) -> None:
    expected = (info.format.width, info.format.height, info.pixel_format)
    got = (picture.width, picture.height, picture.format.name)
    if got != expected:
        raise InputError(
            f"expected every frame of {info.path} to be {expected[0]}x{expected[1]} {expected[2]}, "
            f"got {got[0]}x{got[1]} {got[2]} at frame {index}; split the file where it changes"
        )


def _to_frame(picture: Any, pts: int, *, is_wide: bool) -> Frame:
    y, u, v = (_plane(plane, is_wide=is_wide) for plane in picture.planes)
    return Frame(y, u, v, pts, is_keyframe=bool(picture.key_frame))


def _plane(plane: Any, *, is_wide: bool) -> SampleArray:
    """A contiguous copy [height, width] without the padding at the end of each line."""
    rows: SampleArray = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    used = rows[:, : plane.width * (2 if is_wide else 1)].copy()
    return used.view("<u2").astype(np.uint16, copy=False) if is_wide else used
