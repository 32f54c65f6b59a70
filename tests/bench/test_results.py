"""What follows from times, and how it is shown."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from transnext.bench.config import BenchConfig
from transnext.bench.figure import draw_cost, spread
from transnext.bench.memory import MemoryUse
from transnext.bench.results import BenchResults, Row
from transnext.bench.table import footnotes, markdown, tables
from transnext.bench.workload import Workload

MACHINE = {"device": "cpu", "device_name": "A processor", "threads": 2, "torch": "2", "timm": "1", "transnext": "0"}


def row(model: str, side: int, seconds: list[float], macs: float, failure: str = "") -> Row:
    return Row(
        workload=Workload(model=model, size=(side, 2 * side), batch_size=4),
        parameters=10**6,
        macs=macs,
        first_call_seconds=1.5,
        seconds=seconds,
        memory=MemoryUse(before_bytes=500 * 2**20, peak_bytes=700 * 2**20) if seconds else None,
        failure=failure,
    )


@pytest.fixture
def results() -> BenchResults:
    config = BenchConfig(models=("transnext_pico", "resnet10t"), sizes=("64x128", "128x256"), batch_size=4)
    return BenchResults(
        rows=(
            row("transnext_pico", 64, [0.5, 1.0, 2.0], 1e9),
            row("resnet10t", 64, [1.0, 2.0, 4.0], 4e9),
            row("transnext_pico", 128, [2.0, 2.0], 4e9),
            row("resnet10t", 128, [], 16e9, failure="RuntimeError: no [memory]"),
        ),
        config=dataclasses.asdict(config),
        machine=MACHINE,
        peak_macs_per_second=(15e9, 16e9),
        peak_method="torch.mm",
    )


def test_numbers(results: BenchResults) -> None:
    pico, resnet = results.at((64, 128))
    assert pico.images_per_second() == pytest.approx(4.0)
    assert pico.latency(0.9) == pytest.approx(1.8)
    assert pico.images_per_second(0.1) == pytest.approx(4 / 1.8)
    assert pico.macs_per_second() == pytest.approx(4e9)
    assert results.share_of_peak(pico) == pytest.approx(0.25)
    assert results.share_of_peak(resnet) == pytest.approx(0.5)
    assert results.relative_to_first(pico) == pytest.approx(1.0)
    assert results.relative_to_first(resnet) == pytest.approx(2.0)
    assert results.relative_to_first(results.rows[3]) is None


def test_json_and_back(results: BenchResults, tmp_path: Path) -> None:
    results.write(tmp_path / "results.json")
    again = BenchResults.load(tmp_path / "results.json")
    assert again.rows == results.rows
    assert again.to_json() == results.to_json()
    assert again.peak == 16e9


def test_the_terminal_shows_every_row_and_fits(results: BenchResults) -> None:
    console = Console(width=110)
    with console.capture() as capture:
        for table in tables(results):
            console.print(table)
    text = capture.get()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    assert "…" not in text
    assert "64x128, batch 4, float32, classifier, forward, 3 rounds" in text
    resnet = next(line for line in lines if line.startswith("resnet10t")).split()
    assert resnet == ["resnet10t", "2.00", "1.11..3.33", "2000", "3600", "4.00", "8.00", "50%", "2.00", "700", "+200"]
    assert "1st call s" not in text
    failed = [line for line in lines if line.startswith("resnet10t")][1]
    assert set(failed.split()[1:]) == {"–"}


def test_failures_and_methods_stand_below(results: BenchResults) -> None:
    lines = footnotes(results)
    assert lines[0] == "resnet10t at 128x256: RuntimeError: no [memory]"
    assert any("16.0 GMAC/s: torch.mm (of these the slowest: 15.0)" in line for line in lines)
    assert any(line.startswith("A processor, 2 threads") for line in lines)


def test_what_needs_an_explanation_gets_one(results: BenchResults) -> None:
    assert not any("Interrupted" in line or "Above 100%" in line for line in footnotes(results))
    odd = dataclasses.replace(results, interrupted=True, peak_macs_per_second=(1e9,))
    assert any("Interrupted" in line for line in footnotes(odd))
    assert any("Above 100%" in line for line in footnotes(odd))


def test_columns_follow_what_was_measured(results: BenchResults) -> None:
    compiled = [dataclasses.replace(r.workload, compile="default") for r in results.rows]
    rows = tuple(dataclasses.replace(r, memory=None, workload=w) for r, w in zip(results.rows, compiled, strict=True))
    bare = dataclasses.replace(results, rows=rows)
    text = markdown(bare)
    assert "MiB" not in text
    assert "1st call s" in text
    assert "| transnext_pico compiled |" in text
    assert "1st call s" not in markdown(results)


def test_markdown(results: BenchResults) -> None:
    text = markdown(results)
    assert "| resnet10t | 2.00 | 1.11..3.33 | 2000 3600 | 4.00 | 8.00 | 50% | 2.00 | 700 +200 |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {10}


@pytest.mark.parametrize("keep", [4, 2, 1])
def test_picture(results: BenchResults, tmp_path: Path, keep: int) -> None:
    """Also of a single size and of a single point."""
    draw_cost(dataclasses.replace(results, rows=results.rows[:keep]), tmp_path / "cost.png")
    with Image.open(tmp_path / "cost.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_labels_keep_their_distance_and_order() -> None:
    assert spread([0.5, 0.2, 0.51, 0.9], 0.1) == pytest.approx([0.5, 0.2, 0.6, 0.9])
    assert spread([], 0.1) == []
