"""Places in pictures and in inputs, against painted objects that are looked for afterwards."""

import random

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from transnext.data import Sample, Skipped, collate
from transnext.data.instances import InstanceBatch, Instances
from transnext.data.joint import (
    View,
    canvas_of,
    normalised_canvas,
    on_canvas,
    place,
    place_padded,
    placed_size,
    reading_factor,
    whole_view,
)
from transnext.data.mask_parts import Part
from transnext.data.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocessing(mode, size=(64, 96), mean=MEAN):
    return Preprocessing(
        input_size=(3, *size), mean=mean, std=STD, interpolation="bilinear", crop_pct=1.0, crop_mode=mode
    )


sides = st.integers(1, 200)


@given(sides, sides, st.sampled_from(["fit", "squash", "shortest"]))
def test_sizes_by_their_definition(h, w, mode) -> None:
    height, width = placed_size((h, w), preprocessing(mode))
    if mode == "squash":
        assert (height, width) == (64, 96)
        return
    scale = min(64 / h, 96 / w) if mode == "fit" else min(64 / min(h, w), 96 / max(h, w))
    assert (height, width) == (max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5)))
    if mode == "fit":
        assert height <= 64
        assert width <= 96
        assert height == 64 or width == 96
    else:
        assert max(height, width) <= 96
        assert max(height, width) == 96 or min(height, width) == 64


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((500, 375), (1067, 800)), ((200, 640), (417, 1333))],
)
def test_the_released_sizes(size, expected) -> None:
    assert placed_size(size, preprocessing("shortest", (800, 1333))) == expected


@given(sides, sides, st.sampled_from(["fit", "squash", "shortest"]))
@settings(deadline=None)
def test_frames_take_corners_to_corners(h, w, mode) -> None:
    image, frame = place(Image.new("RGB", (w, h), (9, 8, 7)), preprocessing(mode))
    assert image.dtype == torch.uint8
    assert (image == torch.tensor([9, 8, 7]).view(3, 1, 1)).all()
    corners = torch.tensor([[0.0, image.shape[2]], [0.0, image.shape[1]], [1.0, 1.0]], dtype=torch.float64)
    assert frame.to_original.dtype == torch.float64
    torch.testing.assert_close(
        frame.to_original @ corners, torch.tensor([[0.0, w], [0.0, h]], dtype=torch.float64), rtol=0, atol=1e-9
    )
    assert frame.original == (h, w)


def test_a_picture_at_its_size_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    for mode in ("fit", "squash", "shortest"):
        image, _ = place(Image.fromarray(pixels), preprocessing(mode))
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels)


def test_squashed_as_timm_does_it() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (131, 57, 3), np.uint8))
    rule = preprocessing("squash", (64, 64))
    torch.testing.assert_close(place(picture, rule)[0], rule.transform()(picture), rtol=0, atol=0)


def test_centres_are_refused() -> None:
    with pytest.raises(ValueError, match="does not keep all of a picture"):
        place(Image.new("RGB", (9, 9)), preprocessing("center"))
    with pytest.raises(ValueError, match="crop_mode must be one of"):
        preprocessing("fit").with_places("center")
    with pytest.raises(ValueError, match="give the short one first"):
        preprocessing("fit").with_places("shortest", (800, 600))


def test_preprocessing_of_places() -> None:
    rule = preprocessing("center").with_places("shortest", (800, 1333))
    assert (rule.crop_pct, rule.interpolation, rule.input_size) == (1.0, "bilinear", (3, 800, 1333))
    assert rule.resized(400).input_size == (3, 400, 667)
    assert rule.min_side() == 1600
    assert preprocessing("fit").resized(48).input_size == (3, 48, 48)
    assert Preprocessing.from_mapping(rule.to_dict()) == rule
    assert place_padded(Image.new("RGB", (640, 480)), rule).shape == (3, 800, 1088)
    assert place_padded(Image.new("RGB", (640, 480)), preprocessing("fit")).shape == (3, 64, 96)
    with pytest.raises(ValueError, match="crop_mode must be"):
        rule.transform()


@given(sides, sides, st.integers(1, 9))
def test_the_factor_of_reading(h, w, factor) -> None:
    read = -(-h // factor), -(-w // factor)
    found = reading_factor((h, w), read)
    assert (-(-h // found), -(-w // found)) == read
    if min(read) > 2 * factor:
        assert found == factor


@pytest.mark.parametrize("read", [(640, 480), (479, 640), (960, 1280), (240, 321)])
def test_another_picture_is_refused(read) -> None:
    with pytest.raises(ValueError, match="its annotation says 640 x 480"):
        reading_factor((480, 640), read)


def test_places_of_a_shrunk_picture() -> None:
    """Of 103 pixels a third are 35, of which the last is a third of a pixel wide: the edge is where it was."""
    pixels = np.zeros((99, 103, 3), np.uint8)
    pixels[30:60, 60:90] = 255
    whole, _ = place(Image.fromarray(pixels), preprocessing("fit"))
    shrunk, frame = place(Image.fromarray(pixels).reduce(3), preprocessing("fit"), (99, 103))
    assert shrunk.shape == whole.shape
    assert frame.original == (99, 103)
    for image in (whole, shrunk):
        inside = torch.nonzero(image[0] > 127)
        low = frame.to_original[:, :2] @ inside.amin(0).flip(0).double()
        high = frame.to_original[:, :2] @ (inside.amax(0) + 1).flip(0).double()
        np.testing.assert_allclose(np.concatenate([low, high]), [60, 30, 90, 60], atol=1.6)


def random_view(rng, h, w):
    x0, x1 = sorted(rng.uniform(0, w, 2))
    y0, y1 = sorted(rng.uniform(0, h, 2))
    x1, y1 = min(w, x1 + 0.2 * w), min(h, y1 + 0.2 * h)
    x0, y0 = min(x0, x1 - 0.1 * w), min(y0, y1 - 0.1 * h)
    left, top = rng.integers(0, 20, 2).tolist()
    width, height = rng.integers(30, 120, 2).tolist()
    size = (top + height + int(rng.integers(0, 9)), left + width + int(rng.integers(0, 9)))
    return View(source=(x0, y0, x1, y1), target=(left, top, width, height), size=size, mirrored=bool(rng.integers(2)))


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=200)
def test_a_painted_object_is_where_its_box_and_mask_are(seed) -> None:
    rng = np.random.default_rng(seed)
    h, w = rng.integers(40, 160, 2).tolist()
    x0, y0 = rng.integers(0, w - 12), rng.integers(0, h - 12)
    x1, y1 = rng.integers(x0 + 8, w + 1), rng.integers(y0 + 8, h + 1)
    mask = np.zeros((h, w), np.uint8)
    mask[y0:y1, x0:x1] = 1
    view = random_view(rng, h, w)
    image = np.asarray(view.of_picture(Image.fromarray(np.stack([mask * 255] * 3, 2)), (h, w)))
    painted = image[..., 0] > 127
    outline = view.of_mask(Part(mask[y0:y1, x0:x1].astype(bool), x0, y0), (h, w))
    assert outline.shape == view.size
    # The picture is smoothed over its own crop, the mask over what lies around it as well.
    assert (painted != outline.astype(bool)).mean() < 0.01 + 2 / min(view.target[2:])
    box = view.of_boxes([[x0, y0, x1, y1]])[0]
    shown = np.clip(box, view.shown[:2] * 2, view.shown[2:] * 2)
    rows, columns = np.flatnonzero(outline.any(1)), np.flatnonzero(outline.any(0))
    # What is thinner than the filter, whose sides reach a pixel to both, has less than a half at its corners.
    if (shown[2:] - shown[:2]).min() > 2:
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(found, shown, atol=1.0)
    labels = view.of_map(mask, 255)
    assert (labels == 255).sum() == np.prod(view.size) - np.prod(view.target[2:])
    assert ((labels == 1) != outline.astype(bool)).mean() < 0.01 + 2 / min(view.target[2:])
    back = view.to_original().numpy()
    corners = np.array([[box[0], box[2]], [box[1], box[3]], [1, 1]])
    xs, ys = back @ corners
    np.testing.assert_allclose([*sorted(xs), *ys], [x0, x1, y0, y1], atol=1e-9)


@given(st.integers(0, 10**6))
@example(759)  # a pixel that is half covered
@settings(deadline=None, max_examples=60)
def test_a_mask_is_the_same_whatever_box_it_is_known_to_lie_in(seed) -> None:
    rng = np.random.default_rng(seed)
    h, w = rng.integers(10, 90, 2).tolist()
    mask = np.zeros((h, w), np.uint8)
    y0, x0 = rng.integers(0, h), rng.integers(0, w)
    mask[y0 : y0 + 9, x0 : x0 + 9] = rng.integers(0, 2, mask[y0 : y0 + 9, x0 : x0 + 9].shape)
    view = random_view(rng, h, w)
    near = view.of_mask(Part(mask[y0 : y0 + 9, x0 : x0 + 9].astype(bool), x0, y0), (h, w))
    np.testing.assert_array_equal(near, view.of_mask(Part(mask.astype(bool), 0, 0), (h, w)))


@given(st.sampled_from(["fit", "squash", "shortest"]), st.sampled_from([(1, 1), (1, 3000), (3000, 1), (2, 700)]))
@settings(deadline=None)
def test_odd_pictures(mode, size) -> None:
    rule = preprocessing(mode)
    view = whole_view(size, rule)
    image, _ = place(Image.new("RGB", size[::-1], (255, 0, 0)), rule)
    assert image.shape[1:] == view.size
    assert (image[0] == 255).all()
    assert view.of_mask(Part(np.ones(size, bool), 0, 0), size).all()
    padded = place_padded(Image.new("RGB", size[::-1]), rule)
    assert padded.shape[1:] == canvas_of(view.size, rule)


def test_batches_have_one_canvas() -> None:
    rule = preprocessing("fit")
    samples = []
    for i, size in enumerate([(30, 30), (10, 90)]):
        image, frame = place(Image.new("RGB", size[::-1], (255, 255, 255)), rule)
        samples.append(Sample(image, i, i, frame, canvas_of(image.shape[1:], rule)))
    for part in (samples, samples[:1]):
        batch = collate([*part, Skipped("a", "b")])
        assert batch.images.shape == (len(part), 3, 64, 96)
        assert batch.sizes.tolist() == [[64, 64], [11, 96]][: len(part)]
        for image, (h, w) in zip(batch.images, batch.sizes.tolist(), strict=True):
            assert image[:, :h, :w].float().mean() == 255
            assert image.sum() == 255 * 3 * h * w


def test_nothing_is_where_no_image_is() -> None:
    rule = preprocessing("fit", (40, 50))
    images = torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8)
    sizes = torch.tensor([[40, 50], [1, 7], [33, 50]])
    x = normalised_canvas(images, sizes, rule.normalise())
    assert x.shape == (3, 3, 64, 64)
    assert x.dtype == torch.float32
    plain = rule.normalise()(images)
    for one, whole, (h, w) in zip(x, plain, sizes.tolist(), strict=True):
        torch.testing.assert_close(one[:, :h, :w], whole[:, :h, :w], rtol=0, atol=0)
        assert one[:, h:].abs().sum() == one[:, :, w:].abs().sum() == 0
    assert normalised_canvas(images, sizes, rule.normalise(), 1).shape == (3, 3, 40, 50)
    assert normalised_canvas(images, sizes, rule.normalise(), least=(40, 97)).shape == (3, 3, 64, 128)


def test_masks_of_the_whole_canvas() -> None:
    batch = InstanceBatch.of(
        [
            Instances(
                boxes=torch.zeros(2, 4), labels=torch.zeros(2, dtype=torch.int64), masks=torch.ones(2, 9, 7).byte()
            ),
            Instances(
                boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), masks=torch.ones(0, 5, 8).byte()
            ),
        ]
    )
    padded = on_canvas(batch, (32, 64))
    assert padded.masks.shape == (2, 32, 64)
    assert padded.masks.sum() == 2 * 9 * 7
    assert on_canvas(batch._replace(masks=None), (32, 64)).masks is None


def test_nothing_random_is_drawn() -> None:
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    place(Image.new("RGB", (70, 50)), preprocessing("fit"))
    assert state[0] == random.getstate()
    assert state[1] == np.random.get_state()[1].tolist()
    assert torch.equal(state[2], torch.get_rng_state())
