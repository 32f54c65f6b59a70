"""Weights into files, which are there whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from transnext.atomic import check_writable, naming, replacing
from transnext.models.checkpoint.guessing import looks_like
from transnext.models.checkpoint.reading import METADATA_KEY, Checkpoint, CheckpointError, read_checkpoint
from transnext.models.official import ours_to_official


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes weights as safetensors, so that the file is there whole or not at all.

    Args:
        path: The file; one that exists is replaced.
        state_dict: Parameters by name.
        metadata: What `read_checkpoint` is to give back; anything that JSON can hold. For `model_from_checkpoint`,
            `architecture` and `model_args`, the arguments of `timm.create_model`.
    """
    # One entry: safetensors writes several in any order, and then the same weights would give different files.
    with replacing(path) as temporary:
        save_file(_savable(state_dict), temporary, metadata={METADATA_KEY: json.dumps(metadata)})


def convert_checkpoint(
    source: str | Path, target: str | Path, names: Literal["ours", "official"] = "ours", *, overwrite: bool = False
) -> Checkpoint:
    """Writes the TransNeXt in a file with other parameter names or in another format. Metadata goes along.

    Args:
        source: As for `read_checkpoint`.
        target: `.safetensors`, or `.pth` (`.pt`, `.bin`) for a torch file with the weights under "model", as the
            released code reads them.
        names: Whose parameter names to write.
        overwrite: Whether `target` may exist.

    Returns:
        What was read. `dropped` says what of a dense model was left out.

    Raises:
        FileNotFoundError: There is no such file, or no folder for the target.
        OSError: The target cannot be written.
        CheckpointError: The source cannot be read or is no TransNeXt, or the target exists or has another suffix.
    """
    check_conversion(target, names, overwrite=overwrite)
    checkpoint = read_checkpoint(source)
    if checkpoint.layout == "other":
        raise CheckpointError(f"{source}: {looks_like(checkpoint.state_dict)}")
    weights = checkpoint.state_dict
    if names == "official":
        weights = {ours_to_official(key): tensor for key, tensor in weights.items()}
    write_weights(target, weights, _of_backbone(checkpoint.metadata), overwrite=overwrite)
    return checkpoint


def _of_backbone(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is to be said of the backbone of a detector or segmenter of ours; of a classifier all that was said."""
    args = metadata.get("model_args")
    if not isinstance(args, dict) or not isinstance(args.get("backbone"), dict):
        return metadata
    own = {name: value for name, value in args["backbone"].items() if name != "strides"}
    return {"architecture": metadata.get("architecture"), "model_args": {**own, "num_classes": 0}}


def check_conversion(target: str | Path, names: str, *, overwrite: bool) -> None:
    """Refuses a file that cannot be written, or names that there are not, before the work.

    Raises:
        FileNotFoundError: There is no folder for it.
        CheckpointError: It exists, or it has another suffix than those of weights.
    """
    target = Path(target)
    if names not in ("ours", "official"):
        raise CheckpointError(f"names is {names!r}: expected 'ours' or 'official'")
    if target.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise CheckpointError(f"{target}: the suffix decides the format, use .safetensors or .pth")
    _check_target(target, overwrite)


def write_weights(
    target: str | Path,
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
    below: str = "model",
) -> None:
    """Writes weights as safetensors or a torch file, by the suffix; see `convert_checkpoint`.

    Args:
        target: The file.
        weights: By name.
        metadata: What the file says of them.
        overwrite: Whether it may exist.
        below: Key of the weights in a torch file.

    Raises:
        OSError: It cannot be written.
        CheckpointError: It exists.
    """
    target = Path(target)
    _check_target(target, overwrite, sum(t.nbytes for t in weights.values()))
    with naming(target):
        if target.suffix == ".safetensors":
            save_checkpoint(target, weights, metadata)
        else:
            with replacing(target) as temporary:
                torch.save({below: _savable(weights), METADATA_KEY: json.dumps(metadata)}, temporary)


def _check_target(target: Path, overwrite: bool, num_bytes: int = 0) -> None:
    try:
        check_writable(target, overwrite=overwrite, num_bytes=num_bytes)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _savable(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that own their memory: neither format stores views well."""
    tensors: dict[str, Tensor] = {}
    owners: set[int] = set()
    for key, value in state_dict.items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes or tensor.data_ptr() in owners:
            tensor = tensor.clone()
        owners.add(tensor.data_ptr())
        tensors[key] = tensor
    return tensors
