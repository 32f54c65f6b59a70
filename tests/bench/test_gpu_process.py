"""Processes that `gpu_check.py` gives parts to: what happens to one does not happen to the next."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpu_process
from gpu_process import Child, Results, run_side_by_side, shares

SERVED = """
import json, os, signal, sys, time
sys.path.insert(0, {benchmarks!r})

def send(**message):
    print(json.dumps(message), flush=True)

for line in sys.stdin:
    part = json.loads(line)["part"]
    print("what a library says")
    word = part.split()[0]
    if word == "crash":
        send(table="t", row={{"part": "before the crash"}})
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "hang":
        time.sleep(60)
    send(table="t", row={{"part": part, "pid": os.getpid()}})
    error = {{"fail": "ValueError: no", "late": "Deadline: not ready after 1 s", "broken": "RuntimeError: illegal"}}
    send(done=part, seconds=0.1, error=error.get(word, ""), last=word in ("late", "broken"))
"""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    script = tmp_path / "served.py"
    script.write_text(SERVED.format(benchmarks=str(Path(gpu_process.__file__).parent)))
    monkeypatch.setattr(gpu_process, "SCRIPT", script)
    monkeypatch.setattr(gpu_process, "GRACE", 0.2)
    return Results(tmp_path / "out", 60, dry=False)


@pytest.fixture
def child(results: Results) -> Iterator[Child]:
    made = Child(results, "gpu")
    yield made
    made.close()


def test_parts_of_one_process(child: Child, results: Results) -> None:
    assert all(child.run(part, 20) for part in ("one", "two"))
    assert [row["part"] for row in results.rows("t")] == ["one", "two"]
    assert len({row["pid"] for row in results.rows("t")}) == 1
    assert [row["step"] for row in results.rows("steps")] == ["one", "two"]
    assert child.run("three", 20, quiet=True)
    assert len(results.rows("steps")) == 2
    assert results.log.read_text() == "what a library says\n" * 3


@pytest.mark.parametrize(
    ("part", "table", "why"),
    [
        ("crash", "steps", "the process ended with status -11: see log.txt"),
        ("broken", "steps", "RuntimeError: illegal"),
        ("late", "cut", "Deadline: not ready after 1 s"),
    ],
)
def test_the_next_part_has_another_process(child: Child, results: Results, part: str, table: str, why: str) -> None:
    child.run("one", 20, quiet=True)
    assert not child.run(part, 20)
    assert child.run("two", 20, quiet=True)
    first, *_, last = results.rows("t")
    assert first["pid"] != last["pid"]
    assert why in results.rows(table)[0].values()
    if part == "crash":
        assert results.rows("t")[1] == {"part": "before the crash"}


def test_an_error_is_no_reason_for_another_process(child: Child, results: Results) -> None:
    assert not child.run("fail", 20)
    assert child.run("one", 20)
    assert len({row["pid"] for row in results.rows("t")}) == 1
    assert results.rows("steps")[0]["error"] == "ValueError: no"


def test_what_hangs_is_ended(child: Child, results: Results) -> None:
    child.run("one", 20, quiet=True)
    began = time.monotonic()
    assert not child.run("hang", 0.2)
    assert time.monotonic() - began < 10
    assert results.rows("steps")[0]["error"] == "it hung, and was ended"
    assert child.run("two", 20)


def test_side_by_side(results: Results) -> None:
    children = [Child(results, "gpu") for _ in range(2)]
    parts = ["one", "crash", "two", "fail", "three"]
    run_side_by_side(children, parts, 30)
    for one in children:
        one.close()
    done = {row["part"] for row in results.rows("t")}
    assert done == {"one", "two", "fail", "three", "before the crash"}
    run_side_by_side(children, ["late for this"], -1)
    assert results.rows("cut") == [{"part": "late for this", "why": "no time was left"}]


def test_results_are_on_the_disk_after_each_row(results: Results) -> None:
    for number in range(2):
        results.row("t", number=number)
        assert json.loads((results.out / "results.json").read_text())["t"][-1] == {"number": number}


def test_what_a_part_leaves_goes_to_the_others() -> None:
    found = list(shares(8, {"a": 1.0, "b": 1.0, "c": 2.0}))
    assert [name for name, _ in found] == ["a", "b", "c"]
    assert [seconds for _, seconds in found] == pytest.approx([2, 8 / 3, 8], abs=0.1)
