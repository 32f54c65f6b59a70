"""Trains in child processes that are killed again and again, for `test_kill.py`; prints what happened as JSON.

One process imports PyTorch and forks the children, which saves each of them some seconds.
"""

import contextlib
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from transnext.config import TrainConfig
from transnext.engine import train, trainer

KILLS, KILLS_IN_WRITE = 12, 4
TIMES = ("seconds", "images_per_second", "waiting")


def main(photos: str, folder: Path, seed: int) -> None:
    trainer.write_report = lambda *_: None  # takes longer than the training
    rng = random.Random(seed)
    config = TrainConfig.of(
        data=photos,
        output=str(folder / "whole"),
        epochs=3,
        batch_size=6,
        micro_batch_size=3,
        image_size=32,
        mix_prob=0.5,
        dropout=0.1,
        drop_path=0.2,
        ema=0.9,
        workers=0,
        checkpoint_every=2,
        keep=2,
        tracker="none",
        device="cpu",
    )
    start = time.perf_counter()
    assert wait(child(config, None)) == 0
    duration = time.perf_counter() - start
    kills: list[str] = []
    runs = []
    while len(kills) < KILLS:
        run = config.but(output=str(folder / f"killed{len(runs)}"))
        runs.append(run)
        while True:
            marker = folder / f"marker{len(kills)}"
            in_write = len(kills) < KILLS and len(kills) % (KILLS // KILLS_IN_WRITE) == 0
            # Reading processes come and go with the attempts: they must not matter.
            pid = child(run.but(workers=len(kills) % 2), marker)
            if len(kills) < KILLS:
                moment = in_a_write(pid, marker, rng) if in_write else at_any_time(rng, duration)
                if kill(pid):
                    kills.append(moment)
                    continue
            if wait(pid) == 0:
                break
            sys.exit("a resumed run failed")
    same = [differences(Path(config.output), Path(run.output)) for run in runs]
    print(json.dumps({"kills": kills, "runs": len(runs), "differences": [line for lines in same for line in lines]}))


def at_any_time(rng: random.Random, duration: float) -> str:
    delay = rng.uniform(0, duration / 6)
    time.sleep(delay)
    return f"after {delay:.3f} s"


def in_a_write(pid: int, marker: Path, rng: random.Random) -> str:
    """Waits until one of the next few writes of the child has begun."""
    count = rng.randint(1, 12)
    deadline = time.perf_counter() + 60
    while time.perf_counter() < deadline and not marker.with_suffix(f".{count}").exists():
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.001)
    return f"in write {count}"


def child(config: TrainConfig, marker: Path | None) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if marker is not None:
            slow_writes(marker)
        train(config, resume="auto", quiet=True)
        status = 0
    finally:
        os._exit(status)


def slow_writes(marker: Path) -> None:
    """Makes the writing of a checkpoint long enough to be killed in, and says when it is under way."""
    save, fsync, count = torch.save, os.fsync, 0

    def under_way() -> None:
        nonlocal count
        count += 1
        marker.with_suffix(f".{count}").touch()
        time.sleep(0.01)

    def slow_save(state, file) -> None:
        buffer = io.BytesIO()
        save(state, buffer)
        data = buffer.getvalue()
        file.write(data[: len(data) // 2])
        file.flush()
        under_way()
        file.write(data[len(data) // 2 :])

    def slow_fsync(descriptor) -> None:
        under_way()
        fsync(descriptor)

    torch.save, os.fsync = slow_save, slow_fsync


def kill(pid: int) -> bool:
    """Whether the child was still running."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if status.si_code == os.CLD_KILLED:
        os.waitpid(pid, 0)
        return True
    return False


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def differences(whole: Path, other: Path) -> list[str]:
    """What is not as in the run that was not killed, bit by bit."""
    files = ("last.safetensors", "best.safetensors")
    different = [str(other / name) for name in files if (whole / name).read_bytes() != (other / name).read_bytes()]
    if rows(whole) != rows(other):
        different.append(str(other / "metrics.jsonl"))
    if leftovers := list(other.rglob("*.tmp")):
        different.append(str(leftovers))
    return different


def rows(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
