"""What `look` says, held to what the blocks themselves compute with their attention, in float64."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transnext  # noqa: F401  (registers the models)
from tests.helpers.small_transnext import small_model
from transnext.explain import Looked, attention_from, look
from transnext.explain.weights import Kept
from transnext.models import TransNeXt
from transnext.ops import expand_bias_table
from transnext.ops.reference import aggregated_attention_weights

SIZES = [(64, 64), (75, 131), (33, 230)]
MODELS = {
    "plain": {},
    "interpolate": {"bias_mode": "interpolate"},
    "linear": {"fixed_pool_size": (2, 3)},
    "wide windows": {"window_size": (3, 5, 3, None)},
    "aggregated everywhere": {"sr_ratios": (16, 8, 4, 2)},
}
EXACT = {"rtol": 0.0, "atol": 1e-12}


def looked_at(size: tuple[int, int] = (75, 131), batch: int = 1, **kwargs) -> tuple[TransNeXt, Tensor, Looked]:
    model = small_model(**kwargs).double()
    images = torch.randn(batch, 3, *size, dtype=torch.float64)
    return model, images, look(model, images)


def neighbours(x: Tensor, window: int) -> Tensor:
    """`[h, w, C]` to `[N, K, C]`, zeros outside the map."""
    r = window // 2
    padded = F.pad(x, (0, 0, r, r, r, r))
    h, w, _ = x.shape
    shifts = [padded[dy : dy + h, dx : dx + w] for dy in range(window) for dx in range(window)]
    return torch.stack(shifts, 2).flatten(0, 1)


@torch.no_grad()
def mixed(looked: Looked, stage: int, block: int) -> tuple[Tensor, Tensor]:
    """What a mixer gives by the attention that was found, `[h, w, C]`, and what it gives when it is called."""
    kept, found = looked.kept(stage, block), looked.block(stage, block)
    mixer, x = kept.mixer, kept.norm(kept.x)
    if kept.place.pool is None:
        v = mixer.qkv(x)[0].chunk(3, -1)[2]
        v_pool, local = v.flatten(0, 1), None
    else:
        v = mixer.kv(x)[0].chunk(2, -1)[1]
        v_pool = mixer.pooled_keys_of(x)[1][0].flatten(0, 1).flatten(-2)
        local = (found.local + found.bonus), neighbours(v, kept.place.window)
    outs = []
    for head in range(kept.place.heads):
        channels = slice(head * v.shape[-1] // kept.place.heads, (head + 1) * v.shape[-1] // kept.place.heads)
        out = found.pooled[head] @ v_pool[:, channels]
        if local is not None:
            out = out + (local[0][head].unsqueeze(1) @ local[1][..., channels]).squeeze(1)
        outs.append(out)
    return mixer.proj(torch.cat(outs, -1)).unflatten(0, kept.place.grid), mixer(x)[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", MODELS)
def test_the_attention_gives_what_the_mixers_give(kind, size):
    _, _, looked = looked_at(size, **MODELS[kind])
    assert len(looked.blocks) == 5
    for place in looked.blocks:
        ours, theirs = mixed(looked, place.stage, place.block)
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_weights_of_the_op(size):
    _, _, looked = looked_at(size)
    for place in looked.blocks:
        if place.pool is None:
            continue
        kept, found = looked.kept(place.stage, place.block), looked.block(place.stage, place.block)
        mixer = kept.mixer
        with torch.no_grad():
            x = kept.norm(kept.x)
            q = mixer.q(x).unflatten(-1, (mixer.num_heads, -1))
            k, _, k_pool, _ = mixer.keys_of(x)
            parameters = (mixer.query_embedding, mixer.temperature, mixer.relative_pos_bias_local)
            local, pool = aggregated_attention_weights(q, k, k_pool, *parameters, *mixer.bias_of(x))
        heads, N = place.heads, math.prod(place.grid)
        torch.testing.assert_close(found.local, local[0].permute(2, 0, 1, 3).reshape(heads, N, -1), **EXACT)
        torch.testing.assert_close(found.pooled, pool[0].permute(2, 0, 1, 3, 4).reshape(heads, N, -1), **EXACT)


@pytest.mark.parametrize("kind", MODELS)
def test_one_query_is_as_in_its_block(kind):
    _, _, looked = looked_at((75, 131), **MODELS[kind])
    for place in looked.blocks:
        whole = looked.block(place.stage, place.block)
        h, w = place.grid
        for row, col in {(0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1), (h // 2, w // 3)}:
            one = looked.query(place.stage, place.block, row, col)
            n = row * w + col
            for name in ("local", "pooled", "bonus"):
                torch.testing.assert_close(getattr(one, name)[:, 0], getattr(whole, name)[:, n], **EXACT)
            for ours, theirs in zip(one.bias_only, whole.bias_only, strict=True):
                torch.testing.assert_close(ours[:, 0], theirs[:, n], **EXACT)
            torch.testing.assert_close(one.map(row, col), whole.map(row, col), **EXACT)


def test_parts_of_a_query_sum_to_what_they_say():
    _, _, looked = looked_at()
    for place in looked.blocks:
        found = looked.block(place.stage, place.block)
        row, col = place.grid[0] - 1, 0
        n, one = row * place.grid[1] + col, torch.ones((), dtype=torch.float64)
        torch.testing.assert_close(found.map(row, col).sum(), one)
        torch.testing.assert_close(found.map(row, col, "bias").sum(), one)
        torch.testing.assert_close(found.map(row, col, "local").sum(), found.fovea[:, n].mean())
        torch.testing.assert_close(found.map(row, col, "pooled").sum(), 1 - found.fovea[:, n].mean())
        torch.testing.assert_close(found.map(row, col, "bonus").sum(), found.bonus[:, n].mean(0).sum())
        heads = torch.stack([found.map(row, col, head=head) for head in range(place.heads)])
        torch.testing.assert_close(heads.mean(0), found.map(row, col))
        if place.pool is None:
            assert found.local.shape[-1] == 0
            assert (found.fovea == 0).all()
            torch.testing.assert_close(found.map(row, col), found.pooled[:, n].mean(0).view(place.grid), **EXACT)
        else:
            outside = [0, 3, 6, 7, 8]  # of the lower left corner
            for part in (found.local, found.bonus, found.bias_only.local):
                assert (part[:, n, outside] == 0).all()
                assert (part[:, n, [1, 2, 4, 5]] != 0).all()


def test_bias_alone_is_the_softmax_of_the_bias():
    _, _, looked = looked_at()
    kept, found = looked.kept(1, 0), looked.block(1, 0)
    with torch.no_grad():
        pooled = expand_bias_table(*kept.mixer.bias_of(kept.x)).flatten(3).flatten(1, 2)
    h, w = kept.place.grid
    for row, col in ((0, 0), (h // 2, w // 2), (h - 1, w - 1)):
        for head in range(kept.place.heads):
            inside = [0 <= row + i // 3 - 1 < h and 0 <= col + i % 3 - 1 < w for i in range(9)]
            window = [
                math.exp(b) if i else 0.0
                for b, i in zip(kept.mixer.relative_pos_bias_local[head].tolist(), inside, strict=True)
            ]
            beside = [math.exp(b) for b in pooled[head, row * w + col]]
            expected = torch.tensor(window + beside, dtype=torch.float64)
            expected /= expected.sum()
            bias = found.bias_only
            ours = torch.cat((bias.local[head, row * w + col], bias.pooled[head, row * w + col]))
            torch.testing.assert_close(ours, expected, **EXACT)


def test_the_output_is_that_of_the_model_and_kernels_run():
    model, images = small_model().eval(), torch.randn(2, 3, 75, 131)
    with torch.no_grad():
        expected = model(images)
    assert torch.equal(look(model, images).output, expected)
    model.backend = "fused"  # an error where a block leaves the kernels
    looked = look(model, images)
    assert torch.equal(looked.output, expected)
    assert looked.block(2, 0).local.dtype == torch.float32


@pytest.mark.parametrize("kind", MODELS)
def test_keys_are_those_that_the_blocks_have_used(kind):
    """So no query needs the whole map again, whatever way the blocks run."""
    model, _, _ = looked_at(**MODELS[kind])
    images = torch.randn(2, 3, 75, 131)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        looked = look(model.to(dtype), images.to(dtype))
        for place in looked.blocks:
            kept = looked.kept(place.stage, place.block)
            assert kept._taken is not None
            again = Kept(place, kept.mixer, kept.norm, kept.x)  # which makes them anew
            torch.testing.assert_close(kept._keys, again._keys, rtol=0.0, atol=bound)
            assert kept._taken is None
            assert kept.mixer.watch is None


def test_images_of_a_batch_are_their_own():
    model, images, looked = looked_at(batch=3)
    alone = look(model, images[2:])
    torch.testing.assert_close(looked.block(2, 1, image=2).pooled, alone.block(2, 1).pooled)
    torch.testing.assert_close(looked.query(0, 0, 5, 7, image=2).local, alone.query(0, 0, 5, 7).local)
    torch.testing.assert_close(looked.block(3, 0, image=-1).pooled, alone.block(-1, -1).pooled)


def test_attention_from_says_the_same():
    model, images, looked = looked_at((96, 160), batch=2)
    for position in ((0.0, 0.0), (0.5, 0.5), (0.9, 0.2)):
        row, col = looked.nearest(1, position)
        maps = torch.stack([looked.query(1, 0, row, col, image).map(row, col) for image in range(2)])
        torch.testing.assert_close(attention_from(model, images, position, stage=1, block=0), maps, **EXACT)


def test_sizes_of_blocks():
    model = timm.create_model("transnext_pico", num_classes=4)
    looked = look(nn.Sequential(model), torch.randn(1, 3, 96, 70))
    assert looked.output.shape == (1, 4)
    assert looked.image_size == (96, 70)
    first, last = looked.blocks[0], looked.blocks[-1]
    assert (first.stride, first.window, first.grid, first.pool) == (4, 3, (24, 18), (3, 2))
    assert (last.stride, last.window, last.grid, last.pool) == (32, 0, (3, 3), None)
    assert [(b.stage, b.block) for b in looked.blocks] == sorted((b.stage, b.block) for b in looked.blocks)
    assert looked.on_image(torch.rand(2, 3, 3), 3).shape == (2, 96, 70)


def test_the_model_is_left_as_it_was():
    model, images = small_model(drop_path_rate=0.5), torch.randn(1, 3, 64, 64)
    model.train()
    model.stages[1].eval()
    modes = [m.training for m in model.modules()]
    looked = look(model, images)
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not looked.output.requires_grad
    assert not looked.block(0, 0).local.requires_grad
    assert not looked.block(0, 0).bonus.requires_grad


def test_packed_weights_are_kept():
    """To pack them takes as long as a forward pass of a small image."""
    model, images = small_model().eval(), torch.randn(1, 3, 64, 64)
    look(model, images)
    packed = model.stages[0].blocks[0].packed._entries
    if not packed:
        pytest.skip("blocks do not run on kernels here")
    look(model, images)
    assert all(model.stages[0].blocks[0].packed._entries[key] is entry for key, entry in packed.items())


def test_a_model_that_is_called_with_more_than_images():
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_model()

        def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
            return self.net(images) + sizes.sum()

    model, images = Sized(), torch.randn(1, 3, 64, 64)
    looked = look(model, images, lambda x: model(x, torch.ones(2)))
    torch.testing.assert_close(looked.output, look(model.net, images).output + 2)


def test_errors_say_what_to_do():
    model, images, looked = looked_at((64, 64))
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        look(model, images[0])
    with pytest.raises(ValueError, match="no TransNeXt"):
        look(nn.Linear(2, 2), images)
    with pytest.raises(ValueError, match="stage is 4: expected 0 to 3"):
        looked.block(4, 0)
    with pytest.raises(ValueError, match="has 2 blocks"):
        looked.block(2, 2)
    with pytest.raises(ValueError, match="image is 1"):
        looked.block(2, 0, image=1)
    with pytest.raises(ValueError, match="4 rows and 4 columns"):
        looked.query(2, 0, 4, 0)
    with pytest.raises(ValueError, match="fractions of the image"):
        looked.nearest(0, (0.5, -0.1))
    with pytest.raises(ValueError, match="head is 2"):
        looked.block(2, 0).map(0, 0, head=2)
    with pytest.raises(ValueError, match="part is 'all of it'"):
        looked.block(2, 0).map(0, 0, "all of it")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected rows 1 to 1"):
        looked.query(2, 0, 1, 1).map(0, 1)
    with pytest.raises(ValueError, match="more than once"):
        look(model, images, lambda x: model(model(x)[:, :1, None, None] + x))
    with pytest.raises(ValueError, match="5 blocks did not run"):
        look(model, images, lambda x: x)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_too_many_queries_are_refused(monkeypatch):
    monkeypatch.setattr("transnext.explain.weights.MAX_ENTRIES", 3_000)
    _, _, looked = looked_at((64, 64))
    with pytest.raises(ValueError, match="ask for one query"):
        looked.block(0, 0)
    assert looked.query(0, 0, 3, 3).pooled.shape[1] == 1
