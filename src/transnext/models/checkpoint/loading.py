"""Weights into a model that is there, or into one built for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import timm
from torch import Tensor, nn

from transnext.models.checkpoint.fitting import FIRST_CONV, count_classes, fit, unwrap
from transnext.models.checkpoint.guessing import guess_variant, looks_like, some
from transnext.models.checkpoint.reading import Checkpoint, CheckpointError, read_checkpoint, read_tensors
from transnext.models.official import adapt_official_keys, backbone_prefix, is_official

SOURCE_ARGS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable"}
"""Arguments of `timm.create_model` that a checkpoint has no business to set: they make it read other files."""


def load_checkpoint(model: nn.Module, path: str | Path, *, new_head: bool = False) -> Checkpoint:
    """Loads a file into a model, strictly: every parameter must be there with its shape, and no other.

    A classifier in the file is left out if the model has none; so are stages that a feature extractor has cut off.

    Args:
        model: A TransNeXt, timm's feature wrapper around one, or a model that contains one; or another model, with
            its own parameter names.
        path: As for `read_checkpoint`.
        new_head: Keep the model's classifier as it is if that of the file does not fit, or is not there.

    Returns:
        What was read.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file cannot be read, or does not fit the model.
    """
    inside = backbone_prefix(unwrap(model).state_dict())
    if inside:
        # A dense model: its own checkpoint is wanted whole, not the backbone alone.
        tensors, metadata = read_tensors(path)
        layout: Literal["ours", "official"] = "official" if is_official(tensors) else "ours"
        adapt_official_keys(tensors, inside)
        checkpoint = Checkpoint(state_dict=tensors, metadata=metadata, layout=layout)
    else:
        checkpoint = read_checkpoint(path)
    _load(checkpoint, model, path, new_head)
    return checkpoint


def model_from_checkpoint(path: str | Path, architecture: str | None = None, **overrides: Any) -> nn.Module:
    """Builds the model that a checkpoint was saved from, and loads it strictly.

    Args:
        path: As for `read_checkpoint`.
        architecture: The variant, for a file that does not say it, as the released ones; by default the one whose
            parameters have these shapes. The number of classes and of channels is then read off the weights.
        overrides: Arguments of `timm.create_model` to use instead of those saved. With another `num_classes` the
            classifier is a new one.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file cannot be read, does not say what it holds, or does not fit what it says.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint.metadata.get("architecture")
    args: dict[str, Any] = {}
    if architecture is None or architecture == saved:
        args = checkpoint.metadata.get("model_args") or {}
        architecture = saved
    architecture = architecture or guess_variant(checkpoint.state_dict)
    if architecture != saved and checkpoint.layout != "other":
        args["num_classes"] = count_classes(checkpoint.state_dict) or 0
        if (conv := checkpoint.state_dict.get(FIRST_CONV)) is not None:
            args["in_chans"] = conv.shape[1]
    if architecture is None:
        raise CheckpointError(
            f"{path} does not say which model it holds, and its shapes are those of no variant: name it with "
            "model_from_checkpoint(path, 'transnext_...'). " + looks_like(checkpoint.state_dict)
        )
    # Names with a source ("hf-hub:...") would fetch other files; they are not models by timm's list.
    if not isinstance(architecture, str) or not timm.is_model(architecture.split(".")[0]):
        raise CheckpointError(f"{path}: no model is called {architecture!r}")
    if not isinstance(args, dict) or SOURCE_ARGS & args.keys():
        raise CheckpointError(f"{path}: model_args in its metadata is not a set of model arguments: {args!r:.100}")
    new_head = "num_classes" in overrides and overrides["num_classes"] != args.get("num_classes")
    try:
        model: nn.Module = timm.create_model(architecture, **{**args, **overrides})
    except TypeError as error:
        raise CheckpointError(f"{path}: {architecture} cannot be built from {args!r:.200} ({error})") from error
    _load(checkpoint, model, path, new_head)
    return model


def _load(checkpoint: Checkpoint, model: nn.Module, path: str | Path, new_head: bool) -> None:
    target = unwrap(model)
    fitted = fit(checkpoint.state_dict, target, source=str(path), new_head=new_head)
    target.load_state_dict(fitted, strict=not new_head)


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Loads weights that must be those of the model, name by name.

    Args:
        model: Any model.
        weights: By name.
        source: What to call them in errors.

    Raises:
        CheckpointError: One is missing, is not the model's, or has another shape.
    """
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    other = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    wrong = [
        f"{len(names)} {what} ({some(names)})"
        for what, names in (("are missing", missing), ("are unknown", unknown), ("have another shape", sorted(other)))
        if names
    ]
    if wrong:
        raise CheckpointError(f"the weights of {source} are not those of this model: {', '.join(wrong)}")
    model.load_state_dict(weights)
