"""What is remembered in eval mode follows the weights, however they change, and stays small."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from transnext import TransNeXt
from transnext.models.attention import Mixer
from transnext.models.layers import Block
from transnext.models.weight_cache import WeightCache

pytestmark = pytest.mark.usefixtures("one_thread")

Make = Callable[..., TransNeXt]


def image(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def assert_fresh(model: TransNeXt, before: Tensor, x: Tensor) -> None:
    """The answer is that of a copy, which remembers nothing, and another than before."""
    found = logits(model, x)
    assert torch.equal(found, logits(copy.deepcopy(model), x))
    assert not torch.allclose(found, before, rtol=1e-3, atol=1e-3)


def _noise(p: Tensor) -> Tensor:
    return 0.1 * torch.randn(p.shape, dtype=p.dtype)


def _in_place(model: TransNeXt) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(_noise(p))


def _in_place_in_inference_mode(model: TransNeXt) -> None:
    with torch.inference_mode():
        for p in model.parameters():
            p.add_(_noise(p))


def _copy_(model: TransNeXt) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p + _noise(p))


def _lerp_(model: TransNeXt) -> None:
    with torch.no_grad():
        for p in model.state_dict().values():
            p.lerp_(p + 10 * _noise(p), 0.1)


def _foreach(model: TransNeXt) -> None:
    parameters = list(model.parameters())
    with torch.no_grad():
        torch._foreach_lerp_(parameters, [p + _noise(p) for p in parameters], 0.9)


def _data_swap(model: TransNeXt) -> None:
    for p in model.parameters():
        p.data = p.data + _noise(p)


def _data_in_place_then_eval(model: TransNeXt) -> None:
    for p in model.parameters():
        p.data.add_(_noise(p))
    model.eval()


def _numpy_then_train_and_eval(model: TransNeXt) -> None:
    for p in model.parameters():
        p.detach().numpy()[...] += _noise(p).numpy()
    model.train()
    model.eval()


def _new_parameters(model: TransNeXt) -> None:
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(p.detach() + _noise(p)))


def _load(model: TransNeXt, assign: bool) -> None:
    model.load_state_dict({name: p + _noise(p) for name, p in model.state_dict().items()}, assign=assign)


def _load_by_copy(model: TransNeXt) -> None:
    _load(model, assign=False)


def _load_by_assignment(model: TransNeXt) -> None:
    _load(model, assign=True)


def _vector(model: TransNeXt) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector + _noise(vector), model.parameters())


CHANGES = [
    _in_place,
    _in_place_in_inference_mode,
    _copy_,
    _lerp_,
    _foreach,
    _data_swap,
    _data_in_place_then_eval,
    _numpy_then_train_and_eval,
    _new_parameters,
    _load_by_copy,
    _load_by_assignment,
    _vector,
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen_at_once(change: Callable[[TransNeXt], None], tiny_model: Make) -> None:
    model, x = tiny_model(), image(48, 64)
    for _ in range(2):
        before = logits(model, x)
        change(model)
        assert_fresh(model, before, x)


@pytest.mark.parametrize("part", ["norm1", "norm2", "attn", "mlp", "cpb_", "sr", "attn.norm", "dwconv"])
def test_each_kind_of_weight_is_watched(part: str, tiny_model: Make) -> None:
    model, x = tiny_model(), image(48, 64)
    for name, p in model.named_parameters():
        if part in name:
            before = logits(model, x)
            with torch.no_grad():
                p.add_(torch.randn(p.shape))
            found = logits(model, x)
            assert torch.equal(found, logits(copy.deepcopy(model), x)), name
            # A bias of all keys alike falls out of a softmax.
            assert not torch.equal(found, before) or name.endswith("cpb_fc2.bias"), name


@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}])
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_steps_in_eval_mode(optimiser: type[torch.optim.Optimizer], options: dict[str, Any], tiny_model: Make) -> None:
    """Fine-tuning with the network in eval mode throughout."""
    model, x = tiny_model(), image(48, 64)
    steps: Any = optimiser(model.parameters(), lr=0.01, **options)
    for _ in range(2):
        before = logits(model, x)
        model(x).square().sum().backward()
        steps.step()
        steps.zero_grad()
        assert_fresh(model, before, x)


def test_dtype_round_trip(tiny_model: Make) -> None:
    model, x = tiny_model(), image(48, 64)
    before = logits(model, x)
    narrow = logits(model.to(torch.bfloat16), x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    model.to(torch.float32)
    after = logits(model, x)
    assert torch.equal(after, logits(copy.deepcopy(model), x))
    assert not torch.equal(after, before), "the weights were rounded"
    torch.testing.assert_close(after, before, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", ["timm", "timm foreach", "torch", "torch multi"])
def test_moving_averages(kind: str, tiny_model: Make) -> None:
    model, x = tiny_model(), image(48, 64)
    average: Any
    if kind.startswith("timm"):
        average = ModelEmaV3(model, decay=0.5, foreach=kind == "timm foreach")
        inner, update = average.module, lambda: average.update(model)
    else:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5) if kind == "torch multi" else None)
        inner, update = average.module.eval(), lambda: average.update_parameters(model)
    update()
    for _ in range(2):
        before = logits(inner, x)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn(p.shape))
        update()
        assert_fresh(inner, before, x)


def test_modes_and_sizes_of_the_bias(tiny_model: Make) -> None:
    """Everything that a table depends on besides weights: nothing is mistaken for anything else."""
    model = tiny_model()
    for _ in range(2):
        for size in ((48, 64), (64, 48), (64, 64), (33, 47), (96, 32), (32, 96)):
            for mode in ("extrapolate", "interpolate"):
                for pool in (None, 2, (1, 3)):
                    model.bias_mode, model.fixed_pool_size = mode, pool
                    x = image(*size)
                    fresh = tiny_model(bias_mode=mode, fixed_pool_size=pool)
                    assert torch.equal(logits(model, x), logits(fresh, x)), (size, mode, pool)


def test_tables_are_computed_once(tiny_model: Make) -> None:
    mixer = next(module for module in tiny_model().modules() if isinstance(module, Mixer))
    entry = torch.zeros(1, 12, 16, 12)
    with torch.no_grad():
        table = mixer.bias_of(entry).table
        assert mixer.bias_of(entry).table is table
        assert mixer.bias_of(entry[:, :8]).table is not table
    assert not table.requires_grad
    assert not table.is_inference()
    assert mixer.bias_of(entry).table.requires_grad, "gradients are wanted"
    assert len(mixer.tables) == 0, "a step of an optimiser may follow"
    mixer.requires_grad_(False)
    table = mixer.bias_of(entry).table
    assert mixer.bias_of(entry).table is table, "of frozen weights none are"
    mixer.train()
    assert len(mixer.tables) == 0
    assert mixer.bias_of(entry).table is not table
    assert len(mixer.tables) == 0, "in training mode they change all the time"


def test_caches_are_bounded(tiny_model: Make) -> None:
    model = tiny_model()
    for side in range(32, 80, 4):
        logits(model, image(side, side + 5))
    for module in model.modules():
        if isinstance(module, Mixer):
            assert len(module.tables) == module.tables.max_entries
        elif isinstance(module, Block):
            assert len(module.packed) <= module.packed.max_entries
    for part in (model.stages[0], model.stages[1].blocks[0], model):
        part.eval()
        for module in part.modules():
            assert not isinstance(module, Mixer) or len(module.tables) == 0
            assert not isinstance(module, Block) or len(module.packed) == 0


def test_wrappers(tiny_model: Make, tmp_path: Any) -> None:
    """DistributedDataParallel around the network, one process: what it answers follows its training."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        model, x = tiny_model(), image(48, 64)
        wrapped = DistributedDataParallel(model)
        before = logits(wrapped, x)
        assert torch.equal(before, logits(model, x))
        wrapped.train()
        wrapped(x).square().sum().backward()
        torch.optim.SGD(wrapped.parameters(), lr=0.01).step()
        wrapped.eval()
        assert_fresh(model, before, x)
    finally:
        torch.distributed.destroy_process_group()


# The cache itself


def test_cache_keeps_until_a_weight_changes() -> None:
    weight, built, cache = nn.Parameter(torch.ones(3)), [], WeightCache(max_entries=2)

    def get(key: str = "a") -> float:
        return cache.get(key, [weight], lambda: built.append(key) or float(weight.sum()))

    assert get() == get() == 3
    assert built == ["a"]
    with torch.no_grad():
        weight.add_(1)
    assert get() == 6
    weight.data = torch.zeros(3)
    assert get() == 0
    weight.data.fill_(5)
    assert get() == 0, "hidden: what clear() is for"
    cache.clear()
    assert get() == 15
    assert [get(key) for key in "bcb"] == [15] * 3
    assert len(cache) == 2
    assert built == ["a"] * 4 + ["b", "c"]


def test_cache_keeps_no_weights_of_inference_mode() -> None:
    with torch.inference_mode():
        weight = torch.ones(3)
        cache = WeightCache()
        assert cache.get("a", [weight], lambda: float(weight.sum())) == 3
        weight.add_(1)
        assert cache.get("a", [weight], lambda: float(weight.sum())) == 6
    assert len(cache) == 0


def test_what_is_built_can_be_used_in_training() -> None:
    weight, cache = nn.Parameter(torch.ones(3)), WeightCache()
    with torch.inference_mode():
        cache.get("a", [weight], lambda: weight * 2)
    kept = cache.get("a", [weight], lambda: torch.zeros(3))
    assert not kept.requires_grad
    x = torch.ones(3, requires_grad=True)
    (x * kept).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))
