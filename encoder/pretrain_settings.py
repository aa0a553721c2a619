"""Everything that decides what a pre-training makes: frozen, with the one source of defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from codecaux.errors import UsageError

__all__ = ["PretrainSettings"]


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """``folders`` of videos and photos in, one base file out.

    ``start``: an id of a known base or a base file whose tensors of equal shape are taken over.
    ``adversarial``: weight of the discriminator's term (the paper's: 1e-3), 0 for none.
    ``crf``: the range that each item's CRF is drawn from. ``work`` keeps shards and checkpoint.
    """

    folders: tuple[Path, ...]
    output: Path
    work: Path
    net: str = "light"
    scale: Fraction = Fraction(2)
    crf: tuple[float, float] = (18.0, 36.0)
    preset: str = "medium"
    steps: int = 20_000
    batch: int = 8
    learning_rate: float = 2e-3
    objective: str = "balanced"
    adversarial: float = 0.0
    seed: int = 0
    moves: int = 1
    start: str | None = None
    bank_bytes: int = 2 << 30
    jobs: int = os.cpu_count() or 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        low, high = self.crf
        if not 0 <= low <= high <= 51:
            raise UsageError(f"expected a range of CRFs in 0..51, got {low:g}:{high:g}")
        for name in ("steps", "batch", "moves", "jobs"):
            if getattr(self, name) < 1:
                raise UsageError(f"expected at least 1 of {name}, got {getattr(self, name)}")
        if self.adversarial < 0:
            raise UsageError(f"expected an adversarial weight of 0 or more, got {self.adversarial}")

    def identity(self) -> dict[str, Any]:
        """What must be equal for an interrupted training to go on, as JSON values."""
        return {
            "net": self.net,
            "scale": str(self.scale),
            "crf": list(self.crf),
            "preset": self.preset,
            "steps": self.steps,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "objective": self.objective,
            "adversarial": self.adversarial,
            "seed": self.seed,
            "moves": self.moves,
            "start": Path(self.start).name if self.start else None,
        }
