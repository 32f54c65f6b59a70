"""Results of an evaluation as a table and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from transnext.tasks.classification.results import SplitResult


def results_table(results: Sequence[SplitResult]) -> Table:
    """A row for each split."""
    table = Table(title="Accuracy")
    for name in ("split", "images", "top-1", "top-5", "loss"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for r in results:
        table.add_row(r.split, str(r.num_images), f"{r.top1:.1%}", f"{r.top5:.1%}", f"{r.loss:.3f}")
    return table


def results_as_dict(results: Sequence[SplitResult]) -> dict[str, Any]:
    """Plain values, by split."""
    return {
        r.split: {
            "images": r.num_images,
            "skipped": len(r.skipped),
            "top1": r.top1,
            "top5": r.top5,
            "loss": r.loss,
            "confusion": r.confusion.tolist(),
        }
        for r in results
    }


def write_results(path: Path, results: Sequence[SplitResult]) -> None:
    """Writes `results_as_dict` to a JSON file."""
    path.write_text(json.dumps(results_as_dict(results)) + "\n", encoding="utf-8")
