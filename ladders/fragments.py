"""Sound cut at given times: what ffmpeg wrote into mp4 fragments, stored again in other ones.

ffmpeg cuts a track of sound every so many seconds and no other way. Pictures of a varying rate have
segments of varying length, and sound has to follow them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import av

from codecaux.decoder.parts import join_parts
from codecaux.ladderindex import INIT_NAME, segment_name

__all__ = ["recut_sound"]

# ISO/IEC 14496-12, 8.8.7 and 8.8.8: offsets count from the moof; which fields are there.
_TFHD_FLAGS = 0x02003A
_TRUN_OFFSET, _TRUN_DURATIONS, _TRUN_SIZES = 0x000001, 0x000100, 0x000200
# No frame of sound depends on another one.
_SYNC_SAMPLE = 0x02000000


@dataclass(frozen=True, slots=True)
class _Frame:
    """One coded frame of sound, in ticks of its track."""

    pts: int
    duration: int
    data: bytes


def recut_sound(
    folder: Path, files: Sequence[Path], starts: Sequence[Fraction], end: Fraction
) -> Fraction:
    """Store ``files``, the segments of sound in ``folder``, as others that begin at ``starts``.

    ``starts`` and ``end`` are seconds, of the pictures' segments and of the last one's end. Each
    new segment begins with the first frame at or after its start; where there is none before the
    next start, there is no such segment. What begins at or after ``end`` is left out: returns how
    many seconds. Where that is everything, there is no segment.
    """
    head = files[0].read_bytes()
    styp, first_moof = _box(head, b"styp"), _box(head, b"moof")
    whole = folder / "whole.mp4"
    join_parts((folder / INIT_NAME, *files), whole)
    for path in files:
        path.unlink()
    with av.open(f"file:{whole}") as container:
        stream: Any = container.streams.audio[0]
        cutter = _Cutter(folder, styp, _decode_time(first_moof), stream.time_base)
        left_out = cutter.cut(_frames(container, stream), starts, end)
    whole.unlink()
    return left_out


@dataclass(slots=True)
class _Cutter:
    """Writes segments. ``first_decode_time``: of the track's first frame, which an edit list may
    show earlier; ``time_base``: seconds in a tick.
    """

    folder: Path
    styp: bytes
    first_decode_time: int
    time_base: Fraction

    def cut(self, frames: Iterator[_Frame], starts: Sequence[Fraction], end: Fraction) -> Fraction:
        """All of them; the seconds of sound that begin at or after ``end``."""
        borders = [*starts[1:], end]
        shift, number = None, 0
        heard = left_out = Fraction(0)
        for place, group in groupby(
            frames, lambda frame: bisect_right(borders, frame.pts * self.time_base)
        ):
            if place == len(borders):
                # Hours perhaps: not kept.
                last = max(frame.pts + frame.duration for frame in group)
                left_out = last * self.time_base - max(heard, end)
                continue
            run = list(group)
            if shift is None:
                shift = self.first_decode_time - run[0].pts
            number, heard = number + 1, (run[-1].pts + run[-1].duration) * self.time_base
            data = self.styp + _fragment(number, run[0].pts + shift, run)
            (self.folder / segment_name(number)).write_bytes(data)
        return left_out


def _frames(container: Any, stream: Any) -> Iterator[_Frame]:
    for packet in container.demux(stream):
        if packet.size:
            yield _Frame(packet.pts, packet.duration or 0, bytes(packet))


def _fragment(number: int, decode_time: int, frames: Sequence[_Frame]) -> bytes:
    """``moof`` and ``mdat`` of some frames that follow one another. Pure."""
    # Not a frame's own duration: files that count milliseconds have it rounded.
    durations = [later.pts - frame.pts for frame, later in pairwise(frames)]
    durations.append(frames[-1].duration)
    sizes = [len(frame.data) for frame in frames]
    flags = _TRUN_OFFSET
    columns = []
    for flag, column in ((_TRUN_DURATIONS, durations), (_TRUN_SIZES, sizes)):
        if len(set(column)) > 1:
            flags |= flag
            columns.append(column)
    table = b"".join(_u32(*row) for row in zip(*columns, strict=True))
    tfhd = _made(b"tfhd", _u32(_TFHD_FLAGS, 1, 1, durations[0], sizes[0], _SYNC_SAMPLE))
    tfdt = _made(b"tfdt", _u32(1 << 24) + decode_time.to_bytes(8, "big"))
    mfhd = _made(b"mfhd", _u32(0, number))

    def moof(offset: int) -> bytes:
        trun = _made(b"trun", _u32(flags, len(frames), offset) + table)
        return _made(b"moof", mfhd + _made(b"traf", tfhd + tfdt + trun))

    # The first frame lies behind the moof and the mdat's own eight bytes.
    data = b"".join(frame.data for frame in frames)
    return moof(len(moof(0)) + 8) + _made(b"mdat", data)


def _u32(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "big") for value in values)


def _made(kind: bytes, payload: bytes) -> bytes:
    return _u32(8 + len(payload)) + kind + payload


def _box(data: bytes, kind: bytes) -> bytes:
    """The first box of a kind among those of ``data``, whole; empty where there is none."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == kind:
            return data[position : position + size]
        position += max(8, size)
    return b""


def _decode_time(moof: bytes) -> int:
    tfdt = _box(_box(moof[8:], b"traf")[8:], b"tfdt")
    return int.from_bytes(tfdt[12:], "big")
