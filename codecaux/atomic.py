"""Outputs appear whole or not at all: write beside the final name, fsync, rename."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from codecaux.errors import InputError, UsageError

__all__ = ["atomic_path", "write_atomic"]


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
    temporary = final.with_name(f".{final.stem[:100]}.{secrets.token_hex(4)}.part{final.suffix}")
    try:
        yield temporary
        _flush_file(temporary)
        temporary.replace(final)
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
