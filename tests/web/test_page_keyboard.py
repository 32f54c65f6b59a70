"""The page of one file without a mouse: keys, screen readers, phones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.web.conftest import Visit
from tests.web.driving import give, settle

pytestmark = pytest.mark.usefixtures("one_thread")


def test_with_the_keyboard_alone(fresh: Visit) -> None:
    page = fresh.page
    reached = []
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name || ''"))
    order = ["file", "canvas", "size", "block", "head", "opacity", "part", "copy", "save"]
    assert [name for name in dict.fromkeys(reached) if name in order] == order
    page.focus("#canvas")
    before = page.evaluate("explorer.query()")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(50)
    assert page.evaluate("explorer.query()") == [before[0] - 1, before[1] - 1]
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    assert page.evaluate("explorer.query()")[0] == 0
    settle(page)
    assert "Row 1, " in page.locator("#summary").inner_text()
    page.keyboard.press("b")
    settle(page)
    assert page.locator("#block").input_value() == "3.0"
    page.keyboard.press("Shift+B")
    settle(page)
    assert page.locator("#block").input_value() == "2.2"
    page.keyboard.press("h")
    assert page.locator("#head").input_value() == "0"
    page.keyboard.press("p")
    assert page.is_checked("input[value=local]")
    page.keyboard.press("Enter")
    assert page.evaluate("document.body.hasAttribute('data-held')")
    page.focus("#examples button:nth-child(2)")
    page.keyboard.press("Enter")
    settle(page)
    assert "image=swan" in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_axe_finds_nothing(visit: Callable[..., Visit], pico_page: Path, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = found.go(pico_page.as_uri())
    settle(page)
    result = axe.run(page)
    assert result.violations_count == 0, result.generate_report()
    give(page, "bad.png", b"no image")
    assert page.locator("#problem").inner_text()
    result = axe.run(page)
    assert result.violations_count == 0, result.generate_report()


def test_a_phone(visit: Callable[..., Visit], pico_page: Path) -> None:
    found = visit(viewport={"width": 360, "height": 740}, device_scale_factor=3, is_mobile=True, has_touch=True)
    page = found.go(pico_page.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("#canvas").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    page.touchscreen.tap(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"])
    settle(page)
    row, col = page.evaluate("explorer.state.at")
    assert row < 10
    assert col > 53
    page.locator("#examples button:nth-child(3)").tap()
    settle(page)
    assert page.locator("#problem").inner_text() == ""
