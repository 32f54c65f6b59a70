"""The page of the server in a real browser."""

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.small_transnext import small_model
from tests.web.conftest import Visit
from tests.web.server.conftest import Serving, file_of, picture
from tests.web.server.test_answers import classifier, detector, segmenter
from transnext.choices import DEFAULT_MODEL
from transnext.explain.attention import where_it_looks
from transnext.predict import Predictor
from transnext.web.server.app import create_app
from transnext.web.server.guard import Access
from transnext.web.server.models import Model
from transnext.web.server.store import Store


@pytest.fixture(scope="module")
def address(models: dict[str, Model], serving: Serving) -> Iterator[str]:
    both = {**models, "small": Model(classifier(small_model().eval()), "small")}
    with serving(create_app(both, Access())) as address:
        yield f"{address}/"


@pytest.fixture
def fresh(visit: Callable[..., Visit], address: str) -> Iterator[Visit]:
    found = visit()
    found.go(address)
    found.page.wait_for_selector("#tabs")
    yield found
    assert found.errors == []
    assert all(url.startswith((address, "blob:", "data:", "about:")) for url in found.requests)


def give(page: Any, data: bytes) -> None:
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": data})
    settle(page)


def settle(page: Any) -> None:
    page.wait_for_timeout(100)
    page.wait_for_selector("body:not([data-busy])")
    page.wait_for_timeout(400)


def heat_at(page: Any) -> np.ndarray:
    """What the page draws, before colours."""
    values = page.evaluate(
        """async () => {
            const { heatOf, fieldOf, weightsOf } = await import("./attention.js");
            const { known, seen, block, state } = explorer;
            const [row, col] = explorer.query();
            const attention = known.attention ?? explorer.single;
            const weights = weightsOf(attention, row, col, state.head);
            const field = fieldOf(attention, weights, row, col, "both");
            return [...heatOf(field, attention.grid, block.stride, seen.height, seen.width)];
        }"""
    )
    return np.array(values)


def test_what_is_drawn_is_what_python_draws(fresh: Visit) -> None:
    page, data = fresh.page, file_of(picture(4, (150, 110)), "JPEG")
    page.fill("#size", "224")
    give(page, data)
    page.evaluate("explorer.move([0.3, 0.8], true)")
    settle(page)
    predictor = Predictor(DEFAULT_MODEL, image_size=224)
    answer = predictor(data, look=True)[0]
    assert page.locator("#top li span").first.inner_text() == answer.classes[0]
    x = predictor.loaded.preprocessing.normalise()(torch.tensor(np.asarray(answer.image)).permute(2, 0, 1)[None])
    at = page.evaluate("explorer.state.at")
    position = ((at[0] + 0.5) / 224, (at[1] + 0.5) / 224)
    stage, block = page.evaluate("[explorer.block.stage, explorer.block.block]")
    expected = where_it_looks(predictor.loaded.model, x, position, stage, block)[0]
    np.testing.assert_allclose(heat_at(page).reshape(224, 224), expected.numpy(), atol=1e-5)
    shown = page.evaluate("[...explorer.painter.colours.data]")
    np.testing.assert_array_equal(np.array(shown, np.uint8).reshape(224, 224, 4)[..., :3], np.asarray(answer.image))


def test_moving_the_pointer_asks_nothing_at_224(fresh: Visit) -> None:
    page = fresh.page
    page.fill("#size", "224")
    settle(page)
    fresh.requests.clear()
    box = page.locator("#canvas").bounding_box()
    for i in range(40):
        page.mouse.move(box["x"] + 5 + 6 * i, box["y"] + 10 + 3 * i)
    settle(page)
    assert fresh.requests == []
    times = sorted(page.evaluate("explorer.timings.slice(-20)"))
    print(f"drawn in {times[len(times) // 2]:.1f} ms; a new image {page.evaluate('explorer.provider.timings')} ms")
    assert times[len(times) // 2] < 2 * 1000 / 60


def test_beyond_the_limit_single_queries_are_asked_for(fresh: Visit) -> None:
    page = fresh.page
    page.evaluate("explorer.change({ size: 512 })")
    page.wait_for_timeout(500)
    settle(page)
    page.evaluate("explorer.change({ stage: 0, block: 0 })")
    settle(page)
    page.evaluate("explorer.move([0.9, 0.1], true)")
    settle(page)
    assert page.evaluate("explorer.known.attention") is None
    assert any("/query?" in url for url in fresh.requests)
    query = page.evaluate("explorer.query()")
    assert page.evaluate("[explorer.single.row, explorer.single.col]") == query


def test_modes_and_models_can_be_chosen(fresh: Visit) -> None:
    page = fresh.page
    give(page, file_of(picture(2)))
    page.fill("#size", "224")
    settle(page)
    first = page.locator("#top").inner_text()
    page.select_option("#mode", "linear")
    settle(page)
    assert page.locator("#top").inner_text() != first
    page.select_option("#model", "small")
    settle(page)
    assert page.locator("#top li").count() == 3
    assert "model=small" in page.url


def test_a_file_that_is_no_image_is_said_to_be_none(fresh: Visit) -> None:
    before = fresh.page.locator("#top").inner_text()
    give(fresh.page, b"no image")
    assert "the image cannot be read" in fresh.page.locator("#problem").inner_text()
    assert fresh.page.locator("#top").inner_text() == before
    assert all("422" in said for said in fresh.errors)
    fresh.errors.clear()  # the browser itself notes the status


def test_figures_and_receptive_fields_can_be_kept(fresh: Visit) -> None:
    page = fresh.page
    page.fill("#size", "224")
    settle(page)
    page.click("#tab-figures")
    for kind, begin in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        with page.expect_download() as download:
            page.click(f"#figure-{kind}")
        with open(download.value.path(), "rb") as file:  # noqa: PTH123
            assert file.read().startswith(begin)
        assert download.value.suggested_filename == f"looks.{kind}"
    with page.expect_download() as download:
        page.click("#canvas-png")
    assert Image.open(download.value.path()).size == (672, 672)
    page.click("#tab-field")
    page.wait_for_selector("#field-figure:not([hidden])")
    said = page.locator("#field-said").inner_text()
    assert "224 x 224 pixels, 8 drawings: half of it in" in said
    assert "artefact" in said
    assert page.evaluate("document.getElementById('field-figure').decode().then(() => true)")
    page.click("#tab-figures")
    with page.expect_download() as download:
        page.click("#field-figure-png")
    assert download.value.suggested_filename == "receptive_field.png"


CORNER_IS = """(expected) => {
  const figure = document.getElementById("field-figure");
  if (figure.hidden || !figure.complete || !figure.naturalWidth) return false;
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.drawImage(figure, 0, 0);
  return String([...context.getImageData(0, 0, 1, 1).data.slice(0, 3)]) === String(expected);
}"""
"""Whether the first pixel of the figure of the receptive field has a colour."""


def test_a_receptive_field_follows_the_model_and_its_size(fresh: Visit) -> None:
    page = fresh.page
    page.click("#tab-field")
    said = page.locator("#field-said")
    page.wait_for_selector("#field-said:has-text('64 x 64 pixels, 8 drawings')")
    assert "too small for an artefact at stride 32" in said.inner_text()
    assert page.locator("#field-figure").is_visible()
    page.fill("#size", "128")
    page.wait_for_selector("#field-said:has-text('128 x 128 pixels, 8 drawings')")
    page.select_option("#model", "small")
    page.wait_for_selector("#field-said:has-text('small, trained weights')")
    # It has the page's colours, and others when those change.
    for scheme, colour in (("light", [255, 255, 255]), ("dark", [28, 30, 34])):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(CORNER_IS, arg=colour)
        card = page.evaluate("getComputedStyle(document.getElementById('tabs')).backgroundColor")
        assert card == f"rgb({', '.join(map(str, colour))})"


def test_two_models_are_looked_at_side_by_side(fresh: Visit) -> None:
    page = fresh.page
    page.click("#tab-views")
    frame = page.frame_locator("#second")
    frame.locator("body[data-ready]").wait_for()
    settle(page)
    second = page.frames[1]
    assert second.evaluate("explorer.model.id") == "small"
    assert second.locator("h1").is_hidden()
    assert second.locator("[role=tab]").count() == 0
    beside, first = frame.locator("#canvas").bounding_box(), page.locator("#canvas").bounding_box()
    assert beside["x"] > first["x"] + first["width"]
    assert abs(beside["width"] - first["width"]) < 0.2 * first["width"]
    page.evaluate("explorer.move([0.25, 0.75], true)")
    assert second.evaluate("explorer.state.at") == [16, 48]
    second.evaluate("explorer.move([0.5, 0.125], true)")
    assert page.evaluate("explorer.state.at") == [32, 8]
    give(page, file_of(picture(8)))
    settle(second)
    assert second.evaluate("explorer.state.image") == page.evaluate("explorer.state.image")
    assert second.locator("#top li").count() == 3
    # It does not scroll by itself.
    assert second.evaluate("document.documentElement.scrollHeight <= innerHeight + 1")
    # While it is not shown, it is asked nothing; then it takes what has changed.
    page.click("#tab-answer")
    assert page.locator("#second").is_hidden()
    give(page, file_of(picture(9)))
    page.evaluate("explorer.move([0.1, 0.1], true)")
    assert second.evaluate("explorer.state.image") != page.evaluate("explorer.state.image")
    page.click("#tab-views")
    settle(second)
    assert second.evaluate("explorer.state.image") == page.evaluate("explorer.state.image")
    assert second.evaluate("explorer.state.at") == page.evaluate("explorer.state.at") == [6, 6]


def test_a_link_keeps_the_tab_and_the_second_view(fresh: Visit, visit: Callable[..., Visit]) -> None:
    page = fresh.page
    page.click("#tab-views")
    page.frame_locator("#second").locator("body[data-ready]").wait_for()
    second = page.frames[1]
    settle(second)
    second.fill("#size", "96")
    second.select_option("#block", "1.0")
    settle(second)
    settle(page)
    assert "tab=views" in page.url
    other = visit()
    again = other.go(page.url)
    again.frame_locator("#second").locator("body[data-ready]").wait_for()
    assert again.locator("#tab-views").get_attribute("aria-selected") == "true"
    there = again.frames[1]
    settle(there)
    settle(again)
    for name in ("model", "size", "stage", "block", "at", "image"):
        assert there.evaluate(f"explorer.state.{name}") == second.evaluate(f"explorer.state.{name}"), name
    assert there.evaluate("explorer.state.size") == 96
    assert again.url == page.url
    # Any other tab, too, and none that there is not.
    for name, shown in (("figures", "figures"), ("field", "field"), ("<b>", "answer")):
        other.go(re.sub("tab=views", f"tab={name}", page.url))
        assert again.locator("[role=tab][aria-selected=true]").get_attribute("id") == f"tab-{shown}"
        assert again.locator("[role=tabpanel]:not([hidden])").get_attribute("id") == shown
    assert other.errors == []


def test_tabs_by_the_keyboard(fresh: Visit) -> None:
    page = fresh.page
    tabs = ["answer", "field", "views", "figures"]
    shown = "[role=tab][aria-selected=true]"
    assert page.locator("[role=tab]").count() == len(tabs)
    page.focus("#tab-answer")
    for key, name in (
        ("ArrowRight", "field"), ("ArrowRight", "views"), ("End", "figures"), ("ArrowRight", "answer"),
        ("ArrowLeft", "figures"), ("Home", "answer"),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert page.locator(shown).get_attribute("id") == f"tab-{name}"
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert page.locator("[role=tabpanel]:visible").get_attribute("id") == name
        assert [page.locator(f"#tab-{tab}").get_attribute("tabindex") for tab in tabs] == [
            "0" if tab == name else "-1" for tab in tabs
        ]
        assert page.locator(f"#{name}").get_attribute("aria-labelledby") == f"tab-{name}"
        assert page.locator(f"#tab-{name}").get_attribute("aria-controls") == name
    page.keyboard.press("Tab")  # from the tab into its panel
    assert page.evaluate("document.activeElement.id") == "answer"
    settle(page)
    assert "tab=answer" in page.url


def test_the_slider_of_sizes(fresh: Visit) -> None:
    page = fresh.page
    slider = page.locator("#size")
    assert page.get_by_label("Picture size").get_attribute("type") == "range"
    assert [slider.get_attribute(name) for name in ("min", "max", "step")] == ["32", "1024", "32"]
    assert page.locator("#size-value").inner_text() == "64 pixels"
    slider.focus()
    fresh.requests.clear()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.locator("#size-value").inner_text() == "160 pixels"
    assert slider.get_attribute("aria-valuetext") == "160 pixels"
    settle(page)
    assert page.evaluate("explorer.seen.width") == 160
    assert "size=160" in page.url
    assert len([url for url in fresh.requests if "/api/images?" in url]) == 1  # of three steps in a row


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_axe_finds_nothing_in_any_tab(visit: Callable[..., Visit], address: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = found.go(address)
    page.wait_for_selector("#tabs")
    for tab in ("answer", "field", "views", "figures"):
        page.click(f"#tab-{tab}")
        if tab == "field":
            page.wait_for_selector("#field-figure:not([hidden])")
        if tab == "views":
            page.frame_locator("#second").locator("body[data-ready]").wait_for()
            settle(page.frames[1])
        settle(page)
        result = axe.run(page)
        assert result.violations_count == 0, (tab, result.generate_report())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert found.errors == []


def test_images_that_the_server_forgot_are_shown_again(
    visit: Callable[..., Visit], models: dict[str, Model], serving: Serving
) -> None:
    store: Store[Any] = Store()
    with serving(create_app(models, Access(), store=store)) as address:
        found = visit()
        page = found.go(f"{address}/")
        for key in list(store._kept):
            store.remove(*key)
        page.evaluate("explorer.change({ stage: 0, block: 0 })")
        settle(page)
        assert page.locator("#problem").inner_text() == ""
        assert page.evaluate("explorer.known.block.stage") == 0
        assert len(store) == 1
        # A server that was started anew does not know the session either.
        found.context.clear_cookies()
        page.evaluate("explorer.change({ stage: 1, block: 0 })")
        settle(page)
        assert page.locator("#problem").inner_text() == ""
        assert page.evaluate("explorer.known.block.stage") == 1


@pytest.fixture(scope="module")
def finding(serving: Serving) -> Iterator[str]:
    """A server with a detector that tells outlines, and a segmenter."""
    pytest.importorskip("supervision")
    both = {"boxes": Model(detector(), "boxes"), "areas": Model(segmenter(), "areas")}
    with serving(create_app(both, Access())) as address:
        yield f"{address}/"


def test_an_object_says_where_it_looks(visit: Callable[..., Visit], finding: str) -> None:
    """The mean of what the page draws of each of its queries, which the server and the pixels say."""
    found = visit()
    page = found.go(finding)
    assert page.locator("#tab-answer").inner_text() == "Detection"
    settle(page)
    page.select_option("#block", "1.0")
    settle(page)
    rows = page.locator("#top button")
    assert rows.count() > 1
    rows.nth(1).click()
    settle(page)
    assert rows.nth(1).get_attribute("aria-pressed") == "true"
    assert "object=1" in page.url
    assert re.search(r"mean of the \d+ of \d+ × \d+ queries in it", page.locator("#summary").inner_text())
    drawn, mean, share = page.evaluate(
        """async () => {
            const { fieldOf, regionOf, weightsOf, shareOf } = await import("./attention.js");
            const { known: { attention }, region: { found } } = explorer;
            const [h, w] = found.grid;
            const mean = new Float64Array(h * w);
            let count = 0, share = 0;
            for (let i = 0; i < h * w; i++) {
                if (!found.inside[i]) continue;
                const [row, col] = [Math.floor(i / w), i % w];
                const weights = weightsOf(attention, row, col, null);
                fieldOf(attention, weights, row, col, "both").forEach((x, at) => (mean[at] += x));
                share += shareOf(weights);
                count += 1;
            }
            const drawn = regionOf(found, null, "both");
            return [[...drawn.field], [...mean].map((x) => x / count), [drawn.share, share / count]];
        }"""
    )
    np.testing.assert_allclose(drawn, mean, atol=1e-6)
    assert share[0] == pytest.approx(share[1], abs=1e-5)
    page.evaluate("explorer.move([0, 0])")  # the pointer does not take it away, a click does
    assert page.evaluate("explorer.state.object") == 1
    # The link keeps it; another picture and another size do not.
    again = visit().go(page.url)
    settle(again)
    assert again.locator("#summary").inner_text() == page.locator("#summary").inner_text()
    page.locator("#canvas").click(position={"x": 20, "y": 20})
    assert page.evaluate("explorer.state.object") is None
    assert rows.nth(1).get_attribute("aria-pressed") == "false"
    rows.nth(0).focus()
    page.keyboard.press("Enter")
    settle(page)
    assert page.evaluate("explorer.state.object") == 0
    page.click("#tab-figures")
    with page.expect_download() as download:
        page.click("#figure-svg")
    with open(download.value.path(), encoding="utf-8") as file:  # noqa: PTH123
        assert "queries of" in file.read()
    page.fill("#size", "96")
    settle(page)
    assert page.evaluate("explorer.state.object") is None
    assert found.errors == []


def test_a_class_says_where_it_looks(visit: Callable[..., Visit], finding: str) -> None:
    found = visit(viewport={"width": 360, "height": 740})
    page = found.go(finding + "#model=areas&stage=0&block=0")
    settle(page)
    assert page.locator("#tab-answer").inner_text() == "Segmentation"
    count = page.locator("#top button").count()
    assert count > 0
    colours = page.evaluate("explorer.seen.answer.map.classes.map((row) => row.colour)")
    assert [
        page.locator("#top .swatch").nth(i).evaluate("(it) => it.style.getPropertyValue('--swatch')")
        for i in range(count)
    ] == colours
    page.locator("#top button").first.click()
    settle(page)
    share = page.evaluate("explorer.seen.answer.map.classes[0].share")
    inside = page.evaluate("[...explorer.region.found.inside]")
    height, width = page.evaluate("[explorer.seen.height, explorer.seen.width]")
    shown = height * width / 4**2  # queries that are no padding
    assert shown <= len(inside)
    assert sum(inside) / shown == pytest.approx(share, abs=0.05)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    result = axe.run(page)
    assert result.violations_count == 0, result.generate_report()
    assert found.errors == []


def test_the_picture_is_no_larger_than_what_is_kept(fresh: Visit) -> None:
    """A file of another size and shape: the canvas is what the network saw."""
    give(fresh.page, file_of(Image.new("RGB", (1500, 300), "red")))
    assert fresh.page.evaluate("[explorer.seen.width, explorer.seen.height]") == [64, 64]
    stream = io.BytesIO(fresh.page.locator("#canvas").screenshot())
    assert Image.open(stream).size[0] > 100
