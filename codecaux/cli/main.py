"""The `codecaux` command: finds the subcommand, runs it, turns errors into exit codes.

Subcommands are imported when they run, and import what they need inside their bodies, so that
`codecaux --help` loads neither torch nor PyAV nor numpy.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import click

from codecaux import __version__
from codecaux.cli.session import Session
from codecaux.errors import CodecauxError, InputError
from codecaux.folders import check_name

__all__ = ["COMMANDS", "LazyGroup", "cli", "keep_freed_memory", "main"]

# mallopt's parameters in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

# Name -> "module:function", in the order in which the help lists them.
COMMANDS: dict[str, str] = {
    "encode": "codecaux.cli.encode:encode",
    "play": "codecaux.cli.play:play",
    "measure": "codecaux.cli.measure:measure",
    "inspect": "codecaux.cli.inspect:inspect",
    "verify": "codecaux.cli.verify:verify",
    "pretrain": "codecaux.cli.pretrain:pretrain",
    "curve": "codecaux.cli.curve:curve",
    "ladder": "codecaux.cli.ladder:ladder",
    "cache": "codecaux.cli.cache:cache",
    "doctor": "codecaux.cli.doctor:doctor",
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="codecaux")
def cli() -> None:
    """A smaller H.265 stream, and a few kilobytes of weights that enhance it.

    \b
    codecaux encode --crf 21 title.y4m          makes title.mp4 and title.weights
    codecaux play title.mp4 title.weights       shows the enhanced title

    The stream plays anywhere without the weights. Exit codes: 2 usage, 3 input, 4 a tool
    (ffmpeg, a player), 5 weights file, 6 fit, 7 target out of reach, 8 device, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. The only place that catches CodecauxError."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    session = Session(json="--json" in arguments)
    _let_idle_threads_sleep_soon()
    keep_freed_memory()
    try:
        with _sigterm_as_interrupt():
            return _run(arguments, session)
    except BrokenPipeError:
        # Whoever read our stdout has gone while an error was reported; click sees to the rest.
        return _abandon_stdout()


def _run(arguments: Sequence[str], session: Session) -> int:
    try:
        for argument in arguments:
            check_name(argument)
        code = cli.main(arguments, prog_name="codecaux", standalone_mode=False, obj=session)
        return code if isinstance(code, int) else 0
    except CodecauxError as error:
        return _report(session, error.exit_code, type(error).__name__, str(error))
    except click.UsageError as error:
        return _report_usage(session, error)
    except click.ClickException as error:
        return _report(session, error.exit_code, "UsageError", error.format_message())
    except (click.Abort, KeyboardInterrupt):
        hint = f"; {session.interrupt_hint}" if session.interrupt_hint else ""
        return _report(session, 130, "InterruptedByUser", f"interrupted{hint}")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _abandon_stdout()
            message = "the disk is full: standard output was not written whole; free some space"
            return _report(session, InputError.exit_code, "InputError", message)
        return _report_bug(session, error)
    except Exception as error:
        return _report_bug(session, error)


def _report_bug(session: Session, error: Exception) -> int:
    # The traceback is for whoever mends it, the event for whoever waits.
    traceback.print_exc()
    return _report(session, 1, type(error).__name__, f"internal error: {error}")


def _report(session: Session, code: int, kind: str, message: str) -> int:
    click.echo(f"codecaux: error: {message}", err=True)
    if session.json:
        event = {"event": "error", "exit_code": code, "kind": kind, "message": message}
        click.echo(json.dumps(event))
    return code


def _report_usage(session: Session, error: click.UsageError) -> int:
    if error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try '{error.ctx.command_path} --help' for help.", err=True)
    return _report(session, error.exit_code, "UsageError", error.format_message())


def _let_idle_threads_sleep_soon() -> None:
    """Have torch's OpenMP, before it is loaded, spin for less long at its barriers.

    x265, libvmaf and PyAV want the same cores: with as many threads as cores, a spinning thread
    keeps the one that it waits for from running. Not spinning at all costs half the speed of an
    idle machine. Decision 0002 has the measurements.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks instead of handing each back to the kernel.

    A frame's activations are tens of megabytes each: mapped anew they are page-faulted anew, which
    takes a 1080p frame of the light net from 230 ms to 386 ms. The peak stays what it was.
    """
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that children are killed and temporary files removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _abandon_stdout() -> int:
    """Let the interpreter's last flush go nowhere instead of failing; click's code for it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
