"""Grids of probes: in which order they warm-start one another, and their running.

Fits of one scale form a tree: the CRF in the middle of the grid is fitted from the base, every
other one starts from its neighbour on the side of the middle::

    18 <─ 21 <─ 24 <─ 27 ─> 30 ─> 33 ─> 36

so that both arms of every scale can run at the same time. What is in the cache already is there to
start from at once, whatever its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from codecaux.events import Events, Notice
from codecaux.ladders.jobs import Failure, Job, check_jobs, run_jobs
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober, settings_to_json

__all__ = ["Planned", "ProbeRun", "plan_probes", "run_probes"]

_FUNCTION = "codecaux.ladders.probes:run_probe_job"


# ------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True, slots=True)
class Planned:
    """``starts``: what the fit may start from, the best first. ``after``: the one to wait for."""

    probe: Probe
    starts: tuple[Probe, ...] = ()
    after: Probe | None = None


def plan_probes(probes: Sequence[Probe], is_cached: Mapping[Probe, bool]) -> list[Planned]:
    """Those of ``probes`` that are not cached, in an order in which none waits for a later one."""
    planned: list[tuple[int, Planned]] = []
    groups: dict[Fraction, list[Probe]] = {}
    for probe in probes:
        if probe.family == "ours" and not probe.is_cold:
            groups.setdefault(probe.scale, []).append(probe)
        elif not is_cached[probe]:
            planned.append((1, Planned(probe)))
    for group in groups.values():
        planned += _tree(sorted(group, key=lambda probe: probe.crf), is_cached)
    return [each for _, each in sorted(planned, key=lambda pair: pair[0])]


def _tree(chain: Sequence[Probe], is_cached: Mapping[Probe, bool]) -> list[tuple[int, Planned]]:
    """Of one scale, by CRF: (distance from the root, plan) of what is missing."""
    middle = len(chain) // 2
    result = []
    for index, probe in enumerate(chain):
        if is_cached[probe]:
            continue
        inward = 1 if index < middle else -1
        ancestors = chain[index + inward : middle + inward : inward] if index != middle else ()
        known = sorted(
            (other for other in chain if is_cached[other]),
            key=lambda other: abs(other.crf - probe.crf),
        )
        after = ancestors[0] if ancestors and not is_cached[ancestors[0]] else None
        if after is not None and known and _is_nearer(known[0], after, probe):
            after = None
        starts = dict.fromkeys([*known[:1], *ancestors] if after is None else ancestors)
        result.append((abs(index - middle), Planned(probe, tuple(starts), after)))
    return result


def _is_nearer(known: Probe, parent: Probe, probe: Probe) -> bool:
    return abs(known.crf - probe.crf) <= abs(parent.crf - probe.crf)


# -------------------------------------------------------------------------------------------- run


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """``points`` by probe, in the order asked for; ``failures`` of the others. ``num_cached`` were
    there before.
    """

    points: Mapping[Probe, OperatingPoint]
    failures: Mapping[Probe, Failure] = field(default_factory=dict)
    num_cached: int = 0


def run_probes(prober: Prober, probes: Sequence[Probe], jobs: int = 1) -> Events[ProbeRun]:
    """Make all that are not cached, ``jobs`` at a time; one that fails does not lose the rest.

    Killed and called again, it goes on where it was: whole points are in the cache, an interrupted
    fit has its checkpoint there.
    """
    check_jobs(jobs)
    probes = list(dict.fromkeys(probes))
    points = {probe: prober.cached(probe) for probe in probes}
    planned = plan_probes(probes, {probe: point is not None for probe, point in points.items()})
    num_cached = len(probes) - len(planned)
    if num_cached:
        yield Notice(f"{num_cached} of {len(probes)} probes are in the cache")
    failures: dict[Probe, Failure] = {}
    if planned:
        outcomes = yield from run_jobs([_job(prober, each) for each in planned], jobs)
        for each in planned:
            outcome = outcomes[_key(each.probe)]
            if outcome.result is not None:
                points[each.probe] = OperatingPoint.from_json(outcome.result)
            elif outcome.failure is not None:
                failures[each.probe] = outcome.failure
                yield Notice(f"{each.probe.label} failed: {outcome.failure.message}", "warning")
    made = {probe: point for probe, point in points.items() if point is not None}
    return ProbeRun(made, failures, num_cached)


def _key(probe: Probe) -> str:
    return f"{probe.family} {probe.crf} {probe.scale} {probe.is_cold}"


def _job(prober: Prober, planned: Planned) -> Job:
    arguments: dict[str, Any] = {
        "title": prober.title.to_json(),
        "settings": settings_to_json(prober.settings),
        "cache": str(prober.cache.root.absolute()),
        "probe": planned.probe.to_json(),
        "starts": [start.to_json() for start in planned.starts],
    }
    after = () if planned.after is None else (_key(planned.after),)
    return Job(_key(planned.probe), _FUNCTION, arguments, after, planned.probe.label)
