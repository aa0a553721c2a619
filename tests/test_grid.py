"""Grids: how they are written, the order of warm starts, and runs that lose nothing."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codecaux.encoder.prepare import SourceOptions
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import UsageError
from codecaux.events import Notice, drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.ladders.cache import Cache
from codecaux.ladders.grid import plan_probes, run_probes
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.settings import SamplingSettings, parse_crfs, parse_scales
from codecaux.ladders.titles import survey

if TYPE_CHECKING:
    from conftest import FakeProbes

X2, X1 = Fraction(2), Fraction(1)


# -------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18:36:3", (18, 21, 24, 27, 30, 33, 36)),
        ("18:20:0.5", (18, 18.5, 19, 19.5, 20)),
        ("20:25:2", (20, 22, 24)),
        ("24:24:1", (24,)),
        ("30,20.5,20.5", (20.5, 30)),
        ("24", (24,)),
    ],
)
def test_grids_of_crfs(text: str, expected: tuple[float, ...]) -> None:
    assert parse_crfs(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a",
        "18:36",
        "18:36:0",
        "18:36:-3",
        "36:18:3",
        "18:60:3",
        "-1",
        "0:51:0.01",
        "nan",
        "18:36:nan",
        "1:2:3:4",
        "inf",
    ],
)
def test_senseless_grids_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_crfs(text)


def test_scales() -> None:
    assert parse_scales("1, 2,3/2") == (2, Fraction(3, 2), 1)
    for text in ("", "4", "2,x", "1/0"):
        with pytest.raises(UsageError, match=r"2, 1\.5 and 1"):
            parse_scales(text)


# -------------------------------------------------------------------------------------------- plan


def _ours(*crfs: float, scale: Fraction = X2) -> list[Probe]:
    return [Probe(crf, scale) for crf in crfs]


def test_fits_start_from_their_neighbours_from_the_middle_outwards() -> None:
    probes = _ours(18, 21, 24, 27, 30)
    planned = {p.probe.crf: p for p in plan_probes(probes, dict.fromkeys(probes, False))}
    waits = {crf: each.after.crf if each.after else None for crf, each in planned.items()}
    assert waits == {24: None, 21: 24, 27: 24, 18: 21, 30: 27}
    assert planned[24].starts == ()
    assert [start.crf for start in planned[18].starts] == [21, 24]


def test_what_is_cached_is_started_from_at_once() -> None:
    probes = _ours(18, 19.5, 21, 22.5, 24)
    cached = {probe: probe.crf in (18, 21, 24) for probe in probes}
    planned = plan_probes(probes, cached)
    assert [(p.probe.crf, p.after) for p in planned] == [(22.5, None), (19.5, None)] or [
        (p.probe.crf, p.after) for p in planned
    ] == [(19.5, None), (22.5, None)]
    assert all(p.starts[0].crf in (18, 21, 24) for p in planned)


@given(
    crfs=st.lists(st.integers(0, 51), min_size=1, max_size=12, unique=True),
    cached=st.sets(st.integers(0, 51)),
)
def test_no_fit_waits_for_a_later_one_or_for_ever(crfs: list[int], cached: set[int]) -> None:
    probes = [*_ours(*crfs), *_ours(*crfs, scale=X1), Probe(24.0, X1, "x265")]
    known = {probe: probe.family == "ours" and probe.crf in cached for probe in probes}
    planned = plan_probes(probes, known)
    assert {p.probe for p in planned} == {probe for probe in probes if not known[probe]}
    seen: set[Probe] = set()
    for each in planned:
        assert each.probe not in each.starts
        assert each.after is None or (each.after in seen and each.after in each.starts)
        assert all(start.scale == each.probe.scale for start in each.starts)
        seen.add(each.probe)


# --------------------------------------------------------------------------------------------- run


@pytest.fixture
def prober(clip: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> Prober:
    cache = Cache.open(tmp_path / "cache")
    title = drain(survey(clip, SourceOptions(), SamplingSettings(), cache, ffmpeg))
    settings = EncodeSettings(
        input="",
        output=Path("out.mp4"),
        weights=Path("out.weights"),
        stream=StreamSettings(crf=24, preset="ultrafast"),
        net="tiny",
        fit=FitSettings(steps=10, batch=2, patch=24, objective="fidelity"),
        device="cpu",
        lpips_frames=1,
    )
    return Prober.open(title, settings, cache)


def test_a_second_run_makes_nothing(prober: Prober, fake_probes: FakeProbes) -> None:
    probes = _ours(18, 24, 30)
    first = drain(run_probes(prober, probes))
    assert [(p.crf, start) for p, start in fake_probes.made] == [(24, None), (18, 24), (30, 24)]
    fake_probes.made.clear()
    second = drain(run_probes(prober, [*probes, probes[0]]))
    assert second.points == first.points
    assert list(second.points) == probes
    assert (second.num_cached, fake_probes.made) == (3, [])
    third = drain(run_probes(prober, _ours(18, 21, 24, 27, 30)))
    assert sorted(p.crf for p, _ in fake_probes.made) == [21, 27]
    assert third.points[Probe(21)].started_from in (18, 24)


def test_one_failed_probe_does_not_lose_the_rest(prober: Prober, fake_probes: FakeProbes) -> None:
    fake_probes.fails = {Probe(18)}
    probes = _ours(15, 18, 21, 24)
    events, run = [], run_probes(prober, probes)
    while True:
        try:
            events.append(next(run))
        except StopIteration as stop:
            result = stop.value
            break
    assert {probe.crf for probe in result.points} == {15, 21, 24}
    assert result.failures[Probe(18)].exit_code == 6
    said = [e.message for e in events if isinstance(e, Notice) and e.level == "warning"]
    assert any("CRF 18 scale 2 failed: the fit diverged twice" in text for text in said)
    # Its neighbour starts from the next one.
    assert (Probe(15), 21) in fake_probes.made
    fake_probes.fails = set()
    again = drain(run_probes(prober, probes))
    assert (again.num_cached, again.failures) == (3, {})


def test_processes_make_the_same_points(prober: Prober) -> None:
    """Two real probes in two processes, and one in this process: the same to the last bit."""
    probes = [Probe(30.0, X2), Probe(30.0, X1, "x265")]
    apart = drain(run_probes(prober, probes, jobs=2))
    assert apart.failures == {}
    here = Prober.open(prober.title, prober.settings, Cache.open(prober.cache.root / "other"))
    # Sums of floats depend on how many threads share them: the same number here as there.
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    try:
        together = drain(run_probes(here, probes))
    finally:
        torch.set_num_threads(threads)
    for probe, point in together.points.items():
        other = apart.points[probe]
        assert (point.rate, point.plain) == (other.rate, other.plain)
        assert point.enhanced.keys() == other.enhanced.keys()
