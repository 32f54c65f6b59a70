"""ONNX files: any runtime of that standard runs them."""

import contextlib
import copy
import io
import logging
import operator
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


def convert(program: ExportedProgram, info: ExportInfo, opset: int = OPSET) -> Any:
    """A program in ONNX, with an entry of its metadata for each field of `info`; its `save` writes it.

    Raises:
        ValueError: It cannot be expressed in this opset.
    """
    with quiet():
        try:
            try:
                onnx = _translated(_ready(program), info, opset)
            except torch.onnx.OnnxExporterError:  # it has operators that must be taken apart
                onnx = _translated(program, info, opset)
        except torch.onnx.OnnxExporterError as error:
            raise ValueError(f"PyTorch cannot write this model as ONNX of opset {opset}: {error}") from error
        _tidy(onnx.model)
    found = onnx.model.opset_imports[""]
    if found != opset:
        raise ValueError(f"this model cannot be written in ONNX opset {opset}, only in {found}: use --opset {found}")
    _name_axes(onnx.model, program, info)
    onnx.model.metadata_props.update(info.to_strings())
    onnx.model.producer_name, onnx.model.producer_version = "transnext", info.transnext_version
    return onnx


def _translated(program: ExportedProgram, info: ExportInfo, opset: int) -> Any:
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):  # as in `trace`
        return torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=info.outputs,
            verbose=False,
            optimize=False,
        )


def _ready(program: ExportedProgram) -> ExportedProgram:
    """A program that PyTorch need not take apart before it is translated, which would take two thirds of the time.

    The network consists of operators that have a translation, but for the few that are replaced here.
    """
    graph = copy.deepcopy(program.graph)
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.target in (aten.dropout.default, aten.feature_dropout.default) and not node.args[2]:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is aten.batch_norm.default and not node.args[5]:
            *tensors, _, momentum, eps, _ = node.args
            with graph.inserting_before(node):
                normed = graph.call_function(
                    aten._native_batch_norm_legit_no_training.default, (*tensors, momentum, eps)
                )
            unused = node.meta["val"].new_empty(0)
            normed.meta = {**node.meta, "val": (node.meta["val"], unused, unused)}
            node.target, node.args = operator.getitem, (normed, 0)
        elif node.target is aten.to.dtype:
            node.target, node.args, node.kwargs = aten._to_copy.default, node.args[:1], {"dtype": node.args[1]}
        elif node.target in (aten.unflatten.int, aten.flatten.using_ints, aten.view.default):
            shape = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
            if shape.count(-1) <= 1:
                node.target, node.args, node.kwargs = aten.reshape.default, (node.args[0], shape), {}
    ready = copy.copy(program)
    ready._graph_module = torch.fx.GraphModule(program.graph_module, graph)
    ready._graph_module.meta = program.graph_module.meta
    ready.run_decompositions = lambda *_: ready
    return ready


def _tidy(model: Any) -> None:
    """Constants are computed, and what stands there twice is written once.

    Of the passes of onnxscript, those that cost nothing: its rewriter takes ten times as long and leaves a tenth less.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.InlinePass()(model)
    optimizer.fold_constants(model, onnx_shape_inference=False)
    for tidy in (
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        tidy(model)


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
        self._inputs = [value.name for value in self._session.get_inputs()]
        self.strings: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Images `[B, C, H, W]`, float32 on the CPU, and further inputs if the file has some, to the outputs."""
        given = {name: value.numpy() for name, value in zip(self._inputs, inputs, strict=True)}
        return [torch.from_numpy(out) for out in self._session.run(None, given)]


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
