"""`codecaux ladder`: a title as HLS and DASH, its rungs chosen by probes, with a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from codecaux.cli.curve import open_cache, sampling_settings
from codecaux.cli.encode import making_options, probing_options, settings_from_options
from codecaux.cli.options import (
    SettingOption,
    device_option,
    file_path,
    given,
    json_option,
    lpips_option,
    quiet_option,
    yes_option,
)
from codecaux.cli.session import current_session

if TYPE_CHECKING:
    from codecaux.cli.tables import Grid
    from codecaux.ladders.ladder import Ladder
    from codecaux.ladders.ladder_settings import LadderSettings

__all__ = ["ladder"]


Function = TypeVar("Function", bound=Callable[..., Any])


def _setting(*names: str, field: str, **kwargs: Any) -> Callable[[Function], Function]:
    """An option whose default is a field of LadderSettings."""
    setting = f"codecaux.ladders.ladder_settings:LadderSettings.{field}"
    return click.option(*names, cls=SettingOption, setting=setting, **kwargs)


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path, allow_dash=True))
@click.option("-o", "--output", metavar="DIR", type=file_path(), required=True, help="The ladder.")
@click.option("--rungs", "count", type=int, metavar="N", help="N rungs, spread over the quality.")
@click.option("--rates", metavar="LIST", help="A rung within each, weights counted: 800k,1.5M,3M.")
@click.option(
    "--target-step", "step", type=float, help="Rungs so much VMAF apart  [default: 6, one step]"
)
@click.option("--crf", metavar="A:B:STEP|LIST", help="CRFs to probe  [default: 18:42:4]")
@click.option("--scales", metavar="LIST", help="Scales to probe  [default: 2,1.5,1]")
@click.option("--heights", metavar="LIST", help="Coded heights instead of --scales: 1080,720,540.")
@click.option("--max-height", type=int, help="No rung is coded higher.")
@_setting("--least-gain", type=float, field="least_gain", help="VMAF a doubling has to buy.")
@click.option("--top", type=float, help="VMAF of the top rung  [default: by --least-gain]")
@_setting("--segment", metavar="SECONDS", field="segment_seconds", help="Of each segment.")
@_setting("--peak", type=float, field="peak", help="Of a rung's rate, in multiples of its mean.")
@click.option("--share/--no-share", default=None, help="Weights for several rungs  [where it pays]")
@click.option("--h264", "fallback", is_flag=True, help="And a rung for players without H.265.")
@click.option("--hls", is_flag=True, help="Write HLS  [default: HLS and DASH]")
@click.option("--dash", is_flag=True, help="Write DASH  [default: HLS and DASH]")
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes at a time.")
@click.option("--resume", is_flag=True, help="Go on where the same command was interrupted.")
@probing_options
@making_options
@lpips_option
@device_option
@yes_option
@quiet_option
@json_option
def ladder(json_output: bool, quiet: bool, **options: Any) -> None:
    """Make a ladder of INPUT in DIR that any HLS or DASH player plays, ours with the weights.

    Probes heights and CRFs, takes rungs along the hull of rate and enhanced quality, encodes each
    with its own weights (or a neighbour's, where that is cheaper), and writes segments, playlists,
    an index and report.html. DIR appears whole or not at all. Probes are cached (codecaux cache).
    """
    wanted = _ladder_settings(options)
    own = {"crf": None, "scale": None, "output": Path("rung.mp4"), "weights": None}
    settings = settings_from_options({**options, **own})
    sampling = sampling_settings(options)
    current_session().interrupt_hint = "the same command with --resume goes on from here"

    from codecaux.cli.render import follow, open_renderer
    from codecaux.ladders.ladder import make_ladder
    from codecaux.ladders.ladder_fields import ladder_fields

    with (
        open_renderer("ladder", json_output=json_output, quiet=quiet) as renderer,
        nullcontext(None) if options["no_cache"] else open_cache(no_cache=False) as cache,
    ):
        events = make_ladder(
            settings.input, settings, wanted, options["output"], sampling=sampling, cache=cache
        )
        made = follow(events, renderer)
        fields = ladder_fields(made)
        renderer.result(fields | {"outputs": _outputs(made)})
    if not json_output:
        _print(fields, _outputs(made))


def _ladder_settings(options: Mapping[str, Any]) -> LadderSettings:
    from codecaux.ladders.ladder_settings import LadderSettings, parse_heights, parse_rates
    from codecaux.ladders.settings import parse_crfs, parse_scales

    names = ("count", "step", "max_height", "least_gain", "top", "peak", "share", "pool", "jobs")
    wanted: dict[str, Any] = given({name: options[name] for name in names})
    wanted |= {name: options[name] for name in ("fallback", "hls", "dash")}
    if options["heights"] is not None and options["scales"] is not None:
        raise click.UsageError("--heights and --scales say the same in two ways; give one of them")
    parsers: tuple[tuple[str, str, Any], ...] = (
        ("rates", "rates_kbps", parse_rates),
        ("crf", "crfs", parse_crfs),
        ("scales", "scales", parse_scales),
        ("heights", "heights", parse_heights),
    )
    for option, name, parse in parsers:
        if options[option] is not None:
            wanted[name] = parse(options[option])
    if options["segment"] is not None:
        wanted["segment_seconds"] = _segment(options["segment"])
    return LadderSettings(**wanted)


def _segment(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(f"expected --segment in seconds, like 4, got {text!r}") from error


def _outputs(made: Ladder) -> list[str]:
    """What one opens: the playlists that were written, the report."""
    files = made.files
    found = [path for path in (files.master, files.manifest) if path is not None]
    return [str(path) for path in (*found, files.index_path, files.folder / "report.html")]


# ------------------------------------------------------------------------------------------ tables


def _print(fields: Mapping[str, Any], outputs: Sequence[str]) -> None:
    from codecaux.cli.tables import print_grid

    print_grid(rungs_grid(fields))
    for line in _comparisons(fields):
        click.echo(line)
    for failure in fields["failures"]:
        click.echo(f"{failure['label']} failed: {failure['message']}")
    for path in outputs:
        click.echo(f"wrote {path}")


def rungs_grid(fields: Mapping[str, Any]) -> Grid:
    """A row for each rung, rising in rate."""
    from codecaux.cli.tables import Column, Grid

    metric = fields["metric"]
    columns = (
        Column("stream kb/s", "stream_kbps", ",.1f", "rate"),
        Column("weights bytes", "weights_bytes", ",.0f", "rate"),
        Column("total kb/s", "total_kbps", ",.1f", "rate"),
        Column("peak kb/s", "peak", ",.0f", "rate"),
        Column(f"plain {_SHORT[metric]}", "plain", ".2f", "scores"),
        Column(_SHORT[metric], "shown", ".2f", "scores"),
        Column("LPIPS", "lpips", ".4f", "scores"),
        Column("probe error", "error", "+.2f", "scores"),
        Column("x265 kb/s", "x265_kbps", ",.1f", "x265"),
        Column("saved %", "saved_percent", "+.1f", "x265"),
    )
    rows = []
    for rung in fields["rungs"]:
        values = dict(rung) | {"peak": rung["peak_bits_per_second"] / 1000}
        values["plain"] = rung["scores"]["bicubic"][metric]
        values["shown"] = rung["scores"]["enhanced"][metric]
        values["lpips"] = rung["scores"]["enhanced"]["lpips"]
        values["error"] = rung["probe_error"].get(metric)
        shared = "" if rung["weights_of"] == rung["name"] else f" (weights of {rung['weights_of']})"
        rows.append((rung["name"] + shared, tuple(c.text(values[c.key]) for c in columns)))
    return Grid(columns, tuple(rows), "rung")


_SHORT = {"vmaf_v1": "VMAF v1", "vmaf_v061": "v0.6.1", "psnr_y_db": "PSNR-Y"}


def _comparisons(fields: Mapping[str, Any]) -> list[str]:
    storage, top = fields["storage"], fields["apple"]["equal_top"]
    lines = [
        f"all rungs: {storage['total_bytes'] / 1e6:,.2f} MB, "
        f"{storage['weights_bytes']:,} bytes of it weights"
    ]
    if storage["num_compared"]:
        lines.append(
            f"x265's hull at equal quality ({storage['num_compared']} rungs): "
            f"{storage['x265_bytes'] / 1e6:,.2f} MB, ours {storage['saved_percent']:.1f} % less"
        )
    if top is not None:
        lines.append(
            f"Apple's fixed ladder up to the same top quality ({top['quality']:.2f}): "
            f"{top['apple_bytes'] / 1e6:,.2f} MB, ours {top['ours_bytes'] / 1e6:,.2f} MB, "
            f"{top['saved_percent']:.1f} % less"
        )
    return lines
