"""tOF and RPF: values worked out by hand, known motions, streaming against all at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux.ffmpeg import Ffmpeg
from codecaux.scores import Scorer, ScoreTools
from codecaux.temporal import (
    TEMPORAL_METRICS,
    Flow,
    TemporalScores,
    TemporalSteps,
    end_point_difference,
    find_flow,
    flow_luma,
    flow_reduction,
    relative_pixel_flow,
    ripple,
)
from codecaux.video import Frame, SampleArray, VideoFormat

Clip = list[SampleArray]


@pytest.fixture(scope="module")
def farneback() -> Flow:
    flow = find_flow()
    assert flow is not None, "the extra `dev` brings OpenCV"
    return flow


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, at several scales, 16..235: what a flow can follow."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    total = np.zeros((height, width))
    for period in (12, 20, 36, 60):
        angle, phase = rng.random(2) * 2 * math.pi
        total += np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period + phase)
        total += np.sin((x * math.sin(angle) - y * math.cos(angle)) * 2 * math.pi / period + angle)
    return 16 + 219 * (total - total.min()) / np.ptp(total)


def moving(
    step_x: int, step_y: int = 0, *, count: int = 4, size: tuple[int, int] = (96, 160)
) -> Clip:
    """A window of ``size`` that slides over a large texture: nothing wraps around."""
    height, width = size
    large = np.round(texture(height + count * step_y, width + count * step_x)).astype(np.uint8)
    return [
        large[i * step_y : i * step_y + height, i * step_x : i * step_x + width].copy()
        for i in range(count)
    ]


def still_flow(previous: np.ndarray, current: np.ndarray) -> np.ndarray:
    """A stand-in: the change of luma as both components."""
    change = current.astype(np.float32) - previous
    return np.stack([change, change], axis=-1)


def streamed(
    layout: VideoFormat,
    reference: Sequence[SampleArray],
    *versions: Sequence[SampleArray],
    flow: Flow | None = still_flow,
    max_pairs: int = 24,
    hint: int | None = None,
) -> TemporalScores:
    scores = TemporalScores(
        layout, len(versions), flow=flow, max_pairs=max_pairs, num_frames_hint=hint
    )
    for index, plane in enumerate(reference):
        scores.add(plane, [version[index] for version in versions])
    return scores


def layout_of(clip: Clip, bit_depth: int = 8) -> VideoFormat:
    return VideoFormat(clip[0].shape[1], clip[0].shape[0], bit_depth)


# --------------------------------------------------------------------------------------------- tOF


def test_end_point_difference_by_hand() -> None:
    reference = np.zeros((2, 2, 2), np.float32)
    distorted = reference.copy()
    distorted[0, 0] = (3, 4)  # length 5
    distorted[1, 1] = (0, -1)  # length 1
    assert end_point_difference(reference, distorted) == 1.5
    assert end_point_difference(distorted, distorted) == 0.0


def test_tof_of_known_translations(farneback: Flow) -> None:
    # 1 pixel a frame to the right in the source; 3, and diagonally (1, 3), in the versions.
    reference = moving(1)
    scores = streamed(layout_of(reference), reference, moving(3), moving(1, 3), flow=farneback)
    # Farneback is off at the borders, where it sees no second frame: 5 % of the 2 pixels and
    # of the 3 that lie between the motions.
    assert np.mean(scores.of_version(0)["tof"]) == pytest.approx(2.0, rel=0.05)
    assert np.mean(scores.of_version(1)["tof"]) == pytest.approx(3.0, rel=0.05)


def test_tof_of_a_wide_picture_is_in_its_own_pixels(farneback: Flow) -> None:
    # 1200 wide: the flow is computed at 600, where 2 and 6 pixels are 1 and 3.
    reference, other = (moving(step, count=3, size=(64, 1200)) for step in (2, 6))
    scores = streamed(layout_of(reference), reference, other, flow=farneback)
    assert scores.of_version(0)["tof"] == pytest.approx((4.0, 4.0), rel=0.05)


def test_equal_videos_are_equally_steady(farneback: Flow) -> None:
    clip = moving(2)
    scores = streamed(layout_of(clip), clip, clip, flow=farneback)
    assert scores.of_version(0) == dict.fromkeys(TEMPORAL_METRICS, (0.0, 0.0, 0.0))
    assert scores.missing_reasons() == {}


@pytest.mark.parametrize(
    ("width", "reduction"), [(1, 1), (960, 1), (961, 2), (1920, 2), (1921, 3), (3840, 4)]
)
def test_wide_pictures_are_reduced(width: int, reduction: int) -> None:
    assert flow_reduction(width) == reduction


def test_flow_luma_is_the_mean_of_squares() -> None:
    plane = np.array([[10, 20, 7], [30, 41, 7], [9, 9, 9]], np.uint8)
    assert flow_luma(plane, 8, 2).tolist() == [[25]]  # 101 / 4; the rest fills no square
    assert flow_luma(plane, 8, 1).tolist() == plane.tolist()
    assert not np.shares_memory(flow_luma(plane, 8, 1), plane)
    deep = np.array([[1023, 4, 6, 5]], np.uint16)
    assert flow_luma(deep, 10, 1).tolist() == [[255, 1, 2, 1]]
    assert flow_luma(deep, 10, 2).tolist() == [[128, 1]]  # one row: squares of 1x2
    assert flow_luma(np.full((1, 1), 1023, np.uint16), 10, 1).dtype == np.uint8


@pytest.mark.parametrize("size", [(1, 1), (6, 6), (1, 2000), (16, 16)])
def test_any_size_has_a_finite_tof(farneback: Flow, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    a, b = ([rng.integers(0, 256, size).astype(np.uint8) for _ in range(3)] for _ in range(2))
    values = streamed(layout_of(a), a, b, flow=farneback).of_version(0)["tof"]
    assert len(values) == 2
    assert all(map(math.isfinite, values))


# --------------------------------------------------------------------------------------------- RPF


def test_relative_pixel_flow_by_hand() -> None:
    previous = np.array([[0, 0], [1, -1]], np.int16)
    current = np.array([[2, 2], [3, 5]], np.int16)
    # d = 2, 2, 2, 6: mean 3, squares about it 1, 1, 1, 9.
    assert relative_pixel_flow(previous, current) == pytest.approx((3.0, math.sqrt(3)), rel=1e-12)
    assert relative_pixel_flow(current, current) == (0.0, 0.0)


@given(st.lists(st.tuples(*[st.integers(-1023, 1023)] * 2), min_size=1, max_size=40))
def test_relative_pixel_flow_is_mean_and_deviation(pairs: list[tuple[int, int]]) -> None:
    previous, current = (np.array(side, np.int16)[None] for side in zip(*pairs, strict=True))
    change = (current - previous).astype(np.float64)
    # Absolute: where all changes are equal, the deviation is rounding of squares up to 4e6.
    expected = (change.mean(), change.std())
    assert relative_pixel_flow(previous, current) == pytest.approx(expected, rel=1e-9, abs=1e-4)


def test_a_still_error_is_steady_and_a_flickering_one_is_not() -> None:
    reference = moving(1, count=6)
    noise = np.random.default_rng(1).integers(-4, 5, reference[0].shape)
    still, flickering, flashing = (
        [np.clip(plane + error(i), 0, 255).astype(np.uint8) for i, plane in enumerate(reference)]
        for error in (
            lambda _: np.full_like(noise, 3),
            lambda i: noise * (-1) ** i,
            lambda i: np.full_like(noise, 3 * (-1) ** i),
        )
    )
    scores = streamed(layout_of(reference), reference, still, flickering, flashing)
    a, b, c = (scores.of_version(i) for i in range(3))
    assert a["rpf_mean"] == a["rpf_deviation"] == (0.0,) * 5
    # Twice the noise from one frame to the next, uniform over -4..4: 2 sqrt(80 / 12). 5 %: one
    # draw of 15,360 values.
    assert b["rpf_deviation"] == pytest.approx((2 * math.sqrt(80 / 12),) * 5, rel=0.05)
    assert max(b["rpf_mean"]) < 0.2
    # The whole picture up and down by 6: all in the mean, nothing in the deviation.
    assert c["rpf_mean"] == (6.0,) * 5
    assert c["rpf_deviation"] == (0.0,) * 5


def test_curves_keep_the_sign_and_the_place() -> None:
    reference = [np.full((4, 4), 100, np.uint8)] * 4
    # Up by 2, by 6 more, down by 8: mu is that; all pixels alike, so sigma is 0.
    version = [np.full((4, 4), value, np.uint8) for value in (100, 102, 108, 100)]
    scores = streamed(VideoFormat(4, 4), reference, version, hint=4, max_pairs=1)
    steps = scores.steps_of_version(0)
    assert steps.rpf_mu == (2.0, 6.0, -8.0)
    assert steps.rpf_sigma == (0.0, 0.0, 0.0)
    assert steps.tof_indices == (1,)
    assert steps.tof == pytest.approx((6.0 * math.sqrt(2),))
    assert scores.of_version(0)["rpf_mean"] == (2.0, 6.0, 8.0)


def test_ripple_by_hand() -> None:
    assert ripple((2.0, 6.0, -8.0)) == 9.0  # (4 + 14) / 2
    assert ripple((5.0, 5.0)) == 0.0
    assert ripple((5.0,)) is None


def test_10_bits_count_a_quarter() -> None:
    reference = moving(1)
    other = [np.roll(plane, i, 0) for i, plane in enumerate(reference)]
    deep = [[plane.astype(np.uint16) * 4 for plane in clip] for clip in (reference, other)]
    narrow = streamed(layout_of(reference), reference, other).of_version(0)
    assert streamed(layout_of(reference, 10), *deep).of_version(0) == narrow
    assert narrow["rpf_deviation"][0] > 1


# ------------------------------------------------------------------------------------ accumulation


@pytest.mark.parametrize("hint", [None, 9])
def test_streaming_equals_all_at_once(hint: int | None) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 256, (2, 9, 12, 20)).astype(np.uint8)
    scores = streamed(VideoFormat(20, 12), x, y, hint=hint).of_version(0)
    d = np.diff(y.astype(np.float64), axis=0) - np.diff(x.astype(np.float64), axis=0)
    assert scores["rpf_mean"] == pytest.approx(np.abs(d.mean((1, 2))), rel=1e-9)
    assert scores["rpf_deviation"] == pytest.approx(d.std((1, 2)), rel=1e-9)
    # The stand-in's flow has d as both components. Its differences are exact in float32.
    assert scores["tof"] == pytest.approx(math.sqrt(2) * np.abs(d).mean((1, 2)), rel=1e-9)


def test_planes_may_be_a_buffer_that_is_used_again() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 256, (2, 5, 8, 8)).astype(np.uint8)
    scores = TemporalScores(
        VideoFormat(8, 8), 1, flow=still_flow, max_pairs=24, num_frames_hint=None
    )
    buffers = np.empty((2, 8, 8), np.uint8)
    for a, b in zip(x, y, strict=True):
        buffers[0], buffers[1] = a, b
        scores.add(buffers[0], [buffers[1]])
    assert scores.of_version(0) == streamed(VideoFormat(8, 8), x, y).of_version(0)


@pytest.mark.parametrize("hint", [None, 40])
def test_tof_is_of_few_pairs_the_same_as_without_a_limit(hint: int | None) -> None:
    x, y = np.random.default_rng(4).integers(0, 256, (2, 40, 4, 4)).astype(np.uint8)
    calls = []

    def counted(previous: np.ndarray, current: np.ndarray) -> np.ndarray:
        calls.append(1)
        return still_flow(previous, current)

    few = streamed(VideoFormat(4, 4), x, y, flow=counted, max_pairs=6, hint=hint)
    every = streamed(VideoFormat(4, 4), x, y, max_pairs=39).of_version(0)
    values = few.of_version(0)
    # Without a hint: at most 7 in each of the four strides 1, 2, 4, 8; 2 pictures each.
    assert len(calls) == 12 if hint else len(calls) <= 2 * 28
    assert 3 <= len(values["tof"]) <= 6
    assert set(values["tof"]) <= set(every["tof"])
    assert values["rpf_mean"] == every["rpf_mean"]
    assert len(every["tof"]) == 39


# ----------------------------------------------------------------------------------------- missing


@pytest.mark.parametrize(("count", "words"), [(1, "one frame"), (2, "two frames")])
def test_one_or_two_frames_have_neither(count: int, words: str) -> None:
    for flow in (still_flow, None):
        pair = (moving(step, count=count) for step in (1, 3))
        scores = streamed(VideoFormat(160, 96), *pair, flow=flow)
        assert scores.of_version(0) == dict.fromkeys(TEMPORAL_METRICS, ())
        assert scores.steps_of_version(0) == TemporalSteps()
        expected = dict.fromkeys(TEMPORAL_METRICS, f"not defined for a clip of {words}")
        assert scores.missing_reasons() == expected


def test_wrong_announcements() -> None:
    clip = moving(1, count=3)
    more = streamed(layout_of(clip), clip, clip, hint=1)
    assert len(more.of_version(0)["tof"]) == 2
    fewer = streamed(layout_of(clip), clip, clip, hint=100, max_pairs=1)
    assert fewer.missing_reasons() == {"tof": "no frames were chosen: fewer came than announced"}


def test_without_opencv_tof_alone_is_missing(
    ffmpeg: Ffmpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # its import fails
    assert find_flow() is None
    planes = moving(1, count=3, size=(32, 32))
    chroma = np.zeros((16, 16), np.uint8)
    frames = [Frame(plane, chroma, chroma, i) for i, plane in enumerate(planes)]
    with Scorer(
        VideoFormat(32, 32),
        ["a"],
        ScoreTools(ffmpeg, flow=find_flow()),
        fps=Fraction(25),
        num_frames_hint=3,
    ) as scorer:
        for frame in frames:
            scorer.add(frame, {"a": frame})
        scores = scorer.finish()["a"]
    assert (scores.tof, scores.tof_pairs, scores.rpf_mean, scores.rpf_deviation) == (None, 0, 0, 0)
    assert scores.missing["tof"] == 'needs OpenCV: pip install "codecaux[temporal]"'
    assert not {"rpf_mean", "rpf_deviation"} & set(scores.missing)
