"""Attention of a region: the mean of single queries in it, in float64."""

import math

import pytest
import torch
from torch import Tensor

from tests.explain.test_look import EXACT, MODELS, SIZES, looked_at
from transnext.explain import PARTS, Attention, Looked, RegionAttention
from transnext.explain.weights import Part


def queries_of(looked: Looked, found: RegionAttention, image: int = 0) -> dict[tuple[int, int], Attention]:
    """The queries of a region by row and column, asked for one after the other."""
    place = found.place
    places = [(row, col) for row, col in found.inside.nonzero().tolist()]
    return {at: looked.query(place.stage, place.block, *at, image) for at in places}


def mean_of(queries: dict[tuple[int, int], Attention], part: Part, head: int | None) -> Tensor:
    return torch.stack([query.map(*at, part, head) for at, query in queries.items()]).mean(0)


def ellipse(size: tuple[int, int]) -> Tensor:
    """A mask with a hole."""
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in size)
    r = ((y[:, None] - 0.2) / 0.7) ** 2 + ((x + 0.1) / 0.6) ** 2
    return (r < 1) & (r > 0.1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_region_is_the_mean_of_its_queries(kind, size):
    _, _, looked = looked_at(size, **MODELS[kind])
    h, w = size
    box = (0.21 * w, 0.3 * h, 0.9 * w, 0.77 * h)
    for place in looked.blocks:
        regions = (looked.region(place.stage, place.block, box=box),
                   looked.region(place.stage, place.block, mask=ellipse(size)))  # fmt: skip
        for found in regions:
            queries = queries_of(looked, found)
            for part in PARTS:
                for head in (None, place.heads - 1):
                    expected = mean_of(queries, part, head)
                    torch.testing.assert_close(found.map(part, head), expected, **EXACT)
            one = torch.ones((), dtype=torch.float64)
            torch.testing.assert_close(found.map().sum(), one)
            torch.testing.assert_close(found.map("local").sum(), found.fovea.mean())


def test_the_whole_map_and_a_single_query_are_regions_too():
    _, _, looked = looked_at((75, 131), batch=2)
    whole = looked.region(1, 0, box=(0, 0, 131, 75), image=1)
    assert whole.inside.all()
    torch.testing.assert_close(whole.map(), mean_of(queries_of(looked, whole, 1), "all", None), **EXACT)
    one = looked.region(1, 0, box=(15.5, 7.5, 17, 9))  # pixel (1, 2) of stride 8 stands at (8.5, 16.5)
    assert one.inside.nonzero().tolist() == [[1, 2]]
    torch.testing.assert_close(one.map(), looked.query(1, 0, 1, 2).map(1, 2), **EXACT)


@pytest.mark.parametrize("at_once", [1, 700, 5_000])
def test_queries_are_asked_in_strips(at_once, monkeypatch):
    _, _, looked = looked_at((75, 131))
    box, mask = (9.0, 3.0, 90.0, 70.0), ellipse((75, 131))
    expected = [looked.region(0, 0, box=box).map(part) for part in PARTS]
    expected += [looked.region(3, 0, mask=mask).map()]
    monkeypatch.setattr("transnext.explain.region.AT_ONCE", at_once)
    found = [looked.region(0, 0, box=box).map(part) for part in PARTS] + [looked.region(3, 0, mask=mask).map()]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_which_queries_are_in_a_box():
    _, _, looked = looked_at((75, 131))
    for stage, stride in enumerate((4, 8, 16, 32)):
        grid = (math.ceil(75 / stride), math.ceil(131 / stride))
        for box in ((0, 0, 131, 75), (33, 17.2, 90.5, 64.5), (32.5, 64.5, 96.5, 70), (-50, -9, 70, 900)):
            x0, y0, x1, y1 = box
            expected = [
                [y0 <= row * stride + 0.5 < y1 and x0 <= col * stride + 0.5 < x1 for col in range(grid[1])]
                for row in range(grid[0])
            ]
            assert any(map(any, expected)), box
            assert looked.region(stage, 0, box=box).inside.tolist() == expected


def test_which_queries_are_in_a_mask():
    _, _, looked = looked_at((75, 131))
    mask = ellipse((75, 131))
    for stage, stride in enumerate((4, 8, 16, 32)):
        inside = looked.region(stage, 0, mask=mask).inside
        for row in range(inside.shape[0]):
            for col in range(inside.shape[1]):
                assert inside[row, col] == mask[row * stride, col * stride]


def test_a_region_between_the_queries_is_seen_by_the_nearest():
    _, _, looked = looked_at((75, 131))
    for stage, stride in enumerate((4, 8, 16, 32)):
        y, x = min(2 * stride + stride // 2 - 1, 74), 3 * stride + 1 if stage < 3 else 66
        assert looked.region(stage, 0, box=(x, y, x + 0.4, y + 1)).inside.nonzero().tolist() == [[2, x // stride]]
        mask = torch.zeros(75, 131, dtype=torch.bool)
        mask[y, x] = True
        assert looked.region(stage, 0, mask=mask).inside.nonzero().tolist() == [[2, x // stride]]
    mask[y, x] = False
    mask[[0, 1, 2], 3] = True  # a line away from every query of the last stage; its centre is (1, 3)
    assert looked.region(3, 0, mask=mask).inside.nonzero().tolist() == [[0, 0]]


def test_errors_say_what_to_do():
    _, _, looked = looked_at((64, 64))
    box, mask = (1, 2, 30, 40), torch.ones(64, 64, dtype=torch.bool)
    with pytest.raises(ValueError, match="either a box or a mask"):
        looked.region(0, 0)
    with pytest.raises(ValueError, match="either a box or a mask"):
        looked.region(0, 0, box=box, mask=mask)
    with pytest.raises(ValueError, match=r"expected x0, y0, x1, y1"):
        looked.region(0, 0, box=(1, 2, 3))
    with pytest.raises(ValueError, match=r"expected x0, y0, x1, y1"):
        looked.region(0, 0, box=(1, 2, math.nan, 3))
    for wrong in ((30, 2, 1, 40), (70, 2, 90, 40), (1, 40, 30, 40)):
        with pytest.raises(ValueError, match="x0 < x1 and y0 < y1 within 64 x 64"):
            looked.region(0, 0, box=wrong)
    with pytest.raises(ValueError, match="mask is empty"):
        looked.region(0, 0, mask=~mask)
    with pytest.raises(ValueError, match=r"expected torch.bool \(64, 64\)"):
        looked.region(0, 0, mask=mask[:32])
    with pytest.raises(ValueError, match=r"expected torch.bool"):
        looked.region(0, 0, mask=mask.float())
    with pytest.raises(ValueError, match="image is 1"):
        looked.region(0, 0, box=box, image=1)
    with pytest.raises(ValueError, match="part is"):
        looked.region(0, 0, box=box).map("everything")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="head is 1"):
        looked.region(0, 0, box=box).map(head=1)
