"""Who uses a folder of unfinished work: locks beside it, which end with the process that has them.

They lie beside the folder, not in it, since it may be removed while it is held. They may be removed
too, by whoever holds them: a lock that was waited for and is gone by then is taken anew. Where the
system has no such locks (Windows), nothing is held and everybody seems alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

__all__ = ["LOCK_SUFFIXES", "lock_files", "locked", "shared", "unused"]

_ALONE, _USERS = LOCK_SUFFIXES = (".lock", ".users")


def lock_files(folder: Path) -> tuple[Path, Path]:
    """That of who holds the folder alone, and that of all who use it."""
    return folder.with_name(folder.name + _ALONE), folder.with_name(folder.name + _USERS)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` alone among processes that ask for it so; waits for the others. It is there
    at the beginning of the block, whatever became of it meanwhile.
    """
    if not HAS_LOCKS:
        yield
        return
    with _held(lock_files(folder)[0], fcntl.LOCK_EX):
        folder.mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def shared(folder: Path) -> Iterator[Callable[[], bool]]:
    """Use ``folder`` beside other processes. What is yielded says whether it is used by nobody
    else; from then on, to the end of the block, whoever wants to use it waits.
    """
    if not HAS_LOCKS:
        yield lambda: True
        return
    path = lock_files(folder)[1]
    with _held(path, fcntl.LOCK_SH) as file:

        def is_alone() -> bool:
            # Not at one stroke: who got in between may have removed the file.
            return file is not None and _take(file, fcntl.LOCK_EX | fcntl.LOCK_NB, path)

        yield is_alone


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Hold ``folder`` against everybody, where nobody holds or uses it; False where somebody does,
    without waiting.
    """
    if not HAS_LOCKS:
        yield True
        return
    now = fcntl.LOCK_EX | fcntl.LOCK_NB
    alone, users = lock_files(folder)
    with _held(alone, now) as file:
        if file is None:
            yield False
            return
        with _held(users, now) as other:
            yield other is not None


@contextmanager
def _held(path: Path, operation: int) -> Iterator[IO[bytes] | None]:
    """The file at ``path``, locked; None where it is not to be had without waiting."""
    while True:
        with _opened(path) as file:
            if _take(file, operation, path):
                yield file
                return
            is_there = _is_at(file, path)
        if is_there:
            yield None
            return


def _opened(path: Path) -> IO[bytes]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # somebody removed the empty folder just now
            return path.open("wb")


def _take(file: IO[bytes], operation: int, path: Path) -> bool:
    """Lock a file; False where another process has it, and where it is no longer the one at
    ``path``: who removed it holds nobody off by it.
    """
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    return _is_at(file, path)


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
