"""Weights in files: reading whatever holds a TransNeXt, loading it strictly, writing and converting.

No code of a file is ever run. Files written here are safetensors with our parameter names, and a header that says how
to build the model again.
"""

from transnext.models.checkpoint.guessing import architecture_of, guess_variant
from transnext.models.checkpoint.loading import load_checkpoint, load_strictly, model_from_checkpoint
from transnext.models.checkpoint.pretrained import (
    accept_checkpoint_keys,
    checkpoint_filter_fn,
    download,
    load_pretrained_weights,
)
from transnext.models.checkpoint.reading import Checkpoint, CheckpointError, read_checkpoint, read_tensors
from transnext.models.checkpoint.writing import convert_checkpoint, save_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "accept_checkpoint_keys",
    "architecture_of",
    "checkpoint_filter_fn",
    "convert_checkpoint",
    "download",
    "guess_variant",
    "load_checkpoint",
    "load_pretrained_weights",
    "load_strictly",
    "model_from_checkpoint",
    "read_checkpoint",
    "read_tensors",
    "save_checkpoint",
]
