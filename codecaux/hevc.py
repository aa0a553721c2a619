"""What of an H.265 file belongs to the stream and not to its container, as a hash.

A weights file names its stream by these hashes. They cover the coded slices (NAL units of type
0-31) and the parameter sets (VPS, SPS, PPS: 32-34) and leave out everything a remux may change:
start codes and lengths, delimiters, SEI, repeated parameter sets, timestamps. docs/format.md has
the exact definition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from codecaux.errors import InputError

__all__ = [
    "Extradata",
    "StreamHash",
    "coded_packets",
    "hash_start",
    "hash_stream",
    "nal_type",
    "open_video",
    "parse_extradata",
    "split_nal_units",
]

_DOMAIN = b"codecaux-hevc-1"
_VPS, _SPS, _PPS = 32, 33, 34
_LAST_VCL = 31
_START_CODE = b"\x00\x00\x01"
# Real streams have three to a few dozen parameter sets; the bound keeps memory flat.
_MAX_PARAMETER_SETS, _MAX_PARAMETER_BYTES = 4096, 1 << 22


@dataclass(frozen=True, slots=True)
class StreamHash:
    """SHA-256 in lower-case hexadecimal: of the whole stream, and of its start.

    The start is the parameter sets and the slices of the first access unit: enough to begin to
    play at once.
    """

    whole_sha256: str
    start_sha256: str


def hash_stream(path: Path) -> StreamHash:
    """Hash the first video stream of ``path`` (mp4, mov, mkv, mpegts, raw .hevc).

    Reads the file once, one packet in memory at a time. InputError where the file cannot be read,
    is not H.265, is encrypted or damaged, or holds no coded picture.
    """
    with open_video(path) as (container, stream):
        digest = _Digest(path, _hevc_extradata(path, stream))
        start = ""
        for packet in coded_packets(container, stream):
            digest.add(packet)
            if not start and digest.num_slices:
                start = digest.hexdigest()
    if not digest.num_slices:
        raise InputError(f"expected coded pictures in {path}, got none: encode the title again")
    return StreamHash(whole_sha256=digest.hexdigest(), start_sha256=start)


def hash_start(path: Path) -> str:
    """:attr:`StreamHash.start_sha256` alone, from the first packets of the file."""
    with open_video(path) as (container, stream):
        digest = _Digest(path, _hevc_extradata(path, stream))
        for packet in coded_packets(container, stream):
            digest.add(packet)
            if digest.num_slices:
                return digest.hexdigest()
    raise InputError(f"expected coded pictures in {path}, got none: encode the title again")


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container of ``path`` and its first video stream (cover pictures passed over).

    InputError where there is no such file or no video in it, and for PyAV's errors inside the
    block.
    """
    try:
        with av.open(f"file:{path}") as container:
            yield container, _first_video(path, container)
    except FileNotFoundError as error:
        raise InputError(f"expected a video at {path}, got no such file") from error
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"expected a readable video at {path}, got: {error}") from error


def coded_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets of ``stream`` in decoding order, without the empty one that ends a demux."""
    for packet in container.demux(stream):
        if packet.size:
            yield packet


def split_nal_units(data: bytes, length_bytes: int | None) -> Iterator[memoryview]:
    """The NAL units in ``data``, without lengths, start codes and trailing zero bytes.

    ``length_bytes`` is the size of the big-endian length before each unit (1, 2 or 4), or None for
    Annex B start codes. ValueError where a length runs past the end.
    """
    units = _split_annex_b(data) if length_bytes is None else _split_lengths(data, length_bytes)
    for begin, end in units:
        # A NAL unit never ends in a zero byte: what is there is Annex B's padding.
        while end > begin and data[end - 1] == 0:
            end -= 1
        if end > begin:
            yield memoryview(data)[begin:end]


def _split_lengths(data: bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < len(data):
        begin = position + length_bytes
        position = begin + int.from_bytes(data[position:begin], "big")
        if begin > len(data) or position > len(data):
            raise ValueError("a NAL unit's length runs past the end of its packet")
        yield begin, position


def _split_annex_b(data: bytes) -> Iterator[tuple[int, int]]:
    begin = data.find(_START_CODE)
    if begin < 0 or data[:begin].strip(b"\x00"):
        raise ValueError("a packet does not begin with a start code")
    while begin >= 0:
        following = data.find(_START_CODE, begin + 3)
        yield begin + 3, following if following >= 0 else len(data)
        begin = following


@dataclass(slots=True)
class Extradata:
    """Parameter sets outside the packets, and how the packets' NAL units are delimited."""

    parameter_sets: list[bytes]
    length_bytes: int | None


def parse_extradata(data: bytes) -> Extradata:
    """Annex B (or nothing), else an hvcC record: ISO/IEC 14496-15, 8.3.3.1.

    ValueError where the record is cut short.
    """
    if not data:
        return Extradata([], None)
    if data.startswith((_START_CODE, b"\x00" + _START_CODE)):
        return Extradata([bytes(unit) for unit in split_nal_units(data, None)], None)
    if len(data) < 23:
        raise ValueError("the hvcC record is shorter than 23 bytes")
    length_bytes = (data[21] & 3) + 1
    units: list[bytes] = []
    position = 23
    for _ in range(data[22]):
        count = int.from_bytes(data[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            size = int.from_bytes(data[position : position + 2], "big")
            units.append(data[position + 2 : position + 2 + size])
            position += 2 + size
            if position > len(data):
                raise ValueError("the hvcC record is cut short")
    return Extradata(units, length_bytes)


class _Digest:
    """Parameter sets and slices seen so far, out of a container's extradata and its packets."""

    def __init__(self, path: Path, extradata: bytes) -> None:
        self._path = path
        self._length_bytes: int | None = None
        self._parameter_sets: set[bytes] = set()
        self._parameter_bytes = 0
        self._slices = hashlib.sha256()
        self.num_slices = 0
        self._read_extradata(extradata)

    def add(self, packet: Packet[VideoStream]) -> None:
        """Take in one packet; InputError where it is not H.265 as its container says."""
        if packet.has_sidedata("new_extradata"):
            self._read_extradata(bytes(packet.get_sidedata("new_extradata")))
        if packet.has_sidedata("encryption_info"):
            raise self._damaged("its packets are encrypted")
        try:
            for unit in split_nal_units(bytes(packet), self._length_bytes):
                self._add_unit(unit)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def hexdigest(self) -> str:
        """SHA-256 over the sorted set of parameter sets and the digest of the slices so far."""
        digest = hashlib.sha256(_DOMAIN)
        digest.update(len(self._parameter_sets).to_bytes(8, "big"))
        for unit in sorted(self._parameter_sets):
            digest.update(len(unit).to_bytes(8, "big"))
            digest.update(unit)
        digest.update(self.num_slices.to_bytes(8, "big"))
        digest.update(self._slices.digest())
        return digest.hexdigest()

    def _read_extradata(self, data: bytes) -> None:
        try:
            extradata = parse_extradata(data)
            for unit in extradata.parameter_sets:
                if nal_type(unit) in (_VPS, _SPS, _PPS):
                    self._add_parameter_set(unit.rstrip(b"\x00"))
        except ValueError as error:
            raise self._damaged(str(error)) from error
        self._length_bytes = extradata.length_bytes

    def _add_unit(self, unit: memoryview) -> None:
        kind = nal_type(unit)
        if kind <= _LAST_VCL:
            self._slices.update(len(unit).to_bytes(8, "big"))
            self._slices.update(unit)
            self.num_slices += 1
        elif kind in (_VPS, _SPS, _PPS):
            self._add_parameter_set(bytes(unit))

    def _add_parameter_set(self, unit: bytes) -> None:
        if unit in self._parameter_sets:
            return
        self._parameter_bytes += len(unit)
        self._parameter_sets.add(unit)
        if (
            len(self._parameter_sets) > _MAX_PARAMETER_SETS
            or self._parameter_bytes > _MAX_PARAMETER_BYTES
        ):
            raise self._damaged(f"more than {_MAX_PARAMETER_SETS} parameter sets or 4 MiB of them")

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"expected a whole, unencrypted H.265 stream in {self._path}, got a damaged one: "
            f"{what}; encode the title again, or copy the file again"
        )


def nal_type(unit: bytes | memoryview) -> int:
    """nal_unit_type: six bits after the forbidden zero bit (H.265, 7.3.1.2)."""
    if len(unit) < 2 or unit[0] & 0x80:
        raise ValueError("a NAL unit without a valid header")
    return (unit[0] >> 1) & 0x3F


def _first_video(path: Path, container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise InputError(f"expected a video stream in {path}, got none: name the coded title")


def _hevc_extradata(path: Path, stream: VideoStream) -> bytes:
    context = stream.codec_context
    # PyAV's stubs deny it, but a stream that no decoder knows (encrypted, say) has no context.
    name = context.name if context is not None else "an unknown codec"
    if name != "hevc":
        raise InputError(
            f"expected an H.265 stream in {path}, got {name}: weights belong to the stream that "
            "`codecaux encode` wrote"
        )
    return bytes(context.extradata or b"")
