"""Step 2 of `gpu_check.py`: values, gradients, every configuration, torch.compile, CUDA graphs, streams, opcheck."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_report import Report
from tests.helpers.attention_cases import (
    MAPS,
    TENSORS,
    attention_inputs,
    attention_results,
    cast,
    gate_inputs,
    gate_results,
)
from tests.helpers.error_budget import budget_used
from transnext import TransNeXt
from transnext.ops import aggregated_attention, depthwise_conv_gelu_gate
from transnext.ops.triton import attention, gate
from transnext.ops.triton.launch import Kernel

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SIZES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1), {"D": 24}),
    ((2, 3, 3, 2), {"window": 5}),
    ((47, 33, 5, 4), {"D": 20, "B": 2}),
    ((14, 14, 14, 14), {"D": 64, "M": 4}),
    ((21, 30, 5, 7), {"D": 24, "trained_rows": (14, 7), "trained_cols": (14, 7)}),
    ((56, 56, 7, 7), {"D": 24, "B": 2, "M": 3}),
    ((28, 28, 7, 7), {"D": 24, "B": 2, "M": 6}),
    ((14, 14, 7, 7), {"D": 24, "B": 2, "M": 12}),
    ((100, 152, 25, 38), {"D": 24}),
]
GATES = [(1, 1, 1, 1, 3), (1, 9, 11, 3, 7), (3, 47, 33, 130, 3), (2, 56, 56, 384, 3)]
DRY_SIZES = [((8, 8, 2, 3), {"D": 24, "M": 1})]
DRY_GATES = [(1, 8, 8, 6, 3)]


def check_all(report: Report, seconds: float) -> None:
    """All checks, each with a share of the time."""
    checks: dict[str, tuple[float, Callable[[Report], None]]] = {
        "2a values and gradients": (15, values),
        "2b configurations": (5, configurations),
        "2c same bits": (1, same_bits),
        "2d torch.compile": (12, compiled),
        "2d CUDA graphs": (3, graphs),
        "2e autocast, GradScaler, stream": (2, mixed),
        "2e opcheck": (4, opcheck),
        "2f compute-sanitizer": (8, sanitizer),
    }
    for name, share in report.shares(seconds, {name: part for name, (part, _) in checks.items()}):
        with report.guarded(name, share):
            checks[name][1](report)


def moved(inputs: dict[str, Any], report: Report, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of attention on the device."""
    found = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            found[name] = value.to(report.device, dtype)
        else:
            parts = (None if t is None else t.to(report.device) for t in value[:3])
            found[name] = type(value)(*parts, value[3])
    return found


def on_cpu(results: dict[str, Tensor]) -> dict[str, Tensor]:
    """Results where they are compared."""
    return {name: t.cpu() for name, t in results.items()}


@contextmanager
def poisoned() -> Iterator[None]:
    """New memory begins as NaN."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def judge(report: Report, check: str, case: object, dtype: torch.dtype, used: dict[str, float]) -> None:
    """A row of the share of the error budget that was used, by the worst tensor."""
    worst = max(used, key=lambda name: used[name] if used[name] == used[name] else float("inf"))
    row = {"check": check, "case": str(case), "dtype": str(dtype).removeprefix("torch.")}
    share = used[worst]
    report.row("A correctness", **row, worst=worst, of_budget=round(share, 3), passed=share <= 1)


def attention_used(report: Report, sizes: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype) -> Any:
    """Shares of the error budget that attention uses."""
    inputs, *others = (moved(attention_inputs(*sizes, **options, seed=seed), report, dtype) for seed in range(3))
    exact, *usual = (on_cpu(attention_results(cast(i, torch.float64), "reference")) for i in (inputs, *others))
    plain, found = (on_cpu(attention_results(inputs, backend)) for backend in ("reference", "fused"))
    return budget_used(found, plain, exact, usual, times=4 if report.dry and dtype == torch.bfloat16 else 2)


def gate_used(report: Report, sizes: tuple[int, ...], dtype: torch.dtype) -> Any:
    """The same of the gate."""
    x, weight, bias = (t.to(report.device, dtype) for t in gate_inputs(*sizes))
    exact = on_cpu(gate_results(x.double(), weight.double(), bias.double(), "reference"))
    plain, found = (on_cpu(gate_results(x, weight, bias, backend)) for backend in ("reference", "fused"))
    return budget_used(found, plain, exact, [], times=4 if report.dry and dtype == torch.bfloat16 else 2)


def values(report: Report) -> None:
    """Results and all gradients against float64, new memory NaN."""
    with poisoned():
        for dtype in DTYPES:
            for sizes in DRY_GATES if report.dry else GATES:
                judge(report, "gate", sizes, dtype, gate_used(report, sizes, dtype))
        for (sizes, options), dtype in product(
            DRY_SIZES if report.dry else SIZES, DTYPES[:1] if report.dry else DTYPES
        ):
            judge(report, "attention", (sizes, options), dtype, attention_used(report, sizes, options, dtype))


def kernels() -> dict[str, Kernel]:
    """All that are launched."""
    found = [value for module in (attention, gate) for value in vars(module).values() if isinstance(value, Kernel)]
    return {kernel.function.__name__: kernel for kernel in found}


def configurations(report: Report) -> None:
    """Each configuration of each kernel at an odd size."""
    for name, kernel in kernels().items():
        every = kernel.configs
        for config in every[:1] if report.dry else every:
            if report.dry and name not in ("attention_forward", "gate_forward"):
                continue
            kernel.configs = [config]
            try:
                of_gate = kernel in vars(gate).values()
                sizes = (1, 5, 7, 19, 3) if report.dry else (3, 13, 21, 35, 3)
                of_map = ((3, 2, 1, 2), {"D": 8, "M": 1}) if report.dry else ((21, 30, 5, 7), {"D": 24, "B": 2})
                used = gate_used(report, sizes, DTYPES[0]) if of_gate else attention_used(report, *of_map, DTYPES[0])
            finally:
                kernel.configs = every
            judge(report, f"{name} {config}", sizes if of_gate else of_map, DTYPES[0], used)


def same_bits(report: Report) -> None:
    """Several runs."""
    sizes = (1, 2, 1, 1) if report.dry else (56, 56, 7, 7)
    inputs = moved(attention_inputs(*sizes, D=8 if report.dry else 24, M=1), report, DTYPES[0])
    first, *others = (attention_results(inputs, "fused") for _ in range(2 if report.dry else 5))
    used = {name: float(not all(torch.equal(other[name], first[name]) for other in others)) * 2 for name in first}
    judge(report, "same bits", sizes, DTYPES[0], used)


def small_model(report: Report) -> tuple[TransNeXt, tuple[int, ...]]:
    """Two stages with both mixers, and a size of images."""
    torch.manual_seed(0)
    depths = (1, 1) if report.dry else (2, 2)
    sizes = {"embed_dims": (24, 48), "num_heads": (1, 2), "depths": depths, "mlp_ratios": (2, 2), "sr_ratios": (4, 1)}
    model = TransNeXt(**sizes, num_classes=10).to(report.device)
    return model, (1, 3, 32, 32) if report.dry else (4, 3, 160, 96)


def results_of(model: Any, x: Tensor, training: bool) -> list[Tensor]:
    """Output, and gradients in training."""
    with torch.set_grad_enabled(training):
        out = model(x)
    if not training:
        return [out.clone()]
    gradients = torch.autograd.grad(out.float().square().mean(), [p for p in model.parameters() if p.requires_grad])
    return [out.detach().clone(), *(g.clone() for g in gradients)]


def compare(
    report: Report, check: str, case: object, found: list[Tensor], expected: list[Tensor], limit: float
) -> None:
    """A row of relative errors, as shares of a limit."""
    used = {
        str(i): float((f - e).norm() / (limit * e.norm() + 1e-5))
        for i, (f, e) in enumerate(zip(found, expected, strict=True))
    }
    judge(report, check, case, found[0].dtype, used)


def compiled(report: Report) -> None:
    """A network against its reference path: as a graph, with CUDA graphs, in evaluation and training, at two sizes."""
    model, shape = small_model(report)
    options: list[dict[str, Any]] = [{}, {"mode": "reduce-overhead"}]
    if report.dry:
        options = [{"backend": "aot_eager"}]
    for training, option in product((True,) if report.dry else (True, False), options):
        torch.compiler.reset()
        model.train(training)
        for size in (shape,) if report.dry else (shape, (2, 3, 96, 224)):
            x = torch.randn(size, device=report.device)
            model.backend = "reference"
            expected = results_of(model, x, training)
            model.backend = "auto"
            call = torch.compile(model, fullgraph=True, dynamic=False, **option)
            for _ in range(
                1 if report.dry else 3
            ):  # CUDA graphs are recorded in the second call, replayed in the third
                torch.compiler.cudagraph_mark_step_begin()
                found = results_of(call, x, training)
            compare(report, f"compiled {option} {'training' if training else 'eval'}", size, found, expected, 1e-3)


def graphs(report: Report) -> None:
    """A captured graph, replayed after other sizes, other weights' caches and modes have come and gone."""
    model, shape = small_model(report)
    model.eval()
    x = torch.randn(shape, device=report.device)
    with torch.no_grad():
        model.backend = "reference"
        expected = model(x)
        model.backend = "auto"
        if report.dry:
            compare(report, "CUDA graph (called)", shape, [model(x)], [expected], 1e-3)
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(x)
        for side in range(64, 256, 32):
            model(torch.randn(1, 3, side, side + 32, device=report.device))
        model.train().eval()
        model.load_state_dict(model.state_dict())
        torch.cuda.empty_cache()
        out.zero_()
        graph.replay()
        compare(report, "CUDA graph", shape, [out], [expected], 1e-3)


def mixed(report: Report) -> None:
    """A step under float16 autocast with a scaled loss, and one on a second stream."""
    model, shape = small_model(report)
    x = torch.randn(shape, device=report.device)
    kind = report.device.type
    expected = results_of(model, x, False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(kind)
    for _ in range(1 if report.dry else 3):
        with torch.autocast(kind, torch.bfloat16 if report.dry else torch.float16):
            loss = model(x).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    bad = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    judge(report, "autocast and GradScaler", shape, x.dtype, {"parameters": 2.0 if bad else 0.0})
    if not report.dry:
        model, shape = small_model(report)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = results_of(model, x, False)
        torch.cuda.current_stream().wait_stream(stream)
        compare(report, "second stream", shape, found, expected, 1e-6)


def opcheck(report: Report) -> None:
    """PyTorch's own checks of the four ops."""
    inputs = moved(attention_inputs(2, 3, 1, 2, M=2, window=1 if report.dry else 3), report, torch.float32)
    maps = [inputs[name] for name in TENSORS]
    call = [*maps, 2, 3, 1, 2]
    x, weight, bias = (t.to(report.device, torch.float32) for t in gate_inputs(2, 4, 5, 6))
    ops = torch.ops.transnext
    calls: dict[Any, list[Any]] = {
        ops.depthwise_conv_gelu_gate_backward.default: [x[..., :6].clone(), x, weight, bias],
        ops.depthwise_conv_gelu_gate.default: [t.clone().requires_grad_() for t in (x, weight, bias)],
        ops.aggregated_attention_backward.default: [maps[0].clone(), *call],
        ops.aggregated_attention.default: [t.clone().requires_grad_() for t in maps] + call[len(maps) :],
    }
    for op, arguments in list(calls.items())[: 2 if report.dry else 4]:
        torch.library.opcheck(op, arguments)
        judge(report, "opcheck", op, torch.float32, {"op": 0.0})


def sanitizer(report: Report) -> None:
    """Memcheck and racecheck on a small map, where the tool is installed."""
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if report.dry:
        one_map(report.device)
    if report.dry or tool is None:
        report.row("A correctness", check="compute-sanitizer", case="9x11", dtype="", worst="not run", passed="")
        return
    script = Path(__file__).with_name("gpu_check.py")
    for kind in ("memcheck", "racecheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, str(script), "--one-map"]
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
        (report.out / f"{kind}.txt").write_text(run.stdout + run.stderr)
        judge(report, kind, "9x11", torch.bfloat16, {f"exit status {run.returncode}": 2.0 * (run.returncode != 0)})


def one_map(device: torch.device) -> None:
    """Both ops forward and backward, once."""
    B, H, W = (1, 3, 2) if device.type == "cpu" else (2, 9, 11)
    inputs = cast(attention_inputs(H, W, 1, 2, B=B, D=24, M=1), torch.float32)
    leaves = {n: t.to(device).requires_grad_() if isinstance(t, Tensor) else t for n, t in inputs.items()}
    for name in MAPS:
        leaves[name] = leaves[name].detach().bfloat16().requires_grad_()
    aggregated_attention(**leaves, backend="fused").float().sum().backward()
    x, weight, bias = (t.to(device, torch.float32).requires_grad_() for t in gate_inputs(B, H, W, 35))
    depthwise_conv_gelu_gate(x, weight, bias, backend="fused").sum().backward()
