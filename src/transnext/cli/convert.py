"""`transnext convert`: checkpoints between the released names and ours, and between torch files and safetensors."""

from pathlib import Path
from typing import Literal


def convert(
    source: Path,
    target: Path,
    /,
    *,
    names: Literal["ours", "official"] = "ours",
    backbone: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint with other parameter names or in another format.

    Args:
        source: Checkpoint to read: a torch file or safetensors, with released names or ours, of a classifier, a
            detector, a segmenter, or of another dense model, whose backbone is taken.
        target: File to write; its suffix, .safetensors or .pth, decides the format.
        names: Parameter names to write: ours, or official for the released code.
        backbone: Of a detector or segmenter, too, take the backbone alone.
        overwrite: Replace the target if it exists.

    Raises:
        FileNotFoundError: There is no such file, or no folder for the target.
        ValueError: The source cannot be read, or the target exists or has another suffix.
    """
    from transnext.models.checkpoint import convert_checkpoint
    from transnext.models.checkpoint.writing import check_conversion
    from transnext.tasks.converting import convert_task
    from transnext.tasks.released import task_of_file
    from transnext.tasks.task import task_class

    check_conversion(target, names, overwrite=overwrite)
    whose = names.replace("ours", "our")
    task = None if backbone else task_of_file(source)
    if task is not None:
        number = convert_task(source, target, names, task=task, overwrite=overwrite)
        print(f"{target}: {number} parameters of a {task_class(task).heads().kind} with {whose} names")
        return
    checkpoint = convert_checkpoint(source, target, names, overwrite=overwrite)
    print(f"{target}: {len(checkpoint.state_dict)} parameters with {whose} names")
    if checkpoint.dropped:
        parts = sorted({key.split(".")[0] for key in checkpoint.dropped})
        print(f"left out {len(checkpoint.dropped)} tensors that are not the backbone's parameters: {', '.join(parts)}")
