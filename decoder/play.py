"""Play a stream with its weights: to a window, to a file, to standard output."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from codecaux.decoder.compare import compare_frame
from codecaux.decoder.ladder_input import SUFFIXES, is_ladder, open_rung
from codecaux.decoder.muxing import subtitle_codecs, subtitle_names
from codecaux.decoder.pipeline import (
    FpsPolicy,
    FrameEnhancer,
    OutputFormat,
    Pair,
    PipelineSettings,
    PipelineStatistics,
    PlainPair,
    Sink,
    run_pipeline,
    take_enhanced,
)
from codecaux.decoder.sinks import (
    FileSink,
    StdoutFormat,
    choose_codec,
    even_format,
    stdout_sink,
)
from codecaux.decoder.timing import constant_rate
from codecaux.decoder.window import WindowSink, find_player
from codecaux.errors import UsageError
from codecaux.events import Events, Notice
from codecaux.frames import read_frames, require_planar_420
from codecaux.probe import probe
from codecaux.video import ClipInfo, Frame, VideoFormat

__all__ = ["AsCoded", "OpenEnhancer", "PlayReport", "PlaySettings", "find_weights", "play"]

# (settings, weights) -> the enhancer, and the description of the device that it runs on.
OpenEnhancer = Callable[["PlaySettings", Path], tuple[FrameEnhancer, str]]


@dataclass(frozen=True, slots=True)
class PlaySettings:
    """What to play and where to.

    ``weights`` None: a file beside the stream, if there is one. ``output`` None: a window; "-":
    standard output. ``codec`` and ``crf`` None: by the output's suffix. ``player``: a name or path
    of mpv or ffplay, None for the first on PATH. ``force``: foreign weights are applied.
    ``rung`` of a ladder (``stream`` is its .m3u8, .mpd or .json): number or height, None for the
    highest. ``sound``: the file of audio and subtitles, None for the stream itself.
    ``start_sha256``: see :func:`codecaux.decoder.load.open_enhancer`. ``plain``: no weights.
    """

    stream: Path
    weights: Path | None = None
    output: Path | Literal["-"] | None = None
    codec: str | None = None
    crf: float | None = None
    stdout_format: StdoutFormat = "y4m"
    compare: bool = False
    force: bool = False
    device: str = "auto"
    fps_policy: FpsPolicy = "slow"
    player: str | None = None
    overwrite: bool = False
    rung: str | None = None
    sound: Path | None = None
    start_sha256: str | None = None
    plain: bool = False


@dataclass(frozen=True, slots=True)
class PlayReport:
    """What was played. Sizes are luma pixels; ``device`` is "" where no network was needed.

    ``late_frames`` were due before their turn came; ``bypassed_frames`` of them were shown plain.
    ``enhanced_frames`` went through the network: none without weights. ``is_stopped``: the viewer
    closed the window (or the pipe) before the end.
    """

    num_frames: int
    enhanced_frames: int
    bypassed_frames: int
    late_frames: int
    wall_seconds: float
    network_seconds: float
    media_seconds: float
    realtime_factor: float
    device: str
    weights: Path | None
    output: Path | Literal["-"] | None
    coded_size: tuple[int, int]
    shown_size: tuple[int, int]
    is_stopped: bool


def play(
    settings: PlaySettings, *, open_enhancer: OpenEnhancer | None = None
) -> Events[PlayReport]:
    """Play ``settings.stream``, or a rung of the ladder that it describes. ``open_enhancer``
    replaces how weights are loaded.

    Raises UsageError (output exists or is an input, settings that contradict each other),
    InputError, the WeightsErrors (WeightsStreamMismatchError for foreign weights unless forced),
    ToolErrors, DeviceError. An output file appears whole or not at all.
    """
    if settings.plain and settings.weights is not None:
        raise UsageError(f"expected --plain or weights, got both ({settings.weights})")
    if is_ladder(settings.stream):
        return (yield from _play_rung(settings, open_enhancer))
    if settings.rung is not None:
        raise UsageError(
            f"expected --rung with a ladder ({', '.join(SUFFIXES)}), got {settings.stream}"
        )
    return (yield from _play_stream(settings, open_enhancer))


def _play_rung(settings: PlaySettings, open_enhancer: OpenEnhancer | None) -> Events[PlayReport]:
    """The joined rung, from a folder that is gone afterwards."""
    _check_output(settings, (settings.stream, settings.weights))
    with tempfile.TemporaryDirectory(prefix="codecaux-") as folder:
        opened = open_rung(settings.stream, settings.rung, Path(folder))
        _check_output(settings, (*opened.parts, opened.weights))
        yield Notice(f"rung {opened.number} of {opened.count}: {opened.name}")
        joined = replace(
            settings,
            stream=opened.stream,
            sound=opened.sound,
            weights=None if settings.plain else settings.weights or opened.weights,
            # Weights that the user names must say themselves whose they are.
            start_sha256=None if settings.weights else opened.start_sha256,
        )
        return (yield from _play_stream(joined, open_enhancer))


def _play_stream(settings: PlaySettings, open_enhancer: OpenEnhancer | None) -> Events[PlayReport]:
    weights = None if settings.plain else settings.weights or find_weights(settings.stream)
    _check_settings(settings, weights)
    sink = _make_sink(settings)
    info = probe(settings.stream)
    require_planar_420(info)
    enhancer: FrameEnhancer = AsCoded(info.format)
    device = ""
    if weights is not None:
        enhancer, device = (open_enhancer or _open_enhancer)(settings, weights)
    output = _output_format(settings, info, enhancer)
    yield from _notices(settings, weights, device, output)
    statistics = yield from run_pipeline(
        read_frames(settings.stream, info=info),
        enhancer,
        sink,
        output,
        PipelineSettings(
            fps_policy=settings.fps_policy,
            compose=_composer(settings, enhancer),
            num_frames=info.num_frames_from_header,
        ),
    )
    yield from _shortfall(info, statistics)
    return _report(settings, weights, device, (info.format, output.format), statistics)


def find_weights(stream: Path) -> Path | None:
    """The weights file beside a stream: title.weights or title.mp4.weights for title.mp4."""
    for name in (stream.with_suffix(".weights"), stream.with_name(stream.name + ".weights")):
        if name.is_file():
            return name
    return None


class AsCoded:
    """The "enhancer" of a stream without weights: pictures as they are, at their own size."""

    def __init__(self, video_format: VideoFormat) -> None:
        self.format = video_format

    def enhance(self, frame: Frame, index: int) -> PlainPair:
        return PlainPair(frame)

    def base(self, frame: Frame) -> Frame:
        return frame


def _check_settings(settings: PlaySettings, weights: Path | None) -> None:
    """Everything that can be refused before a file is opened."""
    if settings.compare and weights is None:
        raise UsageError(
            "expected weights for --compare, got none, given or beside the stream: there is "
            "nothing to compare with; name the weights file"
        )
    _check_output(settings, (settings.stream, weights))


def _check_output(settings: PlaySettings, sources: Iterable[Path | None]) -> None:
    """The output file is none of ``sources``, and may be written."""
    output = settings.output
    if not isinstance(output, Path):
        return
    for source in sources:
        if source is not None and _is_same_file(output, source):
            raise UsageError(
                f"expected an output other than the input, got {output} for both; "
                "choose another name"
            )
    if output.is_dir():
        raise UsageError(f"expected a file for -o, got the folder {output}; name a file in it")
    if output.exists() and not settings.overwrite:
        raise UsageError(f"{output} exists; pass -y to replace it, or choose another name")


def _is_same_file(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _make_sink(settings: PlaySettings) -> Sink:
    tracks = settings.sound or settings.stream
    if settings.output == "-":
        return stdout_sink(settings.stdout_format, tracks)
    if settings.output is None:
        return WindowSink(find_player(settings.player), tracks, title=settings.stream.name)
    codec = choose_codec(settings.output, settings.codec, settings.crf)
    return FileSink(settings.output, tracks, codec)


def _open_enhancer(settings: PlaySettings, weights: Path) -> tuple[FrameEnhancer, str]:
    # Here and not above: torch takes seconds to import, and what is wrong is said before.
    from codecaux.decoder.load import open_enhancer
    from codecaux.device import choose_device

    device = choose_device(settings.device)
    enhancer = open_enhancer(
        settings.stream,
        weights,
        device=device,
        force=settings.force,
        start_sha256=settings.start_sha256,
    )
    return enhancer, device.description


def _output_format(settings: PlaySettings, info: ClipInfo, enhancer: FrameEnhancer) -> OutputFormat:
    is_y4m = settings.output == "-" and settings.stdout_format == "y4m"
    return OutputFormat(
        format=enhancer.format,
        time_base=info.time_base,
        average_fps=info.average_fps,
        constant_fps=constant_rate(settings.stream) if is_y4m else None,
        sample_aspect_ratio=info.sample_aspect_ratio,
        rotation_degrees=info.rotation_degrees,
    )


def _composer(settings: PlaySettings, enhancer: FrameEnhancer) -> Callable[[Pair], Frame]:
    if settings.compare:
        return partial(compare_frame, video_format=enhancer.format)
    return take_enhanced


def _notices(
    settings: PlaySettings, weights: Path | None, device: str, output: OutputFormat
) -> Iterator[Notice]:
    if weights is None:
        yield Notice(
            f"no weights given and none beside {settings.stream.name}: playing the stream as it "
            "is, not enhanced"
        )
    else:
        yield Notice(f"weights: {weights}")
        yield Notice(f"device: {device}")
    if settings.force and weights is not None:
        yield Notice("--force: the weights are applied whichever stream they belong to", "warning")
    if isinstance(settings.output, Path):
        yield from _file_notices(settings.output, settings, output)


def _file_notices(target: Path, settings: PlaySettings, output: OutputFormat) -> Iterator[Notice]:
    even = even_format(output.format)
    codec = choose_codec(target, settings.codec, settings.crf).name
    if codec != "ffv1" and even != output.format:
        yield Notice(
            f"{codec} takes even sizes only: {output.format.width}x{output.format.height} is "
            f"padded to {even.width}x{even.height}; --codec ffv1 keeps the size",
            "warning",
        )
    is_mp4 = target.suffix.lower() == ".mp4"
    codecs = subtitle_codecs(subtitle_names(settings.sound or settings.stream), is_mp4=is_mp4)
    if None in codecs:
        yield Notice(
            f"{codecs.count(None)} of {len(codecs)} subtitle streams cannot be stored in "
            f"{target.suffix} and are left out",
            "warning",
        )


def _shortfall(info: ClipInfo, done: PipelineStatistics) -> Iterator[Notice]:
    """A warning where the stream ended long before its header says."""
    promised = info.num_frames_from_header
    if promised is None or done.is_stopped:
        return
    # A header may count a frame or two that no player shows.
    if promised - done.num_frames > max(2, promised // 50):
        yield Notice(
            f"{info.path} is truncated or damaged: expected {promised} frames as its header "
            f"promises, got {done.num_frames}; fetch or copy the file again",
            "warning",
        )


def _report(
    settings: PlaySettings,
    weights: Path | None,
    device: str,
    sizes: tuple[VideoFormat, VideoFormat],
    done: PipelineStatistics,
) -> PlayReport:
    coded, shown = sizes
    return PlayReport(
        num_frames=done.num_frames,
        enhanced_frames=done.enhanced_frames if weights is not None else 0,
        bypassed_frames=done.bypassed_frames if weights is not None else 0,
        late_frames=done.late_frames,
        wall_seconds=done.wall_seconds,
        network_seconds=done.network_seconds,
        media_seconds=done.media_seconds,
        realtime_factor=done.realtime_factor,
        device=device,
        weights=weights,
        output=settings.output,
        coded_size=(coded.width, coded.height),
        shown_size=(shown.width, shown.height),
        is_stopped=done.is_stopped,
    )
