"""Post-training quantisation to 8-bit integers: of OpenVINO files by NNCF, of ONNX files by ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transnext.data import LabelledImages, Sample, open_dataset
from transnext.data.preprocessing import Preprocessing
from transnext.export.info import ExportInfo
from transnext.export.onnx_file import INPUT, quiet

CALIBRATION_IMAGES = 300
"""As many as NNCF looks at by default."""


def calibration_images(data: str, preprocessing: Preprocessing, count: int = CALIBRATION_IMAGES) -> list[Tensor]:
    """Images that ranges of activations are measured on, evenly spread over the training split.

    Args:
        data: A set by name, or a folder of images; labels are not looked at.
        preprocessing: That of the model.
        count: At most so many.

    Returns:
        Normalised images, `[1, 3, H, W]` each.

    Raises:
        FileNotFoundError: There are no such data.
        ValueError: No image can be read.
    """
    sources = open_dataset(data)
    source = sources.get("train") or next(iter(sources.values()))
    images = LabelledImages(source, preprocessing.transform(), preprocessing.min_side())
    normalise = preprocessing.normalise()
    count = min(count, len(images))
    samples = [images[i * len(images) // count] for i in range(count)]
    found = [normalise(sample.image[None]) for sample in samples if isinstance(sample, Sample)]
    if not found:
        raise ValueError(f"no image of {data} could be read to calibrate with")
    return found


def quantize_openvino(model: Any, images: Sequence[Tensor]) -> Any:
    """An OpenVINO model with products and convolutions of 8-bit integers, by NNCF.

    Args:
        model: In float32.
        images: Typical ones.
    """
    import nncf

    dataset = nncf.Dataset(list(images), lambda x: x.numpy())
    state = torch.get_rng_state()
    try:
        with quiet():
            return nncf.quantize(model, dataset, subset_size=len(images), model_type=nncf.ModelType.TRANSFORMER)
    finally:
        torch.set_rng_state(state)


def quantize_onnx(path: Path, images: Sequence[Tensor], info: ExportInfo) -> None:
    """Replaces an ONNX file by one with products and convolutions of 8-bit integers, by ONNX Runtime's own tool.

    Args:
        path: The file, in float32.
        images: Typical ones.
        info: What it is to say of itself.
    """
    import onnx
    from onnxruntime.quantization import quantize_static

    quantized = path.with_name(f"int8-{path.name}")
    with quiet():
        # Seven bits of a weight: sums of two products of eight bits overflow on processors without VNNI.
        quantize_static(
            path,
            quantized,
            _Reader(images),
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            per_channel=True,
            reduce_range=True,
        )
    model = onnx.load(quantized)
    quantized.unlink()
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, info.to_strings())
    onnx.save(model, path)


class _Reader:
    """Images as ONNX Runtime's quantiser asks for them: one at a time, and None at the end."""

    def __init__(self, images: Sequence[Tensor]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """The inputs of the next call."""
        image = next(self._images, None)
        return None if image is None else {INPUT: image.numpy()}
