"""From files to an :class:`Enhancer`: the weights must belong to the stream."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from codecaux.architecture import net_config
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.sets import float_sets
from codecaux.device import Device
from codecaux.errors import WeightsStreamMismatchError
from codecaux.hevc import hash_start
from codecaux.probe import probe
from codecaux.video import Geometry, VideoFormat
from codecaux.weightsfile import WeightsFile, read_weights

__all__ = ["enhancer_for", "open_enhancer", "plain_enhancer"]


def open_enhancer(
    stream: Path,
    weights: Path,
    *,
    device: Device,
    force: bool = False,
    start_sha256: str | None = None,
) -> Enhancer:
    """Read ``weights``, check that they belong to ``stream``, load them.

    Only the stream's start is hashed, so that play begins at once; ``verify`` hashes the whole.
    ``start_sha256``: of the stream that they are for, where a ladder's index says that and not they
    themselves (rungs may share weights); None: as they say.
    Raises InputError, the WeightsErrors, and WeightsStreamMismatchError unless ``force``.
    """
    file = read_weights(weights)
    found = hash_start(stream)
    expected = start_sha256 or file.metadata.stream.start_sha256
    if found != expected and not force:
        raise WeightsStreamMismatchError(
            f"{weights} belongs to another stream: expected one that starts {expected[:16]}, got "
            f"{found[:16]} ({stream}); play the stream with --plain, find its own weights, or "
            "pass --force to see foreign ones"
        )
    return enhancer_for(file, probe(stream).format, device, source=str(weights))


def enhancer_for(
    file: WeightsFile, coded: VideoFormat, device: Device, *, source: str = "the weights file"
) -> Enhancer:
    """An enhancer for pictures of ``coded``; WeightsStreamMismatchError where the sizes differ."""
    metadata = file.metadata
    size = (metadata.source_width, metadata.source_height)
    geometry = Geometry(*size, metadata.architecture.scale)
    expected = (geometry.coded_width, geometry.coded_height, metadata.bit_depth)
    got = (coded.width, coded.height, coded.bit_depth)
    if got != expected:
        raise WeightsStreamMismatchError(
            f"{source} is for coded pictures of {_size(expected)}, got {_size(got)}: "
            "it cannot be applied to this stream, even by force"
        )
    sets = float_sets(file.sets, metadata)
    # The colour that the fit computed with, should a remux have lost the stream's tags.
    coded = replace(coded, colour=metadata.colour)
    config, resets, fusion = metadata.architecture, metadata.resets, metadata.fusion
    return Enhancer(coded, size, config, sets, device, resets, fusion)


def plain_enhancer(coded: VideoFormat, source_size: tuple[int, int], device: Device) -> Enhancer:
    """An enhancer without weights: plain bicubic, the smallest scale that covers."""
    scale = next(
        (s for s in (Fraction(1), Fraction(3, 2), Fraction(2)) if _covers(coded, source_size, s)),
        Fraction(2),
    )
    return Enhancer(coded, source_size, net_config("tiny", scale), (), device)


def _covers(coded: VideoFormat, source_size: tuple[int, int], scale: Fraction) -> bool:
    return coded.width * scale >= source_size[0] and coded.height * scale >= source_size[1]


def _size(values: tuple[int, int, int]) -> str:
    return f"{values[0]}x{values[1]} at {values[2]} bits"
