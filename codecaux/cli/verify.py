"""`codecaux verify`: a stream and its weights, both whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from codecaux.cli.options import device_option, file_path, json_option, quiet_option


@click.command()
@click.argument("stream", type=file_path())
@click.argument("weights", type=file_path())
@device_option
@quiet_option
@json_option
def verify(stream: Path, weights: Path, device: str, quiet: bool, json_output: bool) -> None:
    """Decode STREAM to its end and check that WEIGHTS belong to it and work.

    Exits with 0 where everything is in order, 3 where the stream is damaged, 5 where the weights
    are damaged or belong to another stream.
    """
    from codecaux.cli.render import follow, open_renderer
    from codecaux.cli.tables import facts_grid, print_grid
    from codecaux.decoder.verify import verify as run_verify

    with open_renderer("verify", json_output=json_output, quiet=quiet) as renderer:
        report = follow(run_verify(stream, weights, device), renderer)
        renderer.result(asdict(report))
    if not json_output:
        rows = [(check.name, check.detail) for check in report.checks]
        print_grid(facts_grid(("checked", "found"), rows), wrap=True)
        click.echo(f"{stream} and {weights} are whole and belong together")
