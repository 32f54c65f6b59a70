"""Scores at the size of the picture."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.tasks.segmentation.placing import class_map, resize_scores

pytestmark = pytest.mark.usefixtures("one_thread")

# classes, scores, canvas, image, picture
CASES = {
    "enlarged": (5, (16, 24), (64, 96), (64, 96), (131, 257)),
    "shrunk": (3, (16, 24), (64, 96), (50, 75), (33, 21)),
    "padded": (4, (16, 16), (64, 64), (64, 41), (101, 67)),
    "as_it_is": (2, (64, 32), (64, 32), (64, 32), (64, 32)),
    "one_pixel": (2, (1, 1), (32, 32), (1, 1), (1, 1)),
    "one_row": (2, (8, 8), (32, 32), (1, 30), (1, 40)),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Tensor, tuple[int, int], tuple[int, int], tuple[int, int]]:
    classes, shape, *sizes = request.param
    return torch.randn(classes, *shape), *sizes


def stretched(x: npt.NDArray[np.float64], axis: int, size: int) -> npt.NDArray[np.float64]:
    """Linear between the centres of pixels along an axis, and constant beyond."""
    at = (np.arange(size) + 0.5) * x.shape[axis] / size - 0.5
    return np.apply_along_axis(lambda row: np.interp(at, np.arange(len(row)), row), axis, x)


@pytest.mark.parametrize("values", [1, 4000, 2**24])
def test_canvas_then_picture(
    case: tuple[Tensor, tuple[int, int], tuple[int, int], tuple[int, int]], values: int
) -> None:
    scores, canvas, size, original = case
    expected = scores.double().numpy()
    for axis in (0, 1):
        expected = stretched(expected, axis + 1, canvas[axis])
    expected = expected[:, : size[0], : size[1]]
    for axis in (0, 1):
        expected = stretched(expected, axis + 1, original[axis])
    parts = list(resize_scores(scores, canvas, size, original, values_at_once=values))
    rows = [row for part, _ in parts for row in range(part.start, part.stop)]
    assert rows == list(range(original[0]))
    placed = torch.cat([of_rows for _, of_rows in parts], dim=1)
    assert placed.dtype == torch.float32
    np.testing.assert_allclose(placed.numpy(), expected, atol=1e-5)
    classes = class_map(scores, canvas, size, original, values_at_once=values)
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.long(), placed.argmax(0))


def test_it_is_what_pytorch_does() -> None:
    scores = torch.randn(3, 12, 20)
    canvas = F.interpolate(scores[None], (48, 80), mode="bilinear", align_corners=False)[..., :40, :77]
    expected = F.interpolate(canvas, (313, 211), mode="bilinear", align_corners=False)[0]
    placed = torch.cat([part for _, part in resize_scores(scores, (48, 80), (40, 77), (313, 211))], dim=1)
    torch.testing.assert_close(placed, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("values", [10**5, 10**6])
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    """However high the picture, and however much smaller than the canvas."""
    largest = 0
    plain = F.interpolate

    def watched(x: Tensor, **args: object) -> Tensor:
        nonlocal largest
        out = plain(x, **args)
        largest = max(largest, x.numel(), out.numel())
        return out

    monkeypatch.setattr(F, "interpolate", watched)
    for original in ((3000, 40), (50, 400), (7, 5)):
        class_map(torch.randn(20, 64, 64), (256, 256), (256, 200), original, values_at_once=values)
    # One row of the smallest picture is made of 37 rows of the canvas, and of one more on either side.
    assert largest <= max(values, 20 * 256 * 40)


def test_half_precision_is_widened() -> None:
    scores = torch.randn(3, 8, 8).bfloat16()
    ((_, placed),) = resize_scores(scores, (32, 32), (32, 32), (45, 45))
    ((_, expected),) = resize_scores(scores.float(), (32, 32), (32, 32), (45, 45))
    assert torch.equal(placed, expected)


@pytest.mark.parametrize(
    ("size", "original"), [((33, 32), (5, 5)), ((32, 33), (5, 5)), ((0, 32), (5, 5)), ((32, 32), (0, 5))]
)
def test_sizes_that_cannot_be(size: tuple[int, int], original: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"on a canvas of \(32, 32\)"):
        next(iter(resize_scores(torch.zeros(2, 8, 8), (32, 32), size, original)))


def test_too_many_classes_for_a_byte() -> None:
    with pytest.raises(ValueError, match="257 classes do not fit"):
        class_map(torch.zeros(257, 2, 2), (8, 8), (8, 8), (8, 8))
