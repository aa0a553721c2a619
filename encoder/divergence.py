"""When a training has gone astray beyond what its next steps could mend."""

from __future__ import annotations

import math

__all__ = ["has_diverged"]

_TIMES = 8.0
# A picture that is wrong everywhere has a loss of about this; a title may well have harder scenes
# that are eight times as far off as its others, but none like that.
_LEAST = 0.5


def has_diverged(mean: float, smoothed: float) -> bool:
    """Is ``mean``, of the last few losses, no number, or out of all proportion to ``smoothed``, of
    all before them (NaN: there were none)? A network that sees its own last output can grow for
    hundreds of steps before it comes to infinity, and checkpoints with it.
    """
    return not math.isfinite(mean) or (mean > _LEAST and mean > _TIMES * smoothed)
