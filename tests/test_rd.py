"""The laws of rate-distortion curves: fronts, hulls, BD-rates, interpolation, rungs."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecaux.errors import UsageError
from codecaux.ladders.rd import (
    Axis,
    Monotone,
    RdPoint,
    bd_rate,
    capped,
    convex_hull,
    distinct,
    pareto,
    quality_at,
    rate_at,
    rungs_by_count,
    rungs_by_rates,
    rungs_by_step,
)

AXES: dict[Axis, Callable[[float], float]] = {"rate": float, "log rate": math.log}
both_axes = pytest.mark.parametrize("axis", AXES)

# The first call pays for the import of scipy, which is no law of curves.
unhurried = settings(deadline=None)
# Tenths and whole numbers: points that differ by a rounding error only are not what is tested.
_RATES = st.integers(1, 10**6).map(lambda tenths: tenths / 10)
_CLOUDS = st.lists(
    st.builds(RdPoint, _RATES, st.integers(-1000, 1000).map(float)), min_size=1, max_size=20
)


@st.composite
def _rising(draw: st.DrawFn) -> list[RdPoint]:
    """Rates and qualities that both rise, in steps that are not tiny."""
    count = draw(st.integers(2, 8))
    steps = st.lists(st.floats(0.05, 1.0), min_size=count, max_size=count)
    rates, qualities = np.cumsum(draw(steps)), np.cumsum(draw(steps))
    pairs = zip((100 * np.exp(rates)).tolist(), (50 + 5 * qualities).tolist(), strict=True)
    return [RdPoint(*pair) for pair in pairs]


def test_a_light_import_stays_light() -> None:
    code = (
        "import sys\nimport codecaux.ladders.rd\n"
        "print(sorted({'bjontegaard', 'scipy', 'matplotlib', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ------------------------------------------------------------------------------------------ hulls


@both_axes
@given(cloud=_CLOUDS)
def test_hull_is_a_rising_subset_below_which_everything_lies(
    axis: Axis, cloud: list[RdPoint]
) -> None:
    front, hull = pareto(cloud), convex_hull(cloud, axis)
    assert set(hull) <= set(front) <= set(cloud)
    for curve in (front, hull):
        assert all(a.kbps < b.kbps and a.quality < b.quality for a, b in pairwise(curve))
    assert pareto(front) == front
    assert convex_hull(hull, axis) == hull
    # The ends: the best of the cheapest, and the cheapest of the best.
    assert hull[0].kbps == min(point.kbps for point in cloud)
    assert hull[-1].quality == max(point.quality for point in cloud)
    along = AXES[axis]
    xs, ys = [along(p.kbps) for p in hull], [p.quality for p in hull]
    for point in cloud:
        # 1e-9 of a span of 2000: rounding.
        assert point.quality <= np.interp(along(point.kbps), xs, ys) + 2e-6


@both_axes
@given(cloud=_CLOUDS, factor=st.sampled_from([0.25, 2.0, 1024.0]))
def test_a_hull_hangs_on_no_unit(axis: Axis, cloud: list[RdPoint], factor: float) -> None:
    # A power of two scales exactly; over log rate the ratios stay the same to the last bit.
    scaled = [RdPoint(factor * point.kbps, point.quality) for point in cloud]
    expected = [(factor * point.kbps, point.quality) for point in convex_hull(cloud, axis)]
    assert [(p.kbps, p.quality) for p in convex_hull(scaled, axis)] == expected


@pytest.mark.parametrize(
    ("axis", "middle", "kept"),
    # 2, 4, 8 kb/s, 30 and 48 at the ends: the line passes 4 kb/s at 36, over log rate at 39.
    [("rate", 36.0, 2), ("rate", 37.0, 3), ("log rate", 38.0, 2), ("log rate", 40.0, 3)],
)
def test_hull_by_hand(axis: Axis, middle: float, kept: int) -> None:
    points = [RdPoint(2.0, 30.0), RdPoint(4.0, middle), RdPoint(8.0, 48.0)]
    assert len(convex_hull(points, axis)) == kept
    dominated = RdPoint(9.0, 47.0)
    assert dominated not in pareto([*points, dominated])


# --------------------------------------------------------------------------------------- BD-rates


@unhurried
@given(_rising(), st.floats(0.2, 5.0))
def test_bd_rate_of_a_scaled_curve_is_the_scale(plain: list[RdPoint], factor: float) -> None:
    scaled = [RdPoint(factor * point.kbps, point.quality) for point in plain]
    same = bd_rate(plain, plain)
    assert same is not None
    assert same.percent == 0.0
    found = bd_rate(plain, scaled)
    assert found is not None
    # 1e-6 of 400 %: the rounding of an integral of splines.
    assert found.percent == pytest.approx((factor - 1) * 100, abs=4e-4)
    assert (found.low, found.high) == (plain[0].quality, plain[-1].quality)


def test_bd_rate_needs_two_points_and_half_the_narrower_range() -> None:
    def line(low: float, high: float) -> list[RdPoint]:
        return [RdPoint(10.0 * 2 ** (q / 10), q) for q in (low, (low + high) / 2, high)]

    assert bd_rate(line(50, 90), line(50, 90)[:1]) is None
    # The narrower range is 20 wide: 9.9 in common is too little, 10 is enough.
    assert bd_rate(line(50, 90), line(80.1, 100.1)) is None
    found = bd_rate(line(50, 90), line(80, 100))
    assert found is not None
    assert (found.low, found.high) == (80, 90)
    assert found.percent == pytest.approx(0.0, abs=1e-9)  # both lie on one line


# ---------------------------------------------------------------------------------- interpolation


@unhurried
@given(_rising(), st.floats(0, 1), st.floats(0, 1))
def test_interpolation_is_monotone_and_meets_its_points(
    points: list[RdPoint], a: float, b: float
) -> None:
    for point in points:
        assert quality_at(points, point.kbps) == pytest.approx(point.quality, abs=1e-9)
        assert rate_at(points, point.quality) == pytest.approx(point.kbps, rel=1e-9)
    low, high = points[0].kbps, points[-1].kbps
    first, second = sorted(min(high, low + part * (high - low)) for part in (a, b))
    # 1e-9: rounding, where both places are nearly one.
    assert quality_at(points, first) <= quality_at(points, second) + 1e-9


def test_a_falling_curve_and_its_inverse() -> None:
    curve = Monotone([20, 28, 36], [95.0, 88.0, 70.0])
    assert curve(28) == 88.0
    assert 70.0 < curve(33) < 88.0
    assert curve.inverse()(88.0) == 28.0
    assert curve.inverse().domain == (70.0, 95.0)


@pytest.mark.parametrize(
    ("xs", "ys", "message"),
    [
        ([1.0], [1.0], "two or more points"),
        ([1.0, 2.0], [1.0], "two or more points"),
        ([1.0, 1.0], [1.0, 2.0], "x rises, got 1 after 1"),
        ([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], "rises from point to point, got 2 after 3"),
        ([1.0, 2.0, 3.0], [3.0, 3.0, 2.0], "falls from point to point, got 3 after 3"),
        ([1.0, 2.0], [1.0, math.nan], "not finite"),
    ],
)
def test_data_that_make_no_curve_are_refused(
    xs: list[float], ys: list[float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Monotone(xs, ys)


def test_nothing_is_extrapolated() -> None:
    points = [RdPoint(100, 80.0), RdPoint(400, 90.0)]
    with pytest.raises(UsageError, match="80 to 90 on this curve, got 91"):
        rate_at(points, 91.0)
    with pytest.raises(UsageError, match="on this curve"):
        quality_at(points, 401.0)


# ------------------------------------------------------------------------------------------ rungs


def _line(*qualities: float) -> list[RdPoint]:
    """Ten points of quality for each doubling of the rate."""
    return [RdPoint(100 * 2 ** ((q - 50) / 10), q) for q in qualities]


@given(_CLOUDS, st.floats(0.5, 300), st.integers(1, 12), st.lists(_RATES, max_size=6))
def test_rungs_are_a_rising_part_of_the_hull(
    cloud: list[RdPoint], step: float, count: int, rates: list[float]
) -> None:
    hull = convex_hull(cloud, "log rate")
    by_step, by_count = rungs_by_step(hull, step), rungs_by_count(hull, count)
    for rungs in (by_step, by_count, rungs_by_rates(hull, rates), capped(hull, step)):
        places = [hull.index(rung) for rung in rungs]
        assert places == sorted(set(places))
    assert by_step[-1] == by_count[-1] == hull[-1]
    assert len(by_count) == min(count, len(hull))
    # 1e-9 of a span of 2000: rounding of the place half a step below.
    assert all(b.quality - a.quality >= step / 2 - 2e-6 for a, b in pairwise(by_step))
    assert rungs_by_step(by_step, step / 2) == by_step


def test_rungs_a_step_apart() -> None:
    hull = _line(50, 54, 57, 62, 69, 74, 76, 80)
    assert [p.quality for p in rungs_by_step(hull, 6)] == [50, 57, 62, 69, 74, 80]
    assert [p.quality for p in rungs_by_step(hull, 100)] == [80]
    # A gap: no point within half a step of 74, the next one below is taken.
    assert [p.quality for p in rungs_by_step(_line(50, 60, 80), 6)] == [50, 60, 80]
    assert rungs_by_step([], 6) == []


def test_rungs_of_a_number_and_of_rates() -> None:
    hull = _line(50, 60, 65, 70, 80)
    assert [p.quality for p in rungs_by_count(hull, 3)] == [50, 65, 80]
    assert [p.quality for p in rungs_by_count(hull, 1)] == [80]
    # 100, 200, 283, 400, 800 kb/s.
    assert [p.quality for p in rungs_by_rates(hull, [99, 210, 200, 10_000])] == [60, 80]


def test_bits_that_buy_nothing_and_rungs_that_score_the_same() -> None:
    flat = [RdPoint(100, 50), RdPoint(200, 60), RdPoint(400, 64), RdPoint(800, 64.5)]
    assert [p.kbps for p in capped(flat, 1.0)] == [100, 200, 400]
    assert [p.kbps for p in capped(flat, 5.0)] == [100, 200]
    assert [p.kbps for p in capped(flat, 99.0)] == [100]
    assert [p.quality for p in distinct(_line(50, 50.4, 50.9, 51.1, 52), 0.5)] == [50, 50.9, 52]


def test_senseless_wishes_are_refused() -> None:
    hull = _line(50, 60)
    for call in (
        lambda: rungs_by_step(hull, 0.0),
        lambda: rungs_by_count(hull, 0),
        lambda: rungs_by_rates(hull, [math.nan]),
    ):
        with pytest.raises(UsageError, match="expected"):
            call()
