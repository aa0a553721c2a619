"""Where the weights of LPIPS come from: a file that is named, the cache, the official download.

The official download is torchvision's classifier (alexnet 233 MB, squeezenet 5 MB: the licence of
neither lets us ship a part of it under our own) and the linear layers of the LPIPS repository.
A checkpoint is read only after its SHA-256 matched, by torch's reader that runs no pickled code,
and what is written into the cache must have the exact content that is pinned here.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from codecaux.atomic import write_atomic
from codecaux.errors import InputError, LpipsUnavailableError
from codecaux.folders import cache_dir

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "OFFICIAL",
    "Checkpoint",
    "LpipsSource",
    "content_sha256",
    "download_lpips",
    "locate_lpips_weights",
    "lpips_sha256",
]

ENVIRONMENT_VARIABLE = "CODECAUX_LPIPS_WEIGHTS"

_MAX_FILE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_RESOLVE_TIMEOUT_SECONDS = 5.0
_STALL_TIMEOUT_SECONDS = 15.0
_TOTAL_TIMEOUT_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One .pth to fetch. ``sha256`` may be a prefix (torchvision publishes the first 8 digits)."""

    url: str
    sha256: str
    max_bytes: int


@dataclass(frozen=True, slots=True)
class LpipsSource:
    """The two checkpoints of a net, and the digest (``content_sha256``) of what they make."""

    linear: Checkpoint
    trunk: Checkpoint
    content_sha256: str


_LINEAR = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/"
)
_TRUNK = "https://download.pytorch.org/models/"
OFFICIAL: Mapping[str, LpipsSource] = {
    "alex": LpipsSource(
        Checkpoint(
            _LINEAR + "alex.pth",
            "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
            1 << 16,
        ),
        Checkpoint(_TRUNK + "alexnet-owt-7be5be79.pth", "7be5be79", 256 << 20),
        "815991aa12e4eb67a6be70f80197c853ed56e47ec755caa6c1ee435a16d7e445",
    ),
    "squeeze": LpipsSource(
        Checkpoint(
            _LINEAR + "squeeze.pth",
            "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
            1 << 16,
        ),
        Checkpoint(_TRUNK + "squeezenet1_1-b8a52dc0.pth", "b8a52dc0", 8 << 20),
        "62174e3bcf82248fcaf14ad0d872239a8b7e5ffcc7161285d976b7e442ea1cdc",
    ),
}


def locate_lpips_weights(
    net: str,
    *,
    explicit: Path | None = None,
    allow_download: bool = True,
    source: LpipsSource | None = None,
) -> Path:
    """The safetensors file of ``net`` ("alex" or "squeeze").

    Looked for in this order: ``explicit``, $CODECAUX_LPIPS_WEIGHTS (each a file, or a folder with
    lpips_alex.safetensors and lpips_squeeze.safetensors; a file of the other net stands for its
    folder), the cache, the official download (kept in the cache).

    Raises InputError where a named file is missing or is no LPIPS file, LpipsUnavailableError
    where there is nothing to be had.
    """
    from_environment = os.environ.get(ENVIRONMENT_VARIABLE)
    named = [explicit, Path(from_environment) if from_environment else None]
    for path in named:
        found = _in_named(path, net) if path is not None else None
        if found is not None:
            return found
    cached = cache_dir() / _file_name(net)
    if cached.is_file() and _is_usable(cached, net):
        return cached
    if not allow_download:
        raise LpipsUnavailableError(_how_to_supply(net, "none is in the cache"))
    try:
        download_lpips(source or OFFICIAL[net], cached)
    except (OSError, ValueError, InputError) as error:
        raise LpipsUnavailableError(_how_to_supply(net, f"no download: {error}")) from error
    return cached


def lpips_sha256(net: str, *, explicit: Path | None = None) -> str | None:
    """Of the file that :func:`locate_lpips_weights` finds; None where there is nothing to be had.

    Raises InputError as that does.
    """
    try:
        path = locate_lpips_weights(net, explicit=explicit)
    except LpipsUnavailableError:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _how_to_supply(net: str, reason: str) -> str:
    source = OFFICIAL[net]
    return (
        f"expected LPIPS weights of the net {net!r}, got none ({reason}). Either pass "
        f"--lpips-weights FILE_OR_FOLDER, or set ${ENVIRONMENT_VARIABLE} to {_file_name(net)} or "
        f"its folder, or go online once: {source.trunk.url} and {source.linear.url} are fetched "
        f"and kept in {cache_dir()}"
    )


def _file_name(net: str) -> str:
    return f"lpips_{net}.safetensors"


def _in_named(path: Path, net: str) -> Path | None:
    """The file of ``net`` at a path that the user named; None if only the other net is there."""
    if not path.exists():
        raise InputError(
            f"expected LPIPS weights at {path}, got no such file or folder; correct "
            f"--lpips-weights or ${ENVIRONMENT_VARIABLE}"
        )
    if path.is_file() and _net_of(path) == net:
        return path
    folder = path if path.is_dir() else path.parent
    candidate = folder / _file_name(net)
    return candidate if candidate.is_file() and _net_of(candidate) == net else None


def _is_usable(cached: Path, net: str) -> bool:
    """Whether a file of the cache can be read: if not, it is simply fetched again."""
    try:
        return _net_of(cached) == net
    except InputError:
        return False


def _net_of(path: Path) -> str:
    """Which net a file holds, by the shape of its first layer. Raises InputError if neither."""
    size_bytes = path.stat().st_size
    if size_bytes > _MAX_FILE_BYTES:
        raise InputError(
            f"expected LPIPS weights of at most {_MAX_FILE_BYTES} bytes, got {path} of "
            f"{size_bytes}; use lpips_alex.safetensors or lpips_squeeze.safetensors"
        )
    try:
        with safe_open(path, "pt") as file:
            shape = tuple(file.get_slice("features.0.weight").get_shape())
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"expected a safetensors file of LPIPS weights, got {path}: {error}; use "
            "lpips_alex.safetensors or lpips_squeeze.safetensors"
        ) from error
    nets = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "squeeze"}
    if shape not in nets:
        raise InputError(
            f"expected {path} to hold LPIPS alex or squeeze, got a first layer of shape {shape}; "
            "use lpips_alex.safetensors or lpips_squeeze.safetensors"
        )
    return nets[shape]


# ------------------------------------------------------------------------------------ downloading


def download_lpips(source: LpipsSource, final: Path) -> None:
    """Fetch both checkpoints of a net, check, convert, and put the result at ``final`` whole.

    Raises OSError for anything of the network or the disk, ValueError for content that is not
    what was expected. The small file goes first: no long transfer before the first failure.
    """
    with TemporaryDirectory(prefix="codecaux-lpips-") as folder:
        linear = _load_checked(source.linear, Path(folder) / "linear.pth")
        trunk = _load_checked(source.trunk, Path(folder) / "trunk.pth")
    tensors = {k: v for k, v in trunk.items() if k.startswith("features.")} | linear
    tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    digest = content_sha256(tensors)
    if digest != source.content_sha256:
        raise ValueError(f"converted weights have SHA-256 {digest}, not {source.content_sha256}")
    final.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(final, save(tensors))


def content_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names, shapes and float32 values, whatever the file around them."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _load_checked(checkpoint: Checkpoint, path: Path) -> dict[str, Tensor]:
    digest = _fetch(checkpoint, path)
    if not digest.startswith(checkpoint.sha256):
        raise ValueError(f"{checkpoint.url} has SHA-256 {digest}, not {checkpoint.sha256}")
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    path.unlink()
    return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}


def _fetch(checkpoint: Checkpoint, path: Path) -> str:
    """Download to ``path``; returns the SHA-256. Bounded in time, in silence and in size."""
    parts = urlsplit(checkpoint.url)
    _check_resolvable(parts.scheme, parts.hostname or "")
    digest = hashlib.sha256()
    size_bytes = 0
    deadline = time.monotonic() + _TOTAL_TIMEOUT_SECONDS
    request = urllib.request.Request(checkpoint.url)  # noqa: S310 - http(s) only, checked above
    with (
        urllib.request.urlopen(request, timeout=_STALL_TIMEOUT_SECONDS) as response,  # noqa: S310
        path.open("wb") as file,
    ):
        while chunk := response.read(_CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > checkpoint.max_bytes:
                raise ValueError(f"{checkpoint.url} is larger than {checkpoint.max_bytes} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{checkpoint.url} took over {_TOTAL_TIMEOUT_SECONDS:.0f} s")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _check_resolvable(scheme: str, host: str) -> None:
    """Look the host up with a time limit of our own: a resolver without a network may take a
    minute to give up, and urlopen's timeout does not cover it. A proxy resolves for us."""
    if scheme not in ("http", "https"):
        raise ValueError(f"expected an http(s) address, got scheme {scheme!r}")
    if scheme in urllib.request.getproxies():
        return
    errors: list[OSError | None] = []

    def look_up() -> None:
        try:
            socket.getaddrinfo(host, scheme)
        except OSError as error:
            errors.append(error)
        else:
            errors.append(None)

    # A daemon: where the resolver hangs on, the program does not wait for it.
    thread = threading.Thread(target=look_up, name="resolve", daemon=True)
    thread.start()
    thread.join(_RESOLVE_TIMEOUT_SECONDS)
    problem = errors[0] if errors else TimeoutError("the name server does not answer")
    if problem is not None:
        raise urllib.error.URLError(f"cannot resolve {host}: {problem}")
