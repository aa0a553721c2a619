"""One small ladder by the command, nothing made up: any player's decoder and ours both play it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import m3u8
import pytest

from codecaux.cli.main import main
from codecaux.events import drain
from codecaux.ffmpeg import Ffmpeg
from codecaux.frames import count_frames
from codecaux.ladderindex import read_index
from codecaux.measure import measure_files
from codecaux.scores import ScoreTools

FAST = ("--net", "tiny", "--steps", "10", "--objective", "fidelity", "--preset", "ultrafast")


@pytest.fixture(scope="module")
def title(make_clip: Callable[..., Path]) -> Path:
    """128x72, 50 frames at 25 fps, with sound."""
    sound = ("-f", "lavfi", "-t", "2", "-i", "sine=frequency=440:sample_rate=48000")
    tags = "setparams=range=limited:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    return make_clip(
        "whole-way.mkv",
        size=(128, 72),
        fps="25",
        frames=50,
        filters=f"noise=alls=12:allf=t:all_seed=7,{tags}",
        inputs=sound,
        options=("-c:a", "aac"),
    )


def test_the_whole_way(
    title: Path,
    ffmpeg: Ffmpeg,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CODECAUX_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "ladder"
    # A cap that does not bind: then a rung is its probe once more.
    grid = (
        "--crf",
        "24,40",
        "--scales",
        "2",
        "--segment",
        "1",
        "--peak",
        "8",
        "--no-share",
        "--device",
        "cpu",
    )
    assert main(["ladder", str(title), "-o", str(output), *grid, *FAST, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    low, high = result["rungs"]
    assert (low["crf"], high["crf"]) == (40, 24)
    for rung in (low, high):
        assert rung["weights_of"] == rung["name"]
        assert rung["probe_error"]["psnr_y_db"] == pytest.approx(0.0, abs=1e-4)
        assert rung["probe_error"]["vmaf_v061"] == pytest.approx(0.0, abs=1e-3)

    master = m3u8.load(str(output / "master.m3u8"))
    assert len(master.playlists) == 2
    for rung, playlist in zip(result["rungs"], master.playlists, strict=True):
        assert playlist.stream_info.codecs == f"{rung['codecs']},mp4a.40.2"
        assert playlist.uri == f"{rung['folder']}/media.m3u8"

    # What the player shows is what the report says of that rung, with whoever's weights.
    index = read_index(output / "codecaux.json")
    for number, rung in enumerate(result["rungs"], 1):
        shown = tmp_path / f"shown-{number}.mkv"
        words = ["play", str(output / "master.m3u8"), "--rung", str(number), "-o", str(shown)]
        assert main([*words, "--device", "cpu", "-q"]) == 0
        assert count_frames(shown) == index.rungs[number - 1].num_frames == 50
        scores = drain(measure_files(title, shown, ScoreTools(ffmpeg)))
        said = rung["scores"]["enhanced"]
        assert scores.value("psnr_y_db") == pytest.approx(said["psnr_y_db"], abs=1e-3)
        assert scores.value("vmaf_v061") == pytest.approx(said["vmaf_v061"], abs=1e-2)

    # A second ladder of the same grid takes every probe from the cache.
    again = tmp_path / "again"
    words = ["ladder", str(title), "-o", str(again), *grid, *FAST, "--json", "--rungs", "1"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["num_cached"] == result["num_probes"] == 4
    assert [rung["name"] for rung in result["rungs"]] == [high["name"]]
