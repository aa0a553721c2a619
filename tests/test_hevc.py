"""The stream hash: the same through every remux, another for every other stream."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux.errors import InputError
from codecaux.hevc import hash_start, hash_stream, split_nal_units

Ffmpeg = Callable[..., None]
X265 = ["-c:v", "libx265", "-preset", "ultrafast"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hevc")


@pytest.fixture(scope="module")
def ffmpeg(folder: Path) -> Ffmpeg:
    program = imageio_ffmpeg.get_ffmpeg_exe()

    def run(*arguments: str) -> None:
        command = [program, "-nostdin", "-v", "error", "-y", *arguments]
        subprocess.run(command, cwd=folder, check=True, timeout=60)

    return run


def encode(ffmpeg: Ffmpeg, name: str, *more: str, source: str = "testsrc2") -> None:
    """24 frames with B pictures, two slices a picture, an IDR every ten, SEI and delimiters."""
    params = "log-level=none:slices=2:keyint=10:aud=1:hrd=1:vbv-bufsize=500:vbv-maxrate=500"
    video = ["-f", "lavfi", "-i", f"{source}=s=96x128:r=24", "-frames:v", "24"]
    video += [*X265, "-x265-params", params]
    ffmpeg(*video, *more, name)


@pytest.fixture(scope="module")
def original(ffmpeg: Ffmpeg, folder: Path) -> Path:
    sound = ["-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac"]
    encode(ffmpeg, "video.mp4", "-tag:v", "hvc1")
    ffmpeg("-i", "video.mp4", *sound, "-c:v", "copy", "-tag:v", "hvc1", "original.mp4")
    return folder / "original.mp4"


def test_every_remux_has_the_same_hash(ffmpeg: Ffmpeg, folder: Path, original: Path) -> None:
    expected = hash_stream(original)
    assert len(expected.whole_sha256) == 64
    assert expected.whole_sha256 != expected.start_sha256
    chain = ["a.mkv", "b.ts", "c.hevc", "d.mp4", "e.mov", "f.mkv", "g.hevc", "h.mov", "i.mp4"]
    before = original.name
    for name in chain:
        # Raw streams have no times: the muxer makes them from the rate.
        rate = ["-r", "24", "-fflags", "+genpts"] if before.endswith(".hevc") else []
        tag = ["-tag:v", "hvc1"] if name == "i.mp4" else []
        ffmpeg(*rate, "-i", before, "-map", "0:v", "-c", "copy", *tag, name)
        assert hash_stream(folder / name) == expected, name
        assert hash_start(folder / name) == expected.start_sha256, name
        before = name
    fragmented = ["-movflags", "frag_keyframe+empty_moov"]
    ffmpeg("-i", original.name, "-c", "copy", *fragmented, "fragments.mp4")
    assert hash_stream(folder / "fragments.mp4") == expected


def test_sei_and_delimiters_do_not_count(ffmpeg: Ffmpeg, folder: Path, original: Path) -> None:
    remove = ["-bsf:v", "filter_units=remove_types=35|38-40"]
    ffmpeg("-i", original.name, "-c", "copy", "-an", *remove, "bare.mp4")
    assert (folder / "bare.mp4").stat().st_size < original.stat().st_size
    assert hash_stream(folder / "bare.mp4") == hash_stream(original)


def test_another_stream_has_another_hash(ffmpeg: Ffmpeg, folder: Path, original: Path) -> None:
    encode(ffmpeg, "other.mp4", "-crf", "30")
    encode(ffmpeg, "third.mp4", source="mandelbrot")
    hashes = [hash_stream(p) for p in (original, folder / "other.mp4", folder / "third.mp4")]
    assert len({h.whole_sha256 for h in hashes}) == 3
    assert len({h.start_sha256 for h in hashes}) == 3


def test_a_shorter_stream_starts_the_same(ffmpeg: Ffmpeg, folder: Path, original: Path) -> None:
    ffmpeg("-i", original.name, "-c", "copy", "-an", "-frames:v", "10", "short.mp4")
    short, whole = hash_stream(folder / "short.mp4"), hash_stream(original)
    assert short.start_sha256 == whole.start_sha256
    assert short.whole_sha256 != whole.whole_sha256


def test_one_changed_bit_of_a_slice_changes_the_hash(
    ffmpeg: Ffmpeg, folder: Path, original: Path
) -> None:
    ffmpeg("-i", original.name, "-c", "copy", "-an", "raw.hevc")
    data = bytearray((folder / "raw.hevc").read_bytes())
    data[-10] ^= 1
    (folder / "changed.hevc").write_bytes(data)
    before, after = hash_stream(folder / "raw.hevc"), hash_stream(folder / "changed.hevc")
    assert before.whole_sha256 != after.whole_sha256
    assert before.start_sha256 == after.start_sha256


def test_what_is_before_a_colon_is_no_protocol(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = shutil.copy(original, "Title: one.mp4")
    assert hash_stream(Path(named)) == hash_stream(original)


def test_what_is_not_a_whole_h265_stream_is_refused(
    ffmpeg: Ffmpeg, folder: Path, original: Path
) -> None:
    ffmpeg("-i", original.name, "-c:v", "libx264", "-frames:v", "2", "h264.mp4")
    ffmpeg("-i", original.name, "-vn", "-c", "copy", "sound.m4a")
    key = "76a6c65c5ea762046bd749a2e632ccbb"
    encrypt = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key]
    ffmpeg("-i", original.name, "-c", "copy", *encrypt, "-encryption_kid", key, "secret.mp4")
    (folder / "text.mp4").write_text("not a video\n" * 100)
    (folder / "empty.mp4").write_bytes(b"")
    ffmpeg("-i", original.name, "-an", "-c", "copy", "-movflags", "+faststart", "fast.mp4")
    (folder / "cut.mp4").write_bytes((folder / "fast.mp4").read_bytes()[:-10])
    expected = {
        "h264.mp4": "got h264",
        "sound.m4a": "expected a video stream",
        "secret.mp4": "encrypted",
        "text.mp4": "expected a readable video",
        "empty.mp4": "expected a readable video",
        "none.mp4": "no such file",
        ".": "expected a readable video",
    }
    for name, message in expected.items():
        for function in (hash_stream, hash_start):
            with pytest.raises(InputError, match=message):
                function(folder / name)
    with pytest.raises(InputError, match="damaged"):
        hash_stream(folder / "cut.mp4")


# NAL units as they are: they hold no start code and do not end in a zero byte.
nal_units = st.binary(min_size=1, max_size=20).map(
    lambda b: b.replace(b"\0\0", b"\0\7").rstrip(b"\0") + b"\x80"
)


@given(st.lists(nal_units), st.sampled_from([1, 2, 4]), st.lists(st.integers(0, 3), min_size=1))
def test_both_delimiters_give_the_same_units(
    units: list[bytes], length_bytes: int, zeros: list[int]
) -> None:
    lengths = b"".join(len(u).to_bytes(length_bytes, "big") + u for u in units)
    padding = [bytes(zeros[i % len(zeros)]) for i in range(len(units))]
    starts = b"".join(z + b"\0\0\1" + u for z, u in zip(padding, units, strict=True)) + b"\0\0"
    assert [bytes(u) for u in split_nal_units(lengths, length_bytes)] == units
    if units:
        assert [bytes(u) for u in split_nal_units(starts, None)] == units


@pytest.mark.parametrize("data", [b"\0\0\0\5ab", b"\0\0\0", b"\xff\xff\xff\xff"])
def test_lengths_past_the_end_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="past the end"):
        list(split_nal_units(data, 4))


@pytest.mark.parametrize("data", [b"abc", b"\x01\0\0\1abc"])
def test_annex_b_without_a_start_code_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="start code"):
        list(split_nal_units(data, None))
