"""`codecaux encode --target`: the search shown, then the encode as ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from codecaux.cli.curve import open_cache, sampling_settings
from codecaux.cli.encode import AUTO, print_result, result_fields, settings_from_options
from codecaux.cli.session import current_session

if TYPE_CHECKING:
    from codecaux.encoder.settings import EncodeSettings
    from codecaux.ladders.probes import Prober
    from codecaux.ladders.target import TargetEncode
    from codecaux.ladders.targets import Targets

__all__ = ["run_target"]


def run_target(options: Mapping[str, Any], *, json_output: bool, quiet: bool) -> None:
    """The whole command. Raises what searching and encoding raise, and at its end TargetError for
    a whole title that misses what its samples promised.
    """
    if options["crf"] is not None:
        raise click.UsageError("--crf says the CRF and --target finds one; give one of them")
    is_auto = options["scale"] == AUTO
    settings = settings_from_options({**options, "scale": None} if is_auto else options)

    from codecaux.cli.render import follow, open_renderer
    from codecaux.encoder.checks import check_encode
    from codecaux.ladders.curve import open_prober
    from codecaux.ladders.target import encode_to_target
    from codecaux.ladders.targets import parse_targets
    from codecaux.ladders.tuning import tuned
    from codecaux.video import SCALES

    targets = parse_targets(options["targets"], options["pool"] or "mean")
    sampling = sampling_settings(options)
    check_encode(settings)
    scales = SCALES if is_auto else (settings.stream.scale,)
    if not options["no_cache"]:  # else nothing is kept that one could go on from
        current_session().interrupt_hint = "the same command with --resume goes on from here"
    with (
        open_renderer("encode", json_output=json_output, quiet=quiet) as renderer,
        open_cache(no_cache=options["no_cache"]) as cache,
    ):
        prober = follow(open_prober(settings.input, settings, sampling, cache), renderer)
        if targets.has_size:
            targets = _with_other_bytes(targets, prober, settings)
        prober = follow(tuned(prober), renderer)
        events = encode_to_target(prober, targets, scales, settings.output, settings.weights)
        made = follow(events, renderer)
        fields = target_fields(made)
        renderer.result(result_fields(made.result) | {"target": fields})
    if not json_output:
        _print(made, fields)
    if made.miss is not None:
        raise made.miss


def _with_other_bytes(targets: Targets, prober: Prober, settings: EncodeSettings) -> Targets:
    """A size is of the files: with what is copied beside the video, and what holds it all."""
    from codecaux.encoder.mux import other_bytes

    # A raw source has no other tracks.
    original = prober.title.path if settings.source.raw_size is None else None
    return targets.beside(other_bytes(original, settings.output, prober.title.num_frames))


def target_fields(made: TargetEncode) -> dict[str, Any]:
    """What the NDJSON result says of the search: docs/json-output.md."""
    from codecaux.ladders.reports import point_fields

    found, pool = made.found, made.found.targets.pool
    trials = [
        point_fields(trial.point, pool)
        | {"is_met": trial.is_met, "is_chosen": trial is found.chosen}
        for trial in found.trials
    ]
    return {
        "asked": str(found.targets),
        "is_met": made.is_met,
        "beside_bytes": found.targets.beside_bytes,
        "probes": trials,
        "chosen": point_fields(found.chosen.point, pool),
        "final": point_fields(made.final, pool),
    }


def _print(made: TargetEncode, fields: Mapping[str, Any]) -> None:
    from codecaux.cli.points_tables import error_grid, points_grid
    from codecaux.cli.tables import print_grid

    shown = [{**point, "is_on_hull": point["is_met"]} for point in fields["probes"]]
    print_grid(replace(points_grid(shown), corner="> chosen, + meets it"))
    click.echo(f"\n{fields['asked']}: the probe, and the whole title there:")
    print_grid(error_grid(fields["chosen"], fields["final"]))
    click.echo("")
    print_result(made.result)
