"""Two heads and their fusion on whole titles: each head alone, and the fused picture.

    python benchmarks/fused.py CLIPS... --net light --crf 25 -o benchmarks/results/fused.json

Each clip (with --frames its beginning) is encoded with --objective fused; what was written is shown
by the player's path as bicubic, fidelity head, perceptual head, fused by the paper's own mask
(exponent 1), and fused as the file says. ``time_ratio`` is the enhancer's time for a frame beside
that of the same network with one head, both timed in rounds (common.interleave).

Asserted in the same run: fused as the file says is what the encode itself scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from common import interleave, write_results

from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.sets import FloatSet, float_sets
from codecaux.device import Device, choose_device
from codecaux.encoder.encode import encode
from codecaux.encoder.fusion_choice import fidelity_alone
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import LpipsUnavailableError
from codecaux.events import drain
from codecaux.ffmpeg import file_argument, find_ffmpeg, run_ffmpeg
from codecaux.frames import read_frames
from codecaux.lpips import find_lpips
from codecaux.measure import measure
from codecaux.metadata import Fusion
from codecaux.probe import probe
from codecaux.scores import Scores, ScoreTools
from codecaux.temporal import find_flow
from codecaux.video import Frame
from codecaux.weightsfile import WeightsFile, read_weights

_METRICS = ("vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "lpips", "psnr_y_db", "tof", "rpf_deviation")
_TIMED_FRAMES = 8


def main() -> None:
    options = _parse()
    device = choose_device(options.device)
    rows = [row for clip in options.clips for row in measure_clip(clip, options, device)]
    names = ("net", "scale", "crf", "steps", "frames", "sharpen")
    settings = {name: getattr(options, name) for name in names}
    write_results(options.output, "fused", settings, rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--net", default="light")
    parser.add_argument("--scale", default="2")
    parser.add_argument("--crf", type=float, default=25.0)
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--frames", type=int, help="only so many from the clip's beginning")
    parser.add_argument("--sharpen", type=float, help="a strength instead of the encoder's choice")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, default=Path("build/fused"))
    parser.add_argument("-o", "--output", type=Path, help="JSON; a .tsv is written beside it")
    return parser.parse_args()


def measure_clip(clip: Path, options: argparse.Namespace, device: Device) -> list[dict[str, Any]]:
    """A row for each way to show the clip."""
    folder = options.work / clip.stem
    folder.mkdir(parents=True, exist_ok=True)
    source = clip if options.frames is None else _beginning(clip, options.frames, folder)
    settings = EncodeSettings(
        input=str(source),
        output=folder / "title.mp4",
        weights=folder / "title.weights",
        stream=StreamSettings(options.crf, options.preset, Fraction(options.scale)),
        net=options.net,
        fit=FitSettings(steps=options.steps, objective="fused", sharpen=options.sharpen),
        device=options.device,
        overwrite=True,
    )
    made = drain(encode(settings))
    file = read_weights(made.weights)
    scores = _score(source, made.stream, file, device)
    written = scores["fused"].psnr_y_db
    assert written == made.scores["enhanced"].psnr_y_db, (written, made.scores["enhanced"])
    ratio = time_ratio(made.stream, file, device, options.repeats)
    fusion = file.metadata.fusion
    assert fusion is not None
    about = {"clip": clip.stem, "stream_bytes": made.rate.stream_bytes}
    about |= {"weights_bytes": made.rate.weights_bytes}
    more = {"exponent": fusion.exponent, "sharpen": fusion.sharpen, "time_ratio": ratio}
    return [
        about | {"shown": name} | {m: _value(s, m) for m in _METRICS} | more
        for name, s in scores.items()
    ]


def _value(scores: Scores, metric: str) -> float | str:
    value = scores.value(metric)
    return "" if value is None else value


def _beginning(clip: Path, num_frames: int, folder: Path) -> Path:
    path = folder / f"source-{num_frames}.mkv"
    arguments = ["-v", "error", "-i", file_argument(clip), "-map", "0:v:0"]
    arguments += ["-frames:v", str(num_frames), "-c:v", "ffv1", "-y", file_argument(path)]
    run_ffmpeg(find_ffmpeg(), arguments)
    return path


def _score(source: Path, stream: Path, file: WeightsFile, device: Device) -> dict[str, Scores]:
    sets, fusion = float_sets(file.sets, file.metadata), file.metadata.fusion
    assert fusion is not None
    enhancers = {
        "fidelity head": _enhancer(file, fidelity_alone(sets), Fusion(), stream, device),
        "perceptual head": _enhancer(file, sets, Fusion(exponent=0.0), stream, device),
        "fused, exponent 1": _enhancer(file, sets, Fusion(), stream, device),
        "fused": _enhancer(file, sets, fusion, stream, device),
    }

    def versions() -> Iterator[dict[str, Frame]]:
        for index, frame in enumerate(read_frames(stream)):
            pairs = {name: e.enhance(frame, index) for name, e in enhancers.items()}
            yield {"bicubic": pairs["fused"].base} | {n: p.enhanced for n, p in pairs.items()}

    try:
        lpips = find_lpips("alex").to(device.torch_device)
    except LpipsUnavailableError:
        lpips = None
    tools = ScoreTools(find_ffmpeg(), lpips, find_flow())
    layout = probe(source).format
    return drain(measure(source, versions(), ("bicubic", *enhancers), tools, format=layout))


def _enhancer(
    file: WeightsFile, sets: Sequence[FloatSet], fusion: Fusion, stream: Path, device: Device
) -> Enhancer:
    metadata = file.metadata
    size = (metadata.source_width, metadata.source_height)
    coded = replace(probe(stream).format, colour=metadata.colour)
    return Enhancer(coded, size, metadata.architecture, sets, device, fusion=fusion)


def time_ratio(stream: Path, file: WeightsFile, device: Device, repeats: int) -> float:
    """Time of a fused frame / time of one of the fidelity head alone."""
    sets, fusion = float_sets(file.sets, file.metadata), file.metadata.fusion
    assert fusion is not None
    two = _enhancer(file, sets, fusion, stream, device)
    config = replace(file.metadata.architecture, heads=1)
    size = (file.metadata.source_width, file.metadata.source_height)
    one = Enhancer(two.coded, size, config, sets, device)
    with closing(read_frames(stream)) as reading:  # type: ignore[type-var]
        frames = list(islice(reading, _TIMED_FRAMES))

    def run(enhancer: Enhancer) -> None:
        for index, frame in enumerate(frames):
            enhancer.enhance(frame, index)

    times = interleave({"one": lambda: run(one), "two": lambda: run(two)}, repeats)
    return times["two"].median_seconds / times["one"].median_seconds


if __name__ == "__main__":
    main()
