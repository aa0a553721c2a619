"""Local work in several processes: each with its share of cores, none that loses the others' work.

    jobs ─ ready ones ─> worker process (codecaux.ladders.worker) ─ result as JSON ─> outcomes

A job names a function that takes a JSON object and yields events, ending in a JSON object. A job
that fails, or whose process dies, is an outcome like the others. Where the caller goes away, the
workers are interrupted; where it is killed, they see their stdin end and stop by themselves. What
they keep of their work is their own business (:mod:`codecaux.ladders.cache`).
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from codecaux.errors import CodecauxError, UsageError
from codecaux.events import Event, Events, Notice, Progress, StageDone, StageStarted

__all__ = ["Failure", "Job", "Outcome", "check_jobs", "core_shares", "resolve", "run_jobs"]

_STAGE = "probes"
_STOP_SECONDS = 20.0
_TAIL_CHARACTERS = 2000

Function = Callable[[Mapping[str, Any]], Events[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Job:
    """``function``: "module:name" of what takes ``arguments`` (JSON). It waits until the jobs that
    ``after`` names are over, well or badly. ``label`` is for people.
    """

    key: str
    function: str
    arguments: Mapping[str, Any]
    after: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Class and message of the error, and the exit code of its family."""

    kind: str
    exit_code: int
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """``result`` where it went well, else ``failure``."""

    result: Mapping[str, Any] | None
    failure: Failure | None = None


def check_jobs(count: int) -> None:
    """UsageError for a number of processes that makes no sense."""
    if count < 1:
        raise UsageError(f"expected at least one job at a time, got {count}")


def resolve(name: str) -> Function:
    """The function that "module:name" names."""
    module, _, attribute = name.partition(":")
    function: Function = getattr(importlib.import_module(module), attribute)
    return function


def core_shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """Which cores each of ``count`` processes gets: equal parts; where there are fewer cores than
    processes, one each in turn.
    """
    if count >= len(cores):
        return [[cores[index % len(cores)]] for index in range(count)]
    bounds = [len(cores) * part // count for part in range(count + 1)]
    return [list(cores[a:b]) for a, b in pairwise(bounds)]


def run_jobs(jobs: Sequence[Job], count: int) -> Events[dict[str, Outcome]]:
    """Run all, ``count`` at a time (1: in this process); outcomes by key, in the jobs' order.

    Yields a Progress as jobs end, and the warnings of each, said once. An interrupt, and what is
    no CodecauxError (a bug of ours) in this process, is raised.
    """
    check_jobs(count)
    keys = [job.key for job in jobs]
    assert len(set(keys)) == len(keys), "expected a key of its own for each job"
    assert all(set(job.after) <= set(keys) for job in jobs), "a job waits for one that is not there"
    started = time.monotonic()
    yield StageStarted(_STAGE, len(jobs), _STAGE)
    run = _run_here if count == 1 or len(jobs) < 2 else _run_apart
    outcomes = yield from _said_once(run(jobs, min(count, max(len(jobs), 1))))
    yield StageDone(_STAGE, time.monotonic() - started)
    return {key: outcomes[key] for key in keys}


def _said_once(events: Events[dict[str, Outcome]]) -> Events[dict[str, Outcome]]:
    said: set[Notice] = set()
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                result: dict[str, Outcome] = stop.value
                return result
            if isinstance(event, Notice):
                if event in said:
                    continue
                said.add(event)
            yield event


def _next_ready(waiting: Sequence[Job], over: Mapping[str, Outcome]) -> Job | None:
    return next((job for job in waiting if all(key in over for key in job.after)), None)


# ------------------------------------------------------------------------------- in this process


def _run_here(jobs: Sequence[Job], count: int) -> Events[dict[str, Outcome]]:
    outcomes: dict[str, Outcome] = {}
    waiting = list(jobs)
    while waiting:
        job = _next_ready(waiting, outcomes)
        assert job is not None, "jobs that wait for each other"
        waiting.remove(job)
        try:
            result = yield from _passed_on(resolve(job.function)(job.arguments), outcomes, jobs)
            outcomes[job.key] = Outcome(result)
        except CodecauxError as error:
            outcomes[job.key] = Outcome(None, _failure(error))
        yield Progress(_STAGE, len(outcomes), len(jobs), _STAGE)
    return outcomes


def _failure(error: CodecauxError) -> Failure:
    return Failure(type(error).__name__, error.exit_code, str(error))


def _passed_on(
    events: Events[dict[str, Any]], over: Mapping[str, Outcome], jobs: Sequence[Job]
) -> Events[dict[str, Any]]:
    """A job's warnings, and that it moves; its own stages are not the reader's."""
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                result: dict[str, Any] = stop.value
                return result
            shown = _shown(event, len(over), len(jobs))
            if shown is not None:
                yield shown


def _shown(event: Event, done: int, total: int) -> Event | None:
    if isinstance(event, Progress):
        return Progress(_STAGE, done, total, _STAGE, event.loss)
    if isinstance(event, Notice) and event.level == "warning":
        return event
    return None


# ------------------------------------------------------------------------------ in other processes


class _Worker:
    """One process with one job; a thread reads what it says into ``lines``."""

    def __init__(self, job: Job, cores: Sequence[int], lines: queue.Queue[_Line]) -> None:
        self.job, self.cores = job, cores
        self._lines = lines
        environment = {**os.environ, "OMP_NUM_THREADS": str(len(cores))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "codecaux.ladders.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C comes to us, and from us to it
        )
        task = {"function": job.function, "arguments": job.arguments, "cores": list(cores)}
        with suppress(BrokenPipeError):  # it died at once: its end is read like any other's
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        self._tail = b""
        self._threads = [
            threading.Thread(target=target, name=f"worker-{job.key}", daemon=True)
            for target in (self._read_errors, self._read)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(_Line(self, line))
        self._threads[0].join()
        self._lines.put(_Line(self, None))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tail = (self._tail + line)[-_TAIL_CHARACTERS:]

    def end(self) -> Failure:
        """Reap it; what to say where it gave no outcome."""
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        words = self._tail.decode("utf-8", "replace").strip()
        message = f"the process of {self.job.label or self.job.key} {how}"
        return Failure(
            "ProcessDied", 1, f"{message}; its last words:\n{words}" if words else message
        )

    def interrupt(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def release(self) -> None:
        """Wait for its end, and end it where it does not."""
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


@dataclass(frozen=True, slots=True)
class _Line:
    """What a worker said; None: it has gone."""

    worker: _Worker
    text: bytes | None


def _run_apart(jobs: Sequence[Job], count: int) -> Events[dict[str, Outcome]]:
    shares = core_shares(_own_cores(), count)
    outcomes: dict[str, Outcome] = {}
    waiting, running = list(jobs), dict[int, _Worker]()
    lines: queue.Queue[_Line] = queue.Queue()
    try:
        while waiting or running:
            for place in range(count):
                job = _next_ready(waiting, outcomes) if place not in running else None
                if job is not None:
                    waiting.remove(job)
                    running[place] = _Worker(job, shares[place], lines)
            assert running, "jobs that wait for each other"
            line = lines.get()
            event = _take(line, outcomes, len(jobs))
            if line.text is None:
                place = next(p for p, worker in running.items() if worker is line.worker)
                running.pop(place).release()
            if event is not None:
                yield event
    finally:
        for worker in running.values():
            worker.interrupt()
        for worker in running.values():
            worker.release()
    return outcomes


def _take(line: _Line, outcomes: dict[str, Outcome], total: int) -> Event | None:
    """Keep an outcome; the event to pass on, if any."""
    key = line.worker.job.key
    if line.text is None:
        if key not in outcomes:
            outcomes[key] = Outcome(None, line.worker.end())
        return Progress(_STAGE, len(outcomes), total, _STAGE)
    record = json.loads(line.text)
    if "result" in record:
        outcomes[key] = Outcome(record["result"])
    elif "failure" in record:
        outcomes[key] = Outcome(None, Failure(**record["failure"]))
    elif "warning" in record:
        return Notice(record["warning"], "warning")
    elif "loss" in record:
        return Progress(_STAGE, len(outcomes), total, _STAGE, record["loss"])
    return None


def _own_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
