"""Random arguments and results of the passes between products: residual sum with LayerNorm, GELU with pooling."""

from collections.abc import Callable

import torch
from torch import Tensor

Results = dict[str, Tensor]


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def add_norm_inputs(*shape: int, bias: bool = True, offset: float = 0.5) -> Results:
    """Random arguments of `add_layer_norm`, float64: two maps `[..., C]`, the first with a mean; weight and bias."""
    C = shape[-1]
    made = {"x": random(*shape) + offset, "branch": random(*shape, seed=1), "weight": random(C, seed=2)}
    return {**made, "bias": random(C, seed=3)} if bias else made


def add_norm_results(
    function: Callable[..., tuple[Tensor, Tensor]], tensors: Results, dtype: torch.dtype, eps: float = 1e-6
) -> Results:
    """The sum, its norm in `dtype`, and the gradients of all arguments."""
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    total, normed = function(*(leaves.get(name) for name in ("x", "branch", "weight", "bias")), eps, dtype)
    grads = [random(*out.shape, seed=seed).to(out) for seed, out in ((4, total), (5, normed))]
    gradients = torch.autograd.grad((total, normed), list(leaves.values()), grads)
    return {"out": total.detach(), "normed": normed.detach(), **dict(zip(leaves, gradients, strict=True))}


def gelu_pool_results(function: Callable[..., Tensor], x: Tensor, size: tuple[int, int]) -> Results:
    """The pooled map and the gradient of the map."""
    x = x.detach().requires_grad_()
    out = function(x, size)
    return {"out": out.detach(), "x": torch.autograd.grad(out, x, random(*out.shape, seed=1).to(out))[0]}
