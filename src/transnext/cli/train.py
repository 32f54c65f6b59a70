"""`transnext train DATA`."""

import sys
from typing import Annotated

import tyro

from transnext.engine import TrainConfig
from transnext.engine import train as run_training


def train(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")],
    resume: bool = False,
) -> None:
    """Train a classifier, evaluate it on every split and write a report.

    Args:
        config: What to train, on what and how.
        resume: Go on with the run in --output from its last whole epoch.
    """
    result = run_training(config, resume=resume)
    if result.interrupted:
        sys.exit(130)
