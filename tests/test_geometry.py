"""Source, padded and coded size: exact ratios, even sizes, no more padding than that needs."""

from __future__ import annotations

from fractions import Fraction

import pytest

from codecaux.video import SCALES, Geometry


@pytest.mark.parametrize("scale", SCALES)
def test_both_sizes_are_even_and_their_ratio_is_the_scale(scale: Fraction) -> None:
    for size in range(16, 2200):
        found = Geometry(size, size + 1, scale)
        for source, padded, coded in (
            (size, found.padded_width, found.coded_width),
            (size + 1, found.padded_height, found.coded_height),
        ):
            assert padded == scale * coded
            assert padded % 2 == coded % 2 == 0
            assert 0 <= padded - source < 6


@pytest.mark.parametrize(
    ("size", "coded"), [((1280, 720), (856, 480)), ((1920, 1080), (1280, 720))]
)
def test_usual_sizes_at_one_and_a_half(size: tuple[int, int], coded: tuple[int, int]) -> None:
    found = Geometry(*size, Fraction(3, 2))
    assert (found.coded_width, found.coded_height) == coded
