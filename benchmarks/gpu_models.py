"""Step 5 of `gpu_check.py`: whole models, in processes of their own that compile while other steps run.

A process compiles what it will measure as soon as it is started, is stopped while kernels are timed, and measures when
it is told to: one at a time, and some of convnext's again at the end, which shows how far the GPU drifted.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor, nn

import transnext  # noqa: F401 - registers the models
from gpu_report import Report, first_line, free_memory, is_told_something, spread
from transnext.models.macs import count_macs

DRY_MODELS: dict[str, dict[str, Any]] = {
    "transnext_pico": {
        "embed_dims": (24, 48),
        "num_heads": (1, 2),
        "depths": (1, 1),
        "mlp_ratios": (2, 2),
        "sr_ratios": (4, 1),
        "img_size": 16,
    },
    "test_convnext": {},
}
DRY_SIDES = {"transnext_pico": 16, "test_convnext": 32}
LARGE = (800, 1216)
STEPS = 20
LEAST = 3.0
"""Seconds without which a mode is not begun."""


class Model:
    """A model in every mode that is measured.

    Args:
        name: Of timm.
        kind: "eager", or "compiled", which may take long and has a process of its own.
        dry: Whether this is a rehearsal on the CPU.
    """

    def __init__(self, name: str, kind: str, dry: bool) -> None:
        self.name, self.dry = name, dry
        self.device = torch.device("cpu" if dry else "cuda")
        options = DRY_MODELS[name] if dry else {}
        self.model = timm.create_model(name, **options).to(self.device)
        self.half = timm.create_model(name, **options).to(self.device, torch.bfloat16).eval()
        self.batch, side = (1, DRY_SIDES[name]) if dry else (128, 224)
        self.x = torch.randn(self.batch, 3, side, side, device=self.device)
        self.target = torch.randint(0, self.model.num_classes, (self.batch,), device=self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        self.gmacs = round((count_macs(self.half, (3, side, side)) or 0.0) / 1e9, 6)
        half, one = self.x.bfloat16(), self.x[:1].bfloat16()
        compiler: dict[str, Any] = {"backend": "aot_eager"} if dry else {}
        with_graphs = compiler if dry else {"mode": "reduce-overhead"}
        eager: dict[str, Callable[[], object]] = {
            "bfloat16 eager": self.infer(self.half, half),
            "autocast eager": self.infer(self.model, self.x, autocast=True),
            "batch 1 eager": self.infer(self.half, one),
            "batch 1 graph": self.captured(self.half, one),
            "training eager": self.training(self.model),
            "bfloat16 eager, channels_last": self.infer(self.half, half.to(memory_format=torch.channels_last)),
        }
        compiled: dict[str, Callable[[], object]] = {
            "bfloat16 compiled, graph": self.infer(torch.compile(self.half, **with_graphs), half),
            "training compiled": self.training(torch.compile(self.model, **compiler)),
            "bfloat16 compiled": self.infer(torch.compile(self.half, **compiler), half),
        }
        self.modes = eager if kind == "eager" else compiled
        if dry:  # the rest does the same, for which this would take too long
            kept = ("bfloat16 eager", "batch 1 graph", "training compiled")
            self.modes = {mode: run for mode, run in self.modes.items() if mode in kept}
        self.first: dict[str, float] = {}
        self.errors: dict[str, str] = {}

    def infer(self, model: Callable[[Tensor], Tensor], x: Tensor, autocast: bool = False) -> Callable[[], object]:
        """Logits of a batch."""

        def run() -> Tensor:
            if self.model.training:
                self.model.eval()
            with torch.inference_mode(), self.autocast() if autocast else nullcontext():
                return model(x)

        return run

    def captured(self, model: nn.Module, x: Tensor) -> Callable[[], object]:
        """The same, replayed from a CUDA graph."""
        graphs: list[Any] = []

        def run() -> None:
            if self.dry:
                self.infer(model, x)()
                return
            if not graphs:
                graph = torch.cuda.CUDAGraph()
                with torch.no_grad():
                    stream = torch.cuda.Stream()
                    stream.wait_stream(torch.cuda.current_stream())
                    with torch.cuda.stream(stream):
                        model(x)
                    torch.cuda.current_stream().wait_stream(stream)
                    with torch.cuda.graph(graph):
                        model(x)
                graphs.append(graph)
            graphs[0].replay()

        return run

    def training(self, model: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        """Forward and backward passes under autocast, and a step of AdamW."""

        def run() -> None:
            if not self.model.training:
                self.model.train()
            with self.autocast():
                loss = nn.functional.cross_entropy(model(self.x).float(), self.target)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

        return run

    def autocast(self) -> torch.autocast:
        """bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def prepare(self, mode: str) -> None:
        """Calls a mode for the first time, which compiles it."""
        if mode in self.first:
            return
        began = time.monotonic()
        self.first[mode] = 0.0
        try:
            for _ in range(1 if self.dry else 3):
                self.modes[mode]()
            if not self.dry:
                torch.cuda.synchronize()
                free_memory()
        except Exception as error:
            self.errors[mode] = first_line(error)
            self.optimizer.zero_grad()
            free_memory()
        self.first[mode] = time.monotonic() - began

    def measure(self, mode: str) -> dict[str, Any]:
        """A row: images a second, milliseconds, memory, launched kernels, and how long the first calls took."""
        self.prepare(mode)
        cells: dict[str, Any] = {"model": self.name, "mode": mode, "first_s": round(self.first[mode], 1)}
        if mode in self.errors:
            return {**cells, "error": self.errors[mode]}
        run = self.modes[mode]
        middle, low, high = spread(self.times(run))
        images = 1 if mode.startswith("batch 1") else self.batch
        cells |= {
            "images_per_s": round(images * 1e3 / middle, 1),
            "p10_to_p90": f"{images * 1e3 / high:.0f}..{images * 1e3 / low:.0f}",
            "ms": round(middle, 2),
            "gmacs": self.gmacs,
        }
        return {**cells, **self.memory_and_launches(run)}

    def memory_and_launches(self, run: Callable[[], object]) -> dict[str, Any]:
        """Cells of the peak of memory of a call, and of the kernels that it launches."""
        if self.dry:
            return {}
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        cells: dict[str, Any] = {"peak_GB": round(torch.cuda.max_memory_allocated() / 1e9, 2)}
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                run()
                torch.cuda.synchronize()
            on_gpu = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            cells["launches"] = sum(not name.startswith("Mem") for name in on_gpu) or "not counted"
        except RuntimeError as error:  # where the profiler may not look at the GPU
            cells["launches"] = first_line(error)
        return cells

    def times(self, run: Callable[[], object]) -> list[float]:
        """Milliseconds of each of some calls."""
        if self.dry:
            began = time.perf_counter()
            run()
            return [(time.perf_counter() - began) * 1e3]
        run()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(STEPS + 1)]
        events[0].record()
        for event in events[1:]:
            run()
            event.record()
        torch.cuda.synchronize()
        return [a.elapsed_time(b) for a, b in pairwise(events)]

    def large(self) -> dict[str, Any]:
        """A row of feature maps of 800x1216, forward and backward, as a detector has it."""
        size = (DRY_SIDES[self.name],) * 2 if self.dry else LARGE
        options = {"img_size": size} if "swin" in self.name else {}
        options |= {**DRY_MODELS[self.name], "out_indices": (0, 1)} if self.dry else {}
        model = timm.create_model(self.name, features_only=True, **options).to(self.device).train()
        x = torch.randn(1 if self.dry else 2, 3, *size, device=self.device)

        def run() -> None:
            with self.autocast():
                loss = sum(f.float().square().mean() for f in model(x))
            loss.backward()

        middle, low, high = spread(self.times(run))
        cells = {"model": self.name, "mode": f"{size[0]}x{size[1]} features, forward and backward"}
        return {
            **cells,
            "ms": round(middle, 2),
            "p10_to_p90": f"{low:.2f}..{high:.2f} ms",
            **self.memory_and_launches(run),
        }


def parts(which: str) -> dict[str, Callable[[Report, str], None]]:
    """What the process of a model can be told; `which` is its name and a kind of modes."""
    name, kind = which.split()
    made: list[Model] = []

    def model(report: Report) -> Model:
        if not made:
            torch.manual_seed(0)
            made.append(Model(name, kind, report.dry))
        return made[0]

    def prepare(report: Report, _: str) -> None:
        for mode in model(report).modes:
            if is_told_something():
                return
            model(report).prepare(mode)

    def hold(report: Report, _: str) -> None:
        """Nothing: that it was told is what it is for."""

    def measure(report: Report, _: str) -> None:
        for mode in model(report).modes:
            if report.left() < LEAST:
                report.row("cut", part=f"{name}, {mode}", why="no time was left")
                continue
            report.row("D models", **model(report).measure(mode))

    def again(report: Report, _: str) -> None:
        mode = "bfloat16 eager"
        report.row("D models", **{**model(report).measure(mode), "mode": f"{mode}, again"})

    def large(report: Report, _: str) -> None:
        report.row("D models", **model(report).large())

    return {"prepare": prepare, "hold": hold, "measure": measure, "again": again, "large": large}
