"""`codecaux measure`: the scores of any pair."""

from __future__ import annotations

from pathlib import Path

import click

from codecaux.cli.options import (
    device_option,
    file_path,
    json_option,
    lpips_option,
    quiet_option,
)


@click.command()
@click.argument("reference", metavar="REF", type=file_path())
@click.argument("distorted", metavar="DIST", type=file_path())
@click.option("--weights", type=file_path(), help="Weights of DIST: scores it plain and enhanced.")
@lpips_option
@device_option
@quiet_option
@json_option
def measure(
    reference: Path,
    distorted: Path,
    weights: Path | None,
    lpips_weights: Path | None,
    device: str,
    quiet: bool,
    json_output: bool,
) -> None:
    """Score DIST against REF: VMAF v1, v0.6.1, NEG, LPIPS, PSNR-Y, SSIM.

    Frames are paired by index. A DIST of another size is brought to REF's by plain bicubic.
    """
    raise NotImplementedError
