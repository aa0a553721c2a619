"""What a weights file says about itself, and its strict reading: every field is untrusted.

Text in, text out: each field is one entry of the safetensors ``__metadata__``. docs/format.md
documents them one by one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias, cast, get_args

from codecaux.architecture import (
    SrUnetConfig,
    config_from_json,
    config_to_json,
    merged_parameter_count,
)
from codecaux.container import parse_json
from codecaux.errors import WeightsFormatError, WeightsTooLargeError
from codecaux.hevc import StreamHash
from codecaux.video import ChromaLocation, Colour, Geometry, Matrix

__all__ = [
    "FORMAT_NAME",
    "FORMAT_VERSION",
    "MAX_PARAMETERS",
    "MAX_RESETS",
    "Fusion",
    "Json",
    "WeightsMetadata",
    "metadata_from_text",
    "metadata_to_text",
    "network_version",
    "read_integer",
    "require",
]

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

FORMAT_NAME = "codecaux-weights"
FORMAT_VERSION = 3
# The oldest that can hold a recurrent net, or one of two heads and their fusion.
_NETWORK_VERSION = 3
# At most ten digits and a comma each: 64 KiB.
MAX_RESETS = 1 << 12
MAX_PARAMETERS = 1 << 22
MAX_SIDE = 1 << 15
MAX_FRAMES = 1 << 31
_MAX_TEXT_CHARS = 1 << 16
_MAX_NAME_CHARS = 128
_MAX_ENTRIES = 256
_MAX_DEPTH = 8
_MAX_INTEGER = 1 << 53


def network_version(architecture: SrUnetConfig) -> int:
    """The oldest format that can hold a network of ``architecture``."""
    return _NETWORK_VERSION if architecture.is_recurrent or architecture.heads > 1 else 1


@dataclass(frozen=True, slots=True)
class Fusion:
    """How the pictures of two heads become one (:mod:`codecaux.fusion`).

    ``exponent``, 0 to 4, of the mask: 1 is the paper's, less gives more of the picture to the
    perceptual head. ``sharpen``: strength of the sharpening of luma, 0 to 1.
    """

    exponent: float = 1.0
    sharpen: float = 0.0


@dataclass(frozen=True, slots=True)
class WeightsMetadata:
    """Everything a player needs to apply the weights, and everything a person wants to know.

    ``source_width`` and ``source_height`` are the enhanced picture's size in luma pixels;
    ``bit_depth`` (8 or 10) and ``colour`` its samples. ``stream`` names the coded stream that the
    weights belong to. ``base_id``: None where values are whole weights, else the base network that
    they are differences from. ``num_frames`` is the title's.

    ``codec``, ``tools`` (name -> version) and ``settings`` (the resolved configuration, JSON
    values) are for the record. ``scores`` maps "bicubic" and "enhanced" to metric -> value; what
    was not measured, or is not finite, is None. ``format_version`` is what a file that was read
    says; what is written says the oldest that can hold its sets and its network.

    ``resets``: the frames, rising, before which a recurrent net forgets: the scene cuts (the first
    frame and those where the weights change need no mention). Empty for other nets. ``fusion``: of
    a network of two heads, else None.
    """

    architecture: SrUnetConfig
    source_width: int
    source_height: int
    num_frames: int
    bit_depth: int
    colour: Colour
    stream: StreamHash
    base_id: str | None = None
    codec: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Json] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    created_by: str = ""
    format_version: int = 1
    resets: tuple[int, ...] = ()
    fusion: Fusion | None = None

    @property
    def geometry(self) -> Geometry:
        """Source, padded and coded sizes; the coded size is what the stream must have."""
        return Geometry(self.source_width, self.source_height, self.architecture.scale)


def metadata_to_text(metadata: WeightsMetadata) -> dict[str, str]:
    """The entries of ``__metadata__``, but for "sets", which the weights file adds."""
    entries = {
        "format": FORMAT_NAME,
        "format_version": str(metadata.format_version),
        "architecture": config_to_json(metadata.architecture),
        "base_id": metadata.base_id or "",
        "source_width": str(metadata.source_width),
        "source_height": str(metadata.source_height),
        "num_frames": str(metadata.num_frames),
        "bit_depth": str(metadata.bit_depth),
        "colour": _dump(asdict(metadata.colour)),
        "stream": _dump(asdict(metadata.stream)),
        "codec": _dump(dict(metadata.codec)),
        "settings": _dump(_finite(metadata.settings)),
        "tools": _dump(dict(metadata.tools)),
        "scores": _dump(_finite(metadata.scores)),
        "created_by": metadata.created_by,
    }
    if metadata.architecture.is_recurrent:
        entries["resets"] = _dump(metadata.resets)
    if metadata.fusion is not None:
        entries["fusion"] = _dump(asdict(metadata.fusion))
    return entries


def metadata_from_text(entries: Mapping[str, str]) -> WeightsMetadata:
    """Read and check :func:`metadata_to_text`'s entries; unknown further ones are passed over.

    WeightsFormatError names the first field that is missing, of another type or out of range, and
    the version where the file is newer than this program.
    """
    version = _check_version(entries)
    _check_lengths(entries)
    architecture = _architecture(_text(entries, "architecture"))
    least = network_version(architecture)
    expected = f"at least {least} for a network that is recurrent or has two heads"
    require(version >= least, "format_version", expected, version)
    return WeightsMetadata(
        format_version=version,
        architecture=architecture,
        fusion=_fusion(_object(entries, "fusion")) if architecture.heads > 1 else None,
        source_width=_integer(entries, "source_width", 1, MAX_SIDE),
        source_height=_integer(entries, "source_height", 1, MAX_SIDE),
        num_frames=_integer(entries, "num_frames", 1, MAX_FRAMES),
        bit_depth=_bit_depth(entries),
        colour=_colour(_object(entries, "colour")),
        stream=_stream(_object(entries, "stream")),
        base_id=_short_text(_text(entries, "base_id"), "base_id") or None,
        codec=_texts(entries, "codec"),
        settings=_object(entries, "settings"),
        tools=_texts(entries, "tools"),
        scores=_scores(_object(entries, "scores")),
        created_by=_short_text(_text(entries, "created_by"), "created_by"),
        resets=_resets(entries) if architecture.is_recurrent else (),
    )


def require(condition: bool, field_name: str, expected: str, got: object) -> None:
    """WeightsFormatError about one field of the metadata unless ``condition`` holds."""
    if not condition:
        raise WeightsFormatError(
            f"expected {field_name} to be {expected}, got {_shorten(got)}: the weights file is "
            "damaged, encode the title again"
        )


def read_integer(value: object, field_name: str, smallest: int, largest: int) -> int:
    """``value`` where it is a JSON integer of smallest..largest."""
    expected = f"an integer of {smallest} to {largest}"
    require(type(value) is int, field_name, expected, value)
    number = cast(int, value)
    require(smallest <= number <= largest, field_name, expected, value)
    return number


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _finite(value: Any) -> Any:
    """``value`` for JSON: mappings and sequences plain, NaN and infinities None."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _check_version(entries: Mapping[str, str]) -> int:
    got = entries.get("format")
    if got != FORMAT_NAME:
        raise WeightsFormatError(
            f"expected metadata of the format {FORMAT_NAME}, got {_shorten(got)}: a safetensors "
            "file, but not a weights file of codecaux"
        )
    version = _integer(entries, "format_version", 1, _MAX_INTEGER)
    if version > FORMAT_VERSION:
        raise WeightsFormatError(
            f"expected a weights file of format version {FORMAT_VERSION}, got {version}: it was "
            "made by a newer codecaux, upgrade this one"
        )
    return version


def _check_lengths(entries: Mapping[str, str]) -> None:
    require(
        len(entries) <= _MAX_ENTRIES, "metadata", f"at most {_MAX_ENTRIES} fields", len(entries)
    )
    for name, text in entries.items():
        if name != "sets":
            expected = f"at most {_MAX_TEXT_CHARS} characters"
            require(len(text) <= _MAX_TEXT_CHARS, _shorten(name), expected, len(text))


def _text(entries: Mapping[str, str], name: str) -> str:
    require(name in entries, name, "in the metadata", "nothing")
    return entries[name]


def _short_text(text: str, name: str) -> str:
    require(len(text) <= _MAX_NAME_CHARS, name, f"at most {_MAX_NAME_CHARS} characters", text)
    return text


def _integer(entries: Mapping[str, str], name: str, smallest: int, largest: int) -> int:
    text = _text(entries, name)
    plain = text.isascii() and text.isdigit() and len(text) <= 16
    require(plain, name, "an integer", text)
    require(str(int(text)) == text, name, "an integer without leading zeros", text)
    return read_integer(int(text), name, smallest, largest)


def _object(entries: Mapping[str, str], name: str) -> dict[str, Any]:
    value = parse_json(_text(entries, name), name)
    require(isinstance(value, dict), name, "a JSON object", value)
    _check_json(value, name, _MAX_DEPTH)
    return cast(dict[str, Any], value)


def _check_json(value: Json, name: str, depth: int) -> None:
    """Numbers that other programs can hold, text that UTF-8 can, no deep nesting."""
    require(depth > 0, name, f"nested at most {_MAX_DEPTH} deep", "more")
    if isinstance(value, str):
        _check_encodable(value, name)
    elif isinstance(value, dict):
        for key, entry in value.items():
            _check_encodable(key, name)
            _check_json(entry, name, depth - 1)
    elif isinstance(value, list):
        for entry in value:
            _check_json(entry, name, depth - 1)
    elif isinstance(value, float):
        require(math.isfinite(value), name, "made of finite numbers", value)
    elif isinstance(value, int):
        require(abs(value) <= _MAX_INTEGER, name, "made of integers up to 2^53", "a larger one")


def _check_encodable(text: str, name: str) -> None:
    # JSON can spell half of a surrogate pair, which no file or terminal takes.
    broken = any("\ud800" <= character <= "\udfff" for character in text)
    require(not broken, name, "valid Unicode", "a lone surrogate")


def _architecture(text: str) -> SrUnetConfig:
    config = config_from_json(text)
    _check_encodable(config.name, "architecture")
    count = merged_parameter_count(config)
    if count > MAX_PARAMETERS:
        raise WeightsTooLargeError(
            f"expected a network of at most {MAX_PARAMETERS} parameters, got {count}: "
            "do not use this file"
        )
    return config


def _resets(entries: Mapping[str, str]) -> tuple[int, ...]:
    values = parse_json(_text(entries, "resets"), "resets")
    is_list = isinstance(values, list) and len(values) <= MAX_RESETS
    require(is_list, "resets", f"a list of at most {MAX_RESETS} frames", values)
    previous = 0
    for value in cast(list[object], values):
        previous = read_integer(value, "resets", previous + 1, MAX_FRAMES)
    return tuple(cast(list[int], values))


def _fusion(values: Mapping[str, Any]) -> Fusion:
    expected = {"exponent": 4.0, "sharpen": 1.0}
    require(values.keys() == expected.keys(), "fusion", f"an object of {list(expected)}", values)
    for name, largest in expected.items():
        value = values[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        wanted = f"a number of 0 to {largest:g}"
        require(is_number and 0.0 <= value <= largest, f"fusion {name}", wanted, value)
    return Fusion(**{name: float(values[name]) for name in expected})


def _bit_depth(entries: Mapping[str, str]) -> int:
    depth = _integer(entries, "bit_depth", 8, 10)
    require(depth != 9, "bit_depth", "8 or 10", depth)
    return depth


def _colour(values: Mapping[str, Any]) -> Colour:
    expected = {"matrix", "full_range", "chroma_location", "primaries", "transfer", "matrix_code"}
    require(values.keys() == expected, "colour", f"an object of {sorted(expected)}", list(values))
    matrix, location = values["matrix"], values["chroma_location"]
    require(matrix in get_args(Matrix), "colour matrix", f"one of {get_args(Matrix)}", matrix)
    known = get_args(ChromaLocation)
    require(location in known, "colour chroma_location", f"one of {known}", location)
    full_range = values["full_range"]
    require(isinstance(full_range, bool), "colour full_range", "true or false", full_range)
    codes = {
        name: read_integer(values[name], f"colour {name}", 0, 255)
        for name in ("primaries", "transfer", "matrix_code")
    }
    return Colour(matrix=matrix, full_range=full_range, chroma_location=location, **codes)


def _stream(values: Mapping[str, Any]) -> StreamHash:
    expected = {"whole_sha256", "start_sha256"}
    require(values.keys() == expected, "stream", f"an object of {sorted(expected)}", list(values))
    for name, value in values.items():
        is_hash = isinstance(value, str) and len(value) == 64 and not set(value) - _HEX_DIGITS
        require(is_hash, f"stream {name}", "64 hexadecimal digits", value)
    return StreamHash(**values)


_HEX_DIGITS = frozenset("0123456789abcdef")


def _texts(entries: Mapping[str, str], name: str) -> dict[str, str]:
    values = _object(entries, name)
    require(all(isinstance(v, str) for v in values.values()), name, "an object of texts", values)
    return values


def _scores(values: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    result: dict[str, dict[str, float | None]] = {}
    for name, metrics in values.items():
        require(isinstance(metrics, dict), "scores", "an object of objects of numbers", metrics)
        result[name] = {metric: _score(value) for metric, value in metrics.items()}
    return result


def _score(value: object) -> float | None:
    is_number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    require(is_number, "scores", "an object of objects of numbers", value)
    return None if value is None else float(cast(float, value))


def _shorten(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
