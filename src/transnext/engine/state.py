"""Weights and optimiser as plain tensors by name, however they are spread over processes."""

from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)


def whole_weights(model: nn.Module, *, everywhere: bool = False) -> dict[str, Tensor]:
    """The weights of a model. All processes must call it.

    Args:
        model: Without the wrapper of DDP; sharded or not.
        everywhere: Give sharded weights to every process instead of the main one alone.
    """
    weights: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=not everywhere)
    )
    return weights


def training_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: ModelEmaV3 | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Any]:
    """Weights, their average, and states of optimiser and loss scaler. All processes must call it.

    Args:
        model: Without the wrapper of DDP; sharded or not.
        optimizer: Of its parameters.
        ema: The average of its weights, if there is one.
        scaler: Of the loss, if there is one.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    # PyTorch would take a first step, so that there is a state.
    states = get_optimizer_state_dict(model, optimizer, options=options) if optimizer.state else None
    return {
        "model": whole_weights(model),
        "optimizer": states,
        "ema": None if ema is None else ema.module.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def load_training_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    ema: ModelEmaV3 | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Puts back what `training_state` gave, on any number of processes, sharded or not.

    Args:
        model: Without the wrapper of DDP.
        optimizer: Of its parameters.
        state: The same on every process.
        ema: The average of its weights, which begins with the weights themselves if the state has none.
        scaler: Of the loss.
    """
    options = StateDictOptions(full_state_dict=True)
    if state["optimizer"] is not None:
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
    # After the optimiser, which takes a step of no length when it has no state yet.
    set_model_state_dict(model, state["model"], options=options)
    if ema is not None:
        ema.module.load_state_dict(state["ema"] or state["model"])
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
