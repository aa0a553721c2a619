"""The parameters that a user gives x265: which are let through, and whether x265 knows them (ffmpeg
only warns, and encodes without)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from codecaux.errors import UsageError
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg

__all__ = ["check_parameter", "check_parameters"]

_PARAMETER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PARAMETER_VALUE = re.compile(r"[A-Za-z0-9_.,+/()=-]{1,200}")
# Names x265 would take a file from, or that undo what this module promises.
_REFUSED_PARAMETERS = frozenset(
    (
        *("analysis-load", "analysis-reuse-file", "analysis-save", "csv", "dolby-vision-rpu"),
        *("lambda-file", "log-file", "qpfile", "recon", "scaling-list", "stats", "zonefile"),
        *("crf", "fps", "input", "input-res", "output", "preset"),
    )
)
_COMPLAINT = re.compile(r"(?:Unknown option|Invalid value for|Bad value)[^\n]*")


def check_parameters(ffmpeg: Ffmpeg, parameters: Sequence[tuple[str, str]]) -> None:
    """Encode one small grey picture with ``parameters``; UsageError names what x265 refuses."""
    if not parameters:
        return
    joined = ":".join(f"{name}={value}" for name, value in parameters)
    arguments = ["-v", "warning", "-f", "lavfi", "-i", "color=gray:size=64x64:rate=1"]
    arguments += ["-frames:v", "1", "-c:v", "libx265", "-preset", "ultrafast"]
    arguments += ["-x265-params", f"log-level=none:{joined}", "-f", "null", os.devnull]
    complaints = _COMPLAINT.findall(run_ffmpeg(ffmpeg, arguments))
    if complaints:
        raise UsageError(
            f"expected parameters that x265 knows, got {joined!r}: {'; '.join(complaints)}; "
            "see x265's own documentation for --x265-params"
        )


def check_parameter(name: str, value: str) -> None:
    """UsageError for what can be no parameter, would name a file, or undoes what we promise."""
    if not _PARAMETER_NAME.fullmatch(name) or name in _REFUSED_PARAMETERS:
        raise UsageError(f"expected the name of an x265 parameter without a file, got {name!r}")
    if not _PARAMETER_VALUE.fullmatch(value):
        raise UsageError(
            f"expected letters, digits and ,.+-_/()= as value of x265's {name}, got {value!r}"
        )
