"""The patch bank: pairs of decoded and source patches that stand for a title.

Where an objective asks for it, the source's frames before and after each patch are kept, too.
For a recurrent network a place is kept over a short run of consecutive frames, of one scene.
Banks are made in :mod:`codecaux.encoder.bank_builder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from codecaux.architecture import SrUnetConfig
from codecaux.colour import Planes, code_scale
from codecaux.encoder.neighbours import SamplePlanes
from codecaux.errors import UsageError
from codecaux.video import SampleArray, VideoFormat

__all__ = ["RUN_FRAMES", "Around", "BankSettings", "PatchBank", "run_frames"]

# What a recurrent network is unrolled over: half a step's default batch (RAVE trains on 5).
RUN_FRAMES = 4


@dataclass(frozen=True, slots=True)
class BankSettings:
    """``patch`` in coded pixels; ``max_bytes`` bounds the bank; ``keep`` is the fraction of all
    patches wanted when the bound allows more (8 to 25 % suffice, per Zhou et al.'s EPS).
    ``uniform``: all patches count alike, so that the bank stands for the title evenly and two
    streams of one title give the same places. ``around``: size in source pixels of the patches'
    middles that are kept of the frames before and after (0: none); ``coded_around``: of the decoded
    frames before and after, too. Both count in ``max_bytes``. ``run``: consecutive frames of each
    place; runs do not go over ``resets`` (frames before which a recurrent network forgets).
    """

    patch: int = 96
    max_bytes: int = 512 << 20
    keep: float = 0.5
    min_patches: int = 256
    seed: int = 0
    uniform: bool = False
    around: int = 0
    coded_around: bool = False
    run: int = 1
    resets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_bytes < 16 << 20:
            raise UsageError(f"expected a patch bank of at least 16 MiB, got {self.max_bytes} B")


def run_frames(config: SrUnetConfig) -> int:
    """Consecutive frames of a place that a network of ``config`` is fitted on."""
    return RUN_FRAMES if config.is_recurrent else 1


class Around(NamedTuple):
    """Middles of patches in the frames before and after theirs: nominal planes [K, 1, h, w] of the
    source, and of the decoded picture where the bank has them.
    """

    before: Planes
    after: Planes
    coded_before: Planes | None = None
    coded_after: Planes | None = None


@dataclass(eq=False)
class PatchBank:
    """Patches as code values: arrays of [count, h, w] for the six planes.

    ``coded``: y [K, p, q], u, v [K, p/2, q/2]; ``source``: the same times the scale.
    ``frame`` [K] is the frame each came from. ``neighbours``: middles of the source before and
    after, then perhaps of the decoded picture before and after; the first frame's before is its
    after, and the last one's after its before (of a single frame both are itself). ``run`` patches
    in a row are one place in time; the bank's length, and its indices, count runs.
    """

    format: VideoFormat
    coded: SamplePlanes
    source: SamplePlanes
    frame: npt.NDArray[np.int64]
    candidates: int = 0
    neighbours: tuple[SamplePlanes, ...] = ()
    run: int = 1

    def __len__(self) -> int:
        return len(self.frame) // self.run

    @property
    def size_bytes(self) -> int:
        """Bytes of all its patches and their neighbours."""
        groups = (self.coded, self.source, *self.neighbours)
        return sum(plane.nbytes for group in groups for plane in group)

    @property
    def what(self) -> str:
        """What it counts, for people."""
        return "patches" if self.run == 1 else f"runs of {self.run} patches"

    def of_frames(self, first: int, end: int) -> PatchBank:
        """The patches of the frames ``first`` <= index < ``end`` alone, whole runs, copied."""
        frames = self.frame.reshape(-1, self.run)
        inside = np.flatnonzero((frames[:, 0] >= first) & (frames[:, -1] < end))
        chosen = self._patches(inside)
        coded, source, *neighbours = (
            (y[chosen], u[chosen], v[chosen])
            for y, u, v in (self.coded, self.source, *self.neighbours)
        )
        frame = self.frame[chosen]
        count, around = len(inside), tuple(neighbours)
        return PatchBank(self.format, coded, source, frame, count, around, self.run)

    def _patches(self, runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Indices of the patches of ``runs``, those of one in a row."""
        return (runs[:, None] * self.run + np.arange(self.run)).ravel()

    def batch(self, indices: npt.NDArray[np.int64], device: torch.device) -> tuple[Planes, Planes]:
        """(coded, source) nominal float32 planes of the chosen patches, or of the chosen runs', in
        the order of time within each.

        Never mirrored: a title's structures are not symmetric (nor are its codec's artefacts or
        its chroma siting), and what is fitted is this title (docs/experiments.md, E1).
        """
        patches = self._patches(indices)
        coded, source = (
            self._planes(group, patches, device) for group in (self.coded, self.source)
        )
        return coded, source

    def around(self, indices: npt.NDArray[np.int64], device: torch.device) -> Around | None:
        """What lies before and after the same patches; None where the bank has no such thing."""
        if not self.neighbours:
            return None
        patches = self._patches(indices)
        return Around(*(self._planes(group, patches, device) for group in self.neighbours))

    def _planes(
        self, group: SamplePlanes, patches: npt.NDArray[np.int64], device: torch.device
    ) -> Planes:
        y, u, v = (_to_device(plane[patches], device) for plane in group)
        y0, y_span, c0, c_span = code_scale(self.format)
        return Planes((y - y0) / y_span, (u - c0) / c_span, (v - c0) / c_span)


def _to_device(samples: SampleArray, device: torch.device) -> torch.Tensor:
    """[K, h, w] code values -> float32 [K, 1, h, w]."""
    signed = samples.view(np.int16) if samples.dtype == np.uint16 else samples
    return torch.from_numpy(signed).to(device).float()[:, None]
