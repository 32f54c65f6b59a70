"""The page of one file in a real browser, from a disk and without a network."""

import base64
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import transnext
from tests.helpers.attention_by_definition import weights_by_definition
from tests.web.conftest import Visit
from transnext.data import load_emoji
from transnext.data.emoji import SPLITS
from transnext.data.preprocessing import Preprocessing
from transnext.explain import attention_from, where_it_looks
from transnext.inputs import open_image
from transnext.models import TransNeXt
from transnext.models.checkpoint import save_checkpoint
from transnext.tasks.classification.loading import load_classifier
from transnext.web.static_page import export_page

pytestmark = pytest.mark.usefixtures("one_thread")

BYTES = "Uint8Array.from(atob({}), (c) => c.charCodeAt(0))"


@pytest.fixture(scope="module")
def model() -> TransNeXt:
    return load_classifier().model


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


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def give(page: Any, name: str, data: bytes, kind: str = "image/png") -> None:
    """Chooses a file, and waits until the page has dealt with it."""
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})
    settle(page)


def settle(page: Any) -> None:
    """Waits for what goes on, and for the sentence and the address, which follow after a pause."""
    page.wait_for_timeout(50)
    page.wait_for_selector("body:not([data-busy]):not([data-unsaid])")


def array(page: Any, expression: str) -> np.ndarray:
    """A Float32Array of the page."""
    text = page.evaluate(
        f"""async () => {{
            const bytes = new Uint8Array(Float32Array.from(await ({expression})).buffer);
            let text = "";
            for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
            return btoa(text);
        }}"""
    )
    return np.frombuffer(base64.b64decode(text), np.float32)


def look_at(page: Any, images: torch.Tensor) -> None:
    """Gives the network in the page a tensor, `[1, 3, H, W]`; `looked` is what it found."""
    data = base64.b64encode(images.numpy().tobytes()).decode()
    height, width = images.shape[2:]
    page.evaluate(
        f"""async (data) => {{
            const bytes = {BYTES.format("data")};
            globalThis.looked = await explorer.provider.lookAt(new Float32Array(bytes.buffer), {height}, {width});
        }}""",
        data,
    )


def canvas(page: Any) -> np.ndarray:
    """What is drawn, uint8 `[H, W, 3]`."""
    text = page.evaluate("document.getElementById('canvas').toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(text.split(",")[1]))) as picture:
        return np.asarray(picture.convert("RGB"))


# Numbers


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (96, 160)])
def test_logits_and_weights_are_those_of_python(opened: Visit, model: TransNeXt, size: tuple[int, int]) -> None:
    page = opened.page
    images = torch.randn(1, 3, *size)
    expected = weights_by_definition(model, images)
    look_at(page, images)
    logits = array(page, "looked.logits")
    assert np.abs(logits - expected[0].numpy().ravel()).max() < 1e-5
    assert np.ptp(logits) > 1
    at = 1
    for stage, depth in enumerate((1, 1, 3, 1)):
        for block in range(depth):
            ask = f"explorer.provider.attention({{image: looked.id, stage: {stage}, block: {block}}})"
            for part in ("local", "pooled") if stage < 3 else ("pooled",):
                found = array(page, f"{ask}.then((found) => found.{part})")
                assert np.abs(found - expected[at].numpy().ravel()).max() < 1e-5
                at += 1
    assert at == len(expected)


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (96, 160)])
def test_maps_are_those_of_python(opened: Visit, model: TransNeXt, size: tuple[int, int]) -> None:
    page = opened.page
    images = torch.randn(1, 3, *size)
    look_at(page, images)
    for stage, block in ((0, 0), (1, 0), (2, 0), (2, 2)):
        stride = 4 * 2**stage
        for position in ((0.5, 0.5), (0.01, 0.99), (0.3, 0.7), (1.0, 0.0)):
            pixels = [min(max(math.floor(p * n), 0), n - 1) for p, n in zip(position, size, strict=True)]
            place = [
                min(max(math.floor(p / stride + 0.5), 0), n // stride - 1) for p, n in zip(pixels, size, strict=True)
            ]
            ask = f"""explorer.provider.attention({{image: looked.id, stage: {stage}, block: {block}}}).then((all) =>
                explorer.mapOf(all, {place[0]}, {place[1]}, {{head: null, part: "both", stride: {stride},
                    height: {size[0]}, width: {size[1]}}}))"""
            asked = tuple((p + 0.5) / n for p, n in zip(pixels, size, strict=True))
            field = array(page, f"{ask}.then((found) => found.field)")
            expected = attention_from(model, images, asked, stage, block)[0].numpy().ravel()
            assert np.abs(field - expected).max() < 1e-5
            heat = array(page, f"{ask}.then((found) => found.heat)")
            expected = where_it_looks(model, images, asked, stage, block)[0].numpy().ravel()
            assert np.abs(heat - expected).max() < 1e-4  # divided by a maximum that may be small


def test_answers_from_files_are_those_of_python(opened: Visit) -> None:
    """All held-out drawings, as PNG files with transparency: the same bytes for both."""
    emoji = load_emoji()
    files = [png(emoji.images[i]) for i in range(len(emoji)) if SPLITS[emoji.splits[i]] == "val"]
    assert len(files) == 592
    answers = transnext.Predictor()(files)
    found: list[dict[str, Any]] = []
    for first in range(0, len(files), 74):
        part = [base64.b64encode(file).decode() for file in files[first : first + 74]]
        found += opened.page.evaluate(
            f"""async (files) => {{
                const found = [];
                for (const text of files) {{
                    const blob = new Blob([{BYTES.format("text")}]);
                    found.push((await explorer.provider.see(blob, {{}})).answer.top);
                }}
                return found;
            }}""",
            part,
        )
    same = sum(top[0]["name"] == answer.classes[0] for top, answer in zip(found, answers, strict=True))
    assert same >= 0.99 * 592
    distance = [abs(top[0]["score"] - answer.probabilities[0]) for top, answer in zip(found, answers, strict=True)]
    assert np.median(distance) < 1e-3
    print(f"{same} of 592, median difference of the probability {np.median(distance):.1e}, largest {max(distance):.1e}")


@pytest.mark.parametrize("shape", [(64, 64), (333, 517), (517, 333), (1000, 900), (9, 7)])
def test_the_network_sees_what_python_sees(opened: Visit, shape: tuple[int, int]) -> None:
    """A picture of smooth colours and edges, opaque; at most a few levels where large ones are made smaller first."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    pixels = np.stack([255 * y / shape[0], 255 * x / shape[1], 255 * ((x // 5 + y // 7) % 2)], -1).astype(np.uint8)
    file = png(pixels)
    loaded = load_classifier()
    data = base64.b64encode(file).decode()
    ask = f"explorer.provider.prepared(new Blob([{BYTES.format(repr(data))}]), 224).then((found) => found.shown)"
    shown = array(opened.page, ask).reshape(224, 224, 3)
    preprocessing = loaded.preprocessing.resized(224)
    expected = preprocessing.transform()(open_image(file, preprocessing.min_side())).permute(1, 2, 0).numpy()
    assert np.abs(shown - expected.astype(np.float32)).max() <= 1


# Places


@pytest.fixture(scope="module")
def seeking(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, int] | None], Path]:
    """Pages of a network whose queries all look for what is bright, for images of one size or of several."""
    arguments = {
        "img_size": 64,
        "num_classes": 2,
        "embed_dims": (8,),
        "num_heads": (1,),
        "mlp_ratios": (2,),
        "depths": (1,),
        "sr_ratios": (8,),
    }
    torch.manual_seed(0)
    net = timm.create_model("transnext_pico", **arguments)
    with torch.no_grad():
        embed, mixer = net.stages[0].patch_embed, net.stages[0].blocks[0].attn
        # The first channel is the brightness around the centre of the patch, where black is 0 as the padding is.
        away = (torch.arange(7) - 3.0).abs()
        embed.proj.weight.zero_()
        embed.proj.weight[0] = torch.exp(-(away[:, None] ** 2 + away**2) / 8)
        embed.proj.bias.copy_(torch.tensor([0.0, 1, -1, 0, 0, 0, 0, 0]))
        for layer in (mixer.q, mixer.kv, mixer.sr, mixer.cpb_fc2):
            layer.weight.zero_()
            layer.bias.zero_()
        mixer.q.bias[0] = 1
        mixer.kv.weight[:8] = torch.eye(8)
        mixer.sr.weight[:, :, 0, 0] = torch.eye(8)
        mixer.relative_pos_bias_local.zero_()
        mixer.query_embedding.zero_()
        mixer.temperature.fill_(10)
    folder = tmp_path_factory.mktemp("seeking")
    metadata = {"architecture": "transnext_pico", "model_args": arguments, "class_names": ["a", "b"]}
    preprocessing = Preprocessing(
        input_size=(3, 64, 64),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        interpolation="bicubic",
        crop_pct=1.0,
        crop_mode="center",
    )
    save_checkpoint(
        folder / "seeking.safetensors", net.state_dict(), {**metadata, "preprocessing": preprocessing.to_dict()}
    )

    def page(size: tuple[int, int] | None) -> Path:
        path = folder / f"{size}.html"
        if not path.exists():
            export_page(folder / "seeking.safetensors", path, image_size=size)
        return path

    return page


@pytest.mark.parametrize(("size", "fixed"), [((64, 64), False), ((224, 224), False), ((333, 517), True)])
def test_a_bright_dot_is_found_where_it_is(
    visit: Callable[..., Visit], seeking: Callable[..., Path], size: tuple[int, int], fixed: bool
) -> None:
    """Within half a patch, of what is drawn: from the file of a dot to the brightest place of the canvas."""
    found = visit()
    path = seeking(size if fixed else None)
    page = found.go(path.as_uri())
    if not fixed:
        page.fill("#size", str(size[0]))
        settle(page)
    page.select_option("#block", "0.0")
    page.fill("#opacity", "100")
    stride = 4
    rows, cols = ([9, n // 2 + 3, n - 7] for n in size)
    for row, col in zip(rows, cols, strict=True):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[row - 2 : row + 3, col - 2 : col + 3] = 255
        give(page, "dot.png", png(pixels))
        # A neighbour looks: its ring and window are drawn beside the dot.
        page.evaluate(
            f"() => {{ explorer.state.at = [{row}, {col - stride}]; explorer.painter.ring = () => {{}};"
            " explorer.painter.fovea = () => {}; explorer.draw(); }"
        )
        drawn = canvas(page).astype(float)
        scale = drawn.shape[0] // size[0]
        assert drawn.shape == (size[0] * scale, size[1] * scale, 3)
        bright = drawn.sum(-1)
        places = np.argwhere(bright >= bright.max() - 6)
        centre = (places.mean(0) + 0.5) / scale - 0.5
        assert np.abs(centre - (row, col)).max() <= stride / 2, (row, col, centre)
        assert bright.max() - np.median(bright) > 300  # the rest is dark
        # And the periphery alone finds the pooled patch that it is in: of 8 or 9 pixels a side, which may overlap.
        page.check("input[value=pool]")
        page.wait_for_timeout(50)
        bright = canvas(page).astype(float).sum(-1)
        centre = (np.argwhere(bright >= bright.max() - 6).mean(0) + 0.5) / scale - 0.5
        assert np.abs(centre - (row, col)).max() <= 9 * stride, (row, col, centre)
        page.check("input[value=both]")


# The page


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


# Files


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
