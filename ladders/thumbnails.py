"""One frame of a rung three times: upscaled, enhanced, source; cut where most was gained."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from codecaux.colour import frame_to_rgb
from codecaux.decoder.load import open_enhancer
from codecaux.device import Device
from codecaux.encoder.prepare import PreparedSource
from codecaux.frames import read_frames
from codecaux.hevc import hash_start
from codecaux.ladders.finals import FinalRung
from codecaux.video import ClipInfo, Frame, VideoFormat

__all__ = ["Thumbnails", "best_window", "make_thumbnails"]

_WIDTH, _HEIGHT = 380, 260
_STRIDE = 8


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """``pictures``: bicubic, enhanced, source -> PNG, pixel for pixel. ``frame`` from 0, ``left``
    and ``top`` in source pixels.
    """

    rung: str
    frame: int
    left: int
    top: int
    width: int
    height: int
    pictures: Mapping[str, bytes] = field(repr=False)


def make_thumbnails(source: PreparedSource, rung: FinalRung, device: Device) -> Thumbnails:
    """Of the frame in the middle of the title."""
    index = source.num_frames // 2
    start = hash_start(rung.stream)
    enhancer = open_enhancer(rung.stream, rung.weights, device=device, start_sha256=start)
    with closing(read_frames(rung.stream)) as frames:  # type: ignore[type-var]
        pair = enhancer.enhance_one(frames, index)
    original = _frame(source.path, index, source.info)
    shown = {"bicubic": pair.base, "enhanced": pair.enhanced, "source": original}
    width, height = min(_WIDTH, enhancer.format.width), min(_HEIGHT, enhancer.format.height)
    gain = _squared(pair.base, original) - _squared(pair.enhanced, original)
    left, top = best_window(gain, width, height)
    layouts = {"bicubic": enhancer.format, "enhanced": enhancer.format}
    layouts["source"] = source.info.format
    pictures = {
        name: _png(_rgb(frame, layouts[name])[top : top + height, left : left + width])
        for name, frame in shown.items()
    }
    return Thumbnails(rung.name, index, left, top, width, height, pictures)


def _frame(path: Path, index: int, info: ClipInfo | None = None) -> Frame:
    with closing(read_frames(path, info=info)) as frames:  # type: ignore[type-var]
        return next(islice(frames, index, None))


def _squared(shown: Frame, original: Frame) -> npt.NDArray[np.float64]:
    difference = shown.y.astype(np.float64) - original.y.astype(np.float64)
    return difference * difference


def best_window(gain: npt.NDArray[np.float64], width: int, height: int) -> tuple[int, int]:
    """Left and top of the window of that size with the largest sum of ``gain`` [H, W]."""
    sums = np.zeros((gain.shape[0] + 1, gain.shape[1] + 1))
    sums[1:, 1:] = gain.cumsum(0).cumsum(1)
    totals = sums[height:, width:] - sums[:-height, width:]
    totals -= sums[height:, :-width] - sums[:-height, :-width]
    coarse = totals[::_STRIDE, ::_STRIDE]
    top, left = np.unravel_index(int(coarse.argmax()), coarse.shape)
    return int(left) * _STRIDE, int(top) * _STRIDE


def _rgb(frame: Frame, layout: VideoFormat) -> npt.NDArray[np.uint8]:
    rgb = frame_to_rgb(frame, layout, torch.device("cpu"))[0]
    pixels: npt.NDArray[np.uint8] = (rgb * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    from matplotlib.image import imsave  # half a second's import

    buffer = io.BytesIO()
    options: dict[str, Any] = {"format": "png", "metadata": {"Software": None}}
    imsave(buffer, np.ascontiguousarray(pixels), **options)
    return buffer.getvalue()
