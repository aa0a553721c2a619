"""``title.weights``: weight sets for ranges of frames, and what they belong to.

One zstd frame around one safetensors file whose tensors are the planes of the quantised weights
(:mod:`codecaux.quantise`) and their steps, and whose ``__metadata__`` is
:class:`~codecaux.metadata.WeightsMetadata`. docs/format.md is normative. Names and shapes of
tensors come from the architecture alone, never from the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codecaux.architecture import SrUnetConfig, coded_shapes, gain_name, parameter_shapes
from codecaux.container import (
    MAX_FILE_BYTES,
    Archive,
    Array,
    compress,
    inflate,
    parse_archive,
    parse_json,
    serialise_archive,
)
from codecaux.errors import InputError, WeightsFormatError, WeightsTooLargeError
from codecaux.metadata import (
    MAX_FRAMES,
    WeightsMetadata,
    metadata_from_text,
    metadata_to_text,
    read_integer,
    require,
)
from codecaux.quantise import (
    MAX_STEP,
    MIN_STEP,
    PLANES,
    QuantisedTensor,
    pack_planes,
    step_is_valid,
    unpack_planes,
)

__all__ = [
    "MAX_SETS",
    "MAX_VALUES",
    "WeightSet",
    "WeightsFile",
    "WeightsMetadata",
    "pack",
    "read_weights",
    "reconstruct",
    "set_arrays",
    "unpack",
]

MAX_SETS = 4096
# Over all sets, absent tensors not counted: 128 MiB as int32.
MAX_VALUES = 1 << 25
_STEPS = "steps"
# 4096 sets at some 50 characters each.
_MAX_SETS_CHARS = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class WeightSet:
    """The weights for the frames ``first_frame`` <= index < ``end_frame`` (None: to the end; equal:
    for no frame, only what others refer to).

    ``tensors`` maps names of ``architecture.coded_shapes`` to integers of exactly that shape. A
    tensor that is absent is all zero: the reference's own values where there is one. ``reference``
    is what the integers are added to: the file's base (None), or the weights of an earlier set.
    """

    first_frame: int
    end_frame: int | None
    tensors: Mapping[str, QuantisedTensor]
    reference: int | None = None

    @property
    def format_version(self) -> int:
        """The oldest format that can hold it: gains, references and sets for no frame need 2."""
        has_gains = any(name.endswith(".gain") for name in self.tensors)
        is_new = has_gains or self.reference is not None or self.first_frame == self.end_frame
        return 2 if is_new else 1


@dataclass(frozen=True, slots=True, eq=False)
class WeightsFile:
    """Metadata and at least one set; together the sets cover the frames from 0 without a gap."""

    metadata: WeightsMetadata
    sets: tuple[WeightSet, ...]

    def set_for_frame(self, index: int) -> WeightSet | None:
        """The set that covers frame ``index``; None past the last one's end: shown plain."""
        for weights in self.sets:
            if weights.end_frame is None or index < weights.end_frame:
                return weights
        return None


def pack(file: WeightsFile) -> bytes:
    """The bytes of ``title.weights``: the same input gives the same bytes (with one zstd version).

    What is written is read back before it is returned, so that no file leaves that
    :func:`unpack` would refuse; the errors are unpack's. The format version is the oldest that
    can hold the sets, whatever the metadata says.
    """
    oldest = (weights.format_version for weights in file.sets)
    version = max(file.metadata.oldest_version, *oldest)
    file = replace(file, metadata=replace(file.metadata, format_version=version))
    arrays: dict[str, Array] = {}
    for index, weights in enumerate(file.sets):
        own = set_arrays(weights, file.metadata.architecture, version)
        arrays |= {f"s{index}/{name}": array for name, array in own.items()}
    entries = metadata_to_text(file.metadata) | {"sets": _ranges_to_json(file.sets)}
    data = compress(serialise_archive(Archive(entries, arrays)))
    unpack(data)
    return data


def unpack(data: bytes) -> WeightsFile:
    """Read ``title.weights``, whatever the bytes are.

    WeightsTooLargeError beyond a cap, else WeightsFormatError, says what was expected and what was
    got; no other exception, and at most some 400 MB of memory, come of any input.
    """
    archive = parse_archive(inflate(data))
    metadata = metadata_from_text(archive.metadata)
    ranges = _ranges_from_json(archive.metadata.get("sets", ""), metadata.format_version)
    _check_names(archive.arrays, len(ranges))
    config = metadata.architecture
    shapes = coded_shapes(config) if metadata.format_version > 1 else parameter_shapes(config)
    steps = [_read_steps(archive.arrays[f"s{k}/{_STEPS}"], shapes) for k in range(len(ranges))]
    _check_num_values(steps, shapes)
    sets = tuple(
        WeightSet(first, end, _read_tensors(archive.arrays, index, steps[index], shapes), reference)
        for index, (first, end, reference) in enumerate(ranges)
    )
    return WeightsFile(metadata, sets)


def reconstruct(
    tensors: Mapping[str, QuantisedTensor],
    start: Mapping[str, npt.NDArray[np.float32]],
    config: SrUnetConfig,
) -> dict[str, npt.NDArray[np.float32]]:
    """The weights of a set from those of its reference, ``start``: the one way that all use.

    ``w = fp32(fp32(start * fp32(1 + gain)) + fp32(step * q))``, docs/format.md section 4.
    """
    result = {}
    for name in parameter_shapes(config):
        value = start[name]
        gain = tensors.get(gain_name(name)) if name.endswith(".weight") else None
        if gain is not None:
            factor = np.add(np.float32(1.0), gain.dequantise(), dtype=np.float32)
            factor = factor.reshape(-1, *(1,) * (value.ndim - 1))
            value = np.multiply(value, factor, dtype=np.float32)
        result[name] = tensors[name].dequantise(value) if name in tensors else value
    return result


def read_weights(path: Path) -> WeightsFile:
    """:func:`unpack` of a file; InputError where there is no such file or it cannot be read."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"expected a weights file at {path}, got: {error.strerror or error}"
        ) from error
    try:
        return unpack(data)
    except (WeightsFormatError, WeightsTooLargeError) as error:
        raise type(error)(f"{path}: {error}") from error


def set_arrays(
    weights: WeightSet, architecture: SrUnetConfig, format_version: int | None = None
) -> dict[str, Array]:
    """The arrays of one set as they stand in the file, without the prefix ``s{k}/``.

    ``format_version`` is the file's, by default the set's own.
    """
    version = format_version or weights.format_version
    shapes = coded_shapes(architecture) if version > 1 else parameter_shapes(architecture)
    unknown = set(weights.tensors) - set(shapes)
    assert not unknown, f"expected tensors of the architecture, got {sorted(unknown)}"
    for name, tensor in weights.tensors.items():
        got = tensor.values.shape
        assert got == shapes[name], f"expected {name} of shape {shapes[name]}, got {got}"
    present = [name for name in shapes if name in weights.tensors]
    arrays: dict[str, Array] = {
        _STEPS: np.array(
            [weights.tensors[n].step if n in weights.tensors else 0.0 for n in shapes], np.float32
        )
    }
    return arrays | pack_planes({name: weights.tensors[name].values for name in present})


def _read_steps(array: Array, shapes: Mapping[str, object]) -> dict[str, float]:
    """Name -> step of the tensors that are present: a step of +0 says that one is absent."""
    _check_dtype(array, np.float32, _STEPS)
    require(array.size == len(shapes), _STEPS, f"{len(shapes)} numbers, one a tensor", array.size)
    steps = {name: float(step) for name, step in zip(shapes, array, strict=True)}
    for name, step in steps.items():
        absent = step == 0.0 and math.copysign(1.0, step) > 0
        expected = f"+0 or a number of {MIN_STEP} to {MAX_STEP}"
        require(absent or step_is_valid(step), f"the step of {name}", expected, step)
    return {name: step for name, step in steps.items() if step}


def _read_tensors(
    arrays: Mapping[str, Array],
    index: int,
    steps: Mapping[str, float],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, QuantisedTensor]:
    planes: dict[str, npt.NDArray[np.uint8]] = {}
    for name in PLANES:
        array = arrays[f"s{index}/{name}"]
        _check_dtype(array, np.uint8, name)
        planes[name] = array.view(np.uint8)
    values = unpack_planes(planes, {name: shapes[name] for name in steps})
    return {name: QuantisedTensor(values[name], steps[name]) for name in steps}


def _check_dtype(array: Array, expected: type[np.generic], name: str) -> None:
    require(array.dtype == expected, f"the array {name}", np.dtype(expected).name, array.dtype.name)


def _check_names(arrays: Mapping[str, Array], num_sets: int) -> None:
    expected = {f"s{k}/{name}" for k in range(num_sets) for name in (_STEPS, *PLANES)}
    wrong = sorted(expected ^ set(arrays))
    names = f"{_STEPS}, {', '.join(PLANES)}"
    require(not wrong, "the arrays", f"{names} for each of {num_sets} sets", wrong[:3])


def _check_num_values(
    steps: Sequence[Mapping[str, float]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    num_values = sum(math.prod(shapes[name]) for present in steps for name in present)
    if num_values > MAX_VALUES:
        raise WeightsTooLargeError(
            f"expected at most {MAX_VALUES} values over all weight sets, got {num_values}: "
            "use fewer sets or a smaller net"
        )


def _ranges_to_json(sets: Sequence[WeightSet]) -> str:
    ranges: list[dict[str, object]] = []
    for w in sets:
        entry: dict[str, object] = {"first_frame": w.first_frame, "end_frame": w.end_frame}
        ranges.append(entry if w.reference is None else entry | {"reference": w.reference})
    return json.dumps(ranges, separators=(",", ":"))


def _ranges_from_json(text: str, version: int) -> list[tuple[int, int | None, int | None]]:
    """(first, end, reference) of each set: the first starts at 0, each other where the one before
    ends.
    """
    require(
        len(text) <= _MAX_SETS_CHARS, "sets", f"at most {_MAX_SETS_CHARS} characters", len(text)
    )
    entries = parse_json(text, "sets")
    is_list = isinstance(entries, list) and 1 <= len(entries) <= MAX_SETS
    require(is_list, "sets", f"a list of 1 to {MAX_SETS} ranges of frames", entries)
    ranges: list[tuple[int, int | None, int | None]] = []
    optional, shortest = ({"reference"}, 0) if version > 1 else (set(), 1)
    start: int | None = 0
    for entry in entries:
        keys = {"first_frame", "end_frame"}
        known = isinstance(entry, dict) and entry.keys() - optional == keys
        require(known, "sets", f"ranges of {sorted(keys)}", entry)
        first = read_integer(entry["first_frame"], "first_frame", 0, MAX_FRAMES)
        require(first == start, "first_frame", f"{start}, where the set before ends", first)
        end = entry["end_frame"]
        if end is not None:
            end = read_integer(end, "end_frame", first + shortest, MAX_FRAMES)
        ranges.append((first, end, _reference(entry, len(ranges))))
        start = end
    return ranges


def _reference(entry: Mapping[str, object], index: int) -> int | None:
    """The earlier set that set ``index`` refers to."""
    if "reference" not in entry:
        return None
    expected = f"an earlier set than {index}"
    require(index > 0, "reference", expected, entry["reference"])
    return read_integer(entry["reference"], "reference", 0, index - 1)
