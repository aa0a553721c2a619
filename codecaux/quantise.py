"""Integers for weights: one step per tensor, and the bit planes they travel in. numpy only.

A tensor is coded as ``w = fp32(base + fp32(fp32(step) * fp32(q)))`` with integers q of at most
``MAX_MAGNITUDE``. Every product and sum is one IEEE 754 binary32 operation rounded to nearest even,
so that every decoder gets the same bits. Below two bits a weight, where the good operating points
lie, the magnitudes of all tensors together go as planes that a general compressor codes well; the
layout is normative in docs/format.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codecaux.errors import FitError, WeightsFormatError

__all__ = [
    "MAX_MAGNITUDE",
    "MAX_STEP",
    "MIN_STEP",
    "PLANES",
    "QuantisedTensor",
    "dequantise",
    "empirical_entropy_bits",
    "pack_planes",
    "quantise",
    "step_is_valid",
    "unpack_planes",
]

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

# fp32 holds every integer up to 2^24, so fp32(q) is exact; 2^20 leaves the product room.
MAX_MAGNITUDE = 1 << 20
# Well inside the normal range: no decoder's flush-to-zero or overflow can change a weight.
MIN_STEP, MAX_STEP = 2.0**-64, 2.0**16

# In the order in which they are written and read.
PLANES = ("nonzero", "negative", "above1", "above2", "rest", "wide")
# A byte of "rest" is |q| - 3; this one says that the magnitude is in "wide".
_ESCAPE = 255
_WIDE_BYTES = 3


@dataclass(frozen=True, eq=False, slots=True)
class QuantisedTensor:
    """Integers ``values`` (int32, any shape, |q| <= 2^20) and their ``step``.

    ``step`` is a number that fp32 holds exactly, of 2^-64 to 2^16. The tensor is
    ``base + step * values``, or ``step * values`` where the file has no base.
    """

    values: IntArray
    step: float

    def __post_init__(self) -> None:
        assert self.values.dtype == np.int32, f"expected int32, got {self.values.dtype}"
        _check_step(self.step)
        _check_magnitude(self.values)

    def dequantise(self, base: FloatArray | None = None) -> FloatArray:
        """The weights in fp32, of the same shape; see :func:`dequantise`."""
        return dequantise(self.values, self.step, base)


def step_is_valid(step: float) -> bool:
    """Whether ``step`` is within 2^-64 to 2^16 and fp32 holds it exactly."""
    return MIN_STEP <= step <= MAX_STEP and float(np.float32(step)) == step


def quantise(x: npt.ArrayLike, step: float) -> IntArray:
    """q = round(x / step), halves to even, as int32 of x's shape.

    ``|x - step * q| <= step / 2`` but for the fp32 rounding of the product. FitError where x is
    not finite or needs more than 2^20 steps: the fit diverged or the step is far too fine.
    """
    _check_step(step)
    wide = np.asarray(x, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise FitError("expected finite weights, got NaN or infinity: the fit diverged")
    rounded = np.rint(wide / step)
    largest = float(np.abs(rounded).max(initial=0.0))
    if largest > MAX_MAGNITUDE:
        raise FitError(
            f"expected weights of at most {MAX_MAGNITUDE} steps, got {largest:.3g}: "
            f"the fit diverged or the step {step:.3g} is too fine"
        )
    return rounded.astype(np.int32)


def dequantise(values: IntArray, step: float, base: FloatArray | None = None) -> FloatArray:
    """``fp32(base + fp32(fp32(step) * fp32(q)))``, the one reconstruction everybody uses."""
    product = np.multiply(values.astype(np.float32), np.float32(step), dtype=np.float32)
    if base is None:
        return product
    assert base.dtype == np.float32, f"expected a float32 base, got {base.dtype}"
    assert base.shape == values.shape, f"expected a base {values.shape}, got {base.shape}"
    return np.add(base, product, dtype=np.float32)


def empirical_entropy_bits(values: npt.NDArray[np.integer]) -> float:
    """Zeroth-order entropy of the whole tensor in bits: ``-sum n_v log2(n_v / n)``."""
    if values.size == 0:
        return 0.0
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float(max(0.0, -(counts * np.log2(counts / values.size)).sum()))


def pack_planes(tensors: Mapping[str, IntArray]) -> dict[str, ByteArray]:
    """All tensors, concatenated in the mapping's order, as the six planes of docs/format.md.

    Returns name -> one-dimensional uint8. Bits are packed most significant first, the last byte
    filled with zeros.
    """
    flat = [np.asarray(values, dtype=np.int32).ravel() for values in tensors.values()]
    q = np.concatenate(flat) if flat else np.zeros(0, np.int32)
    _check_magnitude(q)
    some = q[q != 0]
    magnitude = np.abs(some)
    above1 = magnitude[magnitude > 1]
    rest = above1[above1 > 2] - 3
    wide = (rest[rest >= _ESCAPE] - _ESCAPE).astype("<u4")
    return {
        "nonzero": np.packbits(q != 0),
        "negative": np.packbits(some < 0),
        "above1": np.packbits(magnitude > 1),
        "above2": np.packbits(above1 > 2),
        "rest": np.minimum(rest, _ESCAPE).astype(np.uint8),
        "wide": wide.view(np.uint8).reshape(-1, 4)[:, :_WIDE_BYTES].ravel(),
    }


def unpack_planes(
    planes: Mapping[str, ByteArray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, IntArray]:
    """The inverse of :func:`pack_planes` for tensors of ``shapes``, in the mapping's order.

    Planes are untrusted: WeightsFormatError where one is missing, has another length than the
    planes before it ask for, has a filling bit set, or holds a magnitude above 2^20. Memory is a
    small multiple of what ``shapes`` ask for, whatever the planes hold.
    """
    if set(planes) != set(PLANES):
        got = ", ".join(sorted(name[:32] for name in planes)[:8])
        raise WeightsFormatError(f"expected the planes {', '.join(PLANES)}, got {got}")
    sizes = [math.prod(shape) for shape in shapes.values()]
    q = _unpack_flat(planes, sum(sizes))
    return dict(zip(shapes, _split(q, sizes, list(shapes.values())), strict=True))


def _unpack_flat(planes: Mapping[str, ByteArray], count: int) -> IntArray:
    nonzero = _bits(planes, "nonzero", count)
    num_nonzero = int(np.count_nonzero(nonzero))
    negative = _bits(planes, "negative", num_nonzero)
    above1 = _bits(planes, "above1", num_nonzero)
    above2 = _bits(planes, "above2", int(np.count_nonzero(above1)))
    magnitude = np.ones(num_nonzero, np.int32)
    larger = np.full(above2.size, 2, np.int32)
    larger[above2] = _large_magnitudes(planes, int(np.count_nonzero(above2)))
    magnitude[above1] = larger
    np.negative(magnitude, out=magnitude, where=negative)
    q = np.zeros(count, np.int32)
    q[nonzero] = magnitude
    return q


def _large_magnitudes(planes: Mapping[str, ByteArray], count: int) -> IntArray:
    """The magnitudes above 2, out of "rest" and "wide"."""
    rest = planes["rest"]
    _check_length("rest", rest.size, count)
    escaped = rest == _ESCAPE
    num_wide = int(np.count_nonzero(escaped))
    wide = planes["wide"]
    _check_length("wide", wide.size, _WIDE_BYTES * num_wide)
    padded = np.zeros((num_wide, 4), np.uint8)
    padded[:, :_WIDE_BYTES] = wide.reshape(num_wide, _WIDE_BYTES)
    magnitude = rest.astype(np.int32) + 3
    magnitude[escaped] += padded.view("<u4").ravel().astype(np.int32)
    if int(magnitude.max(initial=0)) > MAX_MAGNITUDE:
        raise WeightsFormatError(
            f"expected magnitudes of at most {MAX_MAGNITUDE} in the plane wide, got "
            f"{int(magnitude.max())}: the file is damaged, make it again"
        )
    return magnitude


def _bits(planes: Mapping[str, ByteArray], name: str, count: int) -> BoolArray:
    plane = planes[name]
    _check_length(name, plane.size, -(-count // 8))
    if count % 8 and int(plane[-1]) & (0xFF >> count % 8):
        raise WeightsFormatError(
            f"expected the filling bits of the plane {name} to be 0: the file is damaged, "
            "make it again"
        )
    return np.unpackbits(plane, count=count).view(np.bool_)


def _split(q: IntArray, sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[IntArray]:
    ends = np.cumsum(sizes, dtype=np.int64)[:-1]
    parts = np.split(q, ends) if shapes else []
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _check_length(name: str, got_bytes: int, expected_bytes: int) -> None:
    if got_bytes != expected_bytes:
        raise WeightsFormatError(
            f"expected {expected_bytes} bytes in the plane {name}, got {got_bytes}: "
            "the file is damaged, make it again"
        )


def _check_step(step: float) -> None:
    if not step_is_valid(step):
        raise FitError(
            f"expected a step of 2^-64 to 2^16 that fp32 holds exactly, got {step!r}: "
            "round it with float(numpy.float32(step)) or fit again"
        )


def _check_magnitude(values: IntArray) -> None:
    # int64: |-2^31| does not fit in int32.
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if max(-low, high) > MAX_MAGNITUDE:
        raise FitError(
            f"expected integers of at most {MAX_MAGNITUDE} in magnitude, got {max(-low, high)}: "
            "the fit diverged or a step is too fine"
        )
