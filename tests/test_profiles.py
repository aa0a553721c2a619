"""Temporal profiles: the right column of every frame, in the right colours, in bounded memory."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from codecaux.colour import frame_to_rgb
from codecaux.errors import UsageError
from codecaux.profiles import ProfileRecorder, rgb_column
from codecaux.temporal import TemporalSteps
from codecaux.temporal_pictures import curves_png, profiles_png
from codecaux.video import Colour, Frame, VideoFormat


def noise(layout: VideoFormat, seed: int) -> Frame:
    rng = np.random.default_rng(seed)
    chroma = (layout.chroma_height, layout.chroma_width)
    sizes = ((layout.height, layout.width), chroma, chroma)
    y, u, v = (rng.integers(0, layout.peak + 1, size).astype(layout.dtype) for size in sizes)
    return Frame(y, u, v, seed)


@pytest.mark.parametrize("layout", [VideoFormat(31, 10), VideoFormat(24, 7, 10)])
@pytest.mark.parametrize("chroma", ["left", "center"])
def test_a_column_is_that_of_the_whole_picture(layout: VideoFormat, chroma: str) -> None:
    colour = Colour("bt601", True, chroma)  # type: ignore[arg-type]
    layout = VideoFormat(layout.width, layout.height, layout.bit_depth, colour)
    frame = noise(layout, 1)
    whole = (frame_to_rgb(frame, layout, torch.device("cpu"))[0] * 255.0).round()
    for column in range(layout.width):
        expected = whole[:, :, column].T.to(torch.uint8).numpy()
        np.testing.assert_array_equal(rgb_column(frame, layout, column), expected)


def test_columns_are_stacked_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecaux.profiles.PROFILE_MAX_FRAMES", 4)
    layout = VideoFormat(16, 8)
    recorder = ProfileRecorder(3)
    frames = [noise(layout, seed) for seed in range(6)]
    for frame in frames:
        recorder.add(layout, frame, {"enhanced": frames[0]})
    profile = recorder.finish()
    assert list(profile.pictures) == ["source", "enhanced"]
    assert (profile.column, profile.num_frames) == (3, 4)
    assert profile.pictures["source"].shape == (8, 4, 3)
    for index in range(4):
        column = rgb_column(frames[index], layout, 3)
        np.testing.assert_array_equal(profile.pictures["source"][:, index], column)
    assert (profile.pictures["enhanced"] == profile.pictures["enhanced"][:, :1]).all()


def test_the_middle_by_default_and_no_column_outside() -> None:
    layout = VideoFormat(17, 8)
    recorder = ProfileRecorder()
    recorder.add(layout, noise(layout, 0), {})
    assert (recorder.finish().column, recorder.finish().num_frames) == (8, 0)
    for column in (-1, 17):
        with pytest.raises(UsageError, match=f"0 to 16, got {column}"):
            ProfileRecorder(column).add(layout, noise(layout, 0), {})


def test_pictures_are_drawn_the_same_every_time() -> None:
    layout = VideoFormat(16, 24)
    recorder = ProfileRecorder()
    for seed in range(5):
        recorder.add(layout, noise(layout, seed), {"bicubic": noise(layout, seed + 9)})
    profile = recorder.finish()
    data = profiles_png(profile, {"bicubic": "decoded"}, "a$_{$ title")
    assert data == profiles_png(profile, {"bicubic": "decoded"}, "a$_{$ title")
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    shown = {tuple(pixel) for pixel in pixels.reshape(-1, 3)}
    # Nothing is interpolated: every pixel of both profiles stands in the picture as it is.
    for picture in profile.pictures.values():
        assert {tuple(pixel) for pixel in picture.reshape(-1, 3)} <= shown
    steps = TemporalSteps((0.5, -0.5, 0.5), (1.0, 2.0, 1.0), (0.1, 0.2), (0, 2))
    with_tof = curves_png({"distorted": steps}, {}, "a$_{$ title")
    without = curves_png({"distorted": TemporalSteps((0.5,), (1.0,))}, {}, "a$_{$ title")
    heights = [Image.open(io.BytesIO(png)).height for png in (with_tof, without)]
    assert heights[0] > heights[1]
