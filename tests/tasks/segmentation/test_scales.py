"""Several sizes and mirror images: the mean of what each look says, by definition."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tests.helpers.looking import Looking
from transnext.data.channels import Channels
from transnext.data.joint import place
from transnext.data.preprocessing import Preprocessing
from transnext.models.backbone import Backbone
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.scales import (
    RATIOS,
    multi_scale_map,
    multi_scale_probabilities,
    scaled,
    with_bias_mode,
)
from transnext.tasks.segmentation.sliding import sliding_scores

pytestmark = pytest.mark.usefixtures("one_thread")


def preprocessing(mode: str = "shortest", size: tuple[int, int] = (64, 256)) -> Preprocessing:
    return Preprocessing(
        input_size=(3, *size),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25),
        interpolation="bilinear",
        crop_pct=1.0,
        crop_mode=mode,
    )


def picture(height: int = 77, width: int = 101) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def looks_of(image: Image.Image, one: Preprocessing, flip: bool) -> npt.NDArray[np.float64]:
    """Scores of `Looking` by definition, at the picture: `[looks, classes, H, W]`."""
    found = []
    placed, _ = place(image, one)
    for mirrored in (False, True) if flip else (False,):
        x = (placed.flip(-1) if mirrored else placed).double()
        x = (x / 255 - torch.tensor(one.mean).double()[:, None, None]) / torch.tensor(one.std).double()[:, None, None]
        height, width = x.shape[1:]
        canvas = one.input_size[1:]
        if one.crop_mode == "shortest":
            canvas = (-(-height // 32) * 32, -(-width // 32) * 32)
        canvas = tuple(-(-side // 32) * 32 for side in canvas)
        x = F.pad(x, (0, canvas[1] - width, 0, canvas[0] - height))[None]
        scores = ASK(x, torch.tensor([[height, width]]))
        scores = F.interpolate(scores, canvas, mode="bilinear")[..., :height, :width]
        scores = F.interpolate(scores, (image.height, image.width), mode="bilinear")[0]
        found.append((scores.flip(-1) if mirrored else scores).numpy())
    return np.stack(found)


torch.manual_seed(0)
ASK = Looking()


def together(image: Image.Image, **options) -> Tensor:
    parts = list(multi_scale_probabilities(ASK, image, preprocessing(), **options))
    rows = [row for part, _ in parts for row in range(part.start, part.stop)]
    assert rows == list(range(image.height))
    return torch.cat([part for _, part in parts], 1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("values", [1, 40_000, 2**24])
def test_mean_of_all_looks(flip: bool, sums: bool, values: int) -> None:
    ratios, image = (0.5, 1.0, 1.75), picture()
    looks = np.concatenate([looks_of(image, preprocessing(size=(s, 4 * s)), flip) for s in (32, 64, 112)])
    if not sums:
        looks = np.exp(looks) / np.exp(looks).sum(1, keepdims=True)
    found = together(image, ratios=ratios, flip=flip, sums=sums, values_at_once=values)
    np.testing.assert_allclose(found.numpy(), looks.mean(0), atol=2e-5)
    labels = multi_scale_map(ASK, image, preprocessing(), ratios=ratios, flip=flip, sums=sums)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, found.argmax(0).numpy())


@pytest.mark.parametrize("mode", ["fit", "squash"])
def test_other_ways_to_a_size(mode: str) -> None:
    one, image = preprocessing(mode, (64, 96)), picture()
    looks = np.concatenate([looks_of(image, preprocessing(mode, size), True) for size in ((48, 72), (80, 120))])
    looks = np.exp(looks) / np.exp(looks).sum(1, keepdims=True)
    parts = [part for _, part in multi_scale_probabilities(ASK, image, one, ratios=(0.75, 1.25))]
    np.testing.assert_allclose(torch.cat(parts, 1).numpy(), looks.mean(0), atol=2e-5)


def test_bytes_in_a_tensor_are_a_picture() -> None:
    one, image = preprocessing(), picture()
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for options in ({}, {"ratios": (0.5, 1.5), "flip": False, "sums": True}):
        expected = multi_scale_map(ASK, image, one, **options)
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(multi_scale_map(ASK, tensor, one, **options), expected)
    for wrong in (tensor[:1], tensor / 255, tensor[None], tensor[:, :0]):
        with pytest.raises(ValueError, match=r"is no picture: expected torch.uint8 \[3, H, W\]"):
            multi_scale_map(ASK, wrong, one)


def test_numbers_in_a_tensor_are_a_picture_where_the_model_has_numbers() -> None:
    one, image = replace(preprocessing(), numbers=True), picture()
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    found = multi_scale_map(ASK, values, one)
    np.testing.assert_array_equal(multi_scale_map(ASK, Channels.of(values.numpy()), one), found)
    # Bytes round when they are resampled, numbers do not.
    assert (found == multi_scale_map(ASK, image, preprocessing())).mean() > 0.95


def test_sizes_are_the_released_ones() -> None:
    one = preprocessing(size=(512, 2048))
    sizes = [scaled(one, ratio).input_size[1:] for ratio in RATIOS]
    assert sizes == [(256, 1024), (384, 1536), (512, 2048), (640, 2560), (768, 3072), (896, 3584)]
    assert scaled(preprocessing(size=(101, 333)), 0.5).input_size == (3, 50, 166)


def test_a_mirrored_picture_has_the_mirrored_map() -> None:
    image = picture(64, 128)  # of its size already, so that nothing depends on resampling
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    found, other = together(image, ratios=(1.0,)), together(mirrored, ratios=(1.0,))
    torch.testing.assert_close(found.flip(-1), other, rtol=0, atol=1e-6)
    alone = together(image, ratios=(1.0,), flip=False)
    assert (alone - found).abs().max() > 0.01, "the network itself is not symmetric"


def test_probabilities_sum_to_one() -> None:
    torch.testing.assert_close(together(picture()).sum(0), torch.ones(77, 101))


def test_in_windows() -> None:
    image, options = picture(), {"ratios": (1.0, 1.5), "flip": True}
    slide = partial(sliding_scores, ASK, window=64, stride=48, batch_size=3)
    parts = [part for _, part in multi_scale_probabilities(slide, image, preprocessing(), **options)]
    found = torch.cat(parts, 1)
    assert found.shape == (5, 77, 101)
    torch.testing.assert_close(found.sum(0), torch.ones(77, 101))
    assert not torch.allclose(found, together(image, **options), atol=1e-3)
    large = partial(sliding_scores, ASK, window=512, stride=341)
    parts = [part for _, part in multi_scale_probabilities(large, image, preprocessing(), **options)]
    torch.testing.assert_close(torch.cat(parts, 1), together(image, **options), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_net("upernet", Backbone("transnext_pico", img_size=64), 4, size="small").eval()


def _randomised(net: torch.nn.Module) -> None:
    """So that the position bias has a say."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "cpb" in name:
                parameter.copy_(torch.randn_like(parameter))


def test_bias_mode_of_a_copy(net: torch.nn.Module) -> None:
    _randomised(net)
    image, size = torch.randn(1, 3, 96, 128), torch.tensor([[96, 128]])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        extrapolated = net(image, size)
        interpolating = with_bias_mode(net, "interpolate")
        interpolated = interpolating(image, size)
        assert torch.equal(net(image, size), extrapolated), "the network itself stays"
        assert not torch.allclose(interpolated, extrapolated, atol=1e-4)
        assert torch.equal(with_bias_mode(interpolating, "extrapolate")(image, size), extrapolated)
    assert net.backbone.net.bias_mode == "extrapolate"
    shared = {p.data_ptr() for p in net.parameters()}
    assert {p.data_ptr() for p in interpolating.parameters()} == shared
    assert {b.data_ptr() for b in interpolating.buffers()} == {b.data_ptr() for b in net.buffers()}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_size_from_which_is_interpolated(net: torch.nn.Module) -> None:
    """As of a network that was built with it."""
    _randomised(net)
    other = build_net("upernet", Backbone("transnext_pico", img_size=96, pretrain_size=64), 4, size="small").eval()
    other.load_state_dict(net.state_dict())
    other.backbone.net.bias_mode = "interpolate"
    image, size = torch.randn(1, 3, 96, 128), torch.tensor([[96, 128]])
    geometry = copy.deepcopy([m.geometry for m in net.modules() if hasattr(m, "geometry")])
    with torch.no_grad():
        found = with_bias_mode(net, "interpolate", 96)
        torch.testing.assert_close(found(image, size), other(image, size), rtol=0, atol=0)
        assert not torch.allclose(with_bias_mode(net, "interpolate")(image, size), other(image, size), atol=1e-4)
    assert found.backbone.sizes() == other.backbone.sizes()
    assert [m.geometry for m in net.modules() if hasattr(m, "geometry")] == geometry


def test_bias_modes_that_cannot_be(net: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="bias_mode is 'stretch'"):
        with_bias_mode(net, "stretch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no position bias"):
        with_bias_mode(torch.nn.Conv2d(3, 3, 1), "interpolate")


@pytest.mark.parametrize(
    ("ratios", "text"),
    [((), "no ratio"), ((1, 0), "ratio is 0"), ((float("nan"),), "ratio is nan"), ((1000,), "image side at ratio")],
)
def test_ratios_that_cannot_be(ratios: tuple[float, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        multi_scale_map(ASK, picture(), preprocessing(), ratios=ratios)


def test_weights_that_are_not_usable() -> None:
    def broken(images: Tensor, sizes: Tensor) -> Tensor:
        return torch.full((len(images), 2, 8, 8), float("nan"))

    with pytest.raises(ValueError, match="not finite"):
        multi_scale_map(broken, picture(), preprocessing())
