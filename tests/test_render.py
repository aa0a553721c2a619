"""What is shown of events and results: lines, NDJSON by its document, tables at any width."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from codecaux.cli.render import (
    BarRenderer,
    JsonRenderer,
    LineRenderer,
    QuietRenderer,
    follow,
    format_seconds,
    open_renderer,
    to_json,
)
from codecaux.cli.tables import facts_grid, gain_grid, markdown, print_grid, scores_grid
from codecaux.doctor import Check
from codecaux.events import Events, Notice, Progress, StageDone, StageStarted
from codecaux.rate import Rate
from codecaux.scores import Scores

EVENTS = (
    StageStarted("fit", 400, "steps"),
    Progress("fit", 10, 400, "steps", loss=0.03125, eta_seconds=75.0),
    Progress("fit", 400, 400, "steps", loss=0.02),
    StageDone("fit", 12.34),
    StageDone("stream", 0.0, resumed=True),
    Notice("device: CPU"),
    Notice("no LPIPS", "warning"),
)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def scores(base: float = 70.0, lpips: float | None = 0.125, *, is_moving: bool = False) -> Scores:
    missing = {} if lpips is not None else {"lpips": "no LPIPS weights were given"}
    steady = {"tof": 0.125, "rpf_mean": 0.25, "rpf_deviation": 12.5} if is_moving else {}
    return Scores(
        vmaf_v1=base,
        vmaf_v061=base + 5,
        vmaf_v061_neg=base + 1,
        psnr_y_db=31.25,
        ssim=0.9,
        lpips=lpips,
        num_frames=75,
        lpips_frames=24,
        vmaf_v1_model="vmaf_v1.0.16_3d0h",
        missing=missing,
        **steady,  # type: ignore[arg-type]
    )


RATE = Rate(stream_bytes=125_000, weights_bytes=12_500, duration_seconds=10.0)
GAIN = gain_grid(RATE, {"bicubic": scores(), "enhanced": scores(76.5, 0.1)})


# ------------------------------------------------------------------------------------------ lines


def test_lines_keep_a_calm_pace() -> None:
    stream, clock = io.StringIO(), Clock()
    renderer = LineRenderer(stream, interval_seconds=5.0, clock=clock)
    renderer.show(StageStarted("stream", 100))
    for done in range(1, 101):
        clock.now += 0.2
        renderer.show(Progress("stream", done, 100))
    renderer.show(StageDone("stream", 20.0))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "stream: started (100 frames)"
    assert lines[-1] == "stream: done in 20 s"
    # 20 seconds, one line every 5.
    assert 3 <= len(lines) - 2 <= 4


def test_lines_say_loss_time_left_and_warnings() -> None:
    stream = io.StringIO()
    renderer = LineRenderer(stream, interval_seconds=0.0)
    for event in EVENTS:
        renderer.show(event)
    assert stream.getvalue().splitlines() == [
        "fit: started (400 steps)",
        "fit: 10/400 steps, loss 0.03125, 1 min 15 s left",
        "fit: 400/400 steps, loss 0.02000",
        "fit: done in 12 s",
        "stream: taken from the interrupted run",
        "device: CPU",
        "warning: no LPIPS",
    ]


def test_quiet_still_warns() -> None:
    stream = io.StringIO()
    renderer = QuietRenderer(stream)
    for event in EVENTS:
        renderer.show(event)
    assert stream.getvalue() == "warning: no LPIPS\n"


def test_bars_leave_lines_for_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    renderer = BarRenderer()
    for event in EVENTS:
        renderer.show(event)
    renderer.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fit: done in 12 s" in captured.err
    assert "warning: no LPIPS" in captured.err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (3900, "1 h 05 min")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_follow_returns_the_result_and_closes_on_interrupt() -> None:
    closed = []

    def work() -> Events[int]:
        try:
            yield Notice("one")
            yield Notice("two")
            return 7
        finally:
            closed.append(True)

    class Impatient(QuietRenderer):
        def show(self, event: object) -> None:
            raise KeyboardInterrupt

    assert follow(work(), QuietRenderer(io.StringIO())) == 7
    with pytest.raises(KeyboardInterrupt):
        follow(work(), Impatient(io.StringIO()))
    assert closed == [True, True]


def test_the_renderer_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with open_renderer("play", json_output=False) as renderer:
        assert isinstance(renderer, LineRenderer)
    with open_renderer("play", json_output=False, quiet=True) as renderer:
        assert isinstance(renderer, QuietRenderer)
    with open_renderer("play", json_output=True, quiet=True) as renderer:
        assert isinstance(renderer, JsonRenderer)
    assert json.loads(capsys.readouterr().out)["event"] == "start"


# ------------------------------------------------------------------------------------------- JSON


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_progress_is_thinned_but_the_last_one_comes() -> None:
    stream, clock = io.StringIO(), Clock()
    renderer = JsonRenderer("encode", stream, interval_seconds=0.2, clock=clock)
    for done in range(1, 101):
        clock.now += 0.01
        renderer.show(Progress("fit", done, 100, "steps"))
    done = [e["done"] for e in lines_of(stream) if e["event"] == "progress"]
    assert 5 <= len(done) <= 8
    assert done[-1] == 100


def test_json_has_no_nan_and_no_python_types() -> None:
    values = {"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x"), 3: (True, None)}
    assert to_json(values) == {"a": None, "b": [None, 1.5], "c": "x", "3": [True, None]}


# ----------------------------------------------------------------------------------------- tables


def printed(grid: Any, width: int, *, terminal: bool) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None)
    print_grid(grid, console)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_gain_fits_a_narrow_and_a_wide_terminal(terminal: bool) -> None:
    narrow = printed(GAIN, 80, terminal=terminal)
    wide = printed(GAIN, 120 if terminal else 140, terminal=terminal)
    assert max(map(len, narrow)) <= 80
    assert max(map(len, wide)) <= (120 if terminal else 140)
    # In two pieces when narrow, in one when wide; every number in both.
    assert sum("H.265 + weights" in line for line in narrow) == 2
    assert sum("H.265 + weights" in line for line in wide) == 1
    for text in ("100.0", "12,500", "110.0", "+10.0", "76.50", "+6.50", "-0.0250", "0.1250"):
        assert any(text in line for line in narrow), text
        assert any(text in line for line in wide), text


@pytest.mark.parametrize("terminal", [True, False])
def test_steadiness_has_a_table_of_its_own_where_there_is_no_room(terminal: bool) -> None:
    pair = {"bicubic": scores(is_moving=True), "enhanced": scores(76.5, is_moving=True)}
    for width, rows in ((80, 3), (120, 2), (200, 1)):
        lines = printed(gain_grid(RATE, pair), width, terminal=terminal)
        assert max(map(len, lines)) <= width
        assert sum("H.265 + weights" in line for line in lines) == rows
        for text in ("deviation", "12.500", "76.50", "0.250"):
            assert any(text in line for line in lines), text
    lines = printed(scores_grid(pair), 80, terminal=terminal)
    assert max(map(len, lines)) <= 80
    assert sum("enhanced" in line for line in lines) == 2


def test_steadiness_is_left_out_where_there_is_none() -> None:
    headings = {column.heading for column in scores_grid({"distorted": scores()}).columns}
    assert "SSIM" in headings
    assert not headings & {"tOF", "RPF mean", "RPF deviation"}


def test_a_missing_score_is_a_dash() -> None:
    grid = gain_grid(RATE, {"bicubic": scores(), "enhanced": scores(76.5, None)})
    lpips = [column.key for column in grid.columns].index("lpips")
    assert [cells[lpips] for _, cells in grid.rows] == ["0.1250", "-", "-"]


def test_one_row_has_no_difference() -> None:
    grid = scores_grid({"distorted": scores()})
    assert [name for name, _ in grid.rows] == ["distorted"]


def test_markdown_is_aligned_and_escapes_bars() -> None:
    grid = facts_grid(("what", "found"), [["a|b", "x"], ["c", Check("n", "ok", "yy").detail]])
    lines = markdown(grid).splitlines()
    assert lines == [
        "| what | found |",
        "| ---- | ----- |",
        "| a\\|b | x     |",
        "| c    | yy    |",
    ]
