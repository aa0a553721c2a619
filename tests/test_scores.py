"""The scorer: VMAF through the stacked pipe is VMAF of two files; the laws of its numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codecaux import vmaf
from codecaux.colour import frame_to_rgb
from codecaux.errors import InputError, ToolFailedError, UsageError
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg
from codecaux.lpips import Lpips, lpips_state_shapes
from codecaux.sampling import EvenSampling
from codecaux.scores import (
    METRICS,
    POOLS,
    PSNR_CAP_DB,
    Scorer,
    Scores,
    ScoreTools,
    pooled,
    psnr_db,
)
from codecaux.temporal import TEMPORAL_METRICS, Flow, find_flow
from codecaux.video import Frame, SampleArray, VideoFormat

FPS = Fraction(30000, 1001)
FLOW = find_flow()
VMAFS = ("vmaf_v1", "vmaf_v061", "vmaf_v061_neg")


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    """Right shapes, random weights: the laws tested here hold for any."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.rand(shape, generator=generator) / math.prod(shape[1:]) ** 0.5
        for name, shape in lpips_state_shapes("alex").items()
    }
    return Lpips("alex", tensors)


def smooth_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Texture at several scales in 0..1, so that neither VMAF feature is degenerate."""
    total = np.zeros((height, width))
    for step in (1, 4, 16):
        coarse = rng.random((-(-height // step), -(-width // step)))
        total += np.kron(coarse, np.ones((step, step)))[:height, :width]
    return total / 3


def make_frames(layout: VideoFormat, count: int, seed: int = 0) -> list[Frame]:
    """A textured picture that moves two pixels a frame, with coloured chroma."""
    rng = np.random.default_rng(seed)
    low, span = 16 << (layout.bit_depth - 8), 219 << (layout.bit_depth - 8)
    luma = low + span * smooth_noise(rng, layout.height, layout.width)
    chroma = low + span * smooth_noise(rng, layout.chroma_height, layout.chroma_width)
    return [
        Frame(
            np.roll(luma, 2 * i, 1).astype(layout.dtype),
            np.roll(chroma, i, 1).astype(layout.dtype),
            np.roll(chroma, -i, 0).astype(layout.dtype),
            i,
        )
        for i in range(count)
    ]


def box_blur(plane: SampleArray) -> SampleArray:
    padded = np.pad(plane.astype(np.int64), 1, mode="edge")
    height, width = plane.shape
    total = sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return (np.asarray(total) // 9).astype(plane.dtype)


def blurred(frame: Frame, times: int = 1) -> Frame:
    for _ in range(times):
        frame = Frame(*(box_blur(plane) for plane in frame.planes), frame.pts)
    return frame


def score(
    ffmpeg: Ffmpeg,
    layout: VideoFormat,
    frames: Sequence[Frame],
    *,
    lpips: Lpips | None = None,
    flow: Flow | None = FLOW,
    **versions: Sequence[Frame],
) -> dict[str, Scores]:
    with Scorer(
        layout,
        list(versions),
        ScoreTools(ffmpeg, lpips, flow),
        fps=FPS,
        num_frames_hint=len(frames),
    ) as scorer:
        for index, frame in enumerate(frames):
            scorer.add(frame, {name: version[index] for name, version in versions.items()})
        return scorer.finish()


# --------------------------------------------------------------------- against ffmpeg on two files


def write_yuv(path: Path, frames: Sequence[Frame]) -> None:
    path.write_bytes(b"".join(plane.tobytes() for frame in frames for plane in frame.planes))


def direct_scores(
    ffmpeg: Ffmpeg, layout: VideoFormat, folder: Path
) -> dict[str, tuple[float, ...]]:
    """What ffmpeg says of two raw files, by a command that shares nothing with ours."""
    size = f"{layout.width}x{layout.height}"
    options = ["-f", "rawvideo", "-pix_fmt", layout.pixel_format, "-s", size, "-r", "25"]
    names = {"vmaf_v1": "vmaf_v1.0.16_3d0h", **vmaf.V0_MODELS}
    models = "|".join(rf"version={model}\\:name={key}" for key, model in names.items())
    graph = (
        "[1:v]split[d0][d1];[0:v]split[r0][r1];"
        f"[d0][r0]libvmaf=model={models}:log_fmt=json:log_path=direct.json[x];[x]nullsink;"
        "[d1][r1]ssim=stats_file=direct.log"
    )
    inputs = [*options, "-i", "ref.yuv", *options, "-i", "dist.yuv"]
    run_ffmpeg(ffmpeg, ["-v", "error", *inputs, "-lavfi", graph, "-f", "null", "-"], cwd=folder)
    frames = json.loads((folder / "direct.json").read_text())["frames"]
    scores = {key: tuple(f["metrics"][key] for f in frames) for key in VMAFS}
    lines = (folder / "direct.log").read_text().splitlines()
    return scores | {"ssim": tuple(float(line.split()[1].removeprefix("Y:")) for line in lines)}


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_stacked_pipe_equals_two_files(ffmpeg: Ffmpeg, tmp_path: Path, bit_depth: int) -> None:
    layout = VideoFormat(576, 320, bit_depth)  # large enough for chroma to count in v1
    frames = make_frames(layout, 3)
    soft, softer = [blurred(f) for f in frames], [blurred(f, 2) for f in frames]
    ours = score(ffmpeg, layout, frames, soft=soft, softer=softer)
    write_yuv(tmp_path / "ref.yuv", frames)
    for name, version in (("soft", soft), ("softer", softer)):
        write_yuv(tmp_path / "dist.yuv", version)
        for metric, values in direct_scores(ffmpeg, layout, tmp_path).items():
            # The logs print six decimals.
            assert ours[name].per_frame[metric] == pytest.approx(values, abs=1e-6), metric


# ------------------------------------------------------------------------------------------ laws


def test_equal_and_blurred(ffmpeg: Ffmpeg, lpips: Lpips) -> None:
    layout = VideoFormat(240, 176)
    frames = make_frames(layout, 3)
    scores = score(
        ffmpeg,
        layout,
        frames,
        lpips=lpips,
        same=frames,
        soft=[blurred(f) for f in frames],
        softer=[blurred(f, 3) for f in frames],
    )
    same, soft, softer = scores["same"], scores["soft"], scores["softer"]
    assert all(same.value(metric) >= 97 for metric in VMAFS)  # type: ignore[operator]
    assert (same.psnr_y_db, same.ssim, same.lpips) == (PSNR_CAP_DB, 1.0, 0.0)
    for metric in (*VMAFS, "psnr_y_db", "ssim"):
        a, b, c = (s.value(metric) for s in (same, soft, softer))
        assert a is not None and b is not None and c is not None  # noqa: PT018
        assert a > b > c, metric
    for metric in ("lpips", "tof", "rpf_deviation"):
        a, b, c = (s.value(metric) for s in (same, soft, softer))
        assert a is not None and b is not None and c is not None  # noqa: PT018
        assert c > b > a == 0, metric
    assert (same.rpf_mean, same.tof_pairs) == (0.0, 2)
    assert same.num_frames == same.lpips_frames == 3
    assert same.vmaf_v1_model == "vmaf_v1.0.16_3d0h"
    assert same.missing == {}


def test_chroma_reaches_vmaf_v1_only(ffmpeg: Ffmpeg) -> None:
    # A wrong order of planes in the stack would show here. SpEED sees nothing at 416x240.
    layout = VideoFormat(576, 320)
    frames = make_frames(layout, 1)
    soft = [Frame(box_blur(f.y), f.u, f.v, f.pts) for f in frames]
    bland = [Frame(f.y, blurred(f, 4).u, blurred(f, 4).v, f.pts) for f in soft]
    scores = score(ffmpeg, layout, frames, soft=soft, bland=bland)
    assert scores["bland"].vmaf_v061 == scores["soft"].vmaf_v061
    assert scores["bland"].ssim == scores["soft"].ssim
    assert scores["bland"].vmaf_v1 < scores["soft"].vmaf_v1 - 1  # type: ignore[operator]


def test_only_what_is_asked_for_is_computed(ffmpeg: Ffmpeg) -> None:
    layout = VideoFormat(216, 160)
    frames = make_frames(layout, 2)
    soft = [blurred(frame) for frame in frames]
    everything = score(ffmpeg, layout, frames, soft=soft)["soft"]
    tools = ScoreTools(ffmpeg, only=frozenset({"vmaf_v061_neg"}))
    with Scorer(layout, ["soft"], tools, fps=FPS, num_frames_hint=2) as scorer:
        for frame, version in zip(frames, soft, strict=True):
            scorer.add(frame, {"soft": version})
        scores = scorer.finish()["soft"]
    assert scores.vmaf_v061_neg == everything.vmaf_v061_neg is not None
    assert scores.psnr_y_db == everything.psnr_y_db  # which is none of ffmpeg's
    for metric in ("vmaf_v1", "vmaf_v061", "ssim"):
        assert everything.value(metric) is not None
        assert scores.value(metric) is None
        assert scores.missing[metric] == "was not asked for"


def test_versions_together_equal_one_by_one(ffmpeg: Ffmpeg, lpips: Lpips) -> None:
    layout = VideoFormat(96, 64)
    frames = make_frames(layout, 2)
    soft, softer = [blurred(f) for f in frames], [blurred(f, 2) for f in frames]
    both = score(ffmpeg, layout, frames, lpips=lpips, soft=soft, softer=softer)
    alone = score(ffmpeg, layout, frames, lpips=lpips, softer=softer)
    for metric, values in alone["softer"].per_frame.items():
        assert both["softer"].per_frame[metric] == pytest.approx(values, rel=1e-6), metric


@pytest.mark.parametrize("size", [(217, 161), (97, 64), (64, 63)])
def test_odd_sizes_equal_the_padded_picture(ffmpeg: Ffmpeg, size: tuple[int, int]) -> None:
    layout = VideoFormat(*size)
    even = VideoFormat(size[0] + size[0] % 2, size[1] + size[1] % 2)
    pad = ((0, size[1] % 2), (0, size[0] % 2))
    frames = make_frames(layout, 2)
    soft = [blurred(f) for f in frames]

    def padded(version: list[Frame]) -> list[Frame]:
        return [Frame(np.pad(f.y, pad, mode="edge"), f.u, f.v, f.pts) for f in version]

    ours = score(ffmpeg, layout, frames, soft=soft)["soft"]
    other = score(ffmpeg, even, padded(frames), soft=padded(soft))["soft"]
    for metric in ("vmaf_v1", "vmaf_v061", "ssim"):
        assert ours.value(metric) == other.value(metric)


def test_one_frame(ffmpeg: Ffmpeg, lpips: Lpips) -> None:
    layout = VideoFormat(240, 176)
    frames = make_frames(layout, 1)
    scores = score(ffmpeg, layout, frames, lpips=lpips, soft=[blurred(frames[0])])["soft"]
    assert {m for m in METRICS if scores.value(m) is None} == set(TEMPORAL_METRICS)
    assert set(scores.missing) == set(TEMPORAL_METRICS)
    assert set(scores.missing.values()) == {"not defined for a clip of one frame"}
    assert (scores.num_frames, scores.lpips_frames, scores.tof_pairs) == (1, 1, 0)


@pytest.mark.parametrize(
    ("size", "missing"),
    [
        ((216, 160), set()),
        ((160, 216), set()),
        ((214, 160), {"vmaf_v1"}),
        ((400, 158), {"vmaf_v1"}),
        ((31, 31), {"vmaf_v1"}),
        ((30, 40), {"vmaf_v1", "lpips"}),
        ((18, 18), {"vmaf_v1", "lpips"}),
        ((16, 16), {"vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "lpips"}),
        ((8, 8), {"vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "lpips"}),
        ((6, 6), {"vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "lpips", "ssim"}),
        ((1, 1), {"vmaf_v1", "vmaf_v061", "vmaf_v061_neg", "lpips", "ssim"}),
    ],
)
def test_small_pictures_lack_scores_but_never_fail(
    ffmpeg: Ffmpeg, lpips: Lpips, size: tuple[int, int], missing: set[str]
) -> None:
    layout = VideoFormat(*size)
    frames = make_frames(layout, 3)
    scores = score(ffmpeg, layout, frames, lpips=lpips, soft=[blurred(f) for f in frames])["soft"]
    assert {metric for metric in METRICS if scores.value(metric) is None} == missing
    assert set(scores.missing) == missing
    assert all("or more" in reason for reason in scores.missing.values())


def test_tall_pictures_use_the_4k_model() -> None:
    assert vmaf.vmaf_v1_model(VideoFormat(2560, 1440)) == "vmaf_v1.0.16_3d0h"
    assert vmaf.vmaf_v1_model(VideoFormat(3840, 2160)) == "vmaf_v1.0.16_1d5h_2160"


def test_the_4k_model_is_in_the_program(ffmpeg: Ffmpeg) -> None:
    layout = VideoFormat(162, 1442)
    frames = make_frames(layout, 1)
    scores = score(ffmpeg, layout, frames, soft=[blurred(frames[0])])["soft"]
    assert scores.vmaf_v1_model == "vmaf_v1.0.16_1d5h_2160"
    assert 0 < scores.vmaf_v1 < 100  # type: ignore[operator]


def test_lpips_is_of_our_own_rgb(ffmpeg: Ffmpeg, lpips: Lpips) -> None:
    layout = VideoFormat(64, 48)
    frames = make_frames(layout, 1)
    soft = blurred(frames[0])
    scores = score(ffmpeg, layout, frames, lpips=lpips, soft=[soft])["soft"]
    a, b = (frame_to_rgb(f, layout, lpips.device) for f in (frames[0], soft))
    assert scores.lpips == pytest.approx(lpips.distance(a, b).item(), rel=1e-5)


# ---------------------------------------------------------------------------------------- refusals


def test_no_frames(ffmpeg: Ffmpeg) -> None:
    scorer = Scorer(VideoFormat(64, 48), ["a"], ScoreTools(ffmpeg), fps=FPS, num_frames_hint=None)
    with pytest.raises(InputError, match="at least one frame"):
        scorer.finish()


def test_wrong_size_and_wrong_names(ffmpeg: Ffmpeg) -> None:
    layout = VideoFormat(64, 48)
    frame, small = make_frames(layout, 1)[0], make_frames(VideoFormat(62, 48), 1)[0]
    deep = make_frames(VideoFormat(64, 48, 10), 1)[0]
    with Scorer(layout, ["a"], ScoreTools(ffmpeg), fps=FPS, num_frames_hint=1) as scorer:
        with pytest.raises(
            InputError, match=r"expected 4:2:0 pictures of 64x48.*got planes of 62x48"
        ):
            scorer.add(frame, {"a": small})
        with pytest.raises(InputError, match="uint16"):
            scorer.add(frame, {"a": deep})
        with pytest.raises(UsageError, match="expected versions"):
            scorer.add(frame, {"b": frame})
    with pytest.raises(UsageError, match="different names"):
        Scorer(layout, ["a", "a"], ScoreTools(ffmpeg), fps=FPS, num_frames_hint=1)


def test_leaving_by_an_exception_leaves_nothing(
    ffmpeg: Ffmpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    layout = VideoFormat(64, 48)
    frame = make_frames(layout, 1)[0]

    def interrupted() -> None:
        with Scorer(layout, ["a"], ScoreTools(ffmpeg), fps=FPS, num_frames_hint=1) as scorer:
            scorer.add(frame, {"a": frame})
            assert list(tmp_path.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", '{"frames": [{"frameNum": 0, "metrics": {}}]}'])
def test_a_broken_log_is_a_tool_failure(tmp_path: Path, text: str) -> None:
    log = tmp_path / "log.json"
    log.write_text(text)
    with pytest.raises(ToolFailedError, match="libvmaf"):
        vmaf.parse_vmaf_log(log, ["vmaf_v1"])
    with pytest.raises(ToolFailedError, match="ssim"):
        vmaf.parse_ssim_log(tmp_path / "absent.log")


# --------------------------------------------------------------------------------- pure functions


@given(
    value=st.integers(0, 1023),
    error=st.integers(1, 400),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_psnr_of_a_constant_error(value: int, error: int, shape: tuple[int, int]) -> None:
    a = np.full(shape, value, np.uint16)
    b = (a + error).astype(np.uint16)
    expected = 20 * math.log10(1023 / error)
    assert psnr_db(a, b, 1023) == pytest.approx(expected)
    assert psnr_db(b, a, 1023) == psnr_db(a, b, 1023)
    assert psnr_db(a, a, 1023) == PSNR_CAP_DB


def run_sampling(sampling: EvenSampling, count: int) -> Iterator[int]:
    for index in range(count):
        if sampling.wants(index):
            sampling.put(index, [float(index)])
            yield index


@given(count=st.integers(1, 400), most=st.integers(1, 30), known=st.booleans())
def test_sampled_frames_are_few_even_and_repeatable(count: int, most: int, known: bool) -> None:
    chosen = []
    for _ in range(2):
        sampling = EvenSampling(most, count if known else None)
        computed = list(run_sampling(sampling, count))
        chosen.append(sampling.indices)
    assert chosen[0] == chosen[1]
    indices = chosen[0]
    assert 1 <= len(indices) <= most
    assert len(computed) <= 2 * most + math.ceil(math.log2(count + 1)) * most
    assert sampling.of_version(0) == tuple(float(i) for i in indices)
    if known:
        assert len(indices) == min(count, most)
    gaps = np.diff([*indices])
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    if not known and count >= most:
        assert 2 * len(indices) >= most  # decimation halves, no more


def of_values(**per_frame: tuple[float, ...]) -> Scores:
    means = {m: float(np.mean(per_frame[m])) if m in per_frame else None for m in METRICS}
    return Scores(**means, num_frames=3, lpips_frames=3, per_frame=per_frame)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_pools_are_ordered(values: list[float]) -> None:
    scores = of_values(vmaf_v1=tuple(values))
    mean, harmonic, p5, least = (pooled(scores, "vmaf_v1", pool) for pool in POOLS)
    assert least <= p5 + 1e-9  # type: ignore[operator]
    assert least - 1e-9 <= harmonic <= mean + 1e-9  # type: ignore[operator]
    assert least == min(values)


def test_the_bad_end_of_lpips_is_the_upper_one() -> None:
    scores = of_values(lpips=(0.1, 0.2, 0.4))
    assert pooled(scores, "lpips", "min") == 0.4
    assert pooled(scores, "lpips", "p5") == pytest.approx(0.38)
    assert pooled(scores, "lpips", "harmonic") == pytest.approx(0.7 / 3)
    assert pooled(of_values(tof=(0.1, 0.5)), "tof", "min") == 0.5
    assert pooled(scores, "vmaf_v1", "mean") is None
    for metric, pool in (("vmaf", "mean"), ("lpips", "median")):
        with pytest.raises(UsageError, match="expected a metric"):
            pooled(scores, metric, pool)


def test_json_is_plain(ffmpeg: Ffmpeg) -> None:
    layout = VideoFormat(64, 48)
    frames = make_frames(layout, 2)
    scores = score(ffmpeg, layout, frames, soft=[blurred(f) for f in frames])["soft"]
    data = json.loads(json.dumps(scores.to_json_dict(), allow_nan=False))
    counts = {"num_frames", "lpips_frames", "tof_pairs"}
    assert set(data) == {*METRICS, *counts, "vmaf_v1_model", "missing"}
    assert data["psnr_y_db"] == scores.psnr_y_db
    assert data["lpips"] is None
    assert data["missing"]["lpips"] == "no LPIPS weights were given"
