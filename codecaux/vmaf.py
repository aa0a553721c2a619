"""VMAF and SSIM by the ffmpeg program: the command, the bytes it is fed, the logs it leaves. Pure.

One raw stream goes into ffmpeg's stdin in which the reference and every distorted version are
stacked vertically; the filter graph crops them apart again. So one pipe keeps all pictures of an
index together by construction, and no file, no codec and no timestamp comes in between.

Models. VMAF v1 (Netflix, 2026) knows banding (CAMBI) and chroma (SpEED) and gives no gain for
sharpening. 3d0h is 1080p seen from 3 picture heights; above 1440 lines 1d5h_2160 takes over, the
documented default for 4K (1.5 heights, the same 0..100 range; 3d0h_2160 goes to 110 and cannot be
compared). 5d0h is a phone. The _hfr_ siblings are tuned to 50/60 fps (motion over frames i-2, i,
i+2), are called work in progress by their authors and give other numbers for the same pictures:
they are not used. The frame rate enters no score, nor does the colour range. Pictures are compared
at the bit depth they have. Known flaws, measured: on pictures of 416x240 or less chroma does not
count in v1, and at no size does an offset that leaves the chroma's texture alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import ffmpeg as ffmpeg_python
import numpy as np

from codecaux.errors import InputError, ToolFailedError
from codecaux.video import Frame, SampleArray, VideoFormat

__all__ = [
    "V0_MODELS",
    "VmafPlan",
    "missing_reasons",
    "parse_ssim_log",
    "parse_vmaf_log",
    "stacked_planes",
    "vmaf_arguments",
    "vmaf_v1_model",
]

# Key in our logs -> model built into libvmaf.
V0_MODELS: Mapping[str, str] = {"vmaf_v061": "vmaf_v0.6.1", "vmaf_v061_neg": "vmaf_v0.6.1neg"}

_TALLEST_HD_LINES = 1440
# What libvmaf 3.2 and ffmpeg take, found by trying sizes (an error beyond it fails the whole run).
_V1_MIN_LARGER_SIDE = 216  # CAMBI
_V1_MIN_SMALLER_SIDE = 160  # SpEED, on half-size chroma over four scales
_V0_MIN_SIDE = 18  # ADM over four scales
_SSIM_MIN_SIDE = 8


def vmaf_v1_model(format: VideoFormat) -> str:
    """The v1 model for pictures of this height (see the module's docstring)."""
    return "vmaf_v1.0.16_1d5h_2160" if format.height > _TALLEST_HD_LINES else "vmaf_v1.0.16_3d0h"


def missing_reasons(format: VideoFormat) -> dict[str, str]:
    """Metric -> why it cannot be computed at this size. Empty from 216x160 on, either way up."""
    width, height = _even(format.width), _even(format.height)
    smaller, larger = min(width, height), max(width, height)
    size = f"{format.width}x{format.height}"
    reasons = {}
    if larger < _V1_MIN_LARGER_SIDE or smaller < _V1_MIN_SMALLER_SIDE:
        reasons["vmaf_v1"] = (
            f"needs a picture of {_V1_MIN_LARGER_SIDE}x{_V1_MIN_SMALLER_SIDE} or more, got {size}"
        )
    if smaller < _V0_MIN_SIDE:
        text = f"needs a picture of {_V0_MIN_SIDE}x{_V0_MIN_SIDE} or more, got {size}"
        reasons |= dict.fromkeys(V0_MODELS, text)
    if smaller < _SSIM_MIN_SIDE:
        reasons["ssim"] = (
            f"needs a picture of {_SSIM_MIN_SIDE}x{_SSIM_MIN_SIDE} or more, got {size}"
        )
    return reasons


@dataclass(frozen=True)
class VmafPlan:
    """What one ffmpeg run computes: ``num_distorted`` versions against one reference.

    ``models`` maps our keys to libvmaf's model names. Logs are simple names in the run's working
    directory, so that no path is ever inside a filter string.
    """

    format: VideoFormat
    num_distorted: int
    fps: Fraction
    threads: int
    models: Mapping[str, str] = field(default_factory=dict)
    ssim: bool = True

    def vmaf_log(self, index: int) -> str:
        return f"vmaf{index}.json"

    def ssim_log(self, index: int) -> str:
        return f"ssim{index}.log"


def vmaf_arguments(plan: VmafPlan) -> list[str]:
    """Arguments (without the program) that read the stacked stream from stdin and write logs."""
    width, height = _even(plan.format.width), _even(plan.format.height)
    stack = ffmpeg_python.input(
        "pipe:0",
        format="rawvideo",
        pix_fmt=plan.format.pixel_format,
        video_size=(width, height * (1 + plan.num_distorted)),
        framerate=str(plan.fps),
    ).split()
    outputs = []
    for index in range(plan.num_distorted):
        reference, distorted = (
            stack[2 * index + side].filter("crop", width, height, 0, row * height)
            for side, row in ((0, 0), (1, index + 1))
        )
        outputs.append(_scored(plan, index, reference, distorted).output("pipe:", format="null"))
    arguments = ffmpeg_python.merge_outputs(*outputs).get_args()
    return ["-v", "error", *map(str, arguments)]


def _scored(plan: VmafPlan, index: int, reference, distorted):  # type: ignore[no-untyped-def]
    """Chain the filters: each compares its first input with the reference and passes it on."""
    references = reference.split()
    if plan.models:
        models = "|".join(f"version={name}:name={key}" for key, name in plan.models.items())
        distorted = ffmpeg_python.filter(
            [distorted, references[0]],
            "libvmaf",
            model=models,
            log_fmt="json",
            log_path=plan.vmaf_log(index),
            n_threads=plan.threads,
        )
    if plan.ssim:
        distorted = ffmpeg_python.filter(
            [distorted, references[1]], "ssim", stats_file=plan.ssim_log(index)
        )
    return distorted


def stacked_planes(format: VideoFormat, pictures: Sequence[Frame]) -> Iterator[memoryview]:
    """The bytes of one index: all Y planes, then all U, then all V, each from top to bottom.

    An odd width or height is made even by repeating the last luma column or row, on every
    picture alike (the chroma planes have that size already). Raises InputError where a picture's
    planes do not fit ``format``.
    """
    for picture in pictures:
        _check_planes(format, picture)
    height, width = _even(format.height), _even(format.width)
    for picture in pictures:
        yield _bytes_of(_extended(picture.y, height, width))
    for picture in pictures:
        yield _bytes_of(picture.u)
    for picture in pictures:
        yield _bytes_of(picture.v)


def _check_planes(format: VideoFormat, picture: Frame) -> None:
    luma = (format.height, format.width)
    chroma = (format.chroma_height, format.chroma_width)
    shapes = tuple(plane.shape for plane in picture.planes)
    if shapes != (luma, chroma, chroma) or any(p.dtype != format.dtype for p in picture.planes):
        got = ", ".join(f"{p.shape[1]}x{p.shape[0]} {p.dtype}" for p in picture.planes)
        raise InputError(
            f"expected 4:2:0 pictures of {format.width}x{format.height} with {format.bit_depth} "
            f"bits, got planes of {got}; both sides of a comparison must have one format"
        )


def _extended(plane: SampleArray, height: int, width: int) -> SampleArray:
    rows, cols = height - plane.shape[0], width - plane.shape[1]
    return np.pad(plane, ((0, rows), (0, cols)), mode="edge") if rows or cols else plane


def _bytes_of(plane: SampleArray) -> memoryview:
    return np.ascontiguousarray(plane).data.cast("B")


def _even(size: int) -> int:
    return size + size % 2


def parse_vmaf_log(path: Path, keys: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Key -> score of every frame, from libvmaf's JSON log. Raises ToolFailedError."""
    try:
        frames = json.loads(path.read_text(encoding="utf-8"))["frames"]
        frames = sorted(frames, key=lambda frame: int(frame["frameNum"]))
        return {key: tuple(float(frame["metrics"][key]) for frame in frames) for key in keys}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolFailedError(f"expected a JSON log of libvmaf, got none: {error!r}") from error


_SSIM_LINE = re.compile(r"^n:\d+ Y:(\S+)", re.M)


def parse_ssim_log(path: Path) -> tuple[float, ...]:
    """Luma SSIM of every frame, from the ssim filter's stats file. Raises ToolFailedError."""
    try:
        return tuple(float(value) for value in _SSIM_LINE.findall(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ToolFailedError(f"expected a log of ffmpeg's ssim, got none: {error!r}") from error
