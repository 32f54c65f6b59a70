"""Exported files as models again, in the runtime that they are for."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from transnext.export.formats import require_runtime
from transnext.export.info import ExportInfo
from transnext.export.onnx_file import OnnxFile
from transnext.export.openvino_file import OpenVINOFile
from transnext.export.program import smallest_program
from transnext.export.torch_file import TorchFile
from transnext.tasks.classification.loading import loaded_classifier
from transnext.tasks.detection.net import Found
from transnext.tasks.detection.plain import found_in
from transnext.tasks.task import Loaded, task_class

_FILES: dict[str, type[TorchFile | OnnxFile | OpenVINOFile]] = {
    ".pt2": TorchFile,
    ".onnx": OnnxFile,
    ".xml": OpenVINOFile,
}


def is_exported(path: str | Path) -> bool:
    """True if a name is that of an exported file, by its suffix."""
    return Path(path).suffix in _FILES


class ExportedModel(nn.Module):
    """An exported file that is called as the network in it was.

    It computes on the CPU, from wherever the images are.

    Args:
        path: A file written by `export_model`.

    Attributes:
        info: What the file says of itself.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, was not written here, or its runtime is missing.
    """

    is_exported = True
    """It gives no attention, for example."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {path}")
        require_runtime(self.path)
        self._run = _FILES[self.path.suffix](self.path)
        self.info = ExportInfo.from_strings(self._run.strings, str(path))

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Images `[B, 3, H, W]`, normalised, to logits `[B, classes]` or to the maps of the stages, float32 on the CPU.

        Raises:
            ValueError: The file is not for images of this size.
        """
        outputs = self.run(images)
        return outputs[0] if self.info.task == "classification" else outputs

    def run(self, images: Tensor, *inputs: Tensor) -> list[Tensor]:
        """All outputs, float32 on the CPU.

        Args:
            images: `[B, 3, H, W]`, normalised.
            inputs: Further inputs if the file has some, on the CPU.

        Raises:
            ValueError: The file is not for images of this size.
        """
        self.check_size((int(images.shape[-2]), int(images.shape[-1])))
        return self._run(images.detach().float().cpu().contiguous(), *inputs)

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuses images of a size that the file is not for.

        Args:
            size: `(H, W)`.

        Raises:
            ValueError: It is not.
        """
        multiple, fixed = self.info.size_multiple, self.info.image_size
        shown = f"{self.path} cannot take images of {size[0]}x{size[1]}"
        if multiple is None and size != fixed:
            raise ValueError(f"{shown}: it was exported for {fixed[0]}x{fixed[1]} alone")
        if multiple is not None and any(side % multiple for side in size):
            raise ValueError(f"{shown}: their sides must be multiples of {multiple}")
        if multiple is not None and self.path.suffix == ".pt2" and min(size) < smallest_program(multiple):
            raise ValueError(f"{shown}: their sides must be at least {smallest_program(multiple)}")


class ExportedDetector(nn.Module):
    """An exported file that is called as the detector in it was.

    Args:
        file: The file.
    """

    is_exported = True

    def __init__(self, file: ExportedModel) -> None:
        super().__init__()
        self.file = file

    def forward(self, images: Tensor, sizes: Tensor) -> list[Found]:
        """Objects of each image, on the CPU; see `DetectionNet.detect`."""
        sizes = sizes.cpu()
        if self.file.info.batch is None:
            return found_in(self.file.run(images, sizes))
        parts = zip(images.split(self.file.info.batch), sizes.split(self.file.info.batch), strict=True)
        return [found for part, size in parts for found in found_in(self.file.run(part, size))]


class ExportedSegmenter(nn.Module):
    """An exported file that is called as the segmenter in it was.

    Args:
        file: The file.

    Attributes:
        segmenter: Its name, a key of `tasks.segmentation.nets.SEGMENTERS`.
        only_size: `(H, W)` of the canvases that it takes; None if there are others.
    """

    is_exported = True

    def __init__(self, file: ExportedModel) -> None:
        super().__init__()
        self.file = file
        self.segmenter: str = file.info.metadata["segmenter"]
        self.only_size = file.info.image_size if file.info.size_multiple is None else None

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Scores over the canvas, on the CPU; see `SegmentationNet.scores`."""
        return self.file.run(images)[0]


def open_exported(path: str | Path, image_size: int | None = None) -> Loaded:
    """The classifier, detector or segmenter in an exported file.

    Args:
        path: A file written by `export_model`.
        image_size: Side of the square that images are brought to, pixels; the exported one by default.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, holds none of them, or is not for this size.
    """
    model = ExportedModel(path).eval()
    info = model.info
    if info.task == "features":
        raise ValueError(f"{path} gives the maps {', '.join(info.outputs)} and not classes, objects or maps")
    preprocessing = info.preprocessing
    if image_size is not None:
        preprocessing = preprocessing.resized(image_size)
    model.check_size(replace(info, preprocessing=preprocessing).image_size)
    if info.task == "classification":
        return loaded_classifier(model, info.class_names, preprocessing, str(path))
    task = task_class(info.task)(metadata={"class_names": list(info.class_names), **info.metadata})
    run = ExportedSegmenter(model) if info.task == "segmentation" else ExportedDetector(model)
    return Loaded(model=run.eval(), task=task, preprocessing=preprocessing, name=str(path))
