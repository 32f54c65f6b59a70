"""Trains with several processes over gloo, for `test_distributed.py`; prints what came out as JSON.

One process imports PyTorch and forks the others, which saves each of them some seconds.
"""

import json
import os
import socket
import sys
from pathlib import Path

import torch

from transnext.config import TrainConfig
from transnext.engine import train, trainer


def main(photos: str, folder: Path) -> None:
    trainer.write_report = lambda *_: None  # takes longer than the training
    config = TrainConfig.of(
        data=photos,
        output=str(folder / "one"),
        epochs=2,
        batch_size=8,
        image_size=32,
        drop_path=0.0,
        ema=0.9,
        checkpoint_every=1,
        keep=9,
        workers=0,
        tracker="none",
        device="cpu",
    )
    launch(config, 1)
    launch(named(config, folder / "ddp"), 2)
    launch(named(config, folder / "accumulated", micro_batch_size=1), 2)
    launch(named(config, folder / "sharded", strategy="fsdp", ema=0.0, micro_batch_size=2), 2)
    # From one process to two in the middle of an epoch, and from two that share the weights to one.
    launch(named(config, folder / "grown"), 2, resume=folder / "one" / "checkpoints" / "000000001")
    launch(named(config, folder / "shrunk", ema=0.0), 1, resume=folder / "sharded" / "checkpoints" / "000000002")
    # Statistics of batch norm are of the images that a process saw.
    launch(named(config, folder.with_name("norms"), model="resnet10t", epochs=1, ema=0.0), 2)
    print(json.dumps({path.name: summary(path, folder / "one") for path in sorted(folder.iterdir()) if path.is_dir()}))


def named(config: TrainConfig, output: Path, **values) -> TrainConfig:
    return config.but(output=str(output), **values)


def launch(config: TrainConfig, processes: int, resume: str | Path = "never") -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    sys.stdout.flush()
    pids = []
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                if processes > 1:
                    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
                    os.environ |= {name: str(value) for name, value in group.items()}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                train(config, resume=resume, quiet=True)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * processes, config.output


def summary(run: Path, reference: Path) -> dict[str, object]:
    """Largest differences to the other run, and what was counted."""
    last = sorted(run.glob("checkpoints/*"))[-1].name
    ours, theirs = state(run, last), state(reference, last)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((run / "results.json").read_text())
    return {
        "updates": int(last),
        "weights": largest(ours["model"], theirs["model"]),
        "average": None if ours["ema"] is None else largest(ours["ema"], theirs["ema"]),
        "moments": max(
            float((a["exp_avg"] - b["exp_avg"]).norm() / b["exp_avg"].norm().clamp(min=1e-6))
            for a, b in zip(ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values(), strict=True)
        ),
        "train_loss": [row["train_loss"] for row in rows],
        "val_loss": [row["val_loss"] for row in rows],
        "images": {split: sum(map(sum, result["confusion"])) for split, result in results.items()},
    }


def state(run: Path, name: str) -> dict:
    return torch.load(run / "checkpoints" / name / "state.pt", weights_only=True)


def largest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
