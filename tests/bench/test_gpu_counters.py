"""What NVIDIA's profiler prints, read from a text in its form, and what is said where it is missing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton")

import gpu_counters

TEXT = """==PROF== Connected to process 4242 (/usr/bin/python3.12)
==PROF== Profiling "attention_forward" - 0: 0%....50%....100% - 4 passes
counted: 224 stage 1
counted: 224 stage 3
==PROF== Disconnected from process 4242
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"dram__bytes.sum","gpu__time_duration.sum","smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",\
"smsp__inst_executed.sum","smsp__issue_active.avg.pct_of_peak_sustained_active"
"","","","","","","","","","","","Mbyte","usecond","inst","inst","inst","%"
"0","4242","python3.12","127.0.0.1","attention_forward","1","7","(32, 1, 1)","(37632, 1, 1)","0","9.0",\
"117.25","304.50","0.25","3.50","12,345,678","61.25"
"1","4242","python3.12","127.0.0.1","gate_forward(void*, int)","1","7","(128, 1, 1)","(94080, 1, 1)","0","9.0",\
"1,925.00","402.00","0.00","n/a","23,456,789","n/a"
"""


def test_rows() -> None:
    attention, gate = gpu_counters.rows_of(TEXT, gpu_counters.stages_of_launches(TEXT))
    assert attention == {
        "kernel": "attention_forward",
        "stage": "224 stage 1",
        "us": 304.5,
        "warp_instructions": 12345678.0,
        "issue_active": 61.2,
        "dram_MB": 117.2,
        "l2_MB": None,
        "warps_active": None,
        "stalls": "long_scoreboard 3.5, barrier 0.2",
    }
    assert gate["kernel"] == "gate_forward"
    assert gate["stage"] == "224 stage 3"
    assert (gate["dram_MB"], gate["issue_active"], gate["stalls"]) == (1925.0, None, "")


@pytest.mark.parametrize(
    ("unit", "number", "us"), [("nsecond", "1,500", 1.5), ("msecond", "2", 2000.0), ("us", "3", 3.0)]
)
def test_units(unit: str, number: str, us: float) -> None:
    text = f'"ID","Kernel Name","gpu__time_duration.sum"\n"","","{unit}"\n"0","k","{number}"\n'
    assert next(iter(gpu_counters.rows_of(text, ["s"])))["us"] == us


def test_no_table() -> None:
    assert list(gpu_counters.rows_of("==ERROR== Failed to initialize the profiler: LibraryNotLoaded\n", [])) == []


class Recorded:
    """Stands for a report."""

    dry, device = False, "cuda"

    def __init__(self, out: Path) -> None:
        self.out, self.rows = out, []  # type: ignore[var-annotated]

    def left(self) -> float:
        return 60

    def row(self, table: str, **cells: Any) -> None:
        self.rows.append({"table": table, **cells})


def test_where_there_is_no_profiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_counters.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu_counters, "PLACES", ())
    report: Any = Recorded(tmp_path)
    gpu_counters.count_all(report, "")
    assert [row["error"] for row in report.rows] == ["ncu is not there"]


def test_a_profiler_that_may_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(command: list[str], **options: Any) -> Any:
        calls.append(command[command.index("--metrics") + 1].split(","))
        return SimpleNamespace(stdout="==ERROR== Failed to initialize the profiler\n", stderr="", returncode=1)

    monkeypatch.setattr(gpu_counters.shutil, "which", lambda name: "ncu")
    monkeypatch.setattr(gpu_counters.subprocess, "run", run)
    report: Any = Recorded(tmp_path)
    gpu_counters.count_all(report, "")
    assert [row["error"] for row in report.rows] == ["ncu: ==ERROR== Failed to initialize the profiler"]
    assert len(calls) == 2  # the second time fewer numbers, all of which every version knows
    assert set(calls[1]) < set(calls[0])


def test_what_is_counted_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_counters.shutil, "which", lambda name: "ncu")
    done = SimpleNamespace(stdout=TEXT, stderr="", returncode=0)
    monkeypatch.setattr(gpu_counters.subprocess, "run", lambda *_, **__: done)
    report: Any = Recorded(tmp_path)
    gpu_counters.count_all(report, "")
    assert [row["kernel"] for row in report.rows] == ["attention_forward", "gate_forward"]
    assert (tmp_path / "counters.csv").read_text() == TEXT
