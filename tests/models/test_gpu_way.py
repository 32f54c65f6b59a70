"""The way of blocks on GPUs, on kernels that Triton interprets: the numbers of the plain way, in fewer launches."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.error_budget import check_budget
from tests.helpers.small_transnext import small_model
from transnext import TransNeXt
from transnext.models import gpu, position_bias
from transnext.models.fast import reasons
from transnext.models.layers import Block

pytest.importorskip("triton")

pytestmark = pytest.mark.usefixtures("one_thread", "interpreted_kernels")

TWO_STAGES: dict[str, Any] = {
    "embed_dims": (16, 24),
    "num_heads": (2, 3),
    "mlp_ratios": (2, 2),
    "depths": (2, 2),
    "sr_ratios": (2, 1),
}
"""Two blocks with aggregated attention, two with global attention."""
ONE_HEAD: dict[str, Any] = {"num_heads": (1, 3)}
"""For what does not depend on heads: the interpreter takes its time for each."""


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Maps on the CPU go the way of those on a GPU; yields how many blocks went it at once, each time."""
    runs: list[int] = []
    run = gpu.run_blocks

    def noted(blocks: Any, x: Tensor) -> Tensor:
        runs.append(len(list(blocks)))
        return run(blocks, x)

    monkeypatch.setattr(gpu, "run_blocks", noted)
    monkeypatch.setattr(gpu, "DEVICES", {"cpu"})
    return runs


def network(**options: Any) -> TransNeXt:
    model = small_model(**{**TWO_STAGES, **options})
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def image(height: int = 12, width: int = 20, batch: int = 1, seed: int = 0) -> Tensor:
    """Maps of 3x5 and 2x3 pixels: bins of two widths."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def results(model: TransNeXt, x: Tensor, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The last map, and the gradients of a sum of its products with fixed numbers."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = model.forward_features(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    (out * weights).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "x": x.grad, **gradients}


def plain(function: Callable[[], Any]) -> Any:
    """What a function gives where no map goes the way of GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "DEVICES", set())
        return function()


def check(
    found: dict[str, Tensor], ways: list[dict[str, Tensor]], exact: dict[str, Tensor], others: list[dict[str, Tensor]]
) -> None:
    """Holds results to the budget: twice the error of the plain ways, of which the worse one counts."""
    worst = {name: max((way[name] for way in ways), key=lambda t: float((t - exact[name]).norm())) for name in exact}
    assert found.keys() == exact.keys()
    # What is added to all logits of a query changes nothing: that gradient is 0, and its rounding errors are luck.
    for name in [name for name in exact if name.startswith("stages.1") and name.endswith("cpb_fc2.bias")]:
        assert found[name].norm() <= 1e-5 * exact[name.replace("bias", "weight")].norm()
        for results in (found, worst, exact, *others):
            del results[name]
    check_budget(found, worst, exact, others)


@pytest.mark.parametrize(("training", "mode"), [(True, "extrapolate"), (False, "interpolate"), (False, "linear")])
def test_values_and_gradients(training: bool, mode: Any, on_gpu: list[int]) -> None:
    model, x = network().train(training), image()
    model.mode = mode
    found = results(model, x)
    assert on_gpu == [2, 2]
    usual = [plain(lambda: results(model, x))]
    model.backend = "reference"
    usual.append(results(model, x))
    exact, *others = (results(model.double(), image(seed=seed).double()) for seed in range(4))
    assert on_gpu == [2, 2]
    check(found, usual, exact, others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_without_gradients(dtype: torch.dtype, on_gpu: list[int]) -> None:
    model, x = network().to(dtype), image(batch=2).to(dtype)
    with torch.no_grad():
        found = model.forward_features(x)
        assert on_gpu == [2, 2]
        model.backend = "reference"
        usual = model.forward_features(x)
        exact = model.double().forward_features(x.double())
    # The interpreter cuts off to bfloat16 instead of rounding.
    times = 2 if dtype == torch.bfloat16 else 1
    assert (found.double() - exact).norm() <= times * (2 * (usual.double() - exact).norm() + 1e-6 * exact.norm())


@pytest.mark.parametrize("training", [False, True])
def test_autocast(training: bool, on_gpu: list[int]) -> None:
    model, x = network().train(training), image()
    if training:
        found = results(model, x, torch.bfloat16)
        model.backend = "reference"
        usual, exact = results(model, x, torch.bfloat16), results(copy.deepcopy(model).double(), x.double())
    else:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = {"out": model.forward_features(x)}
            model.backend = "reference"
            usual = {"out": model.forward_features(x)}
        with torch.no_grad():
            exact = {"out": model.double().forward_features(x.double())}
    assert on_gpu == [2, 2]
    for name in found:
        assert found[name].dtype == usual[name].dtype, name
        error, allowed = (found[name] - exact[name]).norm(), (usual[name] - exact[name]).norm()
        assert error <= 4 * allowed + 1e-2 * exact[name].norm(), name
    total = [sum(float((r[name] - exact[name]).norm() / exact[name].norm()) for name in found) for r in (found, usual)]
    assert total[0] <= 2 * total[1]


def test_new_weights_are_seen_whichever_way_they_came(on_gpu: list[int]) -> None:
    """Nothing is remembered of weights, for on a GPU their content is not looked at."""
    model, x = network(), image()
    with torch.no_grad():
        model.forward_features(x)
        for p in model.parameters():
            p.data.mul_(1.25)  # unseen by PyTorch's counters
        found, expected = model.forward_features(x), plain(lambda: model.forward_features(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["norm1", "attn.kv", "attn.cpb_fc1", "mlp.dwconv"])
def test_hooks_are_called(name: str, on_gpu: list[int]) -> None:
    model, called = network(), []
    block = model.stages[0].blocks[1]
    block.get_submodule(name).register_forward_hook(lambda *_: called.append(name))
    with torch.no_grad():
        model.forward_features(image())
    assert called
    assert on_gpu == [1, 2]  # the block before it, and the stage after it


def test_a_hook_of_a_block_is_called(on_gpu: list[int]) -> None:
    model, seen = network(), []
    model.stages[0].blocks[0].register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        model.forward_features(image())
    assert isinstance(seen[0], Tensor)
    assert on_gpu == [1, 1, 2]


def test_replaced_parts_are_called(on_gpu: list[int]) -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model, x = network(), image()
    attn = model.stages[0].blocks[0].attn
    attn.q.__class__ = Scaled
    with torch.no_grad():
        found, expected = model.forward_features(x), plain(lambda: model.forward_features(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert on_gpu == [1, 2]


def test_recomputed_blocks(on_gpu: list[int]) -> None:
    model, x = network(**ONE_HEAD, drop_path_rate=0.5).train(), image(batch=2)
    torch.manual_seed(3)
    expected = results(model, x)
    model.set_grad_checkpointing()
    torch.manual_seed(3)
    found = results(model, x)
    assert on_gpu == [2, 2] + 8 * [1]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_frozen_parameters(on_gpu: list[int]) -> None:
    model, x = network(**ONE_HEAD).train(), image()
    expected = results(model, x)
    for frozen in ("attn.kv.weight", "cpb_fc1", "attn."):
        for name, p in model.named_parameters():
            p.requires_grad_(frozen not in name)
            p.grad = None
        found = results(model, x)
        kept = {name for name in expected if name in ("out", "x") or frozen not in name}
        assert found.keys() == kept, frozen
        for name in kept:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(copied: Callable[[nn.Module], nn.Module], on_gpu: list[int]) -> None:
    model, x = network(**ONE_HEAD, qkv_bias=False), image()
    with torch.no_grad():
        expected = model.forward_features(x)
        twin = copied(model)
        assert torch.equal(twin.forward_features(x), expected)
        for p in twin.parameters():
            p.mul_(1.5)
        assert not torch.allclose(twin.forward_features(x), expected)
        assert torch.equal(model.forward_features(x), expected)


def test_gradients_are_of_the_modules_parameters(on_gpu: list[int]) -> None:
    """Names, groups by layer and hooks of parameters: nothing new is trained."""
    model = network(**ONE_HEAD).train()
    names = [name for name, _ in model.named_parameters()]
    seen = []
    q = model.stages[0].blocks[0].attn.q.weight
    q.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.shape))
    results(model, image())
    assert [name for name, _ in model.named_parameters()] == names
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("head"))
    assert seen == [q.shape]


@pytest.mark.parametrize("mode", ["extrapolate", "interpolate"])
@pytest.mark.parametrize("chunk", [1, position_bias.MAX_CHUNK_ENTRIES])
def test_tables_of_several_blocks(chunk: int, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of each block, and gradients of each block's MLP, to the last digits of float64."""
    monkeypatch.setattr(position_bias, "MAX_CHUNK_ENTRIES", chunk)
    model, x = network(depths=(3, 1), bias_mode=mode).train().double(), torch.randn(1, 7, 5, 16).double()
    mixers: list[Any] = [block.attn for block in model.stages[0].blocks]
    found, expected = gpu._biases(mixers, x), [mixer.bias_of(x) for mixer in mixers]
    parameters = [p for m in mixers for p in (*m.cpb_fc1.parameters(), *m.cpb_fc2.parameters())]
    gradients = []
    for biases in (found, expected):
        for bias, other in zip(biases, expected, strict=True):
            torch.testing.assert_close(bias.table, other.table, rtol=1e-12, atol=1e-12)
            assert bias.table.shape == other.table.shape
            assert torch.equal(bias.rows.taps, other.rows.taps)
            assert torch.equal(bias.cols.taps, other.cols.taps)
        total = sum((bias.table * (i + 1)).sin().sum() for i, bias in enumerate(biases))
        gradients.append(torch.autograd.grad(total, parameters))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_tables_of_blocks_that_differ(on_gpu: list[int]) -> None:
    model, x = network(), image()
    model.stages[0].blocks[1].attn.bias_mode = "interpolate"
    with torch.no_grad():
        found, expected = model.forward_features(x), plain(lambda: model.forward_features(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gradients_that_others_wait_for_come_with_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where processes share them, those of the first block's table do not wait for the last block's."""
    model, x = network(depths=(3, 1)), torch.randn(1, 7, 5, 16)
    mixers: list[Any] = [block.attn for block in model.stages[0].blocks]

    def nodes_below() -> int:
        bias = gpu._biases(mixers, x)[0]
        seen, left = set(), [bias.table.grad_fn]
        while left:
            node = left.pop()
            if node is not None and node not in seen:
                seen.add(node)
                left += [parent for parent, _ in node.next_functions]
        return sum(type(node).__name__ == "AccumulateGrad" for node in seen)

    assert nodes_below() == 3 * 4
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert nodes_below() == 4


def test_coordinates_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network().train()
    mixer, calls = model.stages[0].blocks[0].attn, []
    position_bias._remembered_coordinates.cache_clear()
    usual = position_bias.log_spaced
    monkeypatch.setattr(position_bias, "log_spaced", lambda *args: calls.append(args) or usual(*args))
    for _ in range(2):
        for size in ((7, 5), (5, 7)):
            x = torch.randn(1, *size, 16)
            gpu._biases([mixer], x)
            mixer.backend = "reference"
            mixer.bias_of(x)
    assert len(calls) == 2  # of 5 and of 7 rows or columns
    monkeypatch.setattr(position_bias, "is_capturing", lambda: True)
    monkeypatch.setattr(position_bias, "_remembered_coordinates", lambda *_: pytest.fail("they were remembered"))
    monkeypatch.setattr(position_bias, "_remembered_axis", lambda *_: pytest.fail("an axis was remembered"))
    gpu._biases([mixer], x)
    assert len(calls) == 4


def test_a_block_by_itself(on_gpu: list[int]) -> None:
    block = network().stages[0].blocks[0]
    assert isinstance(block, Block)
    x = torch.randn(1, 5, 7, 16)
    with torch.no_grad():
        found, expected = block(x), plain(lambda: block(x))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert on_gpu == [1]


def test_nothing_objects_to_blocks_that_go_this_way(on_gpu: list[int]) -> None:
    model, x = network(), image()
    found = reasons(model, x)
    assert len(found) == 4
    assert set(found.values()) == {None}
    model.backend = "reference"
    assert None not in reasons(model, x).values()
    assert on_gpu == [1, 1, 1, 1]
