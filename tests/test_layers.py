"""Imports point one way: every part of the package knows only the parts named for it here."""

import ast
import sys
from pathlib import Path

import pytest

import transnext

SOURCE = Path(transnext.__file__).parent

MAY_IMPORT = {
    "version": set(),
    "atomic": set(),
    "ops": set(),
    "models": {"ops", "atomic"},
    "data": {"atomic"},
    "explain": {"models", "ops"},
    "tasks": {"models", "data"},
    "report": {"data", "tasks", "explain", "version"},
    "export": {"ops", "models", "data", "tasks", "atomic", "version"},
    "engine": {"models", "data", "tasks", "explain", "report", "export", "atomic"},
    "predict": {"data", "tasks", "explain", "export"},
    "demo": {"data", "engine", "predict"},
    "bench": {"models", "ops", "atomic", "version"},
    "cli": {"ops", "models", "data", "tasks", "engine", "explain", "report", "export", "predict", "bench", "version"},
    "__init__": {"models", "engine", "export", "predict", "version"},
    "__main__": {"cli"},
}
"""Parts of the package (folders and files right under it) that a part may import beside itself."""

FILES = sorted(SOURCE.rglob("*.py"))


def _part(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imports(file: Path) -> set[str]:
    """Modules that a file imports anywhere in it, those of this package as `transnext.<part>...`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            if node.module == "transnext":
                found |= {f"transnext.{alias.name}" for alias in node.names}
            else:
                found.add(str(node.module))
    return found


def test_every_part_has_its_place() -> None:
    assert {_part(file) for file in FILES} == MAY_IMPORT.keys()


def test_every_arrow_is_used() -> None:
    imports = {(_part(file), name) for file in FILES for name in _imports(file) if name.startswith("transnext.")}
    used = {(part, name.split(".")[1]) for part, name in imports}
    assert not {(part, other) for part, others in MAY_IMPORT.items() for other in others} - used


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_file_imports_only_what_its_part_may(file: Path) -> None:
    part = _part(file)
    allowed = MAY_IMPORT[part] | {part}
    for name in _imports(file):
        top, _, inner = name.partition(".")
        if top == "transnext":
            assert inner.split(".")[0] in allowed, f"{part} imports {name}"


def test_ops_know_torch_alone() -> None:
    for file in (file for file in FILES if _part(file) == "ops"):
        known = {"torch", "transnext", *sys.stdlib_module_names}
        if "triton" in file.parts:
            known.add("triton")
        assert {name.split(".")[0] for name in _imports(file)} <= known, file
