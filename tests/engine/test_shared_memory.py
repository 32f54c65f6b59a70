"""Reading processes that cannot hand over their batches say so at once."""

import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from transnext.data import LabelledImages, open_dataset
from transnext.engine import loader as loaders
from transnext.engine import train
from transnext.engine.evaluation import Evaluator
from transnext.engine.loader import check_shared_memory, eval_loader, train_loader

Usage = namedtuple("Usage", "free")


class Pixels:
    """A transform to `size` pixels that can be pickled and draws a random number."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image):
        return torch.rand(1).expand(3, self.size, self.size).clone()


@pytest.fixture
def images(photos) -> LabelledImages:
    return LabelledImages(open_dataset(str(photos))["train"], Pixels(64))


def free(monkeypatch, num_bytes: float) -> None:
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda path: Usage(num_bytes))


def test_what_is_needed(images, monkeypatch) -> None:
    """Of each worker two batches, and one that is used; not more than there are, of all processes of the machine."""
    batch = 8 * 3 * 64 * 64 * 4
    for workers, batches, processes, held in ((1, 9, 1, 3), (4, 9, 1, 9), (4, 2, 1, 2), (1, 9, 3, 9)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        free(monkeypatch, held * batch)
        check_shared_memory(images, 8, batches, workers)
        free(monkeypatch, held * batch - 1)
        with pytest.raises(
            OSError, match=rf"/dev/shm has .* MB free, and {workers} reading .* batches of 0.4 MB in it, {held}"
        ):
            check_shared_memory(images, 8, batches, workers)
        check_shared_memory(images, 8, batches, 0)


def test_asking_draws_no_random_number(images) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_shared_memory(images, 2, 2, 1)
    assert torch.equal(torch.rand(2), expected)


def test_every_loader_asks(images, config, photos, monkeypatch) -> None:
    free(monkeypatch, 1e5)
    with pytest.raises(OSError, match="--workers 0"):
        train_loader(images, batch_size=4, seed=0, workers=1)
    with pytest.raises(OSError, match="--workers 0"):
        eval_loader(images, 4, 1)
    with pytest.raises(OSError, match="--workers 0"):
        Evaluator("transnext_pico.emoji", workers=1, device="cpu").run_splits("emoji", ["val"])
    # Evaluation has the larger batches: before anything is trained.
    free(monkeypatch, 3 * 8 * 3 * 32 * 32 + 1000)
    with pytest.raises(OSError, match="reading processes hand over batches"):
        train(config.but(workers=1), quiet=True)
    assert not Path(config.output).exists()


def test_memory_that_is_full_later_is_said_at_once(images, monkeypatch) -> None:
    def full(storage):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)  # workers are forked with it
    start = time.monotonic()
    with pytest.raises(ChildProcessError, match="/dev/shm is full, in which reading processes hand over batches"):
        list(eval_loader(images, 4, 1, timeout=100))
    assert time.monotonic() - start < 60


def test_a_bus_error_has_the_same_reason() -> None:
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")
    with pytest.raises(ChildProcessError, match="/dev/shm is full"), loaders.naming_dead_workers():
        raise error


class Failing(Pixels):
    def __call__(self, image):
        raise RuntimeError("no such kernel")


def test_an_error_of_a_transform_is_not_a_death(images, photos) -> None:
    broken = eval_loader(images, 4, 1)
    images.transform = Failing(8)
    with pytest.raises(RuntimeError, match="no such kernel"), loaders.naming_dead_workers():
        list(broken)


SMALL = f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {sys.executable} -m transnext"


@pytest.mark.slow
def test_the_real_thing(photos, tmp_path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a mount namespace is not allowed here")
    args = f"train {photos} --output {tmp_path}/run --batch-size 24 --image-size 64 --workers 1 --device cpu"
    done = subprocess.run(
        [unshare, "-m", "bash", "-c", f"{SMALL} {args}"], check=False, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2
    assert "transnext: /dev/shm has 1.0 MB free, and 1 reading processes" in done.stderr
    assert not (tmp_path / "run").exists()
