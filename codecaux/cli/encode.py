"""`codecaux encode`: a title in, a stream and its weights out, and a table of what was gained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from codecaux.cli.options import (
    STDIO,
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

if TYPE_CHECKING:
    from codecaux.encoder.encode import EncodeResult
    from codecaux.encoder.prepare import SourceOptions
    from codecaux.encoder.settings import EncodeSettings

__all__ = [
    "AUTO",
    "NETS",
    "OBJECTIVES",
    "POOL_NAMES",
    "encode",
    "making_options",
    "print_result",
    "probing_options",
    "result_fields",
    "settings_from_options",
]

# The names that codecaux.architecture and codecaux.encoder.objective know; a test compares.
NETS = ("light", "full", "tiny", "recurrent", "recurrent-tiny")
AUTO = "auto"
OBJECTIVES = (
    *("balanced", "fidelity", "perceptual", "learned", "fused"),
    # Variants for benchmarks/objectives.py.
    *("learned-no-content", "learned-no-relation", "learned-no-fake", "learned-no-warm-up"),
    *("learned-relation-100", "learned-adversarial", "balanced-offline", "sr-unet"),
)
# Those of codecaux.scores.
POOL_NAMES = ("mean", "harmonic", "p5", "min")


Function = TypeVar("Function", bound=Callable[..., Any])


def _setting(*names: str, field: str, **kwargs: Any) -> Callable[[Function], Function]:
    """An option whose default is a field of EncodeSettings."""
    setting = f"codecaux.encoder.settings:EncodeSettings.{field}"
    return click.option(*names, cls=SettingOption, setting=setting, **kwargs)


_MAKING = (
    _setting("--preset", field="stream.preset", help="x265's preset."),
    _setting("--downscale", field="stream.downscale", help="swscale's name of the down-scaler."),
    _setting(
        "--tuning",
        metavar="auto|network|luma|none",
        field="stream.tuning",
        help="x265's options for a network; auto: with finer chroma, where that saves bits.",
    ),
    _setting("--x265-params", metavar="K=V:K=V", field="stream.x265_params", help="Given to x265."),
    _setting("--net", type=click.Choice(NETS), field="net", help="The network's size."),
    _setting("--base", metavar="ID", field="base", help="Network to start from; see pretrain."),
    _setting(
        "--steps",
        type=int,
        field="fit.steps",
        help="Steps of the fit; more for larger titles by default. Excludes --minutes.",
    ),
    _setting("--minutes", type=float, field="fit.minutes", help="Time for the fit."),
    _setting(
        "--objective",
        type=click.Choice(OBJECTIVES),
        field="fit.objective",
        help="What the fit is for.",
    ),
    click.option(
        "--sharpen",
        metavar="auto|off|0..1",
        help="Of the fused picture, with --objective fused  [auto]",
    ),
    _setting("--seed", type=int, field="fit.seed", help="Of the choice of patches and of the fit."),
    _setting(
        "--bank-mib",
        type=click.IntRange(min=16),
        field="fit.bank_bytes",
        unit=1 << 20,
        help="Memory for patches, in MiB.",
    ),
    _setting(
        "--score-seconds",
        type=float,
        field="score_seconds",
        help="Of a longer title so much is scored, in runs spread over it.",
    ),
    click.option("--size", metavar="WxH", help="Of a raw yuv INPUT; with --fps and --pix-fmt."),
    click.option("--fps", metavar="N[/D]", help="Of a raw yuv INPUT."),
    click.option("--pix-fmt", help="Of a raw yuv INPUT, as ffmpeg calls it, e.g. yuv420p."),
    click.option("--deinterlace", is_flag=True, help="For an interlaced INPUT."),
    click.option("--to-420", is_flag=True, help="For a 4:2:2, 4:4:4 or RGB INPUT."),
)
_PROBING = (
    click.option("--pool", type=click.Choice(POOL_NAMES), help="Of frames' scores  [mean]"),
    click.option(
        "--sample-seconds",
        type=float,
        cls=SettingOption,
        setting="codecaux.ladders.settings:SamplingSettings.seconds",
        help="Of each sample of a long title.",
    ),
    click.option("--samples", type=int, help="Of a long title  [one per 10 minutes, 3 or more]"),
    click.option("--no-cache", is_flag=True, help="Take no probe from the cache, keep none."),
)


def making_options(function: Function) -> Function:
    """The options that say how a title is read, coded and fitted, but for CRF and scale."""
    for option in reversed(_MAKING):
        function = option(function)
    return function


def probing_options(function: Function) -> Function:
    """The options of everything that probes a title."""
    for option in reversed(_PROBING):
        function = option(function)
    return function


def check_untargeted(options: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing without --target."""
    if options["scale"] == AUTO:
        raise click.UsageError("--scale auto needs a --target to choose by")
    for name in ("pool", "sample_seconds", "samples"):
        if options[name] is not None:
            text = "--" + name.replace("_", "-")
            raise click.UsageError(f"{text} is for probes, and there are none without --target")


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o", "--output", type=file_path(), help="Stream  [default: INPUT's name with .mp4, here]"
)
@click.option("--weights", type=file_path(), help="Weights  [default: OUT's name with .weights]")
@_setting("--crf", type=float, field="stream.crf", help="x265's quality, 0 (best) to 51.")
@_setting(
    "--scale",
    metavar="2|1.5|1|auto",
    field="stream.scale",
    help="Source size / coded size; auto: the cheapest, with --target.",
)
@click.option(
    "--target",
    "targets",
    metavar="NAME=VALUE",
    multiple=True,
    help="Find the CRF: vmaf=94, neg=, v0=, lpips=0.1, psnr=38, size=40MB, rate=3M.",
)
@probing_options
@making_options
@click.option("--resume", is_flag=True, help="Go on where the same command was interrupted.")
@lpips_option
@device_option
@yes_option
@quiet_option
@json_option
def encode(json_output: bool, quiet: bool, **options: Any) -> None:
    """Make a smaller H.265 stream of INPUT, and weights fitted on it.

    INPUT is anything ffmpeg reads, raw yuv with --size, --fps and --pix-fmt, or - for y4m on
    stdin. Prints what the weights gain over plain bicubic, with their bytes counted in the rate.
    With --target, probes the title for the largest CRF whose enhanced quality meets it.
    """
    if options["targets"]:
        from codecaux.cli.target import run_target

        run_target(options, json_output=json_output, quiet=quiet)
        return
    check_untargeted(options)
    settings = settings_from_options(options)
    session = current_session()
    if options["source"] != Path(STDIO):
        session.interrupt_hint = "the same command with --resume goes on from here"

    from codecaux.cli.render import follow, open_renderer
    from codecaux.encoder.encode import encode as run_encode

    with open_renderer("encode", json_output=json_output, quiet=quiet) as renderer:
        result = follow(run_encode(settings), renderer)
        renderer.result(result_fields(result) | {"target": None})
    if not json_output:
        print_result(result)


def settings_from_options(options: Mapping[str, Any]) -> EncodeSettings:
    """The options of the command line as EncodeSettings; what was left out keeps its default."""
    from codecaux.encoder.settings import EncodeSettings

    output = options["output"] or _output(options["source"])
    if not output.name:
        raise click.UsageError(f"expected a file name for the output, got the folder {output}")
    stream: dict[str, Any] = given(
        {name: options[name] for name in ("crf", "preset", "downscale", "tuning")}
    )
    if options["scale"] is not None:
        stream["scale"] = scale_value(options["scale"])
    if options["x265_params"] is not None:
        stream["x265_params"] = parse_x265_params(options["x265_params"])
    fit: dict[str, Any] = given(
        {name: options[name] for name in ("steps", "minutes", "objective", "seed")}
    )
    if options["sharpen"] is not None:
        fit["sharpen"] = parse_sharpen(options["sharpen"])
    if options["bank_mib"] is not None:
        fit["bank_bytes"] = options["bank_mib"] << 20
    settings = EncodeSettings(
        input=str(options["source"]),
        output=output,
        weights=options["weights"] or output.with_suffix(".weights"),
        source=source_options(options),
        device=options["device"],
        lpips_weights=options["lpips_weights"],
        resume=options["resume"],
        overwrite=options["yes"],
        **given({name: options[name] for name in ("net", "base", "score_seconds")}),
    )
    return replace(
        settings, stream=replace(settings.stream, **stream), fit=replace(settings.fit, **fit)
    )


def parse_x265_params(text: str) -> tuple[tuple[str, str], ...]:
    """'aq-mode=3:no-sao' as (("aq-mode", "3"), ("no-sao", "1")), x265's own spelling of flags."""
    parts = [part.partition("=") for part in text.split(":") if part]
    return tuple((name, value if equals else "1") for name, equals, value in parts)


def parse_sharpen(text: str) -> float | None:
    """'auto' as None, 'off' as 0, else the number; its range is the core's business."""
    if text in ("auto", "off"):
        return None if text == "auto" else 0.0
    try:
        return float(text)
    except ValueError as error:
        raise click.BadParameter(f"expected --sharpen auto, off or 0..1, got {text!r}") from error


def _output(source: Path) -> Path:
    if source == Path(STDIO):
        raise click.UsageError("expected -o OUT.mp4 where INPUT is stdin")
    from codecaux.encoder.settings import default_output

    return default_output(str(source))


def source_options(options: Mapping[str, Any]) -> SourceOptions:
    """--size, --fps, --pix-fmt (all three or none), --deinterlace, --to-420."""
    from codecaux.encoder.prepare import SourceOptions

    raw = [options["size"], options["fps"], options["pix_fmt"]]
    if any(raw) and not all(raw):
        raise click.UsageError("a raw INPUT needs all three of --size, --fps and --pix-fmt")
    flags = {"deinterlace": options["deinterlace"], "to_420": options["to_420"]}
    if not any(raw):
        return SourceOptions(**flags)
    return SourceOptions(
        raw_size=parse_size(options["size"]),
        raw_fps=parse_fps(options["fps"]),
        raw_pixel_format=options["pix_fmt"],
        **flags,
    )


def parse_size(text: str) -> tuple[int, int]:
    """'1920x1080' as (1920, 1080)."""
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise click.BadParameter(f"expected WIDTHxHEIGHT, e.g. 1920x1080, got {text!r}")
    return int(width), int(height)


def parse_fps(text: str) -> Any:
    """'25', '23.976' or '30000/1001' as a Fraction."""
    from fractions import Fraction

    try:
        fps = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(f"expected --fps like 25 or 30000/1001, got {text!r}") from error
    if fps <= 0:
        raise click.BadParameter(f"expected --fps above 0, got {text!r}")
    return fps


def result_fields(result: EncodeResult) -> dict[str, Any]:
    """The NDJSON result: docs/json-output.md, "Result of encode"."""
    rate = result.rate
    return {
        "stream": str(result.stream),
        "weights": str(result.weights),
        "device": result.device,
        "num_frames": result.num_frames,
        "stream_bytes": rate.stream_bytes,
        "weights_bytes": rate.weights_bytes,
        "duration_seconds": rate.duration_seconds,
        "stream_kbps": rate.stream_kbps,
        "weights_kbps": rate.weights_kbps,
        "total_kbps": rate.total_kbps,
        "scores": {name: scores.to_json_dict() for name, scores in result.scores.items()},
        "stage_seconds": dict(result.stage_seconds),
    }


def print_result(result: EncodeResult) -> None:
    """The table of what was gained, the times, the files."""
    from codecaux.cli.render import format_seconds
    from codecaux.cli.tables import gain_grid, missing_lines, print_grid

    print_grid(gain_grid(result.rate, result.scores))
    for line in missing_lines(result.scores):
        click.echo(line)
    stages = ", ".join(f"{name} {format_seconds(s)}" for name, s in result.stage_seconds.items())
    click.echo(f"time: {stages}, in all {format_seconds(sum(result.stage_seconds.values()))}")
    click.echo(f"device: {result.device}")
    click.echo(f"wrote {result.stream} and {result.weights}")
