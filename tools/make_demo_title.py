"""Make a short procedural title with ffmpeg's own sources: `make_demo_title.py OUT.mkv`.

A slow zoom into a fractal, a life board and a turning test pattern, blended, with a little film
grain: texture at every scale, and motion of several kinds. Lossless (FFV1), so that it is a
pristine reference.
"""

from __future__ import annotations

import sys
from pathlib import Path

from codecaux.atomic import atomic_path
from codecaux.ffmpeg import file_argument, find_ffmpeg, run_ffmpeg

WIDTH, HEIGHT, FPS, SECONDS = 480, 272, 25, 3

_SIZE = f"{WIDTH}x{HEIGHT}"
_SOURCES = (
    f"mandelbrot=size={_SIZE}:rate={FPS}:start_scale=1.2:end_scale=0.02:end_pts=200"
    ":start_x=-0.7436:start_y=0.1318:maxiter=120",
    f"life=size={WIDTH // 4}x{HEIGHT // 4}:rate={FPS}:mold=30:ratio=0.08:seed=7"
    ":death_color=#203040:life_color=#e0c060:mold_color=#804020",
    f"testsrc2=size={_SIZE}:rate={FPS}",
)
_GRAPH = (
    f"[1]scale={_SIZE}:flags=neighbor,format=gbrp[life];"
    "[2]rotate=a=0.35*t:ow=iw:oh=ih:bilinear=1,format=gbrp[pattern];"
    "[0]format=gbrp[fractal];"
    "[fractal][life]blend=all_mode=screen:all_opacity=0.45[a];"
    "[a][pattern]blend=all_mode=normal:all_opacity=0.72,"
    "noise=alls=2:allf=t:all_seed=11,"
    "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)


def main() -> None:
    """Write the title to the path that the command line names."""
    final = Path(sys.argv[1])
    final.parent.mkdir(parents=True, exist_ok=True)
    inputs = [part for source in _SOURCES for part in ("-f", "lavfi", "-i", source)]
    with atomic_path(final) as path:
        arguments = [*inputs, "-filter_complex", _GRAPH, "-t", str(SECONDS)]
        arguments += ["-c:v", "ffv1", "-y", file_argument(path)]
        run_ffmpeg(find_ffmpeg(), arguments)


if __name__ == "__main__":
    main()
