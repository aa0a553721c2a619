"""A training's whole state in one safetensors file: named tensors, optimisers, a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codecaux.atomic import write_atomic
from codecaux.errors import InputError, UsageError

__all__ = ["load_state", "save_state"]

Groups = Mapping[str, Mapping[str, Tensor]]
Optimisers = Mapping[str, torch.optim.Optimizer]
_OPTIMISER = "optimiser:"


def save_state(
    path: Path, tensors: Groups, optimisers: Optimisers, record: Mapping[str, Any]
) -> None:
    """Write every tensor, every optimiser's moments and ``record`` (JSON values; it has
    ``settings``), whole or not at all.
    """
    flat = {f"{group}/{n}": t for group, values in tensors.items() for n, t in values.items()}
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            for key, value in state.items():
                flat[f"{_OPTIMISER}{name}/{index}/{key}"] = torch.as_tensor(value)
    data = {name: value.detach().cpu().contiguous().clone() for name, value in flat.items()}
    write_atomic(path, safetensors.torch.save(data, {"state": json.dumps(record)}))


def load_state(
    path: Path, tensors: Groups, optimisers: Optimisers, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Fill ``tensors`` and ``optimisers`` from ``path``; its record, None where there is no file.

    Raises InputError for a damaged file, UsageError where its ``settings`` are others.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            record: dict[str, Any] = json.loads(file.metadata()["state"])
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_same(record["settings"], settings, path)
        _fill(tensors, found)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"expected a checkpoint at {path}, got a damaged one ({error}); remove it to start "
            "again"
        ) from error
    for name, optimiser in optimisers.items():
        _fill_optimiser(optimiser, found, f"{_OPTIMISER}{name}/")
    return record


def _fill(tensors: Groups, found: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for group, values in tensors.items():
            for name, tensor in values.items():
                tensor.copy_(found[f"{group}/{name}"])


def _fill_optimiser(
    optimiser: torch.optim.Optimizer, found: Mapping[str, Tensor], prefix: str
) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in found.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            states.setdefault(int(index), {})[key] = value
    saved = optimiser.state_dict()
    # Empty at the first step: a state of before the divergence must not stay.
    optimiser.load_state_dict({**saved, "state": states})


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    changed = sorted(key for key in wanted if found.get(key) != wanted[key])
    if changed:
        raise UsageError(
            f"{path} was made with another {', '.join(changed)}; give the same settings, another "
            "--work, or remove it"
        )
