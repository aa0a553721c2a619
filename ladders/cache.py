"""What was found out once: surveys, probes and their weights, by content and settings.

An entry is one file, ``<root>/entries/<kind>/<SHA-256 of its identity>``::

    SHA-256 of the next line
    {"value": {...}, "identity": {...}, "label": "...", "payload_sha256": "...", ...}
    payload

An identity is a JSON object of everything that the value depends on: whoever asks makes it, and an
entry whose own identity is not exactly the one asked for is a miss, as is one that is cut, damaged
or of another format. Entries are written whole or not at all. ``<root>/work`` holds unfinished
work, which a killed command goes on with.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from codecaux.atomic import write_atomic
from codecaux.errors import InputError
from codecaux.folders import cache_dir
from codecaux.ladders.cache_locks import lock_files, locked, shared, unused

__all__ = [
    "VARIABLE",
    "Cache",
    "CacheSize",
    "Entry",
    "default_root",
    "digest_of",
    "locked",
    "shared",
]

Json: TypeAlias = Any

VARIABLE = "CODECAUX_CACHE"
# Raised whenever entries begin to mean something else: older ones are misses from then on.
_FORMAT = 1
_MAX_HEADER_BYTES = 64 << 20
_SUFFIX = ".entry"
# What is ours among what there may be in a folder that somebody named.
_ENTRY_NAME = re.compile(r"[0-9a-f]{64}\.entry")
_PART_NAME = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{8}\.part\.entry")
_WORK_NAME = re.compile(r"(?P<folder>[a-z]+-[0-9a-f]{32})(\.lock|\.users)?")
# An entry is written in seconds: what is older was left by a killed process.
_PART_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """``value`` is plain JSON, ``payload`` bytes beside it; ``label`` names it for people."""

    kind: str
    identity: Mapping[str, Json]
    value: Mapping[str, Json]
    payload: bytes
    label: str
    made_at: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CacheSize:
    """How many entries there are, their bytes, and those of unfinished work. ``num_in_use``:
    folders of unfinished work that were not cleared, since running commands use them.
    """

    num_entries: int
    entry_bytes: int
    work_bytes: int
    num_in_use: int = 0


def default_root() -> Path:
    """$CODECAUX_CACHE, else the folder ``probes`` in the user's cache folder. Not created here."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else cache_dir() / "probes"


def digest_of(value: Json) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of entries. Several processes may use it at once."""

    root: Path

    @classmethod
    def open(cls, root: Path | None = None) -> Cache:
        """The cache at ``root`` (None: the default one), made where there is none.

        InputError where it cannot be written to: found out before the work, not after it.
        """
        cache = cls(root or default_root())
        try:
            for folder in (cache._entries, cache._work):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(cache.root, str(error)) from error
        if not os.access(cache._entries, os.W_OK):
            raise _not_writable(cache.root, "it is read-only to you")
        return cache

    @property
    def _entries(self) -> Path:
        return self.root / "entries"

    @property
    def _work(self) -> Path:
        return self.root / "work"

    def get(self, kind: str, identity: Mapping[str, Json]) -> Entry | None:
        """The entry of exactly this identity; None where there is none that is whole."""
        found = _read(self._path(kind, identity))
        return found if found is not None and found.identity == _plain(identity) else None

    def put(
        self,
        kind: str,
        identity: Mapping[str, Json],
        value: Mapping[str, Json],
        *,
        payload: bytes = b"",
        label: str = "",
    ) -> None:
        """Write an entry, whole or not at all, over the one that was there. InputError where the
        disk is full.
        """
        header = {
            "format": _FORMAT,
            "value": value,
            "identity": identity,
            "label": label,
            "made_at": time.time(),
            "payload_sha256": hashlib.sha256(payload).hexdigest(),
        }
        text = json.dumps(header, sort_keys=True, allow_nan=False).encode()
        # The digest comes first, so that a header whose end was lost is not taken for a whole one.
        check = hashlib.sha256(text).hexdigest().encode()
        path = self._path(kind, identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, b"\n".join((check, text, payload)))

    def entries(self) -> Iterator[Entry]:
        """Every entry that is whole, the oldest first."""
        found = (_read(path) for path in sorted(self._entries.glob(f"*/*{_SUFFIX}")))
        yield from sorted((e for e in found if e is not None), key=lambda entry: entry.made_at)

    def work_folder(self, kind: str, identity: Mapping[str, Json]) -> Path:
        """Where the making of an entry keeps its parts; the same one every time, and created."""
        folder = self._work / f"{kind}-{digest_of(identity)[:32]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def size(self) -> CacheSize:
        """What it takes on disk, damaged entries included; files that are not its own are not."""
        entries = [_size(path) for path in self._named(_ENTRY_NAME)]
        parts = [_size(path) for path in self._named(_PART_NAME)]
        work = [_size(folder) for folder in self._work_folders()]
        return CacheSize(len(entries), sum(entries), sum(parts) + sum(work))

    def clear(self) -> CacheSize:
        """Remove everything that is the cache's own and that no running command uses; returns what
        was removed. Whatever else there is is let be, folders that hold something too.
        """
        old = time.time() - _PART_SECONDS
        files = self._named(_ENTRY_NAME)
        parts = [path for path in self._named(_PART_NAME) if _modified(path) < old]
        removed = [size for path in files if (size := _removed(path)) is not None]
        leftover = sum(_removed(path) or 0 for path in parts)
        cleared = [_cleared(folder) for folder in self._work_folders()]
        kinds = dict.fromkeys(path.parent for path in (*files, *parts))
        for folder in (*kinds, self._entries, self._work, self.root):
            with suppress(OSError):  # only where nothing else is in it
                folder.rmdir()
        work_bytes = leftover + sum(size or 0 for size in cleared)
        return CacheSize(len(removed), sum(removed), work_bytes, cleared.count(None))

    def _named(self, name: re.Pattern[str]) -> list[Path]:
        """Files of all kinds of entries whose names are such."""
        found = (path for kind in _children(self._entries) for path in _children(kind))
        return [path for path in found if name.fullmatch(path.name) and path.is_file()]

    def _work_folders(self) -> list[Path]:
        """Of unfinished work: those that are there, and those of which only locks are left."""
        found = (_WORK_NAME.fullmatch(path.name) for path in _children(self._work))
        return [self._work / name for name in dict.fromkeys(m["folder"] for m in found if m)]

    def _path(self, kind: str, identity: Mapping[str, Json]) -> Path:
        return self._entries / kind / f"{digest_of(identity)}{_SUFFIX}"


def _not_writable(root: Path, reason: str) -> InputError:
    return InputError(
        f"expected to be able to write in the cache folder {root}, got: {reason}; set ${VARIABLE} "
        "to another folder, or do without with --no-cache"
    )


def _plain(identity: Mapping[str, Json]) -> Json:
    """As it is read back: tuples are lists then."""
    return json.loads(json.dumps(identity))


def _read(path: Path) -> Entry | None:
    """The entry in a file; None where it is missing, cut, damaged or of another format."""
    try:
        with path.open("rb") as file:
            check = file.readline(_MAX_HEADER_BYTES)[:-1]
            text = file.readline(_MAX_HEADER_BYTES)[:-1]
            payload = file.read()
    except OSError:
        return None
    if hashlib.sha256(text).hexdigest().encode() != check:
        return None
    header = json.loads(text)
    is_whole = hashlib.sha256(payload).hexdigest() == header.get("payload_sha256")
    if header.get("format") != _FORMAT or not is_whole:
        return None
    return Entry(
        kind=path.parent.name,
        identity=header["identity"],
        value=header["value"],
        payload=payload,
        label=header["label"],
        made_at=header["made_at"],
        size_bytes=len(check) + len(text) + len(payload) + 2,
    )


def _children(folder: Path) -> list[Path]:
    """Sorted; none where there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is neither."""
    total = 0
    for each in (path, *path.rglob("*")):
        with suppress(OSError):  # gone meanwhile
            if each.is_file():
                total += each.stat().st_size
    return total


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return math.inf


def _removed(path: Path) -> int | None:
    """Remove a file; its bytes, None where it stays."""
    size = _size(path)
    try:
        path.unlink()
    except OSError:
        return None
    return size


def _cleared(folder: Path) -> int | None:
    """Remove a folder of unfinished work with its locks; its bytes, None where it is in use."""
    size = _size(folder)
    try:
        with unused(folder) as is_unused:
            if not is_unused:
                return None
            shutil.rmtree(folder, ignore_errors=True)
            for path in lock_files(folder):
                path.unlink(missing_ok=True)
    except OSError:  # a folder that is read-only to us
        return 0
    return size - _size(folder)
