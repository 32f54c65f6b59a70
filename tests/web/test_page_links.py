"""Links to a view of the page of one file."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.web.conftest import Visit
from tests.web.driving import canvas, give, png, settle

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_link_gives_the_same_picture(visit: Callable[..., Visit], pico_page: Path) -> None:
    first = visit()
    page = first.go(pico_page.as_uri())
    page.click("#examples button:nth-child(5)")
    settle(page)
    page.fill("#size", "160")
    settle(page)
    page.select_option("#block", "1.0")
    page.select_option("#head", index=2)
    page.check("input[value=pool]")
    page.fill("#opacity", "80")
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.65 * box["height"])
    settle(page)
    other = visit(viewport={"width": 500, "height": 700}, device_scale_factor=2, color_scheme="dark")
    again = other.go(page.url)
    settle(again)
    assert "at=104,48" in page.url
    assert again.url == page.url
    assert (canvas(again) == canvas(page)).all()
    assert again.locator("#summary").inner_text() == page.locator("#summary").inner_text()
    # And not by chance: what the link says, matters.
    for changed in ("head=0", "head=mean", "part=both", "stage=2", "opacity=20", "at=4,4", "size=64", "image=swan"):
        name, _ = changed.split("=")
        assert re.search(rf"\b{name}=", page.url)
        assert changed not in page.url
        other.go(re.sub(rf"\b{name}=[^&]*", changed, page.url))
        settle(again)
        there = canvas(again)
        assert there.shape != canvas(page).shape or (there != canvas(page)).any(), changed


def test_a_link_with_a_file_asks_for_it(visit: Callable[..., Visit], pico_page: Path) -> None:
    first = visit()
    page = first.go(pico_page.as_uri())
    file = png(np.random.default_rng(1).integers(0, 256, (80, 60, 3), np.uint8))
    give(page, "mine.png", file)
    page.focus("#canvas")
    page.keyboard.press("ArrowLeft")
    settle(page)
    other = visit()
    again = other.go(page.url)
    assert "This link was made with mine.png" in again.locator("#problem").inner_text()
    give(again, "renamed.png", file)
    assert again.locator("#problem").inner_text() == ""
    assert (canvas(again) == canvas(page)).all()


@pytest.mark.parametrize(
    "wrong", ["#at=x", "#size=65&stage=99&block=77&head=55", "#part=<b>&image=", "#%", "#opacity=900"]
)
def test_damaged_links_show_the_page(visit: Callable[..., Visit], pico_page: Path, wrong: str) -> None:
    found = visit()
    page = found.go(pico_page.as_uri() + wrong)
    settle(page)
    assert page.locator("#top li").count() == 5
    assert "of the weight stays in the fovea" in page.locator("#summary").inner_text()
    assert found.errors == []
