"""Results on a terminal of 80 columns."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from transnext.report.parts import Metric
from transnext.tasks.table import results_table


def result(split: str, metrics: int) -> SimpleNamespace:
    named = {str(i): Metric(title=f"metric {i}", value=i / 100) for i in range(metrics)}
    return SimpleNamespace(split=split, num_images=7, images_per_second=None, metrics=named)


@pytest.mark.parametrize("metrics", [1, 4, 9])
def test_nothing_is_cut_off(metrics) -> None:
    console = Console(width=80, record=True)
    console.print(results_table([result(split, metrics) for split in ("train", "val", "val_seen")]))
    text = console.export_text()
    assert "…" not in text
    for word in ("train", "val_seen", f"metric {metrics - 1}", f"{(metrics - 1)}.0%", "images/s"):
        assert word in text


def test_no_result_is_a_table_without_rows() -> None:
    assert results_table([]).row_count == 0
