"""Step 3 of `gpu_check.py`: each kernel in each configuration, and the ops against other ways to compute them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from attention_forms import Inputs, make_inputs, op, with_flex, with_sdpa
from gpu_report import Report, time_us
from transnext.ops import depthwise_conv_gelu_gate
from transnext.ops.triton import attention, gate
from transnext.ops.triton.launch import Launch, noted_launches

INPUT_SETS = 3
"""Sets of tensors that are taken in turn, so that a set is not still in the L2 cache."""

COMPARED_BATCH = 16
"""Images where all ways to compute attention are compared: SDPA's bias and FlexAttention's keys are large."""


class Stage(NamedTuple):
    """A stage of TransNeXt-Tiny at a size of images.

    Attributes:
        name: How tables call it.
        B: Images.
        H: Rows of the map.
        W: Columns of the map.
        M: Heads; 0 where attention is SDPA's.
        ratio: Sides of the map over those of the pooled grid.
        F: Hidden channels of the gate.
    """

    name: str
    B: int
    H: int
    W: int
    M: int
    ratio: int
    F: int


STAGES = [
    Stage("224 stage 1", 128, 56, 56, 3, 8, 384),
    Stage("224 stage 2", 128, 28, 28, 6, 4, 768),
    Stage("224 stage 3", 128, 14, 14, 12, 2, 768),
    Stage("224 stage 4", 128, 7, 7, 0, 1, 1536),
    Stage("800x1216 stage 1", 2, 200, 304, 3, 8, 384),
    Stage("800x1216 stage 2", 2, 100, 152, 6, 4, 768),
    Stage("800x1216 stage 3", 2, 50, 76, 12, 2, 768),
]
DRY_STAGES = [Stage("dry", 1, 8, 8, 1, 4, 16)]


def time_all(report: Report, seconds: float) -> None:
    """Kernels one by one, then the ops."""
    stages = DRY_STAGES if report.dry else STAGES
    parts = {"3 kernels": (0.6, kernels), "3 ops": (0.4, ops)}
    for name, share in report.shares(seconds, {name: part for name, (part, _) in parts.items()}):
        with report.guarded(name, share):
            for stage in stages:
                parts[name][1](report, stage)


def tensors_of_gate(stage: Stage, device: torch.device) -> list[Tensor]:
    """Map, weight and bias."""
    x = torch.randn(stage.B, stage.H, stage.W, 2 * stage.F, device=device, dtype=torch.bfloat16)
    return [x, torch.randn(stage.F, 1, 3, 3, device=device) / 3, torch.randn(stage.F, device=device)]


def arguments_of(inputs: Inputs) -> list[Any]:
    """Those of the op in the library."""
    (H, P_h), (W, P_w) = inputs.rows.table_size, inputs.cols.table_size  # type: ignore[misc]
    return [*(t.detach() for t in inputs.tensors.values()), H, W, P_h, P_w]


def launches_of(stage: Stage, device: torch.device) -> list[Launch]:
    """Launches of forward and backward passes on tensors of their own: made once, so that each finds what it reads.

    Places in tables are among that: a kernel that finds them unset reads anywhere.
    """
    with noted_launches() as noted:
        if stage.M:
            inputs = make_inputs(stage.B, stage.H, stage.W, stage.M, stage.ratio, torch.bfloat16, str(device))
            arguments = arguments_of(inputs)
            attention.forward(*arguments)
            attention.backward(torch.randn_like(arguments[0]), *arguments)
        x, weight, bias = tensors_of_gate(stage, device)
        gate.forward(x, weight, bias)
        gate.backward(x[..., : stage.F].contiguous(), x, weight, bias)
    for launch in noted:
        launch.make(launch.kernel.configs[0])
    return noted


def kernels(report: Report, stage: Stage) -> None:
    """Every kernel in every configuration, beside the time that its tensors take to and from memory once."""
    bandwidth = next((row["TB_per_s"] for row in report.tables.get("ceilings", []) if "TB_per_s" in row), None)
    sets = [launches_of(stage, report.device) for _ in range(1 if report.dry else INPUT_SETS)]
    seen = set()
    for place, launch in enumerate(sets[0]):
        kernel = launch.kernel
        if kernel in seen:
            continue  # the pieces of the gradient of the bias are alike
        seen.add(kernel)
        same = [noted[place] for noted in sets]
        times = []
        for config in kernel.configs[:1] if report.dry else kernel.configs:

            def run(same: list[Launch] = same, config: Any = config) -> None:
                for one in same:
                    one.make(config)

            times.append(time_us(run, report.dry, per_call=len(same)))
        moved = sum(t.nbytes for t in {t.data_ptr(): t for t in launch.tensors}.values())
        least = moved / bandwidth / 1e6 if bandwidth else None
        best = min(range(len(times)), key=times.__getitem__)
        report.row(
            "B kernels",
            kernel=kernel.function.__name__,
            stage=stage.name,
            us_first=round(times[0], 1),
            us_best=round(times[best], 1),
            best=str(kernel.configs[best]),
            dram_us=None if least is None else round(least, 1),
            of_dram=None if least is None else f"{least / times[best]:.0%}",
            launches=sum(one.kernel is kernel for one in sets[0]),
        )


def ops(report: Report, stage: Stage) -> None:
    """Attention and gate, forward and both ways, by the kernels and by others."""
    kind = str(report.device)
    small = stage._replace(B=min(stage.B, COMPARED_BATCH))
    options: dict[str, Any] = {"backend": "aot_eager"} if report.dry else {}
    if stage.M:
        inputs = make_inputs(small.B, stage.H, stage.W, stage.M, stage.ratio, torch.bfloat16, kind)
        flex = flex_attention if report.dry else torch.compile(flex_attention, dynamic=False)
        prepare: dict[str, Callable[[], Callable[[], Tensor]]] = {
            "kernels": lambda: partial(op, inputs, "fused"),
            "reference": lambda: partial(op, inputs, "reference"),
            "reference, compiled": lambda: torch.compile(lambda: op(inputs, "reference"), dynamic=False, **options),
            "SDPA": lambda: with_sdpa(inputs),
            "FlexAttention": lambda: with_flex(inputs, flex),
        }
        compare(report, "attention", small, prepare, list(inputs.tensors.values()))
    leaves = [t.requires_grad_() for t in tensors_of_gate(small, report.device)]

    def reference() -> Tensor:
        return depthwise_conv_gelu_gate(*leaves, backend="reference")

    prepare = {
        "kernels": lambda: partial(depthwise_conv_gelu_gate, *leaves, backend="fused"),
        "reference": lambda: reference,
        "reference, compiled": lambda: torch.compile(reference, dynamic=False, **options),
    }
    compare(report, "gate", small, prepare, leaves)


def compare(
    report: Report,
    name: str,
    stage: Stage,
    prepare: dict[str, Callable[[], Callable[[], Tensor]]],
    leaves: list[Tensor],
) -> None:
    """A row for each way, and how far its result is from the first one's."""
    expected = None
    for way, make in prepare.items():
        row: dict[str, Any] = {"op": name, "stage": stage.name, "images": stage.B, "way": way}
        try:
            function = make()

            def forward(function: Callable[[], Tensor] = function) -> Tensor:
                with torch.no_grad():
                    return function()

            def both(function: Callable[[], Tensor] = function) -> None:
                out = function()
                torch.autograd.grad(out, leaves, torch.ones_like(out), allow_unused=True)

            out = forward().float()
            expected = out if expected is None else expected
            row["difference"] = f"{float((out - expected).norm() / expected.norm()):.1e}"
            row["forward_us"] = round(time_us(forward, report.dry), 1)
            row["both_us"] = round(time_us(both, report.dry), 1)
        except Exception as error:  # what one way cannot do is no reason to leave the others out
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        report.row("C ops", **row)
