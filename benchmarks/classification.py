"""TransNeXt-pico against small timm backbones: the same recipe, data, image size and training wall-clock.

    python benchmarks/classification.py --minutes 2 --output docs/classification

How many epochs fit the wall-clock is found by timing training steps of all models in turn, on this machine, before
anything is trained, so that a noisy moment later does not favour anyone. Writes `OUTPUT.json` and `OUTPUT.md`.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import tyro

import transnext
from transnext.data import NAMED_SETS, ImageSource, open_dataset

MODELS = ("transnext_pico", "convnext_atto", "resnet10t", "pvt_v2_b0")
FASHION_TRAIN = 12_000
"""Training images of Fashion-MNIST that are used: few, so that a short run sees each of them several times."""
FASHION_VAL = 6_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare and for how long."""

    minutes: float = 2.0
    """Training time of each run, by calibration."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the runs."""
    models: tuple[str, ...] = MODELS
    """timm names."""
    sets: tuple[str, ...] = ("emoji", "fashion-mnist")
    """emoji, fashion-mnist."""
    threads: int = 1
    """Threads that compute; one more process reads images."""
    output: Path = Path("docs/classification")
    """Path of the results, without suffix."""


RECIPES: dict[str, dict[str, Any]] = {
    "emoji": {"image_size": 64, "crop_pct": 1.0},
    # 60,000 grey pictures of 28 pixels: upscaled a little, mildly augmented, as is usual for this set.
    "fashion-mnist": {
        "image_size": 32,
        "crop_pct": 1.0,
        "auto_augment": "",
        "color_jitter": 0.0,
        "crop_scale": (0.7, 1.0),
        "batch_size": 128,
    },
}


class FirstImages:
    """The first images of a source, as an `ImageSource`."""

    def __init__(self, source: ImageSource, count: int) -> None:
        self.classes, self.load, self.label, self.name = source.classes, source.load, source.target, source.name
        self.count = count

    def __len__(self) -> int:
        """How many."""
        return self.count


def fashion_mnist(_: float) -> dict[str, ImageSource]:
    """Fashion-MNIST with fewer training images; `val` chooses the epoch, `test` is what counts."""
    splits = open_dataset("fashion_mnist", FASHION_VAL / 60_000)
    return {**splits, "train": FirstImages(splits["train"], FASHION_TRAIN)}


def training_speed(models: tuple[str, ...], image_size: int, batch_size: int, num_classes: int) -> dict[str, float]:
    """Median images/s of a training step of each model, measured in turns."""
    images = torch.randn(batch_size, 3, image_size, image_size)
    targets = torch.randint(num_classes, (batch_size,))
    built = {}
    for name in models:
        args = {"img_size": image_size} if name.startswith("transnext") else {}
        model = timm.create_model(name, num_classes=num_classes, **args).train()
        built[name] = (model, torch.optim.AdamW(model.parameters(), lr=1e-4))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(15):
        for name, (model, optimizer) in built.items():
            start = time.perf_counter()
            torch.nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds[name].append(time.perf_counter() - start)
    return {name: batch_size / statistics.median(times[3:]) for name, times in seconds.items()}


def run(options: Options) -> list[dict[str, Any]]:
    """All runs, one mapping each."""
    rows: list[dict[str, Any]] = []
    for data in options.sets:
        recipe = RECIPES[data]
        sources = open_dataset(data)
        speeds = training_speed(
            options.models, recipe["image_size"], recipe.get("batch_size", 64), len(sources["train"].classes)
        )
        for seed in options.seeds:
            for name in options.models:
                epochs = max(1, round(options.minutes * 60 * speeds[name] / len(sources["train"])))
                start = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    config = transnext.TrainConfig.of(
                        data=data, model=name, epochs=epochs, seed=seed, output=folder, **recipe
                    )
                    result = transnext.train(config, quiet=True)
                model = timm.create_model(name, num_classes=len(sources["train"].classes))
                rows.append(
                    {
                        "data": data,
                        "model": name,
                        "seed": seed,
                        "parameters": sum(p.numel() for p in model.parameters()),
                        "epochs": epochs,
                        "calibrated_images_per_second": speeds[name],
                        "train_seconds": sum(row["seconds"] for row in result.history),
                        "seconds": time.perf_counter() - start,
                        **{f"{r.split}_top1": r.top1 for r in result.results},
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
                save(options, rows)
    return rows


def save(options: Options, rows: list[dict[str, Any]]) -> None:
    """Writes what there is so far."""
    options.output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    options.output.with_suffix(".table.md").write_text(table(options, rows), encoding="utf-8")


def table(options: Options, rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, as Markdown."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        splits = [key.removesuffix("_top1") for key in mine[0] if key.endswith("_top1")]
        lines += [
            f"### {data}, {options.minutes:g} minutes of training",
            "",
            "| model | parameters | img/s | epochs | " + " | ".join(splits) + " |",
            "|---" * (4 + len(splits)) + "|",
        ]
        for name in dict.fromkeys(row["model"] for row in mine):
            runs = [row for row in mine if row["model"] == name]
            cells = []
            for split in splits:
                values = [100 * row[f"{split}_top1"] for row in runs]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}")
            first = runs[0]
            lines.append(
                f"| {name} | {first['parameters'] / 1e6:.2f} M | {first['calibrated_images_per_second']:.0f} "
                f"| {first['epochs']} | " + " | ".join(cells) + " |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Runs the comparison."""
    options = tyro.cli(Options, description=__doc__)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    NAMED_SETS["fashion-mnist"] = fashion_mnist
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads, torch {torch.__version__}")
    print(table(options, run(options)))


if __name__ == "__main__":
    main()
