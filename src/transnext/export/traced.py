"""ONNX of detectors, from a trace: what `torch.export` cannot express, as suppression of overlaps, a trace can."""

import copy
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from transnext.export.info import ExportInfo
from transnext.export.onnx_file import INPUT, quiet
from transnext.limits import check_number
from transnext.models import TransNeXt
from transnext.ops.tracing import exporting
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.plain import PlainDetector

SIZES, THRESHOLD = "sizes", "score_threshold"
"""Names of the second input, and of the constant in a file whose network has one."""
MIN_OPSET, MAX_OPSET = 17, 20
"""Of ONNX: the first that samples between pixels as the networks do, and the last that PyTorch's tracer knows."""


class KnownSizes(TorchFunctionMode):
    """In the block, sizes of traced tensors are numbers, all but the first one.

    PyTorch's tracer takes each for a tensor, and networks that compute with them for others than they are. Tensors
    whose batch or number of objects is not their first axis must not ask for sizes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function of PyTorch."""
        result = func(*args, **(kwargs or {}))
        if not torch.jit.is_tracing():
            return result
        if func == torch.Tensor.shape.__get__ or func is torch.Tensor.size:  # type: ignore[attr-defined]
            if isinstance(result, tuple):
                return (*result[:1], *map(int, result[1:]))
            axis = args[1] if len(args) > 1 else kwargs["dim"]
            return result if axis == 0 else int(result)
        return result


def for_tracing(net: DetectionNet) -> DetectionNet:
    """A copy of a network on the CPU, in float32 and evaluation mode."""
    copied = copy.deepcopy(net).cpu().float().eval()
    for module in copied.modules():
        if isinstance(module, TransNeXt):
            module.backend = "auto"
    return copied


def traced(network: PlainDetector, info: ExportInfo, opset: int) -> Any:
    """The `onnx.ModelProto` of a detector, with an entry of its metadata for each field of `info`.

    Its inputs are images and `SIZES`; the score threshold, if there is one, is the constant `THRESHOLD`.

    Args:
        network: Of a net that `for_tracing` gave.
        info: What the file is to say.
        opset: Of ONNX.

    Raises:
        ValueError: It cannot be expressed in this opset.
    """
    import onnx

    check_number("opset", opset, MIN_OPSET, MAX_OPSET)
    batch = network.batch or 2  # an axis of 1 would be taken for one that broadcasts
    channels, (height, width) = info.preprocessing.input_size[0], info.image_size
    inputs = [torch.zeros(batch, channels, height, width), torch.tensor([[height, width]] * batch)]
    names = [INPUT, SIZES]
    if network.score_threshold is not None:
        # Low, so that there are objects whose part of the graph is traced.
        inputs.append(torch.tensor(0.0))
        names.append(THRESHOLD)
    axis = "batch" if network.batch is None else "objects"
    free = list(network.outputs) + (names[:2] if network.batch is None else [])
    file = io.BytesIO()
    with torch.no_grad(), exporting(), quiet():
        network(*inputs)  # leaves what depends on sizes and weights alone, such as the position bias, as constants
        try:
            torch.onnx.export(
                _WithKnownSizes(network),
                tuple(inputs),
                file,  # type: ignore[arg-type]  # with a trace it may be one
                dynamo=False,
                opset_version=opset,
                input_names=names,
                output_names=list(network.outputs),
                dynamic_axes={name: {0: axis} for name in free},
            )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"PyTorch cannot write this detector as ONNX of opset {opset}: {reason}") from error
    model = onnx.load_from_string(file.getvalue())
    if network.score_threshold is not None:
        (given,) = [value for value in model.graph.input if value.name == THRESHOLD]
        model.graph.input.remove(given)
        model.graph.initializer.append(onnx.numpy_helper.from_array(_number(network.score_threshold), THRESHOLD))
    model.producer_name, model.producer_version = "transnext", info.transnext_version
    onnx.helper.set_model_props(model, info.to_strings())
    onnx.checker.check_model(model)
    return model


def with_threshold(model: Any, threshold: float) -> Any:
    """A copy of what `traced` gave with another score threshold."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (constant,) = [value for value in changed.graph.initializer if value.name == THRESHOLD]
    constant.CopyFrom(onnx.numpy_helper.from_array(_number(threshold), THRESHOLD))
    return changed


def _number(value: float) -> Any:
    return torch.tensor(value, dtype=torch.float32).numpy()


class _WithKnownSizes(nn.Module):
    def __init__(self, network: PlainDetector) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with KnownSizes():
            outputs: tuple[Tensor, ...] = self.network(*inputs)
            return outputs
