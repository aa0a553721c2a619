"""What a user installs: one package, its type marker, the console command; no tests."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from codecaux import __version__
from codecaux.bases import SHIPPED_BASE_IDS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("codecaux", "encoder", "decoder", "ladders")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources, with the setuptools of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", *SOURCES):
        source = ROOT / name
        if source.is_file():
            (copy / name).write_bytes(source.read_bytes())
            continue
        for path in source.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = copy / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_only_one_top_level_package(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"codecaux", f"codecaux-{__version__}.dist-info"}


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    expected = set()
    for folder in SOURCES:
        prefix = "codecaux" if folder == "codecaux" else f"codecaux/{folder}"
        for path in (ROOT / folder).rglob("*.py"):
            expected.add(f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}")
    python = {name for name in wheel.namelist() if name.endswith(".py")}
    assert python == expected
    assert "codecaux/py.typed" in wheel.namelist()


def test_every_base_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if name.startswith("codecaux/basenets/")}
    assert names == {f"codecaux/basenets/{base_id}.safetensors" for base_id in SHIPPED_BASE_IDS}
    # What is installed with every player stays small.
    assert sum(wheel.getinfo(name).file_size for name in names) < 4 << 20


def test_the_console_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    info = f"codecaux-{__version__}.dist-info"
    assert "codecaux = codecaux.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: MIT" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {text.split(">")[0].split("<")[0].split("=")[0].strip() for text in wanted}
    assert names <= set(pins), names - set(pins)
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", "Makefile"])
def test_no_place_of_one_machine(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for sign in ("file:", "--index-url", "--find-links", "/home/", "@ http"):
        assert sign not in text
