"""The files of the page, read once from the package: no request names a path."""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from transnext.version import __version__
from transnext.web.server.models import Model

TYPES = {".js": "text/javascript", ".css": "text/css"}
_OF_FILE = ("provider-ort.js", "start-ort.js")
"""Scripts of the page that holds a model itself."""
_SETUP = '{"provider": "server"}'


def page_files(models: Mapping[str, Model]) -> dict[str, tuple[str, bytes]]:
    """The files of the page by path: content type and content.

    Args:
        models: By name.
    """
    from transnext.web.static_page import _drawings

    folder = resources.files("transnext.web") / "page"
    files: dict[str, tuple[str, bytes]] = {}
    for entry in folder.iterdir():
        kind = TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind is not None and entry.name not in _OF_FILE:
            files[f"/{entry.name}"] = (kind, entry.read_bytes())
    setup = {
        "provider": "server",
        "examples": _drawings(),
        "credits": [f"Made by transnext {__version__}.", "The drawings are Noto Emoji (Google Inc., Apache-2.0)."],
    }
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.count(_SETUP) == 1
    files["/"] = ("text/html", page.replace(_SETUP, _embedded(setup)).encode())
    return files


def _embedded(value: Any) -> str:
    """JSON that may stand in an element of a page."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
