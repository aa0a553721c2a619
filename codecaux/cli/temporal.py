"""What `codecaux measure --temporal` adds: a table, fields of the JSON, two pictures and a TSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codecaux.cli.options import outputs_of

if TYPE_CHECKING:
    from codecaux.profiles import Profile, ProfileRecorder
    from codecaux.scores import Scores
    from codecaux.temporal import TemporalSteps

__all__ = ["fields", "outputs", "print_found", "recorder", "steps_tsv", "write"]

NOT_DEFINED = "not defined"
_SUFFIXES = ("-profiles.png", "-rpf.png", ".tsv")
_LABELS = {"distorted": "decoded", "bicubic": "decoded"}
# (heading, key of `figures`)
_COLUMNS = (
    ("tOF", "tof"),
    ("tOF at worst", "tof_worst"),
    ("RPF mean", "rpf_mean"),
    ("its ripple", "rpf_mean_ripple"),
    ("RPF deviation", "rpf_deviation"),
    ("its ripple", "rpf_deviation_ripple"),
)


def outputs(options: Mapping[str, Any], *, wanted: bool) -> tuple[Path, ...]:
    """The three files, refused at once where they exist or cannot be. None where not ``wanted``."""
    if not wanted:
        for name, value in (("-o", options["output"]), ("--column", options["column"])):
            if value is not None:
                raise click.UsageError(f"expected {name} together with --temporal, got it alone")
        return ()
    name = options["output"]
    if name is None:
        name = f"{options['distorted'].stem}-temporal"
    return outputs_of(name, _SUFFIXES, overwrite=options["yes"])


def recorder(options: Mapping[str, Any], *, wanted: bool) -> ProfileRecorder | None:
    """What sees the frames as they are scored; None where not ``wanted``."""
    if not wanted:
        return None
    from codecaux.profiles import ProfileRecorder

    return ProfileRecorder(options["column"])


def write(
    paths: tuple[Path, ...], scores: Mapping[str, Scores], profile: Profile, title: str
) -> list[str]:
    """Write the files; the names of those that there are: none for one or two frames."""
    from codecaux.atomic import write_atomic
    from codecaux.temporal_pictures import curves_png, profiles_png

    if not profile.pictures:
        return []
    curves = {name: each.steps for name, each in scores.items()}
    profiles, rpf, table = paths
    write_atomic(profiles, profiles_png(profile, _LABELS, title))
    write_atomic(rpf, curves_png(curves, _LABELS, title))
    write_atomic(table, steps_tsv(curves).encode())
    return [str(path) for path in paths]


def steps_tsv(curves: Mapping[str, TemporalSteps]) -> str:
    """One row for each version and step; an empty cell where tOF is not known."""
    lines = ["version\tframe\trpf_mean\trpf_deviation\ttof"]
    for name, steps in curves.items():
        tof = dict(zip(steps.tof_indices, steps.tof, strict=True))
        for index, (mu, sigma) in enumerate(zip(steps.rpf_mu, steps.rpf_sigma, strict=True)):
            motion = f"{tof[index]:.6g}" if index in tof else ""
            lines.append(f"{name}\t{index}\t{mu:.6g}\t{sigma:.6g}\t{motion}")
    return "\n".join(lines) + "\n"


def figures(scores: Scores) -> dict[str, float | None]:
    """Numbers of one version; None where not defined or, for tOF, not to be had."""
    from codecaux.scores import pooled
    from codecaux.temporal import TEMPORAL_METRICS, ripple

    found = {metric: scores.value(metric) for metric in TEMPORAL_METRICS}
    steps = scores.steps
    return found | {
        "tof_worst": pooled(scores, "tof", "min"),
        "rpf_mean_ripple": ripple(steps.rpf_mu),
        "rpf_deviation_ripple": ripple(steps.rpf_sigma),
    }


def fields(scores: Mapping[str, Scores], profile: Profile, written: list[str]) -> dict[str, Any]:
    """``temporal`` of the JSON result (docs/json-output.md)."""
    return {
        "outputs": written,
        "column": profile.column,
        "profile_frames": profile.num_frames,
        "versions": {name: figures(each) | _curves(each.steps) for name, each in scores.items()},
    }


def _curves(steps: TemporalSteps) -> dict[str, list[float] | list[int]]:
    return {
        "rpf_mean_steps": list(steps.rpf_mu),
        "rpf_deviation_steps": list(steps.rpf_sigma),
        "tof_steps": list(steps.tof),
        "tof_frames": list(steps.tof_indices),
    }


def print_found(scores: Mapping[str, Scores], written: list[str]) -> None:
    """The table of steadiness, and what was written."""
    from codecaux.cli.tables import MISSING, facts_grid, print_grid

    rows = []
    for name, each in scores.items():
        absent = MISSING if each.num_frames > 2 else NOT_DEFINED
        values = figures(each)
        cells = [values[key] for _, key in _COLUMNS]
        rows.append([name, *(absent if v is None else f"{round(v, 3) + 0.0:.3f}" for v in cells)])
    click.echo()
    print_grid(facts_grid(("steadiness", *(heading for heading, _ in _COLUMNS)), rows), wrap=True)
    if not written:
        click.echo("no curves and no profiles: they take three frames or more")
    for path in written:
        click.echo(f"wrote {path}")
