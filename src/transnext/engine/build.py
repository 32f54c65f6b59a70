"""What a configuration stands for: model, training images, accelerator."""

import math
from collections.abc import Mapping
from typing import Any

import timm
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    ProjectConfiguration,
)
from torch import nn

from transnext.config import TrainConfig
from transnext.data import ImageSource, LabelledImages, min_side_for, train_transform
from transnext.engine.batching import Batching
from transnext.engine.device import pick_device
from transnext.engine.distributed import join_restarted_group
from transnext.engine.loader import EpochLoader, train_loader
from transnext.engine.optim import freeze_stages
from transnext.engine.run_folder import RunFolder
from transnext.engine.trackers import require_tracker
from transnext.models import TransNeXt
from transnext.models.checkpoint import load_checkpoint, read_checkpoint
from transnext.models.variants import PRETRAIN_SIZES
from transnext.tasks.classification.build import Preprocessing, create

_SHARD_PARAMETERS = 1_000_000
"""Modules of models other than ours are sharded by themselves when they have more parameters."""


def build_model(config: TrainConfig, num_classes: int, saved_args: Mapping[str, Any] | None = None) -> nn.Module:
    """The classifier to train, with its initial weights, some of them frozen as the configuration says.

    Args:
        config: What to build.
        num_classes: Classes.
        saved_args: Arguments of a model whose weights will be loaded later; the initial weights are then random.

    Raises:
        ValueError: There is no such model, or it cannot do what is asked of it.
        FileNotFoundError: The checkpoint is not there.
    """
    args: dict[str, Any] = {
        "num_classes": num_classes,
        "drop_path_rate": config.start.drop_path,
        "drop_rate": config.start.dropout,
    }
    ours = config.model.startswith("transnext_")
    if saved_args is not None:
        model = create(config.model, {**args, **saved_args})
    else:
        if ours and config.images.image_size is not None:
            args["img_size"] = config.images.image_size
        if ours and config.start.checkpoint is not None:
            args["pretrain_size"] = _pretrain_size(config.start.checkpoint, config.model)
        model = create(config.model, args, pretrained=config.start.pretrained)
        if config.start.checkpoint is not None:
            load_checkpoint(model, config.start.checkpoint, new_head=True)
    freeze_stages(model, config.start.freeze_stages)
    if config.run.grad_checkpointing:
        recompute = getattr(model, "set_grad_checkpointing", None)
        if recompute is None:
            raise ValueError(f"{config.model} cannot recompute its activations: leave out --grad-checkpointing")
        recompute()
    return model


def train_images(config: TrainConfig, source: ImageSource, preprocessing: Preprocessing) -> LabelledImages:
    """The training images with their random transform."""
    transform = train_transform(
        preprocessing.input_size,
        preprocessing.mean,
        preprocessing.std,
        preprocessing.interpolation,
        crop_scale=config.images.crop_scale,
        hflip=config.images.hflip,
        auto_augment=config.images.auto_augment or None,
        color_jitter=config.images.color_jitter,
        erasing_prob=config.task.erasing,
    )
    return LabelledImages(
        source, transform, min_side_for(preprocessing.input_size, math.sqrt(config.images.crop_scale[0]))
    )


def build_loader(
    config: TrainConfig, images: LabelledImages, batching: Batching, accelerator: Accelerator
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
        balanced=config.task.balanced,
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
            auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["Block"], **options
        )
    return FullyShardedDataParallelPlugin(
        auto_wrap_policy="size_based_wrap", min_num_params=_SHARD_PARAMETERS, **options
    )


def _pretrain_size(checkpoint: str, name: str) -> Any:
    """The resolution that the weights of a checkpoint were pre-trained at, whatever size they are to be tuned at."""
    saved = read_checkpoint(checkpoint).metadata.get("model_args") or {}
    config = timm.get_pretrained_cfg(name)
    return saved.get("pretrain_size") or PRETRAIN_SIZES.get(name) or (config and config.input_size[-2:])
