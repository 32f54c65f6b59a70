"""Ways to look at pictures, from what a checkpoint says to what a call asks for."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.helpers.tiny_mask2former import tiny_net
from transnext.data.images import read_image
from transnext.data.joint import place
from transnext.data.preprocessing import Preprocessing
from transnext.engine.evaluation import evaluate
from transnext.models.backbone import Backbone
from transnext.predict import Segmenter, asked_about
from transnext.tasks.segmentation.looking import Looking, looking_at
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.scales import multi_scale_map
from transnext.tasks.segmentation.sliding import sliding_scores
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.task import Loaded

PICTURE = torch.randint(0, 256, (150, 190, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """A segmenter that was trained to look in windows of 64."""
    torch.manual_seed(0)
    net = build_net("upernet", Backbone("transnext_pico"), 3, size="small").eval()
    preprocessing = Preprocessing.of_model(net.backbone.net).with_places("fit", (96, 128))
    task = Segmentation(metadata={"class_names": ["a", "b", "c"], "window": 64, "window_stride": 40})
    return Loaded(model=net, task=task, preprocessing=preprocessing, name="it")


def confidences(loaded: Loaded, **looking: object) -> torch.Tensor:
    (found,) = Segmenter(loaded, **looking)(PICTURE, confidence=True)
    assert found.size == (150, 190)
    assert found.pixels.sum() == found.labels.size
    return torch.from_numpy(found.confidence).float()


def test_what_is_left_out_is_as_in_training(loaded) -> None:
    trained = Looking(window=64, stride=40)
    assert Looking.trained(loaded.task.metadata) == trained
    assert looking_at(loaded, flip=True).task.looking == Looking(window=64, stride=40, flip=True)
    assert looking_at(loaded, window=0).task.looking == Looking()
    assert looking_at(loaded, window=32).task.looking == Looking(window=32), "the stride was that of another window"
    assert looking_at(loaded, window=64, stride=40).task.looking == trained


def test_windows_of_the_checkpoint_count(loaded) -> None:
    assert torch.equal(confidences(loaded), confidences(loaded, window=64, stride=40))
    assert not torch.equal(confidences(loaded), confidences(loaded, window=0))


def test_large_photos_are_read_as_in_an_evaluation(loaded, tmp_path, monkeypatch) -> None:
    """Shrunk, unless they are looked at in several sizes."""
    photo = tmp_path / "a.jpg"
    Image.fromarray(PICTURE).resize((1531, 1203), Image.Resampling.BICUBIC).save(photo)
    seen: list[torch.Tensor] = []
    inputs = Segmentation.inputs
    monkeypatch.setattr(Segmentation, "inputs", lambda self, x, *rest: seen.append(x) or inputs(self, x, *rest))
    (found,) = Segmenter(loaded)(photo)
    assert found.labels.shape == (1203, 1531)
    shrunk = read_image(photo, loaded.preprocessing.min_side())
    assert shrunk.height < 1203
    placed, _ = place(shrunk, loaded.preprocessing, (1203, 1531))
    assert torch.equal(seen[0][0, :, : placed.shape[1], : placed.shape[2]], placed)
    (found,) = Segmenter(loaded, window=0, flip=True)(photo)
    assert found.labels.shape == seen[1].shape[2:] == (1203, 1531)


def test_one_size_that_is_not_mirrored_is_a_single_look(loaded) -> None:
    torch.testing.assert_close(confidences(loaded, scales=(1.0,)), confidences(loaded))


def test_mirrored_pictures_have_mirrored_answers(loaded) -> None:
    there = Segmenter(loaded, window=0, flip=True)(PICTURE, confidence=True)[0].confidence
    back = Segmenter(loaded, window=0, flip=True)(PICTURE[:, ::-1].copy(), confidence=True)[0].confidence
    # The width is not a multiple of 32: the padding lies on the other side of the mirrored picture.
    assert abs(there.astype(float) - back[:, ::-1].astype(float)).mean() < 0.05


def test_sizes_are_those_of_evaluation_times_the_scales(loaded) -> None:
    seen: list[tuple[int, ...]] = []

    class Spied(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
            seen.extend(tuple(size) for size in sizes.tolist())
            return self.net(images, sizes)

    spied = Loaded(model=Spied(loaded.model), task=loaded.task, preprocessing=loaded.preprocessing, name="it")
    confidences(spied, window=0, scales=(0.5, 1.0, 2.0))
    # 150 x 190 fits 96 x 128 as 96 x 122, and twice that size as 192 x 243.
    assert seen == [(48, 61), (96, 122), (192, 243)]


WAYS = [
    {"window": 0, "scales": (0.5, 1.0, 1.75), "flip": True},
    {"window": 0, "flip": True},
    {"window": 64, "stride": 48, "scales": (1.0, 1.5)},
]


def by_definition(loaded: Loaded, picture: np.ndarray, way: dict) -> np.ndarray:
    """The map that is made of the picture itself."""
    ask = loaded.model
    if way["window"]:
        ask = partial(sliding_scores, loaded.model, window=way["window"], stride=way["stride"])
    options = {"ratios": way.get("scales", (1.0,)), "flip": way.get("flip", False)}
    sums = getattr(loaded.model, "segmenter", "") == "mask2former"
    return multi_scale_map(ask, Image.fromarray(picture), loaded.preprocessing, sums=sums, **options)


@pytest.fixture(scope="module")
def mask2former(loaded) -> Loaded:
    torch.manual_seed(1)
    return replace(loaded, model=tiny_net(3).eval())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["loaded", "mask2former"])
def test_answers_are_made_of_the_picture_in_each_size(kind, way, request) -> None:
    model = request.getfixturevalue(kind)
    pictures = [PICTURE, PICTURE[:81, 5:140].copy(), PICTURE[::-1].copy()]
    segmenter = Segmenter(model, **way)
    for found, picture in zip(segmenter(pictures, batch_size=3), pictures, strict=True):
        np.testing.assert_array_equal(found.labels, by_definition(model, picture, way))
    (sure,) = segmenter(PICTURE, confidence=True)
    np.testing.assert_array_equal(sure.labels, by_definition(model, PICTURE, way))
    assert sure.confidence.max() <= 1
    assert sure.confidence.min() >= 1 / 3 - 1e-3
    assert segmenter.loaded.preprocessing == model.preprocessing


def test_evaluation_is_of_the_same_maps(loaded, tmp_path) -> None:
    """Of JPEGs, which are read at full size, and of PNGs of another size in the same batch."""
    pictures = [PICTURE, PICTURE[:81, 5:140].copy(), np.kron(PICTURE, np.ones((4, 4, 1), np.uint8))]
    for folder in ("images", "labels"):
        (tmp_path / folder / "val").mkdir(parents=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "images" / "val" / f"{i}.{'jpg' if i == 2 else 'png'}")
        labels = np.random.default_rng(i).integers(0, 3, picture.shape[:2], np.uint8)
        Image.fromarray(labels).save(tmp_path / "labels" / "val" / f"{i}.png")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    segmenter = Segmenter(loaded, **WAYS[0])
    for batch_size in (1, 3):
        (found,) = evaluate(segmenter.loaded, str(tmp_path), splits=["val"], batch_size=batch_size, workers=0)
        expected = np.zeros((3, 3), np.int64)
        for i in range(3):
            file = next((tmp_path / "images" / "val").glob(f"{i}.*"))
            true = np.asarray(Image.open(tmp_path / "labels" / "val" / f"{i}.png"))
            said = by_definition(loaded, np.asarray(Image.open(file)), WAYS[0])
            np.add.at(expected, (true, said), 1)
            if batch_size == 1:
                np.testing.assert_array_equal(segmenter(str(file))[0].labels, said)
        np.testing.assert_array_equal(found.confusion, expected)


def test_weights_that_are_not_usable_are_said_of_several_looks(loaded) -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 3, 8, 8), float("nan"))

    with pytest.raises(ValueError, match=r"what the model says of x\.png is not finite"):
        _asked(replace(loaded, model=Broken()), "x.png")


def _asked(loaded: Loaded, name: str) -> None:
    segmenter = Segmenter(loaded, window=0, flip=True)
    sample = segmenter.loaded.task.sample(Image.fromarray(PICTURE), loaded.preprocessing, 0)
    asked = asked_about(segmenter.loaded, [name], [Image.fromarray(PICTURE)], [sample], "cpu")
    segmenter.loaded.task.answers(segmenter.loaded, asked)


@pytest.mark.parametrize(
    ("looking", "message"),
    [
        ({"window": 16}, "window is 16"),
        ({"window": 64, "stride": 65}, "window_stride is 65"),
        ({"scales": ()}, "scales are missing"),
        ({"scales": (0.0,)}, "scales is 0"),
        ({"bias_size": 64}, "bias_size is 64"),
    ],
)
def test_what_cannot_be_is_refused_by_name(loaded, looking, message) -> None:
    with pytest.raises(ValueError, match=message):
        Segmenter(loaded, **looking)


def test_the_bias_follows_another_mode_with_the_same_weights(loaded) -> None:
    other = looking_at(loaded, bias_mode="interpolate", bias_size=64)
    assert loaded.model.backbone.net.bias_mode == "extrapolate"
    assert other.model.backbone.net.bias_mode == "interpolate"
    assert other.model.backbone.net.img_size == (64, 64)
    assert next(other.model.parameters()) is next(loaded.model.parameters())
