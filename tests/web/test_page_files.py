"""Files that users give the page of one file."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.web.conftest import Visit
from tests.web.driving import BYTES, array, canvas, give, png, settle
from transnext.inputs import open_image
from transnext.tasks.classification.loading import load_classifier

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("notes.txt", b"just text", "notes.txt is damaged, or no image that this browser can read"),
        ("empty.png", b"", "empty.png is empty"),
        ("cut.png", png(np.zeros((64, 64, 3), np.uint8))[:60], "cut.png is damaged"),
        ("<b>.svg", b"<svg><script>1</script>", "<b>.svg is damaged"),
    ],
)
def test_broken_files_get_one_line(fresh: Visit, name: str, data: bytes, said: str) -> None:
    page = fresh.page
    settle(page)
    before, url = canvas(page), page.url
    give(page, name, data, "image/png")
    problem = page.locator("#problem").inner_text()
    assert said in problem
    assert "\n" not in problem
    assert (canvas(page) == before).all()
    assert page.url == url
    page.click("#examples button:nth-child(2)")
    settle(page)
    assert page.locator("#problem").inner_text() == ""
    assert fresh.errors == []


def test_a_dropped_file(fresh: Visit) -> None:
    page = fresh.page
    data = base64.b64encode(png(np.full((30, 30, 3), 200, np.uint8))).decode()
    page.evaluate(
        f"""(data) => {{
            const files = new DataTransfer();
            files.items.add(new File([{BYTES.format("data")}], "dropped.png", {{ type: "image/png" }}));
            const send = (kind) => document.body.dispatchEvent(
                new DragEvent(kind, {{ dataTransfer: files, bubbles: true, cancelable: true }}));
            send("dragenter");
            globalThis.shown = !document.getElementById("drop").hidden;
            send("drop");
        }}""",
        data,
    )
    settle(page)
    assert page.evaluate("shown")
    assert page.locator("#drop").is_hidden()
    assert "name=dropped.png" in page.url


def test_a_very_large_image(fresh: Visit) -> None:
    """24 megapixels, as cameras give them."""
    stream = io.BytesIO()
    Image.new("RGB", (6000, 4000), (200, 30, 30)).save(stream, "JPEG")
    give(fresh.page, "large.jpg", stream.getvalue(), "image/jpeg")
    fresh.page.wait_for_timeout(500)
    fresh.page.wait_for_selector("body:not([data-busy])")
    settle(fresh.page)
    assert fresh.page.locator("#problem").inner_text() == ""
    assert "name=large.jpg" in fresh.page.url
    colours = fresh.page.evaluate("Array.from(explorer.painter.colours.data.slice(0, 3))")
    assert np.abs(np.array(colours) - (200, 30, 30)).max() <= 3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 5])
def test_photos_are_turned_upright(opened: Visit, orientation: int) -> None:
    pixels = np.zeros((96, 160, 3), np.uint8)
    pixels[:40, :60] = (250, 40, 40)
    pixels[60:, 100:] = (40, 40, 250)
    image, stream = Image.fromarray(pixels), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(stream, "JPEG", exif=exif, quality=95)
    data = base64.b64encode(stream.getvalue()).decode()
    ask = f"explorer.provider.prepared(new Blob([{BYTES.format(repr(data))}]), 64).then((found) => found.shown)"
    shown = array(opened.page, ask).reshape(64, 64, 3)
    preprocessing = load_classifier().preprocessing
    expected = (
        preprocessing.transform()(open_image(stream.getvalue(), preprocessing.min_side())).permute(1, 2, 0).numpy()
    )
    assert np.abs(shown - expected.astype(np.float32)).mean() < 1
    assert np.abs(shown - expected.astype(np.float32)).max() < 16
