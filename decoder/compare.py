"""Plain on the left, enhanced on the right, in one picture of the same size."""

from __future__ import annotations

from codecaux.decoder.pipeline import Pair
from codecaux.video import Frame, SampleArray, VideoFormat

__all__ = ["DIVIDER_PIXELS", "compare_frame"]

# Two luma columns are one chroma column: a divider of this width has no coloured fringe.
DIVIDER_PIXELS = 2
_NARROWEST_WITH_DIVIDER = 8


def compare_frame(pair: Pair, video_format: VideoFormat) -> Frame:
    """Left half of ``pair.base``, right half of ``pair.enhanced``, a white line between them.

    Any size, 8 or 10 bit. The split is at an even column, so that chroma splits at the same
    place. A picture too narrow for the line is split without it.
    """
    middle = video_format.width // 4 * 2
    divider = DIVIDER_PIXELS if video_format.width >= _NARROWEST_WITH_DIVIDER else 0
    white = _white(video_format)
    neutral = (video_format.peak + 1) // 2
    base, enhanced = pair.base, pair.enhanced
    return Frame(
        y=_split(base.y, enhanced.y, middle, divider, white),
        u=_split(base.u, enhanced.u, middle // 2, divider // 2, neutral),
        v=_split(base.v, enhanced.v, middle // 2, divider // 2, neutral),
        pts=enhanced.pts,
    )


def _white(video_format: VideoFormat) -> int:
    """Code value of white: 255 or 1023, in limited range 235 or 940."""
    if video_format.colour.full_range:
        return video_format.peak
    return 235 << (video_format.bit_depth - 8)


def _split(left: SampleArray, right: SampleArray, at: int, divider: int, value: int) -> SampleArray:
    """Columns before ``at`` of ``left``, ``divider`` columns of ``value``, then ``right``'s."""
    plane: SampleArray = right.copy()
    plane[:, :at] = left[:, :at]
    plane[:, at : at + divider] = value
    return plane
