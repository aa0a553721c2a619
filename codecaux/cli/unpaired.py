"""`codecaux pretrain --unpaired`: its options checked and made into settings."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codecaux.cli.options import given

if TYPE_CHECKING:
    from codecaux.encoder.unpaired_settings import UnpairedSettings

__all__ = ["refuse_unpaired_options", "unpaired_settings"]

_PLAIN = ("net", "steps", "batch", "learning_rate", "seed", "start", "crop", "cycle")
# Of streams and of pairs: without a meaning where there are neither.
_FOREIGN = ("crf", "preset", "objective", "adversarial", "moves", "jobs", "lpips_weights")
_OWN = ("crop", "cycle")


def unpaired_settings(
    folders: tuple[Path, ...], options: Mapping[str, Any], work: Path
) -> UnpairedSettings:
    """The settings; UsageError for options that only streams have, or not two folders."""
    from codecaux.encoder.unpaired_settings import UnpairedSettings

    if len(folders) != 2:
        raise click.UsageError(
            f"expected two folders with --unpaired, SOURCE and TARGET, got {len(folders)}"
        )
    for name in _FOREIGN:
        if options[name] is not None:
            raise click.UsageError(f"{_flag(name)} does not go with --unpaired; leave it out")
    if options["scale"] is not None and Fraction(options["scale"]) != 1:
        raise click.UsageError(
            f"expected --scale 1 with --unpaired, or none, got {options['scale']}"
        )
    values = given({name: options[name] for name in _PLAIN})
    if options["bank_mib"] is not None:
        values["bank_bytes"] = options["bank_mib"] << 20
    return UnpairedSettings(
        source=folders[0],
        target=folders[1],
        output=options["output"],
        work=work,
        overwrite=options["yes"],
        **values,
    )


def refuse_unpaired_options(options: Mapping[str, Any]) -> None:
    """UsageError for what has a meaning with --unpaired alone."""
    for name in _OWN:
        if options[name] is not None:
            raise click.UsageError(f"{_flag(name)} goes with --unpaired only; leave it out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
