"""`codecaux play`: stream and weights to a window, a file or a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codecaux.cli.options import (
    STDIO,
    SettingOption,
    device_option,
    file_path,
    given,
    json_option,
    quiet_option,
    yes_option,
)

if TYPE_CHECKING:
    from codecaux.decoder.play import PlayReport, PlaySettings

__all__ = ["play"]


@click.command()
@click.argument("stream", type=file_path())
@click.argument("weights", type=file_path(), required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file (.mkv, .mp4), or - for stdout  [default: a window]",
)
@click.option("--codec", help="Of a file: ffv1, x264, x265  [default: ffv1 in .mkv, x264 in .mp4]")
@click.option("--crf", type=float, help="Of a file in x264 or x265.")
@click.option(
    "--format",
    "stdout_format",
    cls=SettingOption,
    setting="codecaux.decoder.play:PlaySettings.stdout_format",
    type=click.Choice(["y4m", "nut"]),
    help="Of stdout.",
)
@click.option("--player", help="Of a window: mpv, ffplay or a path  [default: the first there is]")
@click.option(
    "--fps-policy",
    cls=SettingOption,
    setting="codecaux.decoder.play:PlaySettings.fps_policy",
    type=click.Choice(["slow", "bypass"]),
    help="What is late: wait for it, or show it in plain bicubic.",
)
@click.option("--rung", help="Of a ladder: 1 for the lowest, or a height  [default: the highest]")
@click.option("--compare", is_flag=True, help="Plain bicubic left, enhanced right.")
@click.option("--force", is_flag=True, help="Use weights that belong to another stream.")
@click.option("--plain", is_flag=True, help="Without any weights, though there are some.")
@device_option
@yes_option
@quiet_option
@json_option
def play(json_output: bool, quiet: bool, **options: Any) -> None:
    """Show STREAM, enhanced by WEIGHTS.

    Without WEIGHTS, a file of the stream's name with .weights is used where there is one; else
    the stream is shown as it is coded.

    STREAM may be a ladder in a local folder (master.m3u8, a rung's media.m3u8, manifest.mpd,
    codecaux.json): the weights are those that it names.
    """
    if json_output and options["output"] == Path(STDIO):
        raise click.UsageError("--json and -o - both want stdout; use one of them")

    from codecaux.cli.render import follow, open_renderer
    from codecaux.decoder.play import play as run_play

    settings = settings_from_options(options)
    with open_renderer("play", json_output=json_output, quiet=quiet) as renderer:
        report = follow(run_play(settings), renderer)
        renderer.result(result_fields(report))
    if not json_output and not quiet:
        # stdout may be the video.
        click.echo(report_text(report), err=True)


def settings_from_options(options: Mapping[str, Any]) -> PlaySettings:
    """The options of the command line as PlaySettings; what was left out keeps its default."""
    from codecaux.decoder.play import PlaySettings

    values = given({name: value for name, value in options.items() if name != "yes"})
    if values.get("output") == Path(STDIO):
        values["output"] = STDIO
    if values.get("player") == "auto":
        del values["player"]
    return PlaySettings(overwrite=options["yes"], **values)


def result_fields(report: PlayReport) -> dict[str, Any]:
    """The NDJSON result: docs/json-output.md, "Result of play"."""
    fields = asdict(report)
    for name in ("coded", "shown"):
        fields[f"{name}_width"], fields[f"{name}_height"] = fields.pop(f"{name}_size")
    return fields


def report_text(report: PlayReport) -> str:
    """What play says at its end."""
    from codecaux.cli.render import format_seconds

    speed = f"{report.realtime_factor:.2f} x real time"
    parts = [f"{report.num_frames} frames in {format_seconds(report.wall_seconds)}, {speed}"]
    parts.append(f"network {format_seconds(report.network_seconds)}")
    if report.late_frames:
        parts.append(f"{report.late_frames} late")
    if report.bypassed_frames:
        parts.append(f"{report.bypassed_frames} shown plain")
    text = f"{', '.join(parts)}; device: {report.device or 'none needed'}"
    return f"{text}; wrote {report.output}" if isinstance(report.output, Path) else text
