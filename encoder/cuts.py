"""Where a recurrent network forgets: the scene cuts, seen in the pictures that the player decodes.

x265's keyframes do not say it: some are there because the last one is long ago (in a ladder all
are), and a cut soon after a keyframe gets none. What was found is written into the weights file, so
that a player need not look for itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codecaux.architecture import SrUnetConfig
from codecaux.frames import read_frames
from codecaux.metadata import MAX_RESETS
from codecaux.video import Frame

__all__ = ["cuts_among", "find_cuts", "find_resets"]

_STRIDE = 4
# Of the luma, in 8-bit code values; and how many times the changes beside it.
_LEAST_CHANGE = 10.0
_LEAST_RATIO = 2.5


def find_resets(config: SrUnetConfig, stream: Path, bit_depth: int) -> tuple[int, ...]:
    """The scene cuts of a coded stream for a recurrent net; for others none, and nothing is read.

    Raises the errors of :func:`codecaux.frames.read_frames`.
    """
    if not config.is_recurrent:
        return ()
    with closing(read_frames(stream)) as frames:  # type: ignore[type-var]
        return find_cuts(frames, bit_depth)


def find_cuts(frames: Iterable[Frame], bit_depth: int = 8) -> tuple[int, ...]:
    """Indices of the first frames of scenes, without 0. Memory: two small planes, and one number a
    frame.
    """
    changes: list[float] = [0.0]
    previous: npt.NDArray[np.int32] | None = None
    for frame in frames:
        luma = frame.y[::_STRIDE, ::_STRIDE].astype(np.int32)
        if previous is not None:
            changes.append(float(np.abs(luma - previous).mean()) / (1 << (bit_depth - 8)))
        previous = luma
    return cuts_among(changes)


def cuts_among(changes: list[float]) -> tuple[int, ...]:
    """The cuts, from the mean change of every frame to the one before it (the first: 0).

    A cut is a change that stands alone: at least 2.5 times those before and after it, so that
    neither motion nor a flash is one. At most ``MAX_RESETS``, the strongest.
    """
    padded = [*changes, 0.0]
    found = [
        index
        for index in range(1, len(changes))
        if changes[index] >= _LEAST_CHANGE
        and changes[index] >= _LEAST_RATIO * max(padded[index - 1], padded[index + 1])
    ]
    strongest = sorted(found, key=lambda index: changes[index], reverse=True)[:MAX_RESETS]
    return tuple(sorted(strongest))
