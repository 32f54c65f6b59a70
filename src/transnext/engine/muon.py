"""Muon: weight matrices follow the orthogonal factor of their momentum, everything else AdamW."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor, nn

MOMENTUM = 0.95
NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ_COEFFICIENTS = [(3.4445, -4.7750, 2.0315)]
"""Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024)."""


class Muon(torch.optim.AdamW):
    """Momentum orthogonalised by Newton-Schulz iterations for groups of matrices, AdamW for all other groups.

    A matrix `[out, in]`, or the weight `[out, in, h, w]` of a convolution as `[out, in h w]`, is moved by
    `0.2 lr sqrt(max(out, in))` along the orthogonal factor of its Nesterov momentum, which makes its step as large as
    AdamW's (Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982): rate and decay are those of AdamW.

    The iterations are timm's. Its own optimiser, and PyTorch's, run them in bfloat16, many times slower than float32 on
    a CPU that has no instructions for it (`benchmarks/optimizers.py`), and matrix after matrix; here they are in
    float32 on a CPU, and take all matrices of one shape at once.

    Args:
        groups: Groups of parameters as AdamW takes them; those of matrices have an entry `"matrices": True`.
        lr: Learning rate of all.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__([{"matrices": False, **group} for group in groups], lr=lr, fused=True)
        # Fused AdamW leaves it to its kernel to skip an update with a gradient that overflowed; a matrix has none.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            loss: float | None = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["matrices"]:
                self._move_matrices(group)
        return loss

    def _move_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                update = self._momentum(weight, weight.grad).flatten(1)
                by_shape[update.shape].append((weight, update))
        for shape, pairs in by_shape.items():
            weights, updates = zip(*pairs, strict=True)
            dtype = torch.float32 if weights[0].device.type == "cpu" else torch.bfloat16
            directions = zeropower_via_newtonschulz(
                torch.stack(updates), NEWTON_SCHULZ_STEPS, NEWTON_SCHULZ_COEFFICIENTS, dtype=dtype
            )
            length = group["lr"] * get_lr_scale(shape, "match_rms_adamw")
            for weight, direction in zip(weights, directions, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(direction.reshape(weight.shape).to(weight.dtype), alpha=length)

    def _momentum(self, weight: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())  # AdamW expects it in every state that it loads
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)  # Nesterov's


def with_matrices_apart(groups: Iterable[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Splits groups of parameters into matrices and the rest, for `Muon`.

    Matrices are the weights of linear layers and of convolutions that mix channels, except the classifier's and what
    the model names in `no_weight_decay()`, whose rows and columns are no features.
    """
    apart: set[str] = getattr(model, "no_weight_decay", set)()
    get_classifier: Callable[[], nn.Module] = getattr(model, "get_classifier", nn.Identity)
    matrices = {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if f"{name}.weight" not in apart
    }
    matrices -= {id(p) for p in get_classifier().parameters()}
    result = []
    for group in groups:
        for chosen in (True, False):
            params = [p for p in group["params"] if (id(p) in matrices) == chosen]
            if params:
                result.append({**group, "params": params, "matrices": chosen})
    return result
