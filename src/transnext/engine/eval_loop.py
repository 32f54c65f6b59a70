"""The one loop in which a model is asked about every image of a split."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from transnext.data import Batch, Source
from transnext.data.preprocessing import Preprocessing
from transnext.tasks.task import Result, Task

Gather = Callable[[Any], Sequence[Any]]
"""From the state of this process's meter to those of all processes, each of which saw other images of the split."""


@torch.inference_mode()
def evaluate(
    task: Task,
    net: nn.Module,
    batches: Iterable[Batch],
    preprocessing: Preprocessing,
    *,
    split: str = "val",
    source: Source | None = None,
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    on_batch: Callable[[int], None] | None = None,
    gather: Gather | None = None,
) -> Any:
    """Evaluates a model on every image of a split once.

    Args:
        task: What is asked of it.
        net: It is put into evaluation mode and left in the mode it was in.
        batches: The images of the split, in any order.
        preprocessing: What the net's images must look like.
        split: Name of the split, for the result.
        source: The images, for their names; places are told where there is none.
        device: Where the net is.
        autocast_dtype: Dtype of autocast; None for none.
        on_batch: Called with the number of images after each batch.
        gather: Called once with what this process found, to give what all did; it must not repeat an image.

    Returns:
        The `Result` of the task.

    Raises:
        ValueError: No image of the split could be read.
    """
    was_training = net.training
    net.eval()
    device = torch.device(device)
    meter = task.meter(source)
    rates: list[float] = []
    for batch in batches:
        meter.skipped += batch.skipped
        if len(batch.images):
            start = time.perf_counter()
            with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
                raw = task.judged(net, batch, preprocessing, device)
            # What is made one by one is made while the meter takes it.
            late = isinstance(raw, Iterator)
            seconds = 0.0 if late else _seconds_since(start, device)
            meter.add(raw, batch)
            rates.append(len(batch.images) / (_seconds_since(start, device) if late else seconds))
        if on_batch is not None:
            on_batch(len(batch.images))
    net.train(was_training)
    if gather is not None:
        meter.merge(gather(meter.state()))
    result: Result = meter.result(
        split, str if source is None else source.name, statistics.median(rates) if rates else None
    )
    return result


def _seconds_since(start: float, device: torch.device) -> float:
    """Seconds until all that was asked of a device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start
