"""A network of two blocks with a checkpoint, and files of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from transnext.data.preprocessing import Preprocessing
from transnext.models.checkpoint import save_checkpoint

MODEL_ARGS: dict[str, Any] = {
    "img_size": 32,
    "pretrain_size": 32,
    "num_classes": 3,
    "embed_dims": (8, 16),
    "num_heads": (1, 2),
    "mlp_ratios": (2, 2),
    "depths": (1, 1),
    "sr_ratios": (2, 1),
}
CLASSES = ["apples", "pears", "plüms"]
PREPROCESSING = Preprocessing(
    input_size=(3, 32, 32),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    interpolation="bilinear",
    crop_pct=0.9,
    crop_mode="center",
)


@pytest.fixture(scope="session")
def network(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return randomise(timm.create_model("transnext_pico", **MODEL_ARGS)).eval()


@pytest.fixture(scope="session")
def checkpoint(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "fruit.safetensors"
    metadata = {
        "architecture": "transnext_pico",
        "model_args": MODEL_ARGS,
        "class_names": CLASSES,
        "preprocessing": PREPROCESSING.to_dict(),
    }
    save_checkpoint(path, network.state_dict(), metadata)
    return path
