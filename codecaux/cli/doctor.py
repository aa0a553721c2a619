"""`codecaux doctor`: what the machine has and what is missing."""

from __future__ import annotations

import click

from codecaux.cli.options import json_option


@click.command()
@json_option
def doctor(json_output: bool) -> None:
    """Say what this machine has and what is missing.

    Exits with 0 where the essential things are there: an ffmpeg with libx265 and libvmaf, torch,
    PyAV. Takes some seconds.
    """
    from dataclasses import asdict

    from codecaux.cli.render import open_renderer
    from codecaux.cli.tables import facts_grid, print_grid
    from codecaux.doctor import examine, exit_code

    with open_renderer("doctor", json_output=json_output) as renderer:
        checks = list(examine())
        code = exit_code(checks)
        renderer.result({"exit_code": code, "checks": [asdict(check) for check in checks]})
    if not json_output:
        rows = [[check.name, check.status, check.detail] for check in checks]
        print_grid(facts_grid(("what", "state", "found"), rows), wrap=True)
        for check in checks:
            if check.advice and check.status != "ok":
                kind = "needed" if check.exit_code else "optional"
                click.echo(f"{check.name} ({kind}): {check.advice}")
    click.get_current_context().exit(code)
