import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from transnext.data import Normalise, eval_transform, min_side_for, train_transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (3, 32, 48)


def uniform(size, colour=(255, 0, 128)):
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (500, 3), (2000, 1500)])
@pytest.mark.parametrize(
    "transform",
    [
        eval_transform(SIZE, MEAN, STD, "bicubic"),
        eval_transform(SIZE, MEAN, STD, "bilinear", 1.0, "squash"),
        train_transform(SIZE, MEAN, STD, "random"),
    ],
)
def test_shape_and_values(transform, size):
    tensor = transform(uniform(size))
    assert tensor.shape == SIZE
    assert tensor.dtype == torch.uint8
    assert torch.equal(tensor, torch.tensor([255, 0, 128], dtype=torch.uint8)[:, None, None].expand(SIZE))


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 4, 4), (0, 3, 0, 0)])
def test_normalising_has_the_bits_of_torchvision(shape):
    from torchvision.transforms.functional import normalize

    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    found = Normalise(MEAN, STD)(images)
    assert torch.equal(found, normalize(images.float().div(255), MEAN, STD))
    if len(shape) == 4:
        channels_last = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(Normalise(MEAN, STD)(channels_last), found)
        assert Normalise(MEAN, STD)(channels_last).is_contiguous()
    with pytest.raises(ValueError, match=r"images are torch.float32: expected torch.uint8, 0..255"):
        Normalise(MEAN, STD)(found)


def test_border_mode_pads_with_the_mean():
    tensor = eval_transform((3, 32, 32), MEAN, STD, "bicubic", 1.0, "border")(uniform((64, 16)))
    assert (tensor[:, 0] - 255 * torch.tensor(MEAN)[:, None]).abs().max() < 1
    assert tensor[:, 16, 16].tolist() == [255, 0, 128]


def test_center_crop_takes_the_centre():
    image = uniform((64, 32), (0, 0, 0))
    image.paste((255, 255, 255), (16, 0, 48, 32))
    tensor = eval_transform((3, 32, 32), MEAN, STD, "nearest", 1.0)(image)
    assert (tensor == 255).all()


def test_evaluation_equals_timm_for_ordinary_images():
    from timm.data import create_transform

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8))
    ours = eval_transform((3, 224, 224), MEAN, STD, "bicubic", 0.875)(image)
    timms = create_transform((3, 224, 224), mean=MEAN, std=STD, interpolation="bicubic", crop_pct=0.875)(image)
    assert torch.equal(Normalise(MEAN, STD)(ours), timms)


def test_training_equals_timm_for_the_same_seeds():
    from timm.data import create_transform

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8))
    options = {"mean": MEAN, "std": STD, "interpolation": "random", "auto_augment": "rand-m5-mstd0.5-inc1"}
    ours = train_transform(SIZE, **options)
    timms = create_transform(SIZE, is_training=True, **options)

    def draw(transform, seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return transform(image)

    for seed in range(20):
        assert torch.equal(Normalise(MEAN, STD)(draw(ours, seed)), draw(timms, seed))


def test_a_line_is_not_blown_up():
    assert eval_transform((3, 224, 224), MEAN, STD, "bicubic")(uniform((1, 200_000))).shape == (3, 224, 224)
    assert eval_transform((3, 224, 224), MEAN, STD, "bicubic")(uniform((200_000, 2))).shape == (3, 224, 224)


def test_full_training_recipe_is_reproducible():
    transform = train_transform(
        SIZE,
        MEAN,
        STD,
        "bicubic",
        crop_scale=(0.2, 0.9),
        crop_ratio=(0.5, 2.0),
        hflip=0.5,
        auto_augment="rand-m9-mstd0.5-inc1",
    )
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

    def draw(seed):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return transform(image)

    assert draw(1).shape == SIZE
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_colour_jitter():
    transform = train_transform(SIZE, MEAN, STD, "bicubic", color_jitter=0.4)
    torch.manual_seed(0)
    assert not torch.equal(transform(uniform((64, 64))), transform(uniform((64, 64))))


def test_pickling():
    image = uniform((40, 50))
    for transform in (eval_transform(SIZE, MEAN, STD, "bicubic"), train_transform(SIZE, MEAN, STD, "bicubic")):
        torch.testing.assert_close(pickle.loads(pickle.dumps(transform))(image), transform(image))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (32, 48)}, "input_size must be"),
        ({"input_size": (1, 32, 48)}, "input_size must be"),
        ({"interpolation": "cubic"}, "interpolation must be one of nearest.* got 'cubic'"),
        ({"std": (1.0, 0.0, 1.0)}, "std positive"),
        ({"crop_scale": (0.5, 0.1)}, "crop_scale must be"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio must be"),
        ({"hflip": 1.5}, "hflip is a probability"),
        ({"color_jitter": -1}, "color_jitter must not"),
        ({"auto_augment": "nonsense"}, "auto_augment 'nonsense' is not a policy"),
        ({"auto_augment": "rand-x9"}, "auto_augment 'rand-x9' is not a policy"),
    ],
)
def test_training_errors(change, message):
    arguments = {"input_size": SIZE, "mean": MEAN, "std": STD, "interpolation": "bicubic"} | change
    with pytest.raises(ValueError, match=message):
        train_transform(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "random"}, "interpolation must be one of"),
        ({"crop_pct": 0}, "crop_pct must be more than 0 and at most 1, got 0"),
        ({"crop_pct": 87.5}, "crop_pct must be"),
        ({"crop_mode": "middle"}, "crop_mode must be .* got 'middle'"),
    ],
)
def test_evaluation_errors(change, message):
    arguments = {"input_size": SIZE, "mean": MEAN, "std": STD, "interpolation": "bicubic"} | change
    with pytest.raises(ValueError, match=message):
        eval_transform(**arguments)


def test_min_side():
    assert min_side_for((3, 224, 224), 0.875) == 512
    assert min_side_for((3, 224, 384), 1.0) == 768
    with pytest.raises(ValueError, match="crop_pct"):
        min_side_for((3, 224, 224), 0)


@pytest.mark.parametrize("policy", ["rand-m10-mstd0.5-inc1", "rand-m10", "augmix-m10", "original", "v0"])
def test_no_policy_fails_at_full_magnitude(policy: str) -> None:
    transform = train_transform((3, 32, 32), MEAN, STD, "bicubic", auto_augment=policy)
    random.seed(0)
    image = Image.new("RGB", (40, 40), (10, 120, 250))
    for _ in range(200):
        assert transform(image).shape == (3, 32, 32)
