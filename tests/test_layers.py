"""The shape of the code: who imports whom, what stands where, how long things are."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Folder -> (package, packages of ours that it may import).
LAYERS = {
    "codecaux": ("codecaux", {"codecaux"}),
    "decoder": ("codecaux.decoder", {"codecaux", "codecaux.decoder"}),
    "encoder": ("codecaux.encoder", {"codecaux", "codecaux.decoder", "codecaux.encoder"}),
    "ladders": (
        "codecaux.ladders",
        {"codecaux", "codecaux.decoder", "codecaux.encoder", "codecaux.ladders"},
    ),
}
UPPER = ("codecaux.decoder", "codecaux.encoder", "codecaux.ladders", "codecaux.cli")
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 80
MAX_PARAMETERS = 9


@dataclass(frozen=True)
class Import:
    """``module`` as written; ``is_lazy``: inside a function, or for type checkers only."""

    module: str
    line: int
    is_lazy: bool


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


ALL = [path for folder in LAYERS for path in sources(folder)]
IDS = [str(path.relative_to(ROOT)) for path in ALL]
every_module = pytest.mark.parametrize("path", ALL, ids=IDS)


def imports(node: ast.AST, *, lazy: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inside = True
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: a relative import"
            assert child.module is not None
            yield Import(child.module, child.lineno, lazy)
            if child.module == "codecaux":
                # `from codecaux import encoder` is an import of codecaux.encoder.
                names = (f"codecaux.{alias.name}" for alias in child.names)
                yield from (Import(name, child.lineno, lazy) for name in names)
        else:
            yield from imports(child, lazy=inside)


def layer_of(module: str) -> str | None:
    """The package of ours that a module belongs to; None for one that is not ours."""
    if module != "codecaux" and not module.startswith("codecaux."):
        return None
    return next((p for p in UPPER if module == p or module.startswith(p + ".")), "codecaux")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_cli(path: Path) -> bool:
    return path.relative_to(ROOT).parts[:2] == ("codecaux", "cli")


def test_there_is_something_to_check() -> None:
    assert len(ALL) > 30
    assert {path.relative_to(ROOT).parts[0] for path in ALL} == set(LAYERS)


@every_module
def test_imports_go_downwards(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    allowed = LAYERS[folder][1]
    for found in imports(tree_of(path)):
        layer = layer_of(found.module)
        if layer is None or layer in allowed:
            continue
        where = f"{path.relative_to(ROOT)}:{found.line} imports {found.module}"
        assert is_cli(path), where
        if layer != "codecaux.cli":
            assert found.is_lazy, f"{where} outside a function"


@every_module
def test_the_folders_are_imported_by_their_installed_names(path: Path) -> None:
    for found in imports(tree_of(path)):
        assert found.module.split(".")[0] not in {"encoder", "decoder", "ladders"}, found


@every_module
def test_only_the_cli_prints(path: Path) -> None:
    if is_cli(path):
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "exit", "quit"}, f"{path}:{node.lineno}"


@every_module
def test_modules_and_functions_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < MAX_MODULE_LINES, f"{lines} lines"
    for function in functions(tree_of(path)):
        assert function.end_lineno is not None
        length = function.end_lineno - function.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{function.name}: {length} lines"
        count = len(function.args.args) + len(function.args.kwonlyargs)
        assert count <= MAX_PARAMETERS, f"{function.name}: {count} parameters; a dataclass?"


@every_module
def test_what_is_exported_exists_and_is_documented(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree) or path.name == "__init__.py", "a module without a docstring"
    exported = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ),
        (),
    )
    defined = {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
    }
    for name in exported:
        if name in defined:
            assert ast.get_docstring(defined[name]), f"{name} is exported without a docstring"
    assert len(set(exported)) == len(exported)


def test_every_package_folder_is_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]
    mapped = listed["package-dir"]
    expected = {
        ".".join([LAYERS[folder][0], *path.parent.relative_to(ROOT / folder).parts])
        for folder in LAYERS
        for path in sources(folder)
    }
    assert set(listed["packages"]) == expected
    assert mapped == {package: folder for folder, (package, _) in LAYERS.items()}


@pytest.mark.parametrize("folder", ["encoder", "decoder", "ladders"])
def test_mapped_packages_are_flat(folder: str) -> None:
    assert {path.parent for path in sources(folder)} == {ROOT / folder}


def test_the_checks_themselves_see_what_they_should(tmp_path: Path) -> None:
    code = "import codecaux.encoder.fit\ndef f():\n    from codecaux.decoder import play\n"
    found = list(imports(ast.parse(code)))
    assert [(i.module, i.is_lazy) for i in found] == [
        ("codecaux.encoder.fit", False),
        ("codecaux.decoder", True),
    ]
    assert layer_of("codecaux.encoder.fit") == "codecaux.encoder"
    assert layer_of("codecaux.encoders") == "codecaux"
    assert layer_of("torch") is None
