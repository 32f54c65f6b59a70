"""The files of the page, read once from the package: no request names a path."""

import base64
from importlib import resources

from transnext.version import __version__
from transnext.web.static_page import DRAWINGS, drawings, embedded

TYPES = {".js": "text/javascript", ".css": "text/css"}
_OF_FILE = ("provider-ort.js", "start-ort.js")
"""Scripts of the page that holds a model itself."""
_SETUP = '{"provider": "server"}'


def page_files() -> dict[str, tuple[str, bytes]]:
    """The files of the page by path: content type and content."""
    folder = resources.files("transnext.web") / "page"
    files: dict[str, tuple[str, bytes]] = {}
    for entry in folder.iterdir():
        kind = TYPES.get(entry.name[entry.name.rfind(".") :])
        if kind is not None and entry.name not in _OF_FILE:
            files[f"/{entry.name}"] = (kind, entry.read_bytes())
    setup = {
        "provider": "server",
        "examples": [{"name": name, "url": f"examples/{i}.png"} for i, name in enumerate(DRAWINGS)],
        "credits": [f"Made by transnext {__version__}.", "The drawings are Noto Emoji (Google Inc., Apache-2.0)."],
    }
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.count(_SETUP) == 1
    files["/"] = ("text/html", page.replace(_SETUP, embedded(setup)).encode())
    return files


def example_files() -> dict[str, tuple[str, bytes]]:
    """The drawings of the page, likewise; it takes a second to unpack them."""
    return {
        f"/examples/{i}.png": (example["type"], base64.b64decode(example["data"]))
        for i, example in enumerate(drawings())
    }
