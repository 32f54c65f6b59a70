"""Task, network, training images and accelerator of a configuration."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    ProjectConfiguration,
)
from torch import nn

from transnext.config import TrainConfig
from transnext.data import LabelledImages, Source, collate
from transnext.engine.batching import Batching
from transnext.engine.device import pick_device
from transnext.engine.distributed import join_restarted_group
from transnext.engine.loader import EpochLoader, train_loader
from transnext.engine.optim import freeze_stages
from transnext.engine.run_folder import RunFolder
from transnext.engine.trackers import require_tracker
from transnext.models import TransNeXt
from transnext.tasks.task import Task, task_class

_SHARD_PARAMETERS = 1_000_000
"""Modules of models other than ours are sharded by themselves when they have more parameters."""


def open_task(config: TrainConfig[Any]) -> tuple[Task, dict[str, Source]]:
    """The task of a configuration, and its images by split.

    Raises:
        FileNotFoundError: They are not there.
        ValueError: The images do not allow what is asked for.
    """
    task, sources = task_class(config.task_name).open(config)
    if "train" not in sources:
        raise ValueError(
            f"{config.data} has no images to train on, only those of {', '.join(sources)}: name the others, too"
        )
    if config.run.patience and "val" not in sources:
        raise ValueError(f"patience is {config.run.patience}, but {config.data} has no split val to judge by: use 0")
    return task, sources


def build_net(task: Task, config: TrainConfig[Any], saved_args: Mapping[str, Any] | None = None) -> nn.Module:
    """The network of a task, some of its weights frozen as the configuration says.

    Args:
        task: What it is for.
        config: What to build.
        saved_args: As in `Task.build`.

    Raises:
        ValueError: It cannot do what is asked of it.
    """
    net = task.build(config, saved_args)
    freeze_stages(net, config.start.freeze_stages)
    if config.run.grad_checkpointing:
        recompute = getattr(net, "set_grad_checkpointing", None)
        if recompute is None:
            raise ValueError(f"{config.model} cannot recompute its activations: leave out --grad-checkpointing")
        recompute()
    return net


def build_loader(
    task: Task, config: TrainConfig[Any], images: LabelledImages, batching: Batching, accelerator: Accelerator
) -> EpochLoader:
    """The training batches of this process.

    Raises:
        ValueError: The images cannot be read in the way that is asked for.
    """
    return train_loader(
        images,
        batch_size=batching.micro_batch_size,
        seed=config.seed,
        workers=config.images.workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        timeout=config.images.worker_timeout,
        repeats=config.images.repeats,
        balance=task.balance(images.source, config),
        draw_weights=task.draw_weights(images.source, config),
        collate=partial(collate, targets=task.collate),
        pin_memory=accelerator.device.type == "cuda",
    )


def build_accelerator(config: TrainConfig, folder: RunFolder, model: nn.Module) -> Accelerator:
    """Accelerate for the device, precision, strategy and tracker of a configuration.

    Raises:
        ValueError: They do not go together or are not there.
    """
    device = pick_device(config.run.device)
    on_cpu = device.type == "cpu"
    if config.run.precision == "fp16" and on_cpu:
        raise ValueError("precision is 'fp16', which needs a GPU: use --precision bf16 or fp32 on the CPU")
    if config.run.strategy == "fsdp" and config.task_name != "classification":
        raise ValueError(f"strategy 'fsdp' shards classifiers, and this is {config.task_name}: use --strategy ddp")
    if config.run.strategy == "fsdp" and config.optim.ema > 0:
        raise ValueError(
            f"ema is {config.optim.ema}, which strategy 'fsdp' does not have: use --strategy ddp or --ema 0"
        )
    if config.run.strategy == "fsdp" and config.optim.optimizer == "muon":
        raise ValueError(
            "strategy 'fsdp' shards matrices, which muon needs whole: use --strategy ddp or --optimizer adamw"
        )
    require_tracker(config.run.tracker)
    join_restarted_group(device)
    sharding = _sharding(model) if config.run.strategy == "fsdp" else None
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if config.run.precision == "fp32" else config.run.precision,
        # An epoch of ours ends with a whole update.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        fsdp_plugin=sharding,
        log_with=None if config.run.tracker == "none" else config.run.tracker,
        project_config=ProjectConfiguration(project_dir=str(folder.path), logging_dir=str(folder.tensorboard)),
        step_scheduler_with_optimizer=False,
    )
    if sharding is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # PyTorch shards on CPUs as well; accelerate only does not offer it.
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = sharding
    return accelerator


def _sharding(model: nn.Module) -> FullyShardedDataParallelPlugin:
    options: dict[str, Any] = {"fsdp_version": 2, "cpu_ram_efficient_loading": False}
    if isinstance(model, TransNeXt):
        return FullyShardedDataParallelPlugin(
            auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["FastBlock"], **options
        )
    return FullyShardedDataParallelPlugin(
        auto_wrap_policy="size_based_wrap", min_num_params=_SHARD_PARAMETERS, **options
    )
