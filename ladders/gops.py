"""One grid of keyframes for every rung: the parameters that put an IDR at each segment's start.

Segments are counted in frames, so that rungs agree at 24000/1001 fps and at variable rates too.
"""

from __future__ import annotations

from fractions import Fraction

from codecaux.errors import UsageError

__all__ = ["h264_level", "rung_x265_params", "segment_duration", "segment_frames"]

MIN_SEGMENT_SECONDS, MAX_SEGMENT_SECONDS = Fraction(1, 2), Fraction(60)

# Level, most macroblocks a second, most macroblocks a frame: H.264 table A-1.
_H264_LEVELS = (
    ("1.3", 11_880, 396),
    ("2.1", 19_800, 792),
    ("3.0", 40_500, 1_620),
    ("3.1", 108_000, 3_600),
    ("3.2", 216_000, 5_120),
    ("4.0", 245_760, 8_192),
    ("4.2", 522_240, 8_704),
    ("5.0", 589_824, 22_080),
    ("5.1", 983_040, 36_864),
    ("5.2", 2_073_600, 36_864),
    ("6.0", 4_177_920, 139_264),
    ("6.2", 16_711_680, 139_264),
)


def segment_frames(fps: Fraction, segment_seconds: Fraction) -> int:
    """Frames in a segment: the nearest whole number of them.

    UsageError where a segment would last less than 0.5 s or more than 60 s.
    """
    if not MIN_SEGMENT_SECONDS <= segment_seconds <= MAX_SEGMENT_SECONDS:
        raise UsageError(
            f"expected segments of {float(MIN_SEGMENT_SECONDS):g} to "
            f"{float(MAX_SEGMENT_SECONDS):g} s, got {float(segment_seconds):g}"
        )
    assert fps > 0
    return max(1, round(fps * segment_seconds))


def segment_duration(fps: Fraction, segment_seconds: Fraction) -> Fraction:
    """Seconds that a segment lasts: its whole number of frames."""
    return segment_frames(fps, segment_seconds) / fps


def rung_x265_params(
    fps: Fraction,
    segment_seconds: Fraction,
    max_kbps: int | None = None,
    buffer_seconds: Fraction = Fraction(1),
) -> tuple[tuple[str, str], ...]:
    """``StreamSettings.x265_params`` of a rung: an IDR every segment and nowhere else.

    Groups are closed (nothing refers over a segment's border) and no scene cut makes a keyframe:
    min-keyint leaves an I picture inside the group. ``max_kbps`` caps the CRF: over any
    stretch the stream is at most ``max_kbps`` x (its seconds + ``buffer_seconds``), which keeps the
    peak of a rung near its mean. Equal input gives equal bytes with the cap, too (const-vbv).
    """
    frames = str(segment_frames(fps, segment_seconds))
    params = [("keyint", frames), ("min-keyint", frames), ("open-gop", "0")]
    if max_kbps is not None:
        if max_kbps < 1 or buffer_seconds <= 0:
            raise UsageError(
                f"expected a cap of at least 1 kb/s and a buffer above 0 s, got {max_kbps} kb/s "
                f"and {float(buffer_seconds):g} s"
            )
        buffer_kbits = max(1, round(max_kbps * buffer_seconds))
        params += [("vbv-maxrate", str(max_kbps)), ("vbv-bufsize", str(buffer_kbits))]
        params.append(("const-vbv", "1"))
    return tuple(params)


def h264_level(width: int, height: int, fps: Fraction) -> str:
    """The lowest level of H.264 (from 1.3 on) that allows such pictures at such a rate.

    UsageError beyond level 6.2.
    """
    macroblocks = -(-width // 16) * -(-height // 16)
    for level, per_second, per_frame in _H264_LEVELS:
        # No side may be longer than the square root of 8 MaxFS macroblocks: A.3.1.
        longest = max(-(-width // 16), -(-height // 16))
        if (
            macroblocks <= per_frame
            and macroblocks * fps <= per_second
            and longest**2 <= 8 * per_frame
        ):
            return level
    raise UsageError(
        f"expected a picture that H.264 has a level for, got {width}x{height} at {float(fps):g} "
        "fps; choose a smaller fallback"
    )
