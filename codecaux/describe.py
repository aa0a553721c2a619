"""A weights file for people and programs: what `codecaux inspect` prints.

Everything text comes out of an untrusted file, so it is cleaned before it reaches a terminal.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from codecaux.architecture import config_to_json, merged_parameter_count
from codecaux.container import compress
from codecaux.metadata import Json
from codecaux.quantise import empirical_entropy_bits
from codecaux.weightsfile import WeightSet, WeightsFile, WeightsMetadata, set_arrays

__all__ = ["clean_text", "describe", "describe_rows"]

_MAX_SHOWN_CHARS = 200
_MAX_SHOWN_SETS = 16


def describe(file: WeightsFile, file_bytes: int) -> dict[str, Json]:
    """Everything about a weights file as JSON values; ``file_bytes`` is its size on disk.

    A set's ``alone_bytes`` is what its planes and steps take when compressed without the rest (the
    sets share one frame); ``entropy_bytes`` the zeroth-order entropy, each tensor by itself.
    """
    m = file.metadata
    geometry = m.geometry
    num_parameters = merged_parameter_count(m.architecture)
    return {
        "format_version": m.format_version,
        "file_bytes": file_bytes,
        "bits_per_weight": file_bytes * 8 / (num_parameters * len(file.sets)),
        "architecture": json.loads(config_to_json(m.architecture)),
        "num_parameters": num_parameters,
        "base_id": m.base_id,
        "source_width": m.source_width,
        "source_height": m.source_height,
        "coded_width": geometry.coded_width,
        "coded_height": geometry.coded_height,
        "num_frames": m.num_frames,
        "bit_depth": m.bit_depth,
        "colour": asdict(m.colour),
        "stream": dict(asdict(m.stream)),
        "codec": dict(m.codec),
        "fusion": None if m.fusion is None else dict(asdict(m.fusion)),
        "settings": dict(m.settings),
        "tools": dict(m.tools),
        "scores": {name: dict(scores) for name, scores in m.scores.items()},
        "created_by": m.created_by,
        "resets": list(m.resets),
        "sets": [_describe_set(file, weights) for weights in file.sets],
    }


def describe_rows(file: WeightsFile, file_bytes: int) -> list[tuple[str, str]]:
    """The same as (label, text) for a table: one line each, control characters made visible."""
    m = file.metadata
    geometry = m.geometry
    rows = [
        ("format", f"codecaux-weights {m.format_version}"),
        ("file", f"{file_bytes} bytes"),
        ("network", _network_text(file)),
        *_state_rows(m),
        ("base", m.base_id or "none: whole weights"),
        ("picture", f"{m.source_width}x{m.source_height}, {m.bit_depth} bit, {_colour_text(m)}"),
        ("stream", f"{geometry.coded_width}x{geometry.coded_height}, {m.num_frames} frames"),
        ("stream hash", m.stream.whole_sha256),
        ("start hash", m.stream.start_sha256),
        *([] if m.fusion is None else [("fusion", _pairs(asdict(m.fusion)))]),
        ("codec", _pairs(m.codec)),
        ("settings", _pairs(m.settings)),
        ("tools", _pairs(m.tools)),
        *((f"scores, {name}", _pairs(scores)) for name, scores in m.scores.items()),
        ("made by", m.created_by),
        *_set_rows(file),
    ]
    return [(clean_text(label), clean_text(text)) for label, text in rows]


def clean_text(text: str) -> str:
    """``text`` with control, format and other invisible characters written as escapes."""
    shown = text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
    return "".join(
        c if unicodedata.category(c)[0] not in "CZ" or c == " " else _escape(c) for c in shown
    )


def _escape(character: str) -> str:
    return (
        character.encode("unicode_escape").decode()
        if ord(character) > 126
        else ascii(character)[1:-1]
    )


def _describe_set(file: WeightsFile, weights: WeightSet) -> dict[str, Json]:
    arrays = set_arrays(weights, file.metadata.architecture)
    num_weights = sum(t.values.size for t in weights.tensors.values())
    alone_bytes = len(compress([array.tobytes() for array in arrays.values()]))
    entropy_bits = sum(empirical_entropy_bits(t.values) for t in weights.tensors.values())
    return {
        "first_frame": weights.first_frame,
        "end_frame": weights.end_frame,
        "reference": weights.reference,
        "num_tensors": len(weights.tensors),
        "num_weights": num_weights,
        "num_nonzero": sum(int(np.count_nonzero(t.values)) for t in weights.tensors.values()),
        "alone_bytes": alone_bytes,
        "entropy_bytes": entropy_bits / 8,
        "bits_per_weight": alone_bytes * 8 / num_weights if num_weights else None,
        "entropy_bits_per_weight": entropy_bits / num_weights if num_weights else None,
    }


def _set_rows(file: WeightsFile) -> Iterable[tuple[str, str]]:
    for index, weights in enumerate(file.sets[:_MAX_SHOWN_SETS]):
        values: dict[str, Any] = _describe_set(file, weights)
        text = f"{_frames_text(weights)}: {values['num_weights']} weights"
        if weights.reference is not None:
            text += f" on top of set {weights.reference}"
        if values["num_weights"]:
            text += (
                f" ({values['num_nonzero']} not 0), {values['alone_bytes']} bytes = "
                f"{values['bits_per_weight']:.3f} bits a weight "
                f"(entropy {values['entropy_bits_per_weight']:.3f})"
            )
        yield f"set {index}", text
    if len(file.sets) > _MAX_SHOWN_SETS:
        yield "more sets", str(len(file.sets) - _MAX_SHOWN_SETS)


def _frames_text(weights: WeightSet) -> str:
    if weights.first_frame == weights.end_frame:
        return "no frame, others refer to it"
    end = "the end" if weights.end_frame is None else f"frame {weights.end_frame - 1}"
    return f"frame {weights.first_frame} to {end}"


def _network_text(file: WeightsFile) -> str:
    config = file.metadata.architecture
    count = merged_parameter_count(config)
    return f"{config.name}, x{float(config.scale):g}, {count} parameters"


def _state_rows(metadata: WeightsMetadata) -> Iterable[tuple[str, str]]:
    """Of a recurrent network, what it remembers and when it forgets."""
    config = metadata.architecture
    if config.is_recurrent:
        resets = ", ".join(map(str, (0, *metadata.resets)))
        yield (
            "state",
            f"{config.hidden} hidden channels, {config.global_filters} global filters; starts at "
            f"frame {resets} and where a set begins",
        )


def _colour_text(metadata: WeightsMetadata) -> str:
    colour = metadata.colour
    return f"{colour.matrix} {'full' if colour.full_range else 'limited'} range"


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={_value_text(value)}" for key, value in values.items()) or "none"


def _value_text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
