"""Optimiser, schedule, frozen stages and batch mixing of a configuration; the parts are timm's and torchvision's."""

from collections.abc import Callable
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from transnext.config import OptimConfig, TrainConfig
from transnext.engine.muon import Muon, with_matrices_apart


def freeze_stages(model: nn.Module, count: int) -> None:
    """Excludes the first stages and what comes before them from training, in place.

    Call it before `make_optimizer`, and train with `train_mode` instead of `model.train()`.

    Args:
        model: Any model of timm that says what its stages are. In one without stages each block counts as one.
        count: Stages, from the image on; 0 for none. With all of them only the classifier is trained.

    Raises:
        ValueError: The model has fewer stages, or does not say what they are.
    """
    if count == 0:
        return
    matcher = _layers_of(model, f"freeze_stages is {count}", coarse=True)
    if not isinstance(matcher, dict) or not {"stem", "blocks"} <= matcher.keys():
        raise ValueError(
            f"freeze_stages is {count}, but {_name(model)} does not say what its stages are: leave it at 0"
        )
    layers = group_parameters(model, {"stem": matcher["stem"], "blocks": matcher["blocks"]})
    # What no pattern matches, the classifier at least, timm counts as one more layer behind the others.
    stem = len(group_parameters(model, {"stem": matcher["stem"]})) - 1
    stages = len(layers) - 1 - stem
    if count > stages:
        raise ValueError(f"freeze_stages is {count}, but {_name(model)} has {stages} stages")
    frozen = {name for layer in range(stem + count) for name in layers[layer]}
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def train_mode(model: nn.Module) -> None:
    """`model.train()`, except that what is frozen stays in evaluation mode: no stochastic depth, no new statistics.

    Args:
        model: The model, or a wrapper around it.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or Muon over what is not frozen, without decay of biases, norms and what `no_weight_decay()` names.

    With `layer_decay` each group of parameters has an entry `lr_scale`, which the scheduler multiplies its rate with:
    1 for the classifier, `layer_decay` for the last block, its square for the one before, and so on. With `backbone_lr`
    those have it that `slow_parameters()` of the model names.

    Raises:
        ValueError: `layer_decay` is not 1 and the model does not say what its layers are.
    """
    no_decay: set[str] = getattr(model, "no_weight_decay", set)()
    if config.optim.layer_decay == 1:
        groups = _groups(model, config.optim, no_decay)
    else:
        _layers_of(model, f"layer_decay is {config.optim.layer_decay}", coarse=False)
        groups = param_groups_layer_decay(
            model, config.optim.weight_decay, no_weight_decay_list=no_decay, layer_decay=config.optim.layer_decay
        )
    if config.optim.optimizer == "muon":
        return Muon(with_matrices_apart(groups, model), lr=config.optim.lr)
    # One kernel for each parameter: on a CPU the update of a small network takes a seventh of its training otherwise.
    return torch.optim.AdamW(groups, lr=config.optim.lr, fused=True)


def _groups(model: nn.Module, config: OptimConfig, no_decay: set[str]) -> list[dict[str, Any]]:
    """Parameters by decay and by factor of the learning rate."""
    if config.backbone_lr == 1 and not config.decay_biases:
        plain: list[dict[str, Any]] = param_groups_weight_decay(
            model, config.weight_decay, no_weight_decay_list=no_decay
        )
        return plain
    slow: set[str] = getattr(model, "slow_parameters", set)() if config.backbone_lr != 1 else set()
    if config.backbone_lr != 1 and not slow:
        raise ValueError(f"backbone_lr is {config.backbone_lr}, but {_name(model)} has no backbone: leave it out")
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # As the released configurations match names, in which batch norms of heads are called "bn".
            exempt = (
                "norm" in name.replace("batch_norm", "bn")
                if config.decay_biases
                else parameter.ndim <= 1 or name.endswith(".bias")
            )
            groups.setdefault((name in slow, exempt or name in no_decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if exempt else config.weight_decay,
            "lr_scale": config.backbone_lr if is_slow else 1.0,
        }
        for (is_slow, exempt), parameters in groups.items()
    ]


class LearningRateSchedule:
    """Sets the learning rate as a function of the number of the update alone, so that going on needs no state.

    Args:
        scheduler: Course of the rate over some unit of time.
        time_of: That time at an update.
    """

    def __init__(self, scheduler: Scheduler, time_of: Callable[[int], int]) -> None:
        self.scheduler = scheduler
        self.time_of = time_of

    def step_update(self, update: int) -> float:
        """Sets the rate of an update.

        Args:
            update: Its number in the whole run, from 0.

        Returns:
            The rate; with `layer_decay` that of the classifier, which is the highest.
        """
        self.scheduler.step(self.time_of(update))
        return max(group["lr"] for group in self.scheduler.optimizer.param_groups)


def make_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainConfig, updates_per_epoch: int
) -> LearningRateSchedule:
    """Linear warm-up, then a cosine or a power down to `min_lr`, a constant or steps.

    Call `step_update(n)` before update `n`.

    With `schedule_per_epoch` it is that of the released training: the rate changes between epochs, the first two
    epochs both have the first rate, and the cosine, which counts from epoch 0, takes over in its middle. So the power
    always does.

    Args:
        optimizer: The optimiser whose rate is set.
        config: The course of the rate.
        updates_per_epoch: Updates of one epoch, all processes together.
    """
    per_epoch = config.optim.schedule_per_epoch
    unit = 1 if per_epoch else updates_per_epoch
    total = config.epochs * unit
    warmup = min(round(config.optim.warmup_epochs * unit), total // 5)
    time_of = (lambda update: max(0, update // updates_per_epoch - 1)) if per_epoch else (lambda update: update)
    begin: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": config.optim.warmup_lr}
    if config.optim.schedule == "step":
        # timm's milestones come into effect one before their time.
        milestones = sorted(epoch * unit + 1 for epoch in config.optim.milestones)
        steps = MultiStepLRScheduler(optimizer, milestones, decay_rate=0.1, warmup_prefix=False, **begin)
        return LearningRateSchedule(steps, time_of)
    if config.optim.schedule == "constant":
        return LearningRateSchedule(StepLRScheduler(optimizer, decay_t=1, decay_rate=1.0, **begin), time_of)
    if config.optim.schedule == "poly":
        poly = PolyLRScheduler(
            optimizer,
            t_initial=total,
            power=config.optim.poly_power,
            lr_min=config.optim.min_lr,
            warmup_prefix=False,
            **begin,
        )
        return LearningRateSchedule(poly, time_of)
    length = total if per_epoch else max(1, total - warmup)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=length, lr_min=config.optim.min_lr, warmup_prefix=not per_epoch, **begin
    )
    return LearningRateSchedule(scheduler, time_of)


def _layers_of(model: nn.Module, option: str, *, coarse: bool) -> Any:
    """Patterns by which parameters of a model belong to its layers, in timm's notation."""
    group_matcher = getattr(model, "group_matcher", None)
    if group_matcher is None:
        raise ValueError(f"{option}, but {_name(model)} does not say what its layers are: leave it out")
    return group_matcher(coarse=coarse)


def _name(model: nn.Module) -> str:
    return type(model).__name__
