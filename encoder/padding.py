"""The first filters of every encode: one timestamp a frame, and the size that the scale divides."""

from __future__ import annotations

from typing import Any

import ffmpeg as ffmpeg_python

from codecaux.encoder.prepare import PreparedSource
from codecaux.video import Geometry, VideoFormat

__all__ = ["padded", "timed"]


def timed(video: Any, source: PreparedSource) -> Any:
    """A file without timestamps: one frame per tick."""
    if source.is_excerpt:
        first = source.first_frame
        video = video.filter(
            "trim", start_frame=str(first), end_frame=str(first + source.num_frames)
        )
        video = video.filter("setpts", expr="PTS-STARTPTS")
    if source.has_timestamps:
        return video
    tick = source.info.time_base
    counted = video.filter("settb", expr=f"{tick.numerator}/{tick.denominator}")
    return counted.filter("setpts", expr="N")


def padded(video: Any, layout: VideoFormat, geometry: Geometry) -> Any:
    """Pad to the geometry's size, edges replicated.

    ffmpeg's pad cuts the last line of an odd 4:2:0 picture, so there each plane is padded alone.
    """
    width, height = geometry.padded_width, geometry.padded_height
    if (width, height) == (layout.width, layout.height):
        return video
    if layout.width % 2 == layout.height % 2 == 0:
        return _pad(video, (layout.width, layout.height), (width, height))
    planes = video.filter_multi_output("extractplanes", planes="y+u+v")
    chroma = (layout.chroma_width, layout.chroma_height), (width // 2, height // 2)
    luma = (layout.width, layout.height), (width, height)
    parts = [_pad(planes[index], *size) for index, size in enumerate((luma, chroma, chroma))]
    return ffmpeg_python.filter(
        parts, "mergeplanes", map1p="0", map1s="1", map2p="0", map2s="2", format=layout.pixel_format
    )


def _pad(picture: Any, size: tuple[int, int], padded: tuple[int, int]) -> Any:
    if size == padded:
        return picture
    right, bottom = padded[0] - size[0], padded[1] - size[1]
    larger = picture.filter("pad", width=str(padded[0]), height=str(padded[1]), x="0", y="0")
    return larger.filter("fillborders", right=str(right), bottom=str(bottom), mode="smear")
