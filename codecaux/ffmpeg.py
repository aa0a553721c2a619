"""The ffmpeg program: finding it, what it can do, running it. Only this module starts it.

Its output is never left unread (a full pipe would stop it for ever), and it never outlives us:
any exception, Ctrl-C and a closed generator included, kills the child before it travels on.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO

import imageio_ffmpeg

from codecaux.child import BytesLike, Child, Feeder
from codecaux.errors import ToolError, ToolFailedError, ToolFeatureError, ToolMissingError

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "PICTURE_INPUT",
    "BytesLike",
    "Ffmpeg",
    "FfmpegFeed",
    "describe_input",
    "file_argument",
    "find_ffmpeg",
    "iterate_ffmpeg",
    "parse_names",
    "run_ffmpeg",
]

ENVIRONMENT_VARIABLE = "CODECAUX_FFMPEG"
# ffmpeg's options for a file whose pictures are filtered. They are not turned, and where their
# colour tags change on the way (titles joined of several) the filters are not made anew: those that
# count frames would start again at 0. Size and layout do not change: encoder/scan.py sees to it.
PICTURE_INPUT: Mapping[str, str | None] = MappingProxyType(
    {"noautorotate": None, "reinit_filter": "0"}
)

_QUERY_TIMEOUT_SECONDS = 30.0
_NO_SPACE = re.compile(r"no space left on device|not enough space|disk quota exceeded", re.I)


@dataclass(frozen=True)
class Ffmpeg:
    """One ffmpeg program and what it was built with (names as ``-encoders``/``-filters`` say)."""

    path: Path
    version: str
    encoders: frozenset[str]
    filters: frozenset[str]


# ---------------------------------------------------------------------------------------- finding


def find_ffmpeg(
    *,
    require_encoders: Sequence[str] = ("libx265",),
    require_filters: Sequence[str] = ("libvmaf",),
) -> Ffmpeg:
    """The program to use: $CODECAUX_FFMPEG, else one on PATH with all that is required, else
    the one inside the imageio-ffmpeg package.

    Raises ToolMissingError where there is none (or the variable names no program), and
    ToolFeatureError where the last candidate lacks a required encoder or filter.
    """
    explicit = os.environ.get(ENVIRONMENT_VARIABLE)
    if explicit:
        found = shutil.which(explicit)
        if found is None:
            raise ToolMissingError(
                f"expected ${ENVIRONMENT_VARIABLE} to name an ffmpeg program, got {explicit!r}, "
                "which is none; correct it or unset it"
            )
        # Some jobs run in a folder of their own, where a relative name means another file.
        ffmpeg = _inspect(str(Path(found).absolute()))
        _check_features(ffmpeg, require_encoders, require_filters)
        return ffmpeg
    return _search(require_encoders, require_filters)


def _search(encoders: Sequence[str], filters: Sequence[str]) -> Ffmpeg:
    """First usable program of PATH and the wheel; the last one's error where none is usable."""
    error: ToolError | None = None
    for candidate in (shutil.which("ffmpeg"), _bundled_program()):
        if candidate is None:
            continue
        try:
            ffmpeg = _inspect(str(Path(candidate).absolute()))
            _check_features(ffmpeg, encoders, filters)
        except ToolError as problem:
            error = problem
        else:
            return ffmpeg
    raise error or ToolMissingError(
        "expected an ffmpeg program on PATH or inside the imageio-ffmpeg package, found none; "
        f"install imageio-ffmpeg, or set ${ENVIRONMENT_VARIABLE} to a program"
    )


def _bundled_program() -> str | None:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (RuntimeError, OSError):
        return None


def _check_features(ffmpeg: Ffmpeg, encoders: Sequence[str], filters: Sequence[str]) -> None:
    lacking = [f"encoder {name}" for name in encoders if name not in ffmpeg.encoders]
    lacking += [f"filter {name}" for name in filters if name not in ffmpeg.filters]
    if lacking:
        raise ToolFeatureError(
            f"expected an ffmpeg with {', '.join(lacking)}, got {ffmpeg.path} (version "
            f"{ffmpeg.version}) without; unset ${ENVIRONMENT_VARIABLE} to use the one of the "
            "imageio-ffmpeg package, or set it to a build that has them"
        )


@functools.cache
def _inspect(path: str) -> Ffmpeg:
    """Ask a program for its version and features; three runs of some milliseconds each, once."""
    version = re.match(r"ffmpeg version (\S+)", _query(path, "-version"))
    if version is None:
        raise ToolMissingError(f"expected {path} to be ffmpeg, got a program that does not say so")
    return Ffmpeg(
        path=Path(path),
        version=version.group(1),
        encoders=parse_names(_query(path, "-encoders")),
        filters=parse_names(_query(path, "-filters")),
    )


def parse_names(listing: str) -> frozenset[str]:
    """Second column of ``-encoders`` or ``-filters``; legend lines (``V..... = Video``) are not."""
    rows = (line.split() for line in listing.splitlines())
    return frozenset(
        row[1]
        for row in rows
        if len(row) >= 3 and row[1] != "=" and re.match(r"[A-Z.]{2,}$", row[0])
    )


def _query(path: str, option: str) -> str:
    command = [path, "-hide_banner", option] if option != "-version" else [path, option]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_QUERY_TIMEOUT_SECONDS,
            check=False,
        )
    except OSError as error:
        raise ToolMissingError(f"expected to run {path}, got: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailedError("the program gave no answer", command=command) from error
    if done.returncode != 0:
        raise _failure(command, done.returncode, done.stderr.decode("utf-8", "replace"))
    return done.stdout.decode("utf-8", "replace")


def describe_input(ffmpeg: Ffmpeg, path: Path) -> str:
    """What the program says about a file's streams, verbosely; for what PyAV does not expose."""
    command = _command(ffmpeg, ["-v", "verbose", "-i", file_argument(path)])
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_QUERY_TIMEOUT_SECONDS,
        check=False,  # it always complains that no output was named
    )
    return done.stderr.decode("utf-8", "replace")


# ---------------------------------------------------------------------------------------- running


def file_argument(path: Path) -> str:
    """A path as ffmpeg must get it: ``a:b.mp4`` and ``-x.mp4`` are files, not protocols or
    options."""
    return "file:" + os.fspath(path)


def run_ffmpeg(
    ffmpeg: Ffmpeg,
    arguments: Sequence[str],
    *,
    feed: Iterable[BytesLike] | None = None,
    cwd: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> str:
    """Run to the end; returns the last of stderr. ``feed`` goes to stdin from a thread.

    ``on_progress`` gets the number of frames done, now and then. stdout is ours, so outputs go to
    files. Raises ToolFailedError (a full disk is said plainly), and whatever ``feed`` raises.
    """
    running = iterate_ffmpeg(ffmpeg, arguments, feed=feed, cwd=cwd)
    while True:
        try:
            frames = next(running)
        except StopIteration as stop:
            return str(stop.value)
        if on_progress is not None:
            try:
                on_progress(frames)
            except BaseException:
                running.close()
                raise


def iterate_ffmpeg(
    ffmpeg: Ffmpeg,
    arguments: Sequence[str],
    *,
    feed: Iterable[BytesLike] | None = None,
    cwd: Path | None = None,
) -> Generator[int, None, str]:
    """``run_ffmpeg`` as a generator: yields the frames done so far, returns the stderr tail.

    Closing it, or an exception thrown into it, kills the program.
    """
    command = _command(ffmpeg, ["-progress", "pipe:1", "-stats_period", "0.5", *arguments])
    child = Child(command, cwd=cwd, stdin=feed is not None, stdout=subprocess.PIPE)
    feeder = Feeder(child, feed) if feed is not None else None
    try:
        yield from child.progress()
        if feeder is not None:
            feeder.join()
        code = child.wait()
        if feeder is not None and feeder.error is not None:
            raise feeder.error
    except BaseException:
        child.kill()
        raise
    finally:
        child.release()
    if code != 0:
        raise _failure(command, code, child.tail)
    return child.tail


class FfmpegFeed:
    """An ffmpeg that is fed raw bytes by us, as a context manager.

        with FfmpegFeed(ffmpeg, ["-f", "rawvideo", ..., "-i", "pipe:0", ..., out]) as feed:
            feed.write(plane)

    Leaving the block normally closes stdin and waits; leaving it by an exception kills. Both
    ``write`` and ``close`` raise ToolFailedError where the program failed. ``stdout`` is for
    programs that write there (a pipe to a player, our own stdout); otherwise it is discarded.
    """

    def __init__(
        self,
        ffmpeg: Ffmpeg,
        arguments: Sequence[str],
        cwd: Path | None = None,
        *,
        stdout: IO[bytes] | int | None = None,
    ) -> None:
        self._command = _command(ffmpeg, arguments)
        self._child = Child(
            self._command,
            cwd=cwd,
            stdin=True,
            stdout=subprocess.DEVNULL if stdout is None else stdout,
        )
        self._closed = False

    def write(self, data: BytesLike) -> None:
        """Write all of ``data``; blocks while the program is busy."""
        try:
            self._child.stdin.write(data)
        except ValueError as error:
            if not self._child.stdin.closed:
                raise
            # Another thread has aborted it between two writes.
            self._fail_after_broken_pipe(error)
        except (BrokenPipeError, OSError) as error:
            self._fail_after_broken_pipe(error)

    def close(self) -> str:
        """End of input: wait for the program, return the last of its stderr."""
        if self._closed:
            return self._child.tail
        self._closed = True
        try:
            with suppress(BrokenPipeError, OSError):
                self._child.stdin.close()
            code = self._child.wait()
        except BaseException:
            self._child.kill()
            raise
        finally:
            self._child.release()
        if code != 0:
            raise _failure(self._command, code, self._child.tail)
        return self._child.tail

    def kill(self) -> None:
        """Stop the program at once; never raises on its behalf."""
        self._closed = True
        self._child.kill()
        self._child.release()

    def __enter__(self) -> FfmpegFeed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def _fail_after_broken_pipe(self, error: OSError | ValueError) -> None:
        # The program stopped reading: what it said and its exit code are the real story.
        self.close()
        raise ToolFailedError(
            "ffmpeg stopped before it had read all of its input",
            command=self._command,
            stderr_tail=self._child.tail,
        ) from error


def _command(ffmpeg: Ffmpeg, arguments: Sequence[str]) -> list[str]:
    return [str(ffmpeg.path), "-hide_banner", "-nostdin", "-nostats", *arguments]


def _failure(command: Sequence[str], code: int, tail: str) -> ToolFailedError:
    if _NO_SPACE.search(tail):
        message = "the disk is full: ffmpeg could not write its output; free some space and retry"
    elif code < 0:
        message = f"ffmpeg was killed by signal {-code}"
    else:
        message = f"ffmpeg failed with exit code {code}"
    return ToolFailedError(message, command=command, stderr_tail=tail)
