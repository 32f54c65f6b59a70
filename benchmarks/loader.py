"""How fast training images are read and augmented, from where they may lie, without a model.

    python benchmarks/loader.py --workers 0 1 2

Makes photographs as JPEG files (smooth noise, about as many bytes as real ones), in an image folder, a tar file
and a Parquet file, and reads some epochs of each in turn, at 224 pixels with the default augmentation. The first
epoch fills the cache and is not counted.
"""

import io
import json
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from transnext.config import TrainConfig
from transnext.data import ImageSource, cached, open_dataset
from transnext.data.preprocessing import Preprocessing
from transnext.engine.loader import train_loader
from transnext.tasks.classification.task import Classification

PREPROCESSING = Preprocessing(
    input_size=(3, 224, 224),
    mean=IMAGENET_DEFAULT_MEAN,
    std=IMAGENET_DEFAULT_STD,
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="center",
)
ROW_GROUP = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    images: int = 256
    """Photographs."""
    size: tuple[int, int] = (1000, 800)
    """Their width and height, pixels."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Reading processes."""
    epochs: int = 3
    """Epochs that are timed, of which the median counts."""
    output: Path | None = None
    """JSON file for the results."""


def photograph(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A JPEG file whose content is smooth with some grain, like a photograph."""
    coarse = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(coarse) + rng.normal(0, 6, (*reversed(size), 3))
    stream = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def write(root: Path, photographs: list[bytes]) -> None:
    """The same photographs in `root/folder`, `root/photos.tar` and `root/photos.parquet`."""
    with tarfile.open(root / "photos.tar", "w") as tar:
        for i, data in enumerate(photographs):
            path = root / "folder" / str(i % 2) / f"{i:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            for suffix, content in (("jpg", data), ("cls", str(i % 2).encode())):
                info = tarfile.TarInfo(f"{i:06}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    table = pa.table({"image": photographs, "label": [i % 2 for i in range(len(photographs))]})
    pq.write_table(table, root / "photos.parquet", row_group_size=ROW_GROUP)


def epoch_seconds(source: ImageSource, workers: int) -> Callable[[int], float]:
    """A function from the number of an epoch to the seconds that it takes."""
    images = Classification(metadata={"class_names": list(source.classes)}).images(
        source, PREPROCESSING, TrainConfig.of(data="", erasing=0.0)
    )
    loader = train_loader(images, batch_size=32, seed=0, workers=workers)

    def seconds(epoch: int) -> float:
        start = time.perf_counter()
        for _ in loader.epoch(epoch):
            pass
        return time.perf_counter() - start

    return seconds


def measure(options: Options, root: Path) -> list[dict[str, object]]:
    """Images per second of each place and number of workers."""
    sources = {
        name: open_dataset(root / path, 0.0)["train"]
        for name, path in {"folder": "folder", "tar": "photos.tar", "Parquet": "photos.parquet"}.items()
    }
    kinds = {
        **sources,
        "folder, cache on disk": cached(sources["folder"], root / "cache"),
        "folder, cache in memory": cached(sources["folder"], "memory"),
        "tar, cache in memory": cached(sources["tar"], "memory"),
    }
    rows: list[dict[str, object]] = []
    for workers in options.workers:
        runs = {name: epoch_seconds(source, workers) for name, source in kinds.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for epoch in range(1 + options.epochs):
            for name, run in runs.items():
                seconds[name].append(run(epoch))
        for name, times in seconds.items():
            speeds = [options.images // 32 * 32 / each for each in times[1:]]
            row = {"images": name, "workers": workers, "median": statistics.median(speeds)}
            rows.append({**row, "lowest": min(speeds), "highest": max(speeds)})
            print(f"| {name} | {workers} | {row['median']:.0f} ({min(speeds):.0f} .. {max(speeds):.0f}) |", flush=True)
    return rows


def main() -> None:
    """Measures and prints a table."""
    options = tyro.cli(Options, description=__doc__)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRANSNEXT_CACHE"] = str(Path(folder) / "user")
        photographs = [photograph(rng, options.size) for _ in range(options.images)]
        write(Path(folder), photographs)
        size = sum(map(len, photographs)) / len(photographs) / 1000
        print(f"{platform.machine()}, {os.cpu_count()} CPUs; {options.images} photographs of {size:.0f} kB\n")
        print("| images | workers | images/s (lowest .. highest) |\n|---|---|---|")
        rows = measure(options, Path(folder))
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
