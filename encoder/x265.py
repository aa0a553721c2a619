"""Whether x265 knows the parameters it is given: ffmpeg only warns, and encodes without them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from codecaux.errors import UsageError
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg

__all__ = ["check_parameters"]

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
