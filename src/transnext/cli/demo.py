"""Train a small model on what is bundled, and look at what it can do."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from transnext.cli.process import keep_freed_memory
from transnext.config import TrainConfig

SHOWN = {"val": 3, "shift": 3}
"""Scenes of each split that the detector is asked about."""


def detect(output: Path = Path("runs/demo_detect")) -> None:
    """Train a detector on scenes of the bundled drawings, in three minutes on two cores, and let it answer.

    Args:
        output: Run folder; an earlier demo in it is replaced.
    """
    from transnext.engine.trainer import train

    start = time.perf_counter()
    keep_freed_memory()
    config = demo_config(output)
    _clear(output, config)
    result = train(config)
    if result.signal is not None:
        sys.exit(128 + result.signal)
    console = Console(soft_wrap=True, highlight=False)
    console.print("\nScenes that it has never seen:")
    for line in answered(output):
        console.print(f"  {line}", markup=False)
    console.print(f"\n{time.perf_counter() - start:.0f} s. Look at {result.report}", markup=False)


def demo_config(output: Path) -> TrainConfig[Any]:
    """What the demo trains: a small Mask R-CNN on the bundled backbone.

    Args:
        output: Run folder.
    """
    return TrainConfig.of(
        task="detection",
        data="scenes",
        model="transnext_pico.emoji",
        pretrained=True,
        output=str(output),
        detector="mask_rcnn",
        head_size="small",
        image_size=192,
        fit="shortest",
        max_detections=20,
        epochs=3,
        batch_size=4,
        lr=1.5e-3,
        seed=1,
    )


def answered(run: Path) -> Iterator[str]:
    """Asks a detector about some scenes.

    Args:
        run: Its run folder.

    Yields:
        Two lines for each: what is in it, and what is found.
    """
    from transnext.data.detection import open_detection
    from transnext.predict import Detector

    detector = Detector(run)
    splits = open_detection("scenes")
    for split, number in SHOWN.items():
        source = splits[split]
        for index in range(len(source))[:: max(1, len(source) // number)][:number]:
            there = Counter(source.classes[label] for label in source.target(index).labels.tolist())
            yield f"{source.name(index)}: {', '.join(f'{count} {name}' for name, count in there.most_common())}"
            yield f"  found: {detector(source.load(index))[0].text()}"


def _clear(folder: Path, config: TrainConfig[Any]) -> None:
    """Removes an earlier run of the same demo, and nothing else."""
    from transnext.engine.run_folder import RunFolder

    file = RunFolder(folder).config_file
    if file.exists() and TrainConfig.load(file).but(output=config.output) == config:
        shutil.rmtree(folder)
