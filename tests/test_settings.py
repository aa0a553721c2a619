"""Defaults of an encode that depend on the title."""

from __future__ import annotations

import pytest

from codecaux.architecture import NETS
from codecaux.encoder.settings import DEFAULT_STEPS, default_steps

_TEN_SECONDS = 960 * 540 * 300  # 960x540 at 30 fps


@pytest.mark.parametrize("net", NETS)
def test_titles_up_to_ten_seconds_have_the_nets_steps(net: str) -> None:
    steps = {default_steps(net, pixels) for pixels in (1, 640 * 360 * 12, _TEN_SECONDS)}
    assert steps == {DEFAULT_STEPS[net]}


@pytest.mark.parametrize(
    ("pixels", "steps"),
    [
        (4 * _TEN_SECONDS, 1600),
        (1920 * 1080 * 24 * 60, 3505),  # a minute of 1080p24: 19.2 times the pixels
        (64 * _TEN_SECONDS, 6400),
        (1920 * 1080 * 24 * 7200, 6400),  # a film
    ],
)
def test_steps_grow_with_the_root_of_the_title(pixels: int, steps: int) -> None:
    assert default_steps("light", pixels) == steps
