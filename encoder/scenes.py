"""Where a title's weight sets may change: at the keyframes that x265 chose, which are its scene
cuts, thinned so that no set lasts less than a while.

A set that starts at a keyframe costs a player nothing when it seeks.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from codecaux.probe import open_video

__all__ = ["MAX_SCENES", "Scene", "find_scenes", "keyframe_indices"]

Scene = tuple[int, int]  # first frame, end frame (not included)

MAX_SCENES = 512
_MIN_SECONDS = Fraction(2)


def keyframe_indices(stream: Path) -> list[int]:
    """Indices, in order of presentation, of the keyframes of a coded stream. Nothing is decoded."""
    times: list[int] = []
    keys: set[int] = set()
    with open_video(stream) as video:
        for packet in video.container.demux(video.stream):
            if packet.pts is None or not packet.size:
                continue
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.add(packet.pts)
    return [index for index, pts in enumerate(sorted(times)) if pts in keys]


def find_scenes(keyframes: Sequence[int], num_frames: int, fps: Fraction) -> tuple[Scene, ...]:
    """Scenes that start at keyframes and last at least 2 s, at most ``MAX_SCENES`` of them.

    A short scene is joined to the one before it; of very long titles neighbours are joined until
    there are few enough.
    """
    shortest = max(1, int(_MIN_SECONDS * fps))
    if num_frames > shortest * MAX_SCENES:
        shortest = -(-num_frames // MAX_SCENES)
    starts = [0]
    for index in keyframes:
        if index - starts[-1] >= shortest and num_frames - index >= shortest:
            starts.append(index)
    return tuple(zip(starts, [*starts[1:], num_frames], strict=True))
