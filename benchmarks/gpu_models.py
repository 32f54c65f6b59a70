"""Step 5 of `gpu_check.py`: whole models, in processes of their own that compile while other steps run.

A process compiles what it will measure as soon as it is started, is stopped while kernels are timed, and measures when
it is told to: one at a time, and some of convnext's again at the end, which shows how far the GPU drifted.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import transnext  # noqa: F401 - registers the models
from gpu_report import Report, spread

MODELS = ("transnext_tiny", "convnext_tiny", "swin_tiny_patch4_window7_224")
DRY_MODELS: dict[str, dict[str, Any]] = {
    "transnext_pico": {
        "embed_dims": (24, 48),
        "num_heads": (1, 2),
        "depths": (1, 1),
        "mlp_ratios": (2, 2),
        "sr_ratios": (4, 1),
        "img_size": 32,
    },
    "test_convnext": {},
}
LARGE = (800, 1216)
STEPS = 20


class Workers:
    """The processes, one a model.

    Args:
        report: Where results go, and their logs.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        names = DRY_MODELS if report.dry else MODELS
        self._read: dict[str, int] = {}
        self._processes = {name: self._start(name) for name in names}

    def _start(self, name: str) -> "subprocess.Popen[str]":
        script = Path(__file__).with_name("gpu_check.py")
        command = [sys.executable, "-u", str(script), "--worker", name, "--out", str(self.report.out)]
        if self.report.dry:
            command.append("--dry")
        with self._file(name, "txt").open("w") as log, self._file(name, "jsonl").open("w") as rows:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=rows, stderr=log, text=True)

    def _file(self, name: str, kind: str) -> Path:
        """Where a process writes: its rows, "jsonl", or what goes wrong, "txt"."""
        return self.report.out / f"{name}.{kind}"

    def pause(self) -> None:
        """Stops all of them where they are."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """Ends all of them."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def measure_all(self, seconds: float) -> None:
        """Has one after the other measure."""
        names = list(self._processes)
        parts = {**{f"5 {name} all": 1.0 for name in names}, f"5 {names[1]} again": 0.2}
        for step, share in self.report.shares(seconds, parts):
            _, name, part = step.split()
            with self.report.guarded(step, share):
                self._measure(name, part)
            if self._processes[name].poll() is None:
                self._processes[name].send_signal(signal.SIGSTOP)

    def _measure(self, name: str, part: str) -> None:
        process = self._processes[name]
        if process.poll() is not None:
            raise RuntimeError(f"the process ended with status {process.returncode}: see {name}.txt")
        assert process.stdin is not None
        process.send_signal(signal.SIGCONT)
        process.stdin.write(f"{part}\n")
        process.stdin.flush()
        while True:
            ended = process.poll() is not None
            rows = self._file(name, "jsonl").read_text().split("\n")[self._read.get(name, 0) : -1]
            self._read[name] = self._read.get(name, 0) + len(rows)
            for cells in map(json.loads, rows):
                if cells.get("done") == part:
                    return
                self.report.row("D models", **cells)
            if ended:
                raise RuntimeError(f"the process ended with status {process.returncode}: see {name}.txt")
            time.sleep(0.05)


class Model:
    """A model in every mode that is measured.

    Args:
        name: Of timm.
        dry: Whether this is a rehearsal on the CPU.
    """

    def __init__(self, name: str, dry: bool) -> None:
        self.name, self.dry = name, dry
        self.device = torch.device("cpu" if dry else "cuda")
        options = DRY_MODELS[name] if dry else {}
        self.model = timm.create_model(name, **options).to(self.device)
        self.half = timm.create_model(name, **options).to(self.device, torch.bfloat16).eval()
        self.batch, side = (1, 32) if dry else (128, 224)
        self.x = torch.randn(self.batch, 3, side, side, device=self.device)
        self.target = torch.randint(0, self.model.num_classes, (self.batch,), device=self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        compiler: dict[str, Any] = {"backend": "aot_eager"} if dry else {}
        with_graphs = compiler if dry else {"mode": "reduce-overhead"}
        self.modes: dict[str, Callable[[], object]] = {
            "bfloat16 eager": self.infer(self.half, self.x.bfloat16()),
            "autocast eager": self.infer(self.model, self.x, autocast=True),
            "batch 1 eager": self.infer(self.half, self.x[:1].bfloat16()),
            "batch 1 graph": self.captured(self.half, self.x[:1].bfloat16()),
            "training eager": self.training(self.model),
            "bfloat16 compiled": self.infer(torch.compile(self.half, **compiler), self.x.bfloat16()),
            "training compiled": self.training(torch.compile(self.model, **compiler)),
            "bfloat16 compiled, graph": self.infer(torch.compile(self.half, **with_graphs), self.x.bfloat16()),
        }
        if dry:
            for mode in ("autocast eager", "batch 1 eager", "bfloat16 compiled", "training eager"):
                del self.modes[mode]
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

    def prepare(self) -> None:
        """Calls every mode for the first time, which compiles it."""
        for mode, run in self.modes.items():
            began = time.monotonic()
            try:
                for _ in range(1 if self.dry else 3):
                    run()
                if not self.dry:
                    torch.cuda.synchronize()
                    torch.cuda.empty_cache()  # others are on the GPU, too
            except Exception as error:
                self.errors[mode] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                print(f"{mode}: {error}", file=sys.stderr)
            self.first[mode] = time.monotonic() - began

    def measure(self, mode: str) -> dict[str, Any]:
        """A row: images a second, milliseconds, memory, launched kernels, and how long the first calls took."""
        cells: dict[str, Any] = {"model": self.name, "mode": mode, "first_s": round(self.first[mode], 1)}
        if mode in self.errors:
            return {**cells, "error": self.errors[mode]}
        run = self.modes[mode]
        times = self.times(run)
        middle, low, high = spread(times)
        images = 1 if mode.startswith("batch 1") else self.batch
        cells |= {
            "images_per_s": round(images * 1e3 / middle, 1),
            "p10_to_p90": f"{images * 1e3 / high:.0f}..{images * 1e3 / low:.0f}",
            "ms": round(middle, 2),
        }
        if self.dry:
            return cells
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        cells["peak_GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run()
            torch.cuda.synchronize()
        on_gpu = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        cells["launches"] = sum(not name.startswith("Mem") for name in on_gpu)
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
        size = (32, 32) if self.dry else LARGE
        options = {"img_size": size} if "swin" in self.name else {}
        options |= {**DRY_MODELS[self.name], "out_indices": (0, 1)} if self.dry else {}
        model = timm.create_model(self.name, features_only=True, **options).to(self.device).train()
        x = torch.randn(1 if self.dry else 2, 3, *size, device=self.device)

        def run() -> None:
            with self.autocast():
                loss = sum(f.float().square().mean() for f in model(x))
            loss.backward()

        middle, *_ = spread(self.times(run))
        return {"model": self.name, "mode": f"{size[0]}x{size[1]} features", "ms": round(middle, 2)}


def work(name: str, dry: bool) -> None:
    """What a process does: compiles, then reads from standard input what to measure."""
    torch.manual_seed(0)
    model = Model(name, dry)
    model.prepare()
    for line in sys.stdin:
        part = line.strip()
        for mode in list(model.modes)[:2] if part == "again" else model.modes:
            if part == "again" and "eager" not in mode:
                continue
            cells = model.measure(mode)
            print(json.dumps({**cells, "mode": f"{mode}, again" if part == "again" else mode}), flush=True)
        if part != "again" and not name.startswith("convnext"):
            try:
                print(json.dumps(model.large()), flush=True)
            except Exception as error:
                print(json.dumps({"model": name, "mode": "features", "error": str(error)[:200]}), flush=True)
        print(json.dumps({"done": part}), flush=True)
