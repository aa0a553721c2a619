"""Patches of a folder of photos and videos, for training without pairs.

Every picture goes through RGB to 8-bit BT.709 limited 4:2:0, whatever it was: what differs between
two folders is then the look of the pictures and not how they were stored.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codecaux.colour import (
    Planes,
    chroma_to_420,
    code_scale,
    frame_to_rgb,
    planes_to_frame,
    rgb_to_yuv444,
)
from codecaux.encoder.corpus import Corpus, Item, find_items, read_rgb
from codecaux.errors import InputError
from codecaux.events import Events, Notice, Progress
from codecaux.frames import count_frames, read_frames
from codecaux.probe import probe
from codecaux.video import SampleArray, VideoFormat

__all__ = ["FolderPatches", "find_folder", "load_patches", "to_planes"]

_STAGE = "patches"


@dataclass(frozen=True, slots=True, eq=False)
class FolderPatches:
    """Code values of ``format``: y [K, p, p], u and v [K, p/2, p/2]."""

    format: VideoFormat
    y: SampleArray
    u: SampleArray
    v: SampleArray

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, indices: Sequence[int], device: torch.device) -> Planes:
        """Nominal float32 planes of the chosen patches."""
        y0, y_span, c0, c_span = code_scale(self.format)
        y, u, v = (
            torch.from_numpy(plane[list(indices)]).to(device).float()[:, None]
            for plane in (self.y, self.u, self.v)
        )
        return Planes((y - y0) / y_span, (u - c0) / c_span, (v - c0) / c_span)


def find_folder(folder: Path, crop: int) -> Corpus:
    """What can be used of ``folder``: pictures of at least ``crop`` x ``crop``.

    InputError where it is missing, empty, or nothing in it can be used.
    """
    return find_items([folder], min_photo=crop, min_video=crop)


def load_patches(
    items: Sequence[Item], crop: int, each: int, seed: int, max_bytes: int
) -> Events[FolderPatches]:
    """``each`` patches of every item (fewer where ``max_bytes`` says so), at seeded places.

    A file that turns out not to decode is left out with a warning; InputError where none is left.
    """
    patch_bytes = crop * crop * 3 // 2
    each = max(1, min(each, max_bytes // (patch_bytes * len(items))))
    planes: list[tuple[SampleArray, SampleArray, SampleArray]] = []
    for done, item in enumerate(items):
        rng = np.random.Generator(np.random.PCG64((seed, zlib.crc32(item.path.name.encode()))))
        try:
            planes += [_cut(rgb, crop, rng) for rgb in _pictures(item, each, rng)]
        except InputError as error:
            yield Notice(f"{item.path} is left out: {error}", "warning")
        yield Progress(_STAGE, done + 1, len(items), "pictures")
    if not planes:
        raise InputError(f"expected patches of at least one picture, got none of {len(items)}")
    y, u, v = (np.stack(plane) for plane in zip(*planes, strict=True))
    return FolderPatches(VideoFormat(crop, crop), y, u, v)


def _pictures(item: Item, count: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """``count`` times RGB [3, H, W] of 0..1: one photo again and again, or frames of a video."""
    if item.kind == "photo":
        rgb = read_rgb(item.path)
        yield from [rgb] * count
        return
    info = probe(item.path)
    total = info.num_frames_from_header or count_frames(item.path)
    # With repetition: a short video gives several patches of a frame.
    wanted = np.sort(rng.integers(0, total, count)).tolist()
    for index, frame in enumerate(read_frames(item.path, info=info)):
        repeats = wanted.count(index)
        if repeats:
            yield from [frame_to_rgb(frame, info.format, torch.device("cpu"))[0]] * repeats
        if index >= wanted[-1]:
            return


def _cut(
    rgb: Tensor, crop: int, rng: np.random.Generator
) -> tuple[SampleArray, SampleArray, SampleArray]:
    top, left = (int(rng.integers(0, size - crop + 1)) for size in rgb.shape[1:])
    layout = VideoFormat(crop, crop)
    patch = to_planes(rgb[None, :, top : top + crop, left : left + crop], layout)
    return planes_to_frame(patch, layout, 0).planes


def to_planes(rgb: Tensor, layout: VideoFormat) -> Planes:
    """RGB [N, 3, H, W] of 0..1, even sizes -> nominal 4:2:0 planes."""
    yuv = rgb_to_yuv444(rgb, layout.colour.matrix)
    chroma = chroma_to_420(yuv[:, 1:], layout.colour)
    return Planes(yuv[:, :1], chroma[:, :1], chroma[:, 1:])
