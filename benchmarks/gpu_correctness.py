"""Step 2 of `gpu_check.py`: values, gradients, every variant, torch.compile, CUDA graphs, streams, opcheck.

Each check is a part that any of several processes can be told to do.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_report import Deadline, Report, first_line, free_memory
from gpu_variants import applied, variants
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
from tests.helpers.pass_cases import add_norm_inputs, add_norm_results, gelu_pool_results, random
from transnext import TransNeXt
from transnext.ops import aggregated_attention, depthwise_conv_gelu_gate, reference
from transnext.ops.add_norm import add_layer_norm
from transnext.ops.gelu_pool import gelu_average_pool

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SIZES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((56, 56, 7, 7), {"D": 24, "B": 2, "M": 3}),
    ((28, 28, 7, 7), {"D": 24, "B": 2, "M": 6}),
    ((14, 14, 7, 7), {"D": 24, "B": 2, "M": 12}),
    ((100, 152, 25, 38), {"D": 24}),
    ((1, 1, 1, 1), {"D": 24}),
    ((47, 33, 5, 4), {"D": 20, "B": 2}),
    ((21, 30, 5, 7), {"D": 24, "trained_rows": (14, 7), "trained_cols": (14, 7)}),
    ((14, 14, 14, 14), {"D": 64, "M": 4}),
    ((2, 3, 3, 2), {"window": 5}),
]
GATES = [(1, 1, 1, 1, 3), (1, 9, 11, 3, 7), (3, 47, 33, 130, 3), (2, 56, 56, 384, 3)]
OF_STAGES = 4
"""The first of these sizes, which are those of the network."""

DRY_SIZES = [((3, 2, 1, 2), {"D": 24, "M": 1})]
DRY_GATES = [(1, 5, 3, 6, 3)]
OF_VARIANTS: tuple[tuple[int, ...], dict[str, Any]] = ((21, 28, 7, 7), {"D": 24, "B": 2, "M": 2})
"""Where variants are checked: no tile fits it, and the kernels are those of the network's stages."""

NUM_OPS = 10
GATE_OF_VARIANTS = (2, 13, 21, 48)
ROWS_OF_VARIANTS = (1021, 72)
POOLED_OF_VARIANTS = ((2, 21, 31, 72), (5, 7))
SANITIZED = ("memcheck", "racecheck")
COMPILED = ("training default", "eval reduce-overhead", "training reduce-overhead", "eval default")


def list_checks(report: Report, _: str) -> None:
    """A row for each check but those of variants; `urgent` ones come before these."""
    if report.dry:
        long = ["compiled training aot_eager", "sanitizer memcheck"]
        urgent, others = (
            ["values gate 0 0", "values attention 0 0", "bits", "graphs", "mixed"],
            ["opcheck 0", "opcheck 5", "opcheck 8"],
        )
    else:
        long = [f"sanitizer {kind}" for kind in SANITIZED] + [f"compiled {which}" for which in COMPILED]
        # Those of the network's sizes are compiled alike, and so done by one process.
        stages, gates = (",".join(map(str, range(count))) for count in (OF_STAGES, len(GATES)))
        dtypes = range(len(DTYPES))
        urgent = [f"values attention {stages} {d}" for d in dtypes] + [f"values gate {gates} {d}" for d in dtypes]
        urgent += ["bits", "graphs", "mixed"]
        others = [f"values attention {size} {d}" for size in range(OF_STAGES, len(SIZES)) for d in dtypes]
        others += [f"opcheck {op}" for op in range(NUM_OPS)]
    for part in [*long, *urgent, *others]:
        report.row("checks", part=part, urgent=part not in others)


def parts() -> dict[str, Callable[[Report, str], None]]:
    """What a process that checks can be told."""
    return {
        "values": values,
        "check": variant_values,
        "bits": same_bits,
        "compiled": compiled,
        "graphs": graphs,
        "mixed": mixed,
        "opcheck": opcheck,
        "sanitizer": sanitizer,
    }


def moved(inputs: dict[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of attention on the device."""
    found = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            found[name] = value.to(device, dtype)
        else:
            parts = (None if t is None else t.to(device) for t in value[:3])
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
    inputs, *others = (moved(attention_inputs(*sizes, **options, seed=seed), report.device, dtype) for seed in range(3))
    exact, *usual = (on_cpu(attention_results(cast(i, torch.float64), "reference")) for i in (inputs, *others))
    plain, found = (on_cpu(attention_results(inputs, backend)) for backend in ("reference", "fused"))
    return budget_used(found, plain, exact, usual, times=4 if report.dry and dtype == torch.bfloat16 else 2)


def gate_used(report: Report, sizes: tuple[int, ...], dtype: torch.dtype) -> Any:
    """The same of the gate."""
    x, weight, bias = (t.to(report.device, dtype) for t in gate_inputs(*sizes))
    exact = on_cpu(gate_results(x.double(), weight.double(), bias.double(), "reference"))
    plain, found = (on_cpu(gate_results(x, weight, bias, backend)) for backend in ("reference", "fused"))
    return budget_used(found, plain, exact, [], times=4 if report.dry and dtype == torch.bfloat16 else 2)


def values(report: Report, rest: str) -> None:
    """Results and all gradients against float64, new memory NaN; `rest` is op, places of sizes, place of the dtype."""
    op, places, dtype = rest.split()
    kind = DTYPES[int(dtype)]
    for place in map(int, places.split(",")):
        with poisoned():
            if op == "gate":
                gate = (DRY_GATES if report.dry else GATES)[place]
                judge(report, "gate", gate, kind, gate_used(report, gate, kind))
            else:
                sizes, options = (DRY_SIZES if report.dry else SIZES)[place]
                judge(report, "attention", (sizes, options), kind, attention_used(report, sizes, options, kind))
        free_memory()


def variant_values(report: Report, name: str) -> None:
    """A variant at an odd size, 16-bit maps with float32 parameters as in training."""
    variant = variants()[name]
    inputs, exact, usual, plain = of_variants(report.device, report.dry, variant.op, variant.maps)
    try:
        with applied(variant, programs=2 * 2 * 2):
            if variant.op == "gate":
                found = on_cpu(gate_results(**inputs, backend="fused"))
            elif variant.op == "add_norm":
                found = on_cpu(add_norm_results(add_layer_norm, inputs, torch.bfloat16))
            elif variant.op == "gelu_pool":
                found = on_cpu(gelu_pool_results(gelu_average_pool, **inputs))
            else:
                found = on_cpu(attention_results(inputs, "fused"))
    except Exception as error:  # more than the GPU has, or what Triton cannot compile
        report.row("A correctness", check=f"variant {name}", case="", dtype="", worst=first_line(error), passed=False)
        return
    used = budget_used(found, plain, exact, usual, times=4 if report.dry else 2)
    if variant.judged != "all":
        used = {tensor: share for tensor, share in used.items() if (tensor == "out") == (variant.judged == "out")}
    judge(report, f"variant {name}", tuple(found["out"].shape), found["out"].dtype, used)


@lru_cache
def of_variants(device: torch.device, dry: bool, op: str, maps: str) -> tuple[Any, ...]:
    """Arguments, results in float64, those of other arguments, and those of the plain path."""
    dtype = torch.float32 if maps == "fp32" else torch.bfloat16
    if op == "add_norm":  # the sum in float32, so that it is not its rounding that decides
        rows = {
            n: t.to(device, torch.float32) for n, t in add_norm_inputs(*(3, 24) if dry else ROWS_OF_VARIANTS).items()
        }
        ways = ((torch.float64, torch.float64), (torch.float32, dtype))
        exact, plain = (
            on_cpu(add_norm_results(reference.add_layer_norm, {n: t.to(kind) for n, t in rows.items()}, of_norm))
            for kind, of_norm in ways
        )
        return rows, exact, [], plain
    if op == "gelu_pool":
        shape, size = ((1, 3, 4, 8), (2, 2)) if dry else POOLED_OF_VARIANTS
        maps_in = {"x": random(*shape).to(device, dtype), "size": size}
        exact, plain = (
            on_cpu(gelu_pool_results(lambda x, size: reference.gelu_average_pool(x, *size), x, size))
            for x in (maps_in["x"].double(), maps_in["x"])
        )
        return maps_in, exact, [], plain
    if op == "gate":
        B, H, W, F = (1, 3, 2, 16) if dry else GATE_OF_VARIANTS
        x, weight, bias = (t.to(device, torch.float32) for t in gate_inputs(B, H, W, F))
        inputs: dict[str, Any] = {"x": x.to(dtype), "weight": weight, "bias": bias}
        doubles = {n: t.double() for n, t in inputs.items()}
        exact, plain = gate_results(**doubles, backend="reference"), gate_results(**inputs, backend="reference")
        return inputs, on_cpu(exact), [], on_cpu(plain)
    sizes, options = (DRY_SIZES[0][0], {"D": 24, "M": 1}) if dry else OF_VARIANTS
    some = [moved(attention_inputs(*sizes, **options, seed=seed), device, torch.float32) for seed in range(3)]
    some = [{n: t.to(dtype) if n in MAPS else t for n, t in inputs.items()} for inputs in some]
    exact, *usual = (on_cpu(attention_results(cast(one, torch.float64), "reference")) for one in some)
    return some[0], exact, usual, on_cpu(attention_results(some[0], "reference"))


def same_bits(report: Report, _: str) -> None:
    """Several runs."""
    sizes = (1, 2, 1, 1) if report.dry else (56, 56, 7, 7)
    inputs = moved(attention_inputs(*sizes, D=8 if report.dry else 24, M=1), report.device, DTYPES[0])
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


def compiled(report: Report, which: str) -> None:
    """A network against its reference path, at two sizes; `which` is "training" or "eval", and a mode or a back-end."""
    model, shape = small_model(report)
    kind, mode = which.split()
    training = kind == "training"
    options = {"default": {}, "aot_eager": {"backend": "aot_eager"}}.get(mode, {"mode": mode})
    model.train(training)
    for size in (shape,) if report.dry else (shape, (2, 3, 96, 224)):
        x = torch.randn(size, device=report.device)
        model.backend = "reference"
        expected = results_of(model, x, training)
        model.backend = "auto"
        call = torch.compile(model, fullgraph=True, dynamic=False, **options)
        for _ in range(1 if report.dry else 3):  # CUDA graphs are recorded in the second call, replayed in the third
            torch.compiler.cudagraph_mark_step_begin()
            found = results_of(call, x, training)
        compare(report, f"compiled {which}", size, found, expected, 1e-3)


def graphs(report: Report, _: str) -> None:
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


def mixed(report: Report, _: str) -> None:
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


def opcheck(report: Report, place: str) -> None:
    """PyTorch's own checks of one of the ops."""
    window = 1 if report.dry else 3
    inputs = moved(attention_inputs(2, 3, 1, 2, M=2, window=window), report.device, torch.float32)
    tensors, sizes = [inputs[name] for name in TENSORS], [2, 3, 1, 2]
    q = tensors[0]
    x, weight, bias = (t.to(report.device, torch.float32) for t in gate_inputs(2, 4, 5, 6))
    ops = torch.ops.transnext

    def leaves(some: list[Tensor]) -> list[Any]:
        return [t.clone().requires_grad_() for t in some]

    tokens = [torch.randn(5, 7, 8, device=report.device) for _ in range(3)]
    scales = [torch.randn(8, device=report.device) for _ in range(2)]
    log_sum = torch.full((q.shape[0], q.shape[3], 6), 2.0, device=report.device)
    calls: list[tuple[Any, list[Any]]] = [
        (ops.depthwise_conv_gelu_gate_backward.default, [x[..., :6].clone(), x, weight, bias]),
        (ops.depthwise_conv_gelu_gate.default, leaves([x, weight, bias])),
        (ops.aggregated_attention_backward.default, [q.clone(), *tensors, *sizes]),
        (ops.aggregated_attention.default, [*leaves(tensors), *sizes]),
        (
            ops.aggregated_attention_training_backward.default,
            [q.clone(), torch.randn_like(q), log_sum, *tensors, *sizes],
        ),
        (ops.aggregated_attention_training.default, [*leaves(tensors), *sizes]),
        (ops.add_layer_norm.default, [*leaves([*tokens[:2], *scales]), 1e-6, torch.float32]),
        (ops.add_layer_norm_backward.default, [*tokens, *scales, 1e-6]),
        (ops.gelu_average_pool.default, [*leaves([tokens[0][None]]), 2, 3]),
        (
            ops.gelu_average_pool_backward.default,
            [torch.randn(1, 2, 3, 8, device=report.device), tokens[0][None], 2, 3],
        ),
    ]
    op, arguments = calls[int(place)]
    torch.library.opcheck(op, arguments)
    judge(report, "opcheck", op, torch.float32, {"op": 0.0})


def sanitizer(report: Report, kind: str) -> None:
    """One of the tools of compute-sanitizer on a small map, where it is installed."""
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if report.dry:
        one_map(report.device)
    if report.dry or tool is None:
        report.row("A correctness", check=kind, case="9x11", dtype="", worst="not run", passed="")
        return
    command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable]
    command += [str(Path(__file__).with_name("gpu_check.py")), "--one-map", "--out", str(report.out)]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=max(1.0, report.left() - 2)
        )
    except subprocess.TimeoutExpired:  # what it has started is ended with this process
        raise Deadline(f"{kind} was not ready") from None
    said = run.stdout + run.stderr
    print(said, file=sys.stderr)
    if run.returncode == 9 or "ERROR SUMMARY: 0 errors" in said:
        judge(report, kind, "9x11", torch.bfloat16, {f"exit status {run.returncode}": 2.0 * (run.returncode != 0)})
    else:  # it cannot look at this GPU: nothing is known of the kernels
        worst = next((line for line in said.splitlines() if "rror" in line), f"exit status {run.returncode}")
        report.row("A correctness", check=kind, case="9x11", dtype="", worst=f"not run: {worst[:200]}", passed="")


def one_map(device: torch.device) -> None:
    """Both ops forward and backward, once."""
    B, H, W = (1, 3, 2) if device.type == "cpu" else (2, 9, 11)
    inputs = moved(attention_inputs(H, W, 1, 2, B=B, D=24, M=1), device, torch.float32)
    leaves = {n: t.requires_grad_() if isinstance(t, Tensor) else t for n, t in inputs.items()}
    for name in MAPS:
        leaves[name] = leaves[name].detach().bfloat16().requires_grad_()
    aggregated_attention(**leaves, backend="fused").float().sum().backward()
    x, weight, bias = (t.to(device, torch.float32).requires_grad_() for t in gate_inputs(B, H, W, 35))
    depthwise_conv_gelu_gate(x, weight, bias, backend="fused").sum().backward()
