"""A training's whole state in one safetensors file: named tensors and a record."""

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

__all__ = ["damaged", "fill", "flatten", "read_state", "write_state"]

Groups = Mapping[str, Mapping[str, Tensor]]
Optimisers = Mapping[str, torch.optim.Optimizer]
_OPTIMISER = "optimiser:"


def write_state(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``record`` (JSON values; it has ``settings``), whole or not at all."""
    data = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomic(path, safetensors.torch.save(data, {"state": json.dumps(record)}))


def read_state(
    path: Path, settings: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the record of ``path``, None where there is no file.

    Raises InputError for a damaged file, UsageError where its ``settings`` are others.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            record: dict[str, Any] = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_same(record["settings"], settings, path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise damaged(path, error) from error
    return tensors, record


def damaged(path: Path, error: Exception) -> InputError:
    """What to raise for a file that is no state, or not the wanted one."""
    return InputError(
        f"expected a checkpoint at {path}, got a damaged one ({error}); remove it to start again"
    )


def flatten(tensors: Groups, optimisers: Optimisers) -> dict[str, Tensor]:
    """Every tensor and every optimiser's moments, by one name each."""
    flat = {f"{group}/{n}": t for group, values in tensors.items() for n, t in values.items()}
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            for key, value in state.items():
                flat[f"{_OPTIMISER}{name}/{index}/{key}"] = torch.as_tensor(value)
    return flat


def fill(tensors: Groups, optimisers: Optimisers, found: Mapping[str, Tensor]) -> None:
    """Copy what :func:`flatten` gave, perhaps among other things, into ``tensors`` and
    ``optimisers``. Raises KeyError or RuntimeError where a tensor is missing or of another shape.
    """
    with torch.no_grad():
        for group, values in tensors.items():
            for name, tensor in values.items():
                tensor.copy_(found[f"{group}/{name}"])
    for name, optimiser in optimisers.items():
        _fill_optimiser(optimiser, found, f"{_OPTIMISER}{name}/")


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
