"""Optimiser, schedule, loss and batch mixing of a configuration; the parts are timm's, torchvision's and PyTorch's."""

from collections.abc import Callable

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torchvision.transforms import v2

from transnext.engine.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW that does not decay biases, norms and what the model names in `no_weight_decay()`."""
    no_decay: set[str] = getattr(model, "no_weight_decay", set)()
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=no_decay)
    return torch.optim.AdamW(groups, lr=config.lr)


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, updates_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then a cosine down to `min_lr`; call `step_update(n)` before update `n`."""
    total = config.epochs * updates_per_epoch
    warmup = min(round(config.warmup_epochs * updates_per_epoch), total // 5)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, total - warmup),
        lr_min=config.min_lr,
        warmup_t=warmup,
        warmup_lr_init=config.warmup_lr,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def make_mixer(config: TrainConfig, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Mixes a batch: images `[B, C, H, W]` and classes `[B]` in, images and targets out.

    Targets are class probabilities `[B, classes]` where the batch was mixed, and classes `[B]` where not.
    """
    mixers: list[nn.Module] = []
    if config.mixup > 0:
        mixers.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
    if config.cutmix > 0:
        mixers.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
    if not mixers or config.mix_prob == 0 or num_classes < 2:
        return lambda images, targets: (images, targets)
    one_of = v2.RandomChoice(mixers)

    def mix(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if torch.rand(()) >= config.mix_prob:
            return images, targets
        mixed: tuple[Tensor, Tensor] = one_of(images, targets)
        return mixed

    return mix
