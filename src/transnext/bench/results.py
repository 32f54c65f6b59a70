"""Results of a benchmark, and what follows from them; to JSON and back."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from transnext.atomic import replacing
from transnext.bench.measure import relative_rate
from transnext.bench.memory import MemoryUse
from transnext.bench.workload import Workload

GIGA = 1e9


@dataclass(kw_only=True)
class Row:
    """One model at one size. It is filled as the run goes, so that an interrupted one keeps what it has."""

    workload: Workload
    """The work that was measured."""
    parameters: int | None = None
    """Parameters of the model."""
    macs: float | None = None
    """Multiply-adds for one image, with those of the backward pass when training."""
    first_call_seconds: float | None = None
    """The first call, which compiles if asked for and makes what depends on the size."""
    seconds: list[float] = field(default_factory=list)
    """Time of the call of each round."""
    memory: MemoryUse | None = None
    """Peak memory; None where it was not measured."""
    failure: str = ""
    """Reason why the model was not measured, or not to the end."""

    def latency(self, quantile: float) -> float:
        """Seconds that this share (0..1) of the calls took at most."""
        return float(np.quantile(self.seconds, quantile))

    def images_per_second(self, quantile: float = 0.5) -> float:
        """Images per second that this share (0..1) of the calls reached at most; their median by default."""
        return self.workload.batch_size / self.latency(1 - quantile)

    def macs_per_second(self) -> float | None:
        """Multiply-adds per second of the median call."""
        return None if self.macs is None else self.macs * self.images_per_second()


@dataclass(frozen=True, kw_only=True)
class BenchResults:
    """A run of the benchmark."""

    rows: tuple[Row, ...]
    """By size, then by model, as they were asked for."""
    config: dict[str, Any]
    """The `BenchConfig` of the run."""
    machine: dict[str, Any]
    """The machine, versions and threads of the run."""
    peak_macs_per_second: tuple[float, ...]
    """Rates of matrix products alone, multiply-adds per second, each the best of a moment during the run."""
    peak_method: str
    """The way in which those were measured."""
    interrupted: bool = False
    """True if the user stopped it before its end."""

    @property
    def peak(self) -> float:
        """The best rate of matrix products, multiply-adds per second."""
        return max(self.peak_macs_per_second)

    def sizes(self) -> list[tuple[int, int]]:
        """Sizes in order."""
        return list(dict.fromkeys(row.workload.size for row in self.rows))

    def at(self, size: tuple[int, int]) -> list[Row]:
        """Rows of a size."""
        return [row for row in self.rows if row.workload.size == size]

    def share_of_peak(self, row: Row) -> float | None:
        """Rate of a model as a share of `peak`."""
        rate = row.macs_per_second() if row.seconds else None
        return None if rate is None else rate / self.peak

    def relative_to_first(self, row: Row) -> float | None:
        """Multiply-adds per second against those of the first model at the same size, by round, in the median."""
        first = self.at(row.workload.size)[0]
        if row.macs is None or first.macs is None or not row.seconds or not first.seconds:
            return None
        return relative_rate(row.seconds, first.seconds, row.macs, first.macs)

    def to_json(self) -> str:
        """Everything as JSON, with a summary in each row beside what it follows from."""
        data = {field_.name: getattr(self, field_.name) for field_ in dataclasses.fields(self) if field_.name != "rows"}
        rows = [{**dataclasses.asdict(row), "summary": self._summary(row)} for row in self.rows]
        return json.dumps({**data, "rows": rows}, indent=1) + "\n"

    def _summary(self, row: Row) -> dict[str, Any]:
        if not row.seconds:
            return {}
        return {
            "rounds": len(row.seconds),
            "images_per_second": row.images_per_second(),
            "images_per_second_p10_p90": [row.images_per_second(0.1), row.images_per_second(0.9)],
            "latency_seconds_p50_p90": [row.latency(0.5), row.latency(0.9)],
            "macs_per_second": row.macs_per_second(),
            "share_of_peak": self.share_of_peak(row),
            "relative_to_first": self.relative_to_first(row),
        }

    def write(self, path: Path) -> None:
        """Writes the JSON to a file."""
        with replacing(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "BenchResults":
        """The results that `write` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        rates = tuple(data.pop("peak_macs_per_second"))
        rows = tuple(_row(row) for row in data.pop("rows"))
        return cls(rows=rows, peak_macs_per_second=rates, **data)


def _row(data: dict[str, Any]) -> Row:
    del data["summary"]
    workload = data.pop("workload")
    workload["size"] = tuple(workload["size"])
    memory = data.pop("memory")
    return Row(workload=Workload(**workload), memory=None if memory is None else MemoryUse(**memory), **data)
