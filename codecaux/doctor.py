"""What this machine has of what codecaux needs: a list of checks, each with what to do.

Nothing here prints, downloads or changes anything, and a check that goes wrong is a finding, not
an exception.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from codecaux.errors import CodecauxError, DeviceError, LpipsUnavailableError, ToolError

if TYPE_CHECKING:
    from codecaux.ffmpeg import Ffmpeg

__all__ = ["Check", "examine", "exit_code"]

_TEST_PICTURE = "testsrc2=size=256x192:rate=25:duration=0.2"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``exit_code`` is 0 where codecaux can do its main job without the thing."""

    name: str
    status: Literal["ok", "missing"]
    detail: str
    advice: str = ""
    exit_code: int = 0


def examine() -> Iterator[Check]:
    """Every check, in the order in which a person would read them. Takes some seconds."""
    for check in (_ffmpeg, _torch, _pyav, _opencv, _lpips, _players):
        yield from check()


def exit_code(checks: Sequence[Check]) -> int:
    """0 where everything essential is there, else the code of the first that is missing."""
    failed = [check.exit_code for check in checks if check.status != "ok"]
    return next((code for code in failed if code), 0)


# ----------------------------------------------------------------------------------------- ffmpeg


def _ffmpeg() -> Iterator[Check]:
    from codecaux.ffmpeg import ENVIRONMENT_VARIABLE, find_ffmpeg

    code = ToolError.exit_code
    try:
        # Nothing required: a program that lacks something is found, and its lacks are listed.
        program = _preferred(find_ffmpeg)
    except CodecauxError as error:
        advice = f"install the imageio-ffmpeg package, or set ${ENVIRONMENT_VARIABLE}"
        yield Check("ffmpeg", "missing", _first_line(error), advice, code)
        return
    yield Check("ffmpeg", "ok", f"{program.version} at {program.path}")
    advice = (
        f"unset ${ENVIRONMENT_VARIABLE} to use the program of the imageio-ffmpeg package, or set "
        "it to a build that has this"
    )
    for name in ("libx265", "libx264", "ffv1"):
        essential = code if name == "libx265" else 0
        yield _present(f"encoder {name}", name in program.encoders, advice, essential)
    yield _present("filter libvmaf", "libvmaf" in program.filters, advice, code)
    if "libvmaf" in program.filters:
        for model in _vmaf_models():
            yield _vmaf_model(program, model, advice)


def _preferred(find: Callable[..., Ffmpeg]) -> Ffmpeg:
    """The program that an encode would use; where none has everything, the first one there is."""
    try:
        return find()
    except ToolError:
        return find(require_encoders=(), require_filters=())


def _vmaf_models() -> tuple[str, ...]:
    from codecaux.video import VideoFormat
    from codecaux.vmaf import V0_MODELS, vmaf_v1_model

    return (vmaf_v1_model(VideoFormat(1920, 1080)), *V0_MODELS.values())


def _vmaf_model(program: Ffmpeg, model: str, advice: str) -> Check:
    """Whether a model is built in: the only way to know is to run it."""
    from codecaux.ffmpeg import run_ffmpeg

    picture = ["-f", "lavfi", "-i", _TEST_PICTURE]
    graph = f"libvmaf=model=version={model}"
    try:
        run_ffmpeg(program, [*picture, *picture, "-lavfi", graph, "-f", "null", "-"])
    except CodecauxError:
        return Check(f"VMAF model {model}", "missing", "not built in", advice, ToolError.exit_code)
    return Check(f"VMAF model {model}", "ok", "built in")


def _present(name: str, is_there: bool, advice: str, code: int) -> Check:
    if is_there:
        return Check(name, "ok", "built in")
    return Check(name, "missing", "not built in", advice, code)


# ------------------------------------------------------------------------------------ Python parts


def _torch() -> Iterator[Check]:
    try:
        torch = importlib.import_module("torch")
        device = importlib.import_module("codecaux.device")
    except (ImportError, OSError) as error:
        advice = "install torch again: https://pytorch.org/get-started/locally"
        yield Check("torch", "missing", _first_line(error), advice, DeviceError.exit_code)
        return
    yield Check("torch", "ok", torch.__version__)
    yield Check("device cpu", "ok", device.choose_device("cpu").description)
    if device.cpu_has_fast_bf16():
        yield Check("fast bf16 on the CPU", "ok", "AMX or AVX-512")
    else:
        advice = "nothing to do: fits and playback run in fp32, at about half the speed"
        yield Check("fast bf16 on the CPU", "missing", "no AMX, no AVX-512 bf16", advice)
    try:
        yield Check("device cuda", "ok", device.choose_device("cuda").description)
    except (CodecauxError, RuntimeError) as error:
        advice = "with an NVIDIA GPU: install a CUDA build of torch; else nothing, the CPU works"
        yield Check("device cuda", "missing", _first_line(error), advice)


def _pyav() -> Iterator[Check]:
    try:
        av = importlib.import_module("av")
    except (ImportError, OSError) as error:
        yield Check("PyAV", "missing", _first_line(error), "install av again", 4)
        return
    libraries = av.library_versions
    version = ".".join(map(str, libraries.get("libavcodec", ())))
    yield Check("PyAV", "ok", f"{av.__version__}, libavcodec {version}")


def _opencv() -> Iterator[Check]:
    try:
        opencv = importlib.import_module("cv2")
    except (ImportError, OSError) as error:
        advice = (
            'pip install "codecaux[temporal]"; until then scores come without tOF (motion as in '
            "the source), RPF and everything else as ever"
        )
        yield Check("OpenCV", "missing", _first_line(error), advice)
        return
    yield Check("OpenCV", "ok", str(opencv.__version__))


def _lpips() -> Iterator[Check]:
    try:
        files = importlib.import_module("codecaux.lpips_files")
    except (ImportError, OSError):
        return  # torch is missing, and says so above
    for net, use in (("alex", "scores come"), ("squeeze", "a fit goes")):
        name = f"LPIPS weights {net}"
        try:
            path = files.locate_lpips_weights(net, allow_download=False)
        except CodecauxError as error:
            advice = (
                f"fetched on first use where there is a network, or set "
                f"${files.ENVIRONMENT_VARIABLE}; until then {use} without LPIPS"
            )
            is_absent = isinstance(error, LpipsUnavailableError)
            detail = "not named, not in the cache" if is_absent else _first_line(error)
            yield Check(name, "missing", detail, advice)
        else:
            yield Check(name, "ok", os.fspath(path))


def _players() -> Iterator[Check]:
    found = {name: shutil.which(name) for name in ("mpv", "ffplay")}
    for name, path in found.items():
        if path is not None:
            yield Check(f"player {name}", "ok", path)
        else:
            others = any(found.values())
            advice = "the other player is there" if others else "needed for a window; -o FILE works"
            yield Check(f"player {name}", "missing", "not on PATH", advice)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
