"""Options that several subcommands share, and options whose default lives in a settings class."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "DEVICES",
    "STDIO",
    "SettingOption",
    "device_option",
    "file_path",
    "given",
    "json_option",
    "lpips_option",
    "outputs_of",
    "quiet_option",
    "scale_value",
    "yes_option",
]

DEVICES = ("auto", "cpu", "cuda")
STDIO = "-"

Function = TypeVar("Function", bound=Callable[..., Any])


class SettingOption(click.Option):
    """An option whose default is a field of a settings dataclass, ``setting``.

    ``setting`` reads "module:Class.field", or "module:Class.field.field" for a nested one.
    ``unit`` of the option in units of the field, for the help: 2**20 for MiB of bytes.

    Left out, its value is None and the dataclass supplies the default; ``--help`` asks the
    dataclass what that is. So each default is written once, and parsing imports nothing heavy.
    """

    def __init__(self, *args: Any, setting: str, unit: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._setting = setting
        self._unit = unit

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        default = setting_default(self._setting)
        if record is None or default in (None, (), ""):
            return record
        if isinstance(default, Fraction | float | int):
            default = f"{float(default) / self._unit:g}"
        return record[0], f"{record[1]}  [default: {default}]".lstrip()


def setting_default(setting: str) -> object:
    """The default of ``module:Class.field.field``; None where the first field has none."""
    module, _, path = setting.partition(":")
    class_name, field_name, *inner = path.split(".")
    settings = getattr(importlib.import_module(module), class_name)
    fields = {field.name: field for field in dataclasses.fields(settings)}
    field = fields[field_name]
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return None
    for name in inner:
        value = getattr(value, name)
    return value


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given: those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def file_path() -> click.Path:
    """A path argument. Whether it exists is the core's business: its errors say more."""
    return click.Path(path_type=Path)


def json_option(function: Function) -> Function:
    """``--json``, as ``json_output``."""
    return click.option(
        "--json", "json_output", is_flag=True, help="NDJSON events on stdout (docs/json-output.md)."
    )(function)


def quiet_option(function: Function) -> Function:
    """``-q``."""
    return click.option("-q", "--quiet", is_flag=True, help="No progress, no notices.")(function)


def yes_option(function: Function) -> Function:
    """``-y``."""
    return click.option("-y", "--yes", is_flag=True, help="Overwrite outputs that exist.")(function)


def device_option(function: Function) -> Function:
    """``--device``: any text; what it may be is the core's business."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="|".join(DEVICES),
        help="Where the network runs.",
    )(function)


def lpips_option(function: Function) -> Function:
    """``--lpips-weights``."""
    return click.option(
        "--lpips-weights",
        type=file_path(),
        help="safetensors file of LPIPS  [default: $CODECAUX_LPIPS_WEIGHTS, else the cache, else "
        "the official download]",
    )(function)


def scale_value(text: str) -> Fraction:
    """'2', '1.5', '3/2' or '1' as a Fraction; other numbers are left to the core to refuse."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(f"expected 2, 1.5 or 1, got {text!r}") from error


def outputs_of(name: str, suffixes: Sequence[str], *, overwrite: bool) -> tuple[Path, ...]:
    """The files NAME<suffix> that an -o NAME stands for; UsageError where they exist or cannot be,
    before the work and not after it.
    """
    base = Path(name)
    # ".", "/" and the empty text have no name to append to; ".." would give hidden files here.
    if base.name in ("", ".."):
        raise click.UsageError(
            f"expected -o NAME, from which {', '.join(f'NAME{s}' for s in suffixes)} are made, got "
            f"{name!r}, which names a folder; add a name to it, like {base / 'report'}"
        )
    if not base.parent.is_dir():
        raise click.UsageError(f"expected the folder {base.parent} to exist; create it first")
    paths = tuple(base.with_name(base.name + suffix) for suffix in suffixes)
    for path in paths:
        if path.exists() and not overwrite:
            raise click.UsageError(f"{path} exists; add -y to replace it, or choose another -o")
    return paths
