"""OpenVINO files: a graph (.xml) and its weights (.bin) beside it."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from transnext.atomic import naming
from transnext.export import onnx_file
from transnext.export.info import ENTRIES, KEY, ExportInfo


def convert(program: ExportedProgram, info: ExportInfo) -> Any:
    """The OpenVINO model of a program.

    It goes through ONNX, whose symbolic sizes OpenVINO reads more completely than those of `torch.export`.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx = onnx_file.convert(program, info)
        with naming(path):
            onnx.save(path, external_data=False)
        return openvino.convert_model(path)


def converted(onnx: Any) -> Any:
    """The OpenVINO model of an `onnx.ModelProto`."""
    import onnx as library
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with naming(path):
            library.save(onnx, path)
        return openvino.convert_model(path)


def write(model: Any, path: Path, info: ExportInfo) -> None:
    """Writes an OpenVINO model, float32 as it is, with what it says of itself in `rt_info`."""
    import openvino

    for name, value in info.to_strings().items():
        model.set_rt_info(value, [KEY, name])
    openvino.save_model(model, path, compress_to_fp16=False)


class OpenVINOFile:
    """An OpenVINO file on the CPU, with as many threads as PyTorch has.

    Args:
        path: The .xml file.
        precision: What is computed in. OpenVINO itself would choose bf16 where the processor multiplies it faster.

    Raises:
        ValueError: It is not such a file.
    """

    def __init__(self, path: Path, precision: str = "f32") -> None:
        import openvino

        threads = torch.get_num_threads()
        try:
            model = openvino.Core().read_model(path)
            settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
            self._run = openvino.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ValueError(f"{path} cannot be read by OpenVINO: {error}") from None
        self.strings: dict[str, str] = {
            name: model.get_rt_info([KEY, name]).astype(str) for name in ENTRIES if model.has_rt_info([KEY, name])
        }

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Images `[B, C, H, W]`, float32 on the CPU, and further inputs if the file has some, to the outputs."""
        outputs = self._run([value.numpy() for value in inputs])
        return [torch.from_numpy(outputs[i].copy()) for i in range(len(outputs))]
