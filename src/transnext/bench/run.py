"""A whole run: every size, every model, in turn."""

import dataclasses
from collections.abc import Callable

import torch

from transnext.bench.config import BenchConfig
from transnext.bench.machine import describe_machine
from transnext.bench.measure import (
    Timed,
    matrix_product_rate,
    peak_method,
    reason,
    rounds_that_fit,
    run_rounds,
    time_call,
)
from transnext.bench.memory import build_with_cuda_memory, memory_of_process
from transnext.bench.results import BenchResults, Row
from transnext.bench.workload import Step, Workload


def run_bench(
    config: BenchConfig,
    device: str = "cpu",
    *,
    notify: Callable[[str], None] = lambda line: None,
    save: Callable[[BenchResults], None] = lambda results: None,
) -> BenchResults:
    """Measures all models of `config` at all its sizes.

    At each size all models are built and warmed up, and then called in turn, round after round. A model that fails has
    the reason in its row; Ctrl-C ends the run with what there is.

    Args:
        config: What to measure.
        device: Type of the device: cpu, cuda or mps.
        notify: Is told what happens next.
        save: Is given the results so far after each size.
    """
    threads_before = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        return _run(config, device, notify, save)
    finally:
        torch.set_num_threads(threads_before)


def _run(
    config: BenchConfig, device: str, notify: Callable[[str], None], save: Callable[[BenchResults], None]
) -> BenchResults:
    rows: list[Row] = []
    rates: list[float] = []

    def results(interrupted: bool = False) -> BenchResults:
        return BenchResults(
            rows=tuple(rows),
            config=dataclasses.asdict(config),
            machine=describe_machine(device),
            peak_macs_per_second=tuple(rates),
            peak_method=peak_method(device, config.dtype),
            interrupted=interrupted,
        )

    def measure_peak() -> None:
        rates.append(matrix_product_rate(device, getattr(torch, config.dtype)))

    measure_peak()
    try:
        for workloads in config.workloads(device):
            new = [Row(workload=workload) for workload in workloads]
            rows += new
            _measure_in_turn(new, config, notify)
            measure_peak()
            save(results())
    except KeyboardInterrupt:
        for row in rows:
            if not row.seconds and not row.failure:
                row.failure = "interrupted"
        return results(interrupted=True)
    return results()


def _measure_in_turn(rows: list[Row], config: BenchConfig, notify: Callable[[str], None]) -> None:
    """Fills the rows of one size."""
    if config.compile != ("none",):
        torch.compiler.reset()  # what was compiled for another size counts against the limit of recompilations
    device = rows[0].workload.device
    timed: list[tuple[Row, Timed]] = []
    per_round = 0.0
    for row in rows:
        name = f"{row.workload.label} at {_size_text(row.workload)}"
        try:
            if config.memory and device == "cpu":
                notify(f"{name}: memory")
                row.memory = memory_of_process(row.workload, torch.get_num_threads())
            notify(f"{name}: warming up")
            step = _warm_up(row, config)
            per_round += time_call(step, device)
        except Exception as error:
            row.failure = reason(error)
            notify(f"{name}: {row.failure}")
            continue
        timed.append((row, Timed(step=step, seconds=row.seconds)))
    if not timed:
        return
    rounds = config.rounds or rounds_that_fit(per_round)
    notify(f"{_size_text(rows[0].workload)}: {rounds} rounds, about {rounds * per_round:.0f} s")
    run_rounds([item for _, item in timed], rounds, device)
    for row, item in timed:
        row.failure = item.failure


def _warm_up(row: Row, config: BenchConfig) -> Step:
    """Builds the model of a row, fills in what one call tells, and gives the call."""
    workload = row.workload
    row.macs = workload.count_macs()
    if config.memory and workload.device == "cuda":
        model, step, row.memory = build_with_cuda_memory(workload)
    else:
        model = workload.build()
        step = workload.step(model)
    row.parameters = sum(p.numel() for p in model.parameters())
    row.first_call_seconds = time_call(step, workload.device)
    return step


def _size_text(workload: Workload) -> str:
    return "x".join(map(str, workload.size))
