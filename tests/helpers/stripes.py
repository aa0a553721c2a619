"""Moving sharp stripes, their 2x2 means, and patch banks of both: what was lost can be learnt."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from codecaux.encoder.bank import BankSettings, PatchBank
from codecaux.encoder.bank_builder import build_bank
from codecaux.events import drain
from codecaux.video import Frame, Geometry, VideoFormat

_SIZE = 96
STRIPES = Geometry(_SIZE, _SIZE, Fraction(2))


def stripe_pairs(
    count: int, *, turned_from: int | None = None, is_numbered: bool = False
) -> Iterator[tuple[Frame, Frame]]:
    """``count`` pairs of a decoded frame, 48x48, and its source, 96x96, 8 bit.

    ``turned_from``: from this frame on the stripes run across and are inverted. The chroma is grey;
    ``is_numbered``: 100 + t, so that a patch says which frame it is of.
    """
    rows, columns = np.mgrid[0:_SIZE, 0:_SIZE]
    half, quarter = _SIZE // 2, _SIZE // 4
    for t in range(count):
        if turned_from is None or t < turned_from:
            wave = np.sign(np.sin((columns * 0.7 + rows * 0.3 + 3 * t) * 0.9))
        else:
            wave = -np.sign(np.sin((columns * 0.2 - rows * 0.9 + 2 * t) * 0.8))
        y = (128 + 70 * wave).astype(np.uint8)
        coded = y.reshape(half, 2, half, 2).mean((1, 3)).astype(np.uint8)
        level = 100 + t if is_numbered else 128
        small, large = (np.full((n, n), level, np.uint8) for n in (quarter, half))
        yield Frame(coded, small, small, t), Frame(y, large, large, t)


def stripe_bank(count: int, settings: BankSettings, *, is_numbered: bool = False) -> PatchBank:
    """A bank of ``count`` such frames."""
    pairs = stripe_pairs(count, is_numbered=is_numbered)
    return drain(build_bank(pairs, count, STRIPES, VideoFormat(_SIZE, _SIZE), 8, settings))
