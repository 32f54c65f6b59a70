"""Ways to look at pictures, from what a checkpoint says to what a call asks for."""

import pytest
import torch
from torch import nn

from transnext.data.preprocessing import Preprocessing
from transnext.models.backbone import Backbone
from transnext.predict import Segmenter
from transnext.tasks.segmentation.looking import Looking, looking_at
from transnext.tasks.segmentation.nets import build_net
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


def test_one_size_that_is_not_mirrored_is_a_single_look(loaded) -> None:
    torch.testing.assert_close(confidences(loaded, scales=(1.0,)), confidences(loaded))


def test_mirrored_pictures_have_mirrored_answers(loaded) -> None:
    there = Segmenter(loaded, window=0, flip=True)(PICTURE, confidence=True)[0].confidence
    back = Segmenter(loaded, window=0, flip=True)(PICTURE[:, ::-1].copy(), confidence=True)[0].confidence
    # The width is not a multiple of 32: the padding lies on the other side of the mirrored picture.
    assert abs(there.astype(float) - back[:, ::-1].astype(float)).mean() < 0.05


def test_sizes_are_made_of_the_largest(loaded) -> None:
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
