"""Pre-training: the corpus is checked first, shards and training resume, a base comes out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from codecaux.architecture import net_config, parameter_shapes
from codecaux.bases import (
    BASES_VARIABLE,
    GENERATED_BASE_ID,
    SHIPPED_BASE_IDS,
    Base,
    base_bytes,
    default_base_id,
    get_base,
    known_base_ids,
    parse_base,
    shipped_bytes,
)
from codecaux.cli.main import main
from codecaux.colour import Planes
from codecaux.device import Device, choose_device
from codecaux.encoder.corpus import PHOTO_SIZE, camera_move, find_items, read_rgb
from codecaux.encoder.discriminator import Adversary, Discriminator
from codecaux.encoder.objective import LossTerms
from codecaux.encoder.pretrain import PretrainResult, pretrain
from codecaux.encoder.pretrain_settings import PretrainSettings
from codecaux.encoder.shards import ShardSettings, load_bank, make_shards
from codecaux.errors import (
    FitError,
    InputError,
    UsageError,
    WeightsBaseError,
    WeightsFormatError,
)
from codecaux.events import Event, Notice, Progress, drain
from codecaux.network import sr_unet, with_identity
from codecaux.video import SCALES, Colour, VideoFormat

TINY = net_config("tiny", Fraction(2))


@pytest.fixture(scope="module")
def device() -> Device:
    # float32: runs are compared bit by bit.
    return replace(choose_device("cpu"), compute_dtype=torch.float32)


def _settings(photos: Path, tmp_path: Path, **changes: object) -> PretrainSettings:
    values: dict[str, object] = {
        "folders": (photos,),
        "output": tmp_path / "base.safetensors",
        "work": tmp_path / "work",
        "net": "tiny",
        "preset": "ultrafast",
        "steps": 6,
        "batch": 1,
        "objective": "fidelity",
        "jobs": 1,
    }
    return PretrainSettings(**(values | changes))  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------- corpus


def test_a_corpus_is_what_can_be_used(photos: Path, clip: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "all")
    shutil.copy(clip, tmp_path / "all" / "clip.mp4")
    (tmp_path / "all" / "notes.txt").write_text("no picture")
    (tmp_path / "all" / "broken.png").write_bytes(b"no picture either")
    corpus = find_items([tmp_path / "all"])
    assert [item.path.name for item in corpus.items if item.kind == "photo"] == ["a.png", "b.png"]
    assert "broken.png" in [path.name for path, _ in corpus.skipped]


def test_a_photo_with_a_colon_in_its_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(photos / "a.png", tmp_path / "roll: 1.png")
    monkeypatch.chdir(tmp_path)
    (item,) = find_items([Path()]).items
    assert (item.kind, item.path) == ("photo", Path("roll: 1.png"))
    assert read_rgb(item.path).equal(read_rgb(photos / "a.png"))


def test_useless_folders_are_refused_at_once(tmp_path: Path, device: Device) -> None:
    with pytest.raises(InputError, match="expected a folder"):
        find_items([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="expected videos or photos"):
        find_items([tmp_path])
    small = np.zeros((8, 8), np.uint8).tobytes()
    (tmp_path / "small.png").write_bytes(small)
    with pytest.raises(InputError, match="got none of 1"):
        drain(pretrain(_settings(tmp_path, tmp_path / "out"), device, None))
    assert not (tmp_path / "out").exists()


def test_a_camera_move_keeps_detail_and_moves(photos: Path) -> None:
    rgb = read_rgb(photos / "b.png")
    layout = VideoFormat(PHOTO_SIZE, PHOTO_SIZE)
    moved = 0
    for seed in range(6):
        frames = list(camera_move(rgb, layout, np.random.default_rng(seed)))
        assert all(frame.y.shape == (PHOTO_SIZE, PHOTO_SIZE) for frame in frames)
        assert all(frame.u.shape == (PHOTO_SIZE // 2, PHOTO_SIZE // 2) for frame in frames)
        difference = np.abs(frames[0].y.astype(int) - frames[-1].y.astype(int)).mean()
        moved += difference > 2.0
        assert frames[0].y.std() > 20.0
    # A draw of the travel may be near zero; most are not.
    assert moved >= 4


# ----------------------------------------------------------------------------------------- shards


def test_shards_are_made_once_and_stack(photos: Path, tmp_path: Path) -> None:
    items = find_items([photos]).items
    settings = ShardSettings(Fraction(2), preset="ultrafast", patches=4, moves=2)
    paths = drain(make_shards(items, settings, tmp_path, 1))
    assert len(paths) == 4
    bank = load_bank(paths, 1 << 30)
    assert bank.coded[0].shape == (16, 96, 96)
    assert bank.source[0].shape == (16, 192, 192)
    before = [path.stat().st_mtime_ns for path in paths]
    paths[0].unlink()
    events = list(make_shards(items, settings, tmp_path, 1))
    assert sum(isinstance(event, Progress) for event in events) == 1
    assert [path.stat().st_mtime_ns for path in paths[1:]] == before[1:]
    # Of each shard's four patches half, with room for what a file holds beside them.
    half = load_bank(paths, round(0.51 * sum(path.stat().st_size for path in paths)))
    assert len(half) == 8
    # Coded and source patches are of one place: their means agree but for what x265 took away.
    assert np.abs(bank.coded[0].mean((1, 2)) - bank.source[0].mean((1, 2))).max() < 4.0


def test_raw_videos_of_one_name_and_size_have_shards_of_their_own(
    make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    for number, source in enumerate(("testsrc2", "mandelbrot")):
        raw = {"filters": "", "codec": "rawvideo", "size": (256, 224), "frames": 6}
        made = make_clip(f"shard-{source}.y4m", source=source, **raw)
        (tmp_path / str(number)).mkdir()
        shutil.copy(made, tmp_path / str(number) / "clip.y4m")
    items = find_items([tmp_path / "0", tmp_path / "1"]).items
    settings = ShardSettings(Fraction(2), preset="ultrafast", patches=2)
    assert len(set(drain(make_shards(items, settings, tmp_path / "work", 1)))) == 2


def test_equal_settings_make_equal_shards(photos: Path, tmp_path: Path) -> None:
    items = find_items([photos]).items[:1]
    settings = ShardSettings(Fraction(3, 2), preset="ultrafast", patches=2)
    one, two = (drain(make_shards(items, settings, tmp_path / n, 1))[0] for n in "ab")
    assert one.read_bytes() == two.read_bytes()


# --------------------------------------------------------------------------------------- training


def test_a_base_comes_out_and_is_used(
    photos: Path, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    result: PretrainResult = drain(pretrain(_settings(photos, tmp_path), device, None))
    file = parse_base(result.output.read_bytes())
    assert file.base_id == result.base_id
    assert file.record["settings"]["steps"] == 6
    start = get_base(GENERATED_BASE_ID, TINY)
    assert any(np.any(file.base.tensors[name] != start[name]) for name in start)
    folder = tmp_path / "bases"
    folder.mkdir()
    shutil.copy(result.output, folder / "mine.safetensors")
    (folder / "a-model-of-something-else.safetensors").write_bytes(b"not a base")
    with pytest.raises(WeightsBaseError, match="codecaux 9"):
        get_base(result.base_id, TINY, made_by="codecaux 9")
    # Text out of a file does not speak to the terminal.
    with pytest.raises(WeightsBaseError, match=r"install 'x\\x1b\[31m'"):
        get_base(result.base_id, TINY, made_by="x\x1b[31m")
    monkeypatch.setenv(BASES_VARIABLE, str(folder))
    assert result.base_id in known_base_ids()
    found = get_base(result.base_id, TINY)
    np.testing.assert_array_equal(found["last.bias"], file.base.tensors["last.bias"])
    with pytest.raises(WeightsBaseError, match="the weights"):
        get_base(result.base_id, net_config("tiny", Fraction(3, 2)))
    # The id comes from the bytes, never from the name.
    (folder / "tiny-2x-00000000.safetensors").write_bytes(result.output.read_bytes())
    with pytest.raises(WeightsBaseError, match="tiny-2x-00000000"):
        get_base("tiny-2x-00000000", TINY)


@pytest.mark.parametrize("adversarial", [0.0, 1e-3])
def test_a_stopped_training_ends_as_an_unstopped_one(
    photos: Path,
    tmp_path: Path,
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    adversarial: float,
) -> None:
    monkeypatch.setattr("codecaux.encoder.training_run._CHECK_EVERY", 2)
    monkeypatch.setattr("codecaux.encoder.training_run._CHECKPOINT_SECONDS", 0.0)
    torch.manual_seed(1)
    whole = _settings(photos, tmp_path, adversarial=adversarial)
    expected = drain(pretrain(whole, device, None)).output.read_bytes()
    cut = replace(whole, output=tmp_path / "cut.safetensors")
    for event in pretrain(cut, device, None):
        if isinstance(event, Progress) and event.stage == "train" and event.done == 4:
            break
    assert not cut.output.exists()
    with pytest.raises(UsageError, match="steps"):
        drain(pretrain(replace(cut, steps=8), device, None))
    events = list(pretrain(cut, device, None))
    assert any(isinstance(e, Notice) and "going on from step 4" in e.message for e in events)
    assert cut.output.read_bytes() == expected


def test_a_start_gives_what_has_its_shape(photos: Path, tmp_path: Path, device: Device) -> None:
    trained = drain(pretrain(_settings(photos, tmp_path), device, None)).output
    # Scale 1 folds its input: its first layer has another shape, the others are taken over.
    settings = _settings(
        photos,
        tmp_path,
        output=tmp_path / "one.safetensors",
        scale=Fraction(1),
        start=str(trained),
        learning_rate=0.0,
        steps=1,
    )
    one = parse_base(drain(pretrain(settings, device, None)).output.read_bytes()).base.tensors
    two = parse_base(trained.read_bytes()).base.tensors
    np.testing.assert_array_equal(one["down2.0.weight"], two["down2.0.weight"])
    assert one["down1.0.weight"].shape != two["down1.0.weight"].shape
    with pytest.raises(InputError, match="known ids"):
        drain(pretrain(replace(settings, start="no-such", overwrite=True), device, None))


def test_divergence_is_retried_once_then_an_error(
    photos: Path, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecaux.encoder.training_run._CHECK_EVERY", 2)

    def poisoned(self: LossTerms, shown: Planes, source: Planes) -> torch.Tensor:
        return shown.y.sum() * float("nan")

    monkeypatch.setattr(LossTerms, "__call__", poisoned)
    events: list[Event] = []
    with pytest.raises(FitError, match="diverged twice"):
        events.extend(pretrain(_settings(photos, tmp_path), device, None))


def test_the_command_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "base.safetensors"
    arguments = ["pretrain", str(photos), "-o", str(output), "--net", "tiny", "--steps", "2"]
    arguments += ["--batch", "1", "--objective", "fidelity", "--jobs", "1", "--crf", "20:30"]
    assert main(arguments) == 0
    assert parse_base(output.read_bytes()).base_id in capsys.readouterr().out
    assert main(arguments) == 2  # it exists
    assert main([*arguments, "-y", "--crf", "30:20"]) == 2
    assert main([*arguments, "-y", "--crf", "low"]) == 2


# ------------------------------------------------------------------------------------ adversarial


def test_the_discriminator_is_the_papers() -> None:
    net = Discriminator()
    assert net(torch.rand(2, 3, 96, 96)).shape == (2, 1)
    convolutions = [m for m in net.features if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [32, 32, 64, 64, 128, 128, 256, 256]
    assert [c.stride[0] for c in convolutions] == [1, 2] * 4
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.features) == 7


def test_an_untrained_adversary_is_undecided_and_learns() -> None:
    """L_G of an undecided judge is ln 2; after some steps it tells noise from a flat picture."""
    adversary = Adversary(Colour(), torch.device("cpu"), seed=5)
    flat = Planes(torch.full((4, 1, 32, 32), 0.5), *(torch.zeros(4, 1, 16, 16),) * 2)
    generator = torch.Generator().manual_seed(0)
    noise = flat._replace(y=torch.rand(4, 1, 32, 32, generator=generator))
    assert adversary.generator_loss(flat).item() == pytest.approx(np.log(2.0), abs=0.3)
    first = adversary.learn(shown=flat, source=noise)
    for _ in range(6):
        last = adversary.learn(shown=flat, source=noise)
    assert last < 0.5 * first


# ------------------------------------------------------------------------------------- base files


def test_a_base_file_is_read_strictly() -> None:
    base = Base(TINY, get_base(GENERATED_BASE_ID, TINY))
    data = base_bytes(base, {"note": "a"})
    assert parse_base(data).record == {"note": "a"}
    assert data == base_bytes(base, {"note": "a"})
    renamed = data.replace(b"codecaux_base", b"codecaux_bass")
    for bad in (b"", data[:100], data[:-4], b"x" * 64, renamed):
        with pytest.raises(WeightsFormatError):
            parse_base(bad)
    other = replace(TINY, widths=(12, 24, 24, 16))
    huge = {"last.bias": np.full(12, 1e6, np.float32)}  # infinity in fp16
    with pytest.raises(WeightsFormatError, match="finite"):
        base_bytes(Base(TINY, dict(base.tensors) | huge), {})
    with pytest.raises(KeyError):
        base_bytes(Base(other, {}), {})


@pytest.mark.parametrize("base_id", SHIPPED_BASE_IDS)
def test_shipped_bytes_match_their_id(base_id: str) -> None:
    file = parse_base(shipped_bytes(base_id))
    assert file.base_id == base_id
    tensors = get_base(base_id, file.base.config)
    assert {n: a.shape for n, a in tensors.items()} == parameter_shapes(file.base.config)


def test_every_small_net_has_a_trained_base() -> None:
    for net in ("light", "tiny"):
        for scale in (Fraction(2), Fraction(3, 2), Fraction(1)):
            assert default_base_id(net_config(net, scale)) in SHIPPED_BASE_IDS
    assert default_base_id(net_config("full", Fraction(2))) == GENERATED_BASE_ID


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("net", ["light", "tiny"])
def test_a_default_base_is_alive(net: str, scale: Fraction) -> None:
    """What it adds depends on the picture: units that never fire again would add a constant."""
    config = net_config(net, scale)
    base = get_base(default_base_id(config), config)
    weights = with_identity({n: torch.from_numpy(a) for n, a in base.items()}, config)
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    x = 2.0 * torch.nn.functional.avg_pool2d(x, 3, 1, 1) - 1.0
    residual = sr_unet(x, weights, config)
    assert residual.std(dim=(2, 3)).min().item() > 1e-3


def test_a_start_of_another_fold_sees_the_same_mean(
    photos: Path, tmp_path: Path, device: Device
) -> None:
    """Scale 2's first kernel on the mean of scale 1's four phases; a last layer of its own."""
    start = get_base(default_base_id(TINY), TINY)
    scale_one = net_config("tiny", Fraction(1))
    fresh = get_base(GENERATED_BASE_ID, scale_one)
    settings = _settings(
        photos, tmp_path, scale=Fraction(1), start=default_base_id(TINY), steps=1, learning_rate=0.0
    )
    result = drain(pretrain(settings, device, None))
    tensors = parse_base(result.output.read_bytes()).base.tensors
    phases = tensors["down1.0.weight"].reshape(12, 3, 4, 3, 3)
    assert np.allclose(phases.sum(2), start["down1.0.weight"], atol=1e-3)
    assert np.ptp(phases, axis=2).max() == 0.0
    assert np.allclose(tensors["last.weight"], fresh["last.weight"], atol=1e-3)
    assert np.allclose(tensors["up1.0.weight"], start["up1.0.weight"], atol=1e-2)
