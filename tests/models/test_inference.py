"""Blocks in one pass: the numbers of the plain path, whoever touches the modules, in any setting.

`run_block` counts the blocks that took one pass, so that no test passes for the wrong reason.
"""

import copy
import io
import pickle
import random
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests.helpers.error_budget import check_tensor
from transnext import TransNeXt
from transnext.models import fast
from transnext.models.attention import AggregatedAttention
from transnext.models.fast import FastBlock, run_block, why_not
from transnext.ops import backend
from transnext.ops.register import CPU_KERNELS

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(CPU_KERNELS is None, reason="the kernels were not built"),
]

Make = Callable[..., TransNeXt]
NUM_BLOCKS = 5


class Calls(list[FastBlock]):
    """The blocks that ran in one pass since it was last asked."""

    def count(self) -> int:  # type: ignore[override]
        found = len(self)
        self.clear()
        return found


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Calls:
    seen = Calls()

    def counted(block: FastBlock, x: Tensor) -> Tensor:
        seen.append(block)
        return run_block(block, x)

    monkeypatch.setattr(fast, "run_block", counted)
    return seen


@pytest.fixture(autouse=True)
def _products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same decisions on every processor."""
    monkeypatch.setattr(fast, "has_16_bit_products", lambda dtype: False)


def image(*size: int, batch: int = 2, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(batch, channels, *size, generator=generator)


def outputs(model: TransNeXt, x: Tensor) -> list[Tensor]:
    """Maps of all stages and logits."""
    with torch.no_grad():
        last, maps = model.forward_intermediates(x)
        return [*maps, model.forward_head(last)]


def exact(model: TransNeXt, x: Tensor) -> list[Tensor]:
    """The outputs in float64, which is the reference path's."""
    return outputs(copy.deepcopy(model).double(), x.double())


def plain(model: TransNeXt, x: Tensor) -> list[Tensor]:
    before = model.backend
    model.backend = "reference"
    try:
        return outputs(model, x)
    finally:
        model.backend = before


def assert_as_exact_as_plain(model: TransNeXt, x: Tensor, floor: float = 1e-6) -> None:
    """The error budget: twice the error of the plain path against float64."""
    found, expected, best = outputs(model, x), plain(model, x), exact(model, x)
    for f, p, e in zip(found, expected, best, strict=True):
        check_tensor(f, p, e, floor)


# Numbers

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "interpolate": {"bias_mode": "interpolate"},
    "linear": {"fixed_pool_size": (3, 2)},
    "linear_interpolate": {"fixed_pool_size": 2, "bias_mode": "interpolate"},
    "all_aggregated": {"sr_ratios": (16, 8, 4, 2)},
    "all_global": {"mixers": ("global",) * 4},
    "mixed": {"mixers": ("global", "aggregated", "global", "aggregated"), "sr_ratios": (1, 2, 1, 1)},
    "window_5": {"window_size": 5},
    "windows": {"window_size": (5, 1, 3, None)},
    "no_qkv_bias": {"qkv_bias": False},
    "grey": {"in_chans": 1},
    "many_channels": {"in_chans": 9, "patch_size": 2},
    "narrow": {"embed_dims": (3, 6, 10, 14), "num_heads": (1, 1, 2, 2)},
    "beyond_panels": {"embed_dims": (40, 72, 136, 200), "num_heads": (1, 3, 4, 5)},
    "bare_norms": {"norm_layer": partial(nn.LayerNorm, elementwise_affine=False)},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_one_pass_equals_the_plain_path(name: str, tiny_model: Make, passes: Calls) -> None:
    model = tiny_model(**CONFIGURATIONS[name])
    for size in ((64, 64), (33, 47), (71, 53), (5, 31), (1, 1), (96, 160)):
        x = image(*size, channels=model.in_chans)
        outputs(model, x)
        assert passes.count() == NUM_BLOCKS
        assert_as_exact_as_plain(model, x)
        assert passes.count() == NUM_BLOCKS, "the plain path takes none"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["usual", "interpolate", "all_aggregated", "beyond_panels"])
def test_16_bit_models(name: str, dtype: torch.dtype, tiny_model: Make, passes: Calls) -> None:
    model = tiny_model(**CONFIGURATIONS[name]).to(dtype)
    x = image(47, 65).to(dtype)
    outputs(model, x)
    assert passes.count() == NUM_BLOCKS
    assert_as_exact_as_plain(model, x, floor=torch.finfo(dtype).eps / 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("native", [False, True])
def test_autocast(
    native: bool, dtype: torch.dtype, tiny_model: Make, passes: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dtypes are those of the plain path, and so is the error; native 16-bit products are left to PyTorch."""
    monkeypatch.setattr(fast, "has_16_bit_products", lambda asked: native and asked == dtype)
    model, x = tiny_model(), image(64, 96)
    with torch.autocast("cpu", dtype):
        outputs(model, x)
        assert passes.count() == (0 if native else NUM_BLOCKS)
        found, expected = outputs(model, x), plain(model, x)
    best = exact(model, x)
    for f, p, e in zip(found, expected, best, strict=True):
        assert f.dtype == p.dtype
        errors = [(t.double() - e).norm() / e.norm() for t in (f, p)]
        assert errors[0] <= 2 * errors[1]
        assert errors[0] < 0.05
    assert found[-1].dtype == dtype


def test_autocast_leaves_no_trace(tiny_model: Make) -> None:
    """Neither rounded tables nor rounded weights are met again outside it."""
    model, x = tiny_model(), image(64, 96)
    expected = outputs(tiny_model(), x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = outputs(model, x)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), expected, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), rounded, strict=True))


def test_native_16_bit_products_are_used_by_16_bit_models(
    tiny_model: Make, passes: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "has_16_bit_products", lambda dtype: dtype == torch.bfloat16)
    for dtype, expected in ((torch.bfloat16, 0), (torch.float16, NUM_BLOCKS), (torch.float32, NUM_BLOCKS)):
        outputs(tiny_model().to(dtype), image(64, 64).to(dtype))
        assert passes.count() == expected, dtype


def test_memory_formats_and_strides(tiny_model: Make, passes: Calls) -> None:
    model, x = tiny_model(), image(64, 96)
    expected = outputs(model, x)
    views = {
        "channels-last images": (model, x.to(memory_format=torch.channels_last)),
        "channels-last model": (copy.deepcopy(model).to(memory_format=torch.channels_last), x),
        "columns of a wider image": (model, torch.cat((x, x), 3)[..., :96]),
        "one image, expanded": (model, x[:1].expand(2, -1, -1, -1)),
    }
    passes.clear()
    for name, (network, images) in views.items():
        found = outputs(network, images)
        assert passes.count() == NUM_BLOCKS, name
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f[0], e[0], rtol=1e-4, atol=1e-5)


def test_a_block_takes_any_strides(tiny_model: Make, passes: Calls) -> None:
    block = tiny_model().stages[0].blocks[0]
    x = torch.randn(2, 9, 7, 12)
    others = [
        x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        x.transpose(1, 2).contiguous().transpose(1, 2),
        torch.cat((x, x), 3)[..., :12],
        x.flip(0).flip(0),
    ]
    with torch.no_grad():
        expected = block(x)
        before = [t.clone() for t in others]
        for t, b in zip(others, before, strict=True):
            assert torch.equal(block(t), expected)
            assert torch.equal(t, b), "the input is left alone"
    assert passes.count() == 5


def test_empty_batch(tiny_model: Make) -> None:
    model = tiny_model()
    x = image(64, 96, batch=0)
    for found, expected in zip(outputs(model, x), plain(model, x), strict=True):
        assert found.shape == expected.shape


def test_a_bad_image_spoils_no_other(tiny_model: Make, passes: Calls) -> None:
    model, x = tiny_model(), image(64, 96, batch=3)
    expected = outputs(model, x)
    for bad in (float("nan"), float("inf")):
        x[1, 0, 30, 40] = bad
        for found, e in zip(outputs(model, x), expected, strict=True):
            assert torch.equal(found[[0, 2]], e[[0, 2]])
            assert not found[1].isfinite().all()
    assert passes.count() == 3 * NUM_BLOCKS


# Which path


def test_backends(tiny_model: Make, passes: Calls) -> None:
    model, x = tiny_model(), image(64, 64)
    assert model.backend == "auto"
    for name, expected in (("auto", NUM_BLOCKS), ("fused", NUM_BLOCKS), ("reference", 0), ("auto", NUM_BLOCKS)):
        model.backend = name
        assert model.backend == name
        outputs(model, x)
        assert passes.count() == expected, name
    with pytest.raises(ValueError, match="backend is 'fast': expected one of 'auto', 'fused', 'reference'"):
        model.backend = "fast"
    assert model.backend == "auto"


def test_fused_is_an_error_where_it_cannot_be_had(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    model.backend = "fused"
    with pytest.raises(ValueError, match=r'backend is "fused", but .*float64'):
        outputs(copy.deepcopy(model).double(), image(64, 64).double())
    with pytest.raises(ValueError, match=r'backend is "fused", but .*on meta'):
        copy.deepcopy(model).to("meta")(torch.empty(1, 3, 64, 64, device="meta"))
    dropping = tiny_model(attn_drop_rate=0.5).train()
    dropping.backend = "fused"
    with pytest.raises(ValueError, match=r'backend is "fused", but dropout'):
        dropping(image(64, 64))
    monkeypatch.setattr(backend, "CPU_KERNELS", None)
    with pytest.raises(ValueError, match=r'backend is "fused", but the compiled kernels were not built'):
        model(image(64, 64))


Setting = Callable[[], Any]
NOT_BY_KERNELS: dict[str, tuple[Callable[[nn.Module], object], Setting, str]] = {
    "a hook": (
        lambda block: block.attn.q.register_forward_hook(lambda *_: None),
        torch.no_grad,
        "q of AggregatedAttention was replaced, patched or has hooks",
    ),
    "a hook in training": (
        lambda block: block.train().mlp.fc1.register_forward_hook(lambda *_: None),
        torch.enable_grad,
        "fc1 of ConvGLU was replaced, patched or has hooks",
    ),
    "a wrapped Linear in training": (
        lambda block: setattr(block.train().attn, "proj", nn.Sequential(block.attn.proj)),
        torch.enable_grad,
        "proj of AggregatedAttention was replaced",
    ),
    "another norm": (
        lambda block: setattr(block, "norm2", nn.RMSNorm(12)),
        torch.no_grad,
        "norm2 of FastBlock was replaced",
    ),
    "autocast in training": (
        lambda block: block.train(),
        lambda: torch.autocast("cpu", torch.bfloat16),
        "the kernels have gradients in float32 alone, and not under autocast",
    ),
    "16-bit parameters in training": (lambda block: block.train().mlp.bfloat16(), torch.enable_grad, "float32 alone"),
    "training without gradients": (lambda block: block.train(), torch.no_grad, "in training mode"),
    "dropout left on": (lambda block: block.mlp.drop.train(), torch.no_grad, "a part of it is in training mode"),
    "a touched position bias": (
        lambda block: block.attn.cpb_fc2.register_forward_pre_hook(lambda *_: None),
        torch.no_grad,
        "cpb_fc2 of AggregatedAttention was replaced",
    ),
}


@pytest.mark.parametrize("case", NOT_BY_KERNELS)
def test_fused_blocks_and_linears_fall_back_with_an_error_only(case: str, tiny_model: Make) -> None:
    change, setting, reason = NOT_BY_KERNELS[case]
    model = tiny_model()
    block, x = model.stages[0].blocks[0], torch.randn(2, 16, 16, 12)
    change(block)
    with setting():
        assert reason in why_not(block, x)
        model.backend = "fused"
        with pytest.raises(ValueError, match=f'backend is "fused", but .*{reason}'):
            block(x)
        model.backend = "reference"
        assert why_not(block, x) == 'backend is "reference"'


def test_fused_native_16_bit_products_are_an_error(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "has_16_bit_products", lambda dtype: True)
    model = tiny_model()
    model.backend = "fused"
    with torch.no_grad(), pytest.raises(ValueError, match="this processor multiplies 16-bit matrices faster"):
        model(image(64, 64))


def test_a_fused_bias_table_is_no_other(tiny_model: Make) -> None:
    """Asked for by itself, as where a block is traced."""
    model, x = tiny_model(), torch.zeros(1, 16, 16, 12)
    model.backend = "fused"
    mixer = model.stages[0].blocks[0].attn
    with torch.no_grad():
        mixer.bias_of(x)
        handle = mixer.cpb_fc1.register_forward_hook(lambda *_: None)
        with pytest.raises(ValueError, match=r'backend is "fused", but the MLP of the position bias was replaced'):
            mixer.bias_of(x)
        handle.remove()
        mixer.bias_of(x)
        mixer.cpb_fc2.double()
        with pytest.raises(ValueError, match=r'backend is "fused", but the maps differ in dtype'):
            mixer.bias_of(x)


def test_fused_runs_where_kernels_can(tiny_model: Make, passes: Calls) -> None:
    model, x = tiny_model(drop_path_rate=0.5, proj_drop_rate=0.5), image(64, 64)
    expected = outputs(model, x)
    model.backend = "fused"
    passes.clear()
    for found, e in zip(outputs(model, x), expected, strict=True):
        assert torch.equal(found, e)
    assert passes.count() == NUM_BLOCKS
    model(x).square().sum().backward()
    model.train()(x).square().sum().backward()
    handle = model.stages[0].blocks[0].register_forward_hook(lambda *_: None)
    model.eval().requires_grad_(False)(x)
    handle.remove()
    assert passes.count() == NUM_BLOCKS, "a hook on a block itself is called all the same"


def test_in_training_only_what_was_touched_runs_as_modules(tiny_model: Make) -> None:
    """And hooks on modules that are called as ever change no number."""
    block, x = tiny_model().stages[0].blocks[0], torch.randn(2, 16, 16, 12)
    expected, kernels = block(x), kernels_of(block, x)
    assert kernels["transnext::linear"] == 5
    assert kernels["transnext::conv_glu_training"] == 1
    seen: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, module in block.named_modules()
        if name in ("attn", "mlp", "norm1", "attn.norm", "drop_path", "attn.proj_drop")
    ]
    assert torch.equal(block(x), expected)
    assert sorted(set(seen)) == ["attn", "attn.norm", "attn.proj_drop", "drop_path", "mlp", "norm1"]
    for handle in handles:
        handle.remove()
    block.attn.kv.register_forward_hook(lambda *_: seen.append("kv"))
    seen.clear()
    kernels = kernels_of(block, x)
    assert seen == ["kv", "kv"]
    assert kernels["transnext::linear"] == 3
    assert kernels["transnext::conv_glu_training"] == 1
    block.mlp.fc2.register_forward_hook(lambda *_: seen.append("fc2"))
    kernels = kernels_of(block, x)
    assert kernels["transnext::linear"] == 4
    assert kernels["transnext::depthwise_conv_gelu_gate"] == 1
    assert kernels["transnext::conv_glu_training"] == 0


def kernels_of(block: FastBlock, x: Tensor) -> Counter[str]:
    with torch.profiler.profile() as profile:
        block(x)
    return Counter({event.key: event.count for event in profile.key_averages()})


def test_reasons_of_a_model(tiny_model: Make) -> None:
    model = tiny_model()
    model.stages[1].blocks[0].attn.q.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        found = fast.reasons(model, image(64, 64))
    assert list(found) == [
        "stages.0.blocks.0",
        "stages.1.blocks.0",
        "stages.2.blocks.0",
        "stages.2.blocks.1",
        "stages.3.blocks.0",
    ]
    assert {name: why for name, why in found.items() if why is not None} == {
        "stages.1.blocks.0": "q of AggregatedAttention was replaced, patched or has hooks"
    }
    assert not any(block._forward_pre_hooks for block in model.modules())


def test_without_kernels_it_runs_and_says_so_once(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tiny_model(), image(64, 64)
    expected = plain(model, x)
    monkeypatch.setattr(backend, "CPU_KERNELS", None)
    backend._say_once.cache_clear()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        found = outputs(model, x)
        outputs(model, x)
    assert len(record) == 1
    assert "reference path, several times slower" in str(record[0].message)
    for f, e in zip(found, expected, strict=True):
        assert torch.equal(f, e)


def test_gradients_and_training_take_the_plain_path(tiny_model: Make, passes: Calls) -> None:
    model, x = tiny_model(), image(64, 64)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        model.train()(x)
    model.eval().requires_grad_(False)
    model(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert passes.count() == 0
    model(x.detach())
    assert passes.count() == NUM_BLOCKS, "frozen weights want no gradients"


@pytest.mark.parametrize(
    "name", ["norm1.weight", "attn.q.bias", "attn.cpb_fc1.weight", "attn.temperature", "attn.sr.weight", "mlp.fc2.bias"]
)
def test_one_trainable_parameter_is_enough(name: str, tiny_model: Make, passes: Calls) -> None:
    model, x = tiny_model().requires_grad_(False), image(64, 64)
    chosen = model.stages[1].blocks[0].get_parameter(name)
    chosen.requires_grad_()
    model(x).sum().backward()
    assert passes.count() == 1, "the first block alone"
    found = chosen.grad
    model.backend = "reference"
    chosen.grad = None
    model(x).sum().backward()
    torch.testing.assert_close(found, chosen.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("part", ["attn.proj_drop", "mlp.drop"])
def test_dropout_left_on(part: str, tiny_model: Make) -> None:
    """Monte-Carlo dropout: the network in eval mode, its dropouts in training mode."""
    model, x = tiny_model(proj_drop_rate=0.5), image(64, 64)
    block = model.stages[2].blocks[0]
    before = outputs(model, x)[-1]
    block.get_submodule(part).train()
    found = {float(outputs(model, x)[-1].sum()) for _ in range(3)}
    assert len(found) == 3
    block.eval()
    assert torch.equal(outputs(model, x)[-1], before)


def test_stochastic_depth_left_on(tiny_model: Make) -> None:
    model, x = tiny_model(drop_path_rate=0.9), image(64, 64, batch=8)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.train()
    assert len({float(outputs(model, x)[-1].sum()) for _ in range(4)}) > 1


def test_forward_mode_derivatives(tiny_model: Make) -> None:
    model, x = tiny_model(), image(32, 32, batch=1)
    direction = torch.randn_like(x)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        out = model(torch.autograd.forward_ad.make_dual(x, direction))
        tangent = torch.autograd.forward_ad.unpack_dual(out).tangent
    assert tangent is not None
    x.requires_grad_()
    expected = [float((torch.autograd.grad(model(x)[0, i], x)[0] * direction).sum()) for i in range(5)]
    torch.testing.assert_close(tangent[0], torch.tensor(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["attn.cpb_fc1.weight", "attn.q.weight", "mlp.fc2.bias"])
def test_forward_mode_derivatives_of_weights(name: str, tiny_model: Make) -> None:
    """No memory of what was derived from a weight hides its tangent."""
    model, x = tiny_model(), image(32, 32, batch=1)
    name = f"stages.0.blocks.0.{name}"
    weight = model.get_parameter(name)
    direction = torch.randn_like(weight)
    with torch.no_grad():
        model(x)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(weight, direction)
            out = torch.func.functional_call(model, {name: dual}, (x,))
            tangent = torch.autograd.forward_ad.unpack_dual(out).tangent
    assert tangent is not None
    expected = [float((torch.autograd.grad(model(x)[0, i], weight)[0] * direction).sum()) for i in range(5)]
    torch.testing.assert_close(tangent[0], torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_transforms_of_torch_func(tiny_model: Make, passes: Calls) -> None:
    model, x = tiny_model(), image(32, 48)
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (x,)).square().sum()

    found = torch.func.grad(loss)(weights, x)
    model(x).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-3)

    per_image = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x[:, None])
    for name, p in model.named_parameters():
        torch.testing.assert_close(per_image[name].sum(0), p.grad, rtol=1e-3, atol=1e-3)
    assert passes.count() == 0
    with torch.no_grad():
        mapped = torch.func.vmap(model)(x[:, None])
        assert passes.count() == 0
        torch.testing.assert_close(mapped[:, 0], model(x), rtol=1e-4, atol=1e-4)


# Modules that someone changed

PARTS = ["norm1", "drop_path", "norm2", "mlp", "mlp.fc1", "mlp.dwconv", "mlp.fc2", "mlp.drop", "attn", "attn.proj"]
PARTS += ["attn.proj_drop", "attn.q", "attn.kv", "attn.sr", "attn.norm", "attn.cpb_fc1", "attn.cpb_fc2"]


@pytest.mark.parametrize("part", PARTS)
def test_hooks_are_called_and_honoured(part: str, tiny_model: Make) -> None:
    model, x = tiny_model(), image(64, 64)
    before = outputs(model, x)
    module = model.stages[1].blocks[0].get_submodule(part)
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, args, output: seen.append(output))
    for f, e in zip(outputs(model, x), before, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-4)
    assert seen
    handle.remove()
    for register, hook in (
        (module.register_forward_hook, lambda module, args, output: 3 * output + 0.5),
        (module.register_forward_pre_hook, lambda module, args: (3 * args[0],)),
    ):
        handle = register(hook)
        changed, expected = outputs(model, x)[-1], plain(model, x)[-1]
        torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)
        if not (part in ("norm1", "norm2", "attn.norm") and register == module.register_forward_pre_hook):
            assert not torch.allclose(changed, before[-1], rtol=1e-4, atol=1e-4)
        handle.remove()
        for f, e in zip(outputs(model, x), before, strict=True):
            assert torch.equal(f, e)


def test_global_hooks_are_called(tiny_model: Make) -> None:
    model, x = tiny_model(), image(64, 64)
    outputs(model, x)
    seen: set[nn.Module] = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.add(module))
    outputs(model, x)
    handle.remove()
    called = {name for name, module in model.named_modules() if module in seen}
    assert {f"stages.1.blocks.0.{part}" for part in PARTS} - called == {"stages.1.blocks.0.attn.sr"}, (
        "the plain path reads the weights of the convolution, and calls it only where it was changed"
    )


def bend(x: Tensor) -> Tensor:
    """Neither a norm nor a cosine hides that."""
    return x + x.square()


class Adapter(nn.Module):
    """A low-rank adapter around a Linear or a 1x1 convolution, with the attributes of the wrapped layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(torch.tensor(0.5))

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * bend(self.layer(x))


class Shifted(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return bend(weight)


LAYERS = [part for part in PARTS if part.rpartition(".")[2] in ("q", "kv", "sr", "proj", "fc1", "fc2", "cpb_fc1")]


def _wrap(parent: nn.Module, name: str) -> None:
    setattr(parent, name, Adapter(getattr(parent, name)))


def _subclass(parent: nn.Module, name: str) -> None:
    layer = getattr(parent, name)
    kind = type(layer)
    layer.__class__ = type("Other", (kind,), {"forward": lambda self, x: bend(kind.forward(self, x))})


def _parametrise(parent: nn.Module, name: str) -> None:
    parametrize.register_parametrization(getattr(parent, name), "weight", Shifted())


def _patch(parent: nn.Module, name: str) -> None:
    layer = getattr(parent, name)
    original = layer.forward
    layer.forward = lambda x: bend(original(x))


@pytest.mark.parametrize("change", [_wrap, _subclass, _parametrise, _patch])
@pytest.mark.parametrize("part", LAYERS)
def test_changed_layers_are_honoured(
    part: str, change: Callable[[nn.Module, str], None], tiny_model: Make, passes: Calls
) -> None:
    model, x = tiny_model(), image(64, 64)
    before = outputs(model, x)[-1]
    block = model.stages[1].blocks[0]
    parent, _, name = part.rpartition(".")
    change(block.get_submodule(parent), name)
    passes.clear()
    found = outputs(model, x)[-1]
    assert passes.count() == NUM_BLOCKS - 1
    torch.testing.assert_close(found, plain(model, x)[-1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, before, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        for parameter in block.get_submodule(part).parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    again = outputs(model, x)[-1]
    torch.testing.assert_close(again, plain(model, x)[-1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(again, found, rtol=1e-3, atol=1e-3)


def test_other_classes_take_the_plain_path(tiny_model: Make) -> None:
    class Mine(AggregatedAttention):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    class MyBlock(FastBlock):
        pass

    x = torch.randn(1, 16, 16, 12)
    for change in (
        lambda block: setattr(block.attn, "__class__", Mine),
        lambda block: setattr(block, "__class__", MyBlock),
        lambda block: setattr(block, "norm1", nn.RMSNorm(12)),
        lambda block: setattr(block.mlp, "fc1", nn.Sequential(block.mlp.fc1, nn.Identity())),
        lambda block: setattr(block, "drop_path", nn.Dropout()),
        lambda block: setattr(block.attn, "proj_drop", nn.Identity()),
    ):
        block = tiny_model().stages[0].blocks[0]
        with torch.no_grad():
            assert why_not(block, x) is None
            change(block)
            assert why_not(block, x) is not None
            block(x)


def test_weights_that_are_no_plain_parameters(tiny_model: Make) -> None:
    """As quantisation and sharding leave them: tensors of another class, or attributes that are no parameters."""

    class Quantised(Tensor):
        pass

    block, x = tiny_model().stages[0].blocks[0], torch.randn(1, 16, 16, 12)
    with torch.no_grad():
        expected = block(x)
        for name in ("mlp.fc1", "attn.proj", "attn.cpb_fc1", "norm1"):
            layer = block.get_submodule(name)
            weight = layer.weight
            layer.weight = nn.Parameter(weight.detach().as_subclass(Quantised))
            assert why_not(block, x) is not None
            del layer.weight
            layer.weight = weight.detach()
            assert why_not(block, x) is not None
            torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)
            del layer.weight
            layer.weight = weight
        assert why_not(block, x) is None


def test_a_changed_eps_is_seen(tiny_model: Make) -> None:
    model, x = tiny_model(), image(64, 64)
    before = outputs(model, x)[-1]
    for name in ("norm1", "attn.norm", "norm2"):
        norm = model.stages[1].blocks[0].get_submodule(name)
        norm.eps = 1.0
        found = outputs(model, x)[-1]
        torch.testing.assert_close(found, plain(model, x)[-1], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, before, rtol=1e-4, atol=1e-4)
        before = found


# Copies, threads, checkpoints


def test_copies_and_pickles(tiny_model: Make) -> None:
    model, x = tiny_model(), image(64, 96)
    fresh = len(pickle.dumps(model))
    expected = outputs(model, x)[-1]
    assert any(len(module.packed) for module in model.modules() if isinstance(module, FastBlock))
    assert len(pickle.dumps(model)) == fresh, "nothing derived from the weights goes along"
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
    for other in copies:
        for module in other.modules():
            assert not isinstance(module, FastBlock) or len(module.packed) == len(module.attn.tables) == 0
        assert torch.equal(outputs(other, x)[-1], expected)
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(0.9)
        assert not torch.equal(outputs(other, x)[-1], expected)
        assert torch.equal(outputs(model, x)[-1], expected)


def test_threads(tiny_model: Make) -> None:
    """One model, several threads, each with sizes of its own; caches are too small for all of them."""
    model = tiny_model()
    sizes = [(32, 32), (33, 47), (64, 64), (71, 53), (96, 64), (37, 61), (63, 65)]

    def run(size: tuple[int, int]) -> Tensor:
        with torch.inference_mode():
            return model(image(*size))

    expected = {size: run(size) for size in sizes}
    work = 4 * sizes
    random.Random(0).shuffle(work)
    model.eval()  # the first calls of the threads build everything again
    with ThreadPoolExecutor(4) as pool:
        for size, found in zip(work, pool.map(run, work), strict=True):
            assert torch.equal(found, expected[size]), size


def test_inference_mode_and_then_training(tiny_model: Make) -> None:
    model, x = tiny_model(), image(64, 96)
    with torch.inference_mode():
        expected = model(x).clone()
    logits = model(x)
    torch.testing.assert_close(logits.detach(), expected, rtol=1e-4, atol=1e-4)
    logits.square().sum().backward()
    fresh = tiny_model()
    fresh(x).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    model.train()
    model(x).square().sum().backward()


def test_a_model_made_in_inference_mode(tiny_model: Make, passes: Calls) -> None:
    x = image(64, 96)
    expected = outputs(tiny_model(), x)[-1]
    with torch.inference_mode():
        model = tiny_model()
        assert torch.equal(model(x), expected)
        assert torch.equal(model(x), expected)
        for p in model.parameters():
            p.mul_(1.1)
        assert not torch.equal(model(x), expected)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing(frozen: bool, tiny_model: Make) -> None:
    """Recomputing blocks gives the gradients of keeping them, in training and in eval mode."""
    x = image(64, 96)
    for mode in (True, False):
        gradients = []
        for enable in (False, True):
            model = tiny_model().train(mode)
            model.set_grad_checkpointing(enable)
            if frozen:
                model.stages[:2].requires_grad_(False)
            model(x).square().sum().backward()
            gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_global_attention_a_few_heads_at_a_time(
    tiny_model: Callable[..., TransNeXt], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = tiny_model(), torch.randn(2, 3, 96, 70)
    model.backend = "reference"  # the kernels have no bias of all pairs
    with torch.no_grad():
        at_once = model(x)
        monkeypatch.setattr("transnext.ops.reference.MAX_BIAS_ENTRIES", 50)
        torch.testing.assert_close(model(x), at_once, rtol=1e-5, atol=1e-6)
