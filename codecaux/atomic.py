"""Outputs appear whole or not at all: write beside the final name, fsync, rename."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from codecaux.errors import InputError, UsageError

__all__ = ["atomic_folder", "atomic_path", "write_atomic"]


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``final`` (same suffix, so that muxers are chosen alike).

    When the block ends normally the file is flushed to disk and renamed over ``final``; on any
    exception it is removed and ``final`` is as it was. Raises UsageError where the folder is
    missing, InputError where the disk is full or the folder is not writable.
    """
    if not final.parent.is_dir():
        raise UsageError(
            f"expected the folder {final.parent} to exist for {final.name}; create it first"
        )
    if final.is_dir():
        raise UsageError(f"expected a file for the output, got the folder {final}; name another")
    # Names have at most 255 bytes, of which a character may take four.
    stem = os.fsencode(final.stem)[:100].decode(errors="ignore")
    temporary = final.with_name(f".{stem}.{secrets.token_hex(4)}.part{final.suffix}")
    try:
        yield temporary
        try:
            _flush_file(temporary)
            temporary.replace(final)
        except OSError as error:
            raise _write_error(final, error) from error
        _flush_folder(final.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_atomic(final: Path, data: bytes) -> None:
    """Write ``data`` to ``final``, whole or not at all. Raises as ``atomic_path`` does."""
    with atomic_path(final) as temporary:
        try:
            temporary.write_bytes(data)
        except OSError as error:
            raise _write_error(final, error) from error


def _write_error(final: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"the disk is full: {final} was not written; free some space and retry")
    return InputError(f"expected to write {final}, got: {error.strerror}")


def _flush_file(path: Path) -> None:
    # Opened for writing: Windows refuses to flush a read-only descriptor.
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_all() -> None:
    # One call for thousands of files; where there is none, the system writes when it likes.
    if hasattr(os, "sync"):
        os.sync()


def _flush_folder(folder: Path) -> None:
    # The rename itself must survive a power cut; not every system can open a folder.
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def atomic_folder(final: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder beside ``final``, which takes its name when the block ends normally.

    On any exception it is removed and ``final`` is as it was. An empty ``final`` is replaced; one
    with something in it only where ``overwrite`` says so. Of a link, what it leads to is replaced.
    Raises UsageError where it may not be, or the folder around it is missing, and InputError for an
    OSError of the block (a full disk).
    """
    _check_replaceable(final, overwrite=overwrite)
    # A link may lead to another file system, where no rename of its own name would reach.
    final = final.resolve()
    parent = final.parent
    name = f".{final.name[:100]}.{secrets.token_hex(4)}"
    staging, replaced = parent / f"{name}.part", parent / f"{name}.old"
    try:
        staging.mkdir()
    except OSError as error:
        raise _write_error(final, error) from error
    try:
        yield staging
        _flush_all()
        if final.is_dir():
            # A folder cannot be renamed over one that holds something.
            final.rename(replaced)
        staging.rename(final)
        _flush_folder(parent)
    except BaseException as error:
        if replaced.exists() and not final.exists():
            replaced.rename(final)
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise _write_error(final, error) from error
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _check_replaceable(final: Path, *, overwrite: bool) -> None:
    if not final.resolve().parent.is_dir():
        raise UsageError(f"expected the folder {final.parent} to exist; create it first")
    if final.exists() and not final.is_dir():
        raise UsageError(f"expected a folder for the output, got the file {final}")
    if final.is_dir() and not overwrite and any(final.iterdir()):
        raise UsageError(f"{final} is not empty; pass -y to replace it, or choose another folder")
