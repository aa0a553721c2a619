"""What an encode may be given beyond its settings, by whoever makes many of one title."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from codecaux.bases import get_base
from codecaux.encoder.choices import NumpyWeights
from codecaux.encoder.loop import FitTask
from codecaux.encoder.prepare import PreparedSource
from codecaux.weightsfile import reconstruct, unpack

__all__ = ["HeadStart", "weights_to_start_from"]


@dataclass(frozen=True, slots=True, eq=False)
class HeadStart:
    """``source``: prepared already, an excerpt that stands for the title (None: the input is).

    ``times_longer``: the title's duration / the source's. Weights are sent once for all of it, so
    that a byte of them has to earn so many times less than it would on the source alone.
    ``weights``: merged tensors from which the float phase starts (None: the base). What is sent is
    the difference to the base all the same. ``content``: the input's SHA-256; an interrupted encode
    is then gone on with whatever the input is called by now. ``takes_pictures``: of
    the stream nothing else is used, and no word is said of sound and subtitles that it cannot hold.
    ``watch`` is shown the fit's task before it begins, for whoever wants to look into it when it is
    done.
    """

    source: PreparedSource | None = None
    times_longer: float = 1.0
    weights: NumpyWeights | None = None
    content: str | None = None
    takes_pictures: bool = False
    watch: Callable[[FitTask], None] = lambda task: None


def weights_to_start_from(title_weights: bytes) -> NumpyWeights:
    """The weights that a weights file shows for the whole title: its first set, added to its base.

    Raises the errors of :func:`codecaux.weightsfile.unpack`, and WeightsBaseError.
    """
    file = unpack(title_weights)
    config = file.metadata.architecture
    return reconstruct(file.sets[0].tensors, get_base(file.metadata.base_id, config), config)
