"""`codecaux cache`: where probes are kept, what is there, and away with it."""

from __future__ import annotations

from typing import Any

import click

from codecaux.cli.options import json_option

ACTIONS = ("path", "list", "clear")


@click.command()
@click.argument("action", type=click.Choice(ACTIONS))
@json_option
def cache(action: str, json_output: bool) -> None:
    """Say where probes are kept (path), what is there (list), or remove it (clear).

    curve, ladder and encode --target keep every probe and every fit that they make, by content
    and settings, and take it from there the next time. $CODECAUX_CACHE names another folder.
    """
    from codecaux.cli.render import open_renderer
    from codecaux.ladders.cache import Cache, default_root

    with open_renderer("cache", json_output=json_output) as renderer:
        found = Cache(default_root())
        entries = [_entry_fields(e) for e in found.entries()] if action == "list" else []
        size = found.clear() if action == "clear" else found.size()
        fields = {
            "action": action,
            "path": str(found.root),
            "num_entries": size.num_entries,
            "entry_bytes": size.entry_bytes,
            "work_bytes": size.work_bytes,
            "num_in_use": size.num_in_use,
            "entries": entries,
        }
        renderer.result(fields)
    if not json_output:
        _print(action, fields)


def _entry_fields(entry: Any) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "label": entry.label,
        "bytes": entry.size_bytes,
        "made_at": entry.made_at,
    }


def _print(action: str, fields: dict[str, Any]) -> None:
    from codecaux.cli.tables import facts_grid, print_grid

    if action == "path":
        click.echo(fields["path"])
        return
    counted = (
        f"{fields['num_entries']} entries, {_bytes_text(fields['entry_bytes'])}; "
        f"unfinished work {_bytes_text(fields['work_bytes'])}"
    )
    if action == "list":
        rows = [
            (e["kind"], e["label"], _bytes_text(e["bytes"]), _time_text(e["made_at"]))
            for e in fields["entries"]
        ]
        if rows:
            print_grid(facts_grid(("kind", "what", "size", "made"), rows), wrap=True)
        click.echo(f"{fields['path']}: {counted}")
    else:
        click.echo(f"removed from {fields['path']}: {counted}")
        if fields["num_in_use"]:
            click.echo(
                f"kept {fields['num_in_use']} folders of unfinished work that running commands "
                "use; clear again when they have ended"
            )


def _bytes_text(size: float) -> str:
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"


def _time_text(made_at: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(made_at).astimezone().strftime("%Y-%m-%d %H:%M")
