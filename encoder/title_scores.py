"""What an encode scores: the whole title, through the player's own path, plain and enhanced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from codecaux.decoder.load import enhancer_for, open_enhancer
from codecaux.device import Device
from codecaux.encoder.prepare import PreparedSource
from codecaux.events import Events, Notice
from codecaux.frames import read_frames
from codecaux.measure import measure
from codecaux.metadata import Fusion
from codecaux.sampling import Runs
from codecaux.scores import Scores, ScoreTools
from codecaux.video import Frame
from codecaux.weightsfile import WeightsFile, read_weights

__all__ = [
    "BICUBIC",
    "ENHANCED",
    "TitleParts",
    "score_title",
    "title_runs",
    "with_fusion",
    "without_harm",
]

BICUBIC, ENHANCED = "bicubic", "enhanced"
_UNSHARPENED = "unsharpened"


@dataclass(frozen=True, slots=True)
class TitleParts:
    """What is compared: the coded ``stream`` as ``device`` shows it, and the ``source``; of a long
    title only ``runs``.
    """

    source: PreparedSource
    stream: Path
    device: Device
    tools: ScoreTools
    runs: Runs = field(default_factory=Runs)


def title_runs(source: PreparedSource, score_seconds: float) -> Runs:
    """At most so many seconds of the source, at its mean rate, spread over it."""
    per_second = source.num_frames / float(source.duration_seconds)
    return Runs.spread(source.num_frames, max(1.0, score_seconds * per_second))


def score_title(
    title: TitleParts, weights: Path, *, is_chosen: bool = True
) -> Events[tuple[WeightsFile, dict[str, Scores]]]:
    """The scores of the title with ``weights``, and what to send: the file as it is, or without
    sharpening where that lowers NEG and was not the user's own wish (``is_chosen`` False).
    """
    file = read_weights(weights)
    enhancer = open_enhancer(title.stream, weights, device=title.device)
    fusion, plain = file.metadata.fusion, None
    if fusion is not None and fusion.sharpen:
        unsharpened = with_fusion(file, replace(fusion, sharpen=0.0))
        plain = enhancer_for(unsharpened, enhancer.coded, title.device)

    def versions() -> Iterator[dict[str, Frame] | None]:
        for index, frame in enumerate(read_frames(title.stream)):
            if not (title.runs.wants(index) or enhancer.config.is_recurrent):
                yield None
                continue
            pair = enhancer.enhance(frame, index)
            also = {_UNSHARPENED: plain.enhance(frame, index).enhanced} if plain else {}
            yield {BICUBIC: pair.base, ENHANCED: pair.enhanced} | also

    names = (BICUBIC, ENHANCED, *([_UNSHARPENED] if plain else []))
    layout = title.source.info.format
    if not title.runs.is_everything:
        total = title.source.num_frames
        yield Notice(f"scored: {title.runs.count(total)} of {total} frames, in runs over the title")
    scores = yield from measure(
        title.source.path, versions(), names, title.tools, format=layout, runs=title.runs
    )
    if fusion is None or not plain:
        return file, scores
    before = scores.pop(_UNSHARPENED)
    kept = yield from without_harm(fusion, scores[ENHANCED], before, is_chosen=is_chosen)
    if kept == fusion:
        return file, scores
    return with_fusion(file, kept), scores | {ENHANCED: before}


def without_harm(
    fusion: Fusion, shown: Scores, before: Scores, *, is_chosen: bool
) -> Events[Fusion]:
    """``fusion`` as it is, or without sharpening where that lowers the title's NEG.

    ``shown``, ``before``: the whole title, sharpened and not. A strength that the user named stays,
    with a warning.
    """
    neg, neg_before = shown.vmaf_v061_neg, before.vmaf_v061_neg
    if neg is not None and neg_before is not None and neg >= neg_before:
        return fusion
    what = f"sharpening by {fusion.sharpen:g} changes the title's NEG from {neg_before} to {neg}"
    if not is_chosen:
        yield Notice(f"{what}; it stays, as told", "warning")
        return fusion
    yield Notice(f"{what}: left out")
    return replace(fusion, sharpen=0.0)


def with_fusion(file: WeightsFile, fusion: Fusion) -> WeightsFile:
    """``file``, fused as ``fusion`` says."""
    return replace(file, metadata=replace(file.metadata, fusion=fusion))
