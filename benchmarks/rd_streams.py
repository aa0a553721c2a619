"""The coded streams of the rate-distortion benchmark, each made once, and how each is shown.

A stream is coded by the product itself (``encode_stream``), or, for x265's own curve over sizes,
with the product's command at sizes that are not the product's: nothing but the size differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av.filter
import numpy as np

from codecaux.atomic import atomic_path
from codecaux.encoder.mux import TrackPlan
from codecaux.encoder.prepare import PreparedSource
from codecaux.encoder.stream import (
    StreamSettings,
    encode_stream,
    picture_filters,
    stream_arguments,
)
from codecaux.events import drain
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg
from codecaux.frames import decode_pictures
from codecaux.video import Frame, Geometry, SampleArray, VideoFormat

__all__ = [
    "UPSCALE_REVISION",
    "SizedGeometry",
    "make_sized_stream",
    "make_stream",
    "upscaled_frames",
]

# Raised whenever upscaled_frames begins to give other pictures; 2: the matrix is spelt out.
UPSCALE_REVISION = 2

_MIN_CODED_SIZE = 16  # of x265


@dataclass(frozen=True)
class SizedGeometry(Geometry):
    """``scale`` times smaller in both directions, to the nearest even size, without padding.

    swscale maps the whole picture to the whole picture, whatever the exact ratio. Any scale from 1.
    """

    def __post_init__(self) -> None:
        assert self.scale >= 1, f"expected a scale of 1 or more, got {self.scale}"

    @property
    def coded_width(self) -> int:
        return _nearest_even(self.source_width / self.scale)

    @property
    def coded_height(self) -> int:
        return _nearest_even(self.source_height / self.scale)

    @property
    def padded_width(self) -> int:
        return self.source_width

    @property
    def padded_height(self) -> int:
        return self.source_height


def _nearest_even(size: Fraction) -> int:
    return max(_MIN_CODED_SIZE, 2 * round(size / 2))


def make_stream(
    source: PreparedSource, settings: StreamSettings, output: Path, ffmpeg: Ffmpeg
) -> Path:
    """The product's own stream at ``output``, unless it is there already."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        drain(encode_stream(source, settings, output, ffmpeg))
    return output


def make_sized_stream(
    source: PreparedSource,
    settings: StreamSettings,
    geometry: SizedGeometry,
    output: Path,
    ffmpeg: Ffmpeg,
) -> Path:
    """The same of another size, down-scaled by swscale, unless it is there already."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(output) as temporary:
            arguments = stream_arguments(source, settings, geometry, TrackPlan(), temporary)
            run_ffmpeg(ffmpeg, arguments)
    return output


def upscaled_frames(
    stream: Path, source: PreparedSource, kernels: Sequence[str]
) -> Iterator[dict[str, Frame]]:
    """Each picture of ``stream`` at the source's size, by every one of swscale's ``kernels``.

    The filters are those of the way down, with the size turned round: range and chroma siting are
    spelt out the same.
    """
    target = source.info.format
    graphs: dict[str, av.filter.Graph] = {}
    for picture in decode_pictures(stream):
        versions = {}
        for kernel in kernels:
            if kernel not in graphs:
                graphs[kernel] = _graph(picture, _upscale_filters(source, kernel))
            graphs[kernel].push(picture)
            versions[kernel] = _to_frame(graphs[kernel].pull(), target)
        yield versions


def _upscale_filters(source: PreparedSource, kernel: str) -> list[tuple[str, dict[str, str]]]:
    size = source.info.format
    settings = StreamSettings(crf=0.0, downscale=kernel)
    down = SizedGeometry(size.width, size.height, Fraction(2))
    (name, options), *_ = picture_filters(source, settings, down)
    wanted = {"width": str(size.width), "height": str(size.height)}
    # A graph of our own is told no matrix, the pictures have one: left alone, swscale converts.
    matrix = size.colour.matrix
    wanted |= {"in_color_matrix": matrix, "out_color_matrix": matrix}
    return [(name, dict(options) | wanted), ("format", {"pix_fmts": size.pixel_format})]


def _graph(picture: Any, filters: Sequence[tuple[str, dict[str, str]]]) -> av.filter.Graph:
    graph = av.filter.Graph()
    first = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        time_base=picture.time_base,
    )
    chain = [first]
    for name, options in filters:
        chain.append(graph.add(name, ":".join(f"{key}={value}" for key, value in options.items())))
    chain.append(graph.add("buffersink"))
    for before, after in pairwise(chain):
        before.link_to(after)
    graph.configure()
    return graph


def _to_frame(picture: Any, format: VideoFormat) -> Frame:
    y, u, v = (_plane(plane, format) for plane in picture.planes)
    return Frame(y, u, v, int(picture.pts))


def _plane(plane: Any, format: VideoFormat) -> SampleArray:
    samples: SampleArray = np.frombuffer(plane, format.dtype)
    rows = samples.reshape(plane.height, -1)
    return rows[:, : plane.width].copy()
