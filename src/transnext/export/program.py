"""`torch.export` of a network, which every format but the hub folder starts from."""

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from transnext.export.plain import Traceable
from transnext.ops.tracing import exporting


def trace(network: Traceable, input_size: tuple[int, int, int]) -> ExportedProgram:
    """The program of a network, for any number of images.

    Args:
        network: What to trace.
        input_size: `(C, H, W)` of the images; of a network for any size `C` alone counts.
    """
    channels, *size = input_size
    dims: dict[int, Dim] = {0: Dim("batch", min=1)}
    multiple = network.multiple
    if multiple is not None:
        # Sizes that differ from one another and from 1 in every map, or they would be taken for equal or fixed.
        size = [3 * multiple, 5 * multiple]
        dims |= {2: multiple * Dim("height", min=1), 3: multiple * Dim("width", min=1)}
    images = torch.zeros(2, channels, *size)
    with torch.no_grad(), exporting():
        if multiple is None:
            network(images)  # leaves what depends on sizes and weights alone, such as the position bias, as constants
        # The cache of shapes costs more than it saves where they are symbols.
        with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            return torch.export.export(network, (images,), dynamic_shapes=(dims,))


def smallest_program(multiple: int) -> int:
    """The smallest side that a program for any multiples of `multiple` takes by itself, pixels.

    A single bin of pooled keys would be a size of 1, which `torch.export` never takes a symbol for. ONNX does not mind.
    """
    return 2 * multiple


def outputs_of(program: ExportedProgram) -> list[Tensor]:
    """Stand-ins for the outputs, with their shapes."""
    nodes = program.graph.output_node().args[0]
    return [node.meta["val"] for node in nodes]
