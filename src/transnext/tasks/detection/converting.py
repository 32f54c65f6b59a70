"""Checkpoints of detectors with our names and the released ones."""

from pathlib import Path
from typing import Literal

from transnext.models import TransNeXt
from transnext.models.checkpoint.writing import check_conversion, write_weights
from transnext.tasks.detection.released import official_names
from transnext.tasks.detection.starting import load_detector, model_args


def convert_detector(
    source: str | Path, target: str | Path, names: Literal["ours", "official"] = "ours", *, overwrite: bool = False
) -> int:
    """Writes a detector with other parameter names or in another format, and what is known of it.

    Args:
        source: A checkpoint of ours or of the released code.
        target: `.safetensors`, or `.pth` (`.pt`, `.bin`) for a torch file with the weights under "state_dict".
        names: Whose parameter names to write.
        overwrite: Whether `target` may exist.

    Returns:
        How many parameters were written.

    Raises:
        FileNotFoundError: There is no such file, or no folder for the target.
        OSError: The target cannot be written.
        ValueError: The source is no detector, it has no released names, or the target exists or has another suffix.
    """
    check_conversion(target, names, overwrite=overwrite)
    net, metadata = load_detector(source)
    weights = net.state_dict()
    if names == "official":
        if not isinstance(net.backbone.net, TransNeXt):
            raise ValueError(f"{source} is a detector on {net.backbone.name}, which has no released names")
        weights = official_names(net.detector).to_released(weights)
    said = {**metadata, "architecture": net.backbone.name, "model_args": model_args(net)}
    write_weights(target, weights, said, overwrite=overwrite, below="state_dict")
    return len(weights)
