"""Attention on a GPU: the Triton kernels against the reference, SDPA and FlexAttention formulations of the same op.

    python benchmarks/gpu_ops.py                 # float32, bfloat16; the first three stages of TransNeXt-Tiny
    python benchmarks/gpu_ops.py --size 800 1216 --batch-size 2

All compute `aggregated_attention`, as `attention_forms.py` writes it. Everything runs in turn; a row shows medians, and
how many times the kernels are faster by the median of the ratios of the rounds. Ways that run out of memory are named.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import tyro
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from attention_forms import Inputs, make_inputs, op, with_flex, with_sdpa
from transnext.bench.measure import Timed, reason, run_rounds
from transnext.engine.device import pick_device

HEADS = (3, 6, 12)
RATIOS = (8, 4, 2)


def main(
    size: tuple[int, int] = (224, 224),
    batch_size: int = 64,
    dtypes: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32", "bfloat16"),
    rounds: int = 20,
    device: str = "auto",
) -> None:
    """Prints a Markdown table.

    Args:
        size: Image height and width, pixels.
        batch_size: Images.
        dtypes: Of the maps.
        rounds: Calls of each, after a warm-up.
        device: auto, cuda or cpu.
    """
    kind = pick_device(device).type
    flex = torch.compile(flex_attention)
    calls: dict[str, Callable[[Inputs], Callable[[], Tensor]]] = {
        "kernels": lambda inputs: partial(op, inputs, "fused"),
        "reference": lambda inputs: partial(op, inputs, "reference"),
        "SDPA": with_sdpa,
        "FlexAttention": lambda inputs: with_flex(inputs, flex),
    }
    print(f"{torch.cuda.get_device_name() if kind == 'cuda' else kind}, torch {torch.__version__}, ms (times slower)\n")
    print(f"| stage | map | maps | pass | {' | '.join(calls)} |\n|---|---|---|---|{'---|' * len(calls)}")
    for stage, (M, ratio) in enumerate(zip(HEADS, RATIOS, strict=True)):
        H, W = (-(-n // (4 * 2**stage)) for n in size)
        for dtype in dtypes:
            inputs = make_inputs(batch_size, H, W, M, ratio, getattr(torch, dtype), kind)
            for backward in (False, True):
                timed = [Timed(step=step(call, inputs, backward)) for call in calls.values()]
                for item in timed:
                    try:
                        item.step()  # compiles, tunes
                    except Exception as error:
                        item.failure = reason(error)
                run_rounds(timed, rounds, kind)
                cells = [cell(item, timed[0]) for item in timed]
                which = "forward and backward" if backward else "forward"
                print(f"| {stage + 1} | {H}x{W} | {dtype} | {which} | {' | '.join(cells)} |", flush=True)


def step(prepare: Callable[[Inputs], Callable[[], Tensor]], inputs: Inputs, backward: bool) -> Callable[[], object]:
    """One pass, or both with the gradients of everything; prepared when it is first called."""
    prepared: list[Callable[[], Tensor]] = []

    def run() -> None:
        if not prepared:
            prepared.append(prepare(inputs))
        with torch.set_grad_enabled(backward):
            out = prepared[0]()
        if backward:
            torch.autograd.grad(out, list(inputs.tensors.values()), torch.ones_like(out), allow_unused=True)

    return run


def cell(item: Timed, first: Timed) -> str:
    """Milliseconds, and how many times those of the kernels they are."""
    if item.failure or not item.seconds:
        return "out of memory" if "out of memory" in item.failure else item.failure or "not measured"
    text = f"{statistics.median(item.seconds) * 1e3:.2f}"
    if item is first or not first.seconds:
        return text
    return f"{text} ({statistics.median(a / b for a, b in zip(item.seconds, first.seconds, strict=False)):.1f}x)"


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
