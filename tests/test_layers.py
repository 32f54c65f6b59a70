"""Imports point one way: every part of the package knows only the parts named for it here."""

import ast
import sys
from pathlib import Path

import pytest

import transnext

SOURCE = Path(transnext.__file__).parent

LEVELS: tuple[set[str], ...] = (
    {"version", "choices", "errors", "extras", "limits", "lazily", "atomic"},
    {"config"},
    {"ops"},
    {"models", "data"},
    {"explain", "report", "inputs"},
    {"tasks"},
    {"export"},
    {"loaded"},
    {"engine", "predict"},
    {"studies", "bench", "web"},
    {"cli"},
    {"demo"},
    {"__main__", "__init__"},
)
"""Parts of the package (folders and files right under it): each imports those of levels above it here, and itself."""
ENGINE_KNOWS = "transnext.tasks.task"
"""All that the engine knows of tasks, beside how results become a table."""
LEVEL = {part: number for number, parts in enumerate(LEVELS) for part in parts}

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
    assert {_part(file) for file in FILES} == LEVEL.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_file_imports_only_what_its_part_may(file: Path) -> None:
    part = _part(file)
    for name in _imports(file):
        top, _, inner = name.partition(".")
        other = inner.split(".")[0]
        if top == "transnext" and other and part != "__init__":
            assert other == part or LEVEL[other] < LEVEL[part], f"{part} imports {name}"


def test_the_engine_knows_no_task() -> None:
    for file in (file for file in FILES if _part(file) == "engine"):
        known = {name for name in _imports(file) if name.startswith("transnext.tasks")}
        assert known <= {ENGINE_KNOWS, "transnext.tasks.table"}, file


def test_reports_know_no_task() -> None:
    for file in (file for file in FILES if _part(file) == "report"):
        assert not {name for name in _imports(file) if name.startswith(("transnext.tasks", "transnext.engine"))}, file


def test_ops_know_torch_alone() -> None:
    for file in (file for file in FILES if _part(file) == "ops"):
        known = {"torch", "transnext", *sys.stdlib_module_names}
        if "triton" in file.parts:
            known.add("triton")
        assert {name.split(".")[0] for name in _imports(file)} <= known, file
