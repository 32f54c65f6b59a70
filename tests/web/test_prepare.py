"""The preprocessing in a page's graph against that of Python, in which Pillow resizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from transnext.data.preprocessing import Preprocessing
from transnext.web.prepare import prepare_graph

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

BICUBIC = Preprocessing(
    input_size=(3, 32, 32),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bicubic",
    crop_pct=0.875,
    crop_mode="center",
)
SIZES = [(32, 32), (50, 41), (333, 517), (7, 9), (64, 65), (37, 37), (1, 1)]


def compare(preprocessing: Preprocessing, size: tuple[int, int], levels: int, share: float) -> None:
    """At most so many levels of difference, in at most that share of the values; noise is the worst case."""
    session = onnxruntime.InferenceSession(prepare_graph(preprocessing).SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8)
    given = {"pixels": pixels, "size": np.array(preprocessing.input_size[1:])}
    images, shown = session.run(["images", "shown"], given)
    expected = preprocessing.transform()(Image.fromarray(pixels[..., :3].copy()))
    difference = np.abs(shown.transpose(2, 0, 1).astype(int) - expected.numpy().astype(int))
    assert difference.max() <= levels
    assert (difference > 0).mean() <= share
    # Normalised to the bit.
    bytes_ = torch.from_numpy(shown.transpose(2, 0, 1)[None].copy())
    assert torch.equal(torch.from_numpy(images), preprocessing.normalise()(bytes_))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_bicubic(size: tuple[int, int], crop_pct: float) -> None:
    compare(replace(BICUBIC, crop_pct=crop_pct), size, 1, 0.001)


@pytest.mark.parametrize("size", SIZES)
def test_bilinear(size: tuple[int, int]) -> None:
    """Weights are simple fractions, so many values lie half-way between two bytes."""
    compare(replace(BICUBIC, interpolation="bilinear", crop_pct=0.9), size, 1, 0.05)


@pytest.mark.parametrize("size", [(5, 400), (400, 5)])
def test_elongated_images_are_cut_first(size: tuple[int, int]) -> None:
    compare(BICUBIC, size, 1, 0.001)


@pytest.mark.parametrize("size", [(32, 32), (333, 517), (7, 9)])
def test_images_that_are_not_square(size: tuple[int, int]) -> None:
    compare(replace(BICUBIC, input_size=(3, 32, 57)), size, 1, 0.001)


@pytest.mark.parametrize("size", [(32, 32), (50, 41), (333, 517), (7, 9)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_border(size: tuple[int, int], crop_pct: float) -> None:
    compare(replace(BICUBIC, crop_mode="border", crop_pct=crop_pct), size, 1, 0.001)


@pytest.mark.parametrize("size", [(32, 32), (333, 517), (41, 50)])
def test_squash(size: tuple[int, int]) -> None:
    compare(replace(BICUBIC, crop_mode="squash"), size, 1, 0.001)


def test_squashed_in_height() -> None:
    """Pillow 13 may begin with the rows: intermediate values are then cut to bytes elsewhere."""
    compare(replace(BICUBIC, crop_mode="squash"), (50, 41), 16, 0.35)


def test_the_size_is_that_which_is_asked_for() -> None:
    session = onnxruntime.InferenceSession(prepare_graph(BICUBIC).SerializeToString())
    pixels = np.zeros((90, 70, 4), np.uint8)
    for size in ((224, 224), (64, 64)):
        images, shown = session.run(["images", "shown"], {"pixels": pixels, "size": np.array(size)})
        assert images.shape == (1, 3, *size)
        assert shown.shape == (*size, 3)


@pytest.mark.parametrize("change", [{"interpolation": "lanczos"}, {"interpolation": "nearest"}, {"crop_mode": "fit"}])
def test_what_a_graph_cannot_do_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        prepare_graph(replace(BICUBIC, **change))
