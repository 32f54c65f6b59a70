"""No files of the package import one another in a circle, wherever in them the imports stand."""

import ast
from collections.abc import Iterable
from pathlib import Path

import transnext

PACKAGE = Path(transnext.__file__).parent


def find_circles(files: Iterable[Path], root: Path = PACKAGE) -> list[list[str]]:
    """Groups of files that reach one another by imports, wherever they stand in a file: at its top, in a function.

    An import for annotations alone (`if TYPE_CHECKING`) counts between files of one folder. To import a package is to
    import its `__init__`, to import a name from it is to import the file of that name, if there is one.

    Args:
        files: Python files within `root`.
        root: Folder of the package that they belong to.

    Returns:
        Each circle as sorted names of modules; none if all arrows point one way.
    """
    modules = {_module(file, root): file for file in files}
    arrows = {name: _imports(file, name, modules) for name, file in modules.items()}
    reached = {name: _reachable(name, arrows) for name in arrows}
    circles = {tuple(sorted({a, *(b for b in reached[a] if a in reached[b])})) for a in arrows if a in reached[a]}
    return sorted(map(list, circles))


def _module(file: Path, root: Path) -> str:
    parts = (root.name, *file.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: Path, name: str, modules: dict[str, Path]) -> set[str]:
    found: set[str] = set()

    def visit(node: ast.AST, typing_only: bool) -> None:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            of_names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [inner if inner in modules else str(node.module) for inner in of_names]
        for imported in names:
            if imported in modules and not (typing_only and modules[imported].parent != file.parent):
                found.add(imported)
        for child in ast.iter_child_nodes(node):
            in_body = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and child in node.body
            visit(child, typing_only or in_body)

    visit(ast.parse(file.read_text(encoding="utf-8")), False)
    return found - {name}


def _reachable(name: str, arrows: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = list(arrows[name])
    while waiting:
        other = waiting.pop()
        if other not in reached:
            reached.add(other)
            waiting += arrows[other]
    return reached


def test_no_circle_of_files() -> None:
    assert find_circles(PACKAGE.rglob("*.py")) == []


def test_models_hide_no_import() -> None:
    """Neither for annotations alone nor in functions: there a circle would hide."""
    for file in (PACKAGE / "models").glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        hidden = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert [node for node in hidden if node not in tree.body] == [], file


def _write(root: Path, **contents: str) -> list[Path]:
    files = []
    for name, content in contents.items():
        file = root.joinpath(*name.split("__")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        files.append(file)
    return files


def test_circles_are_found(tmp_path: Path) -> None:
    root = tmp_path / "house"
    files = _write(
        root,
        models__a="from house.models import b\n",
        models__b="def f():\n    import house.models.c\n",
        models__c="from house.models.a import thing\nimport os\n",
        models__d="from house.models.a import thing\n",
        models__e="if TYPE_CHECKING:\n    from house.models.f import F\n",
        models__f="from house.models.e import E\n",
        ops__g="if TYPE_CHECKING:\n    from house.models.h import H\nelse:\n    import house.models.d\n",
        models__h="from house.ops.g import G\n",
    )
    assert find_circles(files, root) == [
        ["house.models.a", "house.models.b", "house.models.c"],
        ["house.models.e", "house.models.f"],
    ]
    files[0].write_text("")
    files[4].write_text("")
    assert find_circles(files, root) == []
