"""`codecaux inspect`: what a weights file says about itself."""

from __future__ import annotations

from pathlib import Path

import click

from codecaux.cli.options import file_path, json_option


@click.command()
@click.argument("weights", type=file_path())
@json_option
def inspect(weights: Path, json_output: bool) -> None:
    """Print the metadata of WEIGHTS as a table or as JSON."""
    from codecaux.cli.render import open_renderer
    from codecaux.cli.tables import facts_grid, print_grid
    from codecaux.describe import describe, describe_rows
    from codecaux.weightsfile import read_weights

    with open_renderer("inspect", json_output=json_output) as renderer:
        file = read_weights(weights)
        file_bytes = weights.stat().st_size
        renderer.result({"weights": str(weights), **describe(file, file_bytes)})
    if not json_output:
        print_grid(facts_grid(("field", "value"), describe_rows(file, file_bytes)), wrap=True)
