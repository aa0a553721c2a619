"""The folder of an unfinished `encode --target`: whole titles that are done, and the one at work.

    OUT.codecaux-work/NAME.mp4, NAME.weights    a whole title at one point of the search
                      NAME.json                 its record, which is written last
                      NAME.mp4.codecaux-work    of the encode at work

A name says everything that its files depend on, so that nothing is taken for what it is not. Only
what is chosen in the end gets the output's name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codecaux.atomic import write_atomic
from codecaux.encoder.encode import EncodeResult
from codecaux.encoder.settings import EncodeSettings
from codecaux.encoder.workdir import WorkDir, check_folder, held, open_folder
from codecaux.errors import InputError, UsageError
from codecaux.rate import Rate
from codecaux.scores import Scores
from codecaux.temporal import TemporalSteps

__all__ = ["TargetWork", "check_target_work", "open_target_work"]


@dataclass(frozen=True, slots=True)
class TargetWork:
    """``path`` is there; ``suffix``: of the streams."""

    path: Path
    suffix: str

    def files(self, name: str) -> tuple[Path, Path]:
        """Stream and weights."""
        return self.path / f"{name}{self.suffix}", self.path / f"{name}.weights"

    def result(self, name: str) -> EncodeResult | None:
        """Of a whole title that is done; None where it is not."""
        stream, weights = self.files(name)
        try:
            record = json.loads(self._record(name).read_bytes())
        except (OSError, ValueError):
            return None
        done = stream.exists() and weights.exists()
        return _from_json(record, stream, weights) if done else None

    def keep(self, name: str, result: EncodeResult) -> None:
        """A whole title is done, and not made again."""
        write_atomic(self._record(name), json.dumps(_to_json(result)).encode())

    def publish(self, result: EncodeResult, output: Path, weights: Path) -> None:
        """Give one its final names, remove the rest. The weights first: a stream plays without."""
        write_atomic(weights, result.weights.read_bytes())
        try:
            result.stream.replace(output)
        except OSError as error:
            raise InputError(
                f"expected to move {result.stream} to {output}, got: {error.strerror}; it is where "
                "it was"
            ) from error
        shutil.rmtree(self.path, ignore_errors=True)

    def _record(self, name: str) -> Path:
        return self.path / f"{name}.json"


def check_target_work(settings: EncodeSettings) -> None:
    """UsageError where the folder of ``settings`` is another's, or is not to be gone on with."""
    if check_folder(settings) and WorkDir(settings.work_dir, "").is_bound:
        raise UsageError(
            f"{settings.work_dir} holds an interrupted encode that had no --target; resume it with "
            "its own command, or start again with -y"
        )


@contextmanager
def open_target_work(settings: EncodeSettings) -> Iterator[TargetWork]:
    """The folder, new or gone on with, held for the block. Raises what opening it raises."""
    check_target_work(settings)
    open_folder(settings)
    with held(WorkDir(settings.work_dir, settings.output.suffix)):
        yield TargetWork(settings.work_dir, settings.output.suffix)


# ---------------------------------------------------------------------------------------- records


def _to_json(result: EncodeResult) -> dict[str, Any]:
    return {
        "rate": asdict(result.rate),
        "scores": {name: asdict(scores) for name, scores in result.scores.items()},
        "stage_seconds": dict(result.stage_seconds),
        "device": result.device,
        "num_frames": result.num_frames,
    }


def _from_json(record: Mapping[str, Any], stream: Path, weights: Path) -> EncodeResult:
    scores = {name: _scores(values) for name, values in record["scores"].items()}
    values = {**record, "rate": Rate(**record["rate"]), "scores": scores}
    return EncodeResult(stream, weights, **values)


def _scores(record: Mapping[str, Any]) -> Scores:
    steps = TemporalSteps(**{name: tuple(values) for name, values in record["steps"].items()})
    per_frame = {metric: tuple(values) for metric, values in record["per_frame"].items()}
    return Scores(**{**record, "steps": steps, "per_frame": per_frame})
