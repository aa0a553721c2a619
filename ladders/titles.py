"""A title as probes see it: its content, its length, and the samples that stand for it.

file ─ SHA-256 ─> survey (cached): frames, duration, size, ranges ─> Title
Title ─ sample_source ─> a PreparedSource of its samples, cut once for all probes; it is there
                         as long as a command is in sample_in_use
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from codecaux.encoder.excerpt import Range, make_excerpt, open_excerpt
from codecaux.encoder.prepare import PreparedSource, SourceOptions, prepare
from codecaux.errors import InputError, TargetError, UsageError
from codecaux.events import Events, Notice, Result
from codecaux.ffmpeg import Ffmpeg
from codecaux.ladders.cache import Cache, locked, shared
from codecaux.ladders.samples import (
    choose_ranges,
    detector_name,
    find_cuts,
    measure_busyness,
)
from codecaux.ladders.settings import SamplingSettings
from codecaux.probe import open_video

__all__ = ["Title", "content_sha256", "sample_in_use", "sample_source", "survey", "whole_source"]

# Raised whenever a survey begins to say something else of the same file.
_REVISION = 2
# ffmpeg's names of what holds no pictures itself.
_REFERRING = frozenset(("concat", "dash", "hls", "imf"))


@dataclass(frozen=True, slots=True)
class Title:
    """``path`` and ``options`` say how to read it, ``content`` is its file's SHA-256. ``ranges``:
    the frames that probes see; one of all frames where it is taken whole. Sizes in luma pixels.
    """

    path: Path
    options: SourceOptions
    content: str
    num_frames: int
    duration_seconds: float
    fps: Fraction
    width: int
    height: int
    bit_depth: int
    ranges: tuple[Range, ...]

    @property
    def is_whole(self) -> bool:
        """Do probes see every frame?"""
        return self.ranges == ((0, self.num_frames),)

    @property
    def sample_frames(self) -> int:
        """Frames that probes see."""
        return sum(count for _, count in self.ranges)

    @property
    def sample_seconds(self) -> float:
        """At the mean rate; exactly the title's duration where it is taken whole."""
        return self.duration_seconds * self.sample_frames / self.num_frames

    @property
    def sample_pixels(self) -> int:
        """Luma pixels of the frames that probes see."""
        return self.sample_frames * self.width * self.height

    def taken_whole(self) -> Title:
        """The same title, itself its only sample."""
        return replace(self, ranges=((0, self.num_frames),))

    def identity(self) -> dict[str, Any]:
        """What the pictures that a probe sees depend on, as JSON values."""
        return {
            "content": self.content,
            "options": _options_to_json(self.options),
            "ranges": None if self.is_whole else [list(pair) for pair in self.ranges],
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, for another process: :meth:`from_json` reads it."""
        facts = _facts(self) | {"path": str(self.path.absolute()), "content": self.content}
        return facts | {"options": _options_to_json(self.options)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Title:
        """What :meth:`to_json` wrote."""
        options = _options_from_json(record["options"])
        return _title(Path(record["path"]), options, record["content"], record)


def _facts(title: Title) -> dict[str, Any]:
    plain = {n: getattr(title, n) for n in ("num_frames", "width", "height", "bit_depth")}
    plain |= {"duration_seconds": title.duration_seconds, "fps": str(title.fps)}
    return plain | {"ranges": [list(pair) for pair in title.ranges]}


def _title(path: Path, options: SourceOptions, content: str, facts: Mapping[str, Any]) -> Title:
    plain = {n: facts[n] for n in ("num_frames", "width", "height", "bit_depth")}
    return Title(
        path=path,
        options=options,
        content=content,
        duration_seconds=facts["duration_seconds"],
        fps=Fraction(facts["fps"]),
        ranges=tuple((first, count) for first, count in facts["ranges"]),
        **plain,
    )


def _options_to_json(options: SourceOptions) -> dict[str, Any]:
    record = asdict(options)
    record["raw_size"] = list(options.raw_size) if options.raw_size else None
    record["raw_fps"] = str(options.raw_fps) if options.raw_fps else None
    return record


def _options_from_json(record: Mapping[str, Any]) -> SourceOptions:
    values = dict(record)
    values["raw_size"] = tuple(values["raw_size"]) if values["raw_size"] else None
    values["raw_fps"] = Fraction(values["raw_fps"]) if values["raw_fps"] else None
    return SourceOptions(**values)


def content_sha256(path: Path) -> str:
    """Of a whole file. InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"expected a video, got {path}: {error.strerror}; check the name"
        ) from error


# ----------------------------------------------------------------------------------------- survey


def survey(
    path: str | Path,
    options: SourceOptions,
    sampling: SamplingSettings,
    cache: Cache,
    ffmpeg: Ffmpeg,
) -> Events[Title]:
    """Look a title over once: decoded to its end, its scenes found where it is to be sampled.

    Cached by content. InputError for what :func:`codecaux.encoder.prepare.prepare` refuses,
    UsageError for "-": what comes on standard input can be read only once.
    """
    if str(path) == "-":
        raise UsageError(
            "expected a file, got - for standard input, which can be read only once; write it to a "
            "file first"
        )
    path = Path(path)
    if path.is_dir():
        raise InputError(f"expected a video file, got the folder {path}")
    if options.raw_size is None:
        _check_whole_in_itself(path)
    content = content_sha256(path)
    identity = {
        "revision": _REVISION,
        "content": content,
        "options": _options_to_json(options),
        "sampling": sampling.to_json(),
        "detector": detector_name(),
        "ffmpeg": ffmpeg.version,
    }
    entry = cache.get("survey", identity)
    if entry is not None:
        return _title(path, options, content, entry.value)
    folder = cache.work_folder("survey", identity)
    with locked(folder):
        entry = cache.get("survey", identity)  # another process may have made it meanwhile
        if entry is not None:
            return _title(path, options, content, entry.value)
        warnings: list[Notice] = []
        title = yield from _survey(path, options, sampling, content, folder, ffmpeg, warnings)
        if not warnings:  # what went wrong once is tried again
            cache.put("survey", identity, _facts(title), label=path.name)
        shutil.rmtree(folder, ignore_errors=True)
    return title


def _check_whole_in_itself(path: Path) -> None:
    """InputError for a file that names others: its content says nothing about their pictures."""
    with open_video(path) as source:
        kind = source.container.format.name
    if _REFERRING & set(kind.split(",")):
        raise InputError(
            f"expected a file that holds its own pictures, got {path}, which names others "
            f"({kind}); make one of it first (ffmpeg -i in -c copy out.mkv)"
        )


def _heard(events: Events[Result], warnings: list[Notice]) -> Events[Result]:
    """``events``, and the warnings among them."""
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            if isinstance(event, Notice) and event.level == "warning":
                warnings.append(event)
            yield event


def _survey(
    path: Path,
    options: SourceOptions,
    sampling: SamplingSettings,
    content: str,
    folder: Path,
    ffmpeg: Ffmpeg,
    warnings: list[Notice],
) -> Events[Title]:
    """``warnings`` gets what went wrong where samples were to be placed, if anything."""
    source = yield from prepare(path, options, folder, ffmpeg=ffmpeg)
    duration = float(source.duration_seconds)
    # Frames a second as they really are: a header's claim may be wrong.
    fps = Fraction(source.num_frames) / source.duration_seconds
    cuts: list[int] = []
    busyness = None
    if not sampling.takes_whole(duration):
        cuts = yield from _heard(find_cuts(source, ffmpeg), warnings)
        busyness = yield from _heard(measure_busyness(source, ffmpeg), warnings)
    ranges = choose_ranges(source.num_frames, fps, cuts, sampling, busyness)
    layout = source.info.format
    size = {"width": layout.width, "height": layout.height, "bit_depth": layout.bit_depth}
    return Title(path, options, content, source.num_frames, duration, fps, ranges=ranges, **size)


# ----------------------------------------------------------------------------------------- sources


def sample_source(title: Title, cache: Cache, ffmpeg: Ffmpeg) -> Events[PreparedSource | None]:
    """The samples as one source, cut where they are not there yet; None for a title that is taken
    whole: an encode reads that by itself, as the final one does.
    """
    if title.is_whole:
        return None
    folder = _sample_folder(title, cache, ffmpeg)
    with locked(folder):
        found = open_excerpt(folder)
        if found is None:
            count, seconds = len(title.ranges), title.sample_seconds
            yield Notice(f"cutting {count} piece(s), {seconds:.1f} s in all, out of {title.path}")
            source = yield from prepare(title.path, title.options, folder, ffmpeg=ffmpeg)
            found = yield from make_excerpt(source, title.ranges, folder, ffmpeg)
            if source.path.parent == folder:
                source.path.unlink()  # as large as the title, and needed no more
    return found


def whole_source(title: Title, folder: Path, ffmpeg: Ffmpeg) -> Events[PreparedSource]:
    """The whole title prepared as an encode does it; ``folder``: for what has to be converted."""
    return (yield from prepare(title.path, title.options, folder, ffmpeg=ffmpeg))


@contextmanager
def sample_in_use(title: Title, cache: Cache, ffmpeg: Ffmpeg) -> Iterator[None]:
    """The cut samples stay where they are for the block, whatever other commands do.

    At its end they are removed, where nobody else uses them: they are large, and made again in one
    pass of decoding. So they are where a target is out of reach; after other errors they stay, for
    whoever goes on. A command's other processes need no block of their own: they end before the
    command's does.
    """
    if title.is_whole:
        yield
        return
    folder = _sample_folder(title, cache, ffmpeg)
    with shared(folder) as is_alone:
        try:
            yield
        except TargetError:
            _discard(folder, is_alone)
            raise
        _discard(folder, is_alone)


def _discard(folder: Path, is_alone: Callable[[], bool]) -> None:
    if is_alone():
        shutil.rmtree(folder, ignore_errors=True)


def _sample_folder(title: Title, cache: Cache, ffmpeg: Ffmpeg) -> Path:
    return cache.work_folder("sample", title.identity() | {"ffmpeg": ffmpeg.version})
