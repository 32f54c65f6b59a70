"""The ops against other ways to compute the same: the reference path, its compiled form, SDPA, FlexAttention."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from attention_forms import D, make_inputs, op, with_flex, with_sdpa
from gpu_kernels import HEADS_OF_STAGE_4, Stage, stage_named, tensors_of_gate
from gpu_report import Report, first_line, free_memory, time_us
from transnext.ops import axis_index, depthwise_conv_gelu_gate, global_attention

COMPARED_BATCH = 16
"""Images where all ways to compute attention are compared: SDPA's bias and FlexAttention's keys are large."""

MOST_PAIRS = 1 << 30
"""Pairs of a query and a key whose numbers may be made in one piece, 8 bytes for each of several."""

WARMED = ("224 stage 1", "224 stage 3")
"""Stages whose ways were compiled while values were checked."""

TO_COMPILE = 12.0
"""Seconds that compiling a way may take."""

Ways = dict[str, Callable[[], Callable[[], Tensor]]]


def compare_ways(report: Report, rest: str) -> None:
    """All ways of an op at a stage; `rest` is "attention", "gate" or "global", and the name of the stage."""
    name, _, stage = rest.partition(" ")
    {"attention": of_attention, "gate": of_gate, "global": of_global}[name](report, stage_named(stage))
    free_memory()


def compile_ways(report: Report, rest: str) -> None:
    """Fills Inductor's cache with what `compare_ways` will want, and times nothing."""
    COMPILING.append(True)
    try:
        compare_ways(report, rest)
    finally:
        COMPILING.clear()


COMPILING: list[bool] = []
"""Not empty where ways are called for what that leaves in caches."""


def compiler(report: Report) -> dict[str, Any]:
    """Arguments of `torch.compile`."""
    return {"backend": "aot_eager"} if report.dry else {}


def of_attention(report: Report, stage: Stage) -> None:
    """Aggregated attention."""
    small = stage._replace(B=min(stage.B, COMPARED_BATCH))
    inputs = make_inputs(small.B, stage.H, stage.W, stage.M, stage.ratio, torch.bfloat16, str(report.device))
    flex = flex_attention if report.dry else torch.compile(flex_attention, dynamic=False)
    pairs = (stage.H * stage.W) ** 2

    def unless_too_large(make: Callable[[], Callable[[], Tensor]]) -> Callable[[], Tensor]:
        if pairs > MOST_PAIRS:
            raise MemoryError(f"numbers of {pairs:.1e} pairs are not made in one piece")
        return make()

    ways: Ways = {
        "kernels": lambda: partial(op, inputs, "fused"),
        "reference": lambda: partial(op, inputs, "reference"),
        "SDPA": lambda: unless_too_large(lambda: with_sdpa(inputs)),
        "FlexAttention": lambda: unless_too_large(lambda: with_flex(inputs, flex)),
    }
    if not report.dry:  # the gate rehearses it
        ways["reference, compiled"] = lambda: torch.compile(lambda: op(inputs, "reference"), dynamic=False)
    compare(report, "attention", small, ways, list(inputs.tensors.values()))


def of_gate(report: Report, stage: Stage) -> None:
    """The gate."""
    small = stage._replace(B=min(stage.B, COMPARED_BATCH))
    leaves = [t.requires_grad_() for t in tensors_of_gate(small, report.device)]

    def reference() -> Tensor:
        return depthwise_conv_gelu_gate(*leaves, backend="reference")

    ways: Ways = {
        "kernels": lambda: partial(depthwise_conv_gelu_gate, *leaves, backend="fused"),
        "reference": lambda: reference,
        "reference, compiled": lambda: torch.compile(reference, dynamic=False, **compiler(report)),
    }
    compare(report, "gate", small, ways, leaves)


def of_global(report: Report, stage: Stage) -> None:
    """Global attention of stage 4 as it is, and by each of the back-ends of SDPA."""
    M = 1 if report.dry else HEADS_OF_STAGE_4
    rows, cols = (axis_index(n, n, device=report.device) for n in (stage.H, stage.W))

    def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, device=report.device).to(dtype).requires_grad_()

    leaves = [randn(stage.B, stage.H, stage.W, M, D, dtype=torch.bfloat16) for _ in range(3)]
    leaves += [randn(M, 1, D), randn(M, 1, 1), randn(M, len(rows.offsets), len(cols.offsets))]
    call = partial(global_attention, *leaves, rows=rows, cols=cols, backend="auto" if not report.dry else "reference")

    def by(backend: SDPBackend) -> Tensor:
        with sdpa_kernel(backend):
            return call()

    ways: Ways = {"as it is": lambda: call}
    for backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH):
        ways[f"SDPA {backend.name}"] = partial(partial, by, backend)
    compare(report, "global attention", stage, ways, leaves)


def compare(report: Report, name: str, stage: Stage, ways: Ways, leaves: list[Tensor]) -> None:
    """A row for each way, and how far its result is from the first one's."""
    expected = None
    for way, make in ways.items():
        is_compiled = way in ("FlexAttention", "reference, compiled")
        if COMPILING and not is_compiled:
            continue
        row: dict[str, Any] = {"op": name, "stage": stage.name, "images": stage.B, "way": way}
        try:
            if is_compiled and report.left() < TO_COMPILE and stage.name not in WARMED and not report.dry:
                raise TimeoutError("no time was left to compile it")
            function = make()

            def forward(function: Callable[[], Tensor] = function) -> Tensor:
                with torch.no_grad():
                    return function()

            def both(function: Callable[[], Tensor] = function) -> None:
                out = function()
                torch.autograd.grad(out, leaves, torch.ones_like(out), allow_unused=True)

            if COMPILING:
                forward()
                both()
                continue
            out = forward().float()
            expected = out if expected is None else expected
            row["difference"] = f"{float((out - expected).norm() / expected.norm()):.1e}"
            row["forward_us"] = round(time_us(forward, report.dry), 1)
            row["both_us"] = round(time_us(both, report.dry), 1)
        except Exception as error:  # what one way cannot do is no reason to leave the others out
            row["error"] = first_line(error)
            free_memory()
        if not COMPILING:
            report.row("C ops", **row)
        if not report.device_answers():
            return
