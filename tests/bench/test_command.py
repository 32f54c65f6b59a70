"""`transnext bench` as a user meets it."""

import json
from pathlib import Path

import pytest
import torch

from transnext.bench import run
from transnext.bench.config import BenchConfig
from transnext.bench.results import BenchResults
from transnext.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _short_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "matrix_product_rate", lambda device, dtype: 1e9)


def bench(*args: str) -> None:
    main(["bench", *args, "--device", "cpu", "--threads", "1"])


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        bench(*args)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


def test_from_models_to_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "bench"
    bench(
        *("transnext_pico", "resnet10t", "--sizes", "64", "64x96", "--batch-size", "2", "--rounds", "2"),
        *("--mode", "extrapolate", "linear", "--features", "--no-memory", "--output", str(output)),
    )
    out = capsys.readouterr().out
    assert "64x96, batch 2, float32, features, forward, 2 rounds" in out
    assert out.count("transnext_pico linear") == 2
    assert sorted(p.name for p in output.iterdir()) == ["cost.png", "results.json", "table.md"]

    data = json.loads((output / "results.json").read_text())
    assert data["config"]["rounds"] == 2
    assert data["machine"]["threads"] == 1
    assert len(data["rows"]) == 6
    for row in data["rows"]:
        assert len(row["seconds"]) == 2
        assert row["parameters"] > 1e5
        assert row["summary"]["rounds"] == 2
    assert data["rows"][0]["summary"]["relative_to_first"] == pytest.approx(1)


def test_training_with_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(
        "transnext_pico", "--sizes", "64", "--rounds", "1", "--train", "--dtype", "bfloat16", "--output", str(tmp_path)
    )
    assert "bfloat16, classifier, forward and backward" in capsys.readouterr().out
    row = BenchResults.load(tmp_path / "results.json").rows[0]
    assert row.memory is not None
    assert row.memory.peak_bytes > row.memory.before_bytes > 10**8


def test_without_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bench("resnet10t", "--sizes", "64", "--rounds", "1", "--no-memory")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_take_a_size_has_a_row_that_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    bench("levit_128s", "resnet10t", "--sizes", "100x132", "--rounds", "1")
    out = capsys.readouterr().out
    assert "levit_128s at 100x132: RuntimeError: The size of tensor" in out
    row = next(line for line in out.splitlines() if line.startswith("levit_128s  "))
    assert set(row.split()[1:]) == {"–"}
    row = next(line for line in out.splitlines() if line.startswith("resnet10t"))
    assert row.split()[-1].startswith("+"), "the memory of the other model"


def test_mistakes_get_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean transnext_tiny" in fails(capsys, "transnext_tini")
    assert "800x1216" in fails(capsys, "transnext_pico", "--sizes", "big")
    assert "no model is given" in fails(capsys)
    (tmp_path / "file").write_text("")
    assert "file" in fails(capsys, "resnet10t", "--output", str(tmp_path / "file"))


def test_when_nothing_could_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        bench("levit_128s", "--sizes", "100x132", "--no-memory")
    assert exit_.value.code == 2
    assert "levit_128s at 100x132" in capsys.readouterr().out


def test_an_interruption_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the second size, while the second model is built."""
    count_macs = run.Workload.count_macs

    def interrupt(workload: run.Workload) -> float:
        if workload.size == (96, 96) and workload.model == "resnet10t":
            raise KeyboardInterrupt
        return count_macs(workload)

    monkeypatch.setattr(run.Workload, "count_macs", interrupt)
    with pytest.raises(SystemExit) as exit_:
        bench(
            *("transnext_pico", "resnet10t", "--sizes", "64", "96", "--rounds", "1"),
            *("--no-memory", "--output", str(tmp_path)),
        )
    assert exit_.value.code == 130
    assert "resnet10t at 96x96: interrupted" in capsys.readouterr().out
    results = BenchResults.load(tmp_path / "results.json")
    assert results.interrupted
    assert [len(row.seconds) for row in results.rows] == [1, 1, 0, 0]
    assert (tmp_path / "table.md").exists()


def test_the_python_way_leaves_the_threads_as_they_were() -> None:
    saved: list[BenchResults] = []
    before = torch.get_num_threads()
    config = BenchConfig(models=("resnet10t",), sizes=("64", "96"), rounds=1, threads=before + 1, memory=False)
    results = run.run_bench(config, save=saved.append)
    assert torch.get_num_threads() == before
    assert results.machine["threads"] == before + 1
    assert [len(partial.rows) for partial in saved] == [1, 2]
    assert saved[-1].rows == results.rows
