"""The samples' benchmark: scenes in another order are the same scenes, and errors are errors."""

from __future__ import annotations

import importlib
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from codecaux.ladders.settings import SamplingSettings


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    folder = Path(__file__).parent.parent / "benchmarks"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return importlib.import_module("sampling")


def _frames(sampling: ModuleType) -> object:
    """Eight scenes of 250 frames with scores of their own, 25 frames a second."""
    scores = np.repeat(np.arange(80.0, 88.0), 250)
    sizes = np.repeat(np.arange(8.0, 0, -1), 250)
    busyness = np.stack([sizes, np.ones(2000)], axis=1)
    return sampling.Frames(scores, sizes, busyness, tuple(range(0, 2000, 250)), Fraction(25))


def test_shuffled_scenes_stay_whole(sampling: ModuleType) -> None:
    frames = _frames(sampling)
    other = frames.shuffled(np.random.default_rng(3))  # type: ignore[attr-defined]
    assert sorted(other.scores) == sorted(frames.scores)  # type: ignore[attr-defined]
    assert other.scenes == frames.scenes  # type: ignore[attr-defined]
    assert not np.array_equal(other.scores, frames.scores)  # type: ignore[attr-defined]
    for first in other.scenes:
        assert len(set(other.scores[first : first + 250])) == 1
    # What is known of a frame goes with it.
    np.testing.assert_array_equal(other.scores + other.sizes, 88)
    np.testing.assert_array_equal(other.busyness[:, 0], other.sizes)


def test_errors_are_of_the_samples_against_the_whole(sampling: ModuleType) -> None:
    frames = _frames(sampling)
    one = SamplingSettings(seconds=10.0, count=1, piece_seconds=10.0)
    # The middle would be frame 875: the scene that begins at 750, and its 250 frames.
    assert sampling.errors(frames, one, by_busyness=False) == pytest.approx((-0.5, 5 / 4.5 - 1))
    two = SamplingSettings(seconds=10.0, count=2, piece_seconds=10.0)
    assert sampling.errors(frames, two, by_busyness=True) == pytest.approx((0, 0))
    rows = list(sampling.rows(frames, [1, 2], orders=5, seed=1))
    assert [row["samples"] for row in rows] == [1, 1, 1, 2, 2, 2]
    # One sample has a piece of every other scene, two have one of each.
    assert rows[2]["rate_error_rms"] < rows[1]["rate_error_rms"]
    assert rows[5]["rate_error_rms"] == rows[4]["rate_error_rms"] == 0
