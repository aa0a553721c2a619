"""A child process whose pipes never block it and which never outlives us."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeAlias

from codecaux.errors import ToolMissingError

__all__ = ["TAIL_BYTES", "BytesLike", "Child", "Feeder"]

BytesLike: TypeAlias = bytes | bytearray | memoryview

TAIL_BYTES = 8192
_REAP_TIMEOUT_SECONDS = 10.0


class Child:
    """A running program with its stderr drained by a thread that keeps only the end."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path | None, stdin: bool, stdout: IO[bytes] | int
    ) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise ToolMissingError(
                f"expected to run {command[0]}, got: {error.strerror}"
            ) from error
        self._chunks: deque[bytes] = deque()
        self._drain = threading.Thread(target=self._drain_stderr, name="ffmpeg-stderr", daemon=True)
        self._drain.start()

    @property
    def stdin(self) -> IO[bytes]:
        """Where the program reads, binary; only for a program started with a pipe there."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def tail(self) -> str:
        """The end of its stderr so far, at most ``TAIL_BYTES``."""
        return b"".join(self._chunks)[-TAIL_BYTES:].decode("utf-8", "replace")

    def progress(self) -> Generator[int, None, None]:
        """Frame counts as ``-progress`` reports them, until the program closes its stdout."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"frame="):
                with suppress(ValueError):
                    yield int(line[6:])

    def wait(self) -> int:
        code = self._process.wait()
        self._drain.join(_REAP_TIMEOUT_SECONDS)
        return code

    def kill(self) -> None:
        self._process.kill()

    def release(self) -> None:
        """Reap the child and close our ends of its pipes."""
        self._process.wait(_REAP_TIMEOUT_SECONDS)
        self._drain.join(_REAP_TIMEOUT_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError, OSError):
                    pipe.close()

    def _drain_stderr(self) -> None:
        assert self._process.stderr is not None
        kept = 0
        with suppress(ValueError, OSError):
            while chunk := os.read(self._process.stderr.fileno(), 65536):
                self._chunks.append(chunk[-TAIL_BYTES:])
                kept += len(self._chunks[-1])
                while kept - len(self._chunks[0]) >= TAIL_BYTES:
                    kept -= len(self._chunks.popleft())


class Feeder:
    """Writes an iterable to a child's stdin from a thread; keeps the iterable's error."""

    def __init__(self, child: Child, feed: Iterable[BytesLike]) -> None:
        self.error: BaseException | None = None
        self._child = child
        self._feed = feed
        self._thread = threading.Thread(target=self._run, name="ffmpeg-stdin", daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            for data in self._feed:
                self._child.stdin.write(data)
            self._child.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the program ended first: its exit code says whether that is an error
        except BaseException as error:  # handed to the thread that waits for us
            self.error = error
            self._child.kill()
