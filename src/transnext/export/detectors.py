"""Detectors into files of other runtimes, checked before they are there."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from transnext.atomic import naming, staged
from transnext.export import head_folder
from transnext.export.agreement import check_detector, random_batch
from transnext.export.canvas import canvas_of_file
from transnext.export.checking import SizeCheck
from transnext.export.formats import Format
from transnext.export.info import ExportInfo
from transnext.export.openvino_file import converted
from transnext.export.openvino_file import write as write_openvino
from transnext.export.running import ExportedDetector, ExportedModel
from transnext.export.traced import SOME, for_tracing, traced, with_threshold
from transnext.tasks.detection.mask_rcnn.model import MaskRCNN
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.plain import PlainDetector, plain
from transnext.tasks.task import Loaded
from transnext.version import __version__

TAG = "object-detection"
"""What the hub calls it."""


def write_detector(
    loaded: Loaded,
    output: Path,
    format: Format,
    *,
    image_size: int | tuple[int, int] | None,
    opset: int,
    license: str | None,
) -> tuple[ExportInfo, list[SizeCheck]]:
    """Writes a detector, runs the file, and compares it with PyTorch.

    Args:
        loaded: The detector.
        output: The file, or the folder.
        format: Its format.
        image_size: Size of the canvas, pixels; the trained one by default.
        opset: Of ONNX.
        license: Licence of the weights.

    Returns:
        What the file says of itself, and how it compares.

    Raises:
        OSError: The output cannot be written.
        ValueError: The detector cannot be written so, or the file differs from PyTorch.
    """
    net = loaded.model
    if not isinstance(net, DetectionNet):
        raise ValueError(
            f"{loaded.name} is an exported file already: give the run or the checkpoint that it was made of"
        )
    if format == "torch":
        raise ValueError(f"{output}: detectors are written as onnx, openvino or hf, not as torch.export programs")
    preprocessing = canvas_of_file(loaded, image_size, one_canvas=format != "hf")
    info = ExportInfo(
        architecture=net.backbone.name,
        task=loaded.task.name,
        outputs=("boxes", "scores", "labels", "masks")[: 4 if net.with_masks else 3],
        class_names=tuple(loaded.class_names),
        preprocessing=preprocessing,
        size_multiple=None,
        precision="fp32",
        license=license,
        transnext_version=__version__,
        metadata={
            **{name: value for name, value in loaded.task.metadata.items() if name != "class_names"},
            "detector": net.detector,
        },
    )
    reference = for_tracing(net)
    with staged(output) as staging:
        if format == "hf":
            loaded = replace(loaded, preprocessing=preprocessing)
            with naming(output):
                head_folder.write(loaded, staging, info, TAG)
            shape = (1, info.preprocessing.input_size[0], *info.image_size)
            opened: Any = head_folder.opened(staging)
            for either in (opened, reference):
                if isinstance(either, MaskRCNN):
                    either.score_threshold = 0.0  # noise may hold no object that is likely enough
            return info, [check_detector(opened, reference, shape, 0.0, str(output))]
        network = plain(reference)
        info = replace(info, outputs=network.outputs, batch=network.batch)
        graph = traced(network, info, opset)
        _save(graph, staging, format, info, output)
        file = ExportedModel(staging)
        checks = _compared(file, graph, network, str(output), lambda g, path: _save(g, path, format, info, path))
        return info, checks


def _save(graph: Any, path: Path, format: Format, info: ExportInfo, output: Path) -> None:
    import onnx

    if format == "onnx":
        with naming(output):
            onnx.save(graph, path)
        return
    model = converted(graph)
    with naming(output):
        write_openvino(model, path, info)


def _compared(
    file: ExportedModel, graph: Any, network: PlainDetector, name: str, save: Callable[[Any, Path], None]
) -> list[SizeCheck]:
    """How a file compares with the network, for one image and for three.

    Noise may hold no object that is likely enough, or some in every image. So beside the file itself, the same graph is
    compared with a threshold that leaves none, and with one that leaves many.
    """
    info, net = file.info, network.net
    shapes = [(batch, info.preprocessing.input_size[0], *info.image_size) for batch in (1, 3)]
    if network.score_threshold is None:
        return [check_detector(ExportedDetector(file), net, shape, 0.0, name) for shape in shapes]
    assert isinstance(net, MaskRCNN)
    check_detector(ExportedDetector(file), net, shapes[0], net.score_threshold, name)
    images, sizes = random_batch(shapes[0], torch.Generator().manual_seed(0))
    with torch.no_grad():
        low = network.threshold_for(images, sizes, SOME)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file.path.name
        for threshold, checked in ((1.0, shapes[:1]), (low, shapes)):
            net.score_threshold = threshold
            save(with_threshold(graph, threshold), path)
            run = ExportedDetector(ExportedModel(path))
            found = [check_detector(run, net, shape, threshold, name) for shape in checked]
    return found
