"""How the kernels are launched: choice of tile sizes, precision of products, sizes that want 64-bit offsets."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether Triton runs kernels on the CPU (`TRITON_INTERPRET=1`), where there is nothing to be tuned."""


def config(num_warps: int, num_stages: int = 3, **blocks: int) -> triton.Config:
    """Tile sizes by name, and how a program of that size is run."""
    return triton.Config(blocks, num_warps=num_warps, num_stages=num_stages)


def tuned(kernel: Any, configs: Sequence[triton.Config], key: Sequence[str]) -> Any:
    """A kernel that tries a few configurations the first time it meets a key, and remembers the best on the disk.

    Args:
        kernel: A function of `triton.jit`.
        configs: What to try, the one that is expected to be best first.
        key: Names of the arguments for whose values, beside the dtypes, the choice holds.
    """
    configs = list(configs[:1] if INTERPRETED else configs)
    return triton.autotune(configs=configs, key=list(key), cache_results=True)(kernel)


def block_of(channels: int) -> int:
    """Channels of a tile: a power of two, and what matrix units take at least."""
    return max(16, triton.next_power_of_2(channels))


def size_class(*sizes: int) -> int:
    """One number for sizes of about the same magnitude, for which one configuration serves."""
    code = 0
    for size in sizes:
        code = 32 * code + (size - 1).bit_length()
    return code


def product_precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies float32 factors that came from a map of `dtype`.

    float32 maps get TF32 only where PyTorch's own products would. 16-bit maps are multiplied after their vectors were
    normalised in float32, in three TF32 products where there are such units: rounding a query to 16 bits would change
    a logit of 17 by as much as 0.07.
    """
    if INTERPRETED or torch.version.hip is not None:
        return "ieee"
    if dtype != torch.float32:
        return "tf32x3"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def wants_64_bits(*maps: Tensor) -> bool:
    """Whether an offset within an image of a map `[B, ..., D]` exceeds 32 bits."""
    return any(sum((n - 1) * s for n, s in zip(t.shape[1:], t.stride()[1:], strict=True)) >= 2**31 for t in maps)


def dense_channels(t: Tensor) -> Tensor:
    """The same map with channels next to one another, which the kernels rely on; other strides are free."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()
