"""`transnext export MODEL`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from transnext.choices import OPSET

if TYPE_CHECKING:
    from transnext.export import ExportResult


def export(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    output: Path,
    format: Literal["torch", "onnx", "openvino", "hf"] | None = None,
    checkpoint: Path | None = None,
    image_size: tuple[int, ...] = (),
    fixed_size: bool = False,
    features_only: bool = False,
    out_indices: tuple[int, ...] = (),
    opset: int = OPSET,
    int8: bool = False,
    calibration: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a classifier, detector or segmenter for another runtime, and compare the file with PyTorch.

    Args:
        model: A run folder, a checkpoint, or a model name; with --checkpoint the name of its architecture.
        output: The file (.pt2, .onnx or .xml) or, for hf, the folder.
        format: torch (torch.export; for classifiers), onnx, openvino, or hf (a folder for timm and transformers, of
            detectors and segmenters for transnext); by the suffix of the output if it is not given.
        checkpoint: Weights to take instead of pretrained ones.
        image_size: Size of the images, pixels, one number or height and width; the trained one by default.
        fixed_size: Take images of that size alone, with the position bias computed beforehand; detectors always do.
        features_only: Give the maps of the stages and not logits.
        out_indices: Which stages, counted from 0; all by default.
        opset: Version of the ONNX operators; of detectors 17 to 20.
        int8: Quantise to 8-bit integers (onnx, openvino); needs --calibration.
        calibration: Images to measure ranges on for --int8: a set by name (emoji) or a folder.
        license: Licence of the weights, as an SPDX name; known for those that come by name.
        overwrite: Replace the output if it exists.
    """
    if int8 != (calibration is not None):
        raise ValueError("--int8 and --calibration DATA go together: the ranges of activations are measured on images")
    if len(image_size) > 2:
        raise ValueError(f"image_size is {image_size}: give one number, or height and width")

    from transnext.export import export_model

    result = export_model(
        model,
        output,
        format=format,
        checkpoint=checkpoint,
        image_size=None if not image_size else (image_size[0], image_size[-1]),
        fixed_size=fixed_size,
        features_only=features_only,
        out_indices=out_indices or None,
        opset=opset,
        calibration=calibration,
        license=license,
        overwrite=overwrite,
    )
    console = Console(soft_wrap=True, highlight=False)
    for line in _lines(result, opset):
        console.print(line, markup=False)


def _lines(result: "ExportResult", opset: int) -> list[str]:
    from transnext.export.checking import MAX_DIFFERENCE

    info = result.info
    height, width = info.image_size
    size = f"{height}x{width}"
    if info.size_multiple is not None:
        size += f" or any multiples of {info.size_multiple}"
    what = {
        "torch": "torch.export",
        "onnx": f"ONNX opset {opset}",
        "openvino": "OpenVINO",
        "hf": "for transnext" if info.task in ("detection", "segmentation") else "for timm and transformers",
    }
    lines = [f"{result.path}: {what[result.format]}, {info.precision}, images of {size} to {', '.join(info.outputs)}"]
    if info.task == "detection" and result.format != "hf":
        lines.append(f"  pictures: {info.preprocessing.crop_mode}; images in a call: {info.batch or 'any number'}")
    for check in result.checks:
        objects = "" if check.objects is None else f" ({check.objects} objects)"
        lines.append(
            f"  {'x'.join(map(str, check.shape)):>14}  differs from PyTorch by {check.difference:.1e}{objects}"
        )
    if info.precision == "fp32":
        lines.append(f"  allowed: {MAX_DIFFERENCE:.0e}")
    return lines + [f"  {note}" for note in result.notes]
