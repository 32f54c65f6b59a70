"""The page of one file in a real browser, from a disk and without a network: first result and pointer."""

import math
import re

import numpy as np
import pytest

from tests.web.conftest import Visit
from tests.web.driving import canvas, give, png, settle

pytestmark = pytest.mark.usefixtures("one_thread")


def test_nothing_is_asked_of_a_network(fresh: Visit) -> None:
    give(fresh.page, "noise.png", png(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)))
    fresh.page.hover("#canvas")
    fresh.page.select_option("#block", "0.0")
    settle(fresh.page)
    assert len([url for url in fresh.requests if url.startswith("file:")]) == 1
    assert all(url.startswith(("file:", "blob:", "data:")) for url in fresh.requests)
    assert fresh.errors == []


def test_top_five_and_the_share_of_the_fovea(fresh: Visit) -> None:
    page = fresh.page
    rows = page.locator("#top li")
    assert rows.count() == 5
    values = [float(text.removesuffix(" %")) for text in page.locator("#top .value").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    share = page.locator("#share-value").inner_text()
    assert re.fullmatch(r"\d+\.\d %", share)
    page.wait_for_timeout(400)
    assert share in page.locator("#summary").inner_text()
    page.select_option("#block", "3.0")
    settle(page)
    assert "all of the weight goes to the 2 × 2 pixels" in page.locator("#summary").inner_text()
    assert page.locator("input[value=local]").is_disabled()


def test_the_pointer_moves_the_query_in_the_same_frame(fresh: Visit) -> None:
    """And asks the provider nothing; a click holds it, another lets it go."""
    page = fresh.page
    page.evaluate("() => { explorer.provider.attention = () => { throw new Error('asked'); }; }")
    pictures = []
    box = page.locator("#canvas").bounding_box()
    for place in ((0.2, 0.2), (0.8, 0.6)):
        page.mouse.move(box["x"] + place[1] * box["width"], box["y"] + place[0] * box["height"])
        page.wait_for_timeout(50)
        assert page.evaluate("explorer.state.at") == [math.floor(p * 64) for p in place]
        pictures.append(canvas(page))
    assert (pictures[0] != pictures[1]).any()
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.wait_for_timeout(50)
    assert (canvas(page) == pictures[1]).all()
    page.mouse.click(box["x"] + 5, box["y"] + 5)
    page.wait_for_timeout(50)
    assert (canvas(page) != pictures[1]).any()
    frames = page.evaluate(
        """async () => {
            const { left, top } = explorer.painter.canvas.getBoundingClientRect();
            let drawn = null;
            const paint = explorer.painter.paint.bind(explorer.painter);
            explorer.painter.paint = (what) => { drawn = document.timeline.currentTime; paint(what); };
            await new Promise(requestAnimationFrame);
            const there = {clientX: left + 90, clientY: top + 99};
            explorer.painter.canvas.dispatchEvent(new PointerEvent("pointermove", there));
            const next = await new Promise(requestAnimationFrame);
            return [drawn, next];
        }"""
    )
    assert frames[0] == pytest.approx(frames[1])
