"""`codecaux curve`: a title's rates against its scores, and the CRF and scale to take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codecaux.cli.encode import making_options, probing_options, settings_from_options
from codecaux.cli.options import (
    SettingOption,
    device_option,
    given,
    json_option,
    lpips_option,
    outputs_of,
    quiet_option,
    yes_option,
)
from codecaux.cli.session import current_session

if TYPE_CHECKING:
    from codecaux.encoder.settings import EncodeSettings
    from codecaux.ladders.cache import Cache
    from codecaux.ladders.curve import Curve
    from codecaux.ladders.settings import CurveSettings

__all__ = ["curve", "open_cache", "sampling_settings", "template_settings"]

_SUFFIXES = (".csv", ".json", ".png")


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path, allow_dash=True))
@click.option("-o", "--output", metavar="NAME", help="Writes NAME.csv, NAME.json and NAME.png.")
@click.option("--crf", metavar="A:B:STEP|LIST", help="CRFs to probe  [default: 18:36:3]")
@click.option("--scales", metavar="LIST", help="Scales to probe  [default: 2,1.5,1]")
@click.option(
    "--least-gain",
    type=float,
    cls=SettingOption,
    setting="codecaux.ladders.settings:CurveSettings.least_gain",
    help="VMAF that a doubling of the rate has to buy up to the chosen point.",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    help="Code the whole title at the chosen point and compare  [default: where it was sampled]",
)
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes at a time.")
@probing_options
@making_options
@lpips_option
@device_option
@yes_option
@quiet_option
@json_option
def curve(json_output: bool, quiet: bool, **options: Any) -> None:
    """Probe INPUT over CRFs and scales, beside x265 alone, and say which to take.

    Rates are the whole title's, weights counted. Long titles are probed on samples. Every probe is
    cached (codecaux cache): a second run, or a finer grid, costs only what is new. Exits with the
    code of the first probe that failed, if any, after showing the others.
    """
    outputs = _outputs(options)
    settings, wanted = template_settings(options), _curve_settings(options)
    if not options["no_cache"]:  # else nothing is kept that one could go on from
        current_session().interrupt_hint = "the same command goes on from here"

    from codecaux.cli.render import follow, open_renderer
    from codecaux.ladders.curve import make_curve, open_prober
    from codecaux.ladders.jobs import check_jobs
    from codecaux.ladders.reports import curve_fields
    from codecaux.ladders.tuning import tuned

    sampling = sampling_settings(options)
    check_jobs(wanted.jobs)
    with (
        open_renderer("curve", json_output=json_output, quiet=quiet) as renderer,
        open_cache(no_cache=options["no_cache"]) as cache,
    ):
        prober = follow(open_prober(settings.input, settings, sampling, cache), renderer)
        prober = follow(tuned(prober), renderer)
        found = follow(make_curve(prober, wanted), renderer)
        fields = curve_fields(found, prober)
        _write(outputs, found, fields)
        written = [str(path) for path in outputs]
        renderer.result(fields | {"outputs": written})
    if not json_output:
        _print(found, fields, written)
    if found.failures:
        click.get_current_context().exit(fields["failures"][0]["exit_code"])


def template_settings(options: Mapping[str, Any]) -> EncodeSettings:
    """What all probes have in common; the rest is each one's own."""
    own: dict[str, Any] = {"crf": None, "scale": None, "resume": False, "yes": True}
    # Never written: probes have outputs of their own.
    own |= {"output": Path("probe.mp4"), "weights": None}
    return settings_from_options({**options, **own})


def sampling_settings(options: Mapping[str, Any]) -> Any:
    """--sample-seconds and --samples."""
    from codecaux.ladders.settings import SamplingSettings

    found = {"seconds": options["sample_seconds"], "count": options["samples"]}
    return SamplingSettings(**given(found))


@contextmanager
def open_cache(*, no_cache: bool) -> Iterator[Cache]:
    """The user's cache of probes, or one that is gone afterwards."""
    import tempfile

    from codecaux.ladders.cache import Cache

    if not no_cache:
        yield Cache.open()
        return
    with tempfile.TemporaryDirectory(prefix="codecaux-probes-") as folder:
        yield Cache.open(Path(folder))


def _curve_settings(options: Mapping[str, Any]) -> CurveSettings:
    from codecaux.ladders.settings import CurveSettings, parse_crfs, parse_scales

    wanted: dict[str, Any] = given({n: options[n] for n in ("pool", "least_gain", "jobs")})
    if options["crf"] is not None:
        wanted["crfs"] = parse_crfs(options["crf"])
    if options["scales"] is not None:
        wanted["scales"] = parse_scales(options["scales"])
    if options["verify"] is not None:
        wanted["verify"] = "always" if options["verify"] else "never"
    return CurveSettings(**wanted)


def _outputs(options: Mapping[str, Any]) -> tuple[Path, ...]:
    name = options["output"]
    return () if name is None else outputs_of(name, _SUFFIXES, overwrite=options["yes"])


def _write(outputs: Sequence[Path], found: Curve, fields: Mapping[str, Any]) -> None:
    if not outputs:
        return
    from codecaux.atomic import write_atomic
    from codecaux.cli.render import to_json
    from codecaux.ladders.picture import curve_png
    from codecaux.ladders.reports import curve_csv

    table, record, picture = outputs
    write_atomic(table, curve_csv(fields))
    write_atomic(record, json.dumps(to_json(fields), indent=1).encode() + b"\n")
    write_atomic(picture, curve_png(found))


def _print(found: Curve, fields: Mapping[str, Any], written: list[str]) -> None:
    from codecaux.cli.points_tables import bd_grid, error_grid, points_grid
    from codecaux.cli.tables import print_grid

    print_grid(points_grid(fields["points"]))
    click.echo("\nBD-rate of our hull against x265 at the source's size, per cent:")
    print_grid(bd_grid(fields["bd_rates"]))
    chosen = fields["chosen"]
    click.echo(f"\nchosen: CRF {chosen['crf']:g}, scale {chosen['scale']:g}: {chosen['command']}")
    if fields["final"] is not None:
        click.echo("the whole title there, and what its probe said:")
        print_grid(error_grid(fields["chosen"], fields["final"]))
    for failure in fields["failures"]:
        click.echo(f"{failure['label']} failed: {failure['message']}")
    for path in written:
        click.echo(f"wrote {path}")
