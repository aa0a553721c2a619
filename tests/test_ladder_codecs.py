"""CODECS strings: from parameter sets made by hand, and from real streams."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecaux.errors import InputError, UsageError
from codecaux.hevc import nal_type, parse_extradata
from codecaux.ladders.codecs import (
    aac_codec,
    audio_codec,
    avc_codec,
    hevc_codec,
    video_codec,
    video_range,
)
from codecaux.ladders.gops import h264_level
from codecaux.ladders.sps import BitReader, parse_avc_sps, parse_hevc_sps

MakeClip = Callable[..., Path]


class BitWriter:
    """What BitReader reads, written."""

    def __init__(self) -> None:
        self.bits = ""

    def u(self, count: int, value: int) -> BitWriter:
        self.bits += f"{value:0{count}b}"
        return self

    def ue(self, *values: int) -> BitWriter:
        for value in values:
            code = f"{value + 1:b}"
            self.bits += "0" * (len(code) - 1) + code
        return self

    def se(self, value: int) -> BitWriter:
        return self.ue(2 * value - 1 if value > 0 else -2 * value)

    def unit(self, header: bytes) -> bytes:
        """The NAL unit: stop bit, alignment, emulation prevention."""
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
        out = bytearray()
        for byte in payload:
            if out[-2:] == b"\x00\x00" and byte <= 3:
                out.append(3)
            out.append(byte)
        return header + bytes(out)


def hevc_sps(
    *,
    profile: int = 1,
    tier: int = 0,
    compatibility: int = 0x60000000,
    constraints: bytes = bytes.fromhex("900000000000"),
    level: int = 93,
    sub_layers: int = 0,
    transfer: int | None = None,
    rich: bool = False,
) -> bytes:
    """1280x720; ``rich``: everything optional before the VUI is there."""
    w = BitWriter().u(4, 0).u(3, sub_layers).u(1, 1)
    w.u(2, 0).u(1, tier).u(5, profile).u(32, compatibility)
    w.u(48, int.from_bytes(constraints, "big")).u(8, level)
    for _ in range(sub_layers):
        w.u(1, 1).u(1, 1)
    if sub_layers:
        w.u(2 * (8 - sub_layers), 0)
    for _ in range(sub_layers):
        w.u(88, 5).u(8, 60)
    # 1280x736 with a conformance window of 8 units of two lines.
    w.ue(0, 1, 1280, 736).u(1, 1).ue(0, 0, 0, 8)
    w.ue(2, 2, 4).u(1, 1)
    for _ in range(sub_layers + 1):
        w.ue(4, 2, 5)
    w.ue(0, 3, 0, 3, 0, 0)
    if rich:
        w.u(1, 1).u(1, 1)
        for size, matrix in itertools.product(range(4), range(6)):
            if size == 3 and matrix % 3:
                continue
            if matrix == 0:
                w.u(1, 0).ue(0)
                continue
            w.u(1, 1)
            if size > 1:
                w.se(-3)
            for step in range(min(64, 1 << (4 + 2 * size))):
                w.se(step % 5 - 2)
    else:
        w.u(1, 0)
    w.u(2, 3)
    if rich:
        w.u(1, 1).u(4, 7).u(4, 7).ue(0, 2).u(1, 1)
        # Three sets: 2 before and 1 after; the first shifted by -1; the second by +1, which
        # moves one of its pictures onto the current one.
        w.ue(3)
        w.ue(2, 1).ue(0).u(1, 1).ue(3).u(1, 1).ue(1).u(1, 0)
        w.u(1, 1).u(1, 1).ue(0)
        w.u(1, 1).u(1, 0).u(1, 1).u(1, 1).u(1, 1)
        w.u(1, 1).u(1, 0).ue(0)
        for _ in range(5):
            w.u(1, 1)
        w.u(1, 1).ue(2).u(8, 17).u(1, 1).u(8, 3).u(1, 0)
    else:
        w.u(1, 0).ue(0).u(1, 0)
    w.u(2, 3)
    write_vui(w, transfer)
    return w.unit(b"\x42\x01")


def write_vui(w: BitWriter, transfer: int | None) -> None:
    if transfer is None:
        w.u(1, 0)
        return
    w.u(1, 1).u(1, 1).u(8, 255).u(32, 0x00010001).u(1, 1).u(1, 0)
    w.u(1, 1).u(3, 5).u(1, 0).u(1, 1).u(8, 9).u(8, transfer).u(8, 9)
    w.u(40, 0)


def avc_sps(
    profile: int = 100, flags: int = 0, level: int = 31, transfer: int | None = None, poc: int = 0
) -> bytes:
    w = BitWriter().u(8, profile).u(8, flags).u(8, level).ue(0)
    if profile == 100:
        w.ue(1, 0, 0).u(1, 0).u(1, 1)
        for index in range(8):
            w.u(1, index % 2)
            if index % 2:
                # Ends early: a next scale of 0 repeats the last.
                w.se(4).se(-12) if index < 6 else [w.se(1) for _ in range(64)]
    w.ue(0, poc)
    if poc == 0:
        w.ue(2)
    elif poc == 1:
        w.u(1, 0).se(-2).se(1).ue(2).se(3).se(-3)
    w.ue(3).u(1, 0).ue(79, 44).u(1, 0).u(1, 1).u(1, 1).u(1, 1).ue(0, 0, 0, 4)
    write_vui(w, transfer)
    return w.unit(b"\x67")


# ------------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "hvc1.1.6.L93.90"),
        ({"constraints": bytes.fromhex("B00000000000"), "level": 120}, "hvc1.1.6.L120.B0"),
        # Main 10, high tier; bytes in the middle are kept, those at the end are not.
        (
            {
                "profile": 2,
                "tier": 1,
                "compatibility": 0x20000000,
                "constraints": bytes.fromhex("900008000000"),
                "level": 153,
            },
            "hvc1.2.4.H153.90.0.8",
        ),
        ({"constraints": bytes(6)}, "hvc1.1.6.L93"),
        ({"profile": 4, "compatibility": 0x08000000, "sub_layers": 2}, "hvc1.4.10.L93.90"),
    ],
)
def test_hevc_by_hand(fields: dict[str, Any], expected: str) -> None:
    for rich in (False, True):
        sps = parse_hevc_sps(hevc_sps(**fields, rich=rich, transfer=16))
        assert hevc_codec(sps) == expected
        assert (sps.width, sps.height, sps.bit_depth, sps.transfer) == (1280, 720, 10, 16)


def test_hevc_without_a_word_on_colour() -> None:
    assert parse_hevc_sps(hevc_sps()).transfer == 2
    assert [video_range(code) for code in (2, 1, 16, 18, 14)] == ["SDR", "SDR", "PQ", "HLG", "SDR"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((100, 0, 31), "avc1.64001F"),
        ((66, 0xC0, 30), "avc1.42C01E"),
        ((77, 0x40, 40), "avc1.4D4028"),
    ],
)
def test_avc_by_hand(fields: tuple[int, int, int], expected: str) -> None:
    for poc in range(3):
        sps = parse_avc_sps(avc_sps(*fields, transfer=18, poc=poc))
        assert avc_codec(sps) == expected
        assert sps.transfer == 18
    assert parse_avc_sps(avc_sps(*fields)).transfer == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("1190", "mp4a.40.2"),
        ("2b8a0800", "mp4a.40.5"),
        ("eb8a0800", "mp4a.40.29"),
        ("f94600", "mp4a.40.42"),
    ],
)
def test_aac_by_hand(config: str, expected: str) -> None:
    assert aac_codec(bytes.fromhex(config)) == expected


@given(st.lists(st.integers(-(2**20), 2**20)), st.binary(max_size=8))
def test_golomb_codes_come_back(values: list[int], rest: bytes) -> None:
    w = BitWriter()
    for value in values:
        w.se(value).ue(abs(value))
    bits = BitReader(w.unit(b""))
    assert [(bits.se(), bits.ue()) for _ in values] == [(v, abs(v)) for v in values]


@given(st.integers(0, 200), st.booleans())
def test_cut_parameter_sets_are_refused(length: int, is_hevc: bool) -> None:
    whole = hevc_sps(rich=True, transfer=16) if is_hevc else avc_sps(transfer=16)
    parse = parse_hevc_sps if is_hevc else parse_avc_sps
    # The 40 bits after the transfer are not read.
    cut = whole[: min(length, len(whole) - 10)]
    with pytest.raises(ValueError, match=r"cut short|no H\.26"):
        parse(cut)


@given(st.binary(max_size=120))
def test_noise_is_no_crash(noise: bytes) -> None:
    for parse, header in ((parse_hevc_sps, b"\x42\x01"), (parse_avc_sps, b"\x67")):
        with suppress(ValueError):
            parse(header + noise)


# ------------------------------------------------------------------------------------ real streams


def x26x(make_clip: MakeClip, name: str, codec: str, filters: str = "", **more: Any) -> Path:
    options = ("-preset", "ultrafast", *more.pop("options", ()))
    return make_clip(name, codec=codec, filters=filters, options=options, frames=3, **more)


def colour(transfer: str) -> str:
    return f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}"


@pytest.mark.parametrize(
    ("name", "more", "codecs", "shown"),
    [
        ("main.mp4", {}, "hvc1.1.6.L30.90", "SDR"),
        ("pq.mp4", {"pixel_format": "yuv420p10le", "filters": colour("smpte2084")},
         "hvc1.2.4.L30.90", "PQ"),
        ("hlg.mp4", {"pixel_format": "yuv420p10le", "filters": colour("arib-std-b67")},
         "hvc1.2.4.L30.90", "HLG"),
        ("level.mp4", {"size": (1280, 720), "fps": "50"}, "hvc1.1.6.L120.90", "SDR"),
        ("lists.mp4", {"options": ("-x265-params", "scaling-list=default:log-level=error")},
         "hvc1.1.6.L30.90", "SDR"),
        ("layers.mp4", {"options": ("-x265-params", "temporal-layers=3:log-level=error")},
         "hvc1.1.6.L30.90", "SDR"),
        ("odd.mp4", {"size": (98, 74)}, "hvc1.1.6.L30.90", "SDR"),
    ],
)  # fmt: skip
def test_x265(
    make_clip: MakeClip, name: str, more: dict[str, Any], codecs: str, shown: str
) -> None:
    """The expected profile and level are what the hvcC record, which x265's muxer filled, says."""
    quiet = {"options": ("-x265-params", "log-level=error"), **more}
    path = x26x(make_clip, name, "libx265", **quiet)
    found = video_codec(path)
    assert (found.codecs, found.range) == (codecs, shown)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (found.width, found.height) == (context.width, context.height)
        record = bytes(context.extradata or b"")
    assert found.bit_depth == (10 if "10le" in str(more) else 8)
    assert record[1] & 0x1F == int(codecs.split(".")[1])
    assert record[12] == int(codecs.split(".")[3][1:])
    sps = next(u for u in parse_extradata(record).parameter_sets if nal_type(u) == 33)
    assert parse_hevc_sps(sps).constraint_bytes == record[6:12]


@pytest.mark.parametrize(
    ("name", "options", "filters", "shown"),
    [
        ("base.mp4", ("-profile:v", "baseline"), "", "SDR"),
        ("high.mp4", ("-profile:v", "high", "-level", "4.0"), colour("bt709"), "SDR"),
        ("hlg264.mp4", ("-profile:v", "high"), colour("arib-std-b67"), "HLG"),
        ("cqm.mp4", ("-profile:v", "high", "-x264-params", "cqm=jvt"), colour("bt709"), "SDR"),
    ],
)
def test_x264(
    make_clip: MakeClip, name: str, options: tuple[str, ...], filters: str, shown: str
) -> None:
    path = x26x(make_clip, f"264{name}", "libx264", filters, options=options)
    found = video_codec(path)
    with av.open(str(path)) as container:
        record = bytes(container.streams.video[0].codec_context.extradata or b"")
    assert found.codecs == f"avc1.{record[1:4].hex().upper()}"
    assert found.range == shown


@pytest.mark.parametrize(
    ("codec", "expected"),
    [("aac", "mp4a.40.2"), ("ac3", "ac-3"), ("eac3", "ec-3"), ("libopus", "opus")],
)
def test_sound(make_clip: MakeClip, codec: str, expected: str) -> None:
    sound = ("-f", "lavfi", "-t", "0.5", "-i", "sine=sample_rate=48000")
    path = make_clip(
        f"sound-{codec}.mp4",
        codec="libx264",
        inputs=sound,
        options=("-ac", "2", "-c:a", codec, "-strict", "-2"),
    )
    found = audio_codec(path)
    assert (found.codecs, found.channels, found.sample_rate) == (expected, 2, 48000)


def test_other_codecs_are_refused(clip_10bit: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got ffv1"):
        video_codec(clip_10bit)
    with pytest.raises(InputError, match="no such file"):
        video_codec(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="No such file"):
        audio_codec(tmp_path / "none.mp4")


@pytest.mark.parametrize(
    ("size", "fps", "level"),
    [
        ((128, 72), 25, "1.3"),
        ((640, 360), 30, "3.0"),
        ((1280, 720), 30, "3.1"),
        ((1280, 720), 60, "3.2"),
        ((1920, 1080), 30, "4.0"),
        ((1920, 1080), 60, "4.2"),
        ((3840, 2160), 60, "5.2"),
        ((8192, 16), 25, "5.1"),
    ],
)
def test_levels_of_h264(size: tuple[int, int], fps: int, level: str) -> None:
    assert h264_level(*size, Fraction(fps)) == level
    with pytest.raises(UsageError, match="a level for"):
        h264_level(20000, 20000, Fraction(24))
