"""What one run of the program carries from its subcommand to main()."""

from __future__ import annotations

from dataclasses import dataclass

import click

__all__ = ["Session", "current_session"]


@dataclass
class Session:
    """``json``: events go to stdout as NDJSON. ``interrupt_hint``: what to say at Ctrl-C."""

    json: bool = False
    interrupt_hint: str = ""


def current_session() -> Session:
    """The session of the running command; a fresh one where a test invoked the command bare."""
    session = click.get_current_context().obj
    return session if isinstance(session, Session) else Session()
