"""What `torch.compile(dynamic=True)` costs over ten image sizes: graphs, seconds of a call, difference from eager.

    python benchmarks/compile_sizes.py --backend aot_eager
    TORCHINDUCTOR_LAYOUT_OPTIMIZATION=0 python benchmarks/compile_sizes.py --backend inductor --training

The network has four small blocks, one of each stage; Inductor takes minutes for it.
"""

import time

import torch
import tyro
from torch import Tensor, nn

from transnext import TransNeXt

SIZES = (
    (64, 64),
    (96, 128),
    (64, 96),
    (128, 96),
    (100, 130),
    (96, 96),
    (160, 64),
    (97, 65),
    (128, 224),
    (192, 160),
)


def step(model: nn.Module, images: Tensor, training: bool) -> list[Tensor]:
    """The logits and, when training, the gradients of all parameters."""
    model.zero_grad()
    logits = model(images)
    if not training:
        return [logits]
    logits.square().mean().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def main(backend: str = "aot_eager", training: bool = False, specialize_float: bool = False) -> None:
    """Prints a Markdown table, a row as soon as it is known.

    Args:
        backend: One of torch.compile's.
        training: Forward and backward instead of inference.
        specialize_float: Let Dynamo take floats, as the eps of a LayerNorm, for constants: else it traces twice.
    """
    torch._dynamo.config.specialize_float = specialize_float
    torch.manual_seed(0)
    small = {"embed_dims": (12, 16, 24, 32), "num_heads": (1, 2, 2, 4), "mlp_ratios": (3, 3, 2, 2)}
    model = TransNeXt(img_size=64, num_classes=5, depths=(1, 1, 1, 1), **small).train(training)
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    print("| size | graphs so far | first call, s | largest difference, relative to the largest value |")
    print("|---|---|---|---|")
    with torch.set_grad_enabled(training):
        for rows, cols in SIZES:
            images = torch.randn(2, 3, rows, cols)
            start = time.perf_counter()
            found = step(compiled, images, training)
            seconds = time.perf_counter() - start
            expected = step(model, images, training)
            difference = max(
                float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) for a, b in zip(found, expected, strict=True)
            )
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            print(f"| {rows}x{cols} | {graphs} | {seconds:.1f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
