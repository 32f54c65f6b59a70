"""Counts what a network launches on a GPU, on any machine: nothing is computed, for tensors have no memory.

    python -m transnext.bench.launches            # TransNeXt-Tiny at 224x224

Counted are operations that are no views and no allocations, and within the ops of this package the kernels of Triton
that they launch and what PyTorch does between them. Operations on 64-bit numbers are not: they make indices and
coordinates of position tables, which are remembered for each size. A product of PyTorch counts as one, whatever its
library launches.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from timm import create_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import transnext  # noqa: F401 -- its models become known to timm
from transnext.models import gpu

ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view", "lift_fresh")
"""Operations of PyTorch that launch nothing and are not known as views."""

WIDE = (torch.int64, torch.float64)


class Launches(NamedTuple):
    """What was launched.

    Attributes:
        forward: Operations of a forward pass and how often each was called, ops of this package as one each.
        backward: Of a backward pass; empty without gradients.
        kernels: Further launches within the ops of this package, of both passes: those beyond one for each call.
    """

    forward: Counter[str]
    backward: Counter[str]
    kernels: int

    def __sub__(self, other: "Launches") -> "Launches":
        forward, backward = self.forward.copy(), self.backward.copy()
        forward.subtract(other.forward)
        backward.subtract(other.backward)
        return Launches(forward, backward, self.kernels - other.kernels)


class _Count(TorchDispatchMode):
    """Counts operations by name, and launches within the ops of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        namespace, name = func._schema.name.split("::")
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if namespace == "transnext":
            self.operations[name] += 1
            self.kernels += _launches_within(name, args) - 1
        elif namespace == "aten" and not func.is_view and any(t.dtype not in WIDE for t in tensors):
            self.operations[name] += name not in ALLOCATIONS
        return out


def _launches_within(name: str, args: Any) -> int:
    """Kernels of Triton that an op launches, and operations of PyTorch between them."""
    from transnext.ops.triton import add_norm, attention, gate, gelu_pool
    from transnext.ops.triton.launch import noted_launches

    functions = {
        "aggregated_attention": attention.forward,
        "aggregated_attention_backward": attention.backward_training,
        "depthwise_conv_gelu_gate": gate.forward,
        "depthwise_conv_gelu_gate_backward": gate.backward,
        "gelu_average_pool": gelu_pool.forward,
        "gelu_average_pool_backward": gelu_pool.backward,
        "add_layer_norm": add_norm.forward,
        "add_layer_norm_backward": add_norm.backward,
    }
    if name not in functions:
        return 1
    function: Any = functions[name]
    bare = tree_map_only(
        Tensor, lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"), tuple(args)
    )
    if name == "aggregated_attention_backward":  # on GPUs the forward pass has left it the output and one sum more
        with noted_launches():
            bare = (bare[0], *attention.forward_training(*bare[1:]), *bare[1:])
    with noted_launches() as noted, _Count() as between:
        function(*bare)
    return len(noted) + between.operations.total()


@contextmanager
def _devices(*kinds: str) -> Iterator[None]:
    before, gpu.DEVICES = gpu.DEVICES, set(kinds)
    try:
        yield
    finally:
        gpu.DEVICES = before


def count_launches(
    model: nn.Module,
    size: tuple[int, int] = (224, 224),
    *,
    batch_size: int = 2,
    training: bool = False,
    autocast: bool = False,
    plain: bool = False,
) -> Launches:
    """Counts the launches of a forward pass, and of a backward one in training.

    Args:
        model: On the meta device; its parameters are replaced, and it is good for nothing else afterwards.
        size: Rows and columns of the images.
        batch_size: Images.
        training: With gradients, in training mode.
        autocast: Under autocast to bfloat16.
        plain: By the modules of blocks one after the other, as graphs and hooked blocks are computed.
    """
    # Backward passes ask for the driver of a GPU, so those of training are on the CPU, in name.
    kind = "cpu" if training else "cuda"
    with FakeTensorMode(), _devices(*([] if plain else [kind])):
        for module in model.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    bare = torch.empty(p.shape, dtype=p.dtype, device=kind)
                    module._parameters[name] = nn.Parameter(bare, requires_grad=p.requires_grad)
        model.train(training)
        dtype = torch.float32 if autocast else next(model.parameters()).dtype
        images = torch.empty(batch_size, 3, *size, dtype=dtype, device=kind)
        enabled, before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        torch.set_autocast_enabled(kind, autocast)  # the context manager refuses where there is no GPU
        torch.set_autocast_dtype(kind, torch.bfloat16)
        try:
            with torch.set_grad_enabled(training), _Count() as forward:
                out = model(images)
        finally:
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, before)
            torch.clear_autocast_cache()
        backward = _Count()
        if training:
            gradient = torch.empty_like(out)
            with backward:
                out.backward(gradient)
    return Launches(forward.operations, backward.operations, forward.kernels + backward.kernels)


def launches_of_a_block(name: str = "transnext_tiny", stage: int = 0, **options: Any) -> Launches:
    """Counts what one more block of a stage adds.

    Args:
        name: Of a variant.
        stage: From 0 on.
        options: Those of `count_launches`.
    """
    counts = []
    for blocks in (2, 3):
        depths = [1, 1, 1, 1]
        depths[stage] = blocks
        counts.append(count_launches(_on_meta(name, depths, options), **options))
    return counts[1] - counts[0]


def _on_meta(name: str, depths: list[int] | None, options: dict[str, Any]) -> nn.Module:
    dtype = torch.float32 if options.get("autocast") else torch.bfloat16
    settings: dict[str, Any] = {} if depths is None else {"depths": tuple(depths)}
    model: nn.Module = create_model(name, device="meta", dtype=dtype, **settings)
    return model


def main() -> None:
    """Prints a table for TransNeXt-Tiny."""
    form = "{:44} {:>6} {:>6}"
    print(form.format("transnext_tiny, 224x224", "plain", "now"))
    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("inference, bfloat16 weights", {}),
        ("inference, autocast", {"autocast": True}),
        ("training, autocast", {"autocast": True, "training": True}),
    )
    for title, options in ways:
        counts = [launches_of_a_block(plain=plain, **options) for plain in (True, False)]
        print(form.format(f"{title}: a block", *(c.forward.total() for c in counts)))
        if options.get("training"):
            print(form.format("  its backward pass", *(c.backward.total() for c in counts)))
        print(form.format("  beyond one each within our ops", *(c.kernels for c in counts)))
        if not options.get("training"):
            whole = [
                count_launches(_on_meta("transnext_tiny", None, options), plain=p, **options) for p in (True, False)
            ]
            print(form.format("  the network", *(c.forward.total() for c in whole)))


if __name__ == "__main__":
    main()
