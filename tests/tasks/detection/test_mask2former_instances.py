"""Mask2Former that finds objects: answers against a reference, targets, losses without objects, classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as run_lengths
from torch import Tensor, nn

from tests.helpers.tiny_mask2former import TINY, tiny_backbone
from transnext.config import TrainConfig
from transnext.data import collate
from transnext.data.images import read_image
from transnext.data.instances import Annotation, Instances
from transnext.engine.evaluation import Evaluator
from transnext.predict import Detector
from transnext.tasks.detection import mask2former as module
from transnext.tasks.detection.images import DetectionImages, placed_sample
from transnext.tasks.detection.mask2former import Mask2FormerInstances, mask2former_instances
from transnext.tasks.detection.nets import build_net, replace_classes
from transnext.tasks.detection.task import Detection, preprocessing_for
from transnext.tasks.segmentation.mask2former.head import Predictions
from transnext.tasks.segmentation.mask2former.panoptic import panoptic
from transnext.tasks.task import Loaded

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny_net(num_classes: int = 3, **overrides: Any) -> Mask2FormerInstances:
    return mask2former_instances(tiny_backbone(), num_classes, size="small", **{**TINY, **overrides})


def instances(count: int, canvas: tuple[int, int] = (64, 96)) -> Instances:
    masks = torch.zeros(count, *canvas, dtype=torch.uint8)
    for i in range(count):
        masks[i, 4 * i : 4 * i + 12, 8 * i : 8 * i + 20] = 1
    boxes = torch.tensor([[8 * i, 4 * i, 8 * i + 20, 4 * i + 12] for i in range(count)], dtype=torch.float32)
    return Instances(boxes=boxes.reshape(-1, 4), labels=torch.arange(count) % 3, masks=masks)


@pytest.mark.parametrize("limit", [5, 100])
@pytest.mark.parametrize("at_once", [1, 2**25])
def test_detect_against_a_reference(monkeypatch: pytest.MonkeyPatch, limit: int, at_once: int) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    net = tiny_net(max_detections=limit).eval()
    logits, masks = torch.randn(2, 6, 4), 4 * torch.randn(2, 6, 16, 24)
    masks[0, 3] = -1  # nowhere
    masks[1, 2, :, :] = -2
    masks[1, 2, 15, 23] = 9  # in the padding alone
    monkeypatch.setattr(Mask2FormerInstances, "predict", lambda *_: Predictions([logits], [masks]))
    sizes = [(64, 96), (51, 77)]
    found = net.detect(torch.zeros(2, 3, 64, 96), torch.tensor(sizes))
    for image, (height, width) in enumerate(sizes):
        probabilities = logits[image].double().softmax(-1).numpy()[:, :-1]
        whole = nn.functional.interpolate(masks[image][:, None].double(), (64, 96), mode="bilinear")[:, 0]
        pairs = sorted(np.ndindex(*probabilities.shape), key=lambda pair: -probabilities[pair])[:limit]
        expected = []
        for query, label in pairs:
            pixels = whole[query].numpy()[:height, :width]
            rows, columns = np.nonzero(pixels > 0)
            if not len(rows):
                continue
            score = probabilities[query, label] * (1 / (1 + np.exp(-pixels[rows, columns]))).mean()
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            expected.append((score, label, box, whole[query].sigmoid()))
        expected.sort(key=lambda one: -one[0])
        one = found[image]
        assert one.masks_of == "canvas"
        assert one.scores.tolist() == pytest.approx([score for score, *_ in expected], rel=1e-5)
        assert one.labels.tolist() == [label for _, label, *_ in expected]
        assert one.boxes.tolist() == [box for *_, box, _ in expected]
        assert one.masks.shape == (len(expected), 64, 96)
        torch.testing.assert_close(one.masks.double(), torch.stack([mask for *_, mask in expected]), rtol=0, atol=5e-4)


@pytest.mark.parametrize("side", [300, 64])
def test_masks_in_evaluation_are_those_of_an_answer(side: int) -> None:
    """Also where the network sees a larger canvas than the batch, as sides that are no multiple of 32 make it."""
    net = tiny_net(num_queries=4).eval()
    task = Detection(metadata={"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3], "with_masks": True})
    preprocessing = preprocessing_for(net.backbone, TrainConfig.of(task="detection", data="-", image_size=side))
    loaded = Loaded(model=net, task=task, preprocessing=preprocessing, name="tiny")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    (answer,) = Detector(loaded)(picture, threshold=0.0)
    nothing = Annotation(
        size=(60, 90),
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        crowd=np.zeros(0, bool),
        areas=np.zeros(0, np.float32),
        segmentations=(),
    )
    batch = collate([placed_sample(picture, preprocessing, 0, nothing)], targets=task.collate)
    meter = task.meter()
    with torch.inference_mode():
        meter.add(task.raw(net, task.inputs(batch.images, batch.sizes, preprocessing), batch.sizes), batch)
    ((judged,), _) = meter.state()
    assert len(answer)
    np.testing.assert_array_equal(judged.found.boxes, answer.xyxy)
    decoded = run_lengths.decode(list(judged.found.segmentations)).transpose(2, 0, 1).astype(bool)
    np.testing.assert_array_equal(decoded, np.asarray(answer.mask))


@pytest.mark.parametrize("turned", [False, True])
def test_large_photos_are_read_as_in_an_evaluation(tmp_path: Path, turned: bool) -> None:
    net = tiny_net(num_queries=4).eval()
    task = Detection(metadata={"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3], "with_masks": False})
    preprocessing = preprocessing_for(net.backbone, TrainConfig.of(task="detection", data="-", image_size=64))
    detector = Detector(Loaded(model=net, task=task, preprocessing=preprocessing, name="tiny"))
    pixels = np.random.default_rng(0).integers(0, 256, (21, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    photo = tmp_path / "a.jpg"
    Image.fromarray(pixels).resize((1027, 771), Image.Resampling.BICUBIC).save(photo, exif=exif)
    size = (1027, 771) if turned else (771, 1027)
    truth = Annotation(
        size=size,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        crowd=np.zeros(0, bool),
        areas=np.zeros(0, np.float32),
    )

    class Photo:
        def __len__(self) -> int:
            return 1

        def load(self, _: int, min_side: int | None = None) -> Image.Image:
            return read_image(photo, min_side)

        def target(self, _: int) -> Annotation:
            return truth

        def name(self, _: int) -> str:
            return "photo"

    sample = DetectionImages(Photo(), preprocessing)[0]
    batch = collate([sample], targets=task.collate)
    meter = task.meter()
    with torch.inference_mode():
        meter.add(task.raw(net, task.inputs(batch.images, batch.sizes, preprocessing), batch.sizes), batch)
    ((judged,), _) = meter.state()
    with photo.open("rb") as file:
        for given in (photo, photo.read_bytes(), file):
            (answer,) = detector(given, threshold=0.0, masks=False)
            assert answer.size == size
            np.testing.assert_array_equal(judged.found.scores, answer.scores)
            np.testing.assert_array_equal(judged.found.boxes, answer.xyxy)


def test_tiles_are_asked_about_as_many_at_once_as_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one picture is in memory at a time."""
    net = tiny_net(num_queries=4).eval()
    task = Detection(metadata={"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3], "with_masks": False})
    preprocessing = preprocessing_for(net.backbone, TrainConfig.of(task="detection", data="-", image_size=64))
    detector = Detector(Loaded(model=net, task=task, preprocessing=preprocessing, name="tiny"))
    asked: list[int] = []
    detect = Mask2FormerInstances.detect
    monkeypatch.setattr(
        Mask2FormerInstances, "detect", lambda self, x, sizes: asked.append(len(x)) or detect(self, x, sizes)
    )
    read: list[int] = []
    pictures = (read.append(i) or np.zeros((100, 160, 3), np.uint8) for i in range(3))
    answers = detector.stream(pictures, tile=64, overlap=0.0, batch_size=2, masks=False)
    for number in range(1, 4):
        next(answers)
        assert len(read) == number
        assert asked == [2, 2, 2] * number
    asked.clear()
    detector(np.zeros((200, 200, 3), np.uint8), tile=64, overlap=0.0, masks=False)
    assert asked == [8, 8]


def test_tiles_give_boxes_alone() -> None:
    net = tiny_net(num_queries=4).eval()
    net.detector = "mask2former"  # as `build_net` says
    task = Detection(metadata={"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3], "with_masks": True})
    preprocessing = preprocessing_for(net.backbone, TrainConfig.of(task="detection", data="-", image_size=64))
    detector = Detector(Loaded(model=net, task=task, preprocessing=preprocessing, name="tiny"))
    read: list[Any] = []
    with pytest.raises(ValueError, match="outlines of tiny lie over the whole"):
        list(detector.stream((read.append(i) or np.zeros((90, 90, 3), np.uint8) for i in range(2)), tile=64))
    assert not read, "it is said before the work"
    (found,) = detector(
        np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8), threshold=0.0, tile=64, masks=False
    )
    assert len(found)
    assert found.mask is None


def test_few_images_are_judged_at_once() -> None:
    net = tiny_net(num_queries=4).eval()
    task = Detection(metadata={"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3], "with_masks": True})
    preprocessing = preprocessing_for(net.backbone, TrainConfig.of(task="detection", data="-", image_size=64))
    loaded = Loaded(model=net, task=task, preprocessing=preprocessing, name="tiny")
    assert Evaluator(loaded, device="cpu").batch_size == 8
    assert Evaluator(loaded, device="cpu", batch_size=30).batch_size == 30


def test_nothing_is_found() -> None:
    net = tiny_net().eval()
    embedder = net.head.transformer_module.decoder.mask_predictor.mask_embedder
    last = [layer for layer in embedder.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    (found,) = net.detect(torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]]))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, 64, 64)


def test_batch_equals_single_images() -> None:
    net = tiny_net().eval()
    images, sizes = torch.randn(2, 3, 64, 96), torch.tensor([[64, 96], [40, 70]])
    with torch.no_grad():
        together = net.detect(images, sizes)
        for i in range(2):
            (alone,) = net.detect(images[i : i + 1], sizes[i : i + 1])
            torch.testing.assert_close(together[i].scores, alone.scores, rtol=0, atol=1e-5)
            assert torch.equal(together[i].labels, alone.labels)
            torch.testing.assert_close(together[i].boxes, alone.boxes, rtol=0, atol=1)


@pytest.mark.parametrize("counts", [(2, 0), (0, 0), (9, 1)])
def test_losses(counts: tuple[int, int]) -> None:
    """With no objects, and with more than there are queries."""
    net = tiny_net()
    losses = net(torch.randn(2, 3, 64, 96), torch.tensor([[64, 96]] * 2), [instances(count) for count in counts])
    assert len(losses) == 3 * 5
    sum(losses.values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


def test_no_objects_without_masks() -> None:
    net = tiny_net()
    none = Instances(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    images, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])
    assert sum(net.losses(images, sizes, [none]).values()).isfinite()
    boxes = Instances(boxes=torch.ones(1, 4), labels=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="no masks"):
        net.losses(images, sizes, [boxes])
    with pytest.raises(ValueError, match="same canvas"):
        net.losses(images, sizes, [instances(1, (32, 64))])


def test_objects_without_a_pixel_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_net()
    seen: list[Any] = []
    monkeypatch.setattr(Mask2FormerInstances, "losses_of_targets", lambda _, __, targets: seen.extend(targets))
    objects = instances(3)
    objects.masks[1] = 0
    net.losses(torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]]), [objects])
    assert seen[0].labels.tolist() == [0, 2]
    assert torch.equal(seen[0].masks, objects.masks[[0, 2]].float())


def test_built_by_name_and_again() -> None:
    backbone = tiny_backbone()
    net = build_net("mask2former", backbone, 3, masks=True, size="small", **TINY)
    assert net.with_masks
    net.max_detections = 200
    again = build_net("mask2former", tiny_backbone(), **net.args())
    again.load_state_dict(net.state_dict())
    assert again.args() == net.args()
    assert again.max_detections == 200
    assert replace_classes(net, ["a", "b", "c"], ["B"]) == ["B"]
    assert net.num_classes == 1
    with pytest.raises(ValueError, match="by their outlines"):
        build_net("mask2former", backbone, 3, size="small")


def test_panoptic() -> None:
    sizes: Tensor = torch.tensor([[50, 70]])
    (found,) = panoptic(
        tiny_net().eval(), torch.randn(1, 3, 64, 96), sizes, threshold=0.0, overlap_mask_area_threshold=0.0
    )
    assert found.ids.shape == (50, 70)
    assert set(found.ids.unique().tolist()) <= {0, *(segment.id for segment in found.segments)}
