"""From pictures with objects to batches, in this process and through reading ones, and the page that shows them."""

import base64
import io
import random
import re
from functools import partial
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data._utils import pin_memory

from tests.helpers.painted import Paintings, extent, painted, random_painting, where
from transnext.config import ImageConfig, TrainConfig
from transnext.data import Skipped, collate
from transnext.data.instances import Annotation, InstanceBatch
from transnext.data.joint import normalised_canvas, on_canvas
from transnext.data.preprocessing import Preprocessing
from transnext.engine.loader import SeededImages, eval_loader, train_loader
from transnext.tasks.detection.config import DetectionConfig
from transnext.tasks.detection.images import DetectionImages, collate_objects
from transnext.tasks.detection.preview import preview_page

collate = partial(collate, targets=collate_objects)


def preprocessing(mode="fit", size=(96, 128)):
    return Preprocessing(
        input_size=(3, *size),
        mean=(0.5, 0.5, 0.5),
        std=(1, 1, 1),
        interpolation="bilinear",
        crop_pct=1.0,
        crop_mode=mode,
    )


def training(images=None, **options):
    return TrainConfig(data="", task=DetectionConfig(**options), images=images or ImageConfig())


@pytest.fixture(scope="module")
def paintings():
    return Paintings([random_painting(i) for i in range(12)], broken=(3,))


@pytest.mark.parametrize("mode", ["fit", "squash", "shortest"])
def test_evaluation_has_annotations_as_they_are_and_frames(paintings, mode) -> None:
    images = DetectionImages(paintings, preprocessing(mode))
    batch = collate([images[i] for i in range(12)])
    assert [name for name, _ in batch.skipped] == ["painting 3"]
    assert len(batch.targets) == len(batch.frames) == len(batch.images) == 11
    height, width = batch.sizes.amax(0).tolist()
    if mode == "shortest":
        assert batch.images.shape[2:] == (-(-height // 32) * 32, -(-width // 32) * 32)
    else:
        assert batch.images.shape[2:] == (96, 128)
    for image, target, frame, index in zip(
        batch.images.numpy(), batch.targets, batch.frames, batch.indices.tolist(), strict=True
    ):
        assert isinstance(target, Annotation)
        assert target is paintings.target(index)
        assert frame.original == target.size
        for label, box in enumerate(target.boxes):
            found = extent(where(image, label))
            corners = np.array([[found[0], found[2]], [found[1], found[3]], [1, 1]])
            (x0, x1), (y0, y1) = frame.to_original.numpy() @ corners
            pixel = frame.to_original.diagonal().max().item()  # of the input, in pixels of the picture
            np.testing.assert_allclose([x0, y0, x1, y1], box, atol=1.5 * max(1, pixel))


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("mode", ["fit", "squash", "shortest"])
@pytest.mark.parametrize("augment", ["none", "light", "released", "strong"])
def test_training_batches(paintings, mode, augment, masks) -> None:
    images = SeededImages(DetectionImages(paintings, preprocessing(mode), training(augment=augment), masks=masks))
    keys = [(i, 100 + i) for i in range(12)]
    batch, again = collate(images.__getitems__(keys)), collate(images.__getitems__(keys))
    assert isinstance(batch.targets, InstanceBatch)
    assert torch.equal(batch.images, again.images)
    assert torch.equal(batch.targets.boxes, again.targets.boxes)
    assert batch.targets.counts.tolist() == [len(part) for part in batch.targets.split()]
    assert len(batch.images) == 11
    if mode != "shortest":
        assert batch.images.shape[2:] == (96, 128)
    canvas = tuple(batch.images.shape[2:])
    if masks:
        whole = on_canvas(batch.targets, canvas)
        assert whole.masks.shape == (len(batch.targets.boxes), *canvas)
        for box, mask in zip(whole.boxes.numpy(), whole.masks.numpy(), strict=True):
            if min(box[2:] - box[:2]) >= 3:
                np.testing.assert_allclose(box, extent(mask), atol=1.1)
    else:
        assert batch.targets.masks is None
    x = normalised_canvas(batch.images, batch.sizes, preprocessing().normalise())
    for one, (h, w), objects in zip(x, batch.sizes.tolist(), batch.targets.split(), strict=True):
        assert one[:, h:].abs().sum() == one[:, :, w:].abs().sum() == 0
        assert (objects.boxes <= torch.tensor([w, h, w, h])).all()


def test_the_same_through_reading_processes(paintings) -> None:
    images = DetectionImages(paintings, preprocessing(), training(augment="strong", copy_paste=1.0), masks=True)
    batches = []
    for workers in (0, 1):
        loader = train_loader(images, batch_size=3, seed=5, workers=workers, collate=collate, timeout=60)
        batches.append(list(loader.epoch(0)))
        loader.close()
    assert len(batches[0]) == len(batches[1]) == 4
    for here, there in zip(*batches, strict=True):
        assert torch.equal(here.images, there.images)
        assert isinstance(there.targets, InstanceBatch)
        for a, b in zip(here.targets, there.targets, strict=True):
            assert torch.equal(a, b)
    evaluated = [list(eval_loader(DetectionImages(paintings, preprocessing()), 5, w, collate=collate)) for w in (0, 1)]
    for here, there in zip(*evaluated, strict=True):
        assert torch.equal(here.images, there.images)
        for a, b in zip(here.targets, there.targets, strict=True):
            np.testing.assert_array_equal(a.boxes, b.boxes)
            assert a.segmentations == b.segmentations
        for a, b in zip(here.frames, there.frames, strict=True):
            assert torch.equal(a.to_original, b.to_original)


def test_batches_keep_their_types_when_pinned(paintings, monkeypatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, device=None: self)
    for config, kind in ((training(), InstanceBatch), (None, list)):
        images = DetectionImages(paintings, preprocessing(), config, masks=True)
        batch = pin_memory.pin_memory(collate([images[i] for i in range(4)]))
        assert isinstance(batch.targets, kind)
        assert isinstance(batch.skipped, list)


def test_generators_of_the_training_process_are_left_alone(paintings) -> None:
    images = SeededImages(DetectionImages(paintings, preprocessing(), training(augment="strong"), masks=True))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    images[0, 7]
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_pictures_that_are_shrunk_when_read() -> None:
    boxes = [(100, 200, 500, 503), (801, 40, 1301, 777)]
    large = Paintings([painted((1001, 1403), boxes)])
    rule = preprocessing("fit", (64, 96))
    for config in (None, training(augment="none")):
        images = DetectionImages(large, rule, config, masks=True)
        assert min(large.load(0, images.min_side).size) < 500
        sample = images[0]
        scale = min(64 / 1001, 96 / 1403)
        for label, box in enumerate(boxes):
            np.testing.assert_allclose(extent(where(sample.image, label)), np.array(box) * scale, atol=1.5)
        if config is not None:
            np.testing.assert_allclose(sample.target.boxes, np.array(boxes) * scale, atol=0.5)
    tiles = DetectionImages(large, rule, training(augment="none", train_tiles=64))
    assert tiles.min_side is None


def test_pictures_of_another_size_than_annotated_are_left_out() -> None:
    picture, annotation = painted((50, 80), [(1, 1, 20, 20)])
    turned = Paintings([(picture.transpose(Image.Transpose.ROTATE_90), annotation)])
    for config in (None, training()):
        skipped = DetectionImages(turned, preprocessing(), config)[0]
        assert skipped == Skipped("painting 0", "it has 50 x 80 pixels, and its annotation says 80 x 50")


def test_batches_of_nothing(paintings) -> None:
    for config in (None, training()):
        images = DetectionImages(paintings, preprocessing(), config, masks=True)
        batch = collate([images[3]])
        assert batch.images.shape == (0, 3, 0, 0)
        assert len(batch.targets.counts) == 0
    empty = DetectionImages(Paintings([painted((9, 9), [])] * 2), preprocessing(), training(), masks=True)
    batch = collate([empty[0], empty[1]])
    assert batch.targets.counts.tolist() == [0, 0]
    assert batch.targets.masks.shape[0] == 0


def test_objects_are_pasted_only_by_their_outlines(paintings) -> None:
    with pytest.raises(ValueError, match="copied by their outlines"):
        DetectionImages(paintings, preprocessing(), training(copy_paste=0.5))
    quietly = DetectionImages(paintings, preprocessing(), training(augment="strong"))
    assert quietly.augmentation.copy_paste == 0
    counts = {}
    for probability in (0.0, 1.0):
        config = training(augment="none", copy_paste=probability)
        images = SeededImages(DetectionImages(paintings, preprocessing(), config, masks=True))
        batch = collate(images.__getitems__([(i, i) for i in range(12)]))
        counts[probability] = int(batch.targets.counts.sum())
    assert counts[1.0] > counts[0.0]


def test_the_page_of_training_pictures(paintings, tmp_path) -> None:
    images = SeededImages(DetectionImages(paintings, preprocessing(), training(augment="strong"), masks=True))
    batches = [collate(images.__getitems__([(i, i), (i + 1, i)])) for i in range(0, 8, 2)]
    names = ["<b>cell</b>", "ä & ö", "\u202edrawer", 'a "b"', "e", "f"]
    path = tmp_path / "preview.html"
    assert preview_page(iter(batches), names, path) == 7
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text.split("\n", 1)[1])
    assert len(root.findall(".//figure/img")) == 7
    assert "<b>cell" not in text
    assert "painting 3: it is broken" in text
    assert not re.search(r"https?://", text)
    data = root.find(".//figure/img").get("src").removeprefix("data:image/jpeg;base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == tuple(batches[0].sizes[0].flip(0).tolist())
    with pytest.raises(ValueError, match="no training picture to show: painting 3: it is broken"):
        preview_page([collate(images.__getitems__([(3, 0)]))], names, path)


def test_the_page_draws_boxes_and_outlines(tmp_path) -> None:
    images = DetectionImages(
        Paintings([painted((96, 128), [(30, 40, 80, 90)], round_ones={0})]),
        preprocessing(),
        training(augment="none"),
        masks=True,
    )
    from transnext.tasks.detection.preview import colour, drawn

    sample = images[0]
    shown = np.array(drawn(sample.image, sample.target, ["round"]))
    coloured = (shown == colour(0)).all(2)
    assert coloured[40, 30:80].all()
    assert coloured[89, 30:80].all()
    assert coloured[40:90, 30].all()
    assert coloured[40:90, 79].all()
    assert coloured[44:86, 31:79].sum() > 60  # the outline
    assert not coloured[91:].any()
