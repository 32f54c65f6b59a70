"""Batches of evaluation and prediction hold images of one canvas, so that no image is judged by its neighbours."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.painted import Paintings, painted
from transnext.data import collate
from transnext.data.preprocessing import Preprocessing
from transnext.engine.eval_loop import evaluate
from transnext.engine.loader import eval_loader
from transnext.models.backbone import Backbone
from transnext.predict import Detector
from transnext.tasks.detection.nets import build_net
from transnext.tasks.detection.task import Detection
from transnext.tasks.task import Loaded

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = [(60, 90), (120, 80), (61, 88), (90, 60), (50, 160), (119, 82), (64, 64)]


def loaded(mode="shortest") -> Loaded:
    torch.manual_seed(0)
    net = build_net("mask_rcnn", Backbone("transnext_pico"), 2, size="small", masks=False).eval()
    preprocessing = Preprocessing.of_model(net.backbone.net).with_places(mode, (64, 128))
    task = Detection(metadata={"class_names": ["a", "b"], "category_ids": [1, 2], "with_masks": False})
    return Loaded(model=net, task=task, preprocessing=preprocessing, name="random")


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in SIZES]


def test_a_prediction_does_not_depend_on_the_other_images() -> None:
    detector = Detector(loaded())
    together = detector(pictures(), threshold=0.1, batch_size=len(SIZES))
    assert [found.size for found in together] == SIZES
    assert all(len(found) for found in together)
    for picture, found in zip(pictures(), together, strict=True):
        alone = detector(picture, threshold=0.1)[0]
        np.testing.assert_allclose(found.xyxy, alone.xyxy, atol=1e-3)
        np.testing.assert_allclose(found.confidence, alone.confidence, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_an_evaluation_does_not_depend_on_the_size_of_a_batch(batch_size) -> None:
    model = loaded()
    images = model.task.images(Paintings([painted(size, [(3, 3, 40, 30)]) for size in SIZES]), model.preprocessing)
    loader = eval_loader(images, batch_size, 0, collate=partial(collate, targets=model.task.collate))
    batches = list(loader)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(len(SIZES)))
    result = evaluate(model.task, model.model, batches, model.preprocessing)
    for judged in result.images:
        alone = evaluate(model.task, model.model, [collate([images[judged.index]], list)], model.preprocessing)
        np.testing.assert_allclose(judged.found.boxes, alone.images[0].found.boxes, atol=1e-3)


def test_images_of_a_common_canvas_stay_in_order() -> None:
    model = loaded("fit")
    images = model.task.images(Paintings([painted(size, [(3, 3, 40, 30)]) for size in SIZES]), model.preprocessing)
    assert eval_loader(images, 3, 0, rank=1, world_size=2).batches == [[1, 3, 5]]
    assert eval_loader(images, 4, 0).batches == [[0, 1, 2, 3], [4, 5, 6]]
