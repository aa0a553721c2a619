"""LPIPS: the authors' golden values, laws of the distance, the search for the weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from codecaux import lpips_files
from codecaux.encoder.encode import encode
from codecaux.encoder.settings import EncodeSettings, FitSettings
from codecaux.encoder.stream import StreamSettings
from codecaux.errors import InputError, LpipsUnavailableError, UsageError
from codecaux.events import StageStarted, drain
from codecaux.lpips import LPIPS_NETS, Lpips, LpipsNet, find_lpips, lpips_state_shapes, min_size
from codecaux.lpips_files import (
    OFFICIAL,
    Checkpoint,
    LpipsSource,
    content_sha256,
    download_lpips,
    locate_lpips_weights,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "lpips"


def weights_folder() -> Path:
    """Where the real weights are; the tests that need them skip without."""
    named = os.environ.get("CODECAUX_LPIPS_WEIGHTS")
    folder = Path(named) if named else SHARED
    folder = folder if folder.is_dir() else folder.parent
    if not all((folder / f"lpips_{net}.safetensors").is_file() for net in LPIPS_NETS):
        pytest.skip("no LPIPS weights: set CODECAUX_LPIPS_WEIGHTS to their folder")
    return folder


@pytest.fixture(params=LPIPS_NETS)
def real(request: pytest.FixtureRequest) -> Lpips:
    return find_lpips(request.param, explicit=weights_folder(), allow_download=False)


def random_tensors(net: LpipsNet, seed: int = 0) -> dict[str, Tensor]:
    """Weights of the right shapes, scaled so that activations neither die nor explode."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in lpips_state_shapes(net).items():
        value = torch.randn(shape, generator=generator)
        fan_in = max(1, int(np.prod(shape[1:])))
        tensors[name] = value.abs() / fan_in if name.startswith("lin") else value / fan_in**0.5
    return tensors


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def example(name: str) -> Tensor:
    path = weights_folder() / f"{name}.png"
    if not path.is_file():
        pytest.skip(f"no {name}.png beside the LPIPS weights")
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


# ------------------------------------------------------------------------------- the real metric


def test_alex_gives_the_authors_values() -> None:
    # 0.722 and 0.138 are what the LPIPS repository prints for its own example pictures.
    alex = find_lpips("alex", explicit=weights_folder(), allow_download=False)
    values = alex.distances(example("ex_ref"), [example("ex_p0"), example("ex_p1")])
    assert [round(v, 3) for v in values] == [0.722, 0.138]


def test_bfloat16_stays_near_float32(real: Lpips) -> None:
    a, b = example("ex_ref"), example("ex_p1")
    noisy = (a + 0.03 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(
        0, 1
    )
    coarse = real.cast(torch.bfloat16)
    for other in (b, noisy):
        # bfloat16 has 8 bits; measured 0.1 to 0.6 % over both nets.
        assert coarse.distance(a, other).item() == pytest.approx(
            real.distance(a, other).item(), rel=0.02
        )
    assert coarse.features(a)[0].dtype == torch.bfloat16
    assert coarse.distance(a, b).dtype == torch.float32


# ------------------------------------------------------------------ laws, with any weights at all


@pytest.fixture(params=LPIPS_NETS, scope="module")
def fake(request: pytest.FixtureRequest) -> Lpips:
    return Lpips(request.param, random_tensors(request.param))


def test_distance_is_zero_for_equal_and_symmetric(fake: Lpips) -> None:
    a, b = picture(48, 64, 1), picture(48, 64, 2)
    assert fake.distance(a, a).item() == 0.0
    assert fake.distance(a, b).item() > 1e-3
    assert fake.distance(a, b).item() == pytest.approx(fake.distance(b, a).item(), rel=1e-6)


def test_a_batch_is_its_pictures_one_by_one(fake: Lpips) -> None:
    a = torch.cat([picture(40, 56, s) for s in (1, 2, 3)])
    b = torch.cat([picture(40, 56, s) for s in (4, 5, 6)])
    single = [fake.distance(a[i : i + 1], b[i : i + 1]).item() for i in range(3)]
    assert fake.distance(a, b).tolist() == pytest.approx(single, rel=1e-4)


@pytest.mark.parametrize("size", [(299, 401), (320, 256), (311, 337)])
def test_tiles_give_the_whole_picture(
    fake: Lpips, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecaux.lpips._TILE", 96)
    a, b = picture(*size, 1), picture(*size, 2)
    near = (0.9 * a + 0.1 * b).clamp(0, 1)
    whole = [fake.distance(a, b).item(), fake.distance(a, near).item()]
    # Sums in another order, nothing else: a wrong margin shows at 1e-3.
    assert fake.distances(a, [b, near]) == pytest.approx(whole, rel=2e-5)


def test_shared_features_equal_separate_distances(fake: Lpips) -> None:
    a, b, c = (picture(48, 48, s) for s in (1, 2, 3))
    reference = fake.features(a)
    assert fake.distance_from_features(reference, fake.features(b)).item() == pytest.approx(
        fake.distance(a, b).item(), rel=1e-6
    )
    assert fake.distances(a, [b, c]) == pytest.approx(
        [*fake.distances(a, [b]), *fake.distances(a, [c])], rel=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_flows_to_the_picture_only(fake: Lpips, dtype: torch.dtype) -> None:
    net = fake.cast(dtype)
    a = picture(48, 64, 1)
    b = picture(48, 64, 2).requires_grad_()
    net.distance_from_features(net.features(b), net.features(a)).sum().backward()
    assert b.grad is not None
    assert bool(b.grad.isfinite().all())
    assert b.grad.abs().sum().item() > 0
    assert all(not p.requires_grad and p.grad is None for p in net.parameters())
    step = b.detach() - 0.05 * b.grad / b.grad.abs().max()
    assert net.distance(a, step).item() < net.distance(a, b.detach()).item()


def test_dead_features_give_a_zero_gradient_not_nan() -> None:
    tensors = random_tensors("squeeze")
    tensors["features.0.weight"].zero_()
    tensors["features.0.bias"].fill_(-1.0)  # every activation of the first level is zero
    net = Lpips("squeeze", tensors)
    b = picture(32, 32, 2).requires_grad_()
    net.distance(picture(32, 32, 1), b).sum().backward()
    assert b.grad is not None
    assert bool((b.grad == 0).all())


def test_smallest_picture(fake: Lpips) -> None:
    smallest = min_size(fake.net)
    a, b = picture(smallest, smallest, 1), picture(smallest, smallest, 2)
    assert np.isfinite(fake.distance(a, b).item())
    with pytest.raises(InputError, match=f"{smallest}x{smallest} or more, got 64x{smallest - 1}"):
        fake.features(picture(smallest - 1, 64))


def test_tensors_that_do_not_fit_are_refused() -> None:
    tensors = random_tensors("squeeze")
    with pytest.raises(InputError, match="LPIPS alex weights"):
        Lpips("alex", tensors)
    del tensors["lin3.model.1.weight"]
    with pytest.raises(InputError, match=r"lin3\.model\.1\.weight of shape"):
        Lpips("squeeze", tensors)


# ------------------------------------------------------------------------ where the weights are


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable, an empty cache. Returns the cache's folder."""
    monkeypatch.delenv("CODECAUX_LPIPS_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "codecaux"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    for net in LPIPS_NETS:
        save_file(random_tensors(net), path / f"lpips_{net}.safetensors")
    return path


def test_order_explicit_environment_cache(
    nowhere: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "lpips_squeeze.safetensors"
    find = partial(locate_lpips_weights, "squeeze", allow_download=False)
    nowhere.mkdir(parents=True)
    (nowhere / name).write_bytes((folder / name).read_bytes())
    assert find() == nowhere / name
    monkeypatch.setenv("CODECAUX_LPIPS_WEIGHTS", str(folder))
    assert find() == folder / name
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes((folder / name).read_bytes())
    assert find(explicit=mine) == mine


def test_an_encode_is_gone_on_with_by_the_same_lpips(
    clip: Path, nowhere: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr(lpips_files, "download_lpips", unreachable)
    settings = EncodeSettings(
        input=str(clip),
        output=tmp_path / "title.mp4",
        weights=tmp_path / "title.weights",
        stream=StreamSettings(crf=30, preset="ultrafast"),
        net="tiny",
        fit=FitSettings(steps=10, batch=1),
        device="cpu",
        lpips_weights=folder,
        lpips_frames=1,
    )
    with closing(encode(settings)) as events:
        next(e for e in events if isinstance(e, StageStarted) and e.stage == "fit")
    resumed = replace(settings, resume=True)
    with pytest.raises(UsageError, match="begun with LPIPS, and now there is none; give --lpips"):
        drain(encode(replace(resumed, lpips_weights=None)))
    other = tmp_path / "other"
    other.mkdir()
    for net in LPIPS_NETS:
        save_file(random_tensors(net, seed=1), other / f"lpips_{net}.safetensors")
    with pytest.raises(UsageError, match="begun with LPIPS weights of SHA-256"):
        drain(encode(replace(resumed, lpips_weights=other)))
    # Elsewhere they are the same ones.
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert drain(encode(replace(resumed, lpips_weights=moved)))


def test_a_file_of_the_other_net_stands_for_its_folder(nowhere: Path, folder: Path) -> None:
    alex = folder / "lpips_alex.safetensors"
    found = locate_lpips_weights("squeeze", explicit=alex, allow_download=False)
    assert found == folder / "lpips_squeeze.safetensors"


def test_nothing_to_be_had_names_the_three_ways(nowhere: Path) -> None:
    with pytest.raises(LpipsUnavailableError) as caught:
        find_lpips("alex", explicit=None, allow_download=False)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    for way in ("--lpips-weights", "CODECAUX_LPIPS_WEIGHTS", OFFICIAL["alex"].trunk.url):
        assert way in message


def test_named_files_that_are_none(nowhere: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        locate_lpips_weights("alex", explicit=tmp_path / "absent")
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"not a safetensors file")
    with pytest.raises(InputError, match="expected a safetensors file"):
        locate_lpips_weights("alex", explicit=junk)
    save_file({"features.0.weight": torch.zeros(2, 3)}, junk)
    with pytest.raises(InputError, match="first layer of shape"):
        locate_lpips_weights("alex", explicit=junk)


# ----------------------------------------------------------------------------------- downloading


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(nowhere: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    root = tmp_path / "www"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", root
        httpd.shutdown()
        thread.join()


def publish(url: str, root: Path, tensors: dict[str, Tensor]) -> LpipsSource:
    """Put two checkpoints on the server, the trunk with a classifier that must be dropped."""
    linear = {k: v for k, v in tensors.items() if k.startswith("lin")}
    trunk = {k: v for k, v in tensors.items() if k.startswith("features")}
    torch.save(linear, root / "linear.pth")
    torch.save(trunk | {"classifier.1.weight": torch.zeros(3, 3)}, root / "trunk.pth")
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.iterdir()}
    return LpipsSource(
        Checkpoint(f"{url}/linear.pth", digests["linear.pth"], 1 << 20),
        Checkpoint(f"{url}/trunk.pth", digests["trunk.pth"][:8], 64 << 20),
        content_sha256(tensors),
    )


def test_download_is_checked_converted_and_kept(server: tuple[str, Path], nowhere: Path) -> None:
    tensors = random_tensors("squeeze")
    source = publish(*server, tensors)
    path = locate_lpips_weights("squeeze", source=source)
    assert path == nowhere / "lpips_squeeze.safetensors"
    assert [p.name for p in nowhere.iterdir()] == [path.name]
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    server[1].joinpath("trunk.pth").unlink()
    assert find_lpips("squeeze").net == "squeeze"  # from the cache now


@pytest.mark.parametrize("damage", ["flip", "missing", "large", "content"])
def test_a_bad_download_leaves_nothing(
    server: tuple[str, Path], nowhere: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = server
    source = publish(url, root, random_tensors("squeeze"))
    trunk = root / "trunk.pth"
    if damage == "flip":
        data = bytearray(trunk.read_bytes())
        data[len(data) // 2] ^= 1
        trunk.write_bytes(data)
    elif damage == "missing":
        trunk.unlink()
    elif damage == "large":
        source = LpipsSource(
            source.linear, Checkpoint(f"{url}/trunk.pth", "", 1000), source.content_sha256
        )
    else:
        source = LpipsSource(source.linear, source.trunk, "0" * 64)
    # A checkpoint whose digest is wrong must never reach the reader.
    if damage == "flip":
        real_load = torch.load
        monkeypatch.setattr(
            torch,
            "load",
            lambda path, **kw: (
                real_load(path, **kw)
                if path.name == "linear.pth"
                else pytest.fail("read unchecked")
            ),
        )
    with pytest.raises(LpipsUnavailableError, match="no download"):
        locate_lpips_weights("squeeze", source=source)
    assert not nowhere.exists() or list(nowhere.iterdir()) == []


def test_offline_fails_promptly(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips_files, "_RESOLVE_TIMEOUT_SECONDS", 0.05)
    released = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: released.wait(5))
    try:
        with pytest.raises(LpipsUnavailableError, match="does not answer"):
            locate_lpips_weights("alex")
    finally:
        released.set()


def test_only_http_is_fetched(nowhere: Path, tmp_path: Path) -> None:
    local = Checkpoint(tmp_path.as_uri(), "", 10)
    with pytest.raises(ValueError, match="http"):
        download_lpips(LpipsSource(local, local, ""), nowhere / "x")
