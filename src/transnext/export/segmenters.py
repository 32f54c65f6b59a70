"""Segmenters into files of other runtimes, checked before they are there."""

import copy
import math
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from transnext.atomic import naming, staged
from transnext.data.joint import MULTIPLE
from transnext.export import head_folder, onnx_file, openvino_file
from transnext.export.canvas import canvas_of_file
from transnext.export.checking import SizeCheck, check, shapes_to_check
from transnext.export.formats import Format
from transnext.export.info import ExportInfo
from transnext.export.plain import Traceable, nan_unless_multiples, size_multiple
from transnext.export.program import trace
from transnext.export.running import ExportedModel
from transnext.models import TransNeXt
from transnext.tasks.segmentation.net import SegmentationNet
from transnext.tasks.task import Loaded
from transnext.version import __version__

TAG = "image-segmentation"
"""What the hub calls it."""
WINDOWS = ("window", "window_stride")
"""Entries of a checkpoint that a file for one size lacks: it looks at pictures as a whole."""


class PlainSegmenter(Traceable):
    """A copy of a segmenter from images alone to scores.

    Args:
        net: The segmenter.
        multiple: What sides of images are multiples of, pixels; None if they have always the same size.
    """

    def __init__(self, net: SegmentationNet, multiple: int | None) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).cpu().float().eval()
        if isinstance(self.net.backbone.net, TransNeXt):
            self.net.backbone.net.backend = "auto"
        self.multiple = multiple

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]`, normalised, to `SegmentationNet.scores`."""
        # Which part of the canvas is image, the released segmenters do not ask.
        scores = self.net.scores(images, images.new_zeros(0, 2))
        return scores if self.multiple is None else scores * nan_unless_multiples(images, self.multiple)


def write_segmenter(
    loaded: Loaded,
    output: Path,
    format: Format,
    *,
    image_size: int | tuple[int, int] | None,
    fixed_size: bool,
    opset: int,
    license: str | None,
) -> tuple[ExportInfo, list[SizeCheck]]:
    """Writes a segmenter, runs the file, and compares it with PyTorch.

    Args:
        loaded: The segmenter.
        output: The file, or the folder.
        format: Its format.
        image_size: Size of the canvas, pixels; the trained one by default.
        fixed_size: Take canvases of that size alone.
        opset: Of ONNX.
        license: Licence of the weights.

    Returns:
        What the file says of itself, and how it compares.

    Raises:
        OSError: The output cannot be written.
        ValueError: The segmenter cannot be written so, or the file differs from PyTorch.
    """
    net = loaded.model
    if not isinstance(net, SegmentationNet):
        raise ValueError(
            f"{loaded.name} is an exported file already: give the run or the checkpoint that it was made of"
        )
    if format == "torch":
        raise ValueError(f"{output}: segmenters are written as onnx, openvino or hf, not as torch.export programs")
    multiple = None if fixed_size or format == "hf" else _multiple(net)
    one_size = format != "hf" and multiple is None
    preprocessing = canvas_of_file(loaded, image_size, one_canvas=one_size)
    # Windows are cut to the picture, and a file for one size takes none of another.
    left_out = {"class_names", *(WINDOWS if one_size else ())}
    info = ExportInfo(
        architecture=net.backbone.name,
        task=loaded.task.name,
        outputs=("scores",),
        class_names=tuple(loaded.class_names),
        preprocessing=preprocessing,
        size_multiple=multiple,
        precision="fp32",
        license=license,
        transnext_version=__version__,
        metadata={
            **{name: value for name, value in loaded.task.metadata.items() if name not in left_out},
            "segmenter": net.segmenter,
        },
    )
    channels, canvas = preprocessing.input_size[0], info.image_size
    reference = PlainSegmenter(net, None)
    with staged(output) as staging:
        if format == "hf":
            with naming(output):
                head_folder.write(replace(loaded, preprocessing=preprocessing), staging, info, TAG)
            opened = head_folder.opened(staging)
            assert isinstance(opened, SegmentationNet)
            return info, check(
                PlainSegmenter(opened, None), reference, shapes_to_check(channels, canvas, None)[:1], str(output)
            )
        program = trace(PlainSegmenter(net, multiple), (channels, *canvas))
        if format == "onnx":
            graph = onnx_file.convert(program, info, opset)
            with naming(output):
                graph.save(staging, external_data=False)
        else:
            model = openvino_file.convert(program, info)
            with naming(output):
                openvino_file.write(model, staging, info)
        shapes = shapes_to_check(channels, canvas, multiple)
        return info, check(ExportedModel(staging).run, reference, shapes, str(output))


def _multiple(net: SegmentationNet) -> int | None:
    """What sides of canvases are multiples of in a file for any size; None if there is no such file."""
    backbone = net.backbone.net
    if net.segmenter != "upernet" or not isinstance(backbone, TransNeXt):
        return None
    if backbone.bias_mode != "extrapolate" or backbone.fixed_pool_size is not None:
        return None
    return math.lcm(size_multiple(backbone), MULTIPLE)
