"""Names of a package that are imported when they are first used, and models that are registered when timm comes."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a package.

    Args:
        package: Its name.
        modules: The module of each name; a name that is in none is that of a module of the package.
    """

    def get(name: str) -> Any:
        home = modules.get(name, package)
        if home != package:
            module = importlib.import_module(home)
            if hasattr(module, name):
                return getattr(module, name)
        try:
            return importlib.import_module(f"{home}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{home}.{name}":
                raise
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None

    return get


def import_after(name: str, then: str) -> None:
    """Imports a module as soon as another has been imported, at once if it has been.

    Args:
        name: The one to wait for.
        then: The one to import.
    """
    if name in sys.modules:
        importlib.import_module(then)
    else:
        sys.meta_path.insert(0, _Watcher(name, then))


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds nothing itself, but hears of it when a module is looked for."""

    def __init__(self, name: str, then: str) -> None:
        self.name = name
        self.then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next((s for finder in others if (s := finder.find_spec(fullname, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                importlib.import_module(self.then)

            # To ask where a module is, as is done to see whether it is installed, is not to load it: not before it is.
            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
