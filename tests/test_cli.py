"""The command line: what a light call loads, options, exit codes, errors in both languages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from codecaux import __version__, doctor, errors
from codecaux.architecture import NETS, SrUnetConfig, parameter_shapes
from codecaux.cli import encode as encode_command
from codecaux.cli import main as main_module
from codecaux.cli import play as play_command
from codecaux.cli.main import COMMANDS, cli, main
from codecaux.cli.options import DEVICES, setting_default
from codecaux.doctor import Check, exit_code
from codecaux.encoder.objective import objective_by_name
from codecaux.encoder.settings import EncodeSettings
from codecaux.ffmpeg import Ffmpeg, run_ffmpeg
from codecaux.hevc import hash_stream
from codecaux.probe import probe
from codecaux.quantise import QuantisedTensor
from codecaux.weightsfile import WeightSet, WeightsFile, WeightsMetadata, pack

NUM_FRAMES = 4
_FULL = Path("/dev/full")
MakeClip = Callable[..., Path]
CONFIG = SrUnetConfig("test", (2, 2, 2, 2), (1, 1, 1, 1, 1, 1, 1), Fraction(2))


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of main()."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def events_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


# ------------------------------------------------------------------------------------------ light


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom codecaux.cli.main import main\nmain(['--help'])\n"
        "heavy = {'torch', 'av', 'numpy', 'rich', 'safetensors', 'ffmpeg'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    assert run_python(code).splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_does_not_load_torch(command: str) -> None:
    code = (
        "import sys\nfrom codecaux.cli.main import main\n"
        f"assert main(['{command}', '--help']) == 0\n"
        "print('TORCH', 'torch' in sys.modules)"
    )
    assert run_python(code).splitlines()[-1] == "TORCH False"


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_the_program_spins_less_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = (
        "import os\nfrom codecaux.cli.main import main\n"
        "main(['--version'])\nprint(os.environ.get('GOMP_SPINCOUNT'))"
    )
    assert run_python(code).splitlines()[-1] == expected


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"codecaux, version {__version__}\n", "")


def test_every_command_is_listed_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name in COMMANDS:
        line = next(line for line in out.splitlines() if line.strip().startswith(name + " "))
        assert len(line.split()) > 3


# ---------------------------------------------------------------------------------------- options


def encode_settings(*arguments: str) -> EncodeSettings:
    """What `codecaux encode ARGUMENTS` would run."""
    command = encode_command.encode
    options = dict(command.make_context("encode", list(arguments)).params)
    del options["json_output"], options["quiet"]
    return encode_command.settings_from_options(options)


def test_defaults_are_those_of_the_settings() -> None:
    expected = EncodeSettings("title.y4m", Path("title.mp4"), Path("title.weights"))
    assert encode_settings("title.y4m") == expected


def test_every_option_of_encode_arrives() -> None:
    line = """
        --crf 24.5 --scale 1.5 --preset fast --x265-params aq-mode=3:no-sao --net full
        --steps 50 --objective fidelity --seed 9 --bank-mib 30
        --score-seconds 90
        --size 64x48 --fps 30000/1001 --pix-fmt yuv420p --deinterlace --to-420
        --resume -y --device cpu --lpips-weights w.safetensors
        -o out.mp4 --weights other.weights in.yuv
    """
    settings = encode_settings(*line.split())
    default = EncodeSettings("in.yuv", Path("out.mp4"), Path("other.weights"))
    assert settings == replace(
        default,
        stream=replace(
            default.stream,
            crf=24.5,
            scale=Fraction(3, 2),
            preset="fast",
            x265_params=(("aq-mode", "3"), ("no-sao", "1")),
        ),
        source=replace(
            default.source,
            raw_size=(64, 48),
            raw_fps=Fraction(30000, 1001),
            raw_pixel_format="yuv420p",
            deinterlace=True,
            to_420=True,
        ),
        net="full",
        fit=replace(default.fit, steps=50, objective="fidelity", seed=9, bank_bytes=30 << 20),
        device="cpu",
        lpips_weights=Path("w.safetensors"),
        score_seconds=90.0,
        resume=True,
        overwrite=True,
    )
    assert encode_settings("--minutes", "2.5", "a.mp4", "-o", "b.mp4").fit.minutes == 2.5


def test_outputs_are_named_after_the_input() -> None:
    settings = encode_settings("some/where/clip.a.mkv")
    assert settings.output == Path("clip.a.mp4")
    assert settings.weights == Path("clip.a.weights")
    assert encode_settings("-", "-o", "x/y.mp4").weights == Path("x/y.weights")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-",), "-o OUT.mp4"),
        (("--size", "64x48", "a.yuv"), "all three"),
        (("--size", "64", "--fps", "25", "--pix-fmt", "gray", "a.yuv"), "1920x1080"),
        (("--size", "6x4", "--fps", "0", "--pix-fmt", "gray", "a.yuv"), "above 0"),
        (("--size", "6x4", "--fps", "x", "--pix-fmt", "gray", "a.yuv"), "30000/1001"),
        (("--scale", "two", "a.mkv"), "2, 1.5 or 1"),
        (("--scale", "1/0", "a.mkv"), "2, 1.5 or 1"),
        (("--steps", "9", "--minutes", "1", "a.mkv"), "not|both"),
        (("--crf", "99", "a.mkv"), "0 to 51"),
        (("--net", "huge", "a.mkv"), "light"),
    ],
)
def test_options_that_make_no_sense(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, "encode", *arguments)
    assert (code, out) == (2, "")
    assert any(part in err for part in message.split("|")), err


def test_names_offered_are_names_known() -> None:
    assert set(encode_command.NETS) == set(NETS)
    for name in encode_command.OBJECTIVES:
        assert objective_by_name(name).name == name
    with pytest.raises(errors.UsageError):
        objective_by_name("none of them")
    assert DEVICES == ("auto", "cpu", "cuda")


def test_help_shows_the_defaults_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "encode", "--help")
    text = " ".join(out.split())
    default = EncodeSettings("a", Path("b"), Path("c"))
    assert f"0 (best) to 51. [default: {default.stream.crf:g}]" in text
    assert f"[default: {default.net}]" in text
    assert f"[default: {default.fit.bank_bytes >> 20}]" in text
    assert setting_default("codecaux.encoder.settings:EncodeSettings.input") is None


def test_options_of_play_arrive() -> None:
    command = play_command.play
    line = "a.mp4 a.weights -o - --format nut --compare --force --fps-policy bypass --player auto"
    options = dict(command.make_context("play", line.split()).params)
    del options["json_output"], options["quiet"]
    settings = play_command.settings_from_options(options)
    assert (settings.stream, settings.weights) == (Path("a.mp4"), Path("a.weights"))
    assert (settings.output, settings.stdout_format) == ("-", "nut")
    assert settings.compare
    assert settings.force
    assert settings.fps_policy == "bypass"
    assert settings.player is None


def test_play_does_not_mix_video_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "play", "--json", "-o", "-", "a.mp4")
    assert code == 2
    assert "both want stdout" in err
    assert events_of(out)[0]["event"] == "error"


# ----------------------------------------------------------------------------------------- errors


def concrete_errors() -> list[type[errors.CodecauxError]]:
    classes = (getattr(errors, name) for name in errors.__all__)
    return [c for c in classes if isinstance(c, type) and issubclass(c, errors.CodecauxError)]


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `codecaux doctor` raise ``error``."""

    @click.command()
    @click.option("--json", is_flag=True)
    def command(json: bool) -> None:
        raise error

    module = main_module.importlib.import_module("codecaux.cli.doctor")  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "doctor", command)


@pytest.mark.parametrize("kind", concrete_errors(), ids=lambda kind: kind.__name__)
def test_each_error_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[errors.CodecauxError],
) -> None:
    raising(monkeypatch, kind("expected this, got that; do so"))
    assert run(capsys, "doctor") == (
        kind.exit_code,
        "",
        "codecaux: error: expected this, got that; do so\n",
    )
    code, out, _ = run(capsys, "doctor", "--json")
    assert events_of(out) == [
        {
            "event": "error",
            "exit_code": code,
            "kind": kind.__name__,
            "message": "expected this, got that; do so",
        }
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    raising(monkeypatch, error)
    code, _, err = run(capsys, "doctor")
    assert code == 130
    assert err.strip() == "codecaux: error: interrupted"


def test_a_bug_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ZeroDivisionError("by zero"))
    code, _, err = run(capsys, "doctor")
    assert code == 1
    assert "Traceback" in err
    assert "internal error: by zero" in err


def test_unknown_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("nothing",), ("doctor", "--wat"), ("inspect",)):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert "--help" in err
        assert "codecaux: error:" in err
    code, out, _ = run(capsys, "inspect", "--json")
    assert code == 2
    assert events_of(out)[0]["kind"] == "UsageError"


def test_sigterm_says_how_to_resume(make_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = make_clip("long.mkv", frames=60, size=(160, 96))
    command = [sys.executable, "-m", "codecaux.cli.main", "encode", "--net", "tiny", str(source)]
    command += ["--steps", "100000", "--objective", "fidelity", "-o", str(tmp_path / "out.mp4")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("fit: started"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    # A shell shows both as 130. Python ends itself by SIGINT after whatever main() returned where
    # the interrupt went through exec() of a string, as it does while a dataclass is imported.
    assert process.returncode in (130, -signal.SIGINT)
    assert "--resume" in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4.codecaux-work"]


def test_a_reader_that_leaves_is_no_error(title: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "codecaux.cli.main", "inspect", "--json", str(title[1])]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.skipif(not _FULL.exists(), reason="needs /dev/full")
def test_full_standard_output_is_said_plainly(title: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "codecaux.cli.main", "inspect", str(title[1])]
    with _FULL.open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert b"the disk is full: standard output" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.returncode == 3


@pytest.mark.parametrize(
    "command",
    [
        "encode BAD",
        "encode a.y4m -o BAD",
        "curve BAD",
        "ladder BAD -o x",
        "play BAD",
        "measure BAD a",
    ],
)
def test_a_name_that_is_not_utf8_is_3_and_leaves_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    # What sys.argv holds for the bytes of caf\xe9.mp4.
    code, out, err = run(capsys, *command.replace("BAD", "caf\udce9.mp4").split(), "--json")
    assert code == 3
    assert "expected a name in UTF-8, got caf\\udce9.mp4; rename the file" in err
    assert [event["kind"] for event in events_of(out)] == ["InputError"]
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------- whole commands


@pytest.fixture(scope="module")
def title(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A stream of 66x40 and weights of no use that belong to it."""
    folder = tmp_path_factory.mktemp("title")
    stream, weights = folder / "title.mp4", folder / "title.weights"
    arguments = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=66x40:rate=25"]
    arguments += ["-frames:v", str(NUM_FRAMES), "-pix_fmt", "yuv420p", "-c:v", "libx265"]
    run_ffmpeg(ffmpeg, [*arguments, "-x265-params", "log-level=none", str(stream)])
    rng = np.random.default_rng(3)
    tensors = {
        name: QuantisedTensor(rng.integers(-2, 3, shape).astype(np.int32), 2.0**-8)
        for name, shape in parameter_shapes(CONFIG).items()
    }
    metadata = WeightsMetadata(
        architecture=CONFIG,
        source_width=130,
        source_height=78,
        num_frames=NUM_FRAMES,
        bit_depth=8,
        colour=probe(stream).format.colour,
        stream=hash_stream(stream),
        scores={"bicubic": {"ssim": 0.5}},
    )
    weights.write_bytes(pack(WeightsFile(metadata, (WeightSet(0, None, tensors),))))
    return stream, weights


def result_of(text: str) -> dict[str, object]:
    events = events_of(text)
    assert events[0]["event"] == "start"
    assert [e["event"] for e in events].count("result") == 1
    assert events[-1]["event"] == "result"
    return events[-1]


def test_inspect(title: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect", title[1])
    assert code == 0
    assert "130x78" in out
    code, out, _ = run(capsys, "inspect", "--json", title[1])
    assert code == 0
    assert result_of(out)["source_width"] == 130


def test_verify(title: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", "--device", "cpu", *title)
    assert code == 0
    assert "belong together" in out
    code, out, _ = run(capsys, "verify", "--json", "--device", "cpu", *title)
    assert code == 0
    assert result_of(out)["num_frames"] == NUM_FRAMES


def test_a_damaged_weights_file_is_5(
    title: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.weights"
    broken.write_bytes(title[1].read_bytes()[:-7])
    for command in (("inspect", broken), ("verify", title[0], broken)):
        code, _, err = run(capsys, *command)
        assert code == 5
        assert err.splitlines()[-1].startswith("codecaux: error:")


def test_play_to_a_file_and_then_not_again(
    title: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shown.mkv"
    code, out, err = run(capsys, "play", "--device", "cpu", "-o", output, title[0])
    assert (code, out) == (0, "")
    assert "x real time" in err
    assert (probe(output).format.width, probe(output).format.height) == (130, 78)
    code, _, err = run(capsys, "play", "--device", "cpu", "-o", output, title[0])
    assert code == 2
    assert "-y" in err
    code, out, _ = run(capsys, "play", "--json", "-y", "--device", "cpu", "-o", output, *title)
    assert code == 0
    assert result_of(out)["enhanced_frames"] == NUM_FRAMES


def test_measure_plain_and_enhanced(
    title: tuple[Path, Path], tmp_path: Path, ffmpeg: Ffmpeg, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source.mkv"
    arguments = ["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=130x78:rate=25"]
    arguments += ["-frames:v", str(NUM_FRAMES), "-pix_fmt", "yuv420p", "-c:v", "ffv1", str(source)]
    run_ffmpeg(ffmpeg, arguments)
    stream, weights = title
    code, out, _ = run(capsys, "measure", "--json", source, source)
    assert code == 0
    assert result_of(out)["scores"]["distorted"]["ssim"] == pytest.approx(1.0)  # type: ignore[index]
    code, out, _ = run(capsys, "measure", "--json", source, stream)
    plain = result_of(out)["scores"]
    code, out, _ = run(capsys, "measure", "--json", source, stream, "--weights", weights)
    both = result_of(out)["scores"]
    assert list(plain) == ["bicubic"]  # type: ignore[call-overload]
    assert set(both) == {"bicubic", "enhanced"}  # type: ignore[call-overload]
    assert both["bicubic"]["psnr_y_db"] == plain["bicubic"]["psnr_y_db"]  # type: ignore[index]
    code, out, _ = run(capsys, "measure", source, stream, "--weights", weights)
    assert code == 0
    assert "difference" in out
    assert "VMAF v1 is missing" in out


def test_measure_temporal_draws_and_counts(
    make_clip: MakeClip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, other = (make_clip(f"steady-{n}.mkv", frames=n) for n in (4, 2))
    name = tmp_path / "steady"
    command = ("measure", source, source, "--temporal", "-o", name, "--column", 5)
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert "its ripple" in out
    for suffix in ("-profiles.png", "-rpf.png"):
        assert Path(f"{name}{suffix}").read_bytes().startswith(b"\x89PNG")
    rows = Path(f"{name}.tsv").read_text().splitlines()
    assert rows[1:] == [f"distorted\t{i}\t0\t0\t0" for i in range(3)]
    code, _, err = run(capsys, *command)
    assert (code, "-y" in err) == (2, True)
    found = result_of(run(capsys, *command, "-y", "--json")[1])["temporal"]
    assert found["column"] == 5  # type: ignore[index]
    assert found["versions"]["distorted"]["tof_frames"] == [0, 1, 2]  # type: ignore[index]
    code, out, _ = run(capsys, "measure", other, other, "--temporal", "-o", tmp_path / "short")
    assert code == 0
    assert out.count("not defined") >= 6
    assert "three frames or more" in out
    assert not list(tmp_path.glob("short*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-o", "name"), "together with --temporal"),
        (("--column", "5"), "together with --temporal"),
        (("--temporal", "--column", "500"), "a column of 0 to 95, got 500"),
        (("--temporal", "-o", "nowhere/name"), "expected the folder nowhere"),
        (("--temporal", "-o", "."), "got '.', which names a folder"),
        (("--temporal", "-o", ""), "NAME-profiles.png, NAME-rpf.png, NAME.tsv are made, got ''"),
    ],
)
def test_measure_temporal_refuses(
    options: tuple[str, ...], words: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "measure", clip, clip, *options)
    assert code == 2
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("play", "nothing.mp4", "-o", "out.mkv"), 3),
        (("inspect", "nothing.weights"), 3),
        (("measure", "nothing.mkv", "nothing.mkv"), 3),
        (("encode", "nothing.mkv", "-o", "out.mp4"), 3),
        (("encode", "nothing.mkv", "-o", "."), 2),
        (("encode", "."), 3),
        (("pretrain", "nothing", "-o", "."), 2),
        (("encode", "--device", "abacus", "-o", "out.mp4", "nothing.mkv"), 2),
    ],
)
def test_what_is_not_there(
    arguments: tuple[str, ...],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    got, _, err = run(capsys, *arguments)
    assert got == code, err
    assert "expected" in err
    assert not any(path.is_file() for path in tmp_path.iterdir())


# ----------------------------------------------------------------------------------------- doctor


def test_doctor_finds_what_this_machine_has(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 0
    checks = {c["name"]: c for c in result_of(out)["checks"]}  # type: ignore[attr-defined]
    for name in ("ffmpeg", "encoder libx265", "filter libvmaf", "torch", "PyAV", "device cpu"):
        assert checks[name]["status"] == "ok"
    models = [c for name, c in checks.items() if name.startswith("VMAF model")]
    assert [c["status"] for c in models] == ["ok"] * 3
    assert {"player mpv", "LPIPS weights alex", "device cuda"} <= set(checks)


def test_doctor_says_what_is_lost_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = doctor._opencv()
    assert check.status == "ok"
    monkeypatch.setitem(sys.modules, "cv2", None)  # its import fails
    (check,) = doctor._opencv()
    assert (check.status, check.exit_code) == ("missing", 0)
    assert "without tOF" in check.advice
    assert "codecaux[temporal]" in check.advice


def test_doctor_without_ffmpeg(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CODECAUX_FFMPEG", "no-such-program")
    code, out, _ = run(capsys, "doctor")
    assert code == 4
    assert "ffmpeg (needed)" in out


def test_the_first_essential_lack_decides() -> None:
    ok = Check("a", "ok", "")
    optional = Check("b", "missing", "", "do", 0)
    tool, device = Check("c", "missing", "", "do", 4), Check("d", "missing", "", "do", 8)
    assert exit_code([ok, optional]) == 0
    assert exit_code([ok, optional, tool, device]) == 4
    assert exit_code([device, tool]) == 8
    assert exit_code([replace(tool, status="ok")]) == 0


def test_a_command_can_be_invoked_without_main() -> None:
    assert CliRunner().invoke(cli, ["inspect", "--help"]).exit_code == 0
