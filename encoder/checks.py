"""What an encode refuses at once, before any time is spent on it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from codecaux.architecture import net_config
from codecaux.bases import get_base, known_base_ids
from codecaux.encoder.bank import BankSettings, run_frames
from codecaux.encoder.objective import objective_by_name
from codecaux.encoder.settings import EncodeSettings
from codecaux.encoder.stream import CONTAINERS
from codecaux.errors import InputError, LpipsUnavailableError, UsageError, WeightsBaseError
from codecaux.lpips_files import locate_lpips_weights

__all__ = ["bank_settings", "check_encode"]


def check_encode(settings: EncodeSettings) -> None:
    """Refuse at once what an encode of ``settings`` would refuse: UsageError, InputError."""
    _check_paths(settings)
    _check_settings(settings)


def _check_paths(settings: EncodeSettings) -> None:
    outputs = (settings.output, settings.weights)
    if outputs[0].resolve() == outputs[1].resolve():
        raise UsageError(f"expected two output files, got {settings.output} for both")
    for path in outputs:
        if settings.input != "-" and path.resolve() == Path(settings.input).resolve():
            raise UsageError(f"the output {path} is the input itself; choose another with -o")
        if path.is_dir():
            raise UsageError(f"expected a file name for the output, got the folder {path}")
        if not path.parent.is_dir():
            raise UsageError(f"expected the folder {path.parent} to exist; create it first")
        if not os.access(path.parent, os.W_OK):
            raise InputError(
                f"expected to be able to write {path}, got a folder that is read-only to you; "
                "choose another"
            )
        is_resumed = settings.resume and settings.work_dir.exists()
        if path.exists() and not (settings.overwrite or is_resumed):
            raise UsageError(f"{path} exists; add -y to replace it, or choose another with -o")


def _check_settings(settings: EncodeSettings) -> None:
    """What can be refused at once is not refused after an hour."""
    if settings.output.suffix.lower() not in CONTAINERS:
        raise UsageError(
            f"expected an output ending in {', '.join(CONTAINERS)}, got {settings.output}"
        )
    config = net_config(settings.net, settings.stream.scale)
    objective_by_name(settings.fit.objective).for_net(config)
    if settings.base is not None:
        try:
            get_base(settings.base, config)
        except WeightsBaseError as error:
            known = ", ".join(known_base_ids())
            raise UsageError(
                f"expected a base for the net {settings.net} at scale {settings.stream.scale}, got "
                f"{settings.base[:64]!r}; the bases here are {known}"
            ) from error
    bank_settings(settings)
    # None to be had is no reason to stop; a named file that is no such thing is.
    with suppress(LpipsUnavailableError):
        locate_lpips_weights("alex", explicit=settings.lpips_weights, allow_download=False)


def bank_settings(settings: EncodeSettings) -> BankSettings:
    """Of the patches that an encode fits on, but for what its objective wants."""
    fit = settings.fit
    config = net_config(settings.net, settings.stream.scale)
    patch, run = fit.patch * config.fold, run_frames(config)
    return BankSettings(patch=patch, max_bytes=fit.bank_bytes, seed=fit.seed, run=run)
