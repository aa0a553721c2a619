"""Folders of the user's that codecaux keeps things in."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/codecaux, else ~/.cache/codecaux. Not created here."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "codecaux"
