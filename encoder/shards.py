"""Patches for pre-training: every item of a corpus coded by x265 at a CRF of its own, then cut.

    Item ─ photo: camera move ─> y4m ┐
         └ video: as it is ──────────┴─ prepare ─ encode_stream(scale, CRF) ─ build_bank ─> shard

The streams are real ones, made by the encoder's own path at the scale in question: what the
network will see. One shard (safetensors) an item, written whole, so that an interrupted
preparation goes on; the same corpus, seed and settings make the same shards.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError

from codecaux.architecture import net_config
from codecaux.atomic import write_atomic
from codecaux.encoder.bank import BankSettings, PatchBank
from codecaux.encoder.bank_builder import build_bank
from codecaux.encoder.corpus import PHOTO_SIZE, Item, camera_move, read_rgb
from codecaux.encoder.cuts import find_cuts
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.encoder.scan import fingerprint
from codecaux.encoder.stream import StreamSettings, encode_stream
from codecaux.errors import CodecauxError, InputError
from codecaux.events import Events, Notice, Progress, drain
from codecaux.ffmpeg import find_ffmpeg
from codecaux.frames import read_frames
from codecaux.video import Frame, Geometry, VideoFormat

__all__ = ["PATCH_SOURCE_SIZE", "ShardSettings", "load_bank", "make_shards"]

# A patch in source pixels: 96, 128 and 192 coded ones at scales 2, 1.5 and 1.
PATCH_SOURCE_SIZE = 192
# Every shard is read as BT.709, limited range, 8 bits: what differs in a video of another matrix
# is the meaning of its chroma, not what x265 does to it.
_FORMAT = VideoFormat(PATCH_SOURCE_SIZE, PATCH_SOURCE_SIZE)
_PLANES = ("coded_y", "coded_u", "coded_v", "source_y", "source_u", "source_v")
_NEIGHBOURS = ("before", "after", "coded_before", "coded_after")


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """``crf``: each item's is drawn from this range. ``patches`` of a photo; a video gives up to
    ``video_patches``. ``moves``: how many different moves over each photo, each a shard.
    ``around``, ``coded_around``: as in :class:`codecaux.encoder.bank.BankSettings`. ``run``:
    consecutive frames of each place, so many fewer places.
    """

    scale: Fraction
    crf: tuple[float, float] = (18.0, 36.0)
    preset: str = "medium"
    seed: int = 0
    patches: int = 16
    video_patches: int = 192
    moves: int = 1
    around: int = 0
    coded_around: bool = False
    run: int = 1

    @property
    def coded_patch(self) -> int:
        """Side of a patch in coded luma pixels."""
        return int(PATCH_SOURCE_SIZE / self.scale)

    def folder(self, work: Path) -> Path:
        """Where shards of exactly these settings lie."""
        stream = StreamSettings(0.0)
        own = [self.crf, self.preset, self.seed, self.patches, self.video_patches]
        made_with = [str(v) for v in (*own, stream.downscale, stream.tuned_params)]
        if self.around:
            made_with += [str(self.around), str(self.coded_around)]
        made_with += [f"run {self.run}"] if self.run > 1 else []
        digest = hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:8]
        return work / f"shards-{float(self.scale):g}x-{digest}"


def make_shards(
    items: Sequence[Item], settings: ShardSettings, work: Path, jobs: int
) -> Events[list[Path]]:
    """Make every item's shard that is not there yet, ``jobs`` at a time; the paths of all.

    An item that cannot be coded is left out with a warning; InputError where none is left.
    """
    folder = settings.folder(work)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [
        (item, move, folder / f"{key}-{move}.safetensors")
        for item, key in zip(items, map(_item_key, items), strict=True)
        for move in range(settings.moves if item.kind == "photo" else 1)
    ]
    todo = [task for task in tasks if not task[2].exists()]
    make = partial(_try_shard, settings=settings)
    with ExitStack() as stack:
        problems: Iterable[str | None] = map(make, todo)
        if jobs > 1 and len(todo) > 1:
            # Spawned: a forked torch would hang on the locks of its parent's threads.
            pool = ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,))
            problems = stack.enter_context(pool).map(make, todo)
        for done, problem in enumerate(problems):
            if problem:
                yield Notice(problem, "warning")
            yield Progress("patches", len(tasks) - len(todo) + done + 1, len(tasks), "shards")
    made = [path for _, _, path in tasks if path.exists()]
    if not made:
        raise InputError(f"expected patches of at least one item, got none of {len(items)}")
    return made


def _item_key(item: Item) -> str:
    """Stable under renaming of folders above, distinct for files of one name."""
    digest = hashlib.sha256(f"{item.path.name}:{fingerprint(item.path)}".encode()).hexdigest()
    return f"{item.path.stem[:40]}-{digest[:12]}"


def _try_shard(task: tuple[Item, int, Path], settings: ShardSettings) -> str | None:
    """Make one shard; the problem as text where that fails."""
    item, move, path = task
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as folder:
            write_atomic(path, _to_bytes(_make(item, move, settings, Path(folder))))
    except CodecauxError as error:
        return f"{item.path} is left out: {error}"
    return None


def _make(item: Item, move: int, settings: ShardSettings, folder: Path) -> PatchBank:
    key = zlib.crc32(_item_key(item).encode())
    sequence = np.random.SeedSequence((settings.seed, key, settings.scale.numerator, move))
    rng = np.random.Generator(np.random.PCG64(sequence))
    crf = round(float(rng.uniform(*settings.crf)), 1)
    source = _source(item, folder, rng)
    stream = folder / "coded.mkv"
    options = StreamSettings(crf, settings.preset, settings.scale, threads=1)
    drain(encode_stream(source, options, stream, find_ffmpeg()))
    return _cut(item, source, stream, settings, seed=int(rng.integers(1 << 31)))


def _source(item: Item, folder: Path, rng: np.random.Generator) -> PreparedSource:
    path = item.path
    if item.kind == "photo":
        path = folder / "moving.y4m"
        # Moves are the same for all scales of one seed only where the generator says so: each
        # scale draws its own, which is more to learn from.
        layout = VideoFormat(PHOTO_SIZE, PHOTO_SIZE)
        _write_y4m(camera_move(read_rgb(item.path), layout, rng), layout, path)
    return drain(prepare(path, SourceOptions(to_420=True), folder / "work"))


def _write_y4m(frames: Iterable[Frame], layout: VideoFormat, path: Path) -> None:
    with path.open("wb") as file:
        header = f"YUV4MPEG2 W{layout.width} H{layout.height} F25:1 Ip A1:1 C420mpeg2\n"
        file.write(header.encode())
        for frame in frames:
            file.write(b"FRAME\n")
            for plane in frame.planes:
                file.write(np.ascontiguousarray(plane).tobytes())


def _cut(
    item: Item, source: PreparedSource, stream: Path, settings: ShardSettings, seed: int
) -> PatchBank:
    layout = source.info.format
    geometry = Geometry(layout.width, layout.height, settings.scale)
    count = settings.patches if item.kind == "photo" else settings.video_patches
    samples = settings.coded_patch**2 + PATCH_SOURCE_SIZE**2
    # Before and after, and decoded, too: more than they can take.
    samples += 4 * settings.around**2
    # keep 0: exactly min_patches, as far as there are as many.
    limits = BankSettings(
        patch=settings.coded_patch,
        max_bytes=max(16 << 20, 2 * count * samples * 2),
        keep=0.0,
        min_patches=count,
        seed=seed,
        around=settings.around,
        coded_around=settings.coded_around,
        run=settings.run,
        resets=_cuts(stream) if settings.run > 1 else (),
    )
    with (
        closing(read_frames(stream)) as coded,  # type: ignore[type-var]
        closing(read_frames(source.path, info=source.info)) as original,  # type: ignore[type-var]
    ):
        pairs = zip(coded, original, strict=True)
        alignment = net_config("light", settings.scale).alignment
        bank = drain(build_bank(pairs, source.num_frames, geometry, layout, alignment, limits))
    if bank.run != settings.run:
        raise InputError(f"expected {settings.run} frames without a cut, got {bank.run}")
    return _as_limited_8_bit(bank)


def _cuts(stream: Path) -> tuple[int, ...]:
    with closing(read_frames(stream)) as frames:  # type: ignore[type-var]
        return find_cuts(frames)


def _as_limited_8_bit(bank: PatchBank) -> PatchBank:
    """Code values of 10 bits or full range as 8-bit limited ones."""
    if bank.format.bit_depth == 8 and not bank.format.colour.full_range:
        return bank
    unit = float(1 << (bank.format.bit_depth - 8))

    def narrow(planes: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y, u, v = (plane.astype(np.float32) / unit for plane in planes)
        if bank.format.colour.full_range:
            y = y * (219.0 / 255.0) + 16.0
            u, v = ((c - 128.0) * (224.0 / 255.0) + 128.0 for c in (u, v))
        y, u, v = (np.clip(np.rint(c), 0, 255).astype(np.uint8) for c in (y, u, v))
        return y, u, v

    return replace(
        bank,
        format=_FORMAT,
        coded=narrow(bank.coded),
        source=narrow(bank.source),
        neighbours=tuple(narrow(group) for group in bank.neighbours),
    )


def _to_bytes(bank: PatchBank) -> bytes:
    groups = (bank.coded, bank.source, *bank.neighbours)
    planes = [plane for group in groups for plane in group]
    arrays = dict(zip(_names(len(bank.neighbours)), planes, strict=True))
    return safetensors.numpy.save({n: np.ascontiguousarray(a) for n, a in arrays.items()})


def _names(num_neighbours: int) -> tuple[str, ...]:
    """Of a shard's arrays, with so many groups of neighbours."""
    groups = _NEIGHBOURS[:num_neighbours]
    return _PLANES + tuple(f"{group}_{plane}" for group in groups for plane in "yuv")


def load_bank(
    paths: Sequence[Path], max_bytes: int, num_neighbours: int = 0, run: int = 1
) -> PatchBank:
    """All shards as one bank of at most ``max_bytes``: of each the same share, from its start.

    num_neighbours: 2 with the source before and after, 4 with the decoded pictures, too. run: that
    of their settings.
    """
    names = _names(num_neighbours)
    total = sum(path.stat().st_size for path in paths)
    share = min(1.0, max_bytes / total)
    parts: list[dict[str, np.ndarray]] = []
    for path in paths:
        try:
            arrays = safetensors.numpy.load_file(path)
            kept = max(1, int(len(arrays["coded_y"]) // run * share)) * run
            parts.append({name: arrays[name][:kept] for name in names})
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(f"expected a shard at {path}, got {error}; remove it") from error
    shapes = {tuple(part[name].shape[1:] for name in _PLANES) for part in parts}
    if len(shapes) != 1:
        # An item smaller than a patch: its shard would not stack.
        most = max(shapes, key=lambda s: sum(s == _shape(part) for part in parts))
        parts = [part for part in parts if _shape(part) == most]
    stacked = [np.concatenate([part[name] for part in parts]) for name in names]
    coded, source, *neighbours = (
        (stacked[i], stacked[i + 1], stacked[i + 2]) for i in range(0, len(stacked), 3)
    )
    count = len(coded[0])
    frame = np.zeros(count, np.int64)
    return PatchBank(_FORMAT, coded, source, frame, count // run, tuple(neighbours), run)


def _shape(part: dict[str, np.ndarray]) -> tuple[tuple[int, ...], ...]:
    return tuple(part[name].shape[1:] for name in _PLANES)
