"""Training and evaluation images of segmentation: maps lie on pictures, whatever was done to both."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.detection_sets import picture
from tests.helpers.map_sets import label_file
from transnext.config import ImageConfig
from transnext.data import Skipped, collate
from transnext.data.joint import normalised_canvas, seen_size
from transnext.data.preprocessing import Preprocessing
from transnext.data.segmentation import open_segmentation
from transnext.engine.evaluation import Evaluator
from transnext.models.backbone import Backbone
from transnext.tasks.segmentation.augment import Augmentation
from transnext.tasks.segmentation.config import SegmentationConfig
from transnext.tasks.segmentation.images import MapImages, collate_maps, map_on_canvas
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.task import Loaded


def preprocessing(mode: str = "fit", size=(64, 96)) -> Preprocessing:
    return Preprocessing(
        input_size=(3, *size), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", crop_pct=1.0, crop_mode=mode
    )


class Training:
    """As much of a configuration as images look at."""

    def __init__(self, hflip: float = 0.5, **options) -> None:
        self.task = SegmentationConfig(**options)
        self.images = ImageConfig(hflip=hflip)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Pictures whose colours tell the class of each pixel: large patches, of three sizes."""
    root = tmp_path_factory.mktemp("maps")
    generator = np.random.default_rng(0)
    for i, (height, width) in enumerate([(120, 200), (90, 60), (64, 64), (300, 500)]):
        coarse = generator.integers(0, 4, (-(-height // 30), -(-width // 30)), np.uint8)
        labels = np.kron(coarse, np.ones((30, 30), np.uint8))[:height, :width].copy()
        label_file(root / "labels" / "train" / f"{i}.png", labels)
        path = root / "images" / "train" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.repeat((40 + 60 * labels)[..., None], 3, 2)).save(path)
    (root / "classes.txt").write_text("a\nb\nc\nd\n")
    return open_segmentation(root, 0)["train"]


def agreement(image: torch.Tensor, labels: torch.Tensor) -> tuple[int, int]:
    """Pixels away from borders between classes, and those of them whose colour is that of their class."""
    labels = labels[: image.shape[1], : image.shape[2]].float()[None]
    around = torch.nn.functional.pad(labels[None], (2, 2, 2, 2), mode="replicate")[0]
    high = torch.nn.functional.max_pool2d(around, 5, 1)
    inner = (high == -torch.nn.functional.max_pool2d(-around, 5, 1)) & (high != 255)
    right = ((image[0].float() - 40) / 60 - labels[0]).abs() < 0.5
    return int(inner.sum()), int((right & inner[0]).sum())


@pytest.mark.parametrize("mode", ["fit", "squash", "shortest"])
def test_evaluation_gives_the_map_as_it_is(source, mode: str) -> None:
    images = MapImages(source, preprocessing(mode))
    for i in range(len(source)):
        sample = images[i]
        assert isinstance(sample.target, np.ndarray)
        assert (sample.target == source.target(i).read()).all()
        assert sample.frame.original == sample.target.shape
    batch = collate([images[i] for i in range(4)], collate_maps)
    assert [target.shape for target in batch.targets] == [(120, 200), (90, 60), (64, 64), (300, 500)]


@pytest.mark.parametrize("mode", ["fit", "squash", "shortest"])
@pytest.mark.parametrize(
    "options",
    [
        {"augment": "none"}, {"color_jitter": 0.0}, {"color_jitter": 0.0, "crop": 48},
        {"jitter": (0.3, 3.0), "color_jitter": 0.0}, {"augment": "released", "color_jitter": 0.0},
        {"augment": "released", "segmenter": "mask2former", "color_jitter": 0.0},
    ],
)  # fmt: skip
def test_training_maps_lie_on_their_pictures(source, mode: str, options) -> None:
    images = MapImages(source, preprocessing(mode), Training(**options))
    sizes = set()
    judged = agreed = 0
    for seed in range(12):
        random.seed(seed)
        torch.manual_seed(seed)
        samples = [images[i] for i in range(len(source))]
        for sample in samples:
            assert sample.target.dtype == torch.uint8
            assert tuple(sample.target.shape) == sample.canvas
            assert sample.image.shape[1] <= sample.canvas[0]
            assert sample.image.shape[2] <= sample.canvas[1]
            sizes.add(sample.canvas)
            height, width = sample.image.shape[1:]
            assert (sample.target[height:] == 255).all()
            assert (sample.target[:, width:] == 255).all()
            assert (sample.target[:height, :width] != 255).all()
            if min(height, width) > 4:
                inner, right = agreement(sample.image, sample.target)
                judged, agreed = judged + inner, agreed + right
        batch = collate(samples, collate_maps)
        assert batch.targets.shape[1:] == batch.images.shape[2:]
    if mode != "shortest" or options.get("augment") != "none":
        assert len(sizes) == 1
    assert judged > 10_000
    assert agreed > 0.997 * judged  # what is mixed comes from beyond the edges of crops
    if "crop" in options:
        assert sizes == {(48, 48)}


def test_the_same_seed_gives_the_same_image(source) -> None:
    images = MapImages(source, preprocessing(), Training(augment="released"))
    drawn = []
    for _ in range(2):
        random.seed(5)
        torch.manual_seed(5)
        drawn.append(images[0])
    assert torch.equal(drawn[0].image, drawn[1].image)
    assert torch.equal(drawn[0].target, drawn[1].target)
    random.seed(6)
    assert not torch.equal(drawn[0].image, images[0].image)


def test_scales_flips_and_crops_are_those_asked_for() -> None:
    labels = np.zeros((100, 100), np.uint8)
    augmentation = Augmentation(hflip=0.5, scales=(0.5, 2.0), crop=64)
    random.seed(0)
    views = [augmentation.view(labels, preprocessing(size=(64, 64))) for _ in range(400)]
    scales = np.array([view.scales[0] / 0.64 for view in views])
    assert 0.49 < scales.min() < 0.56
    assert 1.9 < scales.max() < 2.02
    assert 0.4 < np.mean([view.mirrored for view in views]) < 0.6
    assert max(max(view.size) for view in views) == 64
    released = Augmentation.of(SegmentationConfig(segmenter="mask2former", augment="released"), ImageConfig())
    assert [round(512 * side) for side in released.sides] == [
        256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024,
    ]  # fmt: skip
    upernet = Augmentation.of(SegmentationConfig(augment="released", crop=512), ImageConfig())
    assert (upernet.scales, upernet.crop, upernet.max_share, upernet.distort) == ((0.5, 2.0), 512, 0.75, True)
    # The long side of UPerNet's pictures is limited before the random scale, that of Mask2Former's after.
    long = np.zeros((100, 1000), np.uint8)
    sides = preprocessing("shortest", (512, 2048))
    assert max(upernet.view(long, sides).scales[0] for _ in range(200)) > 3.9
    assert max(released.view(long, sides).scales[0] for _ in range(200)) == pytest.approx(2.048, abs=0.01)


def test_crops_of_one_class_are_drawn_anew() -> None:
    labels = np.zeros((200, 200), np.uint8)
    labels[:, 150:] = 1
    labels[150:, :] = 255
    shares = {}
    for most in (1.0, 0.75):
        augmentation = Augmentation(scales=(2.0, 2.0), crop=100, max_share=most)
        random.seed(1)
        views = [augmentation.view(labels, preprocessing(size=(200, 200))) for _ in range(300)]
        crops = [view.of_map(labels) for view in views]
        known = [crop[crop != 255] for crop in crops]
        shares[most] = np.mean([len(k) > 0 and np.bincount(k).max() / len(k) <= 0.76 for k in known])
    assert shares[0.75] > 3 * shares[1.0]


def test_what_cannot_be_read_is_skipped(tmp_path) -> None:
    for i in range(3):
        picture(tmp_path / "images" / f"{i}.png", seed=i)
        label_file(tmp_path / "labels" / f"{i}.png", seed=i)
    source = open_segmentation(tmp_path, 0)["train"]
    (tmp_path / "images" / "0.png").write_bytes(b"x")
    (tmp_path / "labels" / "1.png").write_bytes(b"x")
    (tmp_path / "labels" / "2.png").unlink()
    for training in (None, Training()):
        images = MapImages(source, preprocessing(), training)
        skipped = [images[i] for i in range(3)]
        assert all(isinstance(item, Skipped) for item in skipped)
        assert skipped[1].reason.startswith("its label file: ")
        assert skipped[2].reason == "its label file is gone"
        assert collate(skipped, collate_maps).targets == []


def test_maps_follow_the_canvas_of_the_network() -> None:
    maps = torch.zeros(2, 50, 60, dtype=torch.uint8)
    images = torch.zeros(2, 3, 50, 60, dtype=torch.uint8)
    x = normalised_canvas(images, torch.tensor([[50, 60]] * 2), preprocessing().normalise())
    assert seen_size((50, 60)) == tuple(x.shape[2:]) == (64, 64)
    padded = map_on_canvas(maps, seen_size((50, 60)))
    assert padded.shape == (2, 64, 64)
    assert (padded[:, 50:] == 255).all()
    assert not padded[:, :50, :60].any()
    with pytest.raises(ValueError, match="50x60 pixels on a canvas of 32x64"):
        map_on_canvas(maps, (32, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jitter": (2.0, 1.0)}, "smallest <= largest"), ({"crop": 8}, "is 8"), ({"max_class_share": 0.0}, "above 0"),
        ({"crop": 64, "augment": "none"}, "leave out"), ({"segmenter": "mask2former", "loss": "dice"}, "of its own"),
        ({"loss": "dice", "class_weights": "data"}, "takes no"), ({"class_weights": (-1.0, 2.0)}, "0 or more"),
        ({"class_weights": ()}, "0 or more"),
    ],
)  # fmt: skip
def test_options_that_cannot_work(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationConfig(**options)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mode", ["shortest", "fit", "squash"])
def test_numbers_do_not_depend_on_the_size_of_batches(mode, source) -> None:
    torch.manual_seed(0)
    net = build_net("upernet", Backbone("transnext_pico"), 4, size="small").eval()
    size = (32, 128) if mode == "shortest" else (64, 64)
    found = preprocessing(mode, size)
    loaded = Loaded(
        model=net, task=Segmentation(metadata={"class_names": list("abcd")}), preprocessing=found, name="it"
    )
    images = MapImages(source, found)
    for i in range(len(source)):
        assert images.canvas(i) == (images[i].canvas if mode == "shortest" else None)
    counted = []
    for batch_size in (1, 8):
        evaluator = Evaluator(loaded, batch_size=batch_size, workers=0, device="cpu")
        counted.append(evaluator.run(evaluator.images(source), "train").confusion)
    # Sums of floats depend on the batch in their last bits, which decides pixels whose classes are equally likely.
    moved = np.abs(counted[0] - counted[1]).sum() / 2
    assert moved <= 1e-4 * counted[0].sum(), moved
