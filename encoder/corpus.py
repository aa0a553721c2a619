"""What a base network is trained on: folders of videos and photos, checked before time is spent.

A photo becomes a short title of its own: a slow synthetic camera move over it
(:func:`camera_move`), so that x265 codes it as it codes video, with motion vectors and B frames;
a still would teach the network I frames alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import av.error
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from codecaux.colour import Planes, chroma_to_420, planes_to_frame, rgb_to_yuv444
from codecaux.errors import InputError
from codecaux.probe import probe
from codecaux.video import Frame, VideoFormat

__all__ = ["PHOTO_FRAMES", "PHOTO_SIZE", "Corpus", "Item", "camera_move", "find_items", "read_rgb"]

# A photo's title: square, a multiple of every scale's alignment (16 at 1, 8 at 1.5 and 2).
PHOTO_SIZE = 384
PHOTO_FRAMES = 12
# Room for the camera to move in.
_MIN_PHOTO = PHOTO_SIZE + 64
_MIN_VIDEO = 192
_MIN_VIDEO_FRAMES = 2
_PHOTO_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))
_VIDEO_SUFFIXES = frozenset((".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi", ".y4m"))
_MAX_SHRINK = 2.5
_MAX_SPEED = 3.0  # pixels a frame


@dataclass(frozen=True, slots=True)
class Item:
    """One video or photo that can be used."""

    path: Path
    kind: Literal["photo", "video"]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """``items`` in the order of their paths; ``skipped`` with the reason of each."""

    items: tuple[Item, ...]
    skipped: tuple[tuple[Path, str], ...]


def find_items(
    folders: Sequence[Path], *, min_photo: int = _MIN_PHOTO, min_video: int = _MIN_VIDEO
) -> Corpus:
    """Every video and photo under ``folders`` whose header says that it can be used: of at least
    ``min_photo`` or ``min_video`` pixels on each side.

    InputError for a folder that is missing, unreadable or empty, or where nothing is left.
    """
    items: list[Item] = []
    skipped: list[tuple[Path, str]] = []
    for folder in folders:
        found = _media_files(folder)
        if not found:
            raise InputError(
                f"expected videos or photos under {folder}, got none (known suffixes: "
                f"{', '.join(sorted(_VIDEO_SUFFIXES | _PHOTO_SUFFIXES))})"
            )
        for path in found:
            item = _examine(path, min_photo, min_video)
            if isinstance(item, Item):
                items.append(item)
            else:
                skipped.append((path, item))
    if not items:
        path, reason = skipped[0]
        raise InputError(
            f"expected at least one usable video or photo, got none of {len(skipped)}; the first, "
            f"{path}: {reason}"
        )
    return Corpus(tuple(items), tuple(skipped))


def _media_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"expected a folder of videos and photos, got {folder}; check the path")
    known = _PHOTO_SUFFIXES | _VIDEO_SUFFIXES
    try:
        return sorted(p for p in folder.rglob("*") if p.suffix.lower() in known and p.is_file())
    except OSError as error:
        raise InputError(f"expected to read {folder}, got: {error.strerror}") from error


def _examine(path: Path, min_photo: int, min_video: int) -> Item | str:
    """The item, or why it cannot be one."""
    try:
        if _is_photo(path):
            return _examine_photo(path, min_photo)
        return _examine_video(path, min_video)
    except (InputError, OSError, av.error.FFmpegError) as error:
        return str(error)


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in _PHOTO_SUFFIXES


def _examine_photo(path: Path, least: int) -> Item | str:
    with av.open(f"file:{path}") as container:
        if not container.streams.video:
            return "no picture in it"
        size = container.streams.video[0]
        width, height = size.width, size.height
    if min(width, height) < least:
        return f"expected at least {least}x{least}, got {width}x{height}"
    return Item(path, "photo", width, height)


def _examine_video(path: Path, least: int) -> Item | str:
    info = probe(path)
    size = info.format
    if min(size.width, size.height) < least:
        return f"expected at least {least}x{least}, got {size.width}x{size.height}"
    if info.is_hdr:
        return "HDR (PQ or HLG): bases are trained on SDR"
    if info.is_interlaced:
        return "interlaced; deinterlace it first"
    if info.num_frames_from_header is not None and info.num_frames_from_header < _MIN_VIDEO_FRAMES:
        return f"expected at least {_MIN_VIDEO_FRAMES} frames, got {info.num_frames_from_header}"
    return Item(path, "video", size.width, size.height)


def read_rgb(path: Path) -> Tensor:
    """A photo as RGB [3, H, W] of 0..1. InputError where it does not decode."""
    try:
        with av.open(f"file:{path}") as container:
            picture: Any = next(container.decode(video=0))
            array: npt.NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
    except (OSError, StopIteration, av.error.FFmpegError) as error:
        raise InputError(f"expected a photo that decodes, got {path}: {error}") from error
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255.0


def camera_move(
    rgb: Tensor, format: VideoFormat, rng: np.random.Generator, num_frames: int = PHOTO_FRAMES
) -> Iterator[Frame]:
    """Frames of a slow camera move over a photo, RGB [3, H, W] of 0..1 -> 4:2:0 code values.

    The photo is first shrunk by 1 to 2.5, where it is large enough. Half of the moves pan by whole
    pixels, which keeps every detail; the others pan by fractions, zoom and turn a little.
    """
    rgb = _shrunk(rgb, rng)
    is_whole = bool(rng.random() < 0.5)
    size = (format.height, format.width)
    for centre, zoom, angle in _path(rgb.shape[1:], size, num_frames, is_whole, rng):
        picture = _crop(rgb, centre, size) if is_whole else _view(rgb, centre, size, zoom, angle)
        yuv = rgb_to_yuv444(picture.clamp(0.0, 1.0)[None], format.colour.matrix)
        chroma = chroma_to_420(yuv[:, 1:], format.colour)
        yield planes_to_frame(Planes(yuv[:, :1], chroma[:, :1], chroma[:, 1:]), format, 0)


def _shrunk(rgb: Tensor, rng: np.random.Generator) -> Tensor:
    shortest = min(rgb.shape[1:])
    shrink = rng.uniform(1.0, min(_MAX_SHRINK, max(1.0, shortest / (_MIN_PHOTO * 1.1))))
    size = [round(n / shrink) for n in rgb.shape[1:]]
    if tuple(size) == tuple(rgb.shape[1:]):
        return rgb
    return F.interpolate(rgb[None], size=size, mode="bicubic", antialias=True)[0]


def _path(
    photo: Sequence[int],
    view: tuple[int, int],
    num_frames: int,
    is_whole: bool,
    rng: np.random.Generator,
) -> list[tuple[tuple[float, float], float, float]]:
    """(centre (y, x) in photo pixels, zoom, angle in radians) of every frame, inside the photo."""
    zooms = np.exp(rng.uniform(-3e-3, 3e-3) * np.arange(num_frames))
    angles = rng.uniform(-2e-3, 2e-3) * np.arange(num_frames)
    # A turned and zoomed view needs more room than the view itself.
    reach = 0.0 if is_whole else float(zooms.max() - 1.0 + np.abs(angles).max())
    axes = []
    for length, size in zip(photo, view, strict=True):
        margin = size * (1.0 + reach) / 2.0
        room = max(0.0, length - 2.0 * margin)
        travel = min(_MAX_SPEED * (num_frames - 1), room) * rng.uniform(-1.0, 1.0)
        start = margin + max(0.0, -travel) + rng.random() * (room - abs(travel))
        step = travel / max(1, num_frames - 1)
        steps = (math.trunc(step) if is_whole else step) * np.arange(num_frames)
        axes.append((math.floor(start) if is_whole else start) + steps)
    return [
        ((float(y), float(x)), float(zoom), float(angle))
        for y, x, zoom, angle in zip(*axes, zooms, angles, strict=True)
    ]


def _crop(rgb: Tensor, centre: tuple[float, float], size: tuple[int, int]) -> Tensor:
    top, left = (
        min(max(0, int(c) - n // 2), length - n)
        for c, n, length in zip(centre, size, rgb.shape[1:], strict=True)
    )
    return rgb[:, top : top + size[0], left : left + size[1]]


def _view(
    rgb: Tensor, centre: tuple[float, float], size: tuple[int, int], zoom: float, angle: float
) -> Tensor:
    """Bicubic samples of the photo on a turned, zoomed grid around ``centre``."""
    height, width = rgb.shape[1:]
    y, x = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2.0 for n in size)
    rows, columns = torch.meshgrid(y * zoom, x * zoom, indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    at_x = centre[1] - 0.5 + cos * columns - sin * rows
    at_y = centre[0] - 0.5 + sin * columns + cos * rows
    grid = torch.stack(((2.0 * at_x + 1.0) / width - 1.0, (2.0 * at_y + 1.0) / height - 1.0), -1)
    return F.grid_sample(
        rgb[None], grid[None], mode="bicubic", padding_mode="reflection", align_corners=False
    )[0]
