"""Is a stream's frame rate constant, and which is it?"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av.error

from codecaux.errors import InputError
from codecaux.probe import open_video

__all__ = ["constant_rate"]


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
    candidates = [Fraction(rate) for rate in rates if rate]
    times = sorted(pts for pts in found if pts is not None)
    if len(times) < len(found) or len(set(times)) < 2:
        return candidates[0] if candidates else None
    exact = (len(times) - 1) / ((times[-1] - times[0]) * time_base)
    return _fitting_rate(times, time_base, [*candidates, exact])


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
