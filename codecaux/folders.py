"""Folders of the user's that codecaux keeps things in, and names that it takes."""

from __future__ import annotations

import os
from pathlib import Path

from codecaux.errors import InputError

__all__ = ["cache_dir", "check_name"]


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/codecaux, else ~/.cache/codecaux. Not created here."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "codecaux"


def check_name(path: str) -> None:
    """InputError where a path is not UTF-8: no report, playlist or table could say it."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = path.encode("utf-8", "backslashreplace").decode("utf-8")
        raise InputError(
            f"expected a name in UTF-8, got {shown}; rename the file, or the folder that it is in"
        ) from error
