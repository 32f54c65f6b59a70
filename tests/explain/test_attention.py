"""The map against its definition, computed here for the whole feature map by loops over pooling bins."""

import math

import pytest
import timm
import torch
from torch import Tensor, nn

import transnext  # noqa: F401  (registers the models)
from tests.helpers.small_transnext import small_model
from transnext.explain import attention_from, where_it_looks
from transnext.models import TransNeXt
from transnext.models.attention import AggregatedAttention
from transnext.ops.reference import aggregated_attention_weights


def brute_force(model: TransNeXt, images: Tensor, stage: int, block: int, row: int, col: int) -> Tensor:
    """The map of the query `(row, col)` from the weights of all queries, spread bin by bin."""
    mixer = model.stages[stage].blocks[block].attn
    seen = []
    handle = mixer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.eval()(images)
        handle.remove()
        x = seen[0]
        q = mixer.q(x).unflatten(-1, (mixer.num_heads, -1))
        k, _, k_pool, _ = mixer.keys_of(x)
        local, pool = aggregated_attention_weights(
            q,
            k,
            k_pool,
            mixer.query_embedding,
            mixer.temperature,
            mixer.relative_pos_bias_local,
            *mixer.bias_of(x),
        )
    local, pool = local[:, row, col].mean(1), pool[:, row, col].mean(1)
    B, h, w, _ = x.shape
    r = mixer.window_size // 2
    expected = torch.zeros(B, h, w)
    for i in range(mixer.window_size**2):
        y, x_ = row + i // mixer.window_size - r, col + i % mixer.window_size - r
        if 0 <= y < h and 0 <= x_ < w:
            expected[:, y, x_] += local[:, i]
    P_h, P_w = pool.shape[1:]
    for a in range(P_h):
        top, bottom = math.floor(a * h / P_h), math.ceil((a + 1) * h / P_h)
        for b in range(P_w):
            left, right = math.floor(b * w / P_w), math.ceil((b + 1) * w / P_w)
            share = pool[:, a, b] / ((bottom - top) * (right - left))
            expected[:, top:bottom, left:right] += share[:, None, None]
    return expected


SIZES = [(64, 64), (96, 160), (75, 131), (33, 230)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("position", [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.3, 0.8)])
def test_equals_brute_force(size, position):
    model, images = small_model(), torch.randn(2, 3, *size)
    attention = attention_from(model, images, position)
    h, w = (math.ceil(s / 16) for s in size)
    row, col = (min(max(round((p * s - 0.5) / 16), 0), n - 1) for p, s, n in zip(position, size, (h, w), strict=True))
    assert attention.shape == (2, h, w)
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(attention, brute_force(model, images, 2, 1, row, col))


@pytest.mark.parametrize(("stage", "block", "stride"), [(0, 0, 4), (1, 0, 8), (2, 0, 16), (-2, 1, 16)])
def test_any_aggregated_block(stage, block, stride):
    model, images = small_model(), torch.randn(1, 3, 70, 90)
    attention = attention_from(model, images, (0.5, 0.5), stage=stage, block=block)
    row, col = round(34.5 / stride), round(44.5 / stride)
    torch.testing.assert_close(attention, brute_force(model, images, stage, block, row, col))


@pytest.mark.parametrize("fixed_pool_size", [(2, 3), (7, 7)])
def test_linear_mode(fixed_pool_size):
    """A pooled grid larger than the map makes bins overlap."""
    model, images = small_model(fixed_pool_size=fixed_pool_size), torch.randn(1, 3, 80, 80)
    torch.testing.assert_close(attention_from(model, images), brute_force(model, images, 2, 1, 2, 2))


def test_interpolated_bias_and_a_wider_window():
    model = small_model(bias_mode="interpolate", window_size=(3, 3, 5, None))
    images = torch.randn(1, 3, 100, 70)
    torch.testing.assert_close(attention_from(model, images), brute_force(model, images, 2, 1, 3, 2))


def test_four_aggregated_stages_use_the_last():
    model, images = small_model(sr_ratios=(16, 8, 4, 2)), torch.randn(1, 3, 96, 96)
    attention = attention_from(model, images)
    assert attention.shape == (1, 3, 3)
    torch.testing.assert_close(attention, brute_force(model, images, 3, 0, 1, 1))


def test_images_of_a_batch_are_independent():
    model, images = small_model(), torch.randn(3, 3, 64, 64)
    alone = torch.cat([attention_from(model, image[None]) for image in images])
    torch.testing.assert_close(attention_from(model, images), alone)


@pytest.mark.parametrize("size", SIZES)
def test_where_it_looks_has_the_size_of_the_images(size):
    heat = where_it_looks(small_model(), torch.randn(2, 3, *size))
    assert heat.shape == (2, *size)
    assert heat.min() >= 0
    torch.testing.assert_close(heat.amax((1, 2)), torch.ones(2))


def test_heat_stands_where_the_patches_are():
    """Feature-map pixel `i` is centred on image pixel `16 * i`."""
    model, images = small_model(), torch.randn(1, 3, 65, 97)
    attention = attention_from(model, images)
    torch.testing.assert_close(where_it_looks(model, images)[:, ::16, ::16], attention / attention.max())


def test_the_model_is_left_as_it_was():
    model, images = small_model(drop_path_rate=0.5), torch.randn(1, 3, 64, 64)
    model.train()
    model.stages[0].eval()  # as a user who freezes a stage would
    modes = [m.training for m in model.modules()]
    first = attention_from(model, images)
    torch.testing.assert_close(attention_from(model, images), first)  # no stochastic depth
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not first.requires_grad
    assert all(p.grad is None for p in model.parameters())
    model(images).sum().backward()


def test_fused_models():
    """A mixer that is looked at runs as modules, which for others is an error."""
    model, images = small_model(), torch.randn(1, 3, 64, 64)
    expected = attention_from(model, images)
    model.backend = "fused"
    assert torch.equal(attention_from(model, images), expected)
    assert model.backend == "fused"


def test_an_error_leaves_no_hook():
    model = small_model().train()
    with pytest.raises(RuntimeError):
        attention_from(model, torch.randn(1, 5, 64, 64))
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_wrapped_models():
    images = torch.randn(1, 3, 64, 64)
    model = timm.create_model("transnext_pico", num_classes=4)
    expected = attention_from(model, images)
    torch.testing.assert_close(attention_from(nn.Sequential(model, nn.ReLU()), images), expected)
    features = timm.create_model("transnext_pico", features_only=True)
    assert attention_from(features, images).shape == (1, 4, 4)


def test_bfloat16_gives_float32():
    model = small_model().to(torch.bfloat16)
    attention = attention_from(model, torch.randn(1, 3, 64, 64, dtype=torch.bfloat16))
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention.sum(), torch.tensor(1.0))


def test_errors_say_what_to_do():
    model, images = small_model(), torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="choose one of 0, 1, 2"):
        attention_from(model, images, stage=3)
    with pytest.raises(ValueError, match="has 2 blocks"):
        attention_from(model, images, block=2)
    with pytest.raises(ValueError, match="fractions of the image"):
        attention_from(model, images, position=(0.5, 1.5))
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        attention_from(model, images[0])
    with pytest.raises(ValueError, match="no TransNeXt"):
        attention_from(nn.Linear(2, 2), images)
    everywhere = small_model(sr_ratios=(1, 1, 1, 1), mixers=("global",) * 4)
    assert not any(isinstance(m, AggregatedAttention) for m in everywhere.modules())
    with pytest.raises(ValueError, match="no stage with aggregated attention"):
        attention_from(everywhere, images)
