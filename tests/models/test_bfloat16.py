"""Blocks with products of bfloat16 numbers: under autocast and in bfloat16 models, in inference and in training.

The error budget is twice the error of PyTorch's modules in the same setting, against float64. Networks of random
weights make little of a rounding or much of it by chance: errors are means over several, and then are held to less.
"""

import copy
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.attention_cases import threads
from transnext import TransNeXt
from transnext.models import fast
from transnext.models.fast import FastBlock, reasons, run_block, run_with_gradients, why_not
from transnext.ops.bfloat16 import use_bfloat16_products
from transnext.ops.register import CPU_KERNELS

pytestmark = [
    pytest.mark.usefixtures("one_thread", "bfloat16_products"),
    pytest.mark.skipif(CPU_KERNELS is None, reason="the kernels were not built"),
]

Make = Callable[..., TransNeXt]
NUM_BLOCKS = 5
CONFIGURATIONS: dict[str, dict[str, object]] = {
    "usual": {},
    "all_aggregated": {"sr_ratios": (16, 8, 4, 2)},
    "all_global": {"mixers": ("global",) * 4},
    "no_qkv_bias": {"qkv_bias": False},
    "narrow": {"embed_dims": (3, 6, 10, 14), "num_heads": (1, 1, 2, 2)},
    "beyond_panels": {"embed_dims": (40, 72, 136, 200), "num_heads": (1, 3, 4, 5)},
}


class Runs(list[str]):
    """Which way blocks went since it was last asked."""

    def seen(self) -> list[str]:
        found = list(self)
        self.clear()
        return found


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    seen = Runs()

    def inference(block: FastBlock, x: Tensor) -> Tensor:
        seen.append("inference")
        return run_block(block, x)

    def training(block: FastBlock, x: Tensor, touched: object = ()) -> Tensor:
        seen.append("training")
        return run_with_gradients(block, x, touched)  # type: ignore[arg-type]

    monkeypatch.setattr(fast, "run_block", inference)
    monkeypatch.setattr(fast, "run_with_gradients", training)
    return seen


def image(*size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def outputs(model: TransNeXt, x: Tensor) -> list[Tensor]:
    """Maps of all stages and logits."""
    with torch.no_grad():
        last, maps = model.forward_intermediates(x)
        return [*maps, model.forward_head(last)]


def by_modules(model: TransNeXt) -> TransNeXt:
    other = copy.deepcopy(model)
    other.backend = "reference"
    return other


class Errors:
    """Squares of errors, summed over draws, ours and those of PyTorch's modules."""

    def __init__(self) -> None:
        self.ours: dict[int, float] = defaultdict(float)
        self.theirs: dict[int, float] = defaultdict(float)
        self.exact: dict[int, float] = defaultdict(float)
        self.numbers: dict[int, int] = defaultdict(int)

    def add(self, found: list[Tensor], plain: list[Tensor], exact: list[Tensor]) -> None:
        assert len(found) == len(plain) == len(exact)
        for i, (f, p, e) in enumerate(zip(found, plain, exact, strict=True)):
            assert f.dtype == p.dtype
            self.ours[i] += float((f.double() - e).square().sum())
            self.theirs[i] += float((p.double() - e).square().sum())
            self.exact[i] += float(e.square().sum())
            self.numbers[i] += e.numel()

    def check(self) -> None:
        """At most a quarter more than PyTorch's over all tensors; for each some times that, which shows what is broken.

        What has few numbers, such as the temperature of one head, may have good luck in one path and bad in the other,
        and so may the gradients of the position bias' MLP, which are all made of the few sums of a small table.
        """
        ratios = []
        for i, exact in self.exact.items():
            ours, theirs = (errors[i] + 1e-14 * exact + 1e-24 for errors in (self.ours, self.theirs))
            ratios.append(ours / theirs)
            allowed = 5 + 40 / self.numbers[i]
            assert ratios[-1] <= allowed**2, f"tensor {i}: {ratios[-1] ** 0.5:.3g} times the error of PyTorch"
        assert sum(ratios) / len(ratios) <= 1.25**2


def draws(make: Make, name: str) -> list[tuple[TransNeXt, Tensor]]:
    sizes = ((64, 64), (33, 47), (95, 70), (5, 31))
    found = []
    for seed, size in enumerate(sizes):
        model = make(**CONFIGURATIONS[name])
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.flatten().roll(seed).view_as(p))
        found.append((model, image(*size)))
    return found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_under_autocast(name: str, tiny_model: Make, runs: Runs) -> None:
    errors = Errors()
    for model, x in draws(tiny_model, name):
        exact = outputs(copy.deepcopy(model).double(), x.double())
        with torch.autocast("cpu", torch.bfloat16):
            runs.clear()
            found = outputs(model, x)
            assert runs.seen() == ["inference"] * NUM_BLOCKS
            plain = outputs(by_modules(model), x)
            assert not runs.seen()
        errors.add(found, plain, exact)
    errors.check()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_bfloat16_models(name: str, tiny_model: Make, runs: Runs) -> None:
    errors = Errors()
    for model, x in draws(tiny_model, name):
        model, x = model.bfloat16(), x.bfloat16()
        runs.clear()
        found = outputs(model, x)
        assert runs.seen() == ["inference"] * NUM_BLOCKS
        errors.add(found, outputs(by_modules(model), x), outputs(copy.deepcopy(model).double(), x.double()))
    errors.check()


def test_products_are_those_of_bfloat16(bfloat16_products: str, tiny_model: Make) -> None:
    """What multiplies is what was chosen: each way of summing has bits of its own, float32 products have others."""
    block, x = tiny_model().stages[2].blocks[0], torch.randn(2, 9, 9, 24)
    found = []
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for name in ("AVX-512 BF16, emulated", "AMX, emulated", None):
            use_bfloat16_products(name)
            found.append(block(x))
    use_bfloat16_products(bfloat16_products)
    assert all(t.dtype == torch.float32 for t in found)
    vectors, tiles, floats = found
    assert not torch.equal(vectors, tiles)
    torch.testing.assert_close(vectors, tiles, rtol=0.02, atol=0.02)
    assert 1e-4 < (vectors - floats).norm() / floats.norm() < 0.02


def test_autocast_leaves_no_trace(tiny_model: Make) -> None:
    """Weights packed for one kind of products are not met by another."""
    model, x = tiny_model(), image(64, 96)
    expected = outputs(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = outputs(model, x)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), expected, strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(outputs(model, x), rounded, strict=True))
    assert not torch.equal(rounded[0], expected[0])


def test_new_weights_are_seen(tiny_model: Make) -> None:
    model, x = tiny_model(), image(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        before = outputs(model, x)[-1]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    with torch.autocast("cpu", torch.bfloat16):
        after = outputs(model, x)[-1]
        assert not torch.equal(before, after)
        assert torch.equal(after, outputs(copy.deepcopy(model), x)[-1])


def test_threads_give_the_same(tiny_model: Make) -> None:
    model, x = tiny_model(), image(64, 96)
    found = []
    for num_threads in (1, 2):
        with threads(num_threads), torch.autocast("cpu", torch.bfloat16):
            found.append(outputs(model, x))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_bad_image_spoils_no_other(tiny_model: Make) -> None:
    model, x = tiny_model(), image(64, 96, batch=3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = outputs(model, x)
        for bad in (float("nan"), float("inf")):
            x[1, 0, 30, 40] = bad
            for found, e in zip(outputs(model, x), expected, strict=True):
                assert torch.equal(found[[0, 2]], e[[0, 2]])
                assert not found[1].isfinite().all()


def test_float16_is_as_it_was(tiny_model: Make, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "has_16_bit_products", lambda dtype: False)
    model, x = tiny_model(), image(64, 64)
    expected = {}
    for name in (CPU_KERNELS.bfloat16_instruction_set(), None):  # type: ignore[union-attr]
        before = CPU_KERNELS.bfloat16_instruction_set()  # type: ignore[union-attr]
        use_bfloat16_products(name)
        with torch.autocast("cpu", torch.float16):
            expected[name] = [*outputs(model, x), *outputs(copy.deepcopy(model).half(), x.half())]
        use_bfloat16_products(before)
    first, second = expected.values()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert runs.seen() == ["inference"] * 4 * NUM_BLOCKS


# Training


def gradients(model: nn.Module, x: Tensor, target: Tensor) -> list[Tensor]:
    model.zero_grad()
    x = x.detach().clone().requires_grad_()
    loss = (model(x).double() * target).sum()
    loss.backward()
    assert x.grad is not None
    return [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_training_under_autocast(name: str, tiny_model: Make, runs: Runs) -> None:
    """At the larger sizes convolutional GLUs are one op, too."""
    errors = Errors()
    for model, x in draws(tiny_model, name):
        model.train()
        target = torch.randn(2, 5).double()
        exact = gradients(copy.deepcopy(model).double(), x.double(), target)
        with torch.autocast("cpu", torch.bfloat16):
            runs.clear()
            found = gradients(model, x, target)
            assert runs.seen() == ["training"] * NUM_BLOCKS
            plain = gradients(by_modules(model), x, target)
            assert not runs.seen()
        errors.add(found, plain, exact)
    errors.check()


@pytest.mark.parametrize("name", ["usual", "beyond_panels"])
def test_training_of_bfloat16_models(name: str, tiny_model: Make, runs: Runs) -> None:
    errors = Errors()
    for model, x in draws(tiny_model, name):
        model, x = model.bfloat16().train(), x.bfloat16()
        target = torch.randn(2, 5).double()
        runs.clear()
        found = gradients(model, x, target)
        assert runs.seen() == ["training"] * NUM_BLOCKS
        plain = gradients(by_modules(model), x, target)
        errors.add(found, plain, gradients(copy.deepcopy(model).double(), x.double(), target))
    errors.check()


def test_a_few_steps_of_training(tiny_model: Make) -> None:
    """Weights that an optimiser changes are packed anew; the loss falls as it does in float32."""
    x, target = image(64, 64, batch=4), torch.tensor([0, 1, 2, 3])
    losses = {}
    for autocast in (False, True):
        torch.manual_seed(0)
        model = tiny_model().train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses[autocast] = []
        for _ in range(8):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = nn.functional.cross_entropy(model(x).float(), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses[autocast].append(float(loss))
    assert losses[True][-1] < losses[True][0] / 2
    assert abs(losses[True][0] - losses[False][0]) < 0.1 * losses[False][0]


def test_reasons_and_mixed_dtypes(tiny_model: Make) -> None:
    model, x = tiny_model().train(), image(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert set(reasons(model, x).values()) == {None}
    block = model.stages[0].blocks[0]
    plain = torch.randn(2, 16, 16, 12)
    assert why_not(block, plain) is None
    block.mlp.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert why_not(block, plain) is None
        block(plain).sum().backward()
    other = "the kernels have gradients in float32 and bfloat16 alone, and the block is of other dtypes"
    assert why_not(block, plain) == other
    assert why_not(block, plain.bfloat16()) == other, "without autocast PyTorch's Linears take one dtype"
    with torch.autocast("cpu", torch.float16):
        assert why_not(block, plain) == other
    block.mlp.half()
    with torch.autocast("cpu", torch.bfloat16):
        assert why_not(block, plain) == other


def test_fused_is_kept(tiny_model: Make) -> None:
    """`backend="fused"` raises nothing where it did before there were these products."""
    model, x = tiny_model(), image(64, 64)
    model.backend = "fused"
    with torch.autocast("cpu", torch.bfloat16):
        outputs(model, x)
        model.train()(x).float().sum().backward()
    outputs(model.eval().bfloat16(), x.bfloat16())
