"""codecaux: per-video over-fitting as a companion to an ordinary codec."""

from __future__ import annotations

__version__ = "0.1.0"
