"""Parts of masks against pycocotools, which decodes whole pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from transnext.data.mask_parts import NOTHING, Part, decoded, run_lengths


def encoded(pixels: np.ndarray) -> bytes:
    return coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"]


def whole(part: Part, size: tuple[int, int]) -> np.ndarray:
    """The mask of the picture; fails if the part does not lie in it."""
    result = np.zeros(size, bool)
    height, width = part.pixels.shape
    assert 0 <= part.x <= size[1] - width
    assert 0 <= part.y <= size[0] - height
    result[part.y : part.y + height, part.x : part.x + width] = part.pixels
    return result


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=300)
def test_there_and_back(seed) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 90)), int(rng.integers(1, 90)))
    y, x = (sorted(rng.integers(0, side + 1, 2).tolist()) for side in size)
    pixels = np.zeros(size, bool)
    inside = pixels[y[0] : y[1], x[0] : x[1]]
    inside[:] = rng.random(inside.shape) < rng.choice([0.02, 0.5, 0.98, 1])
    counts = encoded(pixels)
    part = decoded(counts, size[0])
    np.testing.assert_array_equal(whole(part, size), pixels)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if len(rows):
        assert part.pixels.shape[1] == columns[-1] + 1 - columns[0]
        assert part.pixels.shape[0] in (rows[-1] + 1 - rows[0], size[0])
    else:
        assert part is NOTHING
    assert run_lengths([part], size) == [{"size": list(size), "counts": counts}]


@pytest.mark.parametrize("runs", [[3, 0, 0, 2, 7], [0, 0, 5, 4, 3, 0], [12], [0, 12], [0, 12, 0, 0], [0, 0, 12]])
def test_runs_of_no_pixel(runs) -> None:
    """Files may have them anywhere."""
    mask = coco_mask.frPyObjects({"size": [4, 3], "counts": runs}, 4, 3)
    np.testing.assert_array_equal(whole(decoded(mask["counts"], 4), (4, 3)), coco_mask.decode(mask).astype(bool))


def test_no_runs() -> None:
    assert decoded(b"", 4) is NOTHING


def test_an_object_in_a_large_picture_is_held_alone() -> None:
    size = (3000, 4000)
    pixels = np.zeros(size, bool)
    pixels[2990:, 3960:] = True
    part = decoded(encoded(pixels), size[0])
    assert part.pixels.shape == (3000, 40) or part.pixels.shape == (10, 40)
    np.testing.assert_array_equal(whole(part, size), pixels)
    pixels[2999] = False
    assert decoded(encoded(pixels), size[0]).pixels.shape == (9, 40)
