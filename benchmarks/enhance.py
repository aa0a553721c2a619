"""Frames per second of the network, of the enhancer and of the whole player, against the limit.

    python benchmarks/enhance.py --nets tiny,light -o benchmarks/results/enhance.json

For each net and coded size, in rounds (common.interleave): the network alone on a prepared input;
``Enhancer.enhance``, planes in and planes out; the player's pipeline from the coded stream to
nowhere, and to a y4m pipe. Beside them the multiply-adds per frame and the machine's measured
matrix rate: ``limit_fps`` is what that rate would allow, ``*_of_limit`` the fraction reached.

Asserted in the same run: every frame arrives, the network changes the picture, and bfloat16 shows
what float32 shows to 2 code values.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Timing, interleave, matrix_macs_per_second, write_results

from codecaux.architecture import SrUnetConfig, net_config, parameter_shapes
from codecaux.cli.main import keep_freed_memory
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.pipeline import OutputFormat, run_pipeline
from codecaux.decoder.sets import FloatSet
from codecaux.decoder.sinks import Y4mSink
from codecaux.device import Device, choose_device
from codecaux.encoder.convert import SourceOptions
from codecaux.encoder.prepare import prepare
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.events import drain
from codecaux.ffmpeg import file_argument, find_ffmpeg, run_ffmpeg
from codecaux.frames import read_frames
from codecaux.network import sr_unet_phases, with_identity
from codecaux.video import Frame, VideoFormat

_FPS = 24
_TYPES_MAY_DIFFER_BY = 2  # code values of 8 bits, docs/design.md


@dataclass(frozen=True)
class Clip:
    """A coded stream: its pictures' format, and all of them decoded."""

    path: Path
    format: VideoFormat
    frames: tuple[Frame, ...]


class NullSink:
    """Takes pictures and drops them."""

    def __init__(self) -> None:
        self.num_frames = 0

    def open(self, output: OutputFormat) -> None:
        """Nothing to get ready."""

    def write(self, frame: Frame) -> None:
        self.num_frames += 1

    def close(self) -> None:
        """Nothing to finish."""

    def abort(self) -> None:
        """Nothing to take back."""


def main() -> None:
    keep_freed_memory()  # as the program does
    options = _parse()
    device = choose_device("cpu")
    rates = {
        name: matrix_macs_per_second(dtype, options.matrix_size)
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes.split(","):
            width, height = map(int, size.split("x"))
            clip = make_clip(Path(folder), width, height, options.frames)
            nets = options.nets.split(",")
            rows += [measure_net(net, clip, device, rates, options.repeats) for net in nets]
    settings = {name: getattr(options, name) for name in ("frames", "repeats", "matrix_size")}
    write_results(options.output, "enhance", settings, rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", default="tiny,light")
    parser.add_argument("--sizes", default="480x270,960x540", help="of the coded pictures")
    parser.add_argument("--frames", type=int, default=16, help="in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--matrix-size", type=int, default=2048)
    parser.add_argument("-o", "--output", type=Path, help="JSON; a .tsv is written beside it")
    return parser.parse_args()


def make_clip(folder: Path, width: int, height: int, num_frames: int) -> Clip:
    """A generated source twice as large, coded as the encoder codes it."""
    source = folder / f"source-{width}x{height}.mkv"
    graph = f"testsrc2=size={2 * width}x{2 * height}:rate={_FPS},noise=alls=6:allf=t:all_seed=1"
    arguments = ["-f", "lavfi", "-i", graph, "-frames:v", str(num_frames), "-pix_fmt", "yuv420p"]
    program = find_ffmpeg()
    run_ffmpeg(program, [*arguments, "-c:v", "ffv1", "-y", file_argument(source)])
    prepared = drain(prepare(source, SourceOptions(), folder / "work", ffmpeg=program))
    stream = folder / f"coded-{width}x{height}.mp4"
    settings = StreamSettings(crf=24, preset="ultrafast")
    drain(encode_stream(prepared, settings, stream, program))
    # A height of 270 is coded with 270 lines, not the network's multiple of 8.
    format = replace(prepared.info.format, width=width, height=height)
    frames = tuple(read_frames(stream))
    assert len(frames) == num_frames
    assert frames[0].y.shape == (height, width)
    return Clip(stream, format, frames)


def measure_net(
    net: str, clip: Clip, device: Device, rates: dict[str, float], repeats: int
) -> dict[str, Any]:
    """One row: a net at one size."""
    config = net_config(net, Fraction(2))
    weights = _weights(config)
    enhancer = _enhancer(clip, config, weights, device)
    _check(enhancer, clip, weights, device)
    timings = interleave(_actions(clip, config, weights, enhancer, device), repeats)
    count = len(clip.frames)
    used = "bf16" if device.compute_dtype == torch.bfloat16 else "fp32"
    limit_fps = rates[used] / enhancer.macs_per_frame
    row: dict[str, Any] = {
        "net": net,
        "coded": f"{clip.format.width}x{clip.format.height}",
        "shown": f"{enhancer.format.width}x{enhancer.format.height}",
        "dtype": used,
    }
    row |= {f"{name}_fps": timing.per_second(count) for name, timing in timings.items()}
    row |= {f"{name}_iqr_percent": _iqr_percent(timing) for name, timing in timings.items()}
    row |= {
        "macs_per_frame": enhancer.macs_per_frame,
        "matrix_bf16_gmacs_per_second": rates["bf16"] / 1e9,
        "matrix_fp32_gmacs_per_second": rates["fp32"] / 1e9,
        "limit_fps": limit_fps,
    }
    return row | {
        f"{name}_of_limit": timing.per_second(count) / limit_fps for name, timing in timings.items()
    }


def _iqr_percent(timing: Timing) -> float:
    return 100.0 * timing.iqr_seconds / timing.median_seconds


def _weights(config: SrUnetConfig) -> dict[str, torch.Tensor]:
    """Weights of a fit's size: the time does not depend on them, the check on the types does."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(shape, generator=generator) * 0.6 / max(1, shape[1] * 9) ** 0.5
        if len(shape) == 4
        else torch.zeros(shape)
        for name, shape in parameter_shapes(config).items()
    }


def _enhancer(
    clip: Clip, config: SrUnetConfig, weights: dict[str, torch.Tensor], device: Device
) -> Enhancer:
    size = (2 * clip.format.width, 2 * clip.format.height)
    # The last layer small: a residual of some code values, as after a fit.
    small = weights | {"last.weight": weights["last.weight"] * 0.02}
    return Enhancer(clip.format, size, config, [FloatSet(0, None, small)], device)


def _check(
    enhancer: Enhancer, clip: Clip, weights: dict[str, torch.Tensor], device: Device
) -> None:
    exact = replace(device, compute_dtype=torch.float32)
    shown = enhancer.enhance(clip.frames[0], 0)
    again = _enhancer(clip, enhancer.config, weights, exact).enhance(clip.frames[0], 0)
    assert _difference(shown.base, shown.enhanced) > 0
    found = _difference(shown.enhanced, again.enhanced)
    assert found <= _TYPES_MAY_DIFFER_BY, found


def _difference(a: Frame, b: Frame) -> int:
    return max(
        int(np.abs(x.astype(np.int32) - y).max()) for x, y in zip(a.planes, b.planes, strict=True)
    )


def _actions(
    clip: Clip,
    config: SrUnetConfig,
    weights: dict[str, torch.Tensor],
    enhancer: Enhancer,
    device: Device,
) -> dict[str, Callable[[], object]]:
    """What is timed; each runs over all the clip's frames."""
    dtype, channels_last = device.compute_dtype, torch.channels_last
    ready = {
        name: value.to(dtype, memory_format=channels_last) if value.dim() == 4 else value.to(dtype)
        for name, value in with_identity(weights, config).items()
    }
    height, width = (-(-n // 8) * 8 for n in (clip.format.height, clip.format.width))
    x = torch.rand(1, 3, height, width).to(dtype).contiguous(memory_format=channels_last)

    def network() -> None:
        with torch.inference_mode():
            for _ in clip.frames:
                sr_unet_phases(x, ready, config)

    def enhance() -> None:
        for index, frame in enumerate(clip.frames):
            enhancer.enhance(frame, index)

    def player_to_nowhere() -> None:
        sink = NullSink()
        _play(clip, enhancer, sink)
        assert sink.num_frames == len(clip.frames)

    def player_to_pipe() -> None:
        with _drained_pipe() as (descriptor, received):
            _play(clip, enhancer, Y4mSink(descriptor))
        wanted = len(clip.frames) * enhancer.format.frame_bytes
        assert wanted < sum(received) < wanted + 1000 * (1 + len(clip.frames))

    return {
        "network": network,
        "enhance": enhance,
        "player_to_nowhere": player_to_nowhere,
        "player_to_pipe": player_to_pipe,
    }


def _play(clip: Clip, enhancer: Enhancer, sink: NullSink | Y4mSink) -> None:
    fps = Fraction(_FPS)
    output = OutputFormat(enhancer.format, 1 / fps, average_fps=fps, constant_fps=fps)
    done = drain(run_pipeline(read_frames(clip.path), enhancer, sink, output))
    assert done.num_frames == len(clip.frames)


@contextmanager
def _drained_pipe() -> Iterator[tuple[int, list[int]]]:
    """A pipe that somebody reads, and the sizes of what was read."""
    reader, writer = os.pipe()
    received: list[int] = []

    def read() -> None:
        while chunk := os.read(reader, 1 << 20):
            received.append(len(chunk))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield writer, received
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)


if __name__ == "__main__":
    main()
