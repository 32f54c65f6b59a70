"""Trains detectors with one process and with two, for `test_detection_task.py`; nothing in them is left to chance.

Python files of tests cannot import one another from here: the launcher of the engine's own test is read from its path.
"""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import torch

from transnext.config import TrainConfig
from transnext.engine import trainer
from transnext.tasks.detection.d_fine import SIZES as D_FINE_SIZES
from transnext.tasks.detection.dino.model import SIZES as DINO_SIZES
from transnext.tasks.detection.mask_rcnn.model import PRESETS

ENGINE_DRIVER = Path(__file__).parents[2] / "engine" / "distributed_driver.py"


def main(files: list[str]) -> None:
    torch.set_num_threads(1)
    launch = runpy.run_path(str(ENGINE_DRIVER))["launch"]
    trainer.write_report = lambda *_: None  # takes longer than the training
    # All candidates are trained on, and denoising is a single group without noise.
    PRESETS["small"] = replace(PRESETS["small"], anchor_samples=10**6, roi_samples=10**6)
    DINO_SIZES["small"] = replace(DINO_SIZES["small"], dn_queries=1, label_noise=0.0, box_noise=0.0)
    D_FINE_SIZES["small"]["num_denoising"] = 0
    for file in files:
        config = TrainConfig.load(Path(file))
        for processes in (1, 2):
            launch(config.but(output=f"{config.output}_{processes}"), processes)


if __name__ == "__main__":
    main(sys.argv[1:])
