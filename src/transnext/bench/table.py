"""Results as tables, for a terminal and in Markdown."""

from collections.abc import Callable

from rich.table import Table

from transnext.bench.results import GIGA, BenchResults, Row
from transnext.report.text import NOTHING

MIB = 2**20

Cell = Callable[[BenchResults, Row], str]


def _significant(value: float | None, digits: int = 3) -> str:
    if value is None:
        return NOTHING
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}"


def _rate(results: BenchResults, row: Row) -> str:
    return _significant(row.images_per_second())


def _spread(results: BenchResults, row: Row) -> str:
    return f"{_significant(row.images_per_second(0.1))}..{_significant(row.images_per_second(0.9))}"


def _latency(results: BenchResults, row: Row) -> str:
    return f"{_significant(1000 * row.latency(0.5))} {_significant(1000 * row.latency(0.9))}"


def _macs(results: BenchResults, row: Row) -> str:
    return NOTHING if row.macs is None else f"{row.macs / GIGA:.2f}"


def _macs_rate(results: BenchResults, row: Row) -> str:
    rate = row.macs_per_second()
    return NOTHING if rate is None else _significant(rate / GIGA)


def _share(results: BenchResults, row: Row) -> str:
    share = results.share_of_peak(row)
    return NOTHING if share is None else f"{share:.0%}"


def _ratio(results: BenchResults, row: Row) -> str:
    ratio = results.relative_to_first(row)
    return NOTHING if ratio is None else f"{ratio:.2f}"


def _memory(results: BenchResults, row: Row) -> str:
    if row.memory is None:
        return NOTHING
    return f"{row.memory.peak_bytes / MIB:.0f} +{row.memory.growth_bytes / MIB:.0f}"


def _first_call(results: BenchResults, row: Row) -> str:
    return _significant(row.first_call_seconds)


COLUMNS: dict[str, Cell] = {
    "images/s": _rate,
    "p10..p90": _spread,
    "ms p50 p90": _latency,
    "GMACs": _macs,
    "GMAC/s": _macs_rate,
    "of peak": _share,
    "to 1st": _ratio,
    "MiB peak": _memory,
}
"""Cells of a row that was measured. `NOTES` says what they mean."""

NOTES = (
    "images/s: median of the rounds, and 10th to 90th percentile; ms: of a call.",
    "GMACs: multiply-adds of products and convolutions for an image; GMAC/s and its share of the peak: at the median.",
    "to 1st: GMAC/s against the first model, median of the ratios of each round.",
    "MiB peak: {memory}; after +, what of it came with the first two calls.",
)
FIRST_CALL_NOTE = "1st call s: with what is made once, and compiling, unless PyTorch kept what an earlier run compiled."
MEMORY_NOTES = {"cuda": "tensors of the model on the GPU", "cpu": "a process with this model alone"}


def _columns(results: BenchResults) -> dict[str, Cell]:
    columns = dict(COLUMNS)
    if any(row.workload.compile != "none" for row in results.rows):
        columns["1st call s"] = _first_call
    if all(row.memory is None for row in results.rows):
        del columns["MiB peak"]
    return columns


def _cells(results: BenchResults, row: Row) -> list[str]:
    return [cell(results, row) if row.seconds else NOTHING for cell in _columns(results).values()]


def title_of(results: BenchResults, size: tuple[int, int]) -> str:
    """Line above the rows of a size: all that they have in common."""
    config = results.config
    rounds = max((len(row.seconds) for row in results.at(size)), default=0)
    parts = [
        f"{size[0]}x{size[1]}",
        f"batch {config['batch_size']}",
        config["dtype"],
        "features" if config["features"] else "classifier",
        "forward and backward" if config["train"] else "forward",
        *(["channels-last"] if config["channels_last"] else []),
        f"{rounds} rounds",
    ]
    return ", ".join(parts)


def tables(results: BenchResults) -> list[Table]:
    """A table for each size, for a terminal of 110 columns."""
    found = []
    for size in results.sizes():
        table = Table(title=title_of(results, size), title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("model", overflow="fold", min_width=20)
        for name in _columns(results):
            table.add_column(name, justify="right", no_wrap=True)
        for row in results.at(size):
            table.add_row(row.workload.label, *_cells(results, row))
        found.append(table)
    return found


def footnotes(results: BenchResults) -> list[str]:
    """Lines below the tables: what failed and why, what the columns mean, and where this ran."""
    device = results.machine["device"]
    failures = [
        f"{row.workload.label} at {'x'.join(map(str, row.workload.size))}: {row.failure}"
        for row in results.rows
        if row.failure
    ]
    notes = [note.format(memory=MEMORY_NOTES.get(device, "")) for note in NOTES]
    if "MiB peak" not in _columns(results):
        notes.pop()
    if "1st call s" in _columns(results):
        notes.append(FIRST_CALL_NOTE)
    if results.interrupted:
        notes.insert(0, "Interrupted: what is there is shown.")
    if any((results.share_of_peak(row) or 0) > 1 for row in results.rows):
        dtype = results.config["dtype"]
        notes.append(
            f"Above 100% of the peak: products in {dtype} are slow here, and models do some of theirs otherwise."
        )
    threads = results.machine["threads"]
    low, high = min(results.peak_macs_per_second) / GIGA, results.peak / GIGA
    return [
        *failures,
        *notes,
        f"Peak: {_significant(high)} GMAC/s: {results.peak_method} (of these the slowest: {_significant(low)}).",
        f"{results.machine['device_name']}, {threads} thread{'' if threads == 1 else 's'}, "
        f"torch {results.machine['torch']}, timm {results.machine['timm']}, transnext {results.machine['transnext']}.",
    ]


def markdown(results: BenchResults) -> str:
    """The tables and the lines below them in Markdown."""
    names = list(_columns(results))
    blocks = []
    for size in results.sizes():
        lines = [_line(["model", *names]), _line(["---", *("---:" for _ in names)])]
        lines += [_line([row.workload.label, *_cells(results, row)]) for row in results.at(size)]
        blocks.append(f"**{title_of(results, size)}**\n\n" + "\n".join(lines))
    notes = "\n".join(f"- {line}" for line in footnotes(results))
    return "\n\n".join([*blocks, notes]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
