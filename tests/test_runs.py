"""Scores of a part of a long title: which part, and that they are the whole's scores there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux import sampling
from codecaux.cli.main import main
from codecaux.device import choose_device
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.encoder.title_scores import TitleParts, score_title, title_runs
from codecaux.errors import InputError, UsageError
from codecaux.events import Notice, drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.frames import read_frames
from codecaux.measure import measure
from codecaux.sampling import Runs
from codecaux.scores import ScoreTools
from codecaux.temporal import find_flow
from codecaux.video import Frame

MakeClip = Callable[..., Path]


@given(num_frames=st.integers(1, 3000), most=st.floats(1, 3000))
def test_runs_are_spread_and_no_more_than_asked_for(num_frames: int, most: float) -> None:
    runs = Runs.spread(num_frames, most)
    wanted = [index for index in range(num_frames) if runs.wants(index)]
    assert len(wanted) == runs.count(num_frames)
    assert 1 <= len(wanted) <= most or num_frames <= most
    if runs.is_everything:
        assert len(wanted) == num_frames
        assert not any(map(runs.begins, range(num_frames)))
        return
    # Most of what was asked for is used, and each part of the title has its run.
    assert len(wanted) > most / 2 - runs.length
    assert runs.length == min(48, int(most))
    before = {index + 1 for index in wanted}
    starts = [index for index in wanted if index not in before]
    assert starts == [index for index in range(num_frames) if runs.begins(index)]


def test_a_film_is_scored_for_ten_minutes() -> None:
    runs = Runs.spread(172_800, 600 * 24)
    assert runs == Runs(48, 576)
    assert runs.count(172_800) == 14_400
    assert runs.wants(264)
    assert not runs.wants(263)


@pytest.mark.parametrize("most", [0.5, math.nan, -1])
def test_no_frame_is_no_score(most: float) -> None:
    with pytest.raises(UsageError, match="at least one frame"):
        Runs.spread(100, most)


RUNS = Runs(3, 8)  # of 20 frames: 2 3 4, 10 11 12, 18 19
CHOSEN = [2, 3, 4, 10, 11, 12, 18, 19]


def test_what_is_scored_is_as_in_the_whole(make_clip: MakeClip, ffmpeg: Ffmpeg) -> None:
    clip = make_clip("scored-runs.mkv", size=(224, 176), frames=20)
    tools = ScoreTools(ffmpeg, flow=find_flow(), tof_max_pairs=100)

    def versions(runs: Runs) -> Iterator[dict[str, Frame] | None]:
        for index, frame in enumerate(read_frames(clip)):
            y = (frame.y.astype(np.int16) + index % 5).clip(0, 255).astype(np.uint8)
            yield {"x": Frame(y, frame.u, frame.v, frame.pts)} if runs.wants(index) else None

    whole = drain(measure(clip, versions(Runs()), ["x"], tools))["x"]
    part = drain(measure(clip, versions(RUNS), ["x"], tools, runs=RUNS))["x"]
    assert part.num_frames == len(CHOSEN)
    for metric in ("psnr_y_db", "ssim"):
        expected = [whole.per_frame[metric][index] for index in CHOSEN]
        assert list(part.per_frame[metric]) == pytest.approx(expected)
    # The first frame of a run has lost what VMAF knows of the one before.
    vmaf = np.array([whole.per_frame["vmaf_v1"][index] for index in CHOSEN])
    assert np.abs(part.per_frame["vmaf_v1"] - vmaf).max() < 3
    # Steps inside runs alone: 2-3, 3-4, 10-11, 11-12, 18-19.
    steps = [2, 3, 10, 11, 18]
    assert list(part.per_frame["rpf_mean"]) == pytest.approx(
        [whole.per_frame["rpf_mean"][index] for index in steps]
    )
    if part.tof is not None:
        whole_tof = dict(zip(whole.steps.tof_indices, whole.steps.tof, strict=True))
        assert list(part.steps.tof) == pytest.approx([whole_tof[index] for index in steps])


def test_frames_that_are_not_scored_are_counted(make_clip: MakeClip, ffmpeg: Ffmpeg) -> None:
    clip = make_clip("scored-runs.mkv", size=(224, 176), frames=20)
    for count in (19, 21):
        versions: list[dict[str, Frame] | None] = [
            {"x": frame} if RUNS.wants(index) else None
            for index, frame in enumerate(read_frames(clip))
        ]
        versions = [*versions, None][:count]
        with pytest.raises(InputError, match="expected 20 frames"):
            drain(measure(clip, versions, ["x"], ScoreTools(ffmpeg), runs=RUNS))


@pytest.mark.parametrize("net", ["tiny", "recurrent-tiny"])
def test_a_title_is_scored_by_what_a_player_shows_there(
    net: str, make_clip: MakeClip, ffmpeg: Ffmpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recurrent net too, which has to see the frames between the runs."""
    monkeypatch.setattr(sampling, "_RUN_FRAMES", 3)
    clip = make_clip("shown-runs.mkv", size=(96, 64), frames=20)
    stream = tmp_path / "title.mp4"
    line = ["--net", net, "--steps", "10", "--objective", "fidelity", "--preset", "ultrafast"]
    line += ["--score-seconds", str(8 / 24), "--device", "cpu"]
    assert main(["encode", str(clip), "-o", str(stream), *line]) == 0
    source: PreparedSource = drain(prepare(clip, SourceOptions(), tmp_path))
    runs = title_runs(source, 8 / 24)
    assert runs == replace(runs, length=3)
    device = choose_device("cpu")
    parts = TitleParts(source, stream, device, ScoreTools(ffmpeg), runs)
    events = []
    scoring = score_title(parts, stream.with_suffix(".weights"))
    while True:
        try:
            events.append(next(scoring))
        except StopIteration as stop:
            _, scores = stop.value
            break
    said = [event.message for event in events if isinstance(event, Notice)]
    assert f"scored: {runs.count(20)} of 20 frames, in runs over the title" in said
    whole = drain(score_title(replace(parts, runs=Runs()), stream.with_suffix(".weights")))[1]
    chosen = [index for index in range(20) if runs.wants(index)]
    for name in ("bicubic", "enhanced"):
        expected = [whole[name].per_frame["psnr_y_db"][index] for index in chosen]
        assert list(scores[name].per_frame["psnr_y_db"]) == pytest.approx(expected)
