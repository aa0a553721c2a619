"""The weights file: round trips, golden bytes, and a reader that nothing gets past.

Bad files are made here, by code: a few bytes each, some of which would inflate to terabytes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors

from codecaux.architecture import (
    SrUnetConfig,
    config_to_json,
    merged_parameter_count,
    parameter_shapes,
)
from codecaux.container import (
    MAX_FILE_BYTES,
    MAX_INFLATED_BYTES,
    Archive,
    compress,
    inflate,
    parse_archive,
    serialise_archive,
)
from codecaux.describe import clean_text, describe, describe_rows
from codecaux.errors import InputError, WeightsError, WeightsFormatError, WeightsTooLargeError
from codecaux.hevc import StreamHash
from codecaux.quantise import PLANES, QuantisedTensor
from codecaux.video import Colour
from codecaux.weightsfile import (
    WeightSet,
    WeightsFile,
    WeightsMetadata,
    pack,
    read_weights,
    unpack,
)

GOLDEN = Path(__file__).parent / "golden" / "tiny.weights"
REGENERATE = "CODECAUX_REGENERATE_GOLDEN"

CONFIG = SrUnetConfig("test", (1, 2, 1, 1), (1, 1, 1, 1, 1, 1, 1), Fraction(3, 2))
METADATA = WeightsMetadata(
    architecture=CONFIG,
    source_width=101,
    source_height=63,
    num_frames=30,
    bit_depth=10,
    colour=Colour("bt2020", True, "topleft", 9, 16, 9),
    stream=StreamHash("01" * 32, "ef" * 32),
    base_id="init-1",
    codec={"crf": "21", "preset": "medium"},
    settings={"steps": 100, "rate": 0.5, "lpips": None, "phases": [1, {"a": True}], "n": "ä"},
    tools={"ffmpeg": "7.0.2"},
    scores={"bicubic": {"psnr_y_db": 30.0, "lpips": None}, "enhanced": {"psnr_y_db": 31.5}},
    created_by="codecaux 0.1.0",
)


def make_tensors(seed: int, largest: int = 9) -> dict[str, QuantisedTensor]:
    rng = np.random.default_rng(seed)
    return {
        name: QuantisedTensor(rng.integers(-largest, largest + 1, shape, np.int32), 2.0**-5)
        for name, shape in parameter_shapes(CONFIG).items()
    }


def make_file() -> WeightsFile:
    """Two sets: a full one with every plane in use, and one of biases alone."""
    first = make_tensors(1) | {"last.weight": make_tensors(2, 1000)["last.weight"]}
    biases = {name: t for name, t in make_tensors(3).items() if name.endswith(".bias")}
    return WeightsFile(METADATA, (WeightSet(0, 12, first), WeightSet(12, None, biases)))


FILE = make_file()
PACKED = pack(FILE)
INFLATED = inflate(PACKED)
ARCHIVE = parse_archive(INFLATED)


def assert_same(got: WeightsFile, expected: WeightsFile) -> None:
    assert got.metadata == expected.metadata
    assert len(got.sets) == len(expected.sets)
    for a, b in zip(got.sets, expected.sets, strict=True):
        assert (a.first_frame, a.end_frame) == (b.first_frame, b.end_frame)
        assert set(a.tensors) == set(b.tensors)
        for name, tensor in b.tensors.items():
            assert a.tensors[name].step == tensor.step
            np.testing.assert_array_equal(a.tensors[name].values, tensor.values)


def with_metadata(**entries: str | None) -> bytes:
    """The good file with some metadata entries replaced, or (None) left out."""
    merged = {**ARCHIVE.metadata, **entries}
    kept = {name: text for name, text in merged.items() if text is not None}
    return compress(serialise_archive(Archive(kept, ARCHIVE.arrays)))


def with_arrays(**arrays: np.ndarray | None) -> bytes:
    merged = {**ARCHIVE.arrays, **{name.replace("__", "/"): a for name, a in arrays.items()}}
    kept = {name: a for name, a in merged.items() if a is not None}
    return compress(serialise_archive(Archive(ARCHIVE.metadata, kept)))


def wrap(payload: bytes) -> bytes:
    """A frame like ours, cheaply made, so that what is behind the checksum is reached."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=23, write_checksum=True, write_content_size=True
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(payload)


# Round trips


def test_unpacking_is_the_inverse_of_packing() -> None:
    assert_same(unpack(PACKED), FILE)


@settings(max_examples=40)
@given(st.data())
def test_any_file_comes_back(data: st.DataObject) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, 10**6), max_size=3)))
    names = list(parameter_shapes(CONFIG))
    sets = []
    for first, end in zip([0, *ends], [*ends, None], strict=True):
        tensors = make_tensors(first, data.draw(st.sampled_from([0, 1, 3, 300, 10**6])))
        kept = data.draw(st.sets(st.sampled_from(names)))
        sets.append(WeightSet(first, end, {name: tensors[name] for name in kept}))
    metadata = dataclasses.replace(
        METADATA,
        base_id=data.draw(st.sampled_from([None, "init-1"])),
        created_by=data.draw(st.text(st.characters(codec="utf-8"), max_size=20)),
        codec=data.draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)),
    )
    file = WeightsFile(metadata, tuple(sets))
    assert_same(unpack(pack(file)), file)


def test_packing_is_deterministic() -> None:
    shuffled = {name: FILE.sets[0].tensors[name] for name in reversed(FILE.sets[0].tensors)}
    again = WeightsFile(METADATA, (WeightSet(0, 12, shuffled), FILE.sets[1]))
    assert pack(again) == PACKED


def test_scores_that_are_not_finite_are_stored_as_missing() -> None:
    scores = {"enhanced": {"psnr_y_db": math.inf, "ssim": math.nan, "vmaf_v1": 90.0}}
    metadata = dataclasses.replace(METADATA, scores=scores)
    got = unpack(pack(WeightsFile(metadata, FILE.sets))).metadata.scores
    assert got == {"enhanced": {"psnr_y_db": None, "ssim": None, "vmaf_v1": 90.0}}


def test_sets_are_found_by_frame() -> None:
    sets = (WeightSet(0, 12, {}), WeightSet(12, 20, {}))
    file = WeightsFile(METADATA, sets)
    found = [file.set_for_frame(index) for index in (0, 11, 12, 19, 20)]
    assert found == [sets[0], sets[0], sets[1], sets[1], None]


def test_an_empty_set_costs_next_to_nothing() -> None:
    without = pack(WeightsFile(METADATA, (WeightSet(0, None, {}),)))
    assert len(without) < 1000
    assert unpack(without).sets[0].tensors == {}


# The format


def test_golden_bytes() -> None:
    """The inflated bytes are fixed for ever; the compressed ones may change with zstd's version."""
    if os.environ.get(REGENERATE):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_bytes(PACKED)
    assert GOLDEN.exists(), f"no {GOLDEN.name}: make it with {REGENERATE}=1 pytest, and commit it"
    golden = GOLDEN.read_bytes()
    assert inflate(golden) == INFLATED
    assert_same(unpack(golden), FILE)


def test_other_programs_open_it() -> None:
    inflated = zstandard.ZstdDecompressor().decompress(PACKED)
    arrays = load_safetensors(inflated)
    assert set(arrays) == {f"s{k}/{name}" for k in (0, 1) for name in ("steps", *PLANES)}
    assert arrays["s0/steps"].tolist() == [2.0**-5] * len(parameter_shapes(CONFIG))
    num_weights = merged_parameter_count(CONFIG)
    assert arrays["s0/nonzero"].size == -(-num_weights // 8)


def read_by_the_document(data: bytes, num_values: int) -> list[int]:
    """Section 4 of docs/format.md again, in plain Python: the integers of set 0."""
    content = zstandard.ZstdDecompressor().decompress(data)
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])

    def array(name: str) -> bytes:
        begin, end = header[f"s0/{name}"]["data_offsets"]
        return content[8 + header_bytes + begin : 8 + header_bytes + end]

    def bits(name: str) -> Iterator[bool]:
        return (bool(byte >> (7 - i) & 1) for byte in array(name) for i in range(8))

    negative, above1, above2 = bits("negative"), bits("above1"), bits("above2")
    rest, wide = iter(array("rest")), iter(array("wide"))
    values = []
    for _, nonzero in zip(range(num_values), bits("nonzero"), strict=False):
        magnitude = int(nonzero)
        if nonzero and next(above1):
            magnitude = 2
            if next(above2):
                magnitude = 3 + next(rest)
                if magnitude == 258:
                    magnitude += sum(next(wide) << shift for shift in (0, 8, 16))
        values.append(-magnitude if nonzero and next(negative) else magnitude)
    return values


def test_a_reader_made_from_the_document_agrees() -> None:
    expected = [v for t in FILE.sets[0].tensors.values() for v in t.values.ravel().tolist()]
    assert max(map(abs, expected)) > 258
    assert read_by_the_document(PACKED, len(expected)) == expected


def test_the_frame_is_one_with_size_and_checksum() -> None:
    frame = zstandard.get_frame_parameters(PACKED)
    assert frame.content_size == len(INFLATED)
    assert frame.has_checksum
    assert frame.dict_id == 0


def test_a_file_above_the_window_is_read_back() -> None:
    # Above 8 MiB the frame names its window, which must then be 8 MiB.
    data = os.urandom(1 << 10) + bytes(9 << 20)
    packed = compress([data])
    assert zstandard.get_frame_parameters(packed).window_size == 1 << 23
    assert inflate(packed) == data


def test_a_frame_of_the_zstd_program_is_read() -> None:
    plain = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(INFLATED)
    assert_same(unpack(plain), FILE)


def test_planes_of_packed_bits_come_close_to_their_entropy() -> None:
    rng = np.random.default_rng(0)
    config = dataclasses.replace(CONFIG, widths=(32, 32, 32, 32))
    tensors = {
        name: QuantisedTensor(np.rint(rng.laplace(0, 0.4, shape)).astype(np.int32), 0.5)
        for name, shape in parameter_shapes(config).items()
    }
    metadata = dataclasses.replace(METADATA, architecture=config)
    file = WeightsFile(metadata, (WeightSet(0, None, tensors),))
    packed = pack(file)
    row = json.loads(json.dumps(describe(file, len(packed))))["sets"][0]
    assert row["alone_bytes"] < 1.06 * row["entropy_bytes"]
    assert len(packed) < row["alone_bytes"] + 800


# Every truncation, every flipped bit, thousands of mutations


def test_every_truncation_is_refused() -> None:
    for size in range(len(PACKED)):
        with pytest.raises(WeightsFormatError):
            unpack(PACKED[:size])


def refused_or_nothing_changed(changed: bytes) -> bool:
    """True where unpack refuses; an assertion unless else the content is the same to the byte.

    zstd's entropy tables end in filling bits that mean nothing and that no decoder looks at.
    """
    try:
        unpack(changed)
    except WeightsError:
        return True
    assert inflate(changed) == INFLATED
    return False


def test_every_flipped_bit_is_refused_or_means_nothing() -> None:
    num_refused = 0
    num_bits = 8 * len(PACKED)
    for position in range(num_bits):
        changed = bytearray(PACKED)
        changed[position // 8] ^= 1 << position % 8
        num_refused += refused_or_nothing_changed(bytes(changed))
    assert num_refused >= num_bits * 0.99


def test_every_flipped_bit_of_the_frame_header_and_checksum_is_refused() -> None:
    positions = [*range(7 * 8), *range(8 * len(PACKED) - 32, 8 * len(PACKED))]
    for position in positions:
        changed = bytearray(PACKED)
        changed[position // 8] ^= 1 << position % 8
        assert refused_or_nothing_changed(bytes(changed))


@settings(max_examples=1500)
@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused_or_means_nothing(position: int, change: int) -> None:
    changed = bytearray(PACKED)
    changed[position] ^= change
    refused_or_nothing_changed(bytes(changed))


@settings(max_examples=500)
@given(st.binary(max_size=200), st.booleans())
@example(b"", False)
def test_noise_is_refused(noise: bytes, with_magic: bool) -> None:
    with pytest.raises(WeightsError):
        unpack(PACKED[:4] + noise if with_magic else noise)


@settings(max_examples=2500)
@given(st.data())
def test_behind_the_checksum_a_mutation_is_refused_or_another_valid_file(
    data: st.DataObject,
) -> None:
    """The parser alone: changed, cut and repeated payloads in frames whose checksum is right."""
    payload = bytearray(INFLATED)
    # Most of the interesting bytes are in the header.
    header_bytes = 8 + int.from_bytes(INFLATED[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        end = header_bytes if data.draw(st.booleans()) else len(payload)
        position = data.draw(st.integers(0, min(end, len(payload)) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "insert", "drop"]))
        if kind == "flip":
            payload[position] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            payload[position] = data.draw(st.sampled_from(b'0 9-"{}[],:\\e.\x00\xff'))
        elif kind == "cut" and position:
            del payload[position:]
        elif kind == "insert":
            payload[position:position] = data.draw(st.binary(min_size=1, max_size=4))
        elif len(payload) > 1:
            del payload[position]
    try:
        file = unpack(wrap(bytes(payload)))
    except WeightsError as error:
        message = str(error)
    else:
        message = ""
        assert_same(unpack(pack(file)), file)
        describe_rows(file, 1)
    assert len(message) < 1000


# Bombs


def bomb(declared_bytes: int) -> bytes:
    """A frame that declares its size with eight bytes and holds one empty block."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0100]) + declared_bytes.to_bytes(8, "little")
    return header + b"\x01\x00\x00" + b"\x00" * 4


def zeros(num_bytes: int) -> bytes:
    parameters = {"write_checksum": True, "write_content_size": True}
    return zstandard.ZstdCompressor(level=3, **parameters).compress(bytes(num_bytes))


def without_size() -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(
        INFLATED
    )


def without_checksum() -> bytes:
    return zstandard.ZstdCompressor(write_checksum=False).compress(INFLATED)


def with_dictionary() -> bytes:
    samples = [INFLATED[i : i + 64] for i in range(0, len(INFLATED) - 64, 8)]
    dictionary = zstandard.train_dictionary(1024, samples)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True)
    return compressor.compress(INFLATED)


def with_dictionary_id_zero() -> bytes:
    changed = bytearray(PACKED)
    changed[4] |= 1
    changed.insert(5, 0)
    return bytes(changed)


def wide_window() -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=24, write_checksum=True, write_content_size=True
    )
    data = os.urandom(1 << 10) + bytes((20 << 20) - (1 << 10))
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
FRAMES: dict[str, tuple[Callable[[], bytes], type[WeightsError], str]] = {
    "declared terabyte": (lambda: bomb(1 << 40), WeightsTooLargeError, "declares 1099511627776"),
    "declared one too many": (
        lambda: bomb(MAX_INFLATED_BYTES + 1),
        WeightsTooLargeError,
        "decl",
    ),
    "declared, not there": (lambda: bomb(MAX_INFLATED_BYTES), WeightsFormatError, "one whole zstd"),
    "200 MB of zeros": (lambda: zeros(200_000_000), WeightsTooLargeError, "declares 200000000"),
    "zeros below the cap": (lambda: wrap(bytes(60 << 20)), WeightsFormatError, "JSON"),
    "no content size": (without_size, WeightsFormatError, "content's size"),
    "no checksum": (without_checksum, WeightsFormatError, "no checksum"),
    "dictionary": (with_dictionary, WeightsFormatError, "dictionary"),
    "dictionary id 0": (with_dictionary_id_zero, WeightsFormatError, "dictionary"),
    "wide window": (wide_window, WeightsFormatError, "window"),
    "a byte after it": (lambda: PACKED + b"\0", WeightsFormatError, "after its end"),
    "a second frame": (lambda: PACKED + PACKED, WeightsFormatError, "after its end"),
    "a second empty frame": (lambda: PACKED + wrap(b""), WeightsFormatError, "after its end"),
    "a skippable frame after it": (lambda: PACKED + SKIPPABLE, WeightsFormatError, "after its end"),
    "a skippable frame before it": (
        lambda: SKIPPABLE + PACKED,
        WeightsFormatError,
        "not a weights",
    ),
    "only a skippable frame": (lambda: SKIPPABLE, WeightsFormatError, "not a weights file"),
    "an empty frame": (lambda: wrap(b""), WeightsFormatError, "cut short"),
    "too large a file": (lambda: PACKED + bytes(MAX_FILE_BYTES), WeightsTooLargeError, "at most"),
    "a changed checksum": (
        lambda: PACKED[:-1] + bytes([PACKED[-1] ^ 1]),
        WeightsFormatError,
        "checksum does not match",
    ),
    "empty": (lambda: b"", WeightsFormatError, "empty file"),
    "half a magic": (lambda: PACKED[:3], WeightsFormatError, "cut after 3 bytes"),
    "an mp4": (lambda: b"\0\0\0\x20ftypisom" + bytes(20), WeightsFormatError, "a video"),
    "bare safetensors": (lambda: INFLATED, WeightsFormatError, "bare safetensors"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_bad_frames(name: str) -> None:
    make, error, message = FRAMES[name]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            unpack(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < MAX_INFLATED_BYTES + (8 << 20)


def test_a_planes_bomb_is_refused_before_it_is_unpacked() -> None:
    """Sets without number, each asking for the largest network: refused by their count alone."""
    config = dataclasses.replace(CONFIG, widths=(128, 128, 128, 128), blocks=(2, 3, 3, 3, 3, 3, 2))
    num_sets = 20
    steps = np.full(len(parameter_shapes(config)), 1, np.float32)
    arrays = {}
    for k in range(num_sets):
        planes = {name: np.zeros(0, np.uint8) for name in PLANES}
        planes["nonzero"] = np.zeros(-(-merged_parameter_count(config) // 8), np.uint8)
        arrays |= {f"s{k}/{name}": array for name, array in planes.items()}
        arrays[f"s{k}/steps"] = steps
    ranges = [{"first_frame": k, "end_frame": k + 1} for k in range(num_sets)]
    entries = {
        **ARCHIVE.metadata,
        "architecture": config_to_json(config),
        "sets": json.dumps(ranges),
    }
    data = wrap(b"".join(serialise_archive(Archive(entries, arrays))))
    assert len(data) < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(WeightsTooLargeError, match="at most 33554432 values"):
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


# Bad archives


def safetensors(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: object = "U8", shape: object = None, offsets: object = None) -> dict[str, object]:
    return {
        "dtype": dtype,
        "shape": [4] if shape is None else shape,
        "data_offsets": [0, 4] if offsets is None else offsets,
    }


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "seven bytes": (b"\0" * 7, "cut short"),
    "no header": (b"\0" * 8, "JSON"),
    "header past the end": (b"\xff\0\0\0\0\0\0\0{}", "cut short"),
    "not UTF-8": (safetensors(b"\xff\xfe"), "UTF-8"),
    "not JSON": (safetensors(b"{"), "JSON"),
    "a list": (safetensors([]), "JSON object"),
    "a number": (safetensors(3), "JSON object"),
    "deep nesting": (safetensors(b"[" * 100_000), "JSON"),
    "a name twice": (safetensors(b'{"a":1,"a":1}'), "twice"),
    "a huge integer": (safetensors(b'{"a":' + b"9" * 10_000 + b"}"), "JSON"),
    "NaN": (safetensors(b'{"a":NaN}'), "NaN"),
    "metadata is a list": (safetensors({"__metadata__": []}), "metadata"),
    "metadata is not text": (safetensors({"__metadata__": {"a": 1}}), "metadata"),
    "entry is a number": (safetensors({"a": 1}), "flat array"),
    "entry with more": (safetensors({"a": {**entry(), "b": 1}}, b"1234"), "flat array"),
    "entry with less": (safetensors({"a": {"dtype": "U8", "shape": [4]}}, b"1234"), "flat array"),
    "another type": (safetensors({"a": entry("I64", [1], [0, 8])}, b"12345678"), "flat array"),
    "type is a list": (safetensors({"a": entry(["U8"])}, b"1234"), "flat array"),
    "two dimensions": (safetensors({"a": entry("U8", [2, 2])}, b"1234"), "flat array"),
    "no dimension": (safetensors({"a": entry("U8", [], [0, 1])}, b"1"), "flat array"),
    "negative": (safetensors({"a": entry("U8", [-4])}, b"1234"), "flat array"),
    "fractional": (safetensors({"a": entry("U8", [4.0])}, b"1234"), "flat array"),
    "true": (safetensors({"a": entry("U8", [True], [0, 1])}, b"1"), "flat array"),
    "overflow": (safetensors({"a": entry("F32", [2**62], [0, 0])}), "flat array"),
    "backwards": (safetensors({"a": entry("U8", [0], [4, 0])}, b"1234"), "flat array"),
    "size differs": (safetensors({"a": entry("F32", [4])}, b"1234"), "flat array"),
    "past the end": (safetensors({"a": entry("U8", [8], [0, 8])}, b"1234"), "safetensors"),
    "not all covered": (safetensors({"a": entry()}, b"12345"), "safetensors"),
    "a hole": (
        safetensors({"a": entry(), "b": entry("U8", [1], [5, 6])}, b"123456"),
        "safetensors",
    ),
    "overlap": (
        safetensors({"a": entry(), "b": entry("U8", [2], [3, 5])}, b"12345"),
        "safetensors",
    ),
    "no metadata": (safetensors({"a": entry()}, b"1234"), "format codecaux-weights, got None"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_bad_archives(name: str) -> None:
    payload, message = ARCHIVES[name]
    with pytest.raises(WeightsFormatError, match=message):
        unpack(wrap(payload))


def test_too_many_arrays_are_refused() -> None:
    header = {str(i): entry("U8", [0], [0, 0]) for i in range(40_000)}
    with pytest.raises(WeightsTooLargeError, match="at most 32768 arrays"):
        unpack(wrap(safetensors(header)))


def test_a_header_beyond_the_cap_is_refused_unread() -> None:
    with pytest.raises(WeightsTooLargeError, match="header"):
        unpack(wrap((5 << 20).to_bytes(8, "little") + b"{}"))


# Bad metadata


def architecture(**changes: object) -> str:
    values = {"kind": "sr-unet", "name": "n", "widths": [1] * 4, "blocks": [1] * 7, "scale": "2"}
    return json.dumps(values | changes)


STREAM = {"whole_sha256": "0" * 64, "start_sha256": "0" * 64}
COLOUR = json.loads(ARCHIVE.metadata["colour"])
METADATA_DEFECTS: list[tuple[str, str | None, str]] = [
    ("format", None, "not a weights file"),
    ("format", "other", "not a weights file"),
    ("format_version", "4", "upgrade"),
    ("format_version", "0", "integer of 1"),
    ("format_version", "1.0", "an integer"),
    ("format_version", "9" * 5000, "an integer"),
    ("format_version", None, "format_version"),
    ("architecture", None, "architecture"),
    ("architecture", "[]", "damaged"),
    ("architecture", "null", "damaged"),
    ("architecture", architecture(kind="vdsr"), "sr-unet"),
    ("architecture", architecture(widths=[1] * 5), "4 integers"),
    ("architecture", architecture(widths=[0, 1, 1, 1]), "integers of 1"),
    ("architecture", architecture(widths=[1, 1, 1, 10**9]), "integers of 1"),
    ("architecture", architecture(scale="3"), "scale"),
    ("architecture", architecture(scale=2), "scale"),
    ("architecture", architecture(name="\ud800"), "surrogate"),
    ("architecture", "[" * 60_000, "not valid JSON"),
    ("architecture", architecture(name="x" * 65), "64 characters"),
    ("source_width", "0", "source_width"),
    ("source_width", "-1", "source_width"),
    ("source_width", "1000000", "source_width"),
    ("source_width", "٣", "source_width"),
    ("source_height", "007", "leading zeros"),
    ("num_frames", "", "num_frames"),
    ("num_frames", "0", "num_frames"),
    ("bit_depth", "9", "8 or 10"),
    ("bit_depth", "12", "bit_depth"),
    ("colour", "{}", "colour"),
    ("colour", json.dumps(COLOUR | {"matrix": "bt470"}), "matrix"),
    ("colour", json.dumps(COLOUR | {"matrix": []}), "matrix"),
    ("colour", json.dumps(COLOUR | {"full_range": 1}), "full_range"),
    ("colour", json.dumps(COLOUR | {"chroma_location": "x"}), "chroma_location"),
    ("colour", json.dumps(COLOUR | {"transfer": 256}), "transfer"),
    ("colour", json.dumps(COLOUR | {"transfer": True}), "transfer"),
    ("stream", "{}", "stream"),
    ("stream", json.dumps(STREAM | {"start_sha256": "G" * 64}), "hexadecimal"),
    ("stream", json.dumps(STREAM | {"start_sha256": "0" * 63}), "hexadecimal"),
    ("stream", json.dumps(STREAM | {"start_sha256": 0}), "hexadecimal"),
    ("base_id", None, "base_id"),
    ("base_id", "b" * 129, "128 characters"),
    ("codec", '{"a":1}', "texts"),
    ("codec", '{"a":"\\ud800"}', "surrogate"),
    ("codec", '{"\\ud800":"a"}', "surrogate"),
    ("codec", "[]", "object"),
    ("settings", "[" * 60_000, "JSON"),
    ("settings", '{"a":' * 9 + "1" + "}" * 9, "deep"),
    ("settings", '{"a":1e999}', "finite"),
    ("settings", '{"a":123456789012345678901}', "2\\^53"),
    ("settings", '{"a":"' + "x" * 70_000 + '"}', "at most 65536"),
    ("tools", '{"a":null}', "texts"),
    ("scores", '{"bicubic":1}', "scores"),
    ("scores", '{"bicubic":{"a":"1"}}', "scores"),
    ("scores", '{"bicubic":{"a":true}}', "scores"),
    ("scores", '{"bicubic":{"a":Infinity}}', "Infinity"),
    ("created_by", None, "created_by"),
    ("sets", None, "sets"),
    ("sets", "[]", "sets"),
    ("sets", "{}", "sets"),
    ("sets", "[1]", "ranges"),
    ("sets", '[{"first_frame":0}]', "ranges"),
    ("sets", '[{"first_frame":1,"end_frame":null}]', "expected first_frame to be 0"),
    ("sets", '[{"first_frame":false,"end_frame":null}]', "first_frame"),
    ("sets", '[{"first_frame":0,"end_frame":0}]', "end_frame"),
    ("sets", '[{"first_frame":0,"end_frame":4},{"first_frame":3,"end_frame":9}]', "be 4"),
    ("sets", '[{"first_frame":0,"end_frame":4},{"first_frame":5,"end_frame":9}]', "be 4"),
    ("sets", '[{"first_frame":0,"end_frame":null},{"first_frame":5,"end_frame":9}]', "be None"),
    ("sets", '[{"first_frame":0,"end_frame":null}]', "the arrays"),
    ("sets", '[{"first_frame":0,"end_frame":99999999999}]', "end_frame"),
    ("sets", " " * 300_000, "characters"),
]


@pytest.mark.parametrize(("name", "text", "message"), METADATA_DEFECTS)
def test_bad_metadata(name: str, text: str | None, message: str) -> None:
    with pytest.raises(WeightsFormatError, match=message) as caught:
        unpack(with_metadata(**{name: text}))
    assert len(str(caught.value)) < 1000


def test_too_large_a_network_is_refused() -> None:
    text = architecture(widths=[128] * 4, blocks=[8] * 7)
    with pytest.raises(WeightsTooLargeError, match="parameters"):
        unpack(with_metadata(architecture=text))


def test_unknown_metadata_is_passed_over_but_capped() -> None:
    assert_same(unpack(with_metadata(later="x" * 1000)), FILE)
    with pytest.raises(WeightsFormatError, match="characters"):
        unpack(with_metadata(later="x" * 70_000))
    with pytest.raises(WeightsFormatError, match="at most 256 fields"):
        unpack(with_metadata(**{f"later{i}": "" for i in range(300)}))


# Bad arrays


def steps_with(value: float) -> np.ndarray:
    steps = np.array(ARCHIVE.arrays["s0/steps"])
    steps[3] = value
    return steps


ARRAYS: dict[str, tuple[dict[str, np.ndarray | None], str]] = {
    "missing": ({"s0__rest": None}, "s0/rest"),
    "one more": ({"s2__rest": np.zeros(0, np.uint8)}, "s2/rest"),
    "a name of old": ({"down1.0.weight": np.zeros(4, np.float32)}, "down1.0.weight"),
    "steps as bytes": ({"s0__steps": np.zeros(60, np.uint8)}, "float32, got 'uint8'"),
    "plane as floats": ({"s0__rest": np.zeros(4, np.float32)}, "uint8, got 'float32'"),
    "too few steps": ({"s0__steps": np.ones(3, np.float32)}, "one a tensor"),
    "negative step": ({"s0__steps": steps_with(-1)}, "the step of"),
    "minus zero step": ({"s0__steps": steps_with(-0.0)}, "the step of"),
    "step not a number": ({"s0__steps": steps_with(np.nan)}, "the step of"),
    "infinite step": ({"s0__steps": steps_with(np.inf)}, "the step of"),
    "subnormal step": ({"s0__steps": steps_with(1e-40)}, "the step of"),
    "huge step": ({"s0__steps": steps_with(1e30)}, "the step of"),
    "absent, but its bits are there": ({"s0__steps": steps_with(0)}, "nonzero"),
    "planes of another net": ({"s0__nonzero": np.zeros(2, np.uint8)}, "plane nonzero, got 2"),
    "signs cut": ({"s0__negative": np.zeros(1, np.uint8)}, "plane negative, got 1"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_bad_arrays(name: str) -> None:
    arrays, message = ARRAYS[name]
    with pytest.raises(WeightsFormatError, match=message):
        unpack(with_arrays(**arrays))


# Files on disk, and what is shown of them


def test_read_weights(tmp_path: Path) -> None:
    path = tmp_path / "title.weights"
    path.write_bytes(PACKED)
    assert_same(read_weights(path), FILE)
    path.write_bytes(PACKED[:-1])
    with pytest.raises(WeightsFormatError, match=r"title\.weights: .*cut short"):
        read_weights(path)
    with pytest.raises(InputError, match=r"none\.weights"):
        read_weights(tmp_path / "none.weights")
    with pytest.raises(InputError, match="directory"):
        read_weights(tmp_path)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "title.weights"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(WeightsTooLargeError, match="right file"):
        read_weights(path)


def test_description() -> None:
    values = json.loads(json.dumps(describe(FILE, len(PACKED)), allow_nan=False))
    assert values["file_bytes"] == len(PACKED)
    assert values["num_parameters"] == merged_parameter_count(CONFIG)
    assert values["architecture"]["scale"] == "3/2"
    first, second = values["sets"]
    assert (first["first_frame"], first["end_frame"], second["end_frame"]) == (0, 12, None)
    assert first["num_weights"] == merged_parameter_count(CONFIG) > second["num_weights"] > 0
    assert first["bits_per_weight"] >= first["entropy_bits_per_weight"] * 0.9
    rows = dict(describe_rows(FILE, len(PACKED)))
    assert rows["base"] == "init-1"
    assert rows["set 1"].startswith("frame 12 to the end")


def test_what_is_shown_cannot_drive_a_terminal() -> None:
    nasty = dataclasses.replace(METADATA, created_by="\x1b]0;x\x07\u202e\n", codec={"\x9b1m": "\r"})
    file = unpack(pack(WeightsFile(nasty, FILE.sets)))
    rows = dict(describe_rows(file, 1))
    assert rows["made by"] == r"\x1b]0;x\x07\u202e\n"
    assert rows["codec"] == r"\x9b1m=\r"
    assert clean_text("Ärger 日本") == "Ärger 日本"
    assert len(clean_text("x" * 10_000)) == 200
