"""A browser without a network, and a page for it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HINT = "no browser: apt-get install chromium, or set TRANSNEXT_CHROMIUM to one, and pip install playwright"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Chromium; without one the tests are skipped, or fail where TRANSNEXT_NEEDS_BROWSER is set.

    It ends with each file of tests: Playwright keeps an event loop running, which others would stumble over.
    """
    path = os.environ.get("TRANSNEXT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        if os.environ.get("TRANSNEXT_NEEDS_BROWSER"):
            pytest.fail(HINT)
        pytest.skip(HINT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield browser
        browser.close()


class Visit:
    """A page that is open, and what it asked for and complained of."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.page = context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def go(self, url: str) -> Any:
        """Opens an address, anew even where it differs in the fragment alone, and waits for the page to be ready."""
        self.page.goto("about:blank")
        self.requests.clear()
        self.page.goto(url)
        self.page.wait_for_selector("body[data-ready]", timeout=120_000)
        return self.page


@pytest.fixture(scope="module")
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Opens windows that reach this machine's own addresses and nothing else; options are those of a context."""
    contexts = []

    def _visit(**options: Any) -> Visit:
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
        context.route("**/*", _only_here)
        contexts.append(context)
        return Visit(context)

    yield _visit
    for context in contexts:
        context.close()


def _only_here(route: Any) -> None:
    here = ("file:", "blob:", "data:", "about:", "http://127.0.0.1", "http://localhost")
    if route.request.url.startswith(here):
        route.continue_()
    else:
        route.abort()


@pytest.fixture(scope="session")
def pico_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the bundled model, once for all processes that run tests, since it takes half a minute."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from transnext.cli import main

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "static-page"
    path = folder / "mine.html"
    with FileLock(shared / "static-page.lock"):
        if not path.exists():
            folder.mkdir()
            main(["web", "--export", str(path)])
            assert list(folder.iterdir()) == [path]
    return path


@pytest.fixture(scope="module")
def opened(visit: Callable[..., Visit], pico_page: Path) -> Visit:
    """A visit that tests share which look at numbers and not at what is shown."""
    found = visit()
    found.go(pico_page.as_uri())
    return found


@pytest.fixture
def fresh(visit: Callable[..., Visit], pico_page: Path) -> Visit:
    found = visit()
    found.go(pico_page.as_uri())
    return found
