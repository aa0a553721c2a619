"""What a byte is worth in this title: the slope of its own rate-distortion curve.

An excerpt is coded twice, at the stream's CRF and at CRF + 2. With L the fit's loss of the base
network alone on equal places of both and R the stream's bytes::

    slope = (L(CRF + 2) - L(CRF)) / ln(R(CRF) / R(CRF + 2))        loss per unit of ln R

A byte more of a stream of B bytes is ln(1 + 1 / B) = 1 / B, so it saves slope / B of loss: bytes of
weights have to earn as much. The base alone, because the fitted network does not exist yet.
"""

from __future__ import annotations

import itertools
import math
import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from codecaux.bases import get_base
from codecaux.encoder.bank import BankSettings, PatchBank, run_frames
from codecaux.encoder.bank_builder import build_bank
from codecaux.encoder.choices import check_loss
from codecaux.encoder.loop import FitTask
from codecaux.encoder.prepare import PreparedSource
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.events import Events, Notice, drain
from codecaux.ffmpeg import find_ffmpeg
from codecaux.frames import read_frames
from codecaux.video import Geometry

__all__ = ["CHECK_PATCHES", "Price", "check_settings", "measure_price", "middle"]

CHECK_PATCHES = 64
# So that each scene has some of its own; at most 70 MB of them (8 bit; with
# their neighbours 120).
_CHECK_PATCHES_A_SCENE = 16
_MAX_CHECK_PATCHES = 1024
_CRF_STEP = 2.0
_MAX_CRF = 51.0
_EXCERPT_FRAMES = 96
# Everything before the excerpt has to be decoded: of a film, not its middle.
_MAX_FIRST_FRAME = 2000


@dataclass(frozen=True, slots=True)
class Price:
    """``slope``: loss per unit of ln(rate), 0 or more."""

    slope: float

    def per_byte(self, stream_bytes: int) -> float:
        """Loss that one more byte saves in a stream of ``stream_bytes``."""
        return self.slope / stream_bytes


def check_settings(training: BankSettings, num_scenes: int = 1) -> BankSettings:
    """The bank that choices are judged on: few patches, spread evenly, like the training ones."""
    wanted = max(CHECK_PATCHES, min(_CHECK_PATCHES_A_SCENE * num_scenes, _MAX_CHECK_PATCHES))
    return replace(training, keep=0.0, min_patches=wanted, max_bytes=1 << 30, uniform=True)


def measure_price(
    source: PreparedSource, settings: StreamSettings, task: FitTask, folder: Path
) -> Events[Price]:
    """Code an excerpt of ``source`` twice into ``folder`` and compare; the files are removed."""
    excerpt = middle(source)
    other = settings.crf + (_CRF_STEP if settings.crf + _CRF_STEP <= _MAX_CRF else -_CRF_STEP)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    folder.mkdir(parents=True)
    losses, sizes = [], []
    for crf in (settings.crf, other):
        stream = folder / f"price-{crf:g}.mkv"
        drain(encode_stream(excerpt, replace(settings, crf=crf), stream, find_ffmpeg()))
        bank = _bank(excerpt, stream, settings, task)
        base = get_base(task.base_id, task.config)
        losses.append(check_loss(replace(task, check=bank), base))
        sizes.append(stream.stat().st_size)
        stream.unlink()
    shutil.rmtree(folder)
    change = math.log(sizes[0] / sizes[1]) if sizes[0] != sizes[1] else 0.0
    slope = max(0.0, (losses[1] - losses[0]) / change) if change else 0.0
    yield Notice(f"1 % of the stream's bits is worth {slope / 100:.2g} of loss ({losses[0]:.4f})")
    return Price(slope)


def middle(source: PreparedSource, most: int = _EXCERPT_FRAMES) -> PreparedSource:
    """The excerpt of ``source`` that stands for it where something is tried out: at most so many
    frames.
    """
    count = min(source.num_frames, most)
    return source.excerpt(min((source.num_frames - count) // 2, _MAX_FIRST_FRAME), count)


def _bank(
    excerpt: PreparedSource, stream: Path, settings: StreamSettings, task: FitTask
) -> PatchBank:
    layout = excerpt.info.format
    config, seed = task.config, task.settings.seed
    plain = BankSettings(patch=task.settings.patch * config.fold, seed=seed, run=run_frames(config))
    wanted = check_settings(plain if task.critic is None else task.critic.bank_settings(plain))
    with (
        closing(read_frames(stream)) as coded,  # type: ignore[type-var]
        closing(read_frames(excerpt.path, info=excerpt.info)) as original,  # type: ignore[type-var]
    ):
        first = excerpt.first_frame
        part = itertools.islice(original, first, first + excerpt.num_frames)
        geometry = Geometry(layout.width, layout.height, settings.scale)
        pairs = zip(coded, part, strict=True)
        alignment = task.config.alignment
        return drain(build_bank(pairs, excerpt.num_frames, geometry, layout, alignment, wanted))
