"""The patch bank: pairs stay paired, memory is bounded, the same seed gives the same bank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from codecaux.encoder.bank import BankSettings, PatchBank
from codecaux.encoder.bank_builder import build_bank, patch_shape
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


@pytest.mark.parametrize("scale", [Fraction(2), Fraction(3, 2), Fraction(1)])
def test_neighbours_are_the_same_place_before_and_after(scale: Fraction) -> None:
    """Luma of frame t is column + t: a neighbour's middle is the patch's own, one less or more."""
    settings = BankSettings(patch=32, around=24, coded_around=True)
    bank = _bank((144, 96), scale, 5, settings)
    before, after, coded_before, coded_after = (group[0] for group in bank.neighbours)
    size = before.shape[2]
    assert size == int(int(24 / scale) // 8 * 8 * scale)
    assert coded_before.shape[2] * scale == size
    at = (bank.source[0].shape[2] - size) // 2
    middle = bank.source[0][:, :, at : at + size].astype(int)[:, :1]
    at = (bank.coded[0].shape[2] - coded_before.shape[2]) // 2
    coded = bank.coded[0][:, :, at : at + coded_before.shape[2]].astype(int)[:, :1]
    # The first frame's before is its after, the last one's after its before.
    earlier = np.where(bank.frame == 0, 1, -1)[:, None, None]
    later = np.where(bank.frame == 4, -1, 1)[:, None, None]
    assert set(bank.frame.tolist()) == set(range(5))
    np.testing.assert_array_equal(before[:, :1], middle + earlier)
    np.testing.assert_array_equal(after[:, :1], middle + later)
    np.testing.assert_array_equal(coded_before[:, :1], coded + earlier)
    np.testing.assert_array_equal(coded_after[:, :1], coded + later)
    chroma = bank.neighbours[1][1]
    assert chroma.shape[1:] == (size // 2, size // 2)


def test_a_single_frame_is_its_own_neighbour() -> None:
    bank = _bank((64, 64), Fraction(2), 1, BankSettings(patch=16, around=32))
    for group in bank.neighbours:
        np.testing.assert_array_equal(group[0], bank.source[0])


def test_neighbours_keep_the_memory_bound_and_cost_nothing_unasked() -> None:
    settings = BankSettings(patch=96, max_bytes=16 << 20)
    plain = _bank((640, 384), Fraction(2), 60, settings)
    around = _bank((640, 384), Fraction(2), 60, replace(settings, around=128))
    assert plain.neighbours == ()
    assert plain.around(np.arange(2), CPU) is None
    assert len(around) < len(plain)
    assert around.size_bytes <= 16 << 20
    # The slots that were overwritten while frames streamed past hold what belongs to them now.
    middle = around.source[0][:, 32:33, 32:160].astype(int)
    later = np.where(around.frame == 59, -1, 1)[:, None, None]
    np.testing.assert_array_equal(
        around.neighbours[1][0][:, :1].astype(int), (middle + later) % 256
    )


def test_a_scenes_patches_keep_their_neighbours() -> None:
    bank = _bank((128, 96), Fraction(2), 6, BankSettings(patch=16, around=32))
    part = bank.of_frames(2, 4)
    chosen = np.flatnonzero((bank.frame >= 2) & (bank.frame < 4))
    assert 0 < len(part) < len(bank)
    got, expected = part.around(np.arange(len(part)), CPU), bank.around(chosen, CPU)
    assert got is not None
    assert expected is not None
    assert torch.equal(got.after.y, expected.after.y)
    assert got.coded_before is None


def test_every_frame_of_a_run_has_its_own_neighbours() -> None:
    settings = BankSettings(patch=32, around=24, run=4, max_bytes=16 << 20)
    bank = _bank((640, 384), Fraction(2), 40, settings)
    assert bank.run == 4
    size = bank.neighbours[0][0].shape[2]
    at = (bank.source[0].shape[2] - size) // 2
    middle = bank.source[0][:, at : at + 1, at : at + size].astype(int)
    for group, step, end in ((0, -1, 0), (1, 1, 39)):
        moved = np.where(bank.frame == end, -step, step)[:, None, None]
        found = bank.neighbours[group][0][:, :1].astype(int)
        np.testing.assert_array_equal(found, (middle + moved) % 256)
    around = bank.around(np.array([2]), CPU)
    assert around is not None
    assert len(around.before.y) == 4
