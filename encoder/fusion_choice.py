"""How a title's two heads are fused, and how much sharpened: chosen by the real scores.

Some frames from the title's middle are shown by the player's own path in each of a few ways and
scored against the source. The mask's exponent: of those whose VMAF v1 is within 0.3 of the fidelity
head's alone, the one with the least LPIPS; LPIPS decides nothing where it is not at hand. Then the
sharpening: the most VMAF v1 of those by which neither NEG falls nor LPIPS rises. Once more, over
the whole title: where NEG falls after all it is dropped
(:mod:`codecaux.encoder.title_scores`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

from torch import Tensor

from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.sets import FloatSet, float_sets
from codecaux.encoder.title_scores import TitleParts
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.frames import read_frames
from codecaux.metadata import Fusion
from codecaux.scores import Scorer, Scores
from codecaux.video import ClipInfo, Frame
from codecaux.weightsfile import WeightsFile

__all__ = [
    "EXPONENTS",
    "STRENGTHS",
    "best_exponent",
    "best_strength",
    "choose_fusion",
    "fidelity_alone",
]

# 1 is the paper's mask: one rough spot is enough for the rest of a picture to be near 0 in it.
EXPONENTS = (1.0, 0.5, 0.25, 0.125)
STRENGTHS = (0.1, 0.2, 0.4)
# VMAF v1 that may be lost against the fidelity head alone.
_MAY_LOSE = 0.3
_FRAMES = 32
# All before them has to be decoded: of a film, not its middle.
_MAX_FIRST_FRAME = 2000
_STAGE = "fusion"
_FIDELITY = "fidelity"


def choose_fusion(file: WeightsFile, title: TitleParts, sharpen: float | None) -> Events[Fusion]:
    """The fusion that ``file`` should say. ``sharpen``: None to choose it, else the strength."""
    started = time.monotonic()
    yield StageStarted(_STAGE, None)
    sets = float_sets(file.sets, file.metadata)
    ways = {f"{exponent:g}": (sets, Fusion(exponent)) for exponent in EXPONENTS}
    ways[_FIDELITY] = (fidelity_alone(sets), Fusion())
    by_exponent = yield from _score(file, title, ways)
    alone = by_exponent.pop(_FIDELITY)
    exponent = best_exponent({float(n): s for n, s in by_exponent.items()}, alone)
    fusion = Fusion(exponent, sharpen or 0.0)
    plain = by_exponent[f"{exponent:g}"]
    if sharpen is None:
        ways = {f"{s:g}": (sets, replace(fusion, sharpen=s)) for s in STRENGTHS}
        by_strength = yield from _score(file, title, ways)
        strength = best_strength({float(n): s for n, s in by_strength.items()}, plain)
        fusion = replace(fusion, sharpen=strength)
    yield Notice(
        f"fusion: mask to the power {fusion.exponent:g}, sharpening {fusion.sharpen:g} "
        f"(before it {_text(plain)}; fidelity head alone {_text(alone)})"
    )
    yield StageDone(_STAGE, time.monotonic() - started)
    return fusion


def fidelity_alone(sets: Sequence[FloatSet]) -> tuple[FloatSet, ...]:
    """``sets`` with the fidelity head in the other's place: fused they are it alone."""
    return tuple(replace(s, weights=_fidelity_twice(s.weights)) for s in sets)


def _fidelity_twice(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    both = {f"perceptual.{part}": weights[f"last.{part}"] for part in ("weight", "bias")}
    return {**weights, **both}


def best_exponent(by_exponent: Mapping[float, Scores], fidelity: Scores) -> float:
    """The exponent to take: the paper's 1 where there is no VMAF v1 or no LPIPS to choose by.

    Where all lose more than they may, 1 again: of all it stays nearest to the fidelity head.
    """
    may_be = 1.0
    least = by_exponent[may_be].lpips
    for exponent, scores in by_exponent.items():
        if None in (scores.vmaf_v1, fidelity.vmaf_v1, scores.lpips, least):
            return 1.0
        assert scores.vmaf_v1 is not None
        assert fidelity.vmaf_v1 is not None
        assert scores.lpips is not None
        assert least is not None
        if scores.vmaf_v1 >= fidelity.vmaf_v1 - _MAY_LOSE and scores.lpips < least:
            may_be, least = exponent, scores.lpips
    return may_be


def best_strength(by_strength: Mapping[float, Scores], plain: Scores) -> float:
    """The strength with the most VMAF v1 at which NEG does not fall, nor LPIPS rise where there is
    one; 0 where none gains, or where there is nothing to choose by.
    """
    best, most = 0.0, plain.vmaf_v1
    for strength, scores in by_strength.items():
        if scores.vmaf_v1 is None or most is None or _does_harm(scores, plain):
            continue
        if scores.vmaf_v1 > most:
            best, most = strength, scores.vmaf_v1
    return best


def _does_harm(scores: Scores, plain: Scores) -> bool:
    if scores.vmaf_v061_neg is None or plain.vmaf_v061_neg is None:
        return True
    if scores.vmaf_v061_neg < plain.vmaf_v061_neg:
        return True
    return scores.lpips is not None and plain.lpips is not None and scores.lpips > plain.lpips


def _score(
    file: WeightsFile,
    title: TitleParts,
    ways: Mapping[str, tuple[Sequence[FloatSet], Fusion]],
) -> Events[dict[str, Scores]]:
    """Some frames from the title's middle, shown in each of ``ways``."""
    count = min(title.source.num_frames, _FRAMES)
    first = min((title.source.num_frames - count) // 2, _MAX_FIRST_FRAME)
    info, begins = title.source.info, title.source.first_frame
    metadata = file.metadata
    coded = replace(
        info.format, width=metadata.geometry.coded_width, height=metadata.geometry.coded_height
    )
    size = (metadata.source_width, metadata.source_height)
    enhancers = {
        name: Enhancer(coded, size, metadata.architecture, sets, title.device, fusion=fusion)
        for name, (sets, fusion) in ways.items()
    }
    tools = replace(title.tools, flow=None)
    with (
        closing(_part(title.stream, first, count)) as frames,
        closing(_part(title.source.path, begins + first, count, info)) as original,
        Scorer(
            info.format, tuple(ways), tools, fps=info.average_fps, num_frames_hint=count
        ) as scorer,
    ):
        for done, (frame, source) in enumerate(zip(frames, original, strict=True)):
            index = first + done
            shown = {n: e.enhance(frame, index).enhanced for n, e in enhancers.items()}
            scorer.add(source, shown)
            yield Progress(_STAGE, done + 1, count)
        return scorer.finish()


def _part(
    path: Path, first: int, count: int, info: ClipInfo | None = None
) -> Generator[Frame, None, None]:
    with closing(read_frames(path, info=info)) as frames:  # type: ignore[type-var]
        yield from islice(frames, first, first + count)


def _text(scores: Scores) -> str:
    named = (("v1", scores.vmaf_v1), ("NEG", scores.vmaf_v061_neg), ("LPIPS", scores.lpips))
    return ", ".join(f"{name} {value:.4g}" for name, value in named if value is not None)
