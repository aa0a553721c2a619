"""Laws of the quantiser and of the planes, and every defect a plane can have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from codecaux.errors import FitError, WeightsFormatError
from codecaux.quantise import (
    MAX_MAGNITUDE,
    MAX_STEP,
    MIN_STEP,
    PLANES,
    QuantisedTensor,
    dequantise,
    empirical_entropy_bits,
    pack_planes,
    quantise,
    step_is_valid,
    unpack_planes,
)

steps = st.floats(2.0**-30, 2.0**10, width=32)
# Mostly the small values of real files, and every border between the planes.
borders = [0, 1, 2, 3, 4, 257, 258, 259, 65_000, MAX_MAGNITUDE - 1, MAX_MAGNITUDE]
integers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from(borders + [-b for b in borders]),
    st.integers(-MAX_MAGNITUDE, MAX_MAGNITUDE),
)
shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)


@st.composite
def integer_tensors(draw: st.DrawFn) -> dict[str, np.ndarray]:
    count = draw(st.integers(0, 4))
    return {f"t{i}": draw(hnp.arrays(np.int32, shapes, elements=integers)) for i in range(count)}


@given(hnp.arrays(np.float32, shapes, elements=st.floats(-1e3, 1e3, width=32)), steps)
def test_error_is_at_most_half_a_step(x: np.ndarray, step: float) -> None:
    if np.abs(x).max(initial=0) / step > MAX_MAGNITUDE:
        with pytest.raises(FitError, match="steps"):
            quantise(x, step)
        return
    error = np.abs(dequantise(quantise(x, step), step).astype(np.float64) - x)
    # The product is rounded to fp32: half a unit in the last place of a value within x + step.
    rounding = (np.abs(x.astype(np.float64)) + step) * 2.0**-24
    assert (error <= step / 2 + rounding).all()


@given(hnp.arrays(np.int32, shapes, elements=integers), steps)
def test_quantising_what_was_dequantised_gives_the_same_integers(
    q: np.ndarray, step: float
) -> None:
    np.testing.assert_array_equal(quantise(dequantise(q, step), step), q)


def test_halves_go_to_even() -> None:
    got = quantise(np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5]), 1.0)
    assert got.tolist() == [0, 2, 2, 0, -2, -2]
    assert got.dtype == np.int32


def test_reconstruction_is_one_rounded_product_and_one_rounded_sum() -> None:
    # With a fused multiply-add, or in double precision, the last bit of these differs.
    step, base = np.float32(0.1), np.float32(1.0)
    q = np.arange(-3000, 3000, dtype=np.int32)
    got = dequantise(q, float(step), np.full(q.shape, base, np.float32))
    exact = float(base) + float(step) * q.astype(np.float64)
    assert (got != exact.astype(np.float32)).any()
    one_by_one = [np.float32(base + np.float32(step * np.float32(v))) for v in q]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.array(one_by_one))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diverged_fit_is_refused(bad: float) -> None:
    with pytest.raises(FitError, match="diverged"):
        quantise(np.array([0.0, bad]), 1.0)


@pytest.mark.parametrize(
    "step", [0.0, -1.0, math.nan, math.inf, 0.1, MIN_STEP / 2, MAX_STEP * 2, 1e-45]
)
def test_unusable_steps_are_refused(step: float) -> None:
    assert not step_is_valid(step)
    with pytest.raises(FitError, match="step"):
        QuantisedTensor(np.zeros(1, np.int32), step)


@pytest.mark.parametrize("value", [MAX_MAGNITUDE + 1, -MAX_MAGNITUDE - 1, -(2**31), 2**31 - 1])
def test_too_large_integers_are_refused(value: int) -> None:
    q = np.array([value], np.int32)
    with pytest.raises(FitError, match=str(abs(value))):
        QuantisedTensor(q, 1.0)
    with pytest.raises(FitError, match=str(abs(value))):
        pack_planes({"a": q})


@given(integer_tensors())
def test_unpacking_is_the_inverse_of_packing(tensors: dict[str, np.ndarray]) -> None:
    planes = pack_planes(tensors)
    assert tuple(planes) == PLANES
    assert all(plane.dtype == np.uint8 and plane.ndim == 1 for plane in planes.values())
    got = unpack_planes(planes, {name: q.shape for name, q in tensors.items()})
    assert list(got) == list(tensors)
    for name, q in tensors.items():
        np.testing.assert_array_equal(got[name], q)
        assert got[name].shape == q.shape
        assert got[name].dtype == np.int32


@settings(max_examples=300)
@given(integer_tensors(), st.data())
def test_planes_have_one_spelling(tensors: dict[str, np.ndarray], data: st.DataObject) -> None:
    """Any changed, added or missing byte is an error or other integers, never the same ones."""
    planes = pack_planes(tensors)
    shapes = {name: q.shape for name, q in tensors.items()}
    name = data.draw(st.sampled_from(PLANES))
    changed = bytearray(planes[name].tobytes())
    kind = data.draw(st.sampled_from(["flip", "add", "cut"]))
    if kind == "add" or not changed:
        changed += bytes([data.draw(st.integers(0, 255))])
    elif kind == "cut":
        changed.pop()
    else:
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    planes[name] = np.frombuffer(bytes(changed), np.uint8)
    try:
        got = unpack_planes(planes, shapes)
    except WeightsFormatError:
        return
    assert any((got[key] != tensors[key]).any() for key in tensors)
    assert {k: v.tobytes() for k, v in pack_planes(got).items()} == {
        k: v.tobytes() for k, v in planes.items()
    }


def test_the_planes_of_a_small_example() -> None:
    q = np.array([0, 1, -2, 3, -258, 257, 0, 0, 0, 1000], np.int32)
    planes = {name: plane.tolist() for name, plane in pack_planes({"a": q}).items()}
    assert planes == {
        "nonzero": [0b01111100, 0b01000000],
        "negative": [0b01010000],  # of +1 -2 +3 -258 +257 +1000
        "above1": [0b01111100],
        "above2": [0b01111000],  # of 2 3 258 257 1000
        "rest": [0, 255, 254, 255],
        "wide": [0, 0, 0, 230, 2, 0],  # 258 - 258 and 1000 - 258, little-endian
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonzero": [0xFF, 0x01]}, "filling bits"),
        ({"negative": [0]}, "2 bytes in the plane negative, got 1"),
        ({"rest": []}, "9 bytes in the plane rest, got 0"),
        ({"wide": [0, 0, 0x10]}, "magnitudes of at most 1048576"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, list[int]], message: str) -> None:
    planes = pack_planes({"a": np.full(9, 300, np.int32)})
    planes["wide"] = planes["wide"].copy()
    planes |= {name: np.array(value, np.uint8) for name, value in change.items()}
    if "wide" in change:
        planes["wide"] = np.tile(planes["wide"], 9)
    with pytest.raises(WeightsFormatError, match=message):
        unpack_planes(planes, {"a": (9,)})


def test_missing_and_unknown_planes_are_refused() -> None:
    planes = pack_planes({"a": np.zeros(3, np.int32)})
    with pytest.raises(WeightsFormatError, match="expected the planes nonzero"):
        unpack_planes({k: v for k, v in planes.items() if k != "rest"}, {"a": (3,)})
    with pytest.raises(WeightsFormatError, match="more"):
        unpack_planes(planes | {"more": planes["rest"]}, {"a": (3,)})


def test_entropy_of_known_distributions() -> None:
    assert empirical_entropy_bits(np.zeros(0, np.int32)) == 0
    assert empirical_entropy_bits(np.full(100, 7)) == 0
    assert empirical_entropy_bits(np.array([0, 1] * 50)) == pytest.approx(100)
    assert empirical_entropy_bits(np.arange(256)) == pytest.approx(256 * 8)
