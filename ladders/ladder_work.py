"""The folder of an unfinished ladder, beside its output: what is done stays done.

DIR.codecaux-work/ladder.json    what was asked for; another ladder is not gone on with
                  rungs/*        finished rungs, each with a record that is written last
                  *.json         other results
                  lock           held by the process at work
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from codecaux import __version__
from codecaux.atomic import write_atomic
from codecaux.encoder.settings import EncodeSettings, identity
from codecaux.encoder.workdir import LOCK_NAME, WorkDir, check_same, held
from codecaux.errors import InputError, UsageError
from codecaux.ladderindex import INDEX_NAME
from codecaux.ladders.ladder_settings import LadderSettings
from codecaux.ladders.settings import SamplingSettings

__all__ = ["LadderWork", "check_output", "open_ladder_work", "work_folder_of"]


@dataclass(frozen=True, slots=True)
class LadderWork:
    """``path`` is there. A record is written after the files that it tells of, and atomically."""

    path: Path

    @property
    def rungs(self) -> Path:
        """Finished rungs, and those in the making."""
        return self._folder("rungs")

    @property
    def source(self) -> Path:
        """What the title had to be converted to, if it had to."""
        return self._folder("source")

    @property
    def packaged(self) -> Path:
        """The ladder, but for its report."""
        return self.path / "packaged"

    @property
    def probes(self) -> Path:
        """A cache of this ladder's own, where the user's is not to be used."""
        return self._folder("probes")

    def record(self, name: str) -> dict[str, Any] | None:
        """What was kept under a name; None where there is nothing that can be read."""
        try:
            value = json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def keep(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep JSON values under a name, which may lie in a folder."""
        write_atomic(self.path / f"{name}.json", json.dumps(value, indent=1).encode())

    def bind(self, content: str, lpips: Mapping[str, str | None]) -> None:
        """Tie the folder to the title's content and to LPIPS: SHA-256 by net, None for none.

        InputError where it was another title's, UsageError where there were other weights.
        """
        record = self.record("ladder") or {}
        if record.setdefault("content", content) != content:
            raise InputError(
                f"the source changed since the ladder in {self.path} was interrupted; start again "
                "without --resume (and with -y)"
            )
        if record.setdefault("lpips", dict(lpips)) != lpips:
            raise UsageError(
                f"the ladder in {self.path} was begun with other LPIPS weights than there are now, "
                "or with none; give the same ones by --lpips-weights, or start again with -y"
            )
        self.keep("ladder", record)

    @property
    def has_probes(self) -> bool:
        """Are there probes of its own?"""
        return any((self.path / "probes").glob("entries/probe/*.entry"))

    @property
    def has_rungs(self) -> bool:
        """Were the rungs chosen, and their making begun?"""
        return (self.path / "rungs").exists()

    @property
    def is_begun(self) -> bool:
        """Is there anything in it, but for the lock of who has it open?"""
        return bool(self._children())

    def empty(self) -> None:
        """Start again: the folder stays, with the lock by which it is held."""
        for child in self._children():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child, ignore_errors=True)
            else:
                child.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _children(self) -> list[Path]:
        return [child for child in self.path.iterdir() if child.name != LOCK_NAME]

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder


def work_folder_of(output: Path) -> Path:
    """Beside the output, gone when the ladder is done."""
    resolved = output.resolve()
    return resolved.with_name(resolved.name + ".codecaux-work")


def check_output(output: Path, source: str, *, overwrite: bool) -> None:
    """UsageError for a folder that the ladder may not become: refused before the work, not after.

    Replacing it removes all that is in it: it must be a ladder, and may hold neither the source nor
    where we are.
    """
    resolved = output.resolve()
    if not resolved.parent.is_dir():
        raise UsageError(f"expected the folder {output.parent} to exist; create it first")
    if resolved.exists() and not resolved.is_dir():
        raise UsageError(f"expected a folder for the ladder, got the file {output}")
    if not resolved.is_dir() or not any(resolved.iterdir()):
        return
    for inside, what in ((Path(source).resolve(), "the source"), (Path.cwd(), "where you are")):
        if inside.is_relative_to(resolved):
            raise UsageError(f"{output} holds {what} and cannot be replaced; choose another -o")
    if not (resolved / INDEX_NAME).is_file():
        raise UsageError(
            f"{output} is not empty and no ladder (it has no {INDEX_NAME}); choose another folder "
            "with -o, or remove it yourself"
        )
    if not overwrite:
        raise UsageError(
            f"{output} holds a ladder; add -y to replace it, or choose another folder with -o"
        )


@contextmanager
def open_ladder_work(
    output: Path,
    settings: EncodeSettings,
    wanted: LadderSettings,
    sampling: SamplingSettings,
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator[LadderWork]:
    """The ladder's folder, new or an interrupted one's where ``resume``, held for the block.

    UsageError where another process is at it, before anything in it is touched; where there is an
    interrupted one that is neither resumed nor given up (``overwrite``); and where the one to
    resume was asked for in other words and has rungs already.
    """
    work = LadderWork(work_folder_of(output))
    asked = _identity(settings, wanted, sampling)
    _make_folder(work.path)
    with held(WorkDir(work.path, ""), "ladder"):
        if not work.is_begun:
            work.keep("ladder", asked)
        elif resume:
            _go_on(work, asked)
        elif overwrite:
            work.empty()
            work.keep("ladder", asked)
        else:
            raise UsageError(
                f"{work.path} holds an interrupted ladder; add --resume to go on with it, or -y to "
                "start again"
            )
        yield work


def _go_on(work: LadderWork, asked: Mapping[str, Any]) -> None:
    """As it was asked for; in other words too, as long as there are only probes: those are kept by
    what they depend on.
    """
    record = work.record("ladder")
    if record is None or work.has_rungs:
        _check_same(record, asked, work.path)
    else:
        work.keep("ladder", {**record, **asked})


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"expected to be able to write in {path.parent}, got: {error.strerror}; choose "
            "another folder with -o"
        ) from error


def _identity(
    settings: EncodeSettings, wanted: LadderSettings, sampling: SamplingSettings
) -> dict[str, Any]:
    """As JSON values. How many processes work on it changes nothing, nor what the title is called:
    its content is known as soon as it was surveyed.
    """
    asked = {name: _plain(value) for name, value in asdict(wanted).items() if name != "jobs"}
    encode = {name: value for name, value in identity(settings).items() if name != "input"}
    encode |= {"lpips_frames": settings.lpips_frames}
    encode |= {"score_seconds": str(settings.score_seconds)}  # JSON has no infinity
    record = {"version": __version__, "encode": encode, "ladder": asked}
    record |= {"sampling": sampling.to_json()}
    parsed: dict[str, Any] = json.loads(json.dumps(record))
    return parsed


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Fraction) else value


def _check_same(found: Mapping[str, Any] | None, asked: Mapping[str, Any], path: Path) -> None:
    if found is None:
        raise InputError(
            f"expected the record of an interrupted ladder in {path}, got none that can be read; "
            "start again with -y"
        )
    check_same(found, asked, path, "ladder")
