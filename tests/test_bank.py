"""The patch bank: pairs stay paired, memory is bounded, the same seed gives the same bank."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch

from codecaux.encoder.bank import BankSettings, PatchBank, build_bank, patch_shape
from codecaux.errors import UsageError
from codecaux.events import drain
from codecaux.video import Frame, Geometry, VideoFormat

CPU = torch.device("cpu")


def _pairs(geometry: Geometry, count: int, *, depth: int = 8) -> Iterator[tuple[Frame, Frame]]:
    """Frame t's samples say where they are: luma = column (+ 16 row, in 10 bit) + t."""
    dtype = np.uint8 if depth == 8 else np.uint16

    def ramp(height: int, width: int, scale: float, t: int) -> Frame:
        def plane(h: int, w: int, s: float) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
            return np.broadcast_to((np.arange(w) * s + t).astype(dtype), (h, w)).copy()

        half = ((height + 1) // 2, (width + 1) // 2)
        return Frame(plane(height, width, scale), *(plane(*half, 2 * scale) for _ in "uv"), pts=t)

    scale = float(geometry.scale)
    for t in range(count):
        yield (
            ramp(geometry.coded_height, geometry.coded_width, scale, t),
            ramp(geometry.source_height, geometry.source_width, 1.0, t),
        )


def _bank(
    size: tuple[int, int], scale: Fraction, count: int, settings: BankSettings, alignment: int = 8
) -> PatchBank:
    geometry = Geometry(*size, scale)
    format = VideoFormat(*size)
    pairs = _pairs(geometry, count)
    return drain(build_bank(pairs, count, geometry, format, alignment, settings))


@pytest.mark.parametrize("scale", [Fraction(2), Fraction(3, 2), Fraction(1)])
def test_coded_and_source_patches_show_the_same_place(scale: Fraction) -> None:
    bank = _bank((120, 96), scale, 3, BankSettings(patch=16))
    assert len(bank) > 20
    for coded, source in zip(bank.coded[0], bank.source[0], strict=True):
        # Column 0 of both is the same place in source pixels, plus the same frame number.
        assert int(coded[0, 0]) == int(source[0, 0])
    for coded, source in zip(bank.coded[1], bank.source[1], strict=True):
        assert int(coded[0, 0]) == int(source[0, 0])


def test_memory_bound_holds_whatever_the_length() -> None:
    settings = BankSettings(patch=96, max_bytes=16 << 20)
    bank = _bank((640, 384), Fraction(2), 60, settings)
    assert bank.candidates == 60 * 6
    assert len(bank) < bank.candidates
    assert bank.size_bytes <= 16 << 20


def test_the_same_seed_gives_the_same_bank_and_another_does_not() -> None:
    def frames_of(seed: int) -> list[int]:
        settings = BankSettings(patch=96, max_bytes=16 << 20, seed=seed)
        return sorted(_bank((640, 384), Fraction(2), 60, settings).frame.tolist())

    assert frames_of(1) == frames_of(1)
    assert frames_of(1) != frames_of(2)


def test_busy_patches_are_preferred() -> None:
    """Half the picture is flat: the reservoir must hold clearly more of the other half."""
    geometry = Geometry(768, 384, Fraction(2))
    rng = np.random.default_rng(0)

    def pairs() -> Iterator[tuple[Frame, Frame]]:
        for t in range(60):
            frames = []
            for height, width in ((192, 384), (384, 768)):
                y = np.full((height, width), 128, np.uint8)
                y[:, width // 2 :] = rng.integers(0, 255, (height, width // 2), dtype=np.uint8)
                half = np.full((height // 2, width // 2), 128, np.uint8)
                frames.append(Frame(y, half, half, t))
            yield frames[0], frames[1]

    settings = BankSettings(patch=96, max_bytes=16 << 20)
    format = VideoFormat(768, 384)
    bank = drain(build_bank(pairs(), 60, geometry, format, 8, settings))
    busy = sum(1 for patch in bank.source[0] if patch.std() > 10)
    assert len(bank) < bank.candidates
    assert busy > 0.8 * len(bank)


@pytest.mark.parametrize("size", [(16, 16), (33, 17), (99, 75), (854, 480)])
def test_any_size_gives_patches_of_the_alignment(size: tuple[int, int]) -> None:
    geometry = Geometry(*size, Fraction(2))
    height, width = patch_shape(geometry, 96, 8)
    assert height % 8 == 0
    assert width % 8 == 0
    bank = _bank(size, Fraction(2), 2, BankSettings())
    assert bank.coded[0].shape[1:] == (height, width)
    assert bank.source[0].shape[1:] == (2 * height, 2 * width)


def test_batches_are_nominal_values() -> None:
    bank = _bank((120, 96), Fraction(2), 2, BankSettings(patch=16))
    indices = np.array([0, 3])
    coded, source = bank.batch(indices, CPU)
    assert coded.y.shape == (2, 1, 16, 16)
    assert source.u.shape == (2, 1, 16, 16)
    expected = (torch.from_numpy(bank.coded[0][indices]).float() - 16) / 219
    torch.testing.assert_close(coded.y[:, 0], expected)


def test_a_bank_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="16 MiB"):
        BankSettings(max_bytes=1000)
