"""The kernels for GPUs on tensors of the CPU, by Triton's interpreter: how they are tried where there is no GPU."""

import torch

from transnext.ops.triton import add_norm, attention, gate, gelu_pool


def put_on_cpu() -> torch.library.Library:
    """Has the ops run these kernels on the CPU, below the dispatcher as on a GPU, for as long as the result lives.

    The process must have been started with `TRITON_INTERPRET=1`.
    """
    library = torch.library.Library("transnext", "IMPL")
    modules = {
        "aggregated_attention": attention,
        "depthwise_conv_gelu_gate": gate,
        "gelu_average_pool": gelu_pool,
        "add_layer_norm": add_norm,
    }
    for name, module in modules.items():
        library.impl(name, module.forward, "CPU", allow_override=True)
        library.impl(f"{name}_backward", module.backward, "CPU", allow_override=True)
    library.impl("aggregated_attention_training", attention.forward_training, "CPU")
    library.impl("aggregated_attention_training_backward", attention.backward_training, "CPU")
    return library
