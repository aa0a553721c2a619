"""What a ladder is packaged from, and what must hold between its rungs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from codecaux.errors import InputError, UsageError, WeightsStreamMismatchError
from codecaux.hevc import StreamHash
from codecaux.ladders.codecs import VideoCodec
from codecaux.ladders.gops import segment_frames
from codecaux.ladders.segments import Track
from codecaux.weightsfile import WeightsFile

__all__ = [
    "LANGUAGE",
    "AudioTrack",
    "CutRung",
    "Rung",
    "check_aligned",
    "check_grid",
    "check_weights",
]

# The form of BCP 47, not its registry.
LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung: the first video stream of ``stream``, H.265 (or H.264, without weights), coded with
    :func:`~codecaux.ladders.gops.rung_x265_params`. Rungs may share a weights file, which must
    be one of theirs: fitted to a stream of the same size, depth and number of frames.
    """

    stream: Path
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """Audio stream ``position`` (from 0) of ``path``. Where that file has pictures, too, its clock
    is moved as theirs is. ``language``: BCP 47 or empty; ``name``: what a menu shows.
    """

    path: Path
    position: int = 0
    name: str = "Audio"
    language: str = ""

    def __post_init__(self) -> None:
        if self.position < 0:
            raise UsageError(f"expected an audio track from 0 on, got {self.position}")
        if self.language and not LANGUAGE.fullmatch(self.language):
            raise UsageError(f"expected a language such as en or pt-BR, got {self.language!r}")
        if not self.name or not self.name.isprintable() or '"' in self.name or len(self.name) > 99:
            raise UsageError(
                f"expected a name of at most 99 printable characters without double quotes for "
                f"an audio track, got {self.name!r}"
            )


@dataclass(frozen=True, slots=True)
class CutRung:
    """A rung whose segments lie in ``folder``, measured. ``hash`` and ``weights``: H.265 only."""

    rung: Rung
    folder: Path
    codec: VideoCodec
    track: Track
    hash: StreamHash | None = None
    weights: WeightsFile | None = None
    # Path in the ladder: its name is the content's, so that equal files are one.
    weights_path: str | None = None


def check_grid(stream: Path, track: Track, segment_seconds: Fraction) -> None:
    """InputError unless every segment but the last has as many pictures as ``segment_seconds`` of
    the stream's own rate (up to a twentieth more or less, where that is a mean).
    """
    counts = [segment.num_frames for segment in track.segments]
    fps = track.num_frames / track.duration_seconds
    wanted = segment_frames(fps, segment_seconds)
    common = counts[0] if len(counts) > 1 else wanted
    is_even = all(count == common for count in counts[:-1]) and counts[-1] <= common
    if not is_even or abs(common - wanted) > max(1, wanted // 20):
        raise InputError(
            f"expected a keyframe every {wanted} pictures in {stream} (segments of "
            f"{float(segment_seconds):g} s), got them after {', '.join(map(str, counts[:6]))}; "
            "encode the rung with the ladder's x265 parameters, or choose another segment length"
        )


def check_aligned(rungs: Sequence[CutRung]) -> None:
    """InputError unless all rungs have the same segments at the same times."""
    first = rungs[0]
    for other in rungs[1:]:
        pairs = zip(_outline(first.track), _outline(other.track), strict=False)
        index = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        lengths = len(first.track.segments), len(other.track.segments)
        if index is None and lengths[0] == lengths[1]:
            continue
        where = f"segment {1 + (min(lengths) if index is None else index)}"
        raise InputError(
            f"expected the same segments in every rung, got {lengths[0]} in {first.rung.stream} "
            f"and {lengths[1]} in {other.rung.stream}, which differ from {where} on; encode all "
            "rungs from the same source with the same segment length"
        )


def _outline(track: Track) -> list[tuple[Fraction, Fraction, int]]:
    frames = [segment.num_frames for segment in track.segments]
    return list(zip(track.starts_seconds, track.seconds, frames, strict=True))


def check_weights(rungs: Sequence[CutRung]) -> None:
    """WeightsStreamMismatchError unless each weights file suits every rung that it is given for
    (size, depth, number of frames) and was fitted to one of them.
    """
    for rung in rungs:
        if rung.weights is None:
            continue
        metadata = rung.weights.metadata
        geometry = metadata.geometry
        expected = (geometry.coded_width, geometry.coded_height)
        got = (rung.codec.width, rung.codec.height)
        if (*expected, metadata.bit_depth) != (*got, rung.codec.bit_depth):
            raise WeightsStreamMismatchError(
                f"{rung.rung.weights} is for coded pictures of {expected[0]}x{expected[1]} at "
                f"{metadata.bit_depth} bits, got {got[0]}x{got[1]} at {rung.codec.bit_depth} "
                f"({rung.rung.stream}); rungs that share weights must have one size"
            )
        if metadata.num_frames != rung.track.num_frames:
            raise WeightsStreamMismatchError(
                f"{rung.rung.weights} is for {metadata.num_frames} frames, got "
                f"{rung.track.num_frames} ({rung.rung.stream}); fit the rung again"
            )
        users = [other for other in rungs if other.weights_path == rung.weights_path]
        if metadata.stream not in [other.hash for other in users]:
            raise WeightsStreamMismatchError(
                f"{rung.rung.weights} was fitted to none of the streams that it is given for "
                f"({', '.join(str(other.rung.stream) for other in users)}); give each rung its "
                "own weights, or those of a rung of the same ladder"
            )
