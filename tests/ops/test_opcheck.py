"""Every op as PyTorch wants it: schema, autograd and fake of one mind with the kernels about shapes, strides, aliases.

`torch.compile` trusts the fakes: a result with other strides than they say, or that shares its memory with another one,
stops a compiled training step or makes it wrong.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.attention_cases import GLOBAL_TENSORS, TENSORS, attention_inputs, cast, gate_inputs, global_inputs
from transnext.ops.products import pack_linear
from transnext.ops.register import CPU_KERNELS

pytestmark = pytest.mark.usefixtures("one_thread")

needs_kernels = pytest.mark.skipif(CPU_KERNELS is None, reason="the compiled kernels are not there")
CPU_INFERENCE = ("norm_linear", "conv_glu", "adaptive_average_pool")
"""Ops without a gradient."""


def ops_of_the_package() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix("transnext::") for name in names if name.startswith("transnext::"))


GPU_ONLY = [
    n
    for n in ops_of_the_package()
    if n.startswith(("aggregated_attention_training", "gelu_average_pool", "add_layer_norm"))
]
OPS_OF_TRITON = [
    n
    for n in ops_of_the_package()
    if n in GPU_ONLY or n.startswith(("aggregated_attention", "depthwise_conv_gelu_gate"))
]


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def attention(dtype: torch.dtype = torch.float32, **options: Any) -> list[Any]:
    inputs = cast(attention_inputs(2, 3, 1, 2, M=2, **options), torch.float32)
    for name in TENSORS[:5]:
        inputs[name] = inputs[name].to(dtype)
    rows, cols = inputs["rows"].table_size, inputs["cols"].table_size
    return [*(inputs[name] for name in TENSORS), rows[0], cols[0], rows[1], cols[1]]


def attention_with_results(dtype: torch.dtype = torch.float32) -> list[Any]:
    q, *others = attention(dtype)
    return [torch.randn_like(q), torch.randn_like(q), torch.full((1, 2, 6), 2.0), q, *others]


def attention_to_all(**options: Any) -> list[Any]:
    inputs = cast(global_inputs(2, 3, B=2, M=2, **options), torch.float32)
    return [*(inputs[name] for name in GLOBAL_TENSORS), inputs["rows"].table_size[0], inputs["cols"].table_size[0]]


def gradient_to_all(**options: Any) -> list[Any]:
    call = attention_to_all(**options)
    out, statistics = torch.ops.transnext.global_attention(*call)
    return [torch.randn_like(out), out, statistics, *call]


def gate(with_bias: bool = True) -> list[Any]:
    x, weight, bias = (t.float() for t in gate_inputs(2, 4, 5, 6))
    return [x, weight, bias if with_bias else None]


def packed(N: int, K: int) -> tuple[Tensor, Tensor]:
    panels, bias, _ = pack_linear(*tensors((N, K), (N,)))
    return panels, bias


GLU = ((2, 4, 5, 8), (12, 8), (12,), (6, 1, 3, 3), (6,), (8, 6), (8,))
TABLE = ((3,), (4,), (16, 2), (16,), (2, 16), (2,))
LINEAR = ((2, 3, 8), (5, 8), (5,))


def glu_gradient(bias: bool) -> list[Any]:
    x, w1, _, w, b, w2, _, hidden = tensors(*GLU, (2, 4, 5, 12))
    return [x.clone(), x, hidden, w1, w, b if bias else None, w2]


CALLS: dict[str, Callable[[], list[list[Any]]]] = {
    "aggregated_attention": lambda: [
        attention(),
        attention(torch.bfloat16, window=1, trained_rows=(4, 2), trained_cols=(4, 2)),
    ],
    "aggregated_attention_training": lambda: [attention(), attention(torch.bfloat16)],
    "aggregated_attention_training_backward": lambda: [
        attention_with_results(),
        attention_with_results(torch.bfloat16),
    ],
    "global_attention": lambda: [attention_to_all(), attention_to_all(trained=(4, 2))],
    "global_attention_backward": lambda: [gradient_to_all(), gradient_to_all(trained=(4, 2))],
    "depthwise_conv_gelu_gate": lambda: [gate(), gate(with_bias=False)],
    "norm_linear": lambda: [
        [*tensors((2, 5, 8), (8,), (8,)), 1e-6, *packed(12, 8), 12, 4, None],
        [*tensors((2, 5, 8)), None, None, 0.0, *packed(12, 8), 12, 12, *tensors((2, 5, 12))],
    ],
    "conv_glu": lambda: [
        [*tensors((2, 4, 5, 8), (8,), (8,)), 1e-6, *packed(12, 8), *tensors((6, 1, 3, 3), (6,)), *packed(8, 6)]
    ],
    "position_bias_table": lambda: [tensors(*TABLE)],
    "position_bias_table_backward": lambda: [tensors((2, 3, 4), *TABLE)],
    "linear": lambda: [tensors(*LINEAR), [*tensors(*LINEAR[:2]), None]],
    "linear_backward": lambda: [
        [*tensors((2, 3, 5), *LINEAR[:2]), *(bool(wanted >> i & 1) for i in range(3))] for wanted in range(8)
    ],
    "conv_glu_training": lambda: [tensors(*GLU), [t if t.ndim > 1 else None for t in tensors(*GLU)]],
    "conv_glu_training_backward": lambda: [glu_gradient(True), glu_gradient(False)],
    "add_layer_norm": lambda: [
        [*tensors((2, 3, 8), (2, 3, 8), (8,), (8,)), 1e-6, torch.float32],
        [*tensors((2, 3, 5), (2, 3, 5), (5,)), None, 1e-6, torch.bfloat16],
    ],
    "add_layer_norm_backward": lambda: [
        [*tensors((2, 3, 8), (2, 3, 8), (2, 3, 8), (8,), (8,)), 1e-6],
        [*tensors((2, 3, 5), (2, 3, 5), (2, 3, 5), (5,)), None, 1e-6],
    ],
    "gelu_average_pool": lambda: [[*tensors((2, 5, 7, 8)), 2, 3], [*tensors((1, 2, 3, 5)), 3, 4]],
    "gelu_average_pool_backward": lambda: [[*tensors((2, 2, 3, 8), (2, 5, 7, 8)), 2, 3]],
    "adaptive_average_pool": lambda: [[*tensors((2, 5, 7, 8)), 2, 3]],
}


def arguments_of(name: str) -> list[list[Any]]:
    """Arguments of several calls; a gradient that has none of its own gets those of the op and that of its result."""
    if name in CALLS:
        return CALLS[name]()
    calls = CALLS[name.removesuffix("_backward")]()
    return [[torch.randn_like(c[0][..., : c[0].shape[-1] // (2 if c[0].ndim == 4 else 1)]), *c] for c in calls]


@needs_kernels
@pytest.mark.parametrize("name", [n for n in ops_of_the_package() if n not in GPU_ONLY])
def test_compiled_kernels(name: str) -> None:
    check(name)


@pytest.mark.usefixtures("interpreted_kernels")
@pytest.mark.parametrize("name", OPS_OF_TRITON)
def test_kernels_for_gpus_interpreted(name: str) -> None:
    check(name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use")
@pytest.mark.parametrize("name", OPS_OF_TRITON)
def test_kernels_for_gpus(name: str) -> None:
    check(name, "cuda")


@pytest.mark.usefixtures("interpreted_kernels")
def test_compiled_training_by_kernels_for_gpus() -> None:
    """Inductor checks strides and alignment of what an op returns."""
    q, *rest, table_H, table_W, table_P_h, table_P_w = attention()
    x, weight, bias = gate()
    sizes = (table_H, table_W, table_P_h, table_P_w)

    def step(*inputs: Tensor) -> Tensor:
        out = torch.ops.transnext.aggregated_attention(*inputs[:11], *sizes)
        return out.square().mean() + torch.ops.transnext.depthwise_conv_gelu_gate(*inputs[11:]).square().mean()

    found = []
    for function in (step, torch.compile(step, fullgraph=True)):
        leaves = [t.clone().requires_grad_() for t in (q, *rest, x, weight, bias)]
        function(*leaves).backward()
        found.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(found[1], found[0])


def check(name: str, device: str = "cpu") -> None:
    op = getattr(torch.ops.transnext, name).default
    differentiable = torch._C._dispatch_has_kernel_for_dispatch_key(f"transnext::{name}", "Autograd")
    assert differentiable or name.endswith("_backward") or name in CPU_INFERENCE
    for call in arguments_of(name):
        call = [t.to(device) if isinstance(t, Tensor) else t for t in call]
        outputs = op(*call)
        for out in outputs if isinstance(outputs, tuple) else (outputs,):
            assert out.is_contiguous()
            assert out.storage_offset() == 0
        if differentiable:
            call = [t.requires_grad_() if isinstance(t, Tensor) else t for t in call]
        assert set(torch.library.opcheck(op, call).values()) == {"SUCCESS"}
