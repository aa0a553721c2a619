"""Every error that codecaux raises on purpose, with the exit code of each family.

    CodecauxError
    ├── UsageError                 2   the command line or an argument makes no sense
    ├── InputError                 3   a video (or a score's reference) cannot be used
    │   └── LpipsUnavailableError      no LPIPS weights to be had
    ├── ToolError                  4   the ffmpeg program or a player
    │   ├── ToolMissingError           not found
    │   ├── ToolFeatureError           found, but lacks an encoder or a filter
    │   └── ToolFailedError            ran and failed: command line, end of stderr
    ├── WeightsError               5   a weights file
    │   ├── WeightsFormatError         magic, version, truncated, checksum, tensor mismatch
    │   ├── WeightsTooLargeError       beyond a cap
    │   ├── WeightsStreamMismatchError belongs to another stream
    │   └── WeightsBaseError           needs a base this installation does not have
    ├── FitError                   6   the fit diverged or ran out of memory
    ├── TargetError                7   the target cannot be reached (carries the best point)
    ├── DeviceError                8   the device asked for is not there
    └── InterruptedByUser        130   stopped by the user; resumable

A message says what was expected, what was got, and what to do. Only the CLI's main() catches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "CodecauxError",
    "DeviceError",
    "FitError",
    "InputError",
    "InterruptedByUser",
    "LpipsUnavailableError",
    "TargetError",
    "ToolError",
    "ToolFailedError",
    "ToolFeatureError",
    "ToolMissingError",
    "UsageError",
    "WeightsBaseError",
    "WeightsError",
    "WeightsFormatError",
    "WeightsStreamMismatchError",
    "WeightsTooLargeError",
]


class CodecauxError(Exception):
    """Root of the tree. ``exit_code`` is what the program exits with."""

    exit_code: ClassVar[int] = 1


class UsageError(CodecauxError):
    """The command line or an argument makes no sense."""

    exit_code = 2


class InputError(CodecauxError):
    """A video cannot be used: not a video, no frames, truncated, an unsupported format."""

    exit_code = 3


class LpipsUnavailableError(InputError):
    """The weights of LPIPS are neither given nor cached, and cannot be downloaded."""


class ToolError(CodecauxError):
    """The ffmpeg program, or a player, is the problem."""

    exit_code = 4


class ToolMissingError(ToolError):
    """A program was not found."""


class ToolFeatureError(ToolError):
    """A program was found but lacks an encoder, a filter or a model."""


class ToolFailedError(ToolError):
    """A program ran and failed. Carries its command line and the last of its stderr."""

    def __init__(self, message: str, *, command: Sequence[str] = (), stderr_tail: str = "") -> None:
        self.command = tuple(command)
        self.stderr_tail = stderr_tail
        parts = [message]
        if command:
            parts.append("command: " + " ".join(command))
        if stderr_tail:
            parts.append("its last words:\n" + stderr_tail.rstrip())
        super().__init__("\n".join(parts))


class WeightsError(CodecauxError):
    """A weights file cannot be used."""

    exit_code = 5


class WeightsFormatError(WeightsError):
    """Wrong magic or version, truncated, checksum, tensors that do not match the architecture."""


class WeightsTooLargeError(WeightsError):
    """The file, or what it declares, is beyond a cap."""


class WeightsStreamMismatchError(WeightsError):
    """The weights belong to another stream."""


class WeightsBaseError(WeightsError):
    """The weights are a difference from a base that this installation does not have."""


class FitError(CodecauxError):
    """The fit diverged or ran out of memory."""

    exit_code = 6


class TargetError(CodecauxError):
    """The target cannot be reached; the message carries the best that can be had.

    ``best``: that operating point, for whoever catches this; None where there is none.
    """

    exit_code = 7

    def __init__(self, message: str, *, best: object | None = None) -> None:
        self.best = best
        super().__init__(message)


class DeviceError(CodecauxError):
    """The device asked for is not there, or not usable."""

    exit_code = 8


class InterruptedByUser(CodecauxError):
    """Ctrl-C or SIGTERM. What was done so far is kept and can be resumed."""

    exit_code = 130
