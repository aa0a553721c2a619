"""Pictures and sound in a window: mpv or ffplay, fed NUT on a pipe."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from codecaux.decoder.muxing import NutFeed, colour_filter, pipe_arguments
from codecaux.decoder.pipeline import OutputFormat, SinkStopped
from codecaux.errors import ToolFailedError, ToolMissingError
from codecaux.ffmpeg import find_ffmpeg
from codecaux.video import Frame

__all__ = ["PLAYERS", "Player", "WindowSink", "find_player", "player_arguments"]

# In order of preference: mpv keeps sound and picture together better when pictures come late.
PLAYERS = ("mpv", "ffplay")
# What they exit with when the user closes the window or presses Ctrl-C: not failures.
_CLEAN_EXITS = {"mpv": (0, 4), "ffplay": (0, 123)}
_EXIT_TIMEOUT_SECONDS = 5.0
_TAIL_BYTES = 4096
_MPV_MATRIX = {"bt601": "bt.601", "bt709": "bt.709", "bt2020": "bt.2020-ncl"}
_MPV_TRANSFER = {16: "pq", 18: "hlg"}


@dataclass(frozen=True, slots=True)
class Player:
    """A program that shows NUT. ``kind`` is one of PLAYERS: the command line it understands."""

    kind: str
    path: Path


def find_player(name: str | None = None) -> Player:
    """The player called ``name`` (or at that path), else the first of PLAYERS on PATH.

    ToolMissingError says how to do without.
    """
    for candidate in (name,) if name else PLAYERS:
        found = shutil.which(candidate)
        if found is not None:
            kind = "ffplay" if "ffplay" in Path(candidate).name else "mpv"
            return Player(kind, Path(found))
    wanted = name or " or ".join(PLAYERS)
    raise ToolMissingError(
        f"expected a player ({wanted}) to show a window, found none; install mpv, or write a file "
        "with -o out.mkv"
    )


def player_arguments(player: Player, output: OutputFormat, title: str) -> list[str]:
    """Arguments that make ``player`` show NUT from its stdin (which carries no colour tags)."""
    if player.kind == "ffplay":
        tags = colour_filter(output.format.colour, output.sample_aspect_ratio)
        quiet = ["-hide_banner", "-loglevel", "error", "-autoexit"]
        filters = ",".join([tags, *_ffplay_rotation(output)])
        return [*quiet, "-window_title", title, "-vf", filters, "-f", "nut", "-i", "pipe:0"]
    return [
        "--no-terminal",
        "--demuxer=lavf",
        "--demuxer-lavf-format=nut",
        "--cache=yes",
        f"--title={title}",
        f"--vf=format={_mpv_colour(output)}",
        *_mpv_rotation(output),
        "-",
    ]


def _mpv_rotation(output: OutputFormat) -> list[str]:
    # mpv counts clockwise, display matrices counter-clockwise.
    turn = -output.rotation_degrees % 360
    return [f"--video-rotate={turn}"] if turn else []


def _ffplay_rotation(output: OutputFormat) -> list[str]:
    turns = {90: ["transpose=cclock"], 180: ["hflip", "vflip"], 270: ["transpose=clock"]}
    return turns.get(output.rotation_degrees % 360, [])


def _mpv_colour(output: OutputFormat) -> str:
    colour = output.format.colour
    levels = "full" if colour.full_range else "limited"
    words = [f"colormatrix={_MPV_MATRIX[colour.matrix]}", f"colorlevels={levels}"]
    if colour.transfer in _MPV_TRANSFER:
        words += ["primaries=bt.2020", f"gamma={_MPV_TRANSFER[colour.transfer]}"]
    return ":".join(words)


class WindowSink:
    """Shows pictures as they come; ends when the player does. Closing the window is a clean stop.

    us ── NUT ──> ffmpeg (adds the stream's audio) ── NUT ──> player
    """

    def __init__(self, player: Player, stream: Path, *, title: str | None = None) -> None:
        self._player = player
        self._stream = stream
        self._title = title or stream.name
        self._feed: NutFeed | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes] | None = None

    def open(self, output: OutputFormat) -> None:
        ffmpeg = find_ffmpeg(require_encoders=(), require_filters=())
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the player
        self._process = self._start_player(output)
        assert self._process.stdin is not None
        self._feed = NutFeed(
            ffmpeg,
            output,
            lambda shift: pipe_arguments(output, self._stream, shift),
            stdout=self._process.stdin,
        )

    def write(self, frame: Frame) -> None:
        assert self._feed is not None
        try:
            self._feed.write(frame)
        except ToolFailedError as error:
            raise self._explain(error) from error
        self._let_go()

    def close(self) -> None:
        assert self._feed is not None
        try:
            self._feed.close()
        except ToolFailedError as error:
            raise self._explain(error) from error
        assert self._process is not None
        self._process.wait()
        self._check_exit()
        self._drop_messages()

    def abort(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_TIMEOUT_SECONDS)
            self._let_go()
        if self._feed is not None:
            self._feed.kill()
        self._drop_messages()

    def _start_player(self, output: OutputFormat) -> subprocess.Popen[bytes]:
        arguments = player_arguments(self._player, output, self._title)
        command = [str(self._player.path), *arguments]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
            )
        except OSError as error:
            raise ToolMissingError(f"expected to run {command[0]}, got: {error}") from error

    def _let_go(self) -> None:
        """Close our copy of the player's stdin: ffmpeg's end alone must decide when it ends."""
        assert self._process is not None
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(OSError):
                self._process.stdin.close()

    def _explain(self, error: ToolFailedError) -> Exception:
        """ffmpeg failed: because the player went away, or by itself?"""
        assert self._process is not None
        try:
            self._process.wait(_EXIT_TIMEOUT_SECONDS)
            self._check_exit()
        except subprocess.TimeoutExpired:
            return error
        except ToolFailedError as own:
            return own
        return SinkStopped() if "Broken pipe" in error.stderr_tail else error

    def _check_exit(self) -> None:
        assert self._process is not None
        code = self._process.returncode
        if code not in _CLEAN_EXITS[self._player.kind]:
            raise ToolFailedError(
                f"the player {self._player.path} ended with exit code {code}; try --player, or "
                "write a file with -o out.mkv",
                command=[str(self._player.path)],
                stderr_tail=self._last_words(),
            )

    def _last_words(self) -> str:
        if self._messages is None:
            return ""
        try:
            end = self._messages.seek(0, 2)
            self._messages.seek(max(end - _TAIL_BYTES, 0))
            return self._messages.read().decode("utf-8", "replace")
        except ValueError:  # abort() has closed it, at any moment, from another thread
            return ""

    def _drop_messages(self) -> None:
        if self._messages is not None:
            self._messages.close()
