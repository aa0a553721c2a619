"""The device that the network runs on: chosen once, printed always, never silently changed."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from codecaux.errors import DeviceError, UsageError

__all__ = ["Device", "choose_device", "cpu_has_fast_bf16"]


@dataclass(frozen=True, slots=True)
class Device:
    """Where tensors live and in what type convolutions compute (accumulating in float32)."""

    torch_device: torch.device
    compute_dtype: torch.dtype
    description: str

    @property
    def is_cuda(self) -> bool:
        """Is it a CUDA device?"""
        return self.torch_device.type == "cuda"


def choose_device(name: str = "auto") -> Device:
    """``auto`` takes CUDA where it works, else the CPU. UsageError, DeviceError otherwise."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"expected a device of auto, cpu, cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "expected a CUDA device, got none that this build of torch "
            f"({torch.__version__}) can use; run with --device cpu, or install a CUDA build"
        )
    if name != "cpu" and torch.cuda.is_available():
        return _cuda()
    return _cpu()


def _cuda() -> Device:
    index = torch.cuda.current_device()
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if bf16 else torch.float32
    text = f"CUDA {torch.cuda.get_device_name(index)}, {_short(dtype)}"
    return Device(torch.device("cuda", index), dtype, text)


def _cpu() -> Device:
    dtype = torch.bfloat16 if cpu_has_fast_bf16() else torch.float32
    amx = ", AMX" if dtype == torch.bfloat16 and _has_amx() else ""
    text = f"CPU {_cpu_name()}, {torch.get_num_threads()} threads, {_short(dtype)}{amx}"
    return Device(torch.device("cpu"), dtype, text)


def cpu_has_fast_bf16() -> bool:
    """True where bf16 convolutions run on AMX or AVX-512-BF16 instructions."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return _has_amx() or _probe("_is_avx512_bf16_supported")


def _has_amx() -> bool:
    return _probe("_is_amx_tile_supported")


def _probe(name: str) -> bool:
    # Not public API in every torch of our range: where it is missing, the answer is no.
    function = getattr(torch.cpu, name, None)
    return bool(function()) if function is not None else False


def _short(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
