"""Everything that decides what an encode makes: frozen, with the one source of defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from codecaux.architecture import NETS
from codecaux.encoder.prepare import SourceOptions
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import InputError, UsageError
from codecaux.metadata import Json

__all__ = [
    "DEFAULT_STEPS",
    "EncodeSettings",
    "FitSettings",
    "changed_settings",
    "default_output",
    "default_steps",
    "identity",
]

# Enough for the curve to flatten on titles of a few seconds; see docs/experiments.md.
# Those of longer ones: default_steps.
DEFAULT_STEPS: dict[str, int] = {
    "tiny": 600,
    "light": 800,
    "full": 1500,
    "recurrent": 800,
    "recurrent-tiny": 600,
}
# 10 s of 960x540 at 30 fps, the largest title for which DEFAULT_STEPS are enough, in luma pixels.
_SHORT_TITLE = 155_520_000
_MOST_TIMES = 8.0


def default_steps(net: str, pixels: int) -> int:
    """Steps of a fit to a title of so many luma ``pixels``, at the source's size, in all frames.

    More of a title is more to learn (F38 in docs/experiments.md), and longer to watch: the steps
    grow with the square root of the pixels, up to 8 times, at 64 times the pixels.
    """
    times = math.sqrt(pixels / _SHORT_TITLE)
    return round(DEFAULT_STEPS[net] * min(max(times, 1.0), _MOST_TIMES))


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How long and how a network is fitted.

    steps or minutes (not both; neither: :func:`default_steps`) cover the float and the
    rounding phase, ``rounding_fraction`` of it for the latter. ``patch`` is in pixels of
    the network's input: of the coded picture, of its half at scale 1.
    ``rounding_errors`` rise; from the middle one on neighbours are tried, the cheapest is taken.
    Each is the RMS error that rounding at random would make, as a part of the error that the base
    leaves in the luma, and sets the coarseness of all steps
    (:func:`codecaux.encoder.gauss_newton.step_sizes`). ``rate_weight``: trains with the
    expected bits at so many times the title's own price (2: F31 in docs/experiments.md), 0 without.
    ``scene_sets``: scenes may have weights of their own, and ``scene_fraction`` of the steps of a
    title of several scenes are for them. ``sharpen``: 0 to 1, of the objective "fused"; None: the
    encoder chooses it.
    """

    steps: int | None = None
    minutes: float | None = None
    objective: str = "balanced"
    seed: int = 0
    batch: int = 8
    patch: int = 96
    bank_bytes: int = 256 << 20
    learning_rate: float = 8e-3
    rounding_fraction: float = 0.3
    rounding_learning_rate: float = 1e-3
    rounding_errors: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)
    rate_weight: float = 2.0
    scene_sets: bool = True
    scene_fraction: float = 0.4
    sharpen: float | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.minutes is not None:
            raise UsageError("expected --steps or --minutes, got both; give one of them")
        if self.steps is not None and self.steps < 10:
            raise UsageError(f"expected at least 10 steps, got {self.steps}")
        if self.minutes is not None and not 0 < self.minutes <= 60 * 24 * 7:
            raise UsageError(f"expected minutes above 0 and up to a week, got {self.minutes}")
        if not self.rounding_errors or min(self.rounding_errors) <= 0:
            raise UsageError(f"expected rounding errors above 0, got {self.rounding_errors}")
        if self.sharpen is not None and not 0.0 <= self.sharpen <= 1.0:
            raise UsageError(f"expected a sharpening of 0 to 1, got {self.sharpen}")
        if self.sharpen is not None and self.objective != "fused":
            raise UsageError(f"--sharpen is for --objective fused, not {self.objective}")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"expected a seed of 0 to 2^32 - 1, got {self.seed}")


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """One encode: ``input`` (a path, or "-" for y4m on standard input) to two files.

    ``base``: id of the base network to start from; None: the newest trained one of the net and
    scale. ``score_seconds``: of a longer title so much is scored, in runs spread over it.
    """

    input: str
    output: Path
    weights: Path
    stream: StreamSettings = field(default_factory=lambda: StreamSettings(crf=21.0))
    source: SourceOptions = field(default_factory=SourceOptions)
    net: str = "light"
    base: str | None = None
    fit: FitSettings = field(default_factory=FitSettings)
    device: str = "auto"
    lpips_weights: Path | None = None
    resume: bool = False
    overwrite: bool = False
    lpips_frames: int = 24
    score_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not self.score_seconds > 0:
            raise UsageError(f"expected more than 0 seconds to score, got {self.score_seconds:g}")
        if self.net not in NETS:
            raise UsageError(f"expected a net of {', '.join(NETS)}, got {self.net!r}")

    @property
    def work_dir(self) -> Path:
        """Where an encode keeps its unfinished parts: beside the output, gone when it is done."""
        return self.output.with_name(self.output.name + ".codecaux-work")


def default_output(source: str) -> Path:
    """The stream of ``source`` where no other is named: its name with .mp4, in the current folder.

    InputError for a folder without a name, "." and the like, which is no video.
    """
    name = Path(source).name
    if not name:
        raise InputError(f"expected a video file, got the folder {source}")
    return Path(name).with_suffix(".mp4")


def identity(settings: EncodeSettings) -> dict[str, Json]:
    """What must be equal for an interrupted encode to be resumed, as JSON values."""
    parts = {
        "input": settings.input,
        "stream": asdict(settings.stream),
        "source": asdict(settings.source),
        "net": settings.net,
        "base": settings.base,
        "fit": asdict(settings.fit),
    }
    plain = _plain(parts)
    assert isinstance(plain, dict)
    return plain


def changed_settings(settings: EncodeSettings) -> dict[str, Json]:
    """:func:`identity` without the input, and without what every encode has by default."""
    nothing = EncodeSettings(settings.input, settings.output, settings.weights)
    return _difference(identity(settings), identity(nothing))


def _difference(values: Mapping[str, Json], defaults: Mapping[str, Json]) -> dict[str, Json]:
    result: dict[str, Json] = {}
    for key, value in values.items():
        default = defaults[key]
        if isinstance(value, dict) and isinstance(default, dict):
            inner = _difference(value, default)
            if inner:
                result[key] = inner
        elif value != default:
            result[key] = value
    return result


def _plain(value: object) -> Json:
    """Dataclass values as JSON ones: Fractions as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)  # a Fraction, a Path
