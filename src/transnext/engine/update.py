"""One update of the weights: some forward and backward passes, and a step of the optimiser."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from transnext.config import TrainConfig
from transnext.data import Batch
from transnext.engine.batching import Batching
from transnext.engine.signals import STOP_SIGNALS, StopRequest


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """What an update gave, over all processes.

    Attributes:
        images: Images that could be read.
        loss_sum: Sum of their losses.
        correct: How many of them were recognised, before the update and as far as mixed ones can be.
        not_finite: "" if the weights were changed, or what was not finite: "loss" or "gradient".
        indices: Places in the data set of the images that this process saw.
        stop: The signal that asked one of the processes to end the run, or None.
    """

    images: int
    loss_sum: float
    correct: int
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
        model: As the accelerator prepared it.
        optimizer: As the accelerator prepared it.
        mix: Mixes images and targets of a batch.
        ema: Average of the weights, or None.
        image_shape: `(channels, H, W)` of what the model is given.
        stop: What signals this process got, to be told to the others.
    """

    def __init__(
        self,
        config: TrainConfig,
        batching: Batching,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        ema: ModelEmaV3 | None,
        image_shape: tuple[int, int, int],
        stop: StopRequest,
    ) -> None:
        self.config = config
        self.batching = batching
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.mix = mix
        self.ema = ema
        self.image_shape = image_shape
        self.stop = stop

    def __call__(self, batches: Iterator[Batch], update: int) -> UpdateResult:
        """Takes the batches of one update and changes the weights, unless the loss or gradient is not finite.

        Args:
            batches: Micro-batches of this process.
            update: Number of the update in the whole run, from 0.
        """
        device = self.accelerator.device
        totals = torch.zeros(3, device=device)
        indices: list[int] = []
        for micro in range(self.batching.accumulation):
            batch = next(batches)
            indices += batch.indices.tolist()
            torch.manual_seed(self._seed(update, micro))
            totals += self._forward_backward(batch)
        wishes = torch.tensor([self.stop.received == number for number in STOP_SIGNALS], device=device)
        totals = self.accelerator.reduce(torch.cat([totals, wishes.float()]), "sum")
        # The only time that a GPU is waited for: no NaN may reach the weights, and so none reaches a checkpoint.
        images, loss_sum, correct, *stop_counts = totals.tolist()
        not_finite = "" if math.isfinite(loss_sum) else "loss"
        if images and not not_finite:
            not_finite = self._step(images, update)
        elif self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients(self.optimizer)
            self.accelerator.scaler.update()
        self.optimizer.zero_grad()
        return UpdateResult(
            images=int(images),
            loss_sum=loss_sum,
            correct=int(correct),
            not_finite=not_finite,
            indices=indices,
            stop=next((number for number, count in zip(STOP_SIGNALS, stop_counts, strict=True) if count), None),
        )

    def _forward_backward(self, batch: Batch) -> Tensor:
        """Adds to the gradients; the number of images, the sum of losses and the number of right answers."""
        device = self.accelerator.device
        n = len(batch.images)
        images, targets = batch.images.to(device, non_blocking=True), batch.targets.to(device, non_blocking=True)
        if n == 0:
            # Nothing could be read. The other processes still wait for a gradient: that of nothing.
            images, targets = torch.zeros(1, *self.image_shape, device=device), targets.new_zeros(1)
        mixed_images, mixed_targets = self.mix(images, targets) if n else (images, targets)
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                logits = self.model(mixed_images)
            losses = F.cross_entropy(
                logits.float(), mixed_targets, label_smoothing=self.config.task.label_smoothing, reduction="none"
            )
            loss_sum = losses.sum() * (n > 0)
            # Accumulation and DDP each take a mean, which gives that over all images of the update.
            self.accelerator.backward(loss_sum / self.batching.micro_batch_size)
        correct = (logits.detach().argmax(-1) == targets).sum() * (n > 0)
        return torch.stack([torch.tensor(float(n), device=device), loss_sum.detach(), correct.float()])

    def _step(self, images: float, update: int) -> str:
        """Clips the gradient and changes the weights; "gradient" if it is not finite and nothing was changed."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if images < self.batching.batch_size:
            # Some could not be read: the mean is over those that could.
            torch._foreach_mul_(gradients, self.batching.batch_size / images)
        scaler = self.accelerator.scaler
        norm = self._clip(gradients)
        # With a scaler, a gradient that is too large for fp16 is usual: it leaves the update out and scales less.
        if scaler is None and not math.isfinite(float(norm)):
            return "gradient"
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.accelerator.unwrap_model(self.model, keep_torch_compile=False), step=update + 1)
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
