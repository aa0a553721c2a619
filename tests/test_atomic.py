"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from codecaux.atomic import atomic_folder, atomic_path, write_atomic
from codecaux.errors import InputError, UsageError


def test_appears_under_its_name_only_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "title.mp4"
    with atomic_path(final) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(b"data")
        assert not final.exists()
    assert final.read_bytes() == b"data"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    final = tmp_path / "title.weights"
    final.write_bytes(b"old")

    def write_half() -> None:
        with atomic_path(final) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert final.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [final]


def test_write_replaces(tmp_path: Path) -> None:
    final = tmp_path / "a"
    write_atomic(final, b"one")
    write_atomic(final, b"two")
    assert final.read_bytes() == b"two"


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="create it first"):
        write_atomic(tmp_path / "none" / "a", b"")


def test_full_disk_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="the disk is full"):
        write_atomic(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_long_names_fit(tmp_path: Path) -> None:
    final = tmp_path / ("x" * 240 + ".mp4")
    write_atomic(final, b"x")
    assert final.read_bytes() == b"x"
    # Names are counted in bytes.
    final = tmp_path / ("日" * 80 + ".mkv")
    write_atomic(final, b"y")
    assert final.read_bytes() == b"y"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a file .* got the folder"):
        write_atomic(tmp_path, b"x")


def test_a_disk_that_is_full_at_the_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("codecaux.atomic._flush_file", fail)
    with pytest.raises(InputError, match="disk is full"):
        write_atomic(tmp_path / "out", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "out"
    with atomic_folder(final) as staging:
        (staging / "a").write_text("new")
        assert not final.exists()
    assert (final / "a").read_text() == "new"
    with pytest.raises(UsageError, match="not empty"), atomic_folder(final):
        pass
    with pytest.raises(KeyboardInterrupt), atomic_folder(final, overwrite=True):
        raise KeyboardInterrupt
    assert [path.name for path in final.iterdir()] == ["a"]
    with pytest.raises(InputError, match="disk is full"), atomic_folder(final, overwrite=True):
        raise OSError(errno.ENOSPC, "No space left on device")
    with atomic_folder(final, overwrite=True) as staging:
        (staging / "b").write_text("newer")
    assert [path.name for path in final.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_needs_a_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="create it first"), atomic_folder(tmp_path / "no" / "x"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the file"), atomic_folder(tmp_path / "file"):
        pass
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as staging:
        (staging / "a").write_text("")
    assert (tmp_path / "empty" / "a").exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_to_a_folder_stays_one(tmp_path: Path, is_there: bool) -> None:
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    if is_there:
        real.mkdir()
        (real / "a").write_text("old")
    link.symlink_to(real, target_is_directory=True)
    with atomic_folder(link, overwrite=True) as staging:
        assert staging.parent == real.parent
        (staging / "b").write_text("new")
    assert link.is_symlink()
    assert [path.name for path in link.iterdir()] == ["b"]
    assert list(real.parent.iterdir()) == [real]
