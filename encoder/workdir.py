"""The folder of an unfinished encode: what is done, and whether it may be gone on with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from codecaux import __version__
from codecaux.atomic import write_atomic
from codecaux.encoder.checkpoint import Checkpoint
from codecaux.encoder.settings import EncodeSettings, identity
from codecaux.errors import InputError, UsageError

__all__ = [
    "LOCK_NAME",
    "WorkDir",
    "check_folder",
    "check_same",
    "held",
    "open_folder",
    "open_work_dir",
]

# In the folder itself: it goes when the folder goes.
LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class WorkDir:
    """Files of one unfinished encode. A part that exists is whole: each is written atomically."""

    path: Path
    suffix: str

    @property
    def stream(self) -> Path:
        """The coded stream."""
        return self.path / f"stream{self.suffix}"

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.path / "title.weights"

    @property
    def price_folder(self) -> Path:
        """For the excerpts that :mod:`codecaux.encoder.price` codes and removes."""
        return self.path / "price"

    @property
    def tuning_folder(self) -> Path:
        """For the excerpts that :mod:`codecaux.encoder.tuning` codes and removes."""
        return self.path / "tuning"

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the fit goes on from."""
        return Checkpoint(self.path / "fit.safetensors")

    @property
    def _identity(self) -> Path:
        return self.path / "identity.json"

    @property
    def is_bound(self) -> bool:
        """Is it that of a single encode?"""
        return self._identity.exists()

    def bind(self, fingerprint: str) -> None:
        """Tie the folder to the source's content; InputError where it was another source's."""
        record = _read(self._identity)
        known = record.setdefault("source", fingerprint)
        if known != fingerprint:
            raise InputError(
                f"the source changed since the encode in {self.path} was interrupted; "
                "start again without --resume (and with -y)"
            )
        write_atomic(self._identity, _to_bytes(record))

    def bind_lpips(self, sha256: str | None) -> None:
        """Tie the folder to the LPIPS weights that the fit is begun with, None: to doing without.

        UsageError where it was begun with others: half of a fit each way is a fit for nothing.
        """
        record = _read(self._identity)
        known = record.setdefault("lpips", sha256)
        if known != sha256:
            raise UsageError(_other_lpips(self.path, str(known) if known else None, sha256))
        write_atomic(self._identity, _to_bytes(record))

    @property
    def tuning(self) -> str | None:
        """What was chosen for the stream, once it was."""
        known = _read(self._identity).get("tuning")
        return known if isinstance(known, str) else None

    def keep_tuning(self, name: str) -> None:
        """Go on with this tuning, whenever the encode is resumed."""
        record = _read(self._identity) | {"tuning": name}
        write_atomic(self._identity, _to_bytes(record))

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _other_lpips(path: Path, known: str | None, now: str | None) -> str:
    begun = f"the interrupted encode in {path} was begun"
    if now is None:
        return (
            f"{begun} with LPIPS, and now there is none; give --lpips-weights, or start again with "
            "-y"
        )
    if known is None:
        return (
            f"{begun} without LPIPS, and now there is one; resume without --lpips-weights, or "
            "start again with -y"
        )
    return (
        f"{begun} with LPIPS weights of SHA-256 {known}, now they have {now}; give the same ones "
        "by --lpips-weights, or start again with -y"
    )


def open_work_dir(settings: EncodeSettings, content: str | None = None) -> WorkDir:
    """The encode's folder: new, or an interrupted one's where ``resume``.

    ``content``: the input's SHA-256, where it is known; its name may then be another one.

    Raises what :func:`open_folder` raises, and UsageError where the encode to resume was started
    with other settings.
    """
    work = WorkDir(settings.work_dir, settings.output.suffix)
    asked = identity(settings) if content is None else identity(settings) | {"input": content}
    wanted = {"version": __version__, "settings": asked}
    # Compared as JSON: what was written is what must be read again.
    wanted = json.loads(json.dumps(wanted))
    if open_folder(settings):
        check_same(_read(work._identity), wanted, work.path)
    else:
        write_atomic(work._identity, _to_bytes(wanted))
    return work


def check_folder(settings: EncodeSettings) -> bool:
    """Whether there is a folder of an interrupted encode to go on with.

    UsageError where there is one that is neither resumed nor given up (-y), and where another
    process is at it.
    """
    path = settings.work_dir
    if not path.exists():
        return False
    with held(WorkDir(path, settings.output.suffix)):
        pass
    if not (settings.resume or settings.overwrite):
        raise UsageError(
            f"{path} holds an interrupted encode; add --resume to go on with it, or -y to start "
            "again"
        )
    return settings.resume


def open_folder(settings: EncodeSettings) -> bool:
    """:func:`check_folder`; where there is none to go on with, there is an empty one after it.

    UsageError and InputError where none can be made.
    """
    if check_folder(settings):
        return True
    path = settings.work_dir
    shutil.rmtree(path, ignore_errors=True)
    try:
        path.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise UsageError(f"expected the folder {path.parent} to exist; create it first") from error
    except OSError as error:
        raise InputError(
            f"expected to be able to write in {path.parent}, got: {error.strerror}; "
            "choose another folder with -o"
        ) from error
    return False


@contextmanager
def held(work: WorkDir, what: str = "encode") -> Iterator[None]:
    """Be the only process at work in the folder; UsageError where there is one already, another
    ``what``, or where it has just ended and taken the folder with it.

    Where the system has no such locks (Windows), nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock = work.path / LOCK_NAME
    with _opened(lock, what) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"expected to be alone in {work.path}, got another {what} at work there; wait for "
                "it, or choose another output with -o"
            ) from error
        if not _is_still(file, lock):
            raise _just_ended(work.path, what)
        yield


def _opened(lock: Path, what: str) -> IO[bytes]:
    try:
        return lock.open("ab")
    except FileNotFoundError as error:
        raise _just_ended(lock.parent, what) from error
    except OSError as error:
        raise InputError(
            f"expected to be able to write in {lock.parent}, got: {error.strerror}; choose another "
            "output with -o"
        ) from error


def _is_still(file: IO[bytes], lock: Path) -> bool:
    """A lock on a file that somebody removed holds nobody off."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False


def _just_ended(path: Path, what: str) -> UsageError:
    return UsageError(
        f"expected to be alone in {path}, got another {what} there that was just ending; give the "
        "same command again"
    )


def check_same(
    found: Mapping[str, object], wanted: Mapping[str, object], path: Path, what: str = "encode"
) -> None:
    """UsageError, naming the first setting that the interrupted ``what`` had otherwise."""
    for key, value in _flat(wanted).items():
        got = _flat(found).get(key)
        if got != value:
            raise UsageError(
                f"the interrupted {what} in {path} was started with {key} = {got}, now it is "
                f"{value}; resume with the same settings, or start again with -y"
            )


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def _read(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"expected the record of an interrupted encode at {path}, got none that can be read; "
            "start again with -y"
        ) from error
    return dict(record)


def _to_bytes(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True).encode()
