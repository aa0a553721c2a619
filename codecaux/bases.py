"""Base networks: what a weights file's integers are added to.

A file names its base by id. Trained bases ship inside the package, one safetensors file each
(fp16), whose id ends in the first eight hex digits of its SHA-256: a base can be added, never
changed. More are looked for in the folder named by the environment variable CODECAUX_BASES.

``init-1`` is not stored anywhere: it is a pseudo-random initialisation drawn from PCG64, whose
stream numpy guarantees across versions and machines, so encoder and decoder make the same one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from codecaux.architecture import (
    SrUnetConfig,
    blocks,
    config_from_json,
    config_to_json,
    parameter_shapes,
)
from codecaux.errors import WeightsBaseError, WeightsFormatError

__all__ = [
    "BASES_VARIABLE",
    "GENERATED_BASE_ID",
    "SHIPPED_BASE_IDS",
    "Base",
    "BaseFile",
    "base_bytes",
    "default_base_id",
    "get_base",
    "known_base_ids",
    "parse_base",
    "shipped_bytes",
]

FloatArray = npt.NDArray[np.float32]

GENERATED_BASE_ID = "init-1"
# In the order of their making: the last of a net and scale is its default. None may ever go away
# while files that name it are about. docs/bases.md is the record of their training.
SHIPPED_BASE_IDS: tuple[str, ...] = (
    "tiny-2x-5b25ba15",
    "light-2x-47350fce",
    "light-1x-8f8275d7",
    "light-1.5x-a6965921",
    "tiny-1.5x-444b80e7",
    "tiny-1x-b8fdcd49",
    "light-2x-17c2c1da",
    "recurrent-2x-68b0a303",
    "light-1x-32bd10eb",
)
BASES_VARIABLE = "CODECAUX_BASES"

_FOLDER = "basenets"
_SUFFIX = ".safetensors"
# One entry of metadata: safetensors writes several in no fixed order.
_FORMAT_KEY, _FORMAT_VERSION = "codecaux_base", 1
_HASH_DIGITS = 8
_MAX_BYTES = 64 << 20
# Blocks with an identity branch start at a fraction of He's scale: each already passes x on.
_BRANCH_GAIN = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A network to start from: merged form without identity branches, as weights files have it."""

    config: SrUnetConfig
    tensors: Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class BaseFile:
    """A parsed base file: its id, the network (rounded to fp16), the record of its training."""

    base_id: str
    base: Base
    record: Mapping[str, Any]


def get_base(
    base_id: str | None, config: SrUnetConfig, *, made_by: str | None = None
) -> dict[str, FloatArray]:
    """Name -> float32 tensor of every parameter (merged form, without identity branches).

    Bases have one head: both of a network of two start as it. No id means zeros: the file holds
    whole weights. WeightsBaseError for an id that is not here or is another network's; ``made_by``
    names the version that made the file.
    """
    if config.heads > 1:
        tensors = get_base(base_id, replace(config, heads=1), made_by=made_by)
        names = parameter_shapes(config)
        return {name: tensors[name.replace("perceptual.", "last.")].copy() for name in names}
    if base_id is None:
        return {n: np.zeros(s, np.float32) for n, s in parameter_shapes(config).items()}
    if base_id == GENERATED_BASE_ID:
        return _generated(config)
    found = _find(base_id)
    if found is None:
        # Text out of a file: escaped, as the id is.
        named = "the version named in the file's metadata (codecaux inspect shows it)"
        source = ascii(made_by[:64]) if made_by else named
        raise WeightsBaseError(
            f"these weights are a difference from the base {base_id[:64]!r}, which this version of "
            f"codecaux does not have (it has: {', '.join(known_base_ids())}); install {source}, "
            f"or put the base's file into a folder that {BASES_VARIABLE} names"
        )
    base = found.base
    if config.is_recurrent and _shape_of(base.config) == _shape_of(config.single_frame):
        # A single-frame base serves its recurrent net too: the state is new, and not yet seen.
        return {n: value.copy() for n, value in base.tensors.items()} | _state_start(config)
    if _shape_of(base.config) != _shape_of(config):
        raise WeightsBaseError(
            f"the base {base_id[:64]!r} is a network {_shape_of(base.config)}, the weights "
            f"are of {_shape_of(config)}: the file is damaged, make it again"
        )
    return {name: value.copy() for name, value in base.tensors.items()}


def default_base_id(config: SrUnetConfig) -> str:
    """The base that a new fit of ``config`` starts from: the newest shipped one of its shape; for a
    recurrent net that has none, its single-frame net's.
    """
    prefix = _id_prefix(config)
    fitting = [base_id for base_id in SHIPPED_BASE_IDS if base_id.startswith(prefix)]
    if not fitting and config.is_recurrent:
        return default_base_id(config.single_frame)
    return fitting[-1] if fitting else GENERATED_BASE_ID


def known_base_ids() -> tuple[str, ...]:
    """Every id that :func:`get_base` knows, the generated one first."""
    extra = {file.base_id for file in _extra_bases()} - set(SHIPPED_BASE_IDS)
    return (GENERATED_BASE_ID, *SHIPPED_BASE_IDS, *sorted(extra))


def base_bytes(base: Base, record: Mapping[str, Any]) -> bytes:
    """A base file: fp16 tensors in safetensors, its architecture and training record beside them.

    WeightsFormatError where a value is not finite in fp16.
    """
    with np.errstate(over="ignore"):  # checked next
        arrays = {n: base.tensors[n].astype(np.float16) for n in parameter_shapes(base.config)}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsFormatError(f"expected finite fp16 values in {name}, got NaN or infinity")
    about = {
        "version": _FORMAT_VERSION,
        "architecture": config_to_json(base.config),
        "record": record,
    }
    return safetensors.numpy.save(arrays, {_FORMAT_KEY: json.dumps(about, sort_keys=True)})


def parse_base(data: bytes) -> BaseFile:
    """Read :func:`base_bytes`'s output, whatever the bytes are; WeightsFormatError says why not."""
    try:
        header_bytes = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + header_bytes])
        about: dict[str, Any] = json.loads(header["__metadata__"][_FORMAT_KEY])
        if about["version"] != _FORMAT_VERSION:
            raise WeightsFormatError(
                f"expected a base file of version {_FORMAT_VERSION}, got {about['version']!r}"
            )
        config = config_from_json(about["architecture"])
        if config.heads != 1:
            raise WeightsFormatError(f"expected a base of one head, got {config.heads}")
        record: dict[str, Any] = dict(about["record"])
        arrays = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsFormatError(f"expected a base file of codecaux, got: {error}") from error
    tensors = _checked(arrays, config)
    digest = hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]
    return BaseFile(f"{_id_prefix(config)}{digest}", Base(config, tensors), record)


def _checked(arrays: Mapping[str, Any], config: SrUnetConfig) -> dict[str, FloatArray]:
    shapes = parameter_shapes(config)
    if set(arrays) != set(shapes):
        raise WeightsFormatError(
            f"expected the {len(shapes)} tensors of {config.name}, got {len(arrays)} of other names"
        )
    result = {}
    for name, shape in shapes.items():
        array = arrays[name]
        if array.dtype != np.float16 or array.shape != shape or not np.isfinite(array).all():
            raise WeightsFormatError(
                f"expected {name} as finite fp16 {shape}, got {array.dtype} {array.shape}"
            )
        result[name] = array.astype(np.float32)
    return result


def shipped_bytes(base_id: str) -> bytes:
    """The file of a shipped base, as it lies in the package."""
    assert base_id in SHIPPED_BASE_IDS, f"expected a shipped base, got {base_id!r}"
    return (resources.files("codecaux") / _FOLDER / f"{base_id}{_SUFFIX}").read_bytes()


@functools.lru_cache(maxsize=8)
def _shipped(base_id: str) -> BaseFile:
    file = parse_base(shipped_bytes(base_id))
    if file.base_id != base_id:
        raise WeightsBaseError(
            f"expected the base {base_id!r} in the package's file of that name, got "
            f"{file.base_id!r}: the installation is damaged, install codecaux again"
        )
    return file


def _find(base_id: str) -> BaseFile | None:
    """By comparison with known ids only: an id out of a file never becomes part of a path."""
    if base_id in SHIPPED_BASE_IDS:
        return _shipped(base_id)
    return next((file for file in _extra_bases() if file.base_id == base_id), None)


def _extra_bases() -> Iterator[BaseFile]:
    """The bases in the user's folder, whatever their names; other files are passed over."""
    folder = os.environ.get(BASES_VARIABLE)
    if not folder:
        return
    for path in sorted(Path(folder).glob(f"*{_SUFFIX}")):
        with suppress(OSError, WeightsFormatError):
            if path.stat().st_size <= _MAX_BYTES:
                yield parse_base(path.read_bytes())


def _id_prefix(config: SrUnetConfig) -> str:
    return f"{config.name}-{float(config.scale):g}x-"


def _shape_of(config: SrUnetConfig) -> str:
    state = f" +{config.hidden}+{config.global_filters}" if config.is_recurrent else ""
    return f"{config.widths} {config.blocks} x{float(config.scale):g}{state}"


def _generated(config: SrUnetConfig) -> dict[str, FloatArray]:
    """He-scaled uniform 3x3 kernels; zero biases and a zero last layer, so that the untrained
    network's output is exactly the bicubic picture.
    """
    result = {n: np.zeros(s, np.float32) for n, s in parameter_shapes(config).items()}
    for block in blocks(config):
        name = f"{block.name}.weight"
        result[name] = _drawn(name, result[name].shape, _BRANCH_GAIN if block.has_branch else 1.0)
    return result | _state_start(config)


def _state_start(config: SrUnetConfig) -> dict[str, FloatArray]:
    """What a recurrent net adds to the single-frame one, at the start: the kernels that see the
    state and the global features are zero, so that nothing is changed; those that make them are
    not, or neither would ever learn (the gradient of each is zero where the other is).
    """
    single = parameter_shapes(config.single_frame)
    shapes = {n: s for n, s in parameter_shapes(config).items() if n not in single}
    result = {n: np.zeros(s, np.float32) for n, s in shapes.items()}
    for name, shape in shapes.items():
        if name == "hidden.weight" or name.endswith(".global.weight"):
            result[name] = _drawn(name, shape, _BRANCH_GAIN)
    return result


def _drawn(name: str, shape: tuple[int, ...], gain: float) -> FloatArray:
    """``gain`` times He's uniform initialisation, by the name's own generator."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    bound = (6.0 / math.prod(shape[1:])) ** 0.5 * gain
    # random() maps 53 bits by one multiplication: the same on every platform, unlike normal().
    values: FloatArray = ((generator.random(shape) * 2.0 - 1.0) * bound).astype(np.float32)
    return values
