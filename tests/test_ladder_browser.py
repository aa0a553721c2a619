"""A real browser plays a ladder: its H.264 rung, where it has no H.265."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "play_in_browser.py"


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["CODECAUX_HLS_JS", "CODECAUX_DASH_JS"])
def test_chromium_plays_to_the_end(ladder: Path, variable: str) -> None:
    """The variable names a file of hls.js or dash.js; neither is ours to ship."""
    library = os.environ.get(variable)
    if library is None or shutil.which("chromium") is None:
        pytest.skip(f"needs chromium, and the player library that {variable} names")
    command = [sys.executable, str(TOOL), str(ladder), library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    assert report["how"] == "ended"
    assert report["seconds"] == pytest.approx(3.4, abs=0.05)
    assert report["audio_bytes"] > 0
    # A browser with H.265 may take any rung; each has these sizes and as many pictures.
    assert (report["width"], report["height"]) in [(128, 72), (64, 36)]
    assert report["frames"] == 85
    if not report["supports"]["hvc1.1.6.L93.90"]:
        assert "avc1" in report["chosen"]
