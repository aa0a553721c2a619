"""Filling patch banks: one streaming pass over decoded and source frames chooses the patches.

Every frame is cut into a grid of patches at a random, seeded phase. A weighted reservoir keeps a
fixed number of them whatever the title's length (Efraimidis & Spirakis 2006, algorithm A-Res: keep
the largest keys u^(1/w), u uniform); a patch's weight w is its energy, texture plus motion, so
that skies and still backgrounds do not fill the bank. Where runs of frames are wanted, a patch that
is taken is followed at its place through the frames after it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterable, Sequence

import numpy as np

from codecaux.encoder.bank import BankSettings, PatchBank
from codecaux.encoder.neighbours import (
    CORNER_STEP,
    MiddleSettings,
    NeighbourStore,
    SamplePlanes,
    middle_shape,
)
from codecaux.events import Events, Progress
from codecaux.video import Frame, Geometry, SampleArray, VideoFormat

__all__ = ["build_bank", "build_banks", "patch_shape"]

# Added to every energy (8-bit code values), so that flat patches are rare but not absent.
_ENERGY_FLOOR = 1.0


def patch_shape(geometry: Geometry, patch: int, alignment: int) -> tuple[int, int]:
    """(height, width) of a patch in coded pixels: multiples of the network's alignment (and of
    4), no larger than the picture unless the picture is smaller than the alignment.
    """
    step = math.lcm(alignment, CORNER_STEP)
    sizes = (geometry.coded_height, geometry.coded_width)
    height, width = (max(step, min(patch, size) // step * step) for size in sizes)
    return height, width


def build_bank(
    pairs: Iterable[tuple[Frame, Frame]],
    num_frames: int,
    geometry: Geometry,
    format: VideoFormat,
    alignment: int,
    settings: BankSettings,
) -> Events[PatchBank]:
    """One pass over (decoded, source) frames. Memory: the bank plus two frames (with neighbours
    four).
    """
    banks = yield from build_banks(pairs, num_frames, geometry, format, alignment, (settings,))
    return banks[0]


def build_banks(
    pairs: Iterable[tuple[Frame, Frame]],
    num_frames: int,
    geometry: Geometry,
    format: VideoFormat,
    alignment: int,
    settings: Sequence[BankSettings],
) -> Events[list[PatchBank]]:
    """Several banks in one pass, one for each of ``settings``."""
    builders = [_Builder(num_frames, geometry, format, alignment, s) for s in settings]
    start = time.monotonic()
    for index, (coded, source) in enumerate(pairs):
        for builder in builders:
            builder.add(index, coded, source)
        left = (time.monotonic() - start) / (index + 1) * max(num_frames - index - 1, 0)
        yield Progress("patches", index + 1, num_frames, eta_seconds=left)
    return [builder.finish() for builder in builders]


class _Builder:
    """Holds the reservoir while frames stream past."""

    def __init__(
        self,
        num_frames: int,
        geometry: Geometry,
        format: VideoFormat,
        alignment: int,
        settings: BankSettings,
    ) -> None:
        self._geometry, self._format = geometry, format
        self._scale = geometry.scale
        self._patch = patch_shape(geometry, settings.patch, alignment)
        self._around: MiddleSettings | None = None
        if settings.around:
            middle = middle_shape(self._patch, settings.around, self._scale, alignment)
            has_coded = settings.coded_around
            self._around = MiddleSettings(self._patch, middle, self._scale, has_coded)
        self._uniform = settings.uniform
        self._rng = np.random.Generator(np.random.PCG64(settings.seed))
        self._ends = sorted({num_frames, *(r for r in settings.resets if 0 < r < num_frames)})
        longest = max(b - a for a, b in itertools.pairwise((0, *self._ends)))
        self._run = max(1, min(settings.run, longest))
        # Slot -> first frame and corner of the run that is still to be filled.
        self._open: dict[int, tuple[int, int, int]] = {}
        self._capacity_runs = max(1, self._capacity(num_frames, settings) // self._run)
        capacity = self._capacity_runs * self._run
        self._coded = self._allocate(capacity, self._patch)
        height, width = (int(size * self._scale) for size in self._patch)
        self._source = self._allocate(capacity, (height, width))
        self._neighbours: NeighbourStore | None = None
        if self._around:
            self._neighbours = NeighbourStore(capacity, format.dtype, self._around)
        self._frame = np.zeros(capacity, np.int64)
        self._heap: list[tuple[float, int]] = []  # (key, slot), smallest key first
        self._previous: SampleArray | None = None
        self._candidates = 0

    def _capacity(self, num_frames: int, settings: BankSettings) -> int:
        height, width = self._patch
        source_samples = height * width * float(self._scale) ** 2
        sample_bytes = 1 if self._format.bit_depth == 8 else 2
        samples = height * width + source_samples
        if self._around:
            samples += self._around.patch_samples
        patch_bytes = 1.5 * samples * sample_bytes
        rows = max(1, self._geometry.coded_height // height)
        columns = max(1, self._geometry.coded_width // width)
        wanted = max(settings.min_patches, math.ceil(settings.keep * num_frames * rows * columns))
        return max(1, min(wanted, int(settings.max_bytes / patch_bytes)))

    def _allocate(self, count: int, patch: tuple[int, int]) -> SamplePlanes:
        height, width = patch
        dtype = self._format.dtype
        return (
            np.empty((count, height, width), dtype),
            np.empty((count, height // 2, width // 2), dtype),
            np.empty((count, height // 2, width // 2), dtype),
        )

    def add(self, index: int, coded: Frame, source: Frame) -> None:
        """Offer every patch of frame ``index`` to the reservoir."""
        coded_planes = [self._at_least(p, n) for p, n in zip(coded.planes, (1, 2, 2), strict=True)]
        source_planes = [self._padded(p, n) for p, n in zip(source.planes, (1, 2, 2), strict=True)]
        if self._neighbours:
            self._neighbours.begin(source_planes, coded_planes)
        self._continue_runs(index, coded_planes, source_planes)
        corners = self._corners(coded_planes[0].shape) if self._may_begin(index) else []
        for top, left in corners:
            self._candidates += 1
            energy = (coded_planes[0], source_planes[0], top, left)
            weight = 1.0 if self._uniform else _ENERGY_FLOOR + self._energy(*energy)
            # The logarithm of u^(1/w): the same order, no underflow.
            key = math.log(self._rng.random() or 5e-324) / weight
            slot = self._slot(key)
            if slot is not None:
                if self._run > 1:
                    self._open[slot] = (index, top, left)
                self._store(slot * self._run, index, coded_planes, source_planes, (top, left))
        self._previous = coded_planes[0]

    def _may_begin(self, index: int) -> bool:
        """Whether a run that begins here ends before the next reset."""
        end = next((end for end in self._ends if end > index), index)
        return index + self._run <= max(end, index + 1)

    def _continue_runs(
        self, index: int, coded: list[SampleArray], source: list[SampleArray]
    ) -> None:
        for slot, (first, top, left) in list(self._open.items()):
            if index - first >= self._run:
                del self._open[slot]
                continue
            place = slot * self._run + index - first
            self._store(place, index, coded, source, (top, left))

    def _corners(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        axes = []
        for size, patch in zip(shape, self._patch, strict=True):
            spare = size - patch * (size // patch)
            phase = CORNER_STEP * int(self._rng.integers(0, spare // CORNER_STEP + 1))
            axes.append([phase + patch * i for i in range(size // patch)])
        return [(top, left) for top in axes[0] for left in axes[1]]

    def _energy(self, coded: SampleArray, source: SampleArray, top: int, left: int) -> float:
        """Mean |gradient| of the source's luma plus mean |difference| to the previous decoded
        frame, in 8-bit code values (EPS, spatial and temporal information of ITU-T P.910).
        """
        height, width = self._patch
        unit = 1 << (self._format.bit_depth - 8)
        t, l_, h, w = (int(v * self._scale) for v in (top, left, height, width))
        luma = source[t : t + h : 2, l_ : l_ + w : 2].astype(np.int32)
        texture = np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()
        motion = 0.0
        if self._previous is not None:
            here = (slice(top, top + height, 2), slice(left, left + width, 2))
            motion = np.abs(coded[here].astype(np.int32) - self._previous[here]).mean()
        return float(texture + motion) / unit

    def _slot(self, key: float) -> int | None:
        if len(self._heap) < self._capacity_runs:
            slot = len(self._heap)
            heapq.heappush(self._heap, (key, slot))
            return slot
        if key <= self._heap[0][0]:
            return None
        slot = self._heap[0][1]
        heapq.heapreplace(self._heap, (key, slot))
        return slot

    def _store(
        self,
        place: int,
        index: int,
        coded: list[SampleArray],
        source: list[SampleArray],
        corner: tuple[int, int],
    ) -> None:
        self._frame[place] = index
        if self._neighbours:
            self._neighbours.put(place, *corner)
        for planes, kept, scale in ((coded, self._coded, 1), (source, self._source, self._scale)):
            for plane, bank, divisor in zip(planes, kept, (1, 2, 2), strict=True):
                t, l_ = (int(v * scale) // divisor for v in corner)
                height, width = bank.shape[1:]
                bank[place] = plane[t : t + height, l_ : l_ + width]

    def _at_least(self, plane: SampleArray, divisor: int) -> SampleArray:
        """A decoded plane, edge-replicated where the picture is smaller than one patch."""
        return _edge_pad(plane, *(size // divisor for size in self._patch))

    def _padded(self, plane: SampleArray, divisor: int) -> SampleArray:
        """A source plane, edge-replicated to the padded size (and to one patch at least)."""
        height = max(self._geometry.padded_height, int(self._patch[0] * self._scale)) // divisor
        width = max(self._geometry.padded_width, int(self._patch[1] * self._scale)) // divisor
        return _edge_pad(plane, height, width)

    def finish(self) -> PatchBank:
        count = len(self._heap) * self._run
        coded, source = (
            (y[:count], u[:count], v[:count]) for y, u, v in (self._coded, self._source)
        )
        around = self._neighbours.finish(count) if self._neighbours else ()
        frame, candidates = self._frame[:count], self._candidates
        return PatchBank(self._format, coded, source, frame, candidates, around, self._run)


def _edge_pad(plane: SampleArray, height: int, width: int) -> SampleArray:
    bottom, right = (max(0, n - s) for n, s in zip((height, width), plane.shape, strict=True))
    return np.pad(plane, ((0, bottom), (0, right)), mode="edge") if bottom or right else plane
