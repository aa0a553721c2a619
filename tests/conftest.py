"""Clips made with ffmpeg's own sources, once a session, and a guard against left-over children."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codecaux.architecture import SrUnetConfig, parameter_shapes
from codecaux.encoder.prepare import SourceOptions, prepare
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.errors import FitError
from codecaux.events import Events, Progress, drain
from codecaux.ffmpeg import Ffmpeg, file_argument, find_ffmpeg, run_ffmpeg
from codecaux.hevc import hash_stream
from codecaux.ladders.fallback import FallbackSettings, encode_fallback
from codecaux.ladders.gops import rung_x265_params
from codecaux.ladders.package import PackageSettings, package
from codecaux.ladders.points import OperatingPoint
from codecaux.ladders.probes import Probe, Prober
from codecaux.ladders.rungs import AudioTrack, Rung
from codecaux.probe import probe
from codecaux.quantise import QuantisedTensor
from codecaux.rate import Rate
from codecaux.scores import POOLS
from codecaux.weightsfile import WeightSet, WeightsFile, WeightsMetadata, pack

MakeClip = Callable[..., Path]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CODECAUX_NO_SKIP=1 a skipped test has failed: what a test needs must be there.

    Tests marked ``cuda`` may skip all the same.
    """
    report = yield
    is_skipped = report.skipped and not hasattr(report, "wasxfail")
    is_forbidden = is_skipped and os.environ.get("CODECAUX_NO_SKIP") == "1"
    if is_forbidden and item.get_closest_marker("cuda") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped, and CODECAUX_NO_SKIP forbids it: {report.longrepr}"
    return report


_MASTERING = (
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    ":max-cll=1000,400:hdr10=1:log-level=error"
)


@pytest.fixture(autouse=True)
def no_children_left() -> Iterator[None]:
    """Every test must leave as many child processes as it found (where the system can say)."""
    before = _children()
    yield
    left = _children() - before
    assert not left, f"child processes left running: {sorted(left)}"


def _children() -> set[int]:
    tasks = Path("/proc/self/task")
    found: set[int] = set()
    for file in tasks.glob("*/children") if tasks.is_dir() else ():
        try:
            found.update(int(pid) for pid in file.read_text().split())
        except OSError:  # a thread that ended meanwhile
            continue
    return found


@pytest.fixture(scope="session")
def photos(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two photos, 460x452 and 640x480: what a camera can move over."""
    folder = tmp_path_factory.mktemp("photos")
    for name, source in (("a", "mandelbrot=s=460x452"), ("b", "testsrc2=s=640x480")):
        output = ["-frames:v", "1", file_argument(folder / f"{name}.png")]
        run_ffmpeg(ffmpeg, ["-v", "error", "-f", "lavfi", "-i", source, *output])
    return folder


@pytest.fixture(scope="session")
def ffmpeg() -> Ffmpeg:
    """The program that the product itself would use."""
    return find_ffmpeg()


@pytest.fixture(scope="session")
def make_clip(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """``make_clip("name.mkv", ...)``: a clip in the session's folder; made once for each name.

    ``source`` is one of ffmpeg's (testsrc2, mandelbrot, life), ``size`` any, odd too, ``filters``
    a filter chain put before the pixel format, ``inputs`` further input arguments, ``codec`` and
    ``options`` the output's. The default is lossless FFV1.
    """
    folder = tmp_path_factory.mktemp("clips")

    def make(
        name: str,
        *,
        source: str = "testsrc2",
        size: tuple[int, int] = (96, 64),
        fps: str = "24",
        frames: int = 12,
        pixel_format: str = "yuv420p",
        filters: str = "noise=alls=12:allf=t:all_seed=7",
        inputs: Sequence[str] = (),
        codec: str = "ffv1",
        options: Sequence[str] = (),
    ) -> Path:
        path = folder / name
        if path.exists():
            return path
        width, height = size
        # The sources round odd sizes to even ones, so that is done by cropping.
        drawn = f"{source}=size={width + width % 2}x{height + height % 2}:rate={fps}"
        crop = f"crop={width}:{height}:0:0:exact=1"
        chain = ",".join(part for part in (filters, f"format={pixel_format}", crop) if part)
        arguments = ["-v", "error", "-f", "lavfi", "-i", drawn, *inputs]
        arguments += ["-vf", chain, "-frames:v", str(frames), "-c:v", codec, *options]
        run_ffmpeg(ffmpeg, [*arguments, "-y", file_argument(path)])
        return path

    return make


@pytest.fixture(scope="session")
def clip(make_clip: MakeClip) -> Path:
    """96x64, 12 frames at 24 fps, 8 bit, BT.709 limited, exact timestamps (mp4, lossless x264)."""
    tags = "setparams=range=limited:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    return make_clip(
        "clip.mp4",
        filters=f"noise=alls=12:allf=t:all_seed=7,{tags}",
        codec="libx264",
        options=("-qp", "0", "-preset", "ultrafast"),
    )


@pytest.fixture(scope="session")
def clip_10bit(make_clip: MakeClip) -> Path:
    return make_clip(
        "clip10.mkv", source="mandelbrot", size=(160, 96), pixel_format="yuv420p10le", filters=""
    )


@pytest.fixture(scope="session")
def clip_odd(make_clip: MakeClip) -> Path:
    """99x75: chroma planes of 50x38."""
    return make_clip("odd.mkv", size=(99, 75), frames=6)


@pytest.fixture(scope="session")
def clip_vfr(make_clip: MakeClip) -> Path:
    """Gaps of 1001, 2002, 3003, ... ticks of 1/24000 s."""
    return make_clip(
        "vfr.mov",
        fps="24000/1001",
        filters="settb=1/24000,setpts=1001*N*(N+1)/2",
        options=("-fps_mode", "passthrough", "-enc_time_base", "1:24000"),
    )


@pytest.fixture(scope="session")
def clip_with_tracks(make_clip: MakeClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AAC audio and SubRip subtitles beside the pictures."""
    subtitles = tmp_path_factory.mktemp("subtitles") / "words.srt"
    subtitles.write_text("1\n00:00:00,100 --> 00:00:00,400\nA line of text\n", encoding="utf-8")
    sound = ("-f", "lavfi", "-t", "0.5", "-i", "sine=frequency=440")
    mapping = ("-map", "0:v", "-map", "1:a", "-map", "2:s", "-c:a", "aac", "-c:s", "srt")
    return make_clip(
        "tracks.mkv",
        inputs=(*sound, "-i", str(subtitles)),
        options=(*mapping, "-metadata", "title=A title", "-metadata:s:a:0", "language=fra"),
    )


@pytest.fixture(scope="session")
def clip_interlaced(make_clip: MakeClip) -> Path:
    return make_clip(
        "interlaced.mkv",
        filters="interlace=lowpass=0",
        fps="48",
        codec="libx264",
        options=("-flags", "+ilme+ildct", "-preset", "ultrafast"),
    )


@pytest.fixture(scope="session")
def clip_444(make_clip: MakeClip) -> Path:
    return make_clip("444.mkv", pixel_format="yuv444p", filters="")


@pytest.fixture(scope="session")
def clip_full_range(make_clip: MakeClip) -> Path:
    """MJPEG: full range, centred chroma, BT.601."""
    return make_clip("full.mkv", pixel_format="yuvj420p", codec="mjpeg", options=("-q:v", "2"))


@pytest.fixture(scope="session")
def clip_hdr10(make_clip: MakeClip) -> Path:
    tags = "setparams=range=limited:colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084"
    return make_clip(
        "hdr10.mp4",
        size=(160, 96),
        pixel_format="yuv420p10le",
        filters=tags,
        codec="libx265",
        options=("-preset", "ultrafast", "-x265-params", _MASTERING, "-tag:v", "hvc1"),
    )


@pytest.fixture(scope="session")
def clip_truncated(make_clip: MakeClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mp4 with its index at the front and the last 40 % missing."""
    whole = make_clip(
        "whole.mp4",
        frames=48,
        codec="libx264",
        options=("-preset", "ultrafast", "-movflags", "+faststart"),
    ).read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.mp4"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    return path


@dataclass
class FakeProbes:
    """What stands in for the making of probes: scores fall and rates halve as the CRF rises.

    ``made``: every probe that was made, with the CRF that it started from. ``fails``: probes that
    raise FitError. ``vmaf`` (CRF, scale) -> VMAF v1 of ours.
    """

    made: list[tuple[Probe, float | None]] = field(default_factory=list)
    fails: set[Probe] = field(default_factory=set)
    vmaf: Callable[[float, Fraction], float] = lambda crf, scale: (
        112.0 - crf - 2.0 * (float(scale) - 1.0)
    )

    def point(self, prober: Prober, probe: Probe) -> OperatingPoint:
        title = prober.title
        is_ours = probe.family == "ours"
        scale = probe.scale if is_ours else Fraction(1)
        quality = self.vmaf(probe.crf, scale) - (0.0 if is_ours else 1.5)
        kbps = 4000 * 2 ** ((18 - probe.crf) / 6) / float(scale) ** 1.2
        values = {"vmaf_v1": quality, "vmaf_v061": quality - 1, "vmaf_v061_neg": quality - 3}
        values |= {"lpips": (100 - quality) / 100, "psnr_y_db": quality / 2.5, "ssim": 0.9}
        shown = {metric: dict.fromkeys(POOLS, value) for metric, value in values.items()}
        lower = {m: {p: v - 2 * (m != "lpips") for p, v in by.items()} for m, by in shown.items()}
        stream_bytes = round(kbps * 125 * title.sample_seconds)
        return OperatingPoint(
            family=probe.family,
            crf=probe.crf,
            scale=scale,
            net=prober.settings.net if is_ours else "",
            coded_width=int(title.width / scale),
            coded_height=int(title.height / scale),
            rate=Rate(stream_bytes, 4000 * is_ours, title.sample_seconds),
            title_seconds=title.duration_seconds,
            plain=lower if is_ours else shown,
            enhanced=shown,
        )

    def make(
        self, prober: Prober, probe: Probe, start: Probe | None, folder: Path
    ) -> Events[tuple[OperatingPoint, bytes]]:
        if probe in self.fails:
            raise FitError("the fit diverged twice; try another --seed")
        self.made.append((probe, None if start is None else start.crf))
        yield Progress("fit", 1, 1, "steps", 0.01)
        return self.point(prober, probe), b"weights" * (probe.family == "ours")


@pytest.fixture
def fake_probes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeProbes:
    """No probe is really made; the cache is a folder of the test's own."""
    fake = FakeProbes()
    for name in ("_ours", "_x265"):
        monkeypatch.setattr(Prober, name, lambda *arguments: fake.make(*arguments))
    monkeypatch.setenv("CODECAUX_CACHE", str(tmp_path / "cache"))
    return fake


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Folder of real footage: $CODECAUX_CLIPS, else ../shared/clips beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "clips"
    folder = Path(os.environ.get("CODECAUX_CLIPS", default))
    if not folder.is_dir():
        pytest.skip("no real clips here; set CODECAUX_CLIPS to a folder of them")
    return folder


@pytest.fixture(scope="session")
def ladder_parts(make_clip: MakeClip, tmp_path_factory: pytest.TempPathFactory) -> LadderParts:
    """Finished rungs of one title: 128x72, 85 frames at 25 fps with a cut, AAC sound, segments of
    1 s; made-up weights that two rungs of 64x36 share.
    """
    folder = tmp_path_factory.mktemp("rungs")
    sound = ("-f", "lavfi", "-t", "3.4", "-i", "sine=frequency=440:sample_rate=48000")
    clip = make_clip(
        "ladder.mkv",
        size=(128, 72),
        fps="25",
        frames=85,
        # Another picture from frame 35 on: x265 would like a keyframe there.
        filters="negate=enable='gte(n,35)',"
        "setparams=range=limited:colorspace=bt709:color_primaries=bt709:color_trc=bt709",
        inputs=sound,
        options=("-c:a", "aac"),
    )
    return make_ladder_parts(clip, folder)


@dataclass(frozen=True)
class LadderParts:
    """``low`` and ``middle`` share ``weights``, which were made for ``middle``."""

    source: Path
    low: Path
    middle: Path
    high: Path
    fallback: Path
    weights: Path


def make_ladder_parts(clip: Path, folder: Path) -> LadderParts:
    ffmpeg, second = find_ffmpeg(), Fraction(1)
    source = drain(prepare(clip, SourceOptions(), folder / "work"))
    streams = {}
    for name, crf, scale in (("low", 42, 2), ("middle", 30, 2), ("high", 30, 1)):
        params = rung_x265_params(source.info.average_fps, second, max_kbps=400)
        settings = StreamSettings(crf, "superfast", Fraction(scale), x265_params=params)
        streams[name] = folder / f"{name}.mp4"
        drain(encode_stream(source, settings, streams[name], ffmpeg))
    fallback = FallbackSettings(segment_frames=25, preset="superfast", max_kbps=400)
    drain(encode_fallback(source, fallback, folder / "h264.mp4", ffmpeg))
    weights = write_random_weights(streams["middle"], folder / "shared.weights", (128, 72), 85)
    return LadderParts(clip, **streams, fallback=folder / "h264.mp4", weights=weights)


def write_random_weights(stream: Path, path: Path, shown: tuple[int, int], frames: int) -> Path:
    """Weights of the smallest net there is, large enough to change the picture."""
    config = SrUnetConfig("test", (2, 2, 2, 2), (1, 1, 1, 1, 1, 1, 1), Fraction(2))
    info, rng = probe(stream), np.random.default_rng(5)
    tensors = {
        name: QuantisedTensor(rng.integers(-3, 4, shape).astype(np.int32), 0.03125)
        for name, shape in parameter_shapes(config).items()
    }
    metadata = WeightsMetadata(
        architecture=config,
        source_width=shown[0],
        source_height=shown[1],
        num_frames=frames,
        bit_depth=info.format.bit_depth,
        colour=info.format.colour,
        stream=hash_stream(stream),
    )
    path.write_bytes(pack(WeightsFile(metadata, (WeightSet(0, None, tensors),))))
    return path


@pytest.fixture(scope="session")
def random_weights() -> Callable[[Path, Path, tuple[int, int], int], Path]:
    """``write_random_weights``, for tests of other modules."""
    return write_random_weights


@pytest.fixture(scope="session")
def ladder(ladder_parts: LadderParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ladder_parts`` packaged; treat as read-only."""
    folder = tmp_path_factory.mktemp("ladders") / "title"
    drain(package(*rungs_of(ladder_parts), folder, PackageSettings(Fraction(1))))
    return folder


def rungs_of(parts: LadderParts) -> tuple[list[Rung], list[AudioTrack]]:
    rungs = [
        Rung(parts.high),
        Rung(parts.fallback),
        Rung(parts.middle, parts.weights),
        Rung(parts.low, parts.weights),
    ]
    return rungs, [AudioTrack(parts.middle, name="Sine", language="en")]
