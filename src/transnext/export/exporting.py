"""A model into a file of another runtime, checked before it is there."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from transnext.atomic import check_writable, naming, staged
from transnext.choices import MIN_OPSET
from transnext.export import hub_folder, onnx_file, openvino_file, torch_file
from transnext.export.checking import SizeCheck, check, shapes_to_check
from transnext.export.formats import Format, format_of, require
from transnext.export.info import ExportInfo
from transnext.export.int8 import calibration_images, quantize_onnx, quantize_openvino
from transnext.export.plain import ForExport, size_multiple
from transnext.export.program import smallest_program, trace
from transnext.export.running import ExportedModel
from transnext.limits import MAX_SIDE, check_number
from transnext.models import TransNeXt
from transnext.tasks.classification.loading import load_classifier
from transnext.tasks.opening import open_trained
from transnext.tasks.task import Loaded
from transnext.version import __version__


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A file that was written, and what is known of it.

    Attributes:
        path: The file, or the folder.
        format: Its format.
        info: What it says of itself.
        checks: How it compares with PyTorch; of an int8 file the differences are what quantisation makes.
        notes: What the file does otherwise than the model, a line each.
    """

    path: Path
    format: Format
    info: ExportInfo
    checks: tuple[SizeCheck, ...]
    notes: tuple[str, ...] = ()


def export_model(
    model: str | Path | Loaded,
    output: str | Path,
    *,
    format: Format | None = None,
    checkpoint: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    fixed_size: bool = False,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    opset: int = onnx_file.OPSET,
    calibration: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Writes a model of any task, or a backbone, for another runtime, runs the file, and compares it with PyTorch.

    The file consists of plain operators and takes any number of images, of a Mask R-CNN one. It is there if it passed
    the comparison, or not at all.

    Args:
        model: What `open_trained` takes, or a loaded `Loaded`; with `checkpoint` the name of its architecture.
        output: The file, whose suffix says the format (.pt2, .onnx, .xml), or the folder for "hf".
        format: "torch", "onnx", "openvino" or "hf"; by the suffix if None.
        checkpoint: Weights to take instead of pretrained ones.
        image_size: Size of the images, pixels, one number or `(H, W)`; the trained one by default.
        fixed_size: Take images of that size alone, for which the position bias is computed now. Without it a
            TransNeXt, and a UPerNet on one, takes all multiples of the stride of its last map; others always have a
            fixed size.
        features_only: Give the maps of the stages, NCHW, as `features_only` of timm does, and not logits.
        out_indices: Which stages; all if None.
        opset: Of ONNX; for detectors 17 to 20.
        calibration: Quantise to int8 with the images of this set or folder (OpenVINO and ONNX).
        license: Licence of the weights, as an SPDX name; for weights that come by name that of their configuration.
        overwrite: Whether the output may exist.

    Raises:
        FileNotFoundError: There is no such model, checkpoint or set, or no folder for the output.
        OSError: The output cannot be written.
        ValueError: What is asked for does not go together or cannot be had, or the file differs from PyTorch by more
            than `MAX_DIFFERENCE`.
    """
    output = Path(output)
    format = format_of(output, format)
    require(format)
    if format == "onnx":
        from onnx.defs import onnx_opset_version

        check_number("opset", opset, MIN_OPSET, onnx_opset_version())
    else:
        check_number("opset", opset, MIN_OPSET)
    if calibration is not None:
        if format not in ("onnx", "openvino"):
            raise ValueError(f"int8 is for the formats onnx and openvino, not for {format}")
        require(f"int8 for {format}")
    if out_indices is not None and not features_only:
        raise ValueError("out_indices chooses maps: add --features-only")
    if format == "hf" and (features_only or fixed_size):
        raise ValueError(
            "a hub folder holds the whole network for any size: leave out --features-only and --fixed-size; timm gives "
            "the maps of it with features_only=True"
        )
    check_writable(output, folder=format == "hf", overwrite=overwrite)
    classifier = _load(model, checkpoint)
    weights = sum(t.nbytes for t in classifier.model.state_dict().values())
    check_writable(output, folder=format == "hf", overwrite=overwrite, num_bytes=weights)
    if classifier.task.name == "detection":
        if features_only or calibration is not None:
            asked = "--int8" if calibration is not None else "--features-only"
            raise ValueError(f"{asked} is for classifiers, and {classifier.name} is a detector: leave it out")
        from transnext.export.detectors import write_detector  # imports torchvision's detectors

        info, found = write_detector(classifier, output, format, image_size=image_size, opset=opset, license=license)
        return ExportResult(path=output, format=format, info=info, checks=tuple(found))
    if classifier.task.name == "segmentation":
        if features_only or calibration is not None:
            asked = "--int8" if calibration is not None else "--features-only"
            raise ValueError(f"{asked} is for classifiers, and {classifier.name} is a segmenter: leave it out")
        from transnext.export.segmenters import WINDOWS, write_segmenter

        info, found = write_segmenter(
            classifier, output, format, image_size=image_size, fixed_size=fixed_size, opset=opset, license=license
        )
        notes: list[str] = []
        if WINDOWS[0] in classifier.task.metadata.keys() - info.metadata.keys():
            notes.append(
                f"{classifier.name} looks in windows of {classifier.task.metadata[WINDOWS[0]]} pixels, and a file for "
                "one size at pictures as a whole: what was measured in windows does not hold for it"
            )
        return ExportResult(path=output, format=format, info=info, checks=tuple(found), notes=tuple(notes))
    if classifier.task.name != "classification":
        raise ValueError(f"{classifier.name} is a model of {classifier.task.name}, which cannot be exported")
    if license is None and checkpoint is None and not _is_file(model):
        license = getattr(classifier.model, "pretrained_cfg", {}).get("license")
    if format == "hf" and getattr(classifier.model, "num_classes", 1) == 0:
        raise ValueError(
            f"{classifier.name} has no classifier, which a hub folder describes: write its maps with --features-only "
            "to a file (.onnx, .xml, .pt2)"
        )
    info = _describe(
        classifier,
        image_size=image_size,
        fixed_size=fixed_size or format == "hf",
        features_only=features_only,
        out_indices=out_indices,
        license=license,
        int8=calibration is not None,
    )
    size = info.preprocessing.input_size[1:]
    if format == "torch" and info.size_multiple is not None and min(size) < smallest_program(info.size_multiple):
        raise ValueError(
            f"images of {size[0]}x{size[1]} are too small for a .pt2 file for any size, which starts at "
            f"{smallest_program(info.size_multiple)}: add --fixed-size"
        )
    images = None if calibration is None else calibration_images(calibration, info.preprocessing)
    with staged(output) as staging:
        if format == "hf":
            with naming(output):
                hub_folder.write(classifier.model, staging, info)
            run: Callable[[Tensor], Any] = hub_folder.runner(staging)
        else:
            indices = [int(name.removeprefix("stage")) for name in info.outputs] if features_only else None
            network = ForExport(classifier.model, out_indices=indices, fixed_size=info.size_multiple is None)
            program = trace(network, info.preprocessing.input_size)
            if format == "torch":
                with naming(output):
                    torch_file.write(program, staging, info)
            elif format == "onnx":
                onnx = onnx_file.convert(program, info, opset)
                with naming(output):
                    onnx.save(staging, external_data=False)
                if images is not None:
                    quantize_onnx(staging, images, info)
            else:
                converted = openvino_file.convert(program, info)
                if images is not None:
                    converted = quantize_openvino(converted, images)
                with naming(output):
                    openvino_file.write(converted, staging, info)
            run = ExportedModel(staging)
        shapes = shapes_to_check(info.preprocessing.input_size[0], size, info.size_multiple)
        limit = {} if images is None else {"limit": math.inf}
        checks = check(run, _eager(classifier.model, info), shapes, str(output), **limit)
    return ExportResult(path=output, format=format, info=info, checks=tuple(checks))


def _load(model: str | Path | Loaded, checkpoint: str | Path | None) -> Loaded:
    if isinstance(model, Loaded):
        if checkpoint is not None:
            raise ValueError("a checkpoint is given for a model that is loaded already")
        return replace(model, model=model.model.eval())
    if checkpoint is None:
        return open_trained(model)
    if not timm.is_model(str(model).split(".")[0]):
        raise ValueError(
            f"{model} is no model name, which --checkpoint needs: give the checkpoint as MODEL and leave it out"
        )
    return load_classifier(checkpoint, architecture=str(model))


def _is_file(model: str | Path | Loaded) -> bool:
    return isinstance(model, Loaded) or Path(model).exists()


def _describe(
    classifier: Loaded,
    *,
    image_size: int | tuple[int, int] | None,
    fixed_size: bool,
    features_only: bool,
    out_indices: Sequence[int] | None,
    license: str | None,
    int8: bool,
) -> ExportInfo:
    model = classifier.model
    preprocessing = classifier.preprocessing
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        for side in (height, width):
            check_number("image_size", side, 1, MAX_SIDE)
        preprocessing = replace(preprocessing, input_size=(preprocessing.input_size[0], height, width))
    outputs: tuple[str, ...] = ("logits",)
    if features_only:
        stages = len(getattr(model, "feature_info", ()))
        if not stages or not hasattr(model, "forward_intermediates"):
            raise ValueError(f"{classifier.name} has no maps to give: leave out --features-only")
        indices = (
            range(stages)
            if out_indices is None
            else sorted({i % stages if -stages <= i < stages else i for i in out_indices})
        )
        if any(i not in range(stages) for i in indices) or not indices:
            raise ValueError(
                f"out_indices is {list(out_indices or ())}: {classifier.name} has the stages 0 to {stages - 1}"
            )
        outputs = tuple(f"stage{i}" for i in indices)
    elif getattr(model, "num_classes", 1) == 0:
        raise ValueError(f"{classifier.name} has no classifier: add --features-only for its maps")
    return ExportInfo(
        architecture=getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__,
        task="features" if features_only else "classification",
        outputs=outputs,
        class_names=() if features_only else tuple(classifier.class_names),
        preprocessing=preprocessing,
        size_multiple=_multiple(classifier, preprocessing.input_size[1:], fixed_size),
        precision="int8" if int8 else "fp32",
        license=license,
        transnext_version=__version__,
    )


def _multiple(classifier: Loaded, size: tuple[int, int], fixed_size: bool) -> int | None:
    model = classifier.model
    if fixed_size or not isinstance(model, TransNeXt):
        return None
    multiple = size_multiple(model)
    if model.bias_mode != "extrapolate" or model.fixed_pool_size is not None:
        mode = "interpolated position bias" if model.bias_mode != "extrapolate" else "fixed pooled grid"
        raise ValueError(f"a model with {mode} can be exported at a fixed size only: add --fixed-size")
    if any(side % multiple for side in size):
        raise ValueError(
            f"images of {size[0]}x{size[1]} are no multiples of {multiple}, which a file for any size needs: add "
            "--fixed-size"
        )
    return multiple


def _eager(model: nn.Module, info: ExportInfo) -> Callable[[Tensor], Any]:
    if info.task == "classification":
        return model
    indices = [int(name.removeprefix("stage")) for name in info.outputs]

    def maps(images: Tensor) -> Any:
        with torch.no_grad():
            return model.forward_intermediates(images, indices=indices, intermediates_only=True)  # type: ignore[operator]

    return maps
