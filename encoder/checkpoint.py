"""The state of a fit on disk: one safetensors file, replaced whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codecaux.atomic import write_atomic
from codecaux.errors import InputError

__all__ = ["Checkpoint", "FitState", "Phase"]

Phase = Literal["float", "probe", "rounded", "gains", "scene"]


@dataclass(frozen=True, slots=True, eq=False)
class FitState:
    """A phase after ``step`` of its steps. ``optimiser`` is what that goes on from
    (:meth:`codecaux.encoder.soap.Soap.state`), ``step_sizes`` are the quantisation steps (rounding
    phase only), ``critic`` is what the objective's critic goes on from, if it has one
    (:meth:`codecaux.encoder.critic.Critic.state`).
    """

    phase: Phase
    step: int
    total_steps: int
    rate_scale: float
    latents: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]
    step_sizes: Mapping[str, float]
    critic: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where one fit's state is kept."""

    path: Path

    def beside(self, name: str) -> Checkpoint:
        """Another one of the same fit."""
        return Checkpoint(self.path.with_name(f"{self.path.stem}-{name}{self.path.suffix}"))

    def save(self, state: FitState) -> None:
        """Replace the file, whole or not at all."""
        tensors = {f"latent/{name}": value for name, value in state.latents.items()}
        tensors |= {f"optimiser/{name}": value for name, value in state.optimiser.items()}
        tensors |= {f"critic/{name}": value for name, value in state.critic.items()}
        record = {
            "phase": state.phase,
            "step": state.step,
            "total_steps": state.total_steps,
            "rate_scale": state.rate_scale,
            "step_sizes": dict(state.step_sizes),
        }
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        write_atomic(self.path, safetensors.torch.save(tensors, {"state": json.dumps(record)}))

    def load(self) -> FitState | None:
        """The saved state; None where there is none; InputError where it is damaged."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                record = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"expected a fit's checkpoint at {self.path}, got a damaged one ({error}); "
                "start again without --resume"
            ) from error
        latents = _with_prefix(tensors, "latent/")
        return FitState(
            phase=record["phase"],
            step=record["step"],
            total_steps=record["total_steps"],
            rate_scale=record["rate_scale"],
            latents=latents,
            optimiser=_with_prefix(tensors, "optimiser/"),
            step_sizes=record["step_sizes"],
            critic=_with_prefix(tensors, "critic/"),
        )


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
