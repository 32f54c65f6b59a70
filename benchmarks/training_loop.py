"""What the training loop costs beside the arithmetic: its throughput against bare updates on tensors that are there.

    python benchmarks/training_loop.py
    python benchmarks/training_loop.py --models transnext_micro --image-size 224 --batch-size 16 --updates 4

The loop reads and augments the bundled images and does all that a run does between two evaluations: schedule, clipping,
mixing, metrics, checks for NaN and signals. Bare is forward, backward and a step of AdamW with the same model and batch
size. Both in one process, in turn; ratios are medians over rounds. That of CPU time counts the training process alone:
with reading processes it is what the loop costs where these have cores of their own. Then images/s of the loader alone.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import nn

from transnext.cli.process import keep_freed_memory
from transnext.config import TrainConfig
from transnext.engine.optim import make_optimizer
from transnext.engine.trainer import Trainer


def bare(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, updates: int) -> tuple[float, float]:
    """Images/s of updates on one batch that is there, and images per second of CPU time."""
    targets = torch.arange(len(images)) % 22
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(updates):
        F.cross_entropy(model(images), targets, label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad()
    count = updates * len(images)
    return count / (time.perf_counter() - start), count / (time.process_time() - cpu_start)


def loop(trainer: Trainer, updates: int) -> tuple[float, float, float]:
    """Images/s of an epoch of so many updates, images per second of CPU time, and the share of waiting for images."""
    progress = trainer.progress
    progress.totals = type(progress.totals)()
    trainer.updates_per_epoch = updates
    start, cpu_start = time.perf_counter(), time.process_time()
    trainer._train_epoch()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    progress.epoch += 1
    images = progress.totals.images
    return images / seconds, images / cpu_seconds, progress.totals.waiting / seconds


def compare(config: TrainConfig, updates: int, rounds: int) -> None:
    """Prints a row of the first table."""
    trainer = Trainer(config, quiet=True)
    model = trainer.model
    model.train()
    optimizer = make_optimizer(model, config)
    images = torch.randn(config.batch_size, *trainer.preprocessing.input_size)
    loop(trainer, 2)
    bare(model, optimizer, images, 2)
    pairs = [(*bare(model, optimizer, images, updates), *loop(trainer, updates)) for _ in range(rounds)]
    trainer.close()
    plain, _, looped, _, waiting = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, _, b, _, _ in pairs)
    cpu_ratio = statistics.median(b / a for _, a, _, b, _ in pairs)
    _, rows, cols = trainer.preprocessing.input_size
    cells = (config.model, f"{rows}x{cols}", config.batch_size, config.images.workers, f"{plain:.1f}", f"{looped:.1f}")
    print(
        "| " + " | ".join(map(str, (*cells, f"{ratio:.2f}", f"{cpu_ratio:.2f}", f"{waiting:.0%}"))) + " |", flush=True
    )


def alone(config: TrainConfig) -> None:
    """Prints a row of the second table: an epoch of the loader, without its first batch."""
    trainer = Trainer(config, quiet=True)
    batches = trainer.loader.epoch(0)
    next(batches)
    start = time.perf_counter()
    images = sum(len(batch.images) for batch in batches)
    speed = images / (time.perf_counter() - start)
    trainer.close()
    _, rows, cols = trainer.preprocessing.input_size
    print(f"| {rows}x{cols} | {config.images.workers} | {speed:.0f} |", flush=True)


def main(
    models: Sequence[str] = ("transnext_pico",),
    image_size: int | None = None,
    batch_size: int = 64,
    updates: int = 16,
    rounds: int = 5,
    workers: Sequence[int] = (0, 1, 2),
) -> None:
    """Prints two Markdown tables.

    Args:
        models: What is trained.
        image_size: Side of the images, pixels; the model's own by default.
        batch_size: Images of an update.
        updates: Updates of a round.
        rounds: How often both are measured, in turn.
        workers: Numbers of processes that read images.
    """
    keep_freed_memory()  # as `transnext train` does; it serves both
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "data": "emoji",
            "output": str(Path(folder) / "run"),
            "image_size": image_size,
            "batch_size": batch_size,
            "tracker": "none",
            "device": "cpu",
        }
        print("| model | size | batch | workers | bare img/s | loop img/s | ratio | ratio, CPU time | waiting |")
        print("|---|---|---|---|---|---|---|---|---|")
        for model in models:
            for count in workers:
                compare(TrainConfig.of(**config, model=model, workers=count), updates, rounds)
        print("\n| size | workers | loader alone, img/s |\n|---|---|---|")
        for count in workers:
            alone(TrainConfig.of(**config, model=models[0], workers=count))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
