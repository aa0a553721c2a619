"""Finding ffmpeg and running it: with the real program and with impostors."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codecaux.errors import ToolFailedError, ToolFeatureError, ToolMissingError
from codecaux.ffmpeg import (
    ENVIRONMENT_VARIABLE,
    Ffmpeg,
    FfmpegFeed,
    find_ffmpeg,
    iterate_ffmpeg,
    parse_names,
    run_ffmpeg,
)

posix_only = pytest.mark.skipif(os.name != "posix", reason="the impostors are shell scripts")

_ANSWERS = """#!/bin/sh
case "$*" in
  -version) echo "ffmpeg version 6.1-fake Copyright" ;;
  *-encoders) echo " V....D libx265              libx265 H.265" ;;
  *-filters) echo " ... scale             V->V       Scale" ;;
  *) exit 1 ;;
esac
"""


def impostor(folder: Path, script: str, name: str = "ffmpeg") -> Ffmpeg:
    path = folder / name
    path.write_text(script)
    path.chmod(0o755)
    return Ffmpeg(path, "fake", frozenset(), frozenset())


def test_found_program_has_what_is_required() -> None:
    ffmpeg = find_ffmpeg()
    assert "libx265" in ffmpeg.encoders
    assert {"libvmaf", "scale"} <= ffmpeg.filters
    assert ffmpeg.version
    assert "=" not in ffmpeg.filters
    assert find_ffmpeg() is ffmpeg


def test_listing_is_parsed_without_its_legend() -> None:
    listing = (
        "Encoders:\n V..... = Video\n ------\n"
        " V....D libx265    libx265 H.265 / HEVC (codec hevc)\n A....D aac   AAC\n"
        " TS aap               AA->A      Apply Affine Projection\n .. abench  A->A  Benchmark\n"
    )
    assert parse_names(listing) == {"libx265", "aac", "aap", "abench"}


@posix_only
def test_variable_naming_a_program_without_vmaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = impostor(tmp_path, _ANSWERS)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(fake.path))
    with pytest.raises(ToolFeatureError, match="filter libvmaf"):
        find_ffmpeg()
    assert find_ffmpeg(require_filters=("scale",)).version == "6.1-fake"


@posix_only
def test_a_relative_program_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = impostor(tmp_path, _ANSWERS)
    monkeypatch.chdir(fake.path.parent)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"./{fake.path.name}")
    assert find_ffmpeg(require_filters=("scale",)).path == fake.path


@posix_only
def test_path_program_without_vmaf_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor(tmp_path, _ANSWERS)
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_ffmpeg().path.parent != tmp_path
    assert find_ffmpeg(require_filters=("scale",)).path.parent == tmp_path


@posix_only
def test_broken_path_program_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor(tmp_path, "#!/bin/sh\necho broken >&2\nexit 1\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_ffmpeg().path.parent != tmp_path


def test_variable_naming_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ToolMissingError, match=ENVIRONMENT_VARIABLE):
        find_ffmpeg()


def test_no_program_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecaux.ffmpeg.shutil.which", lambda name: None)
    monkeypatch.setattr("codecaux.ffmpeg._bundled_program", lambda: None)
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    with pytest.raises(ToolMissingError, match="imageio-ffmpeg"):
        find_ffmpeg()


def test_failure_carries_command_and_last_words(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    missing = tmp_path / "nothing-here.mp4"
    with pytest.raises(ToolFailedError, match="exit code") as caught:
        run_ffmpeg(ffmpeg, ["-i", str(missing), "-f", "null", "-"])
    assert str(missing) in " ".join(caught.value.command)
    assert "No such file" in caught.value.stderr_tail


@posix_only
def test_flood_of_stderr_is_drained_and_only_its_end_kept(tmp_path: Path) -> None:
    script = "#!/bin/sh\nyes 0123456789abcdef | head -c 3000000 >&2\necho the end >&2\nexit 7\n"
    with pytest.raises(ToolFailedError, match="exit code 7") as caught:
        run_ffmpeg(impostor(tmp_path, script), [])
    assert caught.value.stderr_tail.endswith("the end\n")
    assert len(caught.value.stderr_tail) <= 8192


@posix_only
def test_full_disk_is_said_plainly(tmp_path: Path) -> None:
    script = (
        "#!/bin/sh\necho 'av_interleaved_write_frame(): No space left on device' >&2\nexit 228\n"
    )
    with pytest.raises(ToolFailedError, match="the disk is full"):
        run_ffmpeg(impostor(tmp_path, script), [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_really_full_disk(ffmpeg: Ffmpeg, clip: Path) -> None:
    arguments = ["-v", "error", "-i", str(clip), "-f", "rawvideo", "-y", "/dev/full"]
    with pytest.raises(ToolFailedError, match="the disk is full"):
        run_ffmpeg(ffmpeg, arguments)


@posix_only
def test_hanging_program_is_killed_by_an_exception(tmp_path: Path) -> None:
    fake = impostor(tmp_path, "#!/bin/sh\necho frame=3\nexec sleep 100\n")

    def interrupt(frames: int) -> None:
        assert frames == 3
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_ffmpeg(fake, [], on_progress=interrupt)
    assert time.monotonic() - started < 10


@posix_only
def test_closing_the_generator_kills(tmp_path: Path) -> None:
    fake = impostor(tmp_path, "#!/bin/sh\necho frame=1\nexec sleep 100\n")
    running = iterate_ffmpeg(fake, [])
    assert next(running) == 1
    running.close()  # the guard in conftest sees to the rest


@posix_only
def test_program_that_cannot_be_run(tmp_path: Path) -> None:
    path = tmp_path / "ffmpeg"
    path.write_bytes(b"")
    with pytest.raises(ToolMissingError):
        run_ffmpeg(Ffmpeg(path, "", frozenset(), frozenset()), [])


def _raw() -> list[str]:
    layout = ("-f", "rawvideo", "-video_size", "16x16", "-pixel_format", "gray")
    return ["-v", "error", *layout, "-framerate", "25", "-i", "pipe:0"]


def test_feed_arrives_whole(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    frames = [bytes([index]) * 256 for index in range(40)]
    seen: list[int] = []
    arguments = [*_raw(), "-f", "rawvideo", "-y", str(tmp_path / "out.raw")]
    run_ffmpeg(ffmpeg, arguments, feed=iter(frames), on_progress=seen.append)
    assert (tmp_path / "out.raw").read_bytes() == b"".join(frames)
    assert seen[-1] == 40


def test_error_of_the_feed_is_the_error(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    def feed() -> Iterator[bytes]:
        yield bytes(256)
        raise LookupError("from the feed")

    with pytest.raises(LookupError, match="from the feed"):
        run_ffmpeg(ffmpeg, [*_raw(), "-f", "null", "-"], feed=feed())


def test_feed_to_a_program_that_fails_at_once(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    endless = (bytes(1 << 16) for _ in range(10_000))
    with pytest.raises(ToolFailedError):
        run_ffmpeg(ffmpeg, [*_raw(), "-c:v", "no-such-encoder", "-f", "null", "-"], feed=endless)


def test_feed_object_writes_and_closes(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    out = tmp_path / "out.raw"
    with FfmpegFeed(ffmpeg, [*_raw(), "-f", "rawvideo", "-y", str(out)]) as feed:
        feed.write(memoryview(bytes(256)))
        feed.write(bytearray(b"\x01" * 256))
    assert out.read_bytes() == bytes(256) + b"\x01" * 256
    assert feed.close() == ""


def test_feed_object_reports_failure(ffmpeg: Ffmpeg) -> None:
    def push() -> None:
        with FfmpegFeed(ffmpeg, ["-v", "error", "-i", "no such file", "-f", "null", "-"]) as feed:
            for _ in range(1000):
                feed.write(bytes(1 << 16))

    with pytest.raises(ToolFailedError, match="No such file"):
        push()


@posix_only
def test_feed_object_killed_by_an_exception(tmp_path: Path) -> None:
    fake = impostor(tmp_path, "#!/bin/sh\nexec sleep 100\n")
    with pytest.raises(ZeroDivisionError), FfmpegFeed(fake, []):
        raise ZeroDivisionError


def test_writing_after_another_thread_has_stopped_the_program(ffmpeg: Ffmpeg) -> None:
    feed = FfmpegFeed(ffmpeg, [*_raw(), "-f", "null", "-"])
    feed.kill()
    with pytest.raises(ToolFailedError):
        feed.write(bytes(64))
