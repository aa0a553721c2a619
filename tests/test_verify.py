"""verify: what is right is listed, and each defect has its own error."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codecaux.architecture import SrUnetConfig, parameter_shapes
from codecaux.decoder.verify import VerifyReport, verify
from codecaux.errors import (
    CodecauxError,
    DeviceError,
    InputError,
    UsageError,
    WeightsFormatError,
    WeightsStreamMismatchError,
)
from codecaux.events import Notice, Progress, drain
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg
from codecaux.hevc import hash_stream
from codecaux.probe import probe
from codecaux.quantise import MAX_STEP, QuantisedTensor
from codecaux.weightsfile import WeightSet, WeightsFile, WeightsMetadata, pack

NUM_FRAMES = 6
CONFIG = SrUnetConfig("test", (2, 2, 2, 2), (1, 1, 1, 1, 1, 1, 1), Fraction(2))


def weight_set(first: int = 0, end: int | None = None, step: float = 0.03125) -> WeightSet:
    rng = np.random.default_rng(5)
    tensors = {
        name: QuantisedTensor(rng.integers(-3, 4, shape).astype(np.int32), step)
        for name, shape in parameter_shapes(CONFIG).items()
    }
    return WeightSet(first, end, tensors)


def weights_file(stream: Path, *sets: WeightSet, **changes: object) -> WeightsFile:
    info = probe(stream)
    metadata = WeightsMetadata(
        architecture=CONFIG,
        source_width=129,
        source_height=77,
        num_frames=NUM_FRAMES,
        bit_depth=8,
        colour=info.format.colour,
        stream=hash_stream(stream),
    )
    metadata = replace(metadata, **changes)  # type: ignore[arg-type]
    return WeightsFile(metadata, sets or (weight_set(),))


@pytest.fixture(scope="module")
def stream(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "title.mp4"
    arguments = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=66x40:rate=25"]
    arguments += ["-frames:v", str(NUM_FRAMES), "-pix_fmt", "yuv420p", "-c:v", "libx265"]
    run_ffmpeg(ffmpeg, [*arguments, "-x265-params", "log-level=none:keyint=3", str(path)])
    return path


def check(tmp_path: Path, stream: Path, file: WeightsFile) -> VerifyReport:
    weights = tmp_path / "title.weights"
    weights.write_bytes(pack(file))
    return drain(verify(stream, weights, "cpu"))


def test_sets_that_refer_to_others(tmp_path: Path, stream: Path) -> None:
    """As the encoder writes them for scenes: differences from the first set."""
    again = replace(weight_set(4, NUM_FRAMES), reference=0)
    report = check(tmp_path, stream, weights_file(stream, weight_set(0, 4), again))
    assert [c.name for c in report.checks][-1] == "network"


def test_what_is_right_is_listed(tmp_path: Path, stream: Path) -> None:
    weights = tmp_path / "title.weights"
    weights.write_bytes(pack(weights_file(stream, weight_set(0, 4), weight_set(4, NUM_FRAMES))))
    events = verify(stream, weights, "cpu")
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            report = stop.value
            break
    names = [c.name for c in report.checks]
    assert names == [
        "weights file",
        "stream hash",
        "sizes and depth",
        "weight sets",
        "frames",
        "network",
    ]
    assert report.checks[-1].detail == "finite on frames 0, 3, 5"
    assert report.num_frames == NUM_FRAMES
    progress = [event for event in seen if isinstance(event, Progress)]
    assert progress[-1].done == NUM_FRAMES
    assert any(isinstance(event, Notice) and "CPU" in event.message for event in seen)


def test_a_remux_is_the_same_stream(tmp_path: Path, stream: Path, ffmpeg: Ffmpeg) -> None:
    remuxed = tmp_path / "title.mkv"
    run_ffmpeg(ffmpeg, ["-v", "error", "-i", str(stream), "-c", "copy", str(remuxed)])
    assert check(tmp_path, remuxed, weights_file(stream)).num_frames == NUM_FRAMES


def test_a_stream_cut_short(tmp_path: Path, stream: Path, ffmpeg: Ffmpeg) -> None:
    cut = tmp_path / "cut.mp4"
    run_ffmpeg(ffmpeg, ["-v", "error", "-i", str(stream), "-c", "copy", "-frames:v", "3", str(cut)])
    with pytest.raises(InputError, match="begins as"):
        check(tmp_path, cut, weights_file(stream))


def test_another_stream(tmp_path: Path, stream: Path, ffmpeg: Ffmpeg) -> None:
    other = tmp_path / "other.mp4"
    arguments = ["-v", "error", "-i", str(stream), "-vf", "negate", "-c:v", "libx265"]
    run_ffmpeg(ffmpeg, [*arguments, "-x265-params", "log-level=none", str(other)])
    with pytest.raises(WeightsStreamMismatchError, match="another stream"):
        check(tmp_path, other, weights_file(stream))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"source_width": 300}, WeightsStreamMismatchError, "150x40"),
        ({"bit_depth": 10}, WeightsStreamMismatchError, "10 bits"),
        ({"num_frames": NUM_FRAMES + 1}, WeightsFormatError, "expected 7 frames"),
        ({"num_frames": NUM_FRAMES - 1}, WeightsFormatError, "got 6"),
    ],
)
def test_metadata_that_does_not_fit(
    tmp_path: Path,
    stream: Path,
    changes: dict[str, object],
    error: type[CodecauxError],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        check(tmp_path, stream, weights_file(stream, **changes))


def test_frames_without_weights(tmp_path: Path, stream: Path) -> None:
    with pytest.raises(WeightsFormatError, match="none for frame 4"):
        check(tmp_path, stream, weights_file(stream, weight_set(0, 4)))


def test_a_network_that_overflows(tmp_path: Path, stream: Path) -> None:
    with pytest.raises(WeightsFormatError, match="frame 0"):
        check(tmp_path, stream, weights_file(stream, weight_set(step=MAX_STEP)))


def test_lost_colour_tags_are_a_warning(tmp_path: Path, stream: Path) -> None:
    file = weights_file(stream)
    colour = replace(file.metadata.colour, primaries=9)
    file = replace(file, metadata=replace(file.metadata, colour=colour))
    weights = tmp_path / "title.weights"
    weights.write_bytes(pack(file))
    warnings = [e for e in verify(stream, weights, "cpu") if isinstance(e, Notice)]
    assert warnings[-1].level == "warning"
    assert "colour" in warnings[-1].message


def test_missing_files_and_devices(tmp_path: Path, stream: Path) -> None:
    weights = tmp_path / "title.weights"
    with pytest.raises(InputError):
        drain(verify(stream, weights, "cpu"))
    weights.write_bytes(b"not weights")
    with pytest.raises(WeightsFormatError):
        drain(verify(stream, weights, "cpu"))
    weights.write_bytes(pack(weights_file(stream)))
    with pytest.raises(InputError):
        drain(verify(tmp_path / "absent.mp4", weights, "cpu"))
    with pytest.raises((UsageError, DeviceError)):
        drain(verify(stream, weights, "abacus"))
