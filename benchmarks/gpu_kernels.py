"""Step 3 of `gpu_check.py`: each kernel at each stage of TransNeXt-Tiny, as it is and in every variant."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attention_forms import D, Inputs, make_inputs
from gpu_report import Report, first_line, free_memory, time_us
from gpu_variants import Variant, applied, variants
from transnext.ops.triton import add_norm, attention, gate, gelu_pool
from transnext.ops.triton.launch import Launch, noted_launches

INPUT_SETS = 3
"""Sets of tensors that are taken in turn, so that a set is not still in the L2 cache."""

SETTLED_FOR = 10.0
"""Seconds for which a time of kernels as they are stands; then they are timed again, as the GPU may have drifted."""

HEADS_OF_STAGE_4 = 24
EPS = 1e-6

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


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

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of pooled keys."""
        return max(1, self.H // self.ratio), max(1, self.W // self.ratio)

    @property
    def tokens(self) -> tuple[int, int, int, int]:
        """Shape of the map."""
        return self.B, self.H, self.W, D * (self.M or HEADS_OF_STAGE_4)

    @property
    def programs(self) -> int:
        """Images x heads x tiles of 32 pooled keys."""
        P = self.grid[0] * self.grid[1]
        return self.B * self.M * -(-P // 32)


STAGES = [
    Stage("224 stage 1", 128, 56, 56, 3, 8, 384),
    Stage("224 stage 2", 128, 28, 28, 6, 4, 768),
    Stage("224 stage 3", 128, 14, 14, 12, 2, 768),
    Stage("224 stage 4", 128, 7, 7, 0, 1, 1536),
    Stage("800x1216 stage 1", 2, 200, 304, 3, 8, 384),
    Stage("800x1216 stage 2", 2, 100, 152, 6, 4, 768),
    Stage("800x1216 stage 3", 2, 50, 76, 12, 2, 768),
    Stage("800x1216 stage 4", 2, 25, 38, 0, 1, 1536),
]
DRY_STAGE = Stage("dry", 1, 8, 4, 1, 4, 16)


def stage_named(name: str) -> Stage:
    """The stage that tables call so."""
    return next(stage for stage in (*STAGES, DRY_STAGE) if stage.name == name)


def tensors_of_gate(stage: Stage, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Map, weight and bias."""
    x = torch.randn(stage.B, stage.H, stage.W, 2 * stage.F, device=device, dtype=dtype)
    return [x, torch.randn(stage.F, 1, 3, 3, device=device) / 3, torch.randn(stage.F, device=device)]


def arguments_of(inputs: Inputs) -> list[Any]:
    """Those of the op in the library."""
    (H, P_h), (W, P_w) = inputs.rows.table_size, inputs.cols.table_size  # type: ignore[misc]
    return [*(t.detach() for t in inputs.tensors.values()), H, W, P_h, P_w]


def launches_of(stage: Stage, device: torch.device, op: str, dtype: torch.dtype = torch.bfloat16) -> list[Launch]:
    """Launches of an op, forward and backward, on tensors of their own: made once, so that each finds what it reads.

    Places in tables are among that: a kernel that finds them unset reads anywhere.

    Args:
        stage: Sizes.
        device: Of the tensors.
        op: "attention" or "gelu_pool", of which stages without heads have none, "gate" or "add_norm".
        dtype: Of maps.
    """
    with noted_launches() as noted:
        if op == "gate":
            x, weight, bias = tensors_of_gate(stage, device, dtype)
            out = gate.forward(x, weight, bias)
            gate.backward(torch.randn_like(out), x, weight, bias)
        elif op == "add_norm":
            x, branch, change = (torch.randn(stage.tokens, device=device, dtype=dtype) for _ in range(3))
            weight, bias = (torch.randn(stage.tokens[-1], device=device) for _ in range(2))
            total, normed = add_norm.forward(x, branch, weight, bias, EPS, dtype)
            add_norm.backward(change, torch.randn_like(normed), total, weight, bias, EPS)
        elif op == "gelu_pool" and stage.M:
            x = torch.randn(stage.tokens, device=device, dtype=dtype)
            pooled = gelu_pool.forward(x, *stage.grid)
            gelu_pool.backward(torch.randn_like(pooled), x, *stage.grid)
        elif op == "attention" and stage.M:
            inputs = make_inputs(stage.B, stage.H, stage.W, stage.M, stage.ratio, dtype, str(device))
            arguments = arguments_of(inputs)
            results = attention.forward_training(*arguments)
            attention.backward_training(torch.randn_like(arguments[0]), *results, *arguments)
    for launch in noted:
        launch.make(launch.kernel.configs[0])
    return noted


class Timer:
    """Times of kernels and of their variants; it keeps the tensors of the stages that it has met.

    Args:
        report: Where rows go.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._sets: dict[tuple[str, str, str], list[list[Launch]]] = {}
        self._before: dict[tuple[Any, ...], tuple[float, float]] = {}

    def sets(self, stage: Stage, op: str, maps: str) -> list[list[Launch]]:
        """Launches of an op as it is, on several sets of tensors."""
        key = (stage.name, op, maps)
        if key not in self._sets:
            self._sets[key] = self._make(stage, op, maps)
        return self._sets[key]

    def _make(self, stage: Stage, op: str, maps: str) -> list[list[Launch]]:
        number = 1 if self._report.dry else INPUT_SETS
        return [launches_of(stage, self._report.device, op, DTYPES[maps]) for _ in range(number)]

    def time(self, sets: Sequence[Sequence[Launch]], kernels: Sequence[str]) -> float:
        """Microseconds that all launches of some kernels take together; 0 where there are none."""
        wanted = [[one for one in noted if one.kernel.function.__name__ in kernels] for noted in sets]
        if not wanted[0]:
            return 0.0

        def run() -> None:
            for noted in wanted:
                for launch in noted:
                    launch.make(launch.kernel.configs[0])

        return time_us(run, self._report.dry, per_call=len(wanted), milliseconds=4)

    def before(self, stage: Stage, variant: Variant) -> float:
        """Microseconds of the kernels of a variant as they are."""
        key = (stage.name, variant.maps, variant.kernels)
        known = self._before.get(key)
        if known is None or time.monotonic() - known[1] > SETTLED_FOR:
            time_now = self.time(self.sets(stage, variant.op, variant.maps), variant.kernels)
            self._before[key] = known = (time_now, time.monotonic())
        return known[0]

    def variant(self, stage: Stage, variant: Variant) -> None:
        """A row: the variant at a stage; what it cannot be launched for is the row's error."""
        row: dict[str, Any] = {"variant": variant.name, "stage": stage.name}
        try:
            before = self.before(stage, variant)
            if not before:
                return  # the stage has no such kernels
            with applied(variant, stage.programs):
                if variant.constants or variant.splits is not None or variant.precision is not None:
                    sets = self._make(stage, variant.op, variant.maps)
                else:
                    sets = self.sets(stage, variant.op, variant.maps)
                after = self.time(sets, variant.kernels)
            row |= {
                "us_before": round(before, 2),
                "us_after": round(after, 2),
                "gain": f"{1 - after / before:+.1%}",
            }
        except Exception as error:  # more than the GPU has, or what Triton cannot compile
            row["error"] = first_line(error)
        self._report.row("B variants", **row)

    def kernels(self, stage: Stage, bandwidth: float | None) -> None:
        """A row for each kernel as it is, beside the time that its tensors take to and from memory once.

        Args:
            stage: Sizes.
            bandwidth: Of memory, TB/s.
        """
        for op in ("attention", "gate", "add_norm", "gelu_pool"):
            sets = self.sets(stage, op, "bf16")
            for kernel in dict.fromkeys(one.kernel for one in sets[0]):
                name = kernel.function.__name__
                of_kernel = [one for one in sets[0] if one.kernel is kernel]
                found = self.time(sets, (name,))
                moved = sum(t.nbytes for one in of_kernel for t in {t.data_ptr(): t for t in one.tensors}.values())
                least = moved / bandwidth / 1e6 if bandwidth else None
                self._report.row(
                    "B kernels",
                    kernel=name,
                    stage=stage.name,
                    us=round(found, 1),
                    dram_us=None if least is None else round(least, 1),
                    of_dram=None if least is None else f"{least / found:.0%}",
                    launches=len(of_kernel),
                )


def parts() -> dict[str, Callable[[Report, str], None]]:
    """What a process that times kernels can be told."""
    timers: list[Timer] = []

    def timer(report: Report) -> Timer:
        if not timers:
            timers.append(Timer(report))
        return timers[0]

    def time_kernels(report: Report, rest: str) -> None:
        bandwidth, _, name = rest.partition(" ")
        timer(report).kernels(stage_named(name), float(bandwidth) or None)

    def time_variant(report: Report, rest: str, stages: Sequence[str]) -> None:
        variant = variants()[rest]
        for name in ["dry"] if report.dry else stages:
            timer(report).variant(stage_named(name), variant)
            if not report.device_answers():
                return

    def forget(report: Report, _: str) -> None:
        timers.clear()
        free_memory()

    return {
        "kernels": time_kernels,
        "variant": partial(time_variant, stages=[s.name for s in STAGES if s.name.startswith("224")]),
        "variant-large": partial(time_variant, stages=[s.name for s in STAGES if s.name.startswith("800")]),
        "forget": forget,
    }


def list_all(report: Report, _: str) -> None:
    """A row for each stage and for each variant there is."""
    for stage in [DRY_STAGE] if report.dry else STAGES:
        report.row("stages", stage=stage.name, attention=bool(stage.M))
    for one in variants().values():
        report.row(
            "variants",
            name=one.name,
            what=one.what,
            state=one.state,
            op=one.op,
            kernels=list(one.kernels),
            is_config=one.config is not None and not one.constants,
        )
