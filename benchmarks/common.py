"""What the benchmarks share: interleaved timing, the machine's description, result files."""

from __future__ import annotations

import csv
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codecaux import __version__
from codecaux.atomic import write_atomic
from codecaux.device import choose_device, cpu_has_fast_bf16

__all__ = ["Timing", "interleave", "machine", "matrix_macs_per_second", "write_results"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and interquartile range of ``repeats`` wall times."""

    median_seconds: float
    iqr_seconds: float
    repeats: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        quarters = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [0.0, 0.0, 0.0]
        return cls(statistics.median(seconds), quarters[2] - quarters[0], len(seconds))

    def per_second(self, count: float) -> float:
        """Rate of something that happens ``count`` times in each repeat."""
        return count / self.median_seconds


def interleave(
    actions: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1
) -> dict[str, Timing]:
    """Time every action once a round, for ``repeats`` rounds after ``warm_up`` untimed ones.

    Rounds, so that whatever else the machine does falls on all actions alike: ratios between
    them hold where single numbers do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for round_ in range(warm_up + repeats):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if round_ >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing.of(values) for name, values in seconds.items()}


def machine() -> dict[str, Any]:
    """Where and with what the numbers were taken."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)
    return {
        "codecaux": __version__,
        "cores": os.cpu_count(),
        "cpu": choose_device("cpu").description,
        "cpu_has_fast_bf16": cpu_has_fast_bf16(),
        "load_average_1_minute": round(load[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def matrix_macs_per_second(dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """Multiply-adds a second of a square matrix product: what this machine can do at best.

    Of the fastest repeat: a limit is not an average.
    """
    a, b = (torch.randn(size, size).to(dtype) for _ in "ab")
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return size**3 / best


def write_results(
    output: Path | None, name: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Print ``rows`` as a table; write OUTPUT (JSON, with the machine) and OUTPUT's .tsv.

    Every row has the same keys. The TSV is one row for each of ours with the version in front.
    """
    for row in rows:
        print("  ".join(f"{key}={_short(value)}" for key, value in row.items()))
    if output is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": name, "machine": machine(), "settings": settings, "results": rows}
    write_atomic(output, json.dumps(document, indent=1).encode() + b"\n")
    with output.with_suffix(".tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["codecaux", *rows[0]])
        writer.writerows([__version__, *map(_short, row.values())] for row in rows)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
