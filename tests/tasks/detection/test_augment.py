"""Whatever is done at random, boxes and masks are where the objects are."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.painted import colour, extent, painted, random_painting, where
from transnext.config import ImageConfig
from transnext.data.instances import Instances
from transnext.data.joint import View, canvas_of, to_bytes, whole_view
from transnext.data.mask_parts import Part
from transnext.data.preprocessing import Preprocessing
from transnext.tasks.detection.augment import Augmentation, objects_in
from transnext.tasks.detection.config import DetectionConfig
from transnext.tasks.detection.copy_paste import paste
from transnext.tasks.detection.images import repeat_factors

MODES = ("fit", "squash", "shortest")
ALL = [
    ("mask_rcnn", "none"),
    ("mask_rcnn", "light"),
    ("mask_rcnn", "released"),
    ("mask_rcnn", "strong"),
    ("dino", "released"),
    ("d_fine", "released"),
]


def preprocessing(mode="fit", size=(96, 128)):
    return Preprocessing(
        input_size=(3, *size), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop_pct=1.0, crop_mode=mode
    )


def augmentation(detector="mask_rcnn", preset="light", images=None, **options):
    return Augmentation.of(DetectionConfig(detector=detector, augment=preset, **options), images or ImageConfig())


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def shown(painting, rule, how, masks, seed):
    picture, annotation = painting
    seed_all(seed)
    view = how.view(annotation.size, annotation.boxes[~annotation.crowd], rule)
    image = view.of_picture(picture, annotation.size)
    return view, image, objects_in(view, annotation, masks=masks, visible=how.visible)


@given(st.sampled_from(ALL), st.sampled_from(MODES), st.booleans(), st.integers(0, 10**6))
@settings(deadline=None, max_examples=200)
def test_objects_are_where_their_boxes_and_masks_say(preset, mode, masks, seed) -> None:
    painting, rule = random_painting(seed, masks), preprocessing(mode)
    view, image, objects = shown(painting, rule, augmentation(*preset), masks, seed)
    canvas = canvas_of(view.size, rule)
    assert view.size[0] <= canvas[0]
    assert view.size[1] <= canvas[1]
    assert objects.boxes.dtype == torch.float32
    assert objects.labels.dtype == torch.int64
    assert (objects.masks is not None) == masks
    pixels = to_bytes(image).numpy()
    for k, (box, label) in enumerate(zip(objects.boxes.numpy(), objects.labels.tolist(), strict=True)):
        assert (box >= 0).all()
        assert (box[2:] <= view.size[::-1]).all()
        if min(box[2:] - box[:2]) < 4:
            continue  # hardly a pixel of it has its colour alone
        found = where(pixels, label)
        np.testing.assert_allclose(box, extent(found), atol=1.5)
        if masks:
            assert objects.masks.shape[1:] == view.size
            assert objects.masks.dtype == torch.uint8
            mask = objects.masks[k].numpy().astype(bool)
            np.testing.assert_allclose(box, extent(mask), atol=1.0)
            edge = 2 * sum(box[2:] - box[:2])
            assert (mask != found).sum() <= edge
    # What is large in the view was not lost.
    for label in range(len(painting[1])):
        if label not in objects.labels.tolist() and where(pixels, label).any():
            x0, y0, x1, y1 = view.of_boxes(painting[1].boxes[label : label + 1])[0]
            whole = (x1 - x0) * (y1 - y0)
            assert where(pixels, label).sum() < max(0.25 * whole, 12)


@given(st.sampled_from(ALL), st.sampled_from(MODES), st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_the_seed_decides_everything(preset, mode, seed) -> None:
    painting, rule, how = random_painting(seed), preprocessing(mode), augmentation(*preset)
    results = []
    for _ in range(2):
        view, image, objects = shown(painting, rule, how, True, seed)
        results.append((view, how.recoloured(image).tobytes(), objects.boxes.tolist(), objects.masks.tolist()))
    assert results[0] == results[1]


def test_seeds_differ() -> None:
    for preset in ALL[1:]:
        views = {augmentation(*preset).view((60, 90), np.zeros((0, 4), np.float32), preprocessing()) for _ in range(40)}
        assert len(views) >= 2, preset


@pytest.mark.parametrize("preset", ALL)
def test_without_flips_nothing_is_mirrored(preset) -> None:
    how = augmentation(*preset, images=ImageConfig(hflip=0.0))
    always = augmentation(*preset, images=ImageConfig(hflip=1.0))
    boxes = np.array([[3, 3, 40, 40]], np.float32)
    for _ in range(100):
        assert not how.view((60, 90), boxes, preprocessing()).mirrored
        assert always.view((60, 90), boxes, preprocessing()).mirrored == (preset[1] != "none")


def test_none_is_the_view_of_evaluation_and_has_its_colours() -> None:
    how, image = augmentation(preset="none"), Image.new("RGB", (5, 5), (1, 2, 3))
    for mode in MODES:
        view = how.view((50, 70), np.zeros((0, 4), np.float32), preprocessing(mode))
        assert view == whole_view((50, 70), preprocessing(mode))
    assert how.recoloured(image) is image
    for preset in ("light", "strong"):
        assert augmentation(preset=preset, color_jitter=0.0).recoloured(image) is image
        assert len({augmentation(preset=preset).recoloured(image).tobytes() for _ in range(9)}) > 3


@pytest.mark.parametrize("preset", ALL)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (7, 40), (17, 1000)])
def test_odd_pictures_and_no_objects(preset, mode, size) -> None:
    h, w = size
    rule, how = preprocessing(mode), augmentation(*preset)
    for boxes in ([], [(0, 0, w, h)]):
        for seed in range(8):
            view, image, objects = shown(painted(size, boxes), rule, how, True, seed)
            assert image.size == view.size[::-1]
            assert objects.masks.shape == (len(objects), *view.size)
            assert len(objects) <= len(boxes)


def test_the_released_scales_of_dino() -> None:
    how, rule = augmentation("dino", "released"), preprocessing("shortest", (800, 1333))
    heights, crops = set(), []
    for seed in range(400):
        seed_all(seed)
        view = how.view((480, 640), np.zeros((0, 4), np.float32), rule)
        assert min(view.size) in range(480, 801) or max(view.size) == 1333
        x0, y0, x1, y1 = view.source
        if (x0, y0, x1, y1) == (0, 0, 640, 480):
            heights.add(view.size[0])
        else:
            crops.append((x1 - x0, y1 - y0))
    assert heights == set(range(480, 801, 32))
    assert 150 < len(crops) < 250
    # Before the crop the short side is 400, 500 or 600, and the crop 384 to 600 pixels or as much as there is.
    shares = np.array(crops) / [640, 480]
    assert shares.min() >= 384 / 800 - 1e-9
    assert shares[:, 1].max() > 0.99


def test_crowds_and_specks_are_left_out() -> None:
    picture = painted((100, 100), [(10, 10, 40, 40), (50, 50, 90, 90), (2, 2, 3, 3)], crowd=(1,))
    for masks in (True, False):
        _, _, objects = shown(picture, preprocessing("fit", (50, 50)), augmentation(preset="none"), masks, 0)
        assert objects.labels.tolist() == [0]
        np.testing.assert_allclose(objects.boxes, [[5, 5, 20, 20]])


def test_boxes_of_no_size_are_left_out() -> None:
    _, annotation = painted((100, 100), [(10, 10, 40, 40), (50, 50, 50, 90), (30, 60, 30, 60)], masks=False)
    objects = objects_in(whole_view((100, 100), preprocessing()), annotation, masks=False)
    assert objects.labels.tolist() == [0]
    with pytest.raises(ValueError, match="boxes alone"):
        objects_in(whole_view((100, 100), preprocessing()), annotation, masks=True)


def test_tiles_are_square_parts_of_full_resolution_and_seldom_empty() -> None:
    boxes = np.array([[900, 700, 910, 712]], np.float32)
    how = augmentation(preset="none", train_tiles=128)
    rule = preprocessing("fit", (128, 128))
    found = 0
    for seed in range(100):
        seed_all(seed)
        view = how.view((1000, 1200), boxes, rule)
        x0, y0, x1, y1 = view.source
        assert (x1 - x0, y1 - y0, view.size) == (128, 128, (128, 128))
        assert view.scales == (1, 1)
        found += x0 <= 905 <= x1 and y0 <= 706 <= y1
    assert 80 <= found <= 98
    assert how.view((50, 90), boxes[:0], rule).source == (0, 0, 90, 50)


def test_outlines_are_decoded_where_the_object_is(monkeypatch) -> None:
    """As pycocotools does it, the whole picture is: 11 ms an object at 12 megapixels."""
    rng = np.random.default_rng(0)
    boxes = [(x, y, x + 40, y + 30) for x, y in np.stack([np.arange(6) * 160, rng.integers(0, 700, 6)], 1).tolist()]
    _, annotation = painted((733, 1001), boxes, round_ones=(1, 3))
    view = View(source=(100, 0, 1000, 733), target=(0, 0, 450, 366), size=(366, 450))
    masks = annotation.masks()
    expected = [view.of_mask(Part(mask.astype(bool), 0, 0), annotation.size) for mask in masks]
    monkeypatch.setattr("pycocotools.mask.decode", None)
    found = objects_in(view, annotation, masks=True)
    assert found.labels.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(found.masks.numpy(), np.stack(expected[1:]))


def test_large_scale_jitter_covers_its_range() -> None:
    how = augmentation(preset="none", jitter=(0.1, 2.0))
    scales = [how.view((96, 128), np.zeros((0, 4), np.float32), preprocessing()).scales for _ in range(300)]
    assert min(min(s) for s in scales) < 0.15
    assert max(max(s) for s in scales) > 1.9
    assert max(abs(x - y) for x, y in scales) < 0.06  # sides are whole pixels


def test_pasted_objects_cover_what_is_below() -> None:
    image, annotation = painted((60, 60), [(0, 0, 30, 30), (32, 32, 40, 40), (45, 2, 58, 12)])
    other, others = painted((70, 50), [(0, 0, 1, 1)] * 4 + [(10, 10, 44, 44)])
    view = whole_view((60, 60), preprocessing("fit", (60, 60)))
    below = objects_in(view, annotation, masks=True)
    above = objects_in(whole_view((70, 50), preprocessing("fit", (70, 50))), others, masks=True)
    above = Instances(boxes=above.boxes[-1:], labels=above.labels[-1:], masks=above.masks[-1:])
    seed_all(1)  # chooses it
    pasted, objects = paste(image, below, other, above, fill=(7, 7, 7))
    assert pasted.size == (60, 70)
    assert objects.labels.tolist() == [0, 2, 4]  # the second is covered
    np.testing.assert_array_equal(objects.boxes, [[0, 0, 30, 30], [45, 2, 58, 12], [10, 10, 44, 44]])
    pixels = to_bytes(pasted).numpy()
    for label, mask in zip(objects.labels.tolist(), objects.masks.numpy(), strict=True):
        np.testing.assert_array_equal(mask.astype(bool), where(pixels, label))
    assert (pixels[:, 60:] == 7).all()
    assert image.getpixel((20, 20)) == colour(0)  # the picture itself is left alone
    assert (objects.masks.sum(0) <= 1).all()


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_masks_of_pastes_are_what_is_seen(seed) -> None:
    rule = preprocessing()
    a, b = (random_painting(seed + i, most=3) for i in (0, 1))
    view_a, view_b = whole_view(a[1].size, rule), whole_view(b[1].size, rule)
    first, second = objects_in(view_a, a[1], masks=True), objects_in(view_b, b[1], masks=True)
    second = Instances(boxes=second.boxes, labels=second.labels + 10, masks=second.masks)
    seed_all(seed)
    image, objects = paste(
        view_a.of_picture(a[0], a[1].size), first, view_b.of_picture(b[0], b[1].size), second, visible=0.2
    )
    assert objects.masks.shape == (len(objects), image.height, image.width)
    pixels = to_bytes(image).numpy()
    for box, label, mask in zip(objects.boxes.numpy(), objects.labels.tolist(), objects.masks.numpy(), strict=True):
        np.testing.assert_allclose(box, extent(mask), atol=1.0)
        seen = where(pixels, label % 10) & mask.astype(bool)
        assert seen.sum() >= mask.sum() - 2 * (mask.any(0).sum() + mask.any(1).sum())


def test_nothing_pasted_into_nothing() -> None:
    image, annotation = painted((40, 40), [])
    nothing = objects_in(whole_view((40, 40), preprocessing("fit", (40, 40))), annotation, masks=True)
    _, objects = paste(image, nothing, image, nothing)
    assert objects.masks.shape == (0, 40, 40)
    with pytest.raises(ValueError, match="without masks"):
        paste(image, Instances(boxes=nothing.boxes, labels=nothing.labels), image, nothing)


def test_factors_of_rare_classes() -> None:
    labels = [[0, 0, 1], [0], [], [0, 2], *[[0]] * 96]
    factors = repeat_factors(labels, 0.04)
    np.testing.assert_allclose(factors[:4], [2, 1, 1, 2])  # in one of 100 images: sqrt(.04 / .01)
    assert (factors[4:] == 1).all()
    assert (repeat_factors(labels, 0) == 1).all()
    assert repeat_factors([[], []], 0.1).tolist() == [1, 1]
    assert repeat_factors([], 0.1).shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copy_paste": 1.5}, "copy_paste is 1.5"),
        ({"train_tiles": 8}, "train_tiles is 8"),
        ({"jitter": (2.0, 1.0)}, "jitter is"),
        ({"max_detections": 0}, "max_detections is 0"),
        ({"detector": "dino", "augment": "released", "jitter": (0.5, 1.0)}, "scales of its own"),
    ],
)
def test_options_that_cannot_work(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionConfig(**options)
