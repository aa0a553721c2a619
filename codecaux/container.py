"""Bytes <-> named arrays: one zstd frame around one safetensors file, read as if it were hostile.

zstandard's own limits do not hold (``max_output_size`` is ignored when a frame declares its size,
trailing bytes and further frames are accepted), so the frame's header is checked first, every size
is bounded before memory is asked for, and what comes out is compared with what was declared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import safetensors
import zstandard

from codecaux.errors import WeightsFormatError, WeightsTooLargeError

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_INFLATED_BYTES",
    "Archive",
    "compress",
    "inflate",
    "parse_archive",
    "parse_json",
    "serialise_archive",
]

MAX_FILE_BYTES = 32 << 20
MAX_INFLATED_BYTES = 64 << 20
MAX_HEADER_BYTES = 4 << 20
# Seven for each of 4096 sets, and some: more would only take time to refuse.
_MAX_ARRAYS = 1 << 15
_WINDOW_LOG = 23
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_METADATA_KEY = "__metadata__"
_DTYPES: dict[str, npt.DTypeLike] = {"U8": np.dtype("u1"), "F32": np.dtype("<f4")}

Array = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """One safetensors file: its text metadata and its one-dimensional U8 or F32 arrays."""

    metadata: Mapping[str, str]
    arrays: Mapping[str, Array]


def serialise_archive(archive: Archive) -> list[bytes]:
    """A safetensors file in parts: its header, then the data of one array after the other.

    The bytes depend on nothing but ``archive``. (The library's own writer orders metadata by a
    hash that changes from run to run.) Metadata keys are sorted; arrays stand in the mapping's
    order, those of four bytes an element first so that everything is aligned.
    """
    ordered = sorted(archive.arrays.items(), key=lambda item: -item[1].itemsize)
    header: dict[str, object] = {_METADATA_KEY: dict(sorted(archive.metadata.items()))}
    position = 0
    for name, array in ordered:
        dtype = "F32" if array.dtype == np.float32 else "U8"
        assert array.ndim == 1, f"expected a flat array {name}, got {array.shape}"
        offsets = [position, position + array.nbytes]
        header[name] = {"dtype": dtype, "shape": [array.size], "data_offsets": offsets}
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    bodies = [array.astype(array.dtype.newbyteorder("<")).tobytes() for _, array in ordered]
    return [len(text).to_bytes(8, "little") + text, *bodies]


def compress(parts: Sequence[bytes]) -> bytes:
    """``parts`` as one zstd frame with content size and checksum, a window of at most 8 MiB.

    Planes of packed bits gain 3-7 % over plain level 19 where each part begins a block of its own
    (statistics differ) and short matches, which are accidents, are not taken. No one choice is
    best at every density, so the smallest of a few frames is kept.
    """
    size = sum(map(len, parts))
    if size > MAX_INFLATED_BYTES:
        raise WeightsTooLargeError(
            f"expected at most {MAX_INFLATED_BYTES} bytes of weights, got {size}: "
            "use fewer weight sets or a smaller net"
        )
    choices = _CHOICES if size <= _THOROUGH_BYTES else _CHOICES[:1]
    smallest = min((_compress(parts, size, choice) for choice in choices), key=len)
    _check_file_size(len(smallest))
    return smallest


@dataclass(frozen=True, slots=True)
class _Choice:
    """How to cut a frame into blocks (None: zstd's own way), and the shortest match to take."""

    level: int
    block_bytes: int | None
    min_match: int


_CHOICES = (
    _Choice(19, 4096, 6),
    _Choice(22, 4096, 5),
    _Choice(22, 1 << 17, 6),
    _Choice(22, 1 << 17, 5),
    _Choice(22, None, 3),
)
# Level 22 takes about a second a megabyte: above this, the first choice alone.
_THOROUGH_BYTES = 4 << 20


def _compress(parts: Sequence[bytes], size: int, choice: _Choice) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        choice.level,
        source_size=size,
        window_log=_window_log(size),
        min_match=choice.min_match,
        write_checksum=True,
        write_content_size=True,
        write_dict_id=False,
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    if choice.block_bytes is None:
        return compressor.compress(b"".join(parts))
    frame = compressor.compressobj(size=size)
    result = []
    for part in parts:
        for start in range(0, len(part), choice.block_bytes):
            result.append(frame.compress(part[start : start + choice.block_bytes]))
            result.append(frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    result.append(frame.flush())
    return b"".join(result)


def _window_log(size: int) -> int:
    """The smallest window that holds everything, of 2^10 to 2^23: then the frame names none."""
    return min(_WINDOW_LOG, max(10, (max(size, 1) - 1).bit_length()))


def inflate(data: bytes) -> bytes:
    """The content of the one zstd frame that ``data`` must be.

    At most MAX_INFLATED_BYTES are ever allocated. WeightsFormatError for anything that is not
    exactly one whole frame as :func:`compress` writes it, WeightsTooLargeError beyond a cap.
    """
    _check_file_size(len(data))
    _check_magic(data)
    content_bytes = _declared_size(data)
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
    try:
        content = decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        _refuse_frame(str(error))
    except MemoryError as error:
        raise WeightsTooLargeError(
            f"expected memory for {content_bytes} bytes of weights, got none: close other programs"
        ) from error
    if len(content) != content_bytes:
        _refuse_frame(f"{content_bytes} bytes declared, {len(content)} found")
    return content


def _check_file_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise WeightsTooLargeError(
            f"expected a weights file of at most {MAX_FILE_BYTES} bytes, got {size} or more: "
            "is this the right file?"
        )


def _check_magic(data: bytes) -> None:
    if data[:4] == _ZSTD_MAGIC:
        return
    what = "another kind of file"
    if not data:
        what = "an empty file"
    elif _ZSTD_MAGIC.startswith(data[:4]):
        what = f"a file cut after {len(data)} bytes"
    elif data[4:8] == b"ftyp" or data[:4] == b"\x1a\x45\xdf\xa3":
        what = "a video: the stream comes first, the weights second"
    elif data[8:9] == b"{":
        what = "a bare safetensors file: compress it with `zstd` if it is codecaux's"
    raise WeightsFormatError(
        f"this is not a weights file: expected a zstd frame (28 b5 2f fd), got {data[:4].hex(' ')}"
        f" ({what})"
    )


def _declared_size(data: bytes) -> int:
    """The frame's content size, after everything its header says has been checked."""
    try:
        frame = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError as error:
        _refuse_frame(str(error))
    size = frame.content_size
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        _refuse_frame("it does not say its content's size")
    if size > MAX_INFLATED_BYTES:
        raise WeightsTooLargeError(
            f"expected at most {MAX_INFLATED_BYTES} bytes in a weights file, it declares {size}: "
            "do not use this file"
        )
    if frame.dict_id or data[4] & 0x03:
        _refuse_frame("it asks for a dictionary")
    if not frame.has_checksum:
        _refuse_frame("it has no checksum")
    # Bit 4 means nothing to zstd and a window that is not needed changes nothing: held to what
    # compress() writes, so that no flipped bit of a header passes unseen.
    single_segment = bool(data[4] & 0x20)
    if data[4] & 0x18 or single_segment != (size <= 1 << _WINDOW_LOG):
        _refuse_frame("its header is not as codecaux writes it")
    if not single_segment and frame.window_size != 1 << _WINDOW_LOG:
        _refuse_frame(f"expected a window of {1 << _WINDOW_LOG} bytes, got {frame.window_size}")
    return size


def _refuse_frame(what: str) -> NoReturn:
    lower = what.lower()
    if "checksum" in lower and "doesn't match" in lower:
        what = "its checksum does not match, so it was changed after it was made"
    elif "unused data" in lower:
        what = f"there is something after its end ({what})"
    elif "full frame" in lower or "incorrect" in lower or "not enough data" in lower:
        what = f"it is cut short ({what})"
    raise WeightsFormatError(
        f"expected one whole zstd frame with content size and checksum; {what}. "
        "Copy the file again, or encode the title again"
    )


def parse_archive(data: bytes) -> Archive:
    """The safetensors file that ``data`` must be, with nothing but flat U8 and F32 arrays.

    The header is checked here (size, JSON without repeated names, types and sizes) and the layout
    by safetensors' own parser: contiguous, without holes, exactly as long as the file.
    """
    header = _header(data)
    metadata = header.pop(_METADATA_KEY, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WeightsFormatError("expected text in the metadata: the file is damaged")
    if len(header) > _MAX_ARRAYS:
        raise WeightsTooLargeError(f"expected at most {_MAX_ARRAYS} arrays, got {len(header)}")
    for name, entry in header.items():
        _check_entry(name, entry)
    try:
        tensors = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise WeightsFormatError(
            f"expected a safetensors file inside the zstd frame, got: {str(error)[:200]}"
        ) from error
    return Archive(metadata, {name: _array(header[name], t["data"]) for name, t in tensors})


def _header(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise WeightsTooLargeError(
            f"expected a safetensors header of at most {MAX_HEADER_BYTES} bytes, got {size}"
        )
    if len(data) < 8 + size:
        raise WeightsFormatError(
            f"expected a safetensors header of {size} bytes, got {max(0, len(data) - 8)} bytes: "
            "the file is cut short"
        )
    try:
        text = data[8 : 8 + size].decode()
    except UnicodeDecodeError as error:
        raise WeightsFormatError("the safetensors header is not UTF-8 text") from error
    header = parse_json(text, "the safetensors header")
    if not isinstance(header, dict):
        raise WeightsFormatError("expected a JSON object as the safetensors header")
    return header


def _check_entry(name: str, entry: object) -> None:
    if isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if (
            isinstance(dtype, str)
            and dtype in _DTYPES
            and _are_counts(shape, 1)
            and _are_counts(offsets, 2)
            and offsets[1] - offsets[0] == shape[0] * np.dtype(_DTYPES[dtype]).itemsize
        ):
            return
    raise WeightsFormatError(
        f"expected a flat array of U8 or F32, got something else for {name[:64]!r}"
    )


def _are_counts(values: object, length: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == length
        and all(type(v) is int and 0 <= v <= MAX_INFLATED_BYTES for v in values)
    )


def _array(entry: Mapping[str, Any], data: bytearray) -> Array:
    return np.frombuffer(data, dtype=_DTYPES[entry["dtype"]])


def parse_json(text: str, what: str) -> Any:
    """JSON without repeated names, NaN and infinities; WeightsFormatError names ``what``."""
    try:
        return json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WeightsFormatError(f"{what} is not valid JSON: {str(error)[:200]}") from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
