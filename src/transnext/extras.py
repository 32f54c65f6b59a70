"""Packages that not every user needs: `pip install "transnext[EXTRA]"` brings them."""

import importlib.util


def require(what: str, *packages: str, extra: str) -> None:
    """Refuses what needs a package that is missing.

    Args:
        what: What needs them, the beginning of a sentence.
        packages: Names by which they are imported.
        extra: The extra of this package that they belong to.

    Raises:
        ValueError: One is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'{what} needs {", ".join(missing)}: pip install "transnext[{extra}]"')
