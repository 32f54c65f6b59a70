"""Checkpoints of detectors and segmenters with our names and the released ones."""

from pathlib import Path
from typing import Literal

from transnext.models import TransNeXt
from transnext.models.checkpoint.writing import check_conversion, write_weights
from transnext.tasks.task import task_class


def convert_task(
    source: str | Path,
    target: str | Path,
    names: Literal["ours", "official"] = "ours",
    *,
    task: str,
    overwrite: bool = False,
) -> int:
    """Writes a network of a head on a backbone with other parameter names or in another format, and what it says.

    Args:
        source: A checkpoint of ours or of the released code.
        target: `.safetensors`, or `.pth` (`.pt`, `.bin`) for a torch file with the weights under "state_dict".
        names: Whose parameter names to write.
        task: Name of its task.
        overwrite: Whether `target` may exist.

    Returns:
        How many parameters were written.

    Raises:
        FileNotFoundError: There is no such file, or no folder for the target.
        OSError: The target cannot be written.
        ValueError: The source is no such network, it has no released names, or the target exists or has another suffix.
    """
    check_conversion(target, names, overwrite=overwrite)
    heads = task_class(task).heads()
    net, metadata = heads.load(source)
    weights = net.state_dict()
    if names == "official":
        if not isinstance(net.backbone.net, TransNeXt):
            raise ValueError(f"{source} is a {heads.kind} on {net.backbone.name}, which has no released names")
        weights = heads.official(heads.name_of(net)).to_released(weights)
    said = {**metadata, "architecture": net.backbone.name, "model_args": heads.model_args(net)}
    write_weights(target, weights, said, overwrite=overwrite, below="state_dict")
    return len(weights)
