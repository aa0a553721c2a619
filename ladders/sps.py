"""Sequence parameter sets of H.265 and H.264, as far as a manifest needs them. Pure.

Names are those of ITU-T H.265 (7.3.2.2, 7.3.3, E.2.1) and H.264 (7.3.2.1.1, E.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AvcSps", "BitReader", "HevcSps", "parse_avc_sps", "parse_hevc_sps"]

_UNSPECIFIED = 2
_EXTENDED_ASPECT = 255
_MAX_UE_BITS = 32
_MAX_REFERENCE_SETS = 64
_MAX_PICTURES = 16
_AVC_HIGH_PROFILES = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))


@dataclass(frozen=True, slots=True)
class HevcSps:
    """profile_tier_level, and the size of the coded picture after its conformance window.

    ``compatibility_flags`` is a 32-bit number whose highest bit is flag 0; ``constraint_bytes``
    the six bytes from general_progressive_source_flag on. ``transfer``: H.273, 2 where not said.
    """

    profile_space: int
    is_high_tier: bool
    profile_idc: int
    compatibility_flags: int
    constraint_bytes: bytes
    level_idc: int
    width: int
    height: int
    bit_depth: int
    transfer: int


@dataclass(frozen=True, slots=True)
class AvcSps:
    """The three bytes that name profile and level, and the H.273 transfer (2: not said)."""

    profile_idc: int
    constraint_flags: int
    level_idc: int
    transfer: int


class BitReader:
    """Bits of a NAL unit, most significant first, emulation prevention bytes taken out.

    Every method raises ValueError past the end.
    """

    def __init__(self, unit: bytes) -> None:
        payload = unit.replace(b"\x00\x00\x03", b"\x00\x00")
        self._bits = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def u(self, count: int) -> int:
        """``count`` bits as a number: u(n)."""
        if count > self._left:
            raise ValueError("a parameter set is cut short")
        self._left -= count
        return (self._bits >> self._left) & ((1 << count) - 1)

    def flag(self) -> bool:
        """One bit."""
        return bool(self.u(1))

    def ue(self) -> int:
        """Exp-Golomb, 9.2 (H.265) and 9.1 (H.264): ue(v)."""
        zeros = 0
        while not self.flag():
            zeros += 1
            if zeros > _MAX_UE_BITS:
                raise ValueError("a parameter set holds a number beyond 32 bits")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """Signed Exp-Golomb: se(v)."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


# ---------------------------------------------------------------------------------------- H.265


def parse_hevc_sps(unit: bytes) -> HevcSps:
    """Read one SPS NAL unit, its two header bytes included. ValueError where it is none."""
    if len(unit) < 2 or (unit[0] >> 1) & 0x3F != 33:
        raise ValueError("the NAL unit is no H.265 sequence parameter set")
    bits = BitReader(unit[2:])
    bits.u(4)
    max_sub_layers_minus1 = bits.u(3)
    bits.flag()
    profile_space, tier, profile_idc = bits.u(2), bits.flag(), bits.u(5)
    compatibility, constraints = bits.u(32), bits.u(48).to_bytes(6, "big")
    level_idc = bits.u(8)
    _skip_sub_layers(bits, max_sub_layers_minus1)
    bits.ue()
    width, height = _hevc_size(bits)
    bit_depth = bits.ue() + 8
    _skip_to_vui(bits, max_sub_layers_minus1)
    transfer = _vui_transfer(bits) if bits.flag() else _UNSPECIFIED
    return HevcSps(
        profile_space, tier, profile_idc, compatibility, constraints, level_idc, width, height,
        bit_depth, transfer,
    )  # fmt: skip


def _skip_sub_layers(bits: BitReader, count: int) -> None:
    present = [(bits.flag(), bits.flag()) for _ in range(count)]
    if count:
        bits.u(2 * (8 - count))
    for has_profile, has_level in present:
        bits.u(88 * has_profile + 8 * has_level)


def _hevc_size(bits: BitReader) -> tuple[int, int]:
    chroma_format = bits.ue()
    if chroma_format == 3:
        bits.flag()
    width, height = bits.ue(), bits.ue()
    if bits.flag():
        unit_x, unit_y = {0: (1, 1), 1: (2, 2), 2: (2, 1)}.get(chroma_format, (1, 1))
        left, right, top, bottom = (bits.ue() for _ in range(4))
        width -= unit_x * (left + right)
        height -= unit_y * (top + bottom)
    return width, height


def _skip_to_vui(bits: BitReader, max_sub_layers_minus1: int) -> None:
    """From bit_depth_chroma_minus8 to strong_intra_smoothing_enabled_flag."""
    bits.ue()
    poc_bits = bits.ue() + 4
    for _ in range(max_sub_layers_minus1 + 1 if bits.flag() else 1):
        for _ in range(3):
            bits.ue()
    for _ in range(6):
        bits.ue()
    if bits.flag() and bits.flag():
        _skip_hevc_scaling_lists(bits)
    bits.u(2)
    if bits.flag():  # pcm_enabled_flag
        bits.u(8)
        bits.ue()
        bits.ue()
        bits.flag()
    _skip_reference_sets(bits)
    if bits.flag():  # long_term_ref_pics_present_flag
        for _ in range(_bounded(bits.ue(), 32)):
            bits.u(poc_bits + 1)
    bits.u(2)


def _skip_hevc_scaling_lists(bits: BitReader) -> None:
    for size in range(4):
        for _ in range(0, 6, 3 if size == 3 else 1):
            if not bits.flag():
                bits.ue()
                continue
            if size > 1:
                bits.se()
            for _ in range(min(64, 1 << (4 + 2 * size))):
                bits.se()


def _skip_reference_sets(bits: BitReader) -> None:
    """st_ref_pic_set(): a set may be predicted from the one before, so both are followed."""
    before: list[int] = []
    for index in range(_bounded(bits.ue(), _MAX_REFERENCE_SETS)):
        is_predicted = index > 0 and bits.flag()
        before = _predicted_set(bits, before) if is_predicted else _explicit_set(bits)


def _explicit_set(bits: BitReader) -> list[int]:
    num_negative = _bounded(bits.ue(), _MAX_PICTURES)
    num_positive = _bounded(bits.ue(), _MAX_PICTURES)
    deltas: list[int] = []
    for count, sign in ((num_negative, -1), (num_positive, 1)):
        delta = 0
        for _ in range(count):
            delta += sign * (bits.ue() + 1)
            bits.flag()
            deltas.append(delta)
    return deltas


def _predicted_set(bits: BitReader, before: list[int]) -> list[int]:
    is_negative = bits.flag()
    shift = bits.ue() + 1
    shift = -shift if is_negative else shift
    kept: set[int] = set()
    for delta in (*before, 0):
        is_used = bits.flag()
        if is_used or bits.flag():
            kept.add(delta + shift)
    kept.discard(0)
    # Nearest first on either side, as (7-61) and (7-62) order them.
    negative = sorted((d for d in kept if d < 0), reverse=True)
    return [*negative, *sorted(d for d in kept if d > 0)]


# ---------------------------------------------------------------------------------------- H.264


def parse_avc_sps(unit: bytes) -> AvcSps:
    """Read one SPS NAL unit, its header byte included. ValueError where it is none."""
    if len(unit) < 4 or unit[0] & 0x1F != 7:
        raise ValueError("the NAL unit is no H.264 sequence parameter set")
    bits = BitReader(unit[1:])
    profile_idc, constraint_flags, level_idc = bits.u(8), bits.u(8), bits.u(8)
    bits.ue()
    if profile_idc in _AVC_HIGH_PROFILES:
        _skip_avc_high(bits)
    bits.ue()
    _skip_picture_order(bits)
    bits.ue()
    bits.flag()
    bits.ue()
    bits.ue()
    if not bits.flag():  # frame_mbs_only_flag
        bits.flag()
    bits.flag()
    if bits.flag():  # frame_cropping_flag
        for _ in range(4):
            bits.ue()
    transfer = _vui_transfer(bits) if bits.flag() else _UNSPECIFIED
    return AvcSps(profile_idc, constraint_flags, level_idc, transfer)


def _skip_avc_high(bits: BitReader) -> None:
    chroma_format = bits.ue()
    if chroma_format == 3:
        bits.flag()
    bits.ue()
    bits.ue()
    bits.flag()
    if not bits.flag():  # seq_scaling_matrix_present_flag
        return
    for index in range(8 if chroma_format != 3 else 12):
        if bits.flag():
            _skip_avc_scaling_list(bits, 16 if index < 6 else 64)


def _skip_avc_scaling_list(bits: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _skip_picture_order(bits: BitReader) -> None:
    kind = bits.ue()
    if kind == 0:
        bits.ue()
    elif kind == 1:
        bits.flag()
        bits.se()
        bits.se()
        for _ in range(_bounded(bits.ue(), 255)):
            bits.se()


# ------------------------------------------------------------------------------------------ both


def _vui_transfer(bits: BitReader) -> int:
    """The start of vui_parameters(), which both standards share, to transfer_characteristics."""
    if bits.flag() and bits.u(8) == _EXTENDED_ASPECT:
        bits.u(32)
    if bits.flag():
        bits.flag()
    if not bits.flag():  # video_signal_type_present_flag
        return _UNSPECIFIED
    bits.u(4)
    if not bits.flag():  # colour_description_present_flag
        return _UNSPECIFIED
    bits.u(8)
    return bits.u(8)


def _bounded(value: int, largest: int) -> int:
    if value > largest:
        raise ValueError(f"a parameter set counts {value} where {largest} is the most")
    return value
