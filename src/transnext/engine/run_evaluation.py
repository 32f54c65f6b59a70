"""Evaluation within a training run: by all its processes, each with a share of the images, until a signal comes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from transnext.config import TrainConfig
from transnext.data import Batch, Source, collate
from transnext.data.preprocessing import Preprocessing
from transnext.engine.batching import Batching
from transnext.engine.display import Display
from transnext.engine.distributed import gather
from transnext.engine.eval_loop import evaluate
from transnext.engine.loader import EvalLoader, eval_loader
from transnext.engine.signals import STOP_SIGNALS, Stopped, StopRequest
from transnext.tasks.task import Result, Task

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """The splits of a run, and how the model is evaluated on them.

    Attributes:
        task: What is asked of the model.
        splits: The images by split.
        preprocessing: What the model's images must look like.
        config: The run.
        batching: How its batches are divided; an evaluation has no gradients and takes twice as many images at once.
        accelerator: Processes, device.
        display: Where progress is shown.
        stop: Ends an evaluation.

    Raises:
        ValueError: The images of a split cannot be read in the way that is asked for.
    """

    task: Task
    splits: Mapping[str, Source]
    preprocessing: Preprocessing
    config: TrainConfig
    batching: Batching
    accelerator: Accelerator
    display: Display
    stop: StopRequest

    def __post_init__(self) -> None:
        """Makes every loader once: what it lacks is said before the training."""
        for split in self.splits:
            self._loader(split)

    def run(self, split: str, model: nn.Module) -> Result:
        """Evaluates a model on a split. All processes must call it.

        Raises:
            Stopped: A process was asked to stop.
        """
        loader = self._loader(split)
        with self.display.bar(f"evaluating {split}", len(loader.images) // self.accelerator.num_processes) as bar:
            result: Result = evaluate(
                self.task,
                model,
                self._until_stopped(loader),
                self.preprocessing,
                split=split,
                source=self.splits[split],
                device=self.accelerator.device,
                autocast_dtype=_AUTOCAST[self.config.run.precision],
                on_batch=bar.advance,
                gather=self._gather_unless_stopped,
            )
        return result

    def _loader(self, split: str) -> EvalLoader:
        return eval_loader(
            self.task.images(self.splits[split], self.preprocessing),
            2 * self.batching.micro_batch_size,
            self.config.images.workers,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            timeout=self.config.images.worker_timeout,
            collate=partial(collate, targets=self.task.collate),
        )

    def _until_stopped(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.stop.received is not None:
                return
            yield batch

    def _gather_unless_stopped(self, state: Any) -> list[Any]:
        parts = gather((state, self.stop.received))
        received = {number for _, number in parts}
        for number in STOP_SIGNALS:
            if number in received:
                raise Stopped(number)
        return [part for part, _ in parts]
