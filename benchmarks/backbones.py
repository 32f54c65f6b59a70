"""Backbones under one detector or segmenter, from scratch, for equal processor time: which learns most.

    python benchmarks/backbones.py ../shared/data/stamps --minutes 60 --output runs/backbones
    python benchmarks/backbones.py ../shared/data/nuclei --task segmentation --image-size 256 --minutes 10

Each backbone is timed for some updates first, and trains as many epochs as fit into the time, with the same options,
one thread and its whole schedule. Time is that of the processor, so that other work on the machine does not count.
All results and histories are written as JSON, the results printed.
"""

import json
import platform
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from transnext.config import TrainConfig
from transnext.data import collate
from transnext.engine.loader import train_loader
from transnext.engine.trainer import train
from transnext.tasks.task import task_class

_WARM_UP, _TIMED = 3, 10
_EVALUATION = 0.25
"""Share of the time that is left to evaluation."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which backbones, on what, for how long."""

    data: Annotated[str, tyro.conf.Positional]
    """Images with objects, or with maps of classes."""
    backbones: tuple[str, ...] = ("transnext_pico", "resnet18", "edgenext_xx_small")
    """Names of timm; those with the tag of some weights, as transnext_pico.emoji, start from these."""
    task: Literal["detection", "segmentation"] = "detection"
    """What is learned."""
    head: str | None = None
    """Detector or segmenter, of the small size; by default that of the task."""
    minutes: float = 60.0
    """Processor time of each, evaluation after the epochs included."""
    seeds: tuple[int, ...] = (0,)
    """A run for each."""
    image_size: int = 320
    """Side of the images, pixels."""
    batch_size: int = 8
    """Images of an update."""
    lr: float = 1e-3
    """Peak learning rate."""
    output: Path = Path("runs/backbones")
    """Where the runs and the table go."""


def seconds_of_update(config: TrainConfig[Any]) -> tuple[float, int]:
    """Processor seconds of an update, images included, and updates in an epoch."""
    task, sources = task_class(config.task_name).open(config)
    torch.manual_seed(config.seed)
    net: Any = task.build(config)
    preprocessing = task.preprocessing(net, config)
    images = task.images(sources["train"], preprocessing, config)
    objective = task.objective(net, preprocessing, config)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6)
    loader = train_loader(
        images, batch_size=config.batch_size, seed=0, workers=0, collate=partial(collate, targets=task.collate)
    )
    start = 0.0
    for number, batch in enumerate(loader.epoch(0)):
        if number == _WARM_UP:
            start = time.process_time()
        losses = objective(batch.images, batch.sizes, batch.targets)
        (torch.stack(list(losses.parts.values())).sum() / losses.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        if number == _WARM_UP + _TIMED - 1:
            break
    loader.close()
    return (time.process_time() - start) / _TIMED, len(images) // config.batch_size


def main(comparison: Comparison) -> None:
    """Trains all, one after the other."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in comparison.seeds:
        for backbone in comparison.backbones:
            head = {} if comparison.head is None else {task_class(comparison.task).heads().kind: comparison.head}
            config = TrainConfig.of(
                task=comparison.task,
                data=comparison.data,
                model=backbone,
                output=str(comparison.output / f"{backbone}-{seed}"),
                pretrained="." in backbone,
                **head,
                image_size=comparison.image_size,
                batch_size=comparison.batch_size,
                lr=comparison.lr,
                seed=seed,
                workers=0,
                tracker="none",
            )
            update, updates = seconds_of_update(config)
            epochs = max(1, int(comparison.minutes * 60 * (1 - _EVALUATION) / (update * updates)))
            start = time.process_time()
            result = train(config.but(epochs=epochs))
            if result.interrupted:
                raise SystemExit(f"stopped: the run {config.output} does not count; those before it are in the table")
            row = {
                "backbone": backbone,
                "seed": seed,
                "epochs": epochs,
                "images": epochs * updates * comparison.batch_size,
                "seconds_of_update": update,
                "minutes": (time.process_time() - start) / 60,
                "results": {r.split: {name: m.value for name, m in r.metrics.items()} for r in result.results},
                "history": result.history,
            }
            rows.append(row)
            settings = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
            text = json.dumps({"settings": settings, "rows": rows}, indent=1)
            comparison.output.mkdir(parents=True, exist_ok=True)
            (comparison.output / f"{'-'.join(comparison.backbones)}.json").write_text(text + "\n")
            shown = {split: {k: round(v, 3) for k, v in of.items()} for split, of in row["results"].items()}
            print(backbone, seed, f"{epochs} epochs, {row['minutes']:.1f} minutes", shown, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Comparison))
