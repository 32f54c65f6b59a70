"""Rollout against the product of dense matrices, made by loops in float64."""

import pytest
import torch
from torch import Tensor

from tests.helpers.small_transnext import small_model
from transnext.explain import Looked, look, roll_out
from transnext.explain import rollout as rollout_module
from transnext.explain.rollout import through_attention, through_embedding

EXACT = {"rtol": 0.0, "atol": 1e-12}


def looked_at(size: tuple[int, int], **kwargs) -> Looked:
    return look(small_model(**kwargs).double(), torch.randn(1, 3, *size, dtype=torch.float64))


def dense_attention(looked: Looked, stage: int, block: int) -> Tensor:
    """`[N, N]`, a row for each query."""
    found = looked.block(stage, block)
    h, w = found.place.grid
    return torch.stack([found.map(row, col).flatten() for row in range(h) for col in range(w)])


def dense_embedding(weight: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """`[n, N]`, a row for each patch, by the definition: shares of the norms of the kernel within the map."""
    kernel = weight.shape[-1]
    norms = torch.tensor([[weight[:, :, y, x].norm() for x in range(kernel)] for y in range(kernel)])
    h, w = (-(-n // stride) for n in size)
    matrix = torch.zeros(h, w, *size, dtype=torch.float64)
    for row in range(h):
        for col in range(w):
            for dy in range(kernel):
                for dx in range(kernel):
                    y, x = row * stride + dy - kernel // 2, col * stride + dx - kernel // 2
                    if 0 <= y < size[0] and 0 <= x < size[1]:
                        matrix[row, col, y, x] = norms[dy, dx]
    matrix /= matrix.sum((2, 3), keepdim=True)
    return matrix.flatten(2).flatten(0, 1)


def dense(looked: Looked, residual: float = 0.5) -> list[Tensor]:
    """Operators `[N_last, ...]` from the end to the first map of each stage, and to the image, which is last."""
    product, found = None, []
    for stage in range(3, -1, -1):
        blocks = [place for place in looked.blocks if place.stage == stage]
        for place in blocks[::-1]:
            attention = dense_attention(looked, stage, place.block)
            operator = residual * torch.eye(len(attention), dtype=torch.float64) + (1 - residual) * attention
            product = operator if product is None else product @ operator
        found.insert(0, product)
        size = looked.image_size if stage == 0 else looked.kept(stage - 1, 0).place.grid
        proj = looked.net.stages[stage].patch_embed.proj
        product = product @ dense_embedding(proj.weight.detach(), proj.stride[0], size)
    return [*found, product]


@pytest.mark.parametrize(
    ("size", "kwargs"),
    [
        ((64, 64), {}),
        ((45, 70), {"window_size": (3, 5, 3, None)}),
        ((64, 64), {"sr_ratios": (16, 8, 4, 2), "bias_mode": "interpolate"}),
    ],
)
def test_equals_the_dense_product(size, kwargs):
    looked = looked_at(size, **kwargs)
    operators = dense(looked)
    torch.testing.assert_close(operators[-1].sum(1), torch.ones(len(operators[-1]), dtype=torch.float64))
    found = roll_out(looked)
    for ours, operator in zip([*found.stages, found.image], operators, strict=True):
        torch.testing.assert_close(ours.flatten(), operator.mean(0), **EXACT)
    for position in ((0.0, 0.0), (0.9, 0.4)):
        row, col = looked.nearest(-1, position)
        place = looked.blocks[-1]
        expected = operators[-1][row * place.grid[1] + col].view(size)
        torch.testing.assert_close(roll_out(looked, position).image, expected, **EXACT)


def test_from_an_earlier_stage_and_with_other_residuals():
    looked = looked_at((64, 64))
    alone = roll_out(looked, (0.4, 0.6), stage=0, residual=0.2).image
    attention = dense_attention(looked, 0, 0)
    proj = looked.net.stages[0].patch_embed.proj
    row, col = looked.nearest(0, (0.4, 0.6))
    start = torch.zeros(16, 16, dtype=torch.float64)
    start[row, col] = 1
    expected = 0.2 * start.flatten() + 0.8 * start.flatten() @ attention
    expected = expected @ dense_embedding(proj.weight.detach(), 4, (64, 64))
    torch.testing.assert_close(alone.flatten(), expected, **EXACT)


def test_tiles_do_not_matter(monkeypatch):
    looked = looked_at((75, 131))
    expected = roll_out(looked).image
    for entries in (1, 500, 1 << 26):
        monkeypatch.setattr(rollout_module, "TILE_ENTRIES", entries)
        torch.testing.assert_close(roll_out(looked).image, expected, **EXACT)


@pytest.mark.parametrize("size", [(64, 64), (33, 230), (61, 50)])
def test_shares_sum_to_one(size):
    looked = looked_at(size)
    found = roll_out(looked, (0.2, 0.8))
    for shares in (*found.stages, found.image):
        assert (shares >= 0).all()
        torch.testing.assert_close(shares.sum(), torch.ones((), dtype=torch.float64))
    assert found.image.shape == size
    for place in looked.blocks:
        shares = torch.rand(place.grid, dtype=torch.float64)
        through = through_attention(looked.kept(place.stage, place.block), shares)
        torch.testing.assert_close(through.sum(), shares.sum())
    conv = looked.net.stages[0].patch_embed.proj
    shares = torch.rand(looked.blocks[0].grid, dtype=torch.float64)
    torch.testing.assert_close(through_embedding(conv, shares, size).sum(), shares.sum())


def test_images_of_a_batch():
    model, images = small_model().double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    both, alone = look(model, images), look(model, images[1:])
    torch.testing.assert_close(roll_out(both, image=1).image, roll_out(alone).image)


def test_errors():
    looked = looked_at((64, 64))
    with pytest.raises(ValueError, match=r"residual is 1\.5"):
        roll_out(looked, residual=1.5)
    with pytest.raises(ValueError, match="stage is 7"):
        roll_out(looked, stage=7)
    with pytest.raises(ValueError, match="fractions"):
        roll_out(looked, (2.0, 0.0))
