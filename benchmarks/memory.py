"""Peak memory of an encode: it must not grow with the title's length.

    python benchmarks/memory.py -o benchmarks/results/memory.json

Encodes the same generated content, once and looped ten times (10 s and 100 s by default), each in
a child process, and compares the peaks. Exit status 1 where the longer one takes more than 10 %
more. The patch bank is bounded (--bank-mib) at what the shorter title already fills, since up to
its bound it grows with the length by design.

Two peaks are given: ``encoder_mib``, the largest process (``ru_maxrss``; it is the encoder unless
x265 outgrows it), and ``tree_mib``, the sum over the encoder and its ffmpeg children at the worst
moment, sampled (proportional set size where the system has it).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import write_results

from codecaux.ffmpeg import file_argument, find_ffmpeg, run_ffmpeg
from codecaux.frames import count_frames

_FPS = 24
_LIMIT = 1.10
_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Peak:
    """Peak memory of one child process and all below it."""

    encoder_mib: float
    tree_mib: float
    wall_seconds: float


def main() -> None:
    options = _parse()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder), options.size, options.seconds)
        for loops in (1, options.loops):
            title = loop_clip(clip, loops)
            frames = count_frames(title)
            assert frames == loops * round(options.seconds * _FPS), (frames, loops)
            peak = encode(title, options)
            rows.append(_row(loops * options.seconds, frames, peak, rows))
            title.unlink()
    names = ("size", "seconds", "loops", "net", "steps", "bank_mib", "objective")
    write_results(options.output, "memory", {n: getattr(options, n) for n in names}, rows)
    worst = max(rows[-1]["encoder_ratio"], rows[-1]["tree_ratio"])
    print(f"{options.loops} times as long: {worst:.3f} times the memory (limit {options.limit:g})")
    sys.exit(0 if worst <= options.limit else 1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the shorter title")
    parser.add_argument("--loops", type=int, default=10, help="how often the longer one repeats it")
    parser.add_argument("--net", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bank-mib", type=int, default=16)
    parser.add_argument("--objective", default="fidelity")
    parser.add_argument("--limit", type=float, default=_LIMIT, help="ratio above which it fails")
    parser.add_argument("-o", "--output", type=Path, help="JSON; a .tsv is written beside it")
    return parser.parse_args()


def make_clip(folder: Path, size: str, seconds: float) -> Path:
    """Textured and moving content, so that the bank has something to choose from."""
    clip = folder / "once.mkv"
    graph = f"testsrc2=size={size}:rate={_FPS},noise=alls=12:allf=t:all_seed=3"
    arguments = ["-f", "lavfi", "-i", graph, "-frames:v", str(round(seconds * _FPS))]
    run_ffmpeg(find_ffmpeg(), [*arguments, *_codec(), "-y", file_argument(clip)])
    return clip


def loop_clip(clip: Path, loops: int) -> Path:
    """``clip``'s pictures ``loops`` times over, at one constant rate."""
    title = clip.with_name(f"title-{loops}.mkv")
    again = ["-stream_loop", str(loops - 1), "-i", file_argument(clip)]
    retimed = ["-vf", f"setpts=N/({_FPS}*TB)"]
    run_ffmpeg(find_ffmpeg(), [*again, *retimed, *_codec(), "-y", file_argument(title)])
    return title


def _codec() -> list[str]:
    return ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "16", "-pix_fmt", "yuv420p"]


def encode(title: Path, options: argparse.Namespace) -> Peak:
    """Run ``codecaux encode`` as its user does, and watch it."""
    command = [sys.executable, "-m", "codecaux.cli.main", "encode", str(title), "-q", "-y"]
    command += ["-o", str(title.with_suffix(".mp4")), "--preset", "ultrafast", "--crf", "28"]
    command += ["--net", options.net, "--steps", str(options.steps)]
    command += ["--bank-mib", str(options.bank_mib), "--objective", options.objective]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    tree = 0.0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        tree = max(tree, sum(map(_proportional_mib, _tree(process.pid))))
        time.sleep(_SAMPLE_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"exit status {process.returncode} of {command}"
    return Peak(usage.ru_maxrss / 1024, tree, time.monotonic() - started)


def _tree(root: int) -> list[int]:
    """``root`` and all processes below it; just ``root`` where the system does not say."""
    found = [root]
    for pid in found:
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in tasks.read_text().split()]
            except OSError:  # it ended meanwhile
                continue
    return found


def _proportional_mib(pid: int) -> float:
    """Memory of a process, shared pages split between their users; 0 for one that ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _row(seconds: float, frames: int, peak: Peak, before: list[dict[str, Any]]) -> dict[str, Any]:
    first = before[0] if before else {"encoder_mib": peak.encoder_mib, "tree_mib": peak.tree_mib}
    return {
        "seconds": seconds,
        "frames": frames,
        "encoder_mib": peak.encoder_mib,
        "tree_mib": peak.tree_mib,
        "encoder_ratio": peak.encoder_mib / first["encoder_mib"],
        # Without /proc there is nothing to compare.
        "tree_ratio": peak.tree_mib / first["tree_mib"] if first["tree_mib"] else 1.0,
        "wall_seconds": peak.wall_seconds,
    }


if __name__ == "__main__":
    main()
