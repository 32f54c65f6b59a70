"""Several processes train to the weights of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from transnext import evaluate

DRIVER = Path(__file__).with_name("distributed_driver.py")

# Sums over processes have another order of summation. AdamW divides the gradient by its own size, so that where it is
# rounding error alone a weight may differ by a share of the learning rate, 1e-3.
WEIGHTS, MOMENTS, LOSS = 3e-5, 1e-4, 1e-4


@pytest.fixture
def split_photos(photos) -> Path:
    """The photos as 23 to train on and 7 to validate, which two processes cannot share evenly."""
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        split = "val" if number % 4 == 1 and number < 28 else "train"
        target = photos.with_name("split") / split / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    return photos.with_name("split")


def test_two_processes_train_to_the_weights_of_one(split_photos, tmp_path) -> None:
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(split_photos), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = [json.loads(line) for line in (tmp_path / "norms" / "metrics.jsonl").read_text().splitlines()]
    [val] = evaluate(tmp_path / "norms", split_photos, splits=["val"], workers=0, device="cpu")
    assert row["val_loss"] == pytest.approx(val.loss, rel=1e-5), "what is judged is not what is saved"
    runs = json.loads(done.stdout.splitlines()[-1])
    print(runs)
    assert set(runs) == {"one", "ddp", "accumulated", "sharded", "grown", "shrunk"}
    one = runs["one"]
    for name, run in runs.items():
        assert run["updates"] == 4, name
        assert run["weights"] < WEIGHTS, name
        assert run["average"] is None or run["average"] < WEIGHTS, name
        assert run["moments"] < MOMENTS, name
        assert run["images"] == {"train": 23, "val": 7}, name
        assert run["train_loss"] == pytest.approx(one["train_loss"], rel=LOSS), name
        if run["average"] is not None:
            assert run["val_loss"] == pytest.approx(one["val_loss"], rel=LOSS), name


RESTARTED = """
import os, signal, sys
from transnext.cli import main
from transnext.engine import trainer
from transnext.engine.update import Updater

trainer.write_report = lambda *_: None
call = Updater.__call__

def killed(self, batches, update):
    if update == 3 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return call(self, batches, update)

Updater.__call__ = killed
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_torchrun_goes_on_by_itself_when_a_worker_dies(photos, tmp_path) -> None:
    (tmp_path / "script.py").write_text(RESTARTED)
    args = ["train", str(photos), "--image-size", "32", "--batch-size", "8", "--epochs", "3", "--workers", "0"]
    args += ["--device", "cpu", "--tracker", "none", "--checkpoint-every", "1", "--keep", "9"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", "--max-restarts", "1"]
    outputs = []
    for name, command in {
        "killed": [*launch, str(tmp_path / "script.py")],
        "whole": [*launch, "-m", "transnext"],
    }.items():
        done = subprocess.run(
            [*command, *args, "--output", str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout)
    assert f"Going on from {tmp_path}/killed/checkpoints/00000000" in outputs[0]
    assert outputs[1].count("epoch   3/3") == 1
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in ("killed", "whole"))
    assert all((a[key] - b[key]).abs().max() < WEIGHTS for key in a)
    rows = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3]
