"""What a run of the rate-distortion benchmark is asked for: its settings, and one point of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from codecaux.encoder.settings import FitSettings
from codecaux.encoder.stream import AUTO_TUNING, StreamSettings

__all__ = ["BICUBIC_SUFFIX", "FAMILIES", "RD_METRICS", "RdSettings", "Task"]

FAMILIES = ("x265", "x265-tuned", "x265-sizes", "anchor", "base", "fit")
RD_METRICS = ("vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "lpips", "psnr_y_db", "ssim")
BICUBIC_SUFFIX = "_bicubic"


@dataclass(frozen=True)
class RdSettings:
    """What every point of a run has in common. ``threads`` 0: all cores; no number depends on it.

    ``points`` maps the product's scales to the CRFs of anchor, base and fit. ``priced_for``: fits
    weigh bytes as for a title of so many seconds that repeats the scene (0: as for the clip).
    """

    work: Path
    families: tuple[str, ...]
    crfs: tuple[float, ...]
    points: Mapping[Fraction, tuple[float, ...]]
    preset: str = "medium"
    x265_params: tuple[tuple[str, str], ...] = ()
    downscale: str = StreamSettings(crf=0).downscale
    tuning: str = AUTO_TUNING
    net: str = "light"
    fit: FitSettings = field(default_factory=FitSettings)
    priced_for: float = 0.0
    anchors: Path | None = None
    lpips_weights: Path | None = None
    lpips_frames: int = 12
    threads: int = 0

    def stream(self, task: Task) -> StreamSettings:
        """x265 itself is shown as it comes; the streams of the others are made for a network, and
        what x265 gains by that alone is shown with one tuning throughout.
        """
        fixed = {"x265": "none", "x265-sizes": "none", "x265-tuned": "network"}
        return StreamSettings(
            crf=task.crf,
            preset=self.preset,
            scale=Fraction(1) if task.family == "x265-sizes" else task.scale,
            x265_params=self.x265_params,
            downscale=self.downscale,
            tuning=fixed.get(task.family, self.tuning),
            threads=self.threads,
        )


@dataclass(frozen=True, slots=True)
class Task:
    """One point to be made. ``scale`` is source size / coded size, 4/3 and 2 for x265-sizes."""

    family: str
    scale: Fraction
    crf: float

    @property
    def is_plain(self) -> bool:
        """Is the stream x265's as it comes, none of ours?"""
        return self.family in ("x265", "x265-sizes")

    @property
    def stream(self) -> tuple[str, Fraction, float]:
        """Equal for the tasks that share a coded stream, which is scored in one pass for all."""
        kind = self.family if self.family.startswith("x265") else "network"
        return kind, self.scale, self.crf
