"""`codecaux pretrain`: folders of videos and photos in, a base network out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from codecaux.cli.encode import NETS, OBJECTIVES
from codecaux.cli.options import (
    SettingOption,
    device_option,
    file_path,
    given,
    json_option,
    lpips_option,
    quiet_option,
    scale_value,
    yes_option,
)
from codecaux.cli.session import current_session
from codecaux.cli.unpaired import refuse_unpaired_options, unpaired_settings

if TYPE_CHECKING:
    from codecaux.device import Device
    from codecaux.encoder.pretrain import PretrainResult
    from codecaux.events import Events

__all__ = ["parse_range", "pretrain"]


Function = TypeVar("Function", bound=Callable[..., Any])


def _setting(*names: str, field: str, **kwargs: Any) -> Callable[[Function], Function]:
    setting = f"codecaux.encoder.pretrain_settings:PretrainSettings.{field}"
    return click.option(*names, cls=SettingOption, setting=setting, **kwargs)


def _unpaired(*names: str, field: str, **kwargs: Any) -> Callable[[Function], Function]:
    setting = f"codecaux.encoder.unpaired_settings:UnpairedSettings.{field}"
    return click.option(*names, cls=SettingOption, setting=setting, **kwargs)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=file_path(), required=True, help="The base's file.")
@click.option("--work", type=click.Path(path_type=Path), help="[default: OUT's name with .work]")
@_setting("--net", type=click.Choice(NETS), field="net", help="The network's size.")
@_setting("--scale", metavar="2|1.5|1", field="scale", help="Source size / coded size.")
@click.option("--crf", metavar="LOW:HIGH", help="Each item's is drawn from here  [default: 18:36]")
@_setting("--preset", field="preset", help="x265's preset.")
@_setting("--steps", type=int, field="steps", help="Of the training.")
@_setting("--batch", type=int, field="batch", help="Patches a step.")
@_setting("--learning-rate", type=float, field="learning_rate", help="The first; it falls.")
@_setting("--objective", type=click.Choice(OBJECTIVES), field="objective", help="As in encode.")
@_setting(
    "--adversarial", type=float, field="adversarial", help="Weight of a discriminator; paper: 1e-3."
)
@_setting("--seed", type=int, field="seed", help="Of moves, CRFs, patches and steps.")
@_setting("--moves", type=int, field="moves", help="Camera moves over each photo.")
@click.option("--start", metavar="ID|FILE", help="A base to go on from  [default: none]")
@_setting(
    "--bank-mib",
    type=click.IntRange(min=16),
    field="bank_bytes",
    unit=1 << 20,
    help="Memory for patches, in MiB.",
)
@click.option("--jobs", type=int, help="Streams coded at a time  [default: all cores]")
@click.option("--unpaired", is_flag=True, help="FOLDERS are SOURCE TARGET: learns the look.")
@_unpaired("--crop", type=int, field="crop", help="With --unpaired: a patch's side in pixels.")
@_unpaired("--cycle", type=float, field="cycle", help="With --unpaired: weight of the way back.")
@lpips_option
@device_option
@yes_option
@quiet_option
@json_option
def pretrain(json_output: bool, quiet: bool, folders: tuple[Path, ...], **options: Any) -> None:
    """Train a base network on real x265 streams of the videos and photos in FOLDERS.

    Photos are given a slow synthetic camera motion. Interrupted, the same command goes on. To use
    the result, name its folder in the environment variable CODECAUX_BASES.

    With --unpaired there are two folders, SOURCE and TARGET, of different pictures: what comes
    out, for scale 1, gives pictures like the first the look of the second. Its defaults are others:
    20000 steps, batch 4, learning rate 0.0005, 1024 MiB.
    """
    current_session().interrupt_hint = "the same command goes on from here"

    from codecaux.cli.render import follow, open_renderer
    from codecaux.device import choose_device

    device = choose_device(options["device"])
    with open_renderer("pretrain", json_output=json_output, quiet=quiet) as renderer:
        result = follow(_training(folders, options, device), renderer)
        renderer.result(
            {
                "output": str(result.output),
                "base_id": result.base_id,
                "steps": result.steps,
                "loss": result.loss,
                "patches": result.patches,
                "items": result.items,
                "train_seconds": result.train_seconds,
                "device": device.description,
            }
        )
    if not json_output:
        click.echo(f"device: {device.description}")
        click.echo(
            f"wrote {result.output}, the base {result.base_id} (loss {result.loss:.5f} after "
            f"{result.steps} steps on {result.patches} patches of {result.items} items)"
        )


def _training(
    folders: tuple[Path, ...], options: dict[str, Any], device: Device
) -> Events[PretrainResult]:
    """With pairs made by x265, or without any."""
    output: Path = options["output"]
    if not output.name:
        raise click.UsageError(f"expected a file name for the output, got the folder {output}")
    work = options["work"] or output.with_name(output.name + ".work")
    if options["unpaired"]:
        from codecaux.encoder.unpaired import pretrain_unpaired

        return pretrain_unpaired(unpaired_settings(folders, options, work), device)
    from codecaux.encoder.objective import objective_by_name
    from codecaux.encoder.pretrain import pretrain as run_pretrain
    from codecaux.encoder.pretrain_settings import PretrainSettings
    from codecaux.errors import LpipsUnavailableError
    from codecaux.lpips import find_lpips

    refuse_unpaired_options(options)
    settings = PretrainSettings(folders=folders, work=work, **_values(options))
    lpips = None
    try:
        if objective_by_name(settings.objective).wants_lpips:
            lpips = find_lpips("squeeze", explicit=options["lpips_weights"])
            lpips = lpips.to(device.torch_device).cast(device.compute_dtype)
    except LpipsUnavailableError as error:
        click.echo(f"codecaux: trained without LPIPS: {error}", err=True)
    return run_pretrain(settings, device, lpips)


_PLAIN = (
    *("net", "preset", "steps", "batch", "learning_rate", "objective", "adversarial", "seed"),
    *("moves", "start", "jobs"),
)


def _values(options: dict[str, Any]) -> dict[str, Any]:
    values = given({name: options[name] for name in _PLAIN})
    if options["scale"] is not None:
        values["scale"] = scale_value(options["scale"])
    if options["crf"] is not None:
        values["crf"] = parse_range(options["crf"])
    if options["bank_mib"] is not None:
        values["bank_bytes"] = options["bank_mib"] << 20
    values["output"], values["overwrite"] = options["output"], options["yes"]
    return values


def parse_range(text: str) -> tuple[float, float]:
    """'18:36' as (18.0, 36.0); one number is both ends."""
    low, colon, high = text.partition(":")
    try:
        return float(low), float(high if colon else low)
    except ValueError as error:
        raise click.BadParameter(f"expected CRFs like 18:36, got {text!r}") from error
