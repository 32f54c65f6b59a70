"""Numbers of the page of one file are those of Python."""

import base64
import math
from typing import Any

import numpy as np
import pytest
import torch

import transnext
from tests.helpers.attention_by_definition import weights_by_definition
from tests.web.conftest import Visit
from tests.web.driving import BYTES, array, look_at, png
from transnext.data import load_emoji
from transnext.data.emoji import SPLITS
from transnext.explain import attention_from, where_it_looks
from transnext.inputs import open_image
from transnext.models import TransNeXt
from transnext.tasks.classification.loading import load_classifier

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> TransNeXt:
    return load_classifier().model


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
