"""What is remembered in eval mode follows the weights, however they change, and stays small."""

import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from transnext import TransNeXt
from transnext.models import fast, weight_cache
from transnext.models.attention import Mixer
from transnext.models.fast import FastBlock
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


def _data_in_place(model: TransNeXt) -> None:
    for p in model.parameters():
        p.data.add_(_noise(p))


def _data_rows(model: TransNeXt) -> None:
    for p in model.parameters():
        p.data[0] += _noise(p[0])


def _data_transposed(model: TransNeXt) -> None:
    """The memory stays the same, and what is in it."""
    for p in model.parameters():
        if p.dim() == 2 and p.shape[0] == p.shape[1]:
            p.data = p.data.t()


def _numpy(model: TransNeXt) -> None:
    for p in model.parameters():
        p.detach().numpy()[...] += _noise(p).numpy()


def _dlpack(model: TransNeXt) -> None:
    for p in model.parameters():
        torch.from_dlpack(p.detach()).mul_(1.1)


def _average_as_in_self_distillation(model: TransNeXt) -> None:
    for p in model.parameters():
        p.data.mul_(0.9).add_(_noise(p))


def _set(model: TransNeXt) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.set_(p + _noise(p))


def _swap_tensors(model: TransNeXt) -> None:
    for p in list(model.parameters()):
        torch.utils.swap_tensors(p, nn.Parameter(p.detach() + _noise(p)))


def _shared_memory(model: TransNeXt) -> None:
    """As another process would write."""
    _numpy(model.share_memory())


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
    _data_in_place,
    _data_rows,
    _data_transposed,
    _numpy,
    _dlpack,
    _average_as_in_self_distillation,
    _set,
    _swap_tensors,
    _shared_memory,
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


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_large_weights_are_seen_in_a_small_map(
    change: Callable[[TransNeXt], None], tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where weights are sampled: the last stages have matrices of up to 400 KB."""
    monkeypatch.setattr(fast, "MIN_PIXELS_TO_COMPARE_WHOLE", 1 << 40)
    model, x = tiny_model(embed_dims=(12, 16, 96, 160), num_heads=(1, 2, 2, 4)), image(48, 64)
    before = logits(model, x)
    change(model)
    assert_fresh(model, before, x)


def test_any_single_entry_is_seen_where_maps_are_large(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "MIN_PIXELS_TO_COMPARE_WHOLE", 6)  # the smallest map here: 2 images, 2 x 2
    model, x = tiny_model(embed_dims=(12, 16, 96, 160), num_heads=(1, 2, 2, 4)), image(48, 64)
    generator = torch.Generator().manual_seed(0)
    logits(model, x)
    for name, p in model.named_parameters():
        if p.nbytes <= 1 << 14:
            continue  # always compared whole
        p.data.view(-1)[int(torch.randint(p.numel(), (), generator=generator))] += 3
        assert torch.equal(logits(model, x), logits(copy.deepcopy(model), x)), name


def test_steps_between_two_calls_without_gradients(tiny_model: Make) -> None:
    """A step of a fused optimiser, which counts nothing, after the model was called to look at what it says."""
    model, x = tiny_model(), image(48, 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    model(x).square().sum().backward()
    before = logits(model, x)
    optimiser.step()
    assert_fresh(model, before, x)


def test_functional_calls_leave_nothing_behind(tiny_model: Make) -> None:
    model, x = tiny_model(), image(48, 64)
    before = logits(model, x)
    other = {name: p.detach() + _noise(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        for scale in (1.0, 1.1):
            for p in other.values():
                p.numpy()[...] *= scale
            found = torch.func.functional_call(model, other, (x,))
            fresh = copy.deepcopy(model)
            fresh.load_state_dict(other)
            assert torch.equal(found, fresh(x))
    assert torch.equal(logits(model, x), before)


def test_threads_share_a_model_while_weights_are_written(tiny_model: Make) -> None:
    """Once the last write is over, every thread gives the answer of the weights as they are then."""
    model, x = tiny_model(), image(48, 64)
    stop = threading.Event()

    def work() -> Tensor:
        while not stop.is_set():
            logits(model, x)
        return logits(model, x)

    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(work) for _ in range(3)]
        for _ in range(20):
            _numpy(model)
            time.sleep(0.005)
        stop.set()
    for answer in answers:
        assert torch.equal(answer.result(), logits(copy.deepcopy(model), x))


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
        elif isinstance(module, FastBlock):
            assert len(module.packed) <= module.packed.max_entries
    for part in (model.stages[0], model.stages[1].blocks[0], model):
        part.eval()
        for module in part.modules():
            assert not isinstance(module, Mixer) or len(module.tables) == 0
            assert not isinstance(module, FastBlock) or len(module.packed) == 0


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


@pytest.mark.parametrize("compiled", [True, False])
def test_cache_keeps_until_a_weight_changes(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(weight_cache, "CPU_KERNELS", None)
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
    assert get() == 15, "past the counter"
    cache.clear()
    assert get() == 15
    assert [get(key) for key in "bcb"] == [15] * 3
    assert len(cache) == 2
    assert built == ["a"] * 5 + ["b", "c"]


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


def _write(weight: Tensor, way: str, row: int, column: int) -> None:
    """Writes past the counters: another number in each of some entries, whatever was there."""
    if way == "negated":
        weight.data.neg_()
    elif way == "rows swapped":
        weight.data[[row, row - 1]] = weight.data[[row - 1, row]]
    else:
        places = {
            "all": (slice(None), slice(None)),
            "row": (row, slice(None)),
            "column": (slice(None), column),
            "entry": (row, column),
        }
        weight.data[places[way]] = weight.data[places[way]] * 2 + 1


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 700),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    way=st.sampled_from(["all", "negated", "row", "rows swapped", "column", "entry"]),
    whole=st.booleans(),
    transposed=st.booleans(),
    place=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
)
@settings(max_examples=300, deadline=None)
def test_writes_past_the_counters(
    rows: int, columns: int, dtype: torch.dtype, way: str, whole: bool, transposed: bool, place: tuple[float, float]
) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    if transposed:
        weight = weight.t()
    bias = torch.zeros(3, dtype=dtype)
    rows, columns = weight.shape
    cache = WeightCache()

    def get() -> Tensor:
        return cache.get("a", [weight, bias], weight.clone, whole)

    kept = get()
    assert get() is kept
    version = weight._version
    _write(weight, way, int(place[0] * rows), int(place[1] * columns))
    assert weight._version == version
    if whole or way != "entry":
        assert torch.equal(get(), weight)
    bias.data[2] = 1
    assert get() is not kept, "small ones are always compared whole"
    assert torch.equal(get(), weight)


def test_nothing_is_kept_of_weights_elsewhere() -> None:
    """Their content would have to be waited for."""
    cache = WeightCache()
    built: list[int] = []
    for _ in range(2):
        cache.get("a", [torch.zeros(3, device="meta")], lambda: built.append(1))
    assert built == [1, 1]
    assert len(cache) == 0


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (1,), (1, 70_000), (5, 30_000), (70_000,)])
def test_shapes_of_weights(shape: tuple[int, ...]) -> None:
    weight, cache = torch.zeros(shape), WeightCache()
    for whole in (False, True):
        assert cache.get("a", [weight], weight.sum, whole) == 0
    if weight.numel():
        weight.data.view(-1)[-1] = 1
        assert cache.get("a", [weight], weight.sum, False) == 1, "of so few rows all is compared"
