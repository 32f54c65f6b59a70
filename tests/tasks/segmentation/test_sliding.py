"""Scores of a picture from overlapping windows: those of the definition, whatever is asked about together."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.looking import Looking, dense, placed_picture
from transnext.models.backbone import Backbone
from transnext.tasks.segmentation import blending
from transnext.tasks.segmentation.blending import Ask, asked, blended, places, whole
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.sliding import sliding_scores
from transnext.tasks.tiling import Grid

pytestmark = pytest.mark.usefixtures("one_thread")

GRIDS = {
    "one window": Grid.sliding((50, 41), 64, 48),
    "exactly one": Grid.sliding((64, 64), 64, 40),
    "one row": Grid.sliding((64, 200), 64, 41),
    "one column": Grid.sliding((201, 33), 64, 64),
    "moved back": Grid.sliding((131, 257), 64, 43),
    "three at a place": Grid.sliding((97, 98), 64, 32),
    "many at a place": Grid.sliding((90, 75), 64, 7),
    "without overlap": Grid.sliding((128, 192), 64, 64),
    "padded windows": Grid.sliding((117, 90), 50, 31),
    "tiles": Grid.tiled((131, 257), 64, 0.3),
    "tiles that hardly overlap": Grid.tiled((131, 257), 64, 0),
    "half a tile": Grid((160, 96), (64, 64), [0, 32, 64, 96], [0, 10, 32], fading=True),
}


def _asked(ask: Ask, picture: Tensor, grid: Grid) -> Iterator[Tensor]:
    return asked(ask, (picture[:, rows, columns] for rows, columns in places(grid)), 3)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_blocks_are_the_definition(grid: Grid, stride: int) -> None:
    ask, picture = Looking(stride), placed_picture(*grid.size)
    seen = np.zeros(grid.size, int)
    scores = np.zeros((5, *grid.size))
    last = (0, 0)
    for rows, columns, block in blended(_asked(ask, picture, grid), grid):
        assert (rows.start, columns.start) >= last, "from top to bottom, and from left to right"
        last = (rows.start, columns.start)
        assert block.dtype == torch.float32
        seen[rows, columns] += 1
        scores[:, rows, columns] = block.numpy()
    assert (seen == 1).all()
    expected = dense(ask, picture, grid)
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    at_once = whole(_asked(ask, picture, grid), grid, (grid.size[0] + 3, grid.size[1] + 1)).numpy()
    np.testing.assert_allclose(at_once[:, :-3, :-1], expected, atol=2e-5)
    assert not at_once[:, -3:].any()
    assert not at_once[:, :, -1:].any()


def test_what_is_known_of_the_released_mean() -> None:
    """Sums divided by counts, as the released code has it."""
    grid = GRIDS["moved back"]
    ask, picture = Looking(), placed_picture(*grid.size)
    total, counts = torch.zeros(5, *grid.size), torch.zeros(grid.size)
    for rows, columns in places(grid):
        scores = ask(picture[None, :, rows, columns], torch.tensor([grid.window]))
        total[:, rows, columns] += F.interpolate(scores, grid.window, mode="bilinear", align_corners=False)[0]
        counts[rows, columns] += 1
    (found,) = sliding_scores(ask, picture[None], torch.tensor([grid.size]), window=64, stride=43)
    torch.testing.assert_close(found[:, :131, :257], total / counts, rtol=0, atol=2e-6)


def test_a_constant_network_gives_a_constant() -> None:
    def constant(images: Tensor, sizes: Tensor) -> Tensor:
        return torch.tensor([2.5, -1.0])[None, :, None, None].expand(len(images), 2, 8, 8)

    for grid in GRIDS.values():
        picture = torch.zeros(3, *grid.size)
        scores = whole(_asked(constant, picture, grid), grid, grid.size)
        torch.testing.assert_close(scores, torch.tensor([2.5, -1.0])[:, None, None].expand(2, *grid.size))


@pytest.mark.parametrize("values", [1, 10**4])
def test_classes_some_at_a_time(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    grid = GRIDS["moved back"]
    ask, picture = Looking(), placed_picture(*grid.size)
    expected = whole(_asked(ask, picture, grid), grid, grid.size)
    blocks = [block.clone() for _, _, block in blended(_asked(ask, picture, grid), grid)]
    monkeypatch.setattr(blending, "_AT_ONCE", values)
    assert torch.equal(whole(_asked(ask, picture, grid), grid, grid.size), expected)
    for (_, _, block), other in zip(blended(_asked(ask, picture, grid), grid), blocks, strict=True):
        assert torch.equal(block, other)


def test_pictures_of_a_batch_are_as_alone() -> None:
    """Also beside larger ones, with windows of several pictures in one batch."""
    sizes = [(96, 150), (70, 33), (64, 64), (160, 96), (65, 200)]
    images = torch.zeros(5, 3, 160, 200)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, :height, :width] = placed_picture(height, width)
    ask = Looking()
    found = list(sliding_scores(ask, images, torch.tensor(sizes), window=64, stride=40, batch_size=4))
    assert all(batch[0] <= 4 for batch in ask.batches)
    assert ask.batches[0] == (4, 64, 64)
    for scores, image, (height, width) in zip(found, images, sizes, strict=True):
        assert scores.shape == (5, 160, 224)
        alone = image[None, :, :height, :width]
        (expected,) = sliding_scores(ask, alone, torch.tensor([[height, width]]), window=64, stride=40, batch_size=1)
        torch.testing.assert_close(scores[:, :height, :width], expected[:, :height, :width], rtol=0, atol=1e-6)
        assert not scores[:, height:].any()
        assert not scores[:, :, width:].any()


def test_in_one_window_it_is_the_network_itself() -> None:
    net = build_net("upernet", Backbone("transnext_pico"), 4, size="small").eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        plain = F.interpolate(net(image, torch.tensor([[64, 96]])), (64, 96), mode="bilinear", align_corners=False)[0]
    (found,) = sliding_scores(net, image, torch.tensor([[64, 96]]), window=96, stride=64)
    assert torch.equal(found, plain)


def test_a_network_in_windows() -> None:
    """A real one, batches beside single windows, float64 sums."""
    net = build_net("upernet", Backbone("transnext_pico"), 4, size="small").eval()
    image, sizes = torch.randn(1, 3, 96, 128), torch.tensor([[90, 128]])
    (together,) = sliding_scores(net, image, sizes, window=64, stride=40, batch_size=8)
    (single,) = sliding_scores(net, image, sizes, window=64, stride=40, batch_size=1)
    torch.testing.assert_close(together, single, rtol=0, atol=1e-4)
    assert torch.is_grad_enabled()


def test_grad_mode_of_the_caller_stays_between_pictures() -> None:
    images, sizes = torch.randn(2, 3, 64, 64), torch.tensor([[64, 64]] * 2)
    for _ in sliding_scores(Looking(), images, sizes, window=64, stride=64):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"window": 0}, "window is 0"),
        ({"window": 64, "stride": 65}, "stride is 65: expected between 1 and 64"),
        ({"stride": 0}, "stride is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sliding_scores(Looking(), torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]), **options)


def test_a_network_that_forgets_a_window() -> None:
    def forgetful(images: Tensor, sizes: Tensor) -> Tensor:
        return torch.zeros(1, 2, 8, 8)

    with pytest.raises(ValueError, match="argument 2 is shorter"):
        list(sliding_scores(forgetful, torch.zeros(1, 3, 64, 128), torch.tensor([[64, 128]]), window=64, stride=64))
