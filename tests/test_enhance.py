"""The enhancer: what is shown, by which set, on which device."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch

from codecaux.architecture import net_config, parameter_shapes
from codecaux.bases import GENERATED_BASE_ID, get_base
from codecaux.decoder.enhance import Enhancer
from codecaux.decoder.sets import FloatSet, float_sets
from codecaux.device import Device, choose_device
from codecaux.errors import DeviceError, UsageError
from codecaux.hevc import StreamHash
from codecaux.metadata import WeightsMetadata
from codecaux.quantise import QuantisedTensor
from codecaux.video import Colour, Frame, Geometry, VideoFormat
from codecaux.weightsfile import WeightSet, reconstruct

CONFIG = net_config("tiny", Fraction(2))
FP32 = replace(choose_device("cpu"), compute_dtype=torch.float32)


def _frame(format: VideoFormat, seed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (format.height // 8 + 2, format.width // 8 + 2))
    y = np.kron(coarse, np.ones((8, 8)))[: format.height, : format.width]
    shape = (format.chroma_height, format.chroma_width)
    unit = 1 << (format.bit_depth - 8)
    planes = [y * unit, *(rng.integers(100, 150, shape) * unit for _ in "uv")]
    return Frame(*(p.astype(format.dtype) for p in planes), pts=seed)


def test_networks_are_made_when_they_are_needed_and_few_are_kept() -> None:
    rng = np.random.default_rng(3)
    shapes = parameter_shapes(CONFIG)

    def drawn(first: int, reference: int | None) -> WeightSet:
        tensors = {
            name: QuantisedTensor(rng.integers(-3, 4, shape).astype(np.int32), 2**-5)
            for name, shape in shapes.items()
        }
        return WeightSet(first, first + 1, tensors, reference)

    # A chain, a set that refers to the first one, one to the base alone.
    sets = [drawn(i, i - 1 if i else None) for i in range(9)]
    sets += [drawn(9, 0), drawn(10, None)]
    expected: list[dict[str, npt.NDArray[np.float32]]] = []
    for one in sets:
        base = get_base(GENERATED_BASE_ID, CONFIG)
        start = base if one.reference is None else expected[one.reference]
        expected.append(reconstruct(one.tensors, start, CONFIG))
    found = float_sets(sets, _metadata())
    networks = found[0].weights._networks  # type: ignore[attr-defined]
    assert not networks._kept
    for index in (8, 0, 9, 10, 3, 7):
        for name, value in found[index].weights.items():
            np.testing.assert_array_equal(value.numpy(), expected[index][name])
        assert len(networks._kept) <= 4


def _weights(seed: int, deviation: float = 0.03) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * deviation
        for name, shape in parameter_shapes(CONFIG).items()
    }


def _equal(a: Frame, b: Frame) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


def test_zero_weights_show_the_plain_picture() -> None:
    coded = VideoFormat(48, 32)
    zero = {name: torch.zeros(shape) for name, shape in parameter_shapes(CONFIG).items()}
    enhancer = Enhancer(coded, (96, 64), CONFIG, [FloatSet(0, None, zero)], FP32)
    pair = enhancer.enhance(_frame(coded), 0)
    assert _equal(pair.base, pair.enhanced)
    assert _equal(pair.base, enhancer.base(_frame(coded)))
    assert pair.enhanced.pts == 0


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("size", [(99, 75), (854, 480), (17, 16)])
def test_any_source_size_comes_out_as_it_was(size: tuple[int, int], depth: int) -> None:
    geometry = Geometry(*size, Fraction(2))
    coded = VideoFormat(geometry.coded_width, geometry.coded_height, depth)
    enhancer = Enhancer(coded, size, CONFIG, [FloatSet(0, None, _weights(1))], FP32)
    shown = enhancer.enhance(_frame(coded), 0).enhanced
    assert shown.y.shape == (size[1], size[0])
    assert shown.u.shape == ((size[1] + 1) // 2, (size[0] + 1) // 2)
    assert shown.y.dtype == coded.dtype
    assert enhancer.format == replace(coded, width=size[0], height=size[1])


def test_each_set_serves_its_frames_and_none_means_plain() -> None:
    coded = VideoFormat(32, 32)
    sets = [FloatSet(0, 2, _weights(1)), FloatSet(2, 4, _weights(2))]
    enhancer = Enhancer(coded, (64, 64), CONFIG, sets, FP32)
    alone = [
        Enhancer(coded, (64, 64), CONFIG, [FloatSet(0, None, _weights(i))], FP32) for i in (1, 2)
    ]
    frame = _frame(coded)
    for index, expected in ((0, 0), (1, 0), (2, 1), (3, 1), (1, 0)):
        shown = enhancer.enhance(frame, index).enhanced
        assert _equal(shown, alone[expected].enhance(frame, 0).enhanced), index
    past = enhancer.enhance(frame, 4)
    assert _equal(past.enhanced, past.base)
    assert not _equal(enhancer.enhance(frame, 0).enhanced, past.base)


def test_weights_are_base_plus_step_times_integer() -> None:
    base = get_base(GENERATED_BASE_ID, CONFIG)
    values = np.arange(12 * 12, dtype=np.int32).reshape(12, 12, 1, 1) - 50
    step = float(np.float32(0.013))
    one = WeightSet(0, None, {"last.weight": QuantisedTensor(values, step)})
    (got,) = float_sets([one], _metadata())
    expected = base["last.weight"] + np.float32(step) * values.astype(np.float32)
    np.testing.assert_array_equal(got.weights["last.weight"].numpy(), expected)
    np.testing.assert_array_equal(got.weights["up1.0.weight"].numpy(), base["up1.0.weight"])


def _metadata() -> WeightsMetadata:
    stream = StreamHash("0" * 64, "0" * 64)
    return WeightsMetadata(CONFIG, 64, 64, 1, 8, Colour(), stream, base_id=GENERATED_BASE_ID)


def _largest_difference(a: Frame, b: Frame) -> int:
    return max(
        int(np.abs(x.astype(int) - y.astype(int)).max())
        for x, y in zip(a.planes, b.planes, strict=True)
    )


@pytest.mark.parametrize(
    ("scale", "deviation"), [(Fraction(2), 0.07), (Fraction(3, 2), 0.09), (Fraction(1), 0.05)]
)
def test_bf16_stays_within_the_stated_tolerance(scale: Fraction, deviation: float) -> None:
    """docs/design.md: devices and types differ by at most 2 codes of 8 bits, 0.3 on average,
    for residuals of the size that fits make (here 16 to 51 codes).
    """
    config = net_config("tiny", scale)
    coded = VideoFormat(96, 64)
    size = (int(96 * scale), int(64 * scale))
    generator = torch.Generator().manual_seed(5)
    weights = {
        n: torch.randn(s, generator=generator) * deviation
        for n, s in parameter_shapes(config).items()
    }
    sets = [FloatSet(0, None, weights)]
    frame = _frame(coded)
    exact = Enhancer(coded, size, config, sets, FP32).enhance(frame, 0)
    bf16 = replace(FP32, compute_dtype=torch.bfloat16)
    coarse = Enhancer(coded, size, config, sets, bf16).enhance(frame, 0)
    assert _largest_difference(exact.base, exact.enhanced) > 12
    assert _largest_difference(exact.enhanced, coarse.enhanced) <= 2
    assert np.abs(exact.enhanced.y.astype(int) - coarse.enhanced.y.astype(int)).mean() < 0.3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_shows_what_the_cpu_shows() -> None:
    coded = VideoFormat(96, 64)
    sets = [FloatSet(0, None, _weights(5, 0.05))]
    frame = _frame(coded)
    cpu = Enhancer(coded, (192, 128), CONFIG, sets, FP32).enhance(frame, 0)
    cuda = Enhancer(coded, (192, 128), CONFIG, sets, choose_device("cuda")).enhance(frame, 0)
    assert _largest_difference(cpu.enhanced, cuda.enhanced) <= 2


def test_no_device_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="--device cpu"):
        choose_device("cuda")
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        choose_device("tpu")
    device: Device = choose_device("auto")
    assert device.torch_device.type == "cpu"
    assert device.description.startswith("CPU")
    assert os.linesep not in device.description


def test_multiply_adds_count_the_padding() -> None:
    coded = VideoFormat(44, 30)
    enhancer = Enhancer(coded, (88, 60), CONFIG, (), FP32)
    assert enhancer.macs_per_frame == 48 * 32 * 13_266
    assert not enhancer.has_weights
