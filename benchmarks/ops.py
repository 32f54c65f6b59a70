"""The ops of attention and gate alone: compiled kernels against plain PyTorch, forward and backward.

    python benchmarks/ops.py

Maps are those of TransNeXt-Tiny at 224x224, and the last stage's of an image of 800x1216. Both implementations run in
turn; a row shows medians, the median of their ratios, and which share of the processor's multiply-adds the attention
kernel does (the ones of its formula: logits, weighted sums and learnable tokens, nothing for the softmax). The peak is
a loop of nothing but multiply-adds, on each thread.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import tyro
from torch import Tensor

from transnext.ops import aggregated_attention, axis_index, depthwise_conv_gelu_gate, global_attention
from transnext.ops.register import CPU_KERNELS

STAGES = ((56, 7, 3, 384), (28, 7, 6, 768), (14, 7, 12, 768))
"""Map side, pooled side, heads and hidden channels of the first three stages."""

LAST_STAGE = ((None, 7, 7), (1, 25, 38))
"""Images (None for those asked for), rows and columns of maps of the last stage, which has 24 heads."""


def multiply_add_peak() -> float:
    """Multiply-adds per second of all threads together, the best of five tries."""
    assert CPU_KERNELS is not None
    threads = torch.get_num_threads()
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            done = sum(pool.map(CPU_KERNELS.multiply_adds, [10_000_000] * threads))
            best = max(best, done / (time.perf_counter() - start))
    return best


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, the calls in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if i > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main(batch_size: int = 8, rounds: int = 7) -> None:
    """Prints a Markdown table.

    Args:
        batch_size: Images.
        rounds: Calls of each implementation, after a warm-up.
    """
    peak = multiply_add_peak()
    kernels = CPU_KERNELS.instruction_set() if CPU_KERNELS else "none"
    print(f"{torch.get_num_threads()} threads, kernels: {kernels}, peak {peak / 1e9:.0f} G multiply-adds/s\n")
    print("| op | map | reference ms | kernel ms | ratio | of peak |\n|---|---|---|---|---|---|")
    for side, pool, heads, hidden in STAGES:
        attention = attention_call(batch_size, side, pool, heads)
        done = batch_size * side * side * heads * 24 * (2 * (9 + pool * pool) + 9)
        map_size = f"{side}x{side}"
        row("attention, forward", map_size, attention, done, peak, rounds, backward=False)
        row("attention, forward and backward", map_size, attention, None, peak, rounds, backward=True)
        gate = gate_call(batch_size, side, hidden)
        row("gate, forward", map_size, gate, None, peak, rounds, backward=False)
        row("gate, forward and backward", map_size, gate, None, peak, rounds, backward=True)
    for images, H, W in LAST_STAGE:
        B = images or batch_size
        attention = global_attention_call(B, H, W)
        done, map_size = B * (H * W) ** 2 * 24 * 24 * 2, f"{H}x{W}"
        row("global attention, forward", map_size, attention, done, peak, rounds, backward=False)
        row("global attention, forward and backward", map_size, attention, None, peak, rounds, backward=True)


def row(
    name: str,
    map_size: str,
    call: Callable[[str, bool], object],
    multiply_adds: int | None,
    peak: float,
    rounds: int,
    backward: bool,
) -> None:
    seconds = interleaved({b: lambda b=b: call(b, backward) for b in ("reference", "fused")}, rounds)
    ratio = statistics.median(r / f for r, f in zip(seconds["reference"], seconds["fused"], strict=True))
    reference, fused = (statistics.median(seconds[b]) for b in ("reference", "fused"))
    share = "" if multiply_adds is None else f"{multiply_adds / fused / peak:.0%}"
    print(f"| {name} | {map_size} | {reference * 1e3:.1f} | {fused * 1e3:.1f} | {ratio:.1f} | {share} |", flush=True)


def attention_call(B: int, side: int, pool: int, M: int, D: int = 24, K: int = 9) -> Callable[[str, bool], object]:
    axis = axis_index(side, pool)
    U = len(axis.offsets)
    qkv = torch.randn(B, side, side, 3, M, D)
    pooled = torch.randn(B, pool, pool, 2, M, D)
    parameters = [
        torch.randn(M, 1, D) * 0.02,
        torch.full((M, 1, 1), 4.15),
        torch.randn(M, K),
        torch.randn(M, D, K) * 0.02,
        torch.zeros(M, 1, K),
        torch.randn(M, U, U),
    ]
    leaves = [qkv, pooled, *parameters]

    def call(backend: str, backward: bool) -> None:
        run(
            leaves,
            backward,
            lambda: aggregated_attention(*qkv.unbind(3), *pooled.unbind(3), *parameters, axis, axis, backend=backend),
        )

    return call


def global_attention_call(B: int, H: int, W: int, M: int = 24, D: int = 24) -> Callable[[str, bool], object]:
    rows, cols = axis_index(H, H), axis_index(W, W)
    qkv = torch.randn(B, H, W, 3, M, D)
    parameters = [torch.randn(M, 1, D) * 0.02, torch.full((M, 1, 1), 4.15), torch.randn(M, 2 * H - 1, 2 * W - 1)]

    def call(backend: str, backward: bool) -> None:
        run(
            [qkv, *parameters],
            backward,
            lambda: global_attention(*qkv.unbind(3), *parameters, rows, cols, backend=backend),
        )

    return call


def gate_call(B: int, side: int, F: int) -> Callable[[str, bool], object]:
    x, weight, bias = torch.randn(B, side, side, 2 * F), torch.randn(F, 1, 3, 3) / 3, torch.randn(F)

    def call(backend: str, backward: bool) -> None:
        run([x, weight, bias], backward, lambda: depthwise_conv_gelu_gate(x, weight, bias, backend))

    return call


def run(leaves: list[Tensor], backward: bool, forward: Callable[[], Tensor]) -> None:
    for leaf in leaves:
        leaf.requires_grad_(backward)
        leaf.grad = None
    with torch.set_grad_enabled(backward):
        out = forward()
    if backward:
        out.backward(torch.ones_like(out))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
