"""ONNX files: any runtime of that standard runs them."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from transnext.choices import OPSET
from transnext.export.info import ExportInfo
from transnext.export.program import outputs_of

INPUT = "images"


def write(program: ExportedProgram, path: Path, info: ExportInfo, opset: int = OPSET) -> None:
    """Writes a program as one ONNX file, weights included, with an entry of its metadata for each field of `info`.

    Raises:
        ValueError: It cannot be expressed in this opset.
    """
    with quiet():
        try:
            onnx = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=info.outputs,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ValueError(f"PyTorch cannot write this model as ONNX of opset {opset}: {error}") from error
    assert onnx is not None
    found = onnx.model.opset_imports[""]
    if found != opset:
        raise ValueError(f"this model cannot be written in ONNX opset {opset}, only in {found}: use --opset {found}")
    _name_axes(onnx.model, program, info)
    onnx.model.metadata_props.update(info.to_strings())
    onnx.model.producer_name, onnx.model.producer_version = "transnext", info.transnext_version
    onnx.save(path, external_data=False)


def _name_axes(model: Any, program: ExportedProgram, info: ExportInfo) -> None:
    """Calls the axes batch, height and width instead of by the symbols of the trace."""
    import onnx_ir

    image = model.graph.inputs[0]
    size: list[int | str] = list(info.preprocessing.input_size[1:])
    if info.size_multiple is not None:
        size = ["height", "width"]
    image.shape = onnx_ir.Shape(["batch", image.shape[1], *size])
    for value, stand_in in zip(model.graph.outputs, outputs_of(program), strict=True):
        sides: list[int | str | None] = []
        if stand_in.ndim == 4:
            sides = [None, None] if info.size_multiple is not None else list(stand_in.shape[2:])
        value.shape = onnx_ir.Shape(["batch", int(stand_in.shape[1]), *sides])


class OnnxFile:
    """An ONNX file in ONNX Runtime on the CPU, with as many threads as PyTorch has.

    Args:
        path: The file.

    Raises:
        ValueError: It is not such a file.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised, and need not be printed as well
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base but this
            raise ValueError(f"{path} cannot be read as ONNX: {error}") from None
        self._input = self._session.get_inputs()[0].name
        self.strings: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Images `[B, C, H, W]`, float32 on the CPU, to the outputs."""
        return [torch.from_numpy(out) for out in self._session.run(None, {self._input: images.numpy()})]


@contextlib.contextmanager
def quiet() -> Any:
    """Keeps back what the libraries print and log on the way; what goes wrong they raise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
