"""`transnext bench MODEL ...`."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from transnext.atomic import check_writable, write_atomically
from transnext.bench.config import BenchConfig


def bench(
    config: Annotated[BenchConfig, tyro.conf.arg(name="")],
    device: str = "auto",
    output: Path | None = None,
) -> None:
    """Compare the speed and memory of models, ours and any other of timm's, called in turn.

    Args:
        config: What to measure.
        device: auto, cpu, cuda or mps.
        output: Also write results.json, table.md and cost.png to this folder.
    """
    if output is not None:
        check_writable(output, folder=True)

    from transnext.bench.run import run_bench
    from transnext.bench.table import footnotes, markdown, tables
    from transnext.engine.device import pick_device

    device_type = pick_device(device).type
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    progress = Console(stderr=True, soft_wrap=True, highlight=False)
    results = run_bench(
        config,
        device_type,
        notify=lambda line: progress.print(line, style="dim", markup=False),
        save=lambda results: None if output is None else results.write(output / "results.json"),
    )
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    for table in tables(results):
        console.print(table, "")
    for line in footnotes(results):
        console.print(line, markup=False, soft_wrap=True)
    if output is not None:
        from transnext.bench.figure import draw_cost

        results.write(output / "results.json")
        write_atomically(output / "table.md", markdown(results))
        if any(row.seconds for row in results.rows):
            draw_cost(results, output / "cost.png")
    if results.interrupted:
        sys.exit(130)
    if not any(row.seconds for row in results.rows):
        raise ValueError("none of the models could be measured; the reasons are above")
