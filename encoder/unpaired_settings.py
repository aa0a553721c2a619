"""Everything that decides what an unpaired pre-training makes: frozen, one source of defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codecaux.errors import UsageError

__all__ = ["UnpairedSettings"]

# Three poolings after a fold by 2.
_CROP_STEP = 16


@dataclass(frozen=True, slots=True)
class UnpairedSettings:
    """Folders of ``source`` and ``target`` pictures in, one base file for scale 1 out.

    ``crop``: side of a patch in pixels; ``patches`` are cut from each photo and from as many
    frames of each video. ``cycle``: alpha of RAVE's equation 1. ``start``: an id of a known base or
    a base file, None: the identity. ``work`` keeps the checkpoint.
    """

    source: Path
    target: Path
    output: Path
    work: Path
    net: str = "light"
    steps: int = 20_000
    batch: int = 4
    crop: int = 96
    patches: int = 32
    learning_rate: float = 5e-4
    cycle: float = 10.0
    seed: int = 0
    start: str | None = None
    bank_bytes: int = 1 << 30
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patches"):
            if getattr(self, name) < 1:
                raise UsageError(f"expected at least 1 of {name}, got {getattr(self, name)}")
        if self.crop < _CROP_STEP or self.crop % _CROP_STEP:
            raise UsageError(f"expected a crop that is a multiple of {_CROP_STEP}, got {self.crop}")
        if self.cycle < 0:
            raise UsageError(f"expected a cycle weight of 0 or more, got {self.cycle}")
        if self.learning_rate <= 0:
            raise UsageError(f"expected a learning rate above 0, got {self.learning_rate}")

    def identity(self) -> dict[str, Any]:
        """What must be equal for an interrupted training to go on, as JSON values."""
        return {
            "unpaired": True,
            "scale": "1",
            "net": self.net,
            "steps": self.steps,
            "batch": self.batch,
            "crop": self.crop,
            "patches": self.patches,
            "learning_rate": self.learning_rate,
            "cycle": self.cycle,
            "seed": self.seed,
            "start": Path(self.start).name if self.start else None,
        }
