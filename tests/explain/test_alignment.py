"""A bright dot is found where it is, by a network that looks for bright places, whether patches divide its size or not.

Trained networks look at edges and corners as they please, so weights are set by hand: patches are means weighted by
distance from the middle, blocks change nothing, and all queries prefer bright keys.
"""

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.small_transnext import small_model
from transnext.explain import Looked, class_activation, integrated_gradients, look, where_it_looks
from transnext.models import TransNeXt
from transnext.models.attention import AggregatedAttention

SIZES = [(64, 64), (224, 224), (333, 517)]
STRIDES = (4, 8, 16)


@torch.no_grad()
def seeker() -> TransNeXt:
    """Channels are brightness, its opposite, 1 and -1: where all is dark, norms and padding leave 0."""
    model = small_model().eval()
    for name, p in model.named_parameters():
        if "norm" in name:
            nn.init.constant_(p, float(name.endswith("weight")))
        elif name.endswith("temperature"):
            nn.init.constant_(p, 20.0)
        else:
            nn.init.zeros_(p)
    for index, stage in enumerate(model.stages):
        conv = stage.patch_embed.proj
        s = conv.stride[0]
        tent = s - (torch.arange(2.0 * s - 1) - (s - 1)).abs()
        kernel = tent[:, None] * tent / s**2
        for channel, sign in ((0, 1.0), (1, -1.0)):
            conv.weight[channel, slice(0, 3) if index == 0 else 0] = sign * kernel
        conv.bias[2:4] = torch.tensor([1.0, -1.0])
        for block in stage.blocks:
            mixer = block.attn
            if isinstance(mixer, AggregatedAttention):
                dim, head = mixer.q.out_features, mixer.q.out_features // mixer.num_heads
                mixer.q.bias[::head] = 1
                mixer.kv.weight[:dim:head, 0] = 1  # of the key: brightness, and then a 1
                mixer.kv.bias[1:dim:head] = 1
                mixer.sr.weight[range(dim), range(dim)] = 1
    model.head.fc.weight[1, 0] = 1
    return model


def dotted(size: tuple[int, int], row: int, col: int) -> Tensor:
    image = torch.zeros(1, 3, *size)
    image[:, :, row, col] = 30
    return image


def dots(size: tuple[int, int]) -> list[tuple[int, int]]:
    generator = torch.Generator().manual_seed(1)
    return [tuple(int(torch.randint(0, n, (), generator=generator)) for n in size) for _ in range(5)] + [(0, 0)]


def farthest(heat: Tensor, row: int, col: int) -> float:
    """Distance of the brightest place from the dot, along the worse axis, pixels."""
    place = int(heat.argmax())
    return max(abs(place // heat.shape[1] - row), abs(place % heat.shape[1] - col))


def fraction(size: tuple[int, int], row: int, col: int) -> tuple[float, float]:
    return (row + 0.5) / size[0], (col + 0.5) / size[1]


def bound(size: tuple[int, int], stride: int, row: int, col: int) -> float:
    """Half a patch, or how far the dot is from the last patch."""
    last = [(-(-n // stride) - 1) * stride for n in size]
    return max(stride / 2, row - last[0], col - last[1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_window_finds_the_dot(size, stage):
    model, stride = seeker(), STRIDES[stage]
    for row, col in dots(size):
        looked = look(model, dotted(size, row, col))
        y, x = looked.nearest(stage, fraction(size, row, col))
        grid = looked.kept(stage, 0).place.grid
        limit = bound(size, stride, row, col)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                query = y + dy, x + dx
                if 0 <= query[0] < grid[0] and 0 <= query[1] < grid[1]:
                    found = looked.query(stage, 0, *query)
                    for part in ("local", "all"):
                        heat = looked.on_image(found.map(*query, part), stage)
                        assert farthest(heat, row, col) <= limit, (row, col, query, part)
        heat = where_it_looks(model, dotted(size, row, col), fraction(size, row, col), stage, 0)[0]
        assert farthest(heat, row, col) <= limit


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_pooled_key_of_the_dot_is_found_from_afar(size, stage):
    model = seeker()
    for row, col in dots(size)[:3]:
        looked: Looked = look(model, dotted(size, row, col))
        place = looked.kept(stage, 0).place
        far = tuple(
            0 if dot > n / 2 else length - 1 for dot, n, length in zip((row, col), size, place.grid, strict=True)
        )
        heat = looked.query(stage, 0, *far).map(*far, "pooled")
        y, x = looked.nearest(stage, fraction(size, row, col))
        assert heat[y, x] == pytest.approx(heat.max().item())
        assert heat[y, x] > 2 * heat.median()


@pytest.mark.parametrize("size", SIZES)
def test_gradients_find_the_dot(size):
    pytest.importorskip("torchcam")
    pytest.importorskip("captum")
    model = seeker()
    for row, col in dots(size)[:2]:
        image = dotted(size, row, col)
        for stage, stride in enumerate((*STRIDES, 32)):
            heat = class_activation(model, image, lambda logits: logits[1], method="gradcam", stage=stage)[0]
            assert farthest(heat, row, col) <= bound(size, stride, row, col)
        heat = integrated_gradients(model, image, lambda logits: logits[1], steps=8)[0]
        assert farthest(heat, row, col) == 0
