"""The command line that makes a given encode: what a curve or a target search ends with."""

from __future__ import annotations

import shlex
from fractions import Fraction
from pathlib import Path

from codecaux.encoder.settings import EncodeSettings, default_output

__all__ = ["encode_command", "free_outputs"]

_STREAM_OPTIONS = ("preset", "downscale", "tuning")
_FIT_OPTIONS = ("steps", "minutes", "objective", "seed")


def encode_command(settings: EncodeSettings) -> str:
    """`codecaux encode ...` with CRF, scale and net spelt out, and what else is not the default:
    outputs too, where `codecaux encode` would choose others.
    """
    stream, fit = settings.stream, settings.fit
    default = EncodeSettings(settings.input, settings.output, settings.weights)
    words = ["codecaux", "encode", "--crf", f"{stream.crf:g}", "--scale", _scale(stream.scale)]
    words += ["--net", settings.net]
    for name in _STREAM_OPTIONS:
        if getattr(stream, name) != getattr(default.stream, name):
            words += [f"--{name}", str(getattr(stream, name))]
    if stream.x265_params:
        words += [
            "--x265-params",
            ":".join(f"{name}={value}" for name, value in stream.x265_params),
        ]
    if settings.base is not None:
        words += ["--base", settings.base]
    for name in _FIT_OPTIONS:
        if getattr(fit, name) != getattr(default.fit, name):
            words += [f"--{name}", f"{getattr(fit, name)}"]
    if fit.sharpen is not None:
        words += ["--sharpen", f"{fit.sharpen:g}" if fit.sharpen else "off"]
    if fit.bank_bytes != default.fit.bank_bytes:
        words += ["--bank-mib", str(fit.bank_bytes >> 20)]
    words += [*_source_words(settings), *_machine_words(settings, default), *_outputs(settings)]
    return shlex.join([*words, *_input_words(settings.input)])


def free_outputs(path: str) -> tuple[Path, Path]:
    """Stream and weights of an encode of ``path`` for which nobody named any: as `codecaux encode`
    calls them, or another name where that is the input's own.
    """
    output = default_output(path)
    if output.resolve() == Path(path).resolve():
        output = output.with_stem(f"{output.stem}-codecaux")
    return output, output.with_suffix(".weights")


def _scale(scale: Fraction) -> str:
    return f"{float(scale):g}"


def _source_words(settings: EncodeSettings) -> list[str]:
    source = settings.source
    words: list[str] = []
    if source.raw_size is not None:
        words += ["--size", "x".join(map(str, source.raw_size)), "--fps", str(source.raw_fps)]
        words += ["--pix-fmt", source.raw_pixel_format or "yuv420p"]
    words += ["--deinterlace"] if source.deinterlace else []
    words += ["--to-420"] if source.to_420 else []
    return words


def _machine_words(settings: EncodeSettings, default: EncodeSettings) -> list[str]:
    """How it is scored, and on what it runs."""
    words: list[str] = []
    if settings.score_seconds != default.score_seconds:
        words += ["--score-seconds", f"{settings.score_seconds}"]
    if settings.device != default.device:
        words += ["--device", settings.device]
    if settings.lpips_weights is not None:
        words += ["--lpips-weights", str(settings.lpips_weights)]
    return words


def _outputs(settings: EncodeSettings) -> list[str]:
    output, words = settings.output, []
    if output != default_output(settings.input):
        words += ["-o", str(output)]
    if settings.weights != output.with_suffix(".weights"):
        words += ["--weights", str(settings.weights)]
    return words


def _input_words(path: str) -> list[str]:
    """A name that begins like an option is none after "--"."""
    return ["--", path] if path.startswith("-") and path != "-" else [path]
