"""One update of the weights: some forward and backward passes, and a step of the optimiser."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from transnext.config import TrainConfig
from transnext.data import Batch
from transnext.engine.batching import Batching
from transnext.engine.signals import STOP_SIGNALS, StopRequest
from transnext.tasks.task import Losses, Objective


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """What an update gave, over all processes.

    Attributes:
        images: Images that could be read.
        weight: What the sums below are sums over: images, boxes or pixels.
        parts: Sums of the losses by name.
        seen: More sums by name, for example of recognised images, before the update and as far as mixed ones can be.
        not_finite: "" if the weights were changed, or what was not finite: "loss" or "gradient".
        indices: Places in the data set of the images that this process saw.
        stop: The signal that asked one of the processes to end the run, or None.
    """

    images: int
    weight: float
    parts: dict[str, float]
    seen: dict[str, float]
    not_finite: str
    indices: list[int]
    stop: int | None


class Updater:
    """Makes updates.

    Whatever is random in a forward pass is a function of the seed, the number of the update, that of the pass within
    it and that of the process, so no state of a generator needs to be kept.

    Args:
        config: Loss, clipping, seed.
        batching: How a batch is divided.
        accelerator: For precision, gradients of several processes, and accumulation.
        model: The objective as the accelerator prepared it.
        objective: The objective itself.
        optimizer: As the accelerator prepared it.
        ema: Average of the weights, or None.
        stop: What signals this process got, to be told to the others.
    """

    def __init__(
        self,
        config: TrainConfig,
        batching: Batching,
        accelerator: Accelerator,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        ema: ModelEmaV3 | None,
        stop: StopRequest,
    ) -> None:
        self.config = config
        self.batching = batching
        self.accelerator = accelerator
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.ema = ema
        self.stop = stop

    def __call__(self, batches: Iterator[Batch], update: int) -> UpdateResult:
        """Takes the batches of one update and changes the weights, unless the loss or gradient is not finite.

        Args:
            batches: Micro-batches of this process.
            update: Number of the update in the whole run, from 0.
        """
        device = self.accelerator.device
        totals: Tensor | None = None
        # A forward pass changes the statistics of batch norm, which an update that is left out must not.
        buffers = list(self.objective.buffers()) if self.config.run.nan == "skip" else []
        before = [buffer.clone() for buffer in buffers]
        parts: list[str] = []
        indices: list[int] = []
        for micro in range(self.batching.accumulation):
            batch = next(batches)
            indices += batch.indices.tolist()
            torch.manual_seed(self._seed(update, micro))
            losses = self._forward_backward(batch)
            parts, seen = list(losses.parts), list(losses.seen)
            sums = torch.stack(
                [t.detach().float() for t in (losses.weight, *losses.parts.values(), *losses.seen.values())]
            )
            readable = torch.tensor([float(len(batch.images))], device=device)
            sums = torch.cat([readable, sums * (readable > 0)])
            totals = sums if totals is None else totals + sums
        assert totals is not None
        wishes = torch.tensor([self.stop.received == number for number in STOP_SIGNALS], device=device)
        totals = self.accelerator.reduce(torch.cat([totals, wishes.float()]), "sum")
        # The only time that a GPU is waited for: no NaN may reach the weights, and so none reaches a checkpoint.
        images, weight, *values = totals.tolist()
        loss_sums = dict(zip(parts, values, strict=False))
        not_finite = "" if math.isfinite(sum(loss_sums.values())) else "loss"
        if images and not not_finite:
            not_finite = self._step(weight, update)
        elif self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients(self.optimizer)
            self.accelerator.scaler.update()
        self.optimizer.zero_grad()
        if not_finite:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        stop_counts = values[len(parts) + len(seen) :]
        return UpdateResult(
            images=int(images),
            weight=weight,
            parts=loss_sums,
            seen=dict(zip(seen, values[len(parts) :], strict=False)),
            not_finite=not_finite,
            indices=indices,
            stop=next((number for number, count in zip(STOP_SIGNALS, stop_counts, strict=True) if count), None),
        )

    def _forward_backward(self, batch: Batch) -> Losses:
        """Adds to the gradients."""
        device = self.accelerator.device
        readable = len(batch.images) > 0
        if readable:
            images, sizes, targets = (
                batch.images.to(device, non_blocking=True),
                batch.sizes.to(device, non_blocking=True),
                batch.targets.to(device, non_blocking=True),
            )
        else:
            # Nothing could be read. The other processes still wait for a gradient: that of nothing.
            images, sizes, targets = self.objective.blank(device)
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                losses: Losses = self.model(images, sizes, targets)
            # Accumulation and DDP each take a mean, which divides by the images of the update; what the sums are really
            # to be divided by is known when all are done.
            total = torch.stack(list(losses.parts.values())).sum() * readable
            self.accelerator.backward(total / self.batching.micro_batch_size)
        return losses

    def _step(self, weight: float, update: int) -> str:
        """Clips the gradient and changes the weights; "gradient" if it is not finite and nothing was changed."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if weight not in (self.batching.batch_size, 0):
            # Some could not be read, or the sums are not over images.
            torch._foreach_mul_(gradients, self.batching.batch_size / weight)
        scaler = self.accelerator.scaler
        norm = self._clip(gradients)
        # With a scaler, a gradient that is too large for fp16 is usual: it leaves the update out and scales less.
        if scaler is None and not math.isfinite(float(norm)):
            return "gradient"
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.objective.net, step=update + 1)
        return ""

    def _clip(self, gradients: list[Tensor]) -> Tensor:
        if self.config.optim.clip_grad > 0:
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_grad)
        else:
            norm = nn.utils.get_total_norm(gradients)
        whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return whole

    def _seed(self, update: int, micro: int) -> int:
        entropy = (self.config.seed, update, micro, self.accelerator.process_index)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
