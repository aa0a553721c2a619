"""Are a stream and its weights file whole, and do they belong together?"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from codecaux.architecture import merged_parameter_count
from codecaux.colour import frame_to_planes
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.load import enhancer_for
from codecaux.decoder.planes import enhance_planes
from codecaux.decoder.sets import FloatSet, float_sets
from codecaux.device import Device, choose_device
from codecaux.errors import InputError, WeightsFormatError, WeightsStreamMismatchError
from codecaux.events import Event, Events, Notice, Progress, StageDone, StageStarted
from codecaux.frames import read_frames, require_planar_420
from codecaux.hevc import hash_stream
from codecaux.network import with_identity
from codecaux.probe import probe
from codecaux.video import ClipInfo, Frame
from codecaux.weightsfile import WeightsFile, read_weights

__all__ = ["Check", "VerifyReport", "verify"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at and found right."""

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Every check passed: a defect raises instead."""

    stream: Path
    weights: Path
    checks: tuple[Check, ...]
    num_frames: int
    device: str


def verify(stream: Path, weights: Path, device: str = "auto") -> Events[VerifyReport]:
    """Check both files whole; raises on the first defect.

    WeightsFormatError and WeightsTooLargeError: the weights file. WeightsBaseError: its base is
    not here. WeightsStreamMismatchError: another stream, or not all of this one. InputError: the
    stream does not decode to its end. DeviceError: no such device.
    """
    chosen = choose_device(device)
    yield Notice(f"device: {chosen.description}")
    file = read_weights(weights)
    checks = [_file_check(file, weights)]
    info = probe(stream)
    require_planar_420(info)
    checks.append((yield from _hash_check(file, stream)))
    enhancer = enhancer_for(file, info.format, chosen, source=str(weights))
    checks.append(_format_check(file, info))
    checks.append(_coverage_check(file))
    checks.extend((yield from _decode_checks(file, info, enhancer)))
    if enhancer.format.colour != info.format.colour:
        yield Notice(
            "the stream's colour tags are not those it was fitted with (a remux may lose them); "
            "the weights file's are used",
            "warning",
        )
    num_frames = file.metadata.num_frames
    return VerifyReport(stream, weights, tuple(checks), num_frames, chosen.description)


def _file_check(file: WeightsFile, path: Path) -> Check:
    count = merged_parameter_count(file.metadata.architecture)
    detail = f"{path.stat().st_size} bytes, {len(file.sets)} x {count} parameters"
    return Check("weights file", detail)


def _hash_check(file: WeightsFile, stream: Path) -> Generator[Event, None, Check]:
    yield StageStarted("hash", None)
    before = time.monotonic()
    found, expected = hash_stream(stream), file.metadata.stream
    yield StageDone("hash", time.monotonic() - before)
    if found.start_sha256 != expected.start_sha256:
        raise WeightsStreamMismatchError(
            f"the weights belong to another stream: expected one that starts "
            f"{expected.start_sha256[:16]}, got {found.start_sha256[:16]} ({stream}); find the "
            "stream's own weights, or encode the title again"
        )
    if found.whole_sha256 != expected.whole_sha256:
        raise InputError(
            f"{stream} begins as the weights' own stream does and then differs: expected "
            f"{expected.whole_sha256[:16]}, got {found.whole_sha256[:16]}; it was cut short, "
            "edited or damaged: fetch it again"
        )
    return Check("stream hash", found.whole_sha256)


def _format_check(file: WeightsFile, info: ClipInfo) -> Check:
    """``enhancer_for`` has compared; this says what."""
    metadata, coded = file.metadata, info.format
    detail = (
        f"{coded.width}x{coded.height} coded, {metadata.source_width}x{metadata.source_height} "
        f"shown, {coded.bit_depth} bits"
    )
    return Check("sizes and depth", detail)


def _coverage_check(file: WeightsFile) -> Check:
    num_frames = file.metadata.num_frames
    missing = next((i for i in _set_borders(file) if file.set_for_frame(i) is None), None)
    if missing is not None:
        raise WeightsFormatError(
            f"expected weights for all {num_frames} frames, got none for frame {missing}; "
            "fetch the weights file again, or encode the title again"
        )
    return Check("weight sets", f"{len(file.sets)} cover all {num_frames} frames")


def _set_borders(file: WeightsFile) -> list[int]:
    """The frames at which one set can end and none follow."""
    last = file.metadata.num_frames - 1
    ends = [s.end_frame for s in file.sets if s.end_frame is not None]
    return sorted({0, last, *(end for end in ends if end <= last)})


def _decode_checks(
    file: WeightsFile, info: ClipInfo, enhancer: Enhancer
) -> Generator[Event, None, list[Check]]:
    """Decode every frame; run the network on the first, a middle and the last one."""
    expected = file.metadata.num_frames
    tried = {0, expected // 2, expected - 1}
    yield StageStarted("decode", expected)
    before = time.monotonic()
    count = 0
    sets = float_sets(file.sets, file.metadata)
    for frame in read_frames(info.path, info=info):
        if count in tried:
            _run_network(_covering(sets, count), enhancer, frame, count)
        count += 1
        yield Progress("decode", count, expected)
    yield StageDone("decode", time.monotonic() - before)
    if count != expected:
        raise WeightsFormatError(
            f"expected {expected} frames, as the weights file says, got {count} from {info.path}; "
            "encode the title again"
        )
    frames = ", ".join(str(index) for index in sorted(tried))
    return [
        Check("frames", f"all {count} decode"),
        Check("network", f"finite on frames {frames}"),
    ]


def _covering(sets: Sequence[FloatSet], index: int) -> FloatSet:
    return next(s for s in sets if s.first_frame <= index and index < (s.end_frame or index + 1))


def _run_network(floats: FloatSet, enhancer: Enhancer, frame: Frame, index: int) -> None:
    """The network as the player runs it, before its output is rounded to code values."""
    where: Device = enhancer.device
    weights = {
        name: tensor.to(where.torch_device, where.compute_dtype)
        for name, tensor in with_identity(floats.weights, enhancer.config).items()
    }
    planes = frame_to_planes(frame, enhancer.coded, where.torch_device)
    colour = enhancer.coded.colour
    with torch.inference_mode():
        pair = enhance_planes(planes, weights, enhancer.config, colour, where.compute_dtype)
    if not all(bool(torch.isfinite(plane).all()) for plane in pair[1]):
        raise WeightsFormatError(
            f"expected finite pictures, got values that are no numbers at frame {index}; the "
            "weights are damaged: encode the title again"
        )
    shown = enhancer.enhance(frame, index).enhanced
    assert shown.y.shape == (enhancer.format.height, enhancer.format.width)
