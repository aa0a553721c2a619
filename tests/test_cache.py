"""The cache of probes: what is kept comes back, what is damaged does not; the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codecaux.cli.main import main
from codecaux.errors import InputError
from codecaux.ladders.cache import Cache, default_root, digest_of
from codecaux.ladders.cache_locks import lock_files, locked, shared, unused

IDENTITY = {"content": "ab", "crf": 24.0, "steps": [1, 2]}
VALUE = {"stream_bytes": 1000, "scores": {"vmaf_v1": 91.25, "lpips": None}}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache.open(tmp_path / "cache")


def _only_file(cache: Cache) -> Path:
    (path,) = (p for p in (cache.root / "entries").rglob("*") if p.is_file())
    return path


def test_what_was_put_comes_back(cache: Cache) -> None:
    assert cache.get("probe", IDENTITY) is None
    cache.put("probe", IDENTITY, VALUE, payload=b"\x00\n\xff", label="a clip, CRF 24")
    entry = cache.get("probe", {"steps": (1, 2), "crf": 24.0, "content": "ab"})
    assert entry is not None
    assert (entry.value, entry.payload, entry.label) == (VALUE, b"\x00\n\xff", "a clip, CRF 24")
    assert entry.size_bytes == _only_file(cache).stat().st_size == cache.size().entry_bytes


@pytest.mark.parametrize(
    "other", [IDENTITY | {"crf": 24.5}, IDENTITY | {"new": None}, {"content": "ab"}]
)
def test_anything_else_is_a_miss(cache: Cache, other: dict[str, object]) -> None:
    cache.put("probe", IDENTITY, VALUE)
    assert cache.get("probe", other) is None
    assert cache.get("survey", IDENTITY) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(part=st.floats(0, 1, exclude_max=True), flip=st.integers(0, 255))
def test_a_damaged_entry_is_a_miss_and_no_error(cache: Cache, part: float, flip: int) -> None:
    cache.put("probe", IDENTITY, VALUE, payload=b"weights")
    path = _only_file(cache)
    whole = path.read_bytes()
    at = int(part * len(whole))
    # flip 0: cut there.
    rest = bytes([whole[at] ^ flip]) + whole[at + 1 :] if flip else b""
    path.write_bytes(whole[:at] + rest)
    assert cache.get("probe", IDENTITY) is None
    assert not list(cache.entries())
    cache.put("probe", IDENTITY, VALUE, payload=b"weights")
    assert cache.get("probe", IDENTITY) is not None


def test_an_entry_of_another_identity_under_this_name_is_a_miss(cache: Cache) -> None:
    cache.put("probe", IDENTITY, VALUE)
    path = _only_file(cache)
    other = IDENTITY | {"crf": 30.0}
    path.rename(path.with_name(digest_of(other) + ".entry"))
    assert cache.get("probe", other) is None


def test_another_format_is_a_miss(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecaux.ladders.cache._FORMAT", 0)
    cache.put("probe", IDENTITY, VALUE)
    monkeypatch.undo()
    assert cache.get("probe", IDENTITY) is None


def test_nothing_half_written_is_left(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match="disk is full"):
        cache.put("probe", IDENTITY, VALUE)
    assert not [path for path in cache.root.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"CODECAUX_CACHE.*--no-cache"):
        Cache.open(tmp_path / "file" / "cache")


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CODECAUX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "codecaux" / "probes"
    monkeypatch.setenv("CODECAUX_CACHE", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "folder"):
            order.append("second")

    with locked(tmp_path / "folder"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


# ---------------------------------------------------------------------------------------- command


def test_path_list_and_clear(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CODECAUX_CACHE", str(cache.root))
    cache.put("probe", IDENTITY, VALUE, payload=bytes(5000), label="clip.mkv, CRF 24")
    (cache.work_folder("probe", {"crf": 30}) / "part").write_bytes(bytes(100))
    assert main(["cache", "path"]) == 0
    assert capsys.readouterr().out.strip() == str(cache.root)
    assert main(["cache", "list"]) == 0
    out = capsys.readouterr().out
    assert "clip.mkv, CRF 24" in out
    assert "1 entries" in out
    assert "unfinished work 100 B" in out
    foreign = cache.root / "notes.txt"
    foreign.write_text("not ours")
    assert main(["cache", "clear", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["num_entries"], result["work_bytes"]) == (1, 100)
    assert [path.name for path in cache.root.iterdir()] == ["notes.txt"]
    assert main(["cache", "clear"]) == 0
    assert "0 entries" in capsys.readouterr().out


def test_clearing_leaves_what_is_not_the_caches_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """$CODECAUX_CACHE may name a folder in which people keep other things, by such names too."""
    cache = Cache.open(tmp_path / "mine")
    monkeypatch.setenv("CODECAUX_CACHE", str(cache.root))
    cache.put("probe", IDENTITY, VALUE, payload=bytes(500))
    folder = cache.work_folder("probe", {"crf": 30})
    (folder / "part").write_bytes(bytes(100))
    for suffix in (".lock", ".users"):
        folder.with_name(folder.name + suffix).touch()
    name = digest_of(IDENTITY)
    left, fresh = (
        cache.root / "entries" / "probe" / f".{name}.{digits}.part.entry"
        for digits in ("0123abcd", "4567abcd")
    )
    left.write_bytes(bytes(10))
    os.utime(left, (0, 0))
    theirs = [
        fresh,  # another process is writing it
        cache.root / "work" / "thesis.tex",
        cache.root / "work" / "probe-1" / "notes",
        cache.root / "work" / "probe-1.lock",
        cache.root / "entries" / "diary.entry",
        cache.root / "entries" / "probe" / "diary.entry",
        cache.root / "entries" / "probe" / f"{name[:-1]}.entry",
        cache.root / "entries" / "probe" / f"{name}.entry.bak",
    ]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    assert cache.size().num_entries == 1
    assert main(["cache", "clear", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["num_entries"], result["work_bytes"], result["num_in_use"]) == (1, 110, 0)
    assert sorted(p for p in cache.root.rglob("*") if p.is_file()) == sorted(theirs)


@pytest.mark.parametrize("hold", [locked, shared])
def test_clearing_leaves_what_a_running_command_uses(
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hold: Callable[[Path], AbstractContextManager[object]],
) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setenv("CODECAUX_CACHE", str(cache.root))
    used, free = (cache.work_folder("probe", {"crf": crf}) for crf in (24, 30))
    for folder in (used, free):
        (folder / "part").write_bytes(bytes(100))
    with hold(used):
        assert main(["cache", "clear"]) == 0
        said = capsys.readouterr().out
        assert "unfinished work 100 B" in said
        assert "kept 1 folders of unfinished work that running commands use" in said
        assert (used / "part").exists()
        assert not free.exists()
    assert main(["cache", "clear"]) == 0
    assert "kept" not in capsys.readouterr().out
    assert not cache.root.exists()


def test_a_lock_that_was_cleared_while_it_was_waited_for_is_taken_anew(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    folder = tmp_path / "work" / "probe"
    held: list[bool] = []

    def wait() -> None:
        with locked(folder), unused(folder) as is_unused:
            held.append(folder.is_dir() and not is_unused)

    with locked(folder):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.2)
        for path in lock_files(folder):
            path.unlink(missing_ok=True)
        folder.rmdir()
    thread.join(10)
    assert held == [True]


def test_looking_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECAUX_CACHE", str(tmp_path / "none"))
    for action in ("path", "list", "clear"):
        assert main(["cache", action]) == 0
    assert not list(tmp_path.iterdir())


def test_an_unknown_action_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "shrink"]) == 2
    assert "path" in capsys.readouterr().err


def test_the_command_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom codecaux.cli.main import main\nmain(['cache', 'path'])\n"
        "print('HEAVY', sorted({'torch', 'av', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "CODECAUX_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == [str(tmp_path), "HEAVY []"]
