"""The command line that makes a given encode: what a curve or a target search ends with."""

from __future__ import annotations

import shlex
from fractions import Fraction

from codecaux.encoder.settings import EncodeSettings

__all__ = ["encode_command"]

_STREAM_OPTIONS = ("preset", "downscale", "tuning")
_FIT_OPTIONS = ("steps", "minutes", "objective", "seed")


def encode_command(settings: EncodeSettings) -> str:
    """`codecaux encode ...` with CRF, scale and net spelt out, and what else is not the default."""
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
    return shlex.join([*words, *_source_words(settings), settings.input])


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
