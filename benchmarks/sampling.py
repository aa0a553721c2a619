"""How far the samples of a long title are from the whole of it, whatever the order of its scenes.

    python benchmarks/sampling.py TITLE STREAM WEIGHTS --work build/sampling -o build/sampling.json

STREAM and WEIGHTS are what `codecaux encode` made of TITLE. All its frames are scored once as the
player shows them (VMAF v1); its scenes are then put in many random orders, samples chosen of each
by the product's own function, and the mean score of the samples' frames, and their mean size in
the stream, compared with the whole's. So nothing is coded or fitted again: what is seen is the
choice of the samples alone. Frames at a scene's cut keep the temporal information of their first
order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from common import write_results
from numpy.typing import NDArray

from codecaux.cli.measure import MeasureSettings, run_measure
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.events import drain
from codecaux.ffmpeg import find_ffmpeg
from codecaux.ladders.samples import Busyness, choose_ranges, find_cuts, measure_busyness
from codecaux.ladders.settings import SamplingSettings

FloatArray = NDArray[np.float64]

PLACEMENTS = {
    "one piece a sample": (SamplingSettings().seconds, False),
    "pieces of 5 s": (SamplingSettings().piece_seconds, False),
    "pieces of 5 s, by SI and TI": (SamplingSettings().piece_seconds, True),
}


@dataclass(frozen=True)
class Frames:
    """What is known of every frame of the title. ``scenes``: first frame of each, rising."""

    scores: FloatArray
    sizes: FloatArray
    busyness: Busyness
    scenes: tuple[int, ...]
    fps: Fraction

    def shuffled(self, random: np.random.Generator) -> Frames:
        """Its scenes in another order."""
        ends = [*self.scenes[1:], len(self.scores)]
        spans = [np.arange(*span) for span in zip(self.scenes, ends, strict=True)]
        order = random.permutation(len(spans))
        index = np.concatenate([spans[i] for i in order])
        starts = np.cumsum([0, *(len(spans[i]) for i in order)])[:-1]
        return Frames(
            self.scores[index],
            self.sizes[index],
            self.busyness[index],
            tuple(map(int, starts)),
            self.fps,
        )


def look(source: PreparedSource, stream: Path, weights: Path, work: Path) -> Frames:
    """Score and survey the title; what is in ``work`` already is not made again."""
    kept = work / "frames.json"
    if not kept.exists():
        settings = MeasureSettings(source.path, stream, weights)
        scores = drain(run_measure(settings))["enhanced"].per_frame["vmaf_v1"]
        cuts = drain(find_cuts(source, find_ffmpeg()))
        kept.write_text(json.dumps({"scores": scores, "cuts": cuts}))
    found = json.loads(kept.read_text())
    busyness = drain(measure_busyness(source, find_ffmpeg()))
    assert busyness is not None
    scores, sizes = np.array(found["scores"]), np.array(list(_sizes(stream)), np.float64)
    assert len(scores) == len(sizes) == len(busyness) == source.num_frames
    fps = Fraction(source.num_frames) / source.duration_seconds
    return Frames(scores, sizes, busyness, (0, *found["cuts"]), fps)


def _sizes(stream: Path) -> Iterator[int]:
    """Bytes of every picture in the order in which they are shown."""
    with av.open(str(stream)) as container:
        packets = [(p.pts, p.size) for p in container.demux(video=0) if p.size]
    return (size for _, size in sorted(packets))


def errors(frames: Frames, settings: SamplingSettings, *, by_busyness: bool) -> tuple[float, float]:
    """Of the samples: VMAF v1 minus the whole's, and rate divided by the whole's, minus 1."""
    busyness = frames.busyness if by_busyness else None
    total = len(frames.scores)
    ranges = choose_ranges(total, frames.fps, frames.scenes[1:], settings, busyness)
    index = np.concatenate([np.arange(first, first + count) for first, count in ranges])
    score = frames.scores[index].mean() - frames.scores.mean()
    return float(score), float(frames.sizes[index].mean() / frames.sizes.mean() - 1)


def rows(frames: Frames, counts: Sequence[int], orders: int, seed: int) -> Iterator[dict[str, Any]]:
    """A row for every number of samples and way to place them."""
    random = np.random.default_rng(seed)
    shuffled = [frames.shuffled(random) for _ in range(orders)]
    for count in counts:
        for name, (piece_seconds, by_busyness) in PLACEMENTS.items():
            settings = SamplingSettings(count=count, piece_seconds=piece_seconds)
            found = np.array([errors(f, settings, by_busyness=by_busyness) for f in shuffled])
            asis = errors(frames, settings, by_busyness=by_busyness)
            yield {
                "samples": count,
                "placed": name,
                "v1_error_rms": round(float(np.sqrt((found[:, 0] ** 2).mean())), 2),
                "v1_error_9_of_10": round(float(np.quantile(np.abs(found[:, 0]), 0.9)), 2),
                "rate_error_rms": round(float(np.sqrt((found[:, 1] ** 2).mean())), 3),
                "v1_error_as_it_is": round(asis[0], 2),
                "rate_error_as_it_is": round(asis[1], 3),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("title", type=Path)
    parser.add_argument("stream", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--samples", default="1,3", help="a,b,c")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON; a .tsv beside it")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    source = drain(prepare(options.title, SourceOptions(), options.work))
    frames = look(source, options.stream, options.weights, options.work)
    counts = [int(count) for count in options.samples.split(",")]
    found = list(rows(frames, counts, options.orders, options.seed))
    lengths = [b - a for a, b in pairwise((*frames.scenes, len(frames.scores)))]
    facts = {
        "frames": len(frames.scores),
        "scenes": len(lengths),
        "orders": options.orders,
        "vmaf_v1": round(float(frames.scores.mean()), 2),
    }
    write_results(options.output, "sampling", facts, found)


if __name__ == "__main__":
    main()
