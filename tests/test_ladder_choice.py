"""Pure parts of a ladder: its grid, its rungs, comparisons, shared weights, charts."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux.errors import UsageError
from codecaux.ladders.charts import Chart, Series, chart_svg, log_ticks, ticks
from codecaux.ladders.choice import candidates, choose_rungs, grid_scales, probes_between, trimmed
from codecaux.ladders.compare import (
    APPLE_HEVC,
    RatedRung,
    compare_apple,
    compare_x265,
    plain_hull,
)
from codecaux.ladders.ladder_settings import LadderSettings, parse_heights, parse_rates
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.rd import RdPoint, rate_at
from codecaux.ladders.sharing import Loss, best_assignment, bytes_a_quality, net_saving
from codecaux.rate import Rate

TWO, HALF, ONE = Fraction(2), Fraction(3, 2), Fraction(1)
SETTINGS = LadderSettings()


def _point(crf: float, kbps: float, quality: float, scale: Fraction = TWO) -> OperatingPoint:
    scores = {"vmaf_v1": {"mean": quality}}
    plain = {"vmaf_v1": {"mean": quality - 4}}
    rate = Rate(round(kbps * 1250) - 1250, 1250, 10.0)
    return OperatingPoint("ours", crf, scale, "tiny", 64, 36, rate, 10.0, plain, scores)


# -------------------------------------------------------------------------------------------- grid


def test_the_grid_is_the_scales_whose_heights_are_allowed() -> None:
    assert grid_scales(1920, 1080, SETTINGS) == ((TWO, HALF, ONE), [])
    lower = replace(SETTINGS, max_height=720)
    assert grid_scales(1920, 1080, lower) == ((TWO, HALF), [])
    named = replace(SETTINGS, heights=(1080, 540))
    assert grid_scales(1920, 1080, named) == ((TWO, ONE), [])


def test_no_rung_is_higher_than_the_source() -> None:
    asked = replace(SETTINGS, heights=(2160, 1080, 540))
    scales, notes = grid_scales(1280, 1080, asked)
    assert scales == (TWO, ONE)
    assert "2160" in notes[0]
    assert "no rung is upscaled" in notes[0]
    with pytest.raises(UsageError, match="1080, 720, 540"):
        grid_scales(1280, 1080, replace(SETTINGS, heights=(2160,)))


def test_grids_without_a_height_are_refused() -> None:
    with pytest.raises(UsageError, match="numbers of lines: 1080, 720, 540"):
        grid_scales(1920, 1080, replace(SETTINGS, max_height=500))
    with pytest.raises(UsageError, match="got 600"):
        grid_scales(1920, 1080, replace(SETTINGS, heights=(600,)))
    scales, notes = grid_scales(40, 24, SETTINGS)
    assert scales == (HALF, ONE)
    assert "scale 2 left out" in notes[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"crfs": ()},
        {"scales": ()},
        {"count": 0},
        {"count": 3, "step": 6.0},
        {"rates_kbps": (100.0,), "count": 2},
        {"step": 0.0},
        {"step": math.nan},
        {"least_gain": -1.0},
        {"peak": 1.0},
        {"top": 100.0},
        {"max_height": 0},
        {"pool": "median"},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        LadderSettings(**wrong)  # type: ignore[arg-type]


def test_rates_and_heights_as_they_are_written() -> None:
    assert parse_rates("3M, 800k,1500000") == (800.0, 1500.0, 3000.0)
    assert parse_heights("540p,1080") == (1080, 540)
    for text in ("", "1M,,2M", "fast", "0", "-1M", "1X", "inf"):
        with pytest.raises(UsageError):
            parse_rates(text)
    for text in ("", "tall", "0", "-720"):
        with pytest.raises(UsageError):
            parse_heights(text)


# ------------------------------------------------------------------------------------------- rungs

HULL = [RdPoint(100 * 1.5**i, q) for i, q in enumerate((60, 68, 75, 81, 86, 90, 92, 92.5))]


def test_more_bits_that_buy_nothing_are_no_rung() -> None:
    # The last step is 0.5 for 0.58 doublings: 0.9 a doubling.
    assert trimmed(HULL, SETTINGS)[-1].quality == 92
    assert trimmed(HULL, replace(SETTINGS, least_gain=0.1))[-1].quality == 92
    assert trimmed(HULL, replace(SETTINGS, least_gain=8.0))[-1].quality == 86


def test_a_top_is_reached_by_the_cheapest_point_that_does() -> None:
    assert trimmed(HULL, replace(SETTINGS, top=85.0))[-1].quality == 86
    assert trimmed(HULL, replace(SETTINGS, top=99.0))[-1].quality == 92.5
    # What scores the same as the top gives way to it, not the other way round.
    assert [p.quality for p in trimmed(HULL, replace(SETTINGS, top=99.0))][-2:] == [90, 92.5]


def test_a_probe_made_for_the_top_or_a_rate_counts_though_it_lies_below_the_chord() -> None:
    low, between, high = RdPoint(400, 80), RdPoint(800, 85), RdPoint(1200, 92)
    points = [high, low, between, RdPoint(900, 84)]
    assert candidates(points, SETTINGS) == [low, high]
    assert candidates(points, replace(SETTINGS, top=84.5)) == [low, between]
    assert candidates(points, replace(SETTINGS, top=91.0)) == [low, high]
    assert candidates(points, replace(SETTINGS, top=99.0)) == [low, high]
    asked = replace(SETTINGS, rates_kbps=(500.0, 1000.0))
    assert choose_rungs(candidates(points, asked), asked) == [low, between]


def test_rungs_by_step_count_and_rate() -> None:
    def qualities(**asked: object) -> list[float]:
        return [p.quality for p in choose_rungs(HULL, replace(SETTINGS, **asked))]

    by_step = qualities()
    assert by_step[-1] == 92
    assert all(3 <= b - a <= 9 for a, b in pairwise(by_step))
    assert qualities(count=3) == [60, 75, 92]
    assert qualities(rates_kbps=(50.0, 160.0, 170.0, 600.0)) == [68, 86]
    with pytest.raises(UsageError, match="at least 100 kb/s"):
        qualities(rates_kbps=(50.0,))


GRID = [
    *(_point(38, 250, 70), _point(30, 500, 80), _point(22, 1000, 88)),
    *(_point(34, 600, 78, HALF), _point(26, 1200, 92, HALF)),
]
ON_HULL = [GRID[0], GRID[1], GRID[2], GRID[4]]


def _between(**asked: object) -> list[tuple[float, Fraction]]:
    found = probes_between(GRID, ON_HULL, "vmaf_v1", replace(SETTINGS, **asked))
    return [(probe.crf, probe.scale) for probe in found]


def test_probes_between_points_fall_within_the_rates() -> None:
    # 8 CRFs a doubling; 400 kb/s, less 3 %, is 0.366 doublings below 500.
    assert _between(rates_kbps=(400.0,)) == [(33.0, TWO)]
    # Between two scales: at that of the point above.
    assert _between(rates_kbps=(1100.0,)) == [(27.4, HALF)]
    # Beyond the grid; as near as the grid is; below all that the scale above has.
    assert _between(rates_kbps=(100.0, 2000.0)) == []
    assert _between(rates_kbps=(515.0, 255.0)) == []


def test_a_probe_for_the_top_is_just_above_it() -> None:
    assert _between(top=84.0) == [(25.8, TWO)]
    assert _between(top=90.0) == [(27.0, HALF)]
    assert _between(top=99.0) == _between(top=60.0) == _between(top=87.9) == []


# ------------------------------------------------------------------------------------- comparisons

PLAIN = [RdPoint(200.0, 60.0), RdPoint(800.0, 80.0), RdPoint(3200.0, 95.0)]
OURS = [RdPoint(100.0, 60.0), RdPoint(400.0, 80.0), RdPoint(1600.0, 95.0)]


def test_x265_is_compared_at_equal_quality() -> None:
    rungs = [RatedRung("a", 400.0, 80.0), RatedRung("b", 50.0, 50.0)]
    equal, below = compare_x265(rungs, PLAIN)
    assert equal.x265_kbps == pytest.approx(800.0)
    assert equal.saved_percent == pytest.approx(50.0)
    assert below.x265_kbps is None
    assert below.saved_percent is None


def test_x265_is_given_our_streams_shown_plain_too() -> None:
    ours = [_point(30, 500, 80), _point(26, 1000, 88)]
    x265 = [replace(_point(30, 900, 79), family="x265"), replace(_point(26, 2000, 90))]
    hull = plain_hull(ours, x265, "vmaf_v1", "mean")
    # Without a byte of weights.
    assert hull[0] == RdPoint(499.0, 76.0, ours[0].label)


def test_apple_up_to_the_source_and_up_to_one_quality() -> None:
    rungs = [RatedRung("low", 100.0, 60.0), RatedRung("top", 1600.0, 95.0)]
    apple, top = compare_apple(540, rungs, OURS, PLAIN, 6.0)
    assert [(rung.height, rung.kbps) for rung in apple] == list(APPLE_HEVC[:5])
    assert [rung.quality is None for rung in apple] == [True, False, False, False, False]
    assert top is not None
    assert top.apple_kbps == 145 + 300 + 600 + 900 + 1600
    # Our rung of 95 is above Apple's top: one of just that quality stands in for it.
    assert top.ours_kbps == pytest.approx(100 + rate_at(OURS, top.quality))
    assert top.saved_percent == pytest.approx(100 * (1 - top.ours_kbps / 3545))


def test_a_rate_beyond_x265s_best_is_no_worse_than_that() -> None:
    apple, top = compare_apple(1080, [], OURS, PLAIN, 6.0)
    assert [rung.is_least for rung in apple] == [rung.kbps >= 3200 for rung in apple]
    assert apple[-1].quality == 95.0
    assert apple[-1].ours_kbps == pytest.approx(1600.0)
    assert top is not None
    worse = [replace(point, quality=point.quality - 10) for point in OURS]
    assert compare_apple(1080, [], worse, PLAIN, 6.0)[1] is None
    near = [replace(point, quality=point.quality - 0.4) for point in OURS]
    assert compare_apple(1080, [], near, PLAIN, 6.0)[0][-1].ours_kbps == pytest.approx(1600.0)
    assert compare_apple(240, [], OURS, PLAIN, 6.0) == ([], None)


# ----------------------------------------------------------------------------------- shared weights


@given(st.integers(1, 6), st.data())
def test_the_assignment_is_the_best_there_is(count: int, data: st.DataObject) -> None:
    pairs = [(i, j) for i in range(count) for j in (i - 1, i + 1) if 0 <= j < count]
    savings = {pair: data.draw(st.floats(1, 100)) for pair in pairs if data.draw(st.booleans())}
    chosen = best_assignment(count, savings)

    def value(assignment: tuple[int, ...] | list[int]) -> float | None:
        total = 0.0
        for index, lender in enumerate(assignment):
            if lender != index:
                if assignment[lender] != lender or (index, lender) not in savings:
                    return None
                total += savings[index, lender]
        return total

    candidates = product(*[[i, i - 1, i + 1] for i in range(count)])
    inside = [c for c in candidates if all(0 <= lender < count for lender in c)]
    best = max(v for v in map(value, inside) if v is not None)
    assert value(chosen) == pytest.approx(best)


def test_bytes_saved_have_to_buy_the_lost_quality_back() -> None:
    hull = [RdPoint(100.0, 60.0), RdPoint(200.0, 70.0), RdPoint(600.0, 80.0)]
    # 10 kb/s a point below 70, 40 above; of 100 s.
    assert bytes_a_quality(hull, 65.0, 100.0) == pytest.approx(10 * 100 * 125)
    assert bytes_a_quality(hull, 75.0, 100.0) == pytest.approx(40 * 100 * 125)
    assert bytes_a_quality(hull, 99.0, 100.0) == pytest.approx(40 * 100 * 125)
    assert bytes_a_quality(hull[:1], 60.0, 100.0) == 0.0
    assert net_saving(10_000, Loss(0.05), 125_000) == pytest.approx(3750)
    assert net_saving(10_000, Loss(0.1), 125_000) is None
    assert net_saving(10_000, Loss(-1.0), 125_000) == 10_000
    assert net_saving(10_000, Loss(0.3), 0.0) is None
    assert net_saving(10_000, Loss(0.0, lpips=0.01), 0.0) is None


# ------------------------------------------------------------------------------------------ charts


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e5))
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 8
    assert all(low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in found)


def test_log_ticks() -> None:
    assert log_ticks(90, 2100) == [100, 200, 500, 1000, 2000]


def test_a_chart_is_well_formed_whatever_it_is_called() -> None:
    lines = [(100.0, 60.0), (400.0, 80.0)]
    series = [
        Series('<script>"&', lines, "#111", "circle", line=True, titles=["<b>", "&"]),
        Series("", [(900.0, 70.0)], "#222", "cross"),
        Series("nothing", [], "#333", "square"),
    ]
    svg = chart_svg(Chart("a < b & c", series))
    root = ElementTree.fromstring(svg)
    text = "".join(root.itertext())
    assert '<script>"&' in text
    assert "a < b & c" in text
    assert "nothing" not in text
    assert chart_svg(Chart("empty", [])) == ""
    # One point alone has an axis, too.
    assert "<circle" in chart_svg(Chart("one", [Series("p", [(5.0, 50.0)], "#111", "circle")]))


def test_a_turned_chart_has_low_values_at_the_top() -> None:
    def heights(*, turned: bool) -> list[float]:
        series = [Series("", [(1.0, 0.1), (2.0, 0.3)], "#111", "circle")]
        root = ElementTree.fromstring(chart_svg(Chart("", series, turned)))
        return [float(circle.attrib["cy"]) for circle in root.iter("circle")]

    low, high = heights(turned=False)
    assert low > high
    low, high = heights(turned=True)
    assert low < high
