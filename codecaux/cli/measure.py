"""`codecaux measure`: the scores of any pair."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codecaux.cli.options import (
    device_option,
    file_path,
    json_option,
    lpips_option,
    quiet_option,
    yes_option,
)

if TYPE_CHECKING:
    from codecaux.decoder.enhance import Enhanced, Enhancer
    from codecaux.device import Device
    from codecaux.events import Events
    from codecaux.measure import Watch
    from codecaux.scores import Scores, ScoreTools
    from codecaux.video import Frame

__all__ = ["MeasureSettings", "measure", "run_measure"]


@dataclass(frozen=True)
class MeasureSettings:
    """A pair of files, and what to score the second with. ``lpips_weights`` None: as found.

    ``every_pair``: tOF of all pairs of consecutive frames instead of a few.
    """

    reference: Path
    distorted: Path
    weights: Path | None = None
    lpips_weights: Path | None = None
    device: str = "auto"
    every_pair: bool = False


@click.command()
@click.argument("reference", metavar="REF", type=file_path())
@click.argument("distorted", metavar="DIST", type=file_path())
@click.option("--weights", type=file_path(), help="Weights of DIST: scores it plain and enhanced.")
@click.option("--temporal", is_flag=True, help="Steadiness: tOF of all frames, curves, profiles.")
@click.option(
    "-o", "--output", metavar="NAME", help="Of --temporal's files  [default: DIST's-temporal]"
)
@click.option("--column", type=int, help="Of the temporal profiles, in pixels  [default: middle]")
@lpips_option
@device_option
@yes_option
@quiet_option
@json_option
def measure(json_output: bool, quiet: bool, temporal: bool, **options: Any) -> None:
    """Score DIST against REF: VMAF v1, v0.6.1, NEG, LPIPS, PSNR-Y, SSIM, tOF, RPF.

    Frames are paired by index. DIST has REF's size, or is a stream that codecaux made of REF,
    which is then shown as the player shows it: by plain bicubic, and with --weights also enhanced.

    With --temporal, NAME-profiles.png shows one column of source, decoded and enhanced pictures
    over time, NAME-rpf.png the curves, NAME.tsv their numbers.
    """
    from codecaux.cli import temporal as steadiness
    from codecaux.cli.render import follow, open_renderer
    from codecaux.cli.tables import missing_lines, print_grid, scores_grid

    settings = MeasureSettings(
        options["reference"],
        options["distorted"],
        options["weights"],
        options["lpips_weights"],
        options["device"],
        every_pair=temporal,
    )
    outputs = steadiness.outputs(options, wanted=temporal)
    recorder = steadiness.recorder(options, wanted=temporal)
    with open_renderer("measure", json_output=json_output, quiet=quiet) as renderer:
        scores = follow(run_measure(settings, recorder.add if recorder else None), renderer)
        fields = {name: each.to_json_dict() for name, each in scores.items()}
        found = None
        if recorder is not None:
            profile = recorder.finish()
            written = steadiness.write(outputs, scores, profile, settings.distorted.name)
            found = steadiness.fields(scores, profile, written)
        renderer.result({"scores": fields, "temporal": found})
    if json_output:
        return
    print_grid(scores_grid(scores))
    for line in missing_lines(scores):
        click.echo(line)
    if found is not None:
        steadiness.print_found(scores, found["outputs"])


def run_measure(settings: MeasureSettings, watch: Watch | None = None) -> Events[dict[str, Scores]]:
    """Scores by name: "distorted"; or "bicubic" and, with weights, "enhanced"."""
    from codecaux.device import choose_device
    from codecaux.events import Notice
    from codecaux.measure import measure_files

    device = choose_device(settings.device)
    tools = yield from _tools(settings, device)
    enhancer = _enhancer(settings, device)
    if enhancer is None:
        pair = (settings.reference, settings.distorted)
        return {"distorted": (yield from measure_files(*pair, tools, watch))}
    yield Notice(f"device: {device.description}")
    return (yield from _measure_shown(settings, enhancer, tools, watch))


def _tools(settings: MeasureSettings, device: Device) -> Events[ScoreTools]:
    from codecaux.errors import LpipsUnavailableError
    from codecaux.events import Notice
    from codecaux.ffmpeg import find_ffmpeg
    from codecaux.lpips import find_lpips
    from codecaux.scores import TOF_MAX_PAIRS, ScoreTools
    from codecaux.temporal import find_flow

    ffmpeg, flow = find_ffmpeg(), find_flow()
    pairs = sys.maxsize if settings.every_pair else TOF_MAX_PAIRS
    try:
        lpips = find_lpips("alex", explicit=settings.lpips_weights).to(device.torch_device)
    except LpipsUnavailableError as error:
        yield Notice(f"no LPIPS: {error}", "warning")
        return ScoreTools(ffmpeg, flow=flow, tof_max_pairs=pairs)
    return ScoreTools(ffmpeg, lpips, flow, tof_max_pairs=pairs)


def _enhancer(settings: MeasureSettings, device: Device) -> Enhancer | None:
    """What shows DIST at REF's size: None where it has that size already and there are no
    weights, or where no scale of ours leads to it (which the core then refuses).
    """
    from codecaux.decoder.load import open_enhancer, plain_enhancer
    from codecaux.probe import probe
    from codecaux.video import SCALES, Geometry

    if settings.weights is not None:
        return open_enhancer(settings.distorted, settings.weights, device=device)
    ours, theirs = probe(settings.reference).format, probe(settings.distorted).format
    size, coded = (ours.width, ours.height), (theirs.width, theirs.height)
    if size == coded:
        return None
    for geometry in (Geometry(*size, scale) for scale in SCALES):
        if (geometry.coded_width, geometry.coded_height) == coded:
            return plain_enhancer(theirs, size, device)
    return None


def _measure_shown(
    settings: MeasureSettings, enhancer: Enhancer, tools: ScoreTools, watch: Watch | None
) -> Events[dict[str, Scores]]:
    """Score what the player would show of DIST, at the larger of both bit depths."""
    from codecaux.frames import read_frames
    from codecaux.measure import measure as measure_versions
    from codecaux.measure import to_bit_depth
    from codecaux.probe import probe

    shown = enhancer.format
    reference = probe(settings.reference).format
    target = replace(reference, bit_depth=max(reference.bit_depth, shown.bit_depth))
    versions = _VERSIONS if enhancer.has_weights else {"bicubic": _VERSIONS["bicubic"]}

    def pictures() -> Iterator[dict[str, Frame]]:
        for pair in enhancer.enhance_all(read_frames(settings.distorted)):
            yield {name: to_bit_depth(take(pair), shown, target) for name, take in versions.items()}

    return (
        yield from measure_versions(
            settings.reference, pictures(), tuple(versions), tools, format=target, watch=watch
        )
    )


_VERSIONS: dict[str, Callable[[Enhanced], Frame]] = {
    "bicubic": lambda pair: pair.base,
    "enhanced": lambda pair: pair.enhanced,
}
