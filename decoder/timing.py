"""Is a stream's frame rate constant, and which is it?"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error

from codecaux.errors import InputError
from codecaux.probe import open_video

__all__ = ["constant_rate"]

_WHOLE_RATES = (24, 25, 30, 48, 50, 60, 100, 120)
_NTSC_RATES = (24, 30, 48, 60, 120)
_USUAL_RATES = (
    *(Fraction(rate) for rate in _WHOLE_RATES),
    *(Fraction(rate * 1000, 1001) for rate in _NTSC_RATES),
)


def constant_rate(stream: Path) -> Fraction | None:
    """The frame rate where every frame begins within a tick of where it says, else None.

    Reads the packets' timestamps and decodes nothing. A file without timestamps has the rate of
    its header.
    """
    with open_video(stream) as source:
        rates = [source.stream.average_rate, source.stream.guessed_rate]
        try:
            found = [p.pts for p in source.container.demux(source.stream) if _is_shown(p)]
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"expected a readable video at {stream}, got: {error}") from error
        time_base = Fraction(source.stream.time_base or 1)
    named = [Fraction(rate) for rate in rates if rate]
    times = sorted(pts for pts in found if pts is not None)
    if len(times) < len(found) or len(set(times)) < 2:
        return named[0] if named else None
    exact = (len(times) - 1) / ((times[-1] - times[0]) * time_base)
    # Headers round (Matroska's ticks are milliseconds): a usual rate that fits is the likelier.
    usual = sorted(_USUAL_RATES, key=lambda rate: rate not in named)
    return _fitting_rate(times, time_base, [*usual, *named, exact])


def _is_shown(packet: Any) -> bool:
    return packet.size > 0 and not packet.is_discard


def _fitting_rate(
    times: list[int], time_base: Fraction, candidates: list[Fraction]
) -> Fraction | None:
    for fps in candidates:
        ticks = 1 / (fps * time_base)
        if all(abs(t - times[0] - n * ticks) <= 1 for n, t in enumerate(times)):
            return fps
    return None
