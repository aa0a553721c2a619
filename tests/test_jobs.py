"""Jobs in several processes: order, failures, deaths, interrupts, shares of cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux.errors import FitError, UsageError
from codecaux.events import Notice, Progress, StageDone, StageStarted, drain
from codecaux.ladders.jobs import Job, Outcome, core_shares, run_jobs

HELPERS = Path(__file__).parent / "helpers"


@pytest.fixture(autouse=True)
def functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helpers' module can be imported here and by workers."""
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))
    monkeypatch.syspath_prepend(str(HELPERS))


def _doubles(folder: Path, count: int) -> list[Job]:
    return [
        Job(str(i), "job_functions:double", {"value": i, "log": str(folder / "log")})
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_jobs_order(tmp_path: Path, count: int) -> None:
    events = []
    running = run_jobs(_doubles(tmp_path, 3), count)
    outcomes: dict[str, Outcome] = {}
    while True:
        try:
            events.append(next(running))
        except StopIteration as stop:
            outcomes = stop.value
            break
    assert list(outcomes) == ["0", "1", "2"]
    results = [outcome.result for outcome in outcomes.values()]
    assert [result["twice"] for result in results if result] == [0, 2, 4]
    assert isinstance(events[0], StageStarted)
    assert isinstance(events[-1], StageDone)
    assert [e.message for e in events if isinstance(e, Notice)] == ["for everybody"]
    assert [e.done for e in events if isinstance(e, Progress)][-1] == 3
    pids = {result["pid"] for result in results if result}
    assert (pids == {os.getpid()}) == (count == 1)


def test_each_process_has_its_share_of_the_cores(tmp_path: Path) -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not bind processes to cores")
    outcomes = drain(run_jobs(_doubles(tmp_path, 2), 2))
    ours = sorted(os.sched_getaffinity(0))
    seen = [outcome.result for outcome in outcomes.values()]
    for result in seen:
        assert result is not None
        assert result["cores"] in core_shares(ours, 2)
        assert result["threads"] == str(len(result["cores"]))


@given(st.integers(1, 70), st.integers(1, 70))
def test_shares_are_even_and_use_every_core(cores: int, count: int) -> None:
    shares = core_shares(range(cores), count)
    assert len(shares) == count
    assert {core for share in shares for core in share} == set(range(cores)[: max(count, cores)])
    sizes = {len(share) for share in shares}
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [1, 2])
def test_one_waits_for_another_and_outlives_its_failure(tmp_path: Path, count: int) -> None:
    log = {"log": str(tmp_path / "log")}
    jobs = [
        Job("c", "job_functions:double", {"value": 3, **log}, ("b", "bad")),
        Job("b", "job_functions:double", {"value": 2, **log}, ("a",)),
        Job("a", "job_functions:double", {"value": 1, **log}),
        Job("bad", "job_functions:fail", {}, ("a",)),
    ]
    outcomes = drain(run_jobs(jobs, count))
    assert (tmp_path / "log").read_text().split() == ["1", "2", "3"]
    failure = outcomes["bad"].failure
    assert failure is not None
    assert (failure.kind, failure.exit_code) == ("FitError", FitError.exit_code)
    assert failure.message == "the fit diverged"
    assert outcomes["c"].result is not None


def test_a_process_that_dies_is_an_outcome(tmp_path: Path) -> None:
    jobs = [*_doubles(tmp_path, 2), Job("dead", "job_functions:die", {}, label="CRF 24")]
    outcomes = drain(run_jobs(jobs, 2))
    failure = outcomes["dead"].failure
    assert failure is not None
    assert "CRF 24 was killed by signal 9" in failure.message
    assert "last words" in failure.message
    assert all(outcomes[key].result for key in ("0", "1"))


def test_a_bug_in_a_worker_shows_its_traceback(tmp_path: Path) -> None:
    jobs = [*_doubles(tmp_path, 1), Job("bug", "job_functions:no_such", {})]
    failure = drain(run_jobs(jobs, 2))["bug"].failure
    assert failure is not None
    assert "exit code 1" in failure.message
    assert "AttributeError" in failure.message


def _sleepers(folder: Path) -> list[Job]:
    return [
        Job(
            name,
            "job_functions:sleep",
            {
                "started": str(folder / f"{name}.started"),
                "stopped": str(folder / f"{name}.stopped"),
            },
        )
        for name in ("a", "b")
    ]


def test_who_goes_away_takes_the_workers_along(tmp_path: Path) -> None:
    running = run_jobs(_sleepers(tmp_path), 2)
    assert any(isinstance(event, Notice) for event in running)
    _wait_for(tmp_path, "*.started", 2)
    running.close()
    assert len(list(tmp_path.glob("*.stopped"))) == 2


def test_workers_of_a_command_in_the_background_are_stopped_too(tmp_path: Path) -> None:
    """A shell without job control starts what is in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        test_who_goes_away_takes_the_workers_along(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def test_workers_of_a_killed_parent_stop_by_themselves(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom codecaux.events import drain\n"
        "from codecaux.ladders.jobs import Job, run_jobs\n"
        "jobs = [Job(n, 'job_functions:sleep', {'started': f'{sys.argv[1]}/{n}.started', "
        "'stopped': f'{sys.argv[1]}/{n}.stopped'}) for n in 'ab']\n"
        "drain(run_jobs(jobs, 2))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as parent:
        _wait_for(tmp_path, "*.started", 2)
        parent.send_signal(signal.SIGKILL)
    _wait_for(tmp_path, "*.stopped", 2)


def _wait_for(folder: Path, pattern: str, count: int) -> None:
    for _ in range(300):
        if len(list(folder.glob(pattern))) == count:
            return
        time.sleep(0.1)
    pytest.fail(f"expected {count} files {pattern}")


def test_no_process_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one job"):
        drain(run_jobs([], 0))
    assert drain(run_jobs([], 4)) == {}
