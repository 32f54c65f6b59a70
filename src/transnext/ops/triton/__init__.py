"""Four of the ops in Triton, for NVIDIA and AMD GPUs: values and gradients, held to `transnext.ops.reference`.

Nothing here is imported before a tensor on a GPU asks for it. docs/gpu.md has the design.
"""
