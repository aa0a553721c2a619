"""``codecaux.json``: which weights belong to which rung of a ladder; docs/ladder-format.md.

Written by :mod:`codecaux.ladders.package`, read by the player. What is read is untrusted: sizes,
types and ranges are checked, and names of files are relative, plain and without ``..``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, cast

from codecaux.errors import InputError
from codecaux.hevc import StreamHash

__all__ = [
    "INDEX_FORMAT",
    "INDEX_NAME",
    "INDEX_SCHEME",
    "INDEX_VERSION",
    "INIT_NAME",
    "MAX_SEGMENTS",
    "SESSION_DATA_ID",
    "AudioEntry",
    "LadderIndex",
    "RungEntry",
    "WeightsEntry",
    "index_from_json",
    "index_to_json",
    "is_plain_path",
    "read_index",
    "segment_name",
]

INDEX_NAME = "codecaux.json"
INDEX_FORMAT = "codecaux-ladder"
INDEX_VERSION = 1
INIT_NAME = "init.mp4"
# Where manifests name the index: EXT-X-SESSION-DATA's DATA-ID, SupplementalProperty's schemeIdUri.
SESSION_DATA_ID = "codecaux.ladder"
INDEX_SCHEME = "urn:codecaux:ladder:1"
MAX_SEGMENTS = 99_999
_MAX_BYTES = 1 << 20
_MAX_ENTRIES = 256
_MAX_SIDE = 1 << 15
_MAX_INTEGER = 1 << 53
_MAX_TEXT = 256
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RungEntry:
    """One rung: ``folder`` holds ``init.mp4`` and ``num_segments`` segments.

    Sizes are luma pixels: of the coded stream, and of what the weights make of it (equal without
    weights). Bits a second are of its segments, without sound and weights. ``stream`` is None for
    a rung that is not H.265. ``weights`` is the path of an entry of ``LadderIndex.weights``.
    """

    folder: str
    num_segments: int
    codecs: str
    width: int
    height: int
    enhanced_width: int
    enhanced_height: int
    num_frames: int
    peak_bits_per_second: int
    average_bits_per_second: int
    segment_bytes: int
    stream: StreamHash | None
    weights: str | None


@dataclass(frozen=True, slots=True)
class AudioEntry:
    """One audio track: ``folder`` as in a rung; ``is_default``: played unless another is chosen."""

    folder: str
    num_segments: int
    codecs: str
    name: str
    language: str
    channels: int
    is_default: bool
    peak_bits_per_second: int
    average_bits_per_second: int
    segment_bytes: int


@dataclass(frozen=True, slots=True)
class WeightsEntry:
    """One weights file: its path in the ladder's folder, its size and SHA-256, whose it is."""

    path: str
    bytes: int
    sha256: str
    rungs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LadderIndex:
    """Everything in ``codecaux.json``. Rungs rise in rate, those that are not H.265 come last."""

    duration_seconds: float
    rungs: tuple[RungEntry, ...]
    audio: tuple[AudioEntry, ...] = ()
    weights: tuple[WeightsEntry, ...] = ()
    created_by: str = ""


def segment_name(number: int) -> str:
    """File name of segment ``number``, counted from 1."""
    return f"seg-{number:05d}.m4s"


def is_plain_path(text: str) -> bool:
    """Relative, of plain names only: no ``..``, no drive, nothing that a URI must escape."""
    return len(text) <= _MAX_TEXT and all(_PLAIN_NAME.fullmatch(part) for part in text.split("/"))


def index_to_json(index: LadderIndex) -> bytes:
    """The file's bytes: the same index gives the same ones."""
    values = {"format": INDEX_FORMAT, "format_version": INDEX_VERSION} | asdict(index)
    return (json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_index(path: Path) -> LadderIndex:
    """Read and check ``path``; InputError where it is missing or no index of a ladder."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"expected a ladder's index at {path}, got: {error.strerror}; copy the ladder's "
            "folder again, whole"
        ) from error
    return index_from_json(data, str(path))


def index_from_json(data: bytes, source: str = INDEX_NAME) -> LadderIndex:
    """:func:`index_to_json`'s bytes read and checked; InputError names the first bad field."""
    reader = _Reader(source)
    if len(data) > _MAX_BYTES:
        reader.fail("the file", f"at most {_MAX_BYTES} bytes", "more")
    try:
        values = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"expected a ladder's index (JSON) in {source}, got: {str(error)[:200]}; copy the "
            "ladder's folder again"
        ) from error
    return reader.index(values)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed reading of untrusted JSON; ``source`` is named in the errors."""

    source: str

    def fail(self, field: str, expected: str, got: object) -> NoReturn:
        raise InputError(
            f"expected {field} to be {expected} in {self.source}, got {ascii(got)[:80]}; the index "
            "is damaged or no ladder's: copy the ladder's folder again"
        )

    def index(self, values: object) -> LadderIndex:
        top = self.object(values, "the index")
        if top.get("format") != INDEX_FORMAT:
            self.fail("format", repr(INDEX_FORMAT), top.get("format"))
        version = self.integer(top, "format_version", _MAX_INTEGER, 1)
        if version > INDEX_VERSION:
            raise InputError(
                f"expected a ladder of format version {INDEX_VERSION} in {self.source}, got "
                f"{version}: it was made by a newer codecaux, upgrade this one"
            )
        index = LadderIndex(
            duration_seconds=self.number(top, "duration_seconds"),
            rungs=tuple(self.rung(entry) for entry in self.list(top, "rungs")),
            audio=tuple(self.audio(entry) for entry in self.list(top, "audio")),
            weights=tuple(self.weights(entry) for entry in self.list(top, "weights")),
            created_by=self.text(top, "created_by"),
        )
        return self.consistent(index)

    def consistent(self, index: LadderIndex) -> LadderIndex:
        if not index.rungs:
            self.fail("rungs", "at least one", "none")
        folders = [rung.folder for rung in index.rungs]
        folders += [track.folder for track in index.audio]
        if len(set(folders)) < len(folders):
            self.fail("folder", "another in every rung and audio track", folders[:4])
        known = {entry.path for entry in index.weights}
        for rung in index.rungs:
            if rung.weights is not None and rung.weights not in known:
                self.fail("weights of a rung", "one of the index's files", rung.weights)
            if rung.weights is not None and rung.stream is None:
                self.fail("stream of a rung with weights", "its hashes", None)
        return index

    def rung(self, values: object) -> RungEntry:
        entry = self.object(values, "a rung")
        weights = entry.get("weights")
        return RungEntry(
            folder=self.path(entry, "folder"),
            num_segments=self.integer(entry, "num_segments", MAX_SEGMENTS, 1),
            codecs=self.text(entry, "codecs"),
            width=self.integer(entry, "width", _MAX_SIDE, 1),
            height=self.integer(entry, "height", _MAX_SIDE, 1),
            enhanced_width=self.integer(entry, "enhanced_width", _MAX_SIDE, 1),
            enhanced_height=self.integer(entry, "enhanced_height", _MAX_SIDE, 1),
            num_frames=self.integer(entry, "num_frames", _MAX_INTEGER, 1),
            peak_bits_per_second=self.integer(entry, "peak_bits_per_second"),
            average_bits_per_second=self.integer(entry, "average_bits_per_second"),
            segment_bytes=self.integer(entry, "segment_bytes"),
            stream=self.stream(entry.get("stream")),
            weights=None if weights is None else self.path(entry, "weights"),
        )

    def audio(self, values: object) -> AudioEntry:
        entry = self.object(values, "an audio track")
        is_default = entry.get("is_default")
        if not isinstance(is_default, bool):
            self.fail("is_default", "true or false", is_default)
        return AudioEntry(
            folder=self.path(entry, "folder"),
            num_segments=self.integer(entry, "num_segments", MAX_SEGMENTS, 1),
            codecs=self.text(entry, "codecs"),
            name=self.text(entry, "name"),
            language=self.text(entry, "language"),
            channels=self.integer(entry, "channels", 255),
            is_default=is_default,
            peak_bits_per_second=self.integer(entry, "peak_bits_per_second"),
            average_bits_per_second=self.integer(entry, "average_bits_per_second"),
            segment_bytes=self.integer(entry, "segment_bytes"),
        )

    def weights(self, values: object) -> WeightsEntry:
        entry = self.object(values, "a weights file")
        rungs = self.list(entry, "rungs")
        if not all(isinstance(name, str) and is_plain_path(name) for name in rungs):
            self.fail("rungs of a weights file", "names of folders", rungs)
        return WeightsEntry(
            path=self.path(entry, "path"),
            bytes=self.integer(entry, "bytes"),
            sha256=self.sha256(entry, "sha256"),
            rungs=tuple(cast(list[str], rungs)),
        )

    def stream(self, values: object) -> StreamHash | None:
        if values is None:
            return None
        entry = self.object(values, "stream")
        return StreamHash(
            whole_sha256=self.sha256(entry, "whole_sha256"),
            start_sha256=self.sha256(entry, "start_sha256"),
        )

    def object(self, values: object, what: str) -> Mapping[str, Any]:
        if not isinstance(values, dict):
            self.fail(what, "a JSON object", values)
        return values

    def list(self, values: Mapping[str, Any], name: str) -> list[Any]:
        got = values.get(name)
        if not isinstance(got, list) or len(got) > _MAX_ENTRIES:
            self.fail(name, f"a list of at most {_MAX_ENTRIES}", got)
        return got

    def integer(
        self, values: Mapping[str, Any], name: str, largest: int = _MAX_INTEGER, smallest: int = 0
    ) -> int:
        got = values.get(name)
        if type(got) is not int or not smallest <= got <= largest:
            self.fail(name, f"an integer of {smallest} to {largest}", got)
        return got

    def number(self, values: Mapping[str, Any], name: str) -> float:
        got = values.get(name)
        if type(got) not in (int, float) or not 0 < cast(float, got) < _MAX_INTEGER:
            self.fail(name, "a number above 0", got)
        return float(cast(float, got))

    def text(self, values: Mapping[str, Any], name: str) -> str:
        got = values.get(name)
        if not isinstance(got, str) or len(got) > _MAX_TEXT or not got.isprintable():
            self.fail(name, f"printable text of at most {_MAX_TEXT} characters", got)
        return got

    def path(self, values: Mapping[str, Any], name: str) -> str:
        got = self.text(values, name)
        if not is_plain_path(got):
            self.fail(name, "a relative path of plain names", got)
        return str(PurePosixPath(got))

    def sha256(self, values: Mapping[str, Any], name: str) -> str:
        got = self.text(values, name)
        if not _SHA256.fullmatch(got):
            self.fail(name, "64 hexadecimal digits", got)
        return got
