"""What the two ops move and compute on a GPU, on paper: the tables of docs/gpu.md. Nothing here is measured.

    python benchmarks/gpu_roofline.py

Bytes, products and vector instructions of each Triton kernel are counted from its design and set against the peaks of
data sheets; a kernel takes at least as long as its slowest unit. Beside it stands what the released CUDA extension
moves, with the PyTorch operations around it, each operand counted once.

Shape legend: `B` batch, `H W` feature map, `N = H * W`, `M` heads, `D` channels of a head, `K` neighbours,
`P` pooled keys, `F` hidden channels.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import timm
import torch
import tyro

import transnext  # noqa: F401 - registers the models
from transnext.models.attention import AggregatedAttention
from transnext.ops import axis_index

FORWARD_TILE = (64, 32)
"""Queries and keys of a tile of the forward kernel, as `transnext.ops.triton.attention` would try first."""

BACKWARD_TILE = (32, 32)
"""The same of the backward kernels."""

PROGRAMS_WANTED = 512
MAX_DENSE_ENTRIES = 1 << 22
"""As in `transnext.ops.triton.attention`."""

FORWARD_INSTRUCTIONS = 14
"""Vector instructions for a pooled logit beside its products and its exponential, an estimate: 4 for the place of its
bias, 5 for mask, largest logit, difference and sum, 5 for splitting the weight into two TF32 numbers and for its share
of the normalisation of the key."""

BACKWARD_INSTRUCTIONS = 18
"""The same for each time the backward kernels compute the logit again."""

GELU_INSTRUCTIONS = 25
"""For `erf` and what surrounds it, an estimate."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Peaks, per second.

    Attributes:
        bandwidth: Bytes of memory.
        vector: FLOPs of float32 multiply-adds outside matrix units.
        lanes: Other vector instructions, one for each lane.
        exponentials: Exponentials.
        products: FLOPs of `tl.dot`: of float32 maps "ieee", of those with TF32 allowed "tf32", of 16-bit maps "16 bit",
            and of the numbers of 16-bit maps as they come "16 bit as is".
        ieee_on_vector: Whether IEEE products are made by the vector units.
    """

    bandwidth: float
    vector: float
    lanes: float
    exponentials: float
    products: dict[str, float]
    ieee_on_vector: bool


GPUS = {
    "A100": Gpu(
        bandwidth=2.039e12,
        vector=19.5e12,
        lanes=9.75e12,
        exponentials=9.75e12 / 4,
        products={"ieee": 19.5e12, "tf32": 156e12, "16 bit": 156e12 / 3, "16 bit as is": 312e12},
        ieee_on_vector=True,
    ),
    "H100": Gpu(
        bandwidth=3.35e12,
        vector=66.9e12,
        lanes=33.45e12,
        exponentials=33.45e12 / 8,
        products={"ieee": 66.9e12, "tf32": 494.7e12, "16 bit": 494.7e12 / 3, "16 bit as is": 989.4e12},
        ieee_on_vector=True,
    ),
    "MI300X": Gpu(
        bandwidth=5.3e12,
        vector=163.4e12,
        lanes=163.4e12 / 4,
        exponentials=163.4e12 / 16,
        products={"ieee": 163.4e12, "tf32": 163.4e12, "16 bit": 163.4e12, "16 bit as is": 1307.4e12},
        ieee_on_vector=False,
    ),
}
"""docs/gpu.md has the sources. The kernels ask for three TF32 products for 16-bit maps on NVIDIA, for IEEE on AMD."""


class Stage(NamedTuple):
    """A block of a stage, for a batch."""

    name: str
    depth: int
    B: int
    H: int
    W: int
    M: int
    D: int
    F: int
    K: int = 0
    P: int = 0
    table: int = 0
    """Entries of the bias table of a head."""

    @property
    def N(self) -> int:  # noqa: N802
        """Pixels of an image."""
        return self.H * self.W

    @property
    def map(self) -> int:
        """Numbers of a map `[B, N, M, D]`."""
        return self.B * self.N * self.M * self.D

    @property
    def pooled(self) -> int:
        """Numbers of a pooled map."""
        return self.B * self.P * self.M * self.D

    @property
    def local_logits(self) -> int:
        """Pairs of queries and neighbours, all heads."""
        return self.B * self.N * self.M * self.K

    @property
    def pooled_logits(self) -> int:
        """Pairs of queries and pooled keys, all heads."""
        return self.B * self.N * self.M * self.P


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What one kernel does.

    Attributes:
        name: For the table.
        programs: Programs launched.
        moved: Bytes to and from memory, each operand once.
        asked: Bytes that programs ask for, most of which caches have.
        products: FLOPs of `tl.dot`, of padded tiles, one factor of which is float32.
        as_is: The same where both factors come as the maps have them.
        vector: FLOPs of other multiply-adds, of padded channels.
        instructions: Other vector instructions.
        exponentials: Exponentials.
    """

    name: str
    programs: int
    moved: float
    asked: float
    products: float = 0.0
    as_is: float = 0.0
    vector: float = 0.0
    instructions: float = 0.0
    exponentials: float = 0.0

    def limits(self, gpu: Gpu, precision: str) -> dict[str, float]:
        """Seconds that each unit of a GPU is busy."""
        vector = self.vector / gpu.vector + self.instructions / gpu.lanes
        unchanged = gpu.products["16 bit as is" if precision == "16 bit" else precision]
        products = self.products / gpu.products[precision] + self.as_is / unchanged
        if precision == "ieee" and gpu.ieee_on_vector:
            vector, products = vector + products, 0.0
        return {
            "memory": self.moved / gpu.bandwidth,
            "products": products,
            "vector": vector,
            "exponentials": self.exponentials / gpu.exponentials,
        }

    def seconds(self, gpu: Gpu, precision: str) -> float:
        """The least time: that of the slowest unit."""
        return max(self.limits(gpu, precision).values())


class Step(NamedTuple):
    """An operation of the released path: its name, bytes read and written."""

    name: str
    moved: float


def stages_of(model: str, batch_size: int, height: int, width: int) -> list[Stage]:
    """The stages of a registered model for a batch of images, sizes read from the model."""
    net = timm.create_model(model, device="meta")
    stages, H, W = [], height, width
    for i, stage in enumerate(net.stages):
        stride = stage.patch_embed.proj.stride[0]
        H, W = math.ceil(H / stride), math.ceil(W / stride)
        block = stage.blocks[0]
        mixer = block.attn
        C, F = block.mlp.fc2.out_features, block.mlp.fc2.in_features
        base = Stage(str(i + 1), len(stage.blocks), batch_size, H, W, mixer.num_heads, C // mixer.num_heads, F)
        if isinstance(mixer, AggregatedAttention):
            P_h, P_w = mixer.pool_size((H, W))
            table = len(axis_index(H, P_h).offsets) * len(axis_index(W, P_w).offsets)
            base = base._replace(K=mixer.window_size**2, P=P_h * P_w, table=table)
        stages.append(base)
    return stages


def padded(n: int, tile: int) -> int:
    """The next multiple of a tile."""
    return -(-n // tile) * tile


def padded_channels(D: int) -> int:
    """Channels of a tile of `tl.dot`: a power of two, at least 16."""
    return max(16, 2 ** math.ceil(math.log2(D)))


def product(s: Stage, tile: tuple[int, int]) -> float:
    """FLOPs of one product of all queries and pooled keys, tiles padded."""
    return 2.0 * s.B * s.M * padded(s.N, tile[0]) * padded(s.P, tile[1]) * padded_channels(s.D)


def compulsory_attention(s: Stage, size: int, backward: bool) -> float:
    """Bytes of the inputs and outputs of the op, each once."""
    table = 4 * s.M * s.table
    if backward:
        return size * (7 * s.map + 4 * s.pooled) + 2 * table
    return size * (4 * s.map + 2 * s.pooled) + table


def attention_forward(s: Stage, size: int) -> list[Kernel]:
    """The forward kernel; `size` is bytes of a number of the maps."""
    tile, depth = FORWARD_TILE, padded_channels(s.D)
    tiles = -(-s.N // tile[0])
    logits = s.B * s.M * padded(s.N, tile[0]) * padded(s.P, tile[1])
    return [
        Kernel(
            name="forward",
            programs=s.B * s.M * tiles,
            moved=compulsory_attention(s, size, backward=False),
            asked=size * (s.map * (2 + 2 * s.K) + 2 * s.pooled * tiles) + 4 * s.pooled_logits,
            products=2 * product(s, tile),
            # Logit, length of the key, weight of the token, and two weighted sums.
            vector=5 * 2 * s.local_logits * depth,
            instructions=FORWARD_INSTRUCTIONS * logits,
            exponentials=logits + 2 * s.local_logits,
        )
    ]


def attention_backward(s: Stage, size: int) -> list[Kernel]:
    """The backward kernels, in their order."""
    tile, depth = BACKWARD_TILE, padded_channels(s.D)
    tiles, key_tiles = -(-s.N // tile[0]), -(-s.P // tile[1])
    logits = s.B * s.M * padded(s.N, tile[0]) * padded(s.P, tile[1])
    table, statistics = 4 * s.M * s.table, 2 * 4 * s.B * s.N * s.M
    unit = product(s, tile)
    sums = 4 * s.B * tiles * s.M * (s.D + 1 + 2 * s.K + s.D * s.K)
    splits = max(1, min(PROGRAMS_WANTED // (s.B * s.M * key_tiles), -(-s.N // 64)))
    parts = 4 * 2 * splits * s.pooled
    rows = max(1, min(s.H, MAX_DENSE_ENTRIES // (s.M * s.P * s.W)))
    shares = max(1, min(s.B, PROGRAMS_WANTED // (s.M * key_tiles * -(-rows * s.W // tile[0]))))
    dense = 4 * shares * s.M * s.N * s.P
    return [
        Kernel(
            name="by query",
            programs=s.B * s.M * tiles,
            moved=size * (5 * s.map + 2 * s.pooled) + table + statistics + 2 * sums,
            asked=size * (s.map * (3 + 4 * s.K) + 4 * s.pooled * tiles) + 8 * s.pooled_logits + statistics + 2 * sums,
            products=3 * unit,
            as_is=2 * unit,
            vector=9 * 2 * s.local_logits * depth,
            instructions=2 * BACKWARD_INSTRUCTIONS * logits,
            exponentials=2 * logits + 3 * s.local_logits,
        ),
        Kernel(
            name="by local key",
            programs=s.B * s.M * tiles,
            moved=size * 6 * s.map + statistics,
            asked=size * s.map * (4 + 2 * s.K) + s.K * statistics,
            vector=6 * 2 * s.local_logits * depth,
            exponentials=s.local_logits,
        ),
        Kernel(
            name="by pooled key",
            programs=s.B * s.M * key_tiles * splits,
            moved=size * (2 * s.map + 4 * s.pooled) + table + statistics + 2 * parts,
            asked=key_tiles * (size * 2 * s.map + statistics) + 4 * s.pooled_logits + 2 * parts,
            products=3 * unit,
            as_is=unit,
            instructions=BACKWARD_INSTRUCTIONS * logits,
            exponentials=logits,
        ),
        Kernel(
            name="bias",
            programs=s.M * tiles * key_tiles * shares,
            moved=size * (2 * s.map + 2 * s.pooled) + table + statistics,  # what is dense stays in L2
            asked=key_tiles * (size * 2 * s.map + statistics) + size * 2 * s.pooled * tiles + dense,
            products=unit,
            as_is=unit,
            instructions=BACKWARD_INSTRUCTIONS * logits,
            exponentials=logits,
        ),
        Kernel(name="bias, folded", programs=s.M * s.table // 64, moved=table, asked=dense + table),
    ]


def compulsory_gate(s: Stage, size: int, backward: bool) -> float:
    """Bytes of the inputs and outputs of the gate, each once."""
    return size * s.B * s.N * s.F * (5 if backward else 3)


def gate_forward(s: Stage, size: int) -> list[Kernel]:
    """Depthwise convolution, GELU and gate in one kernel."""
    hidden = s.B * s.N * s.F
    return [
        Kernel(
            name="forward",
            programs=-(-s.B * s.N // 32) * -(-s.F // 64),
            moved=compulsory_gate(s, size, backward=False),
            asked=(9 + 2) * size * hidden,
            vector=2 * 9 * hidden,
            instructions=GELU_INSTRUCTIONS * hidden,
        )
    ]


def gate_backward(s: Stage, size: int) -> list[Kernel]:
    """The two backward kernels; the gradient of the convolution's result lies between them in float32."""
    hidden = s.B * s.N * s.F
    tiles = -(-s.B * s.N // 64)
    sums = 4 * tiles * 10 * s.F
    return [
        Kernel(
            name="gate and weights",
            programs=tiles * -(-s.F // 64),
            moved=(4 * size + 4) * hidden + 2 * sums,
            asked=((9 + 9 + 3) * size + 4) * hidden + 2 * sums,
            vector=2 * 18 * hidden,
            instructions=2 * GELU_INSTRUCTIONS * hidden,
        ),
        Kernel(
            name="transposed convolution",
            programs=-(-s.B * s.N // 32) * -(-s.F // 64),
            moved=(4 + size) * hidden,
            asked=(9 * 4 + size) * hidden,
            vector=2 * 9 * hidden,
        ),
    ]


def released_attention(s: Stage, autocast: bool) -> tuple[list[Step], list[Step], list[Step]]:
    """The released attention between its Linears: steps of forward, of backward, and the tensors kept in between.

    Under autocast, norms, softmax and what is joined with them are float32, the rest 16-bit. Position bias: from the
    table on. A lower bound: each operand once, nothing for the sort inside the gradient of the bias's index.
    """
    e, f = (2, 4) if autocast else (4, 4)
    x, p, nk, np = s.map, s.pooled, s.local_logits, s.pooled_logits
    pairs, bias = s.N * s.P, s.M * s.N * s.P
    only_autocast = 1 if autocast else 0
    forward = [
        Step("length of q and k, division", 2 * (2 * e + f) * x),
        Step("query embedding, temperature, length scale", 6 * f * x),
        Step("q and k made contiguous", 4 * f * x),
        Step("local logits (extension)", f * (2 * x + nk)),
        Step("q cast and copied for the product", only_autocast * (f + e) * x + 2 * e * x),
        Step("pooled logits", e * (x + p + np)),
        Step("bias of all pairs gathered", 8 * pairs + e * bias),
        Step("bias added", e * (2 * np + bias)),
        Step("pooled logits cast", only_autocast * (e + f) * np),
        Step("concatenation", 2 * f * (nk + np)),
        Step("softmax", 2 * f * (nk + np)),
        Step("q cast and copied for the tokens", only_autocast * (f + e) * x + 2 * e * x),
        Step("learnable tokens", e * (x + nk)),
        Step("token bias and weights added", (e + f) * nk + 3 * f * nk),
        Step("local weights cast", only_autocast * (f + e) * nk),
        Step("v made contiguous", 2 * e * x),
        Step("local values (extension)", e * (nk + 2 * x)),
        Step("pooled weights cast", only_autocast * (f + e) * np),
        Step("pooled values", e * (np + p + x)),
        Step("sum, heads joined", 5 * e * x),
    ]
    backward = [
        Step("gradient made contiguous", 2 * e * x),
        Step("local values: weights, values (extension)", e * (2 * x + nk) + e * (nk + 2 * x)),
        Step("pooled values: weights, values", e * (x + p + np) + e * (np + x + p)),
        Step("casts and concatenation of weights", only_autocast * (e + f) * (np + nk) + 2 * f * (nk + np)),
        Step("softmax", 3 * f * (nk + np)),
        Step("pooled logits cast, local ones copied", only_autocast * (f + e) * np + 2 * f * nk),
        Step("bias: sum over the batch, scattered", e * (np + 2 * bias) + 8 * pairs),
        Step("pooled logits: q, k", e * (np + p + x) + e * (np + x + p)),
        Step("local logits: bias, q, k (extension)", f * nk + 2 * f * (nk + 2 * x)),
        Step("tokens: cast, q, tokens, bias", only_autocast * (f + e) * nk + e * (nk + x) + e * (nk + x) + f * nk),
        Step("gradients of q cast and added", only_autocast * 2 * (e + f) * x + 2 * 3 * f * x),
        Step("length scale, temperature, query embedding", (2 + 2 + 3 + 1 + 1) * f * x),
        Step("division and length of q and k", 2 * (6 * f + 4 * e) * x),
    ]
    kept = [
        Step("q, k, v", 3 * e * x + 2 * e * p),
        Step("q with embedding, scaled q, unit k", 3 * f * x),
        Step("copies of scaled q, unit q and v", 3 * e * x),
        Step("softmax weights", f * (nk + np)),
        Step("weights cast for the products", e * nk + only_autocast * e * np),
    ]
    return forward, backward, kept


def released_gate(s: Stage, autocast: bool) -> tuple[list[Step], list[Step], list[Step]]:
    """The same for convolution, GELU and gate of the released code, which goes through `[B, F, H, W]`."""
    hidden = (2 if autocast else 4) * s.B * s.N * s.F
    forward = [
        Step("to channels first", 2 * hidden),
        Step("convolution", 2 * hidden),
        Step("GELU", 2 * hidden),
        Step("gate", 3 * hidden),
    ]
    backward = [
        Step("gate", 6 * hidden),
        Step("GELU", 3 * hidden),
        Step("convolution: input, weight, bias", 2 * hidden + 2 * hidden + hidden),
        Step("halves joined", 4 * hidden),
    ]
    kept = [Step("x", 2 * hidden), Step("channels first, convolved, GELU", 3 * hidden)]
    return forward, backward, kept


def kept_by_ours(s: Stage, size: int) -> tuple[float, float]:
    """Bytes that attention and gate keep for the backward pass: their inputs."""
    attention = size * (3 * s.map + 2 * s.pooled) if s.K else 0
    return attention, size * 2 * s.B * s.N * s.F


def moved(steps: Iterable[Step | Kernel]) -> float:
    """Bytes of all steps."""
    return sum(step.moved for step in steps)


def seconds(kernels: Iterable[Kernel], gpu: Gpu, precision: str) -> float:
    """Least time of kernels that run one after the other."""
    return sum(kernel.seconds(gpu, precision) for kernel in kernels)


class Op(NamedTuple):
    """An op of a stage: our kernels and the released steps, forward and backward."""

    name: str
    stage: Stage
    compulsory: tuple[float, float]
    ours: tuple[list[Kernel], list[Kernel]]
    released: tuple[list[Step], list[Step], list[Step]]


def ops_of(stages: Sequence[Stage], size: int) -> list[Op]:
    """Attention of the aggregated stages, then the gate of all; 2 or 4 bytes for a number."""
    ops = []
    for s in stages:
        if s.K:
            compulsory = (compulsory_attention(s, size, False), compulsory_attention(s, size, True))
            ours = (attention_forward(s, size), attention_backward(s, size))
            ops.append(Op(f"attention {s.name}", s, compulsory, ours, released_attention(s, size == 2)))
    for s in stages:
        compulsory = (compulsory_gate(s, size, False), compulsory_gate(s, size, True))
        ours = (gate_forward(s, size), gate_backward(s, size))
        ops.append(Op(f"gate {s.name}", s, compulsory, ours, released_gate(s, size == 2)))
    return ops


def number(x: float) -> str:
    """Three digits."""
    return f"{x:,.0f}" if x >= 99.5 else f"{x:.1f}" if x >= 9.95 else f"{x:.2f}"


def pair(values: Iterable[float], unit: float) -> str:
    """Forward / backward."""
    return " / ".join(number(v / unit) for v in values)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints Markdown."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def print_sizes(stages: Sequence[Stage]) -> None:
    rows = []
    for s in stages:
        attention = (str(s.P), f"{s.table:,}", f"{4 * s.M * s.N * s.P / 1e6:,.1f}") if s.K else ("", "", "")
        rows.append((s.name, str(s.depth), f"{s.H}x{s.W}", str(s.M), str(s.F), *attention))
    table(("stage", "blocks", "map", "M", "F", "P", "table entries", "M N P float32, MB"), rows)


def print_work(ops: Sequence[Op]) -> None:
    rows = []
    for op in ops:
        rows.append(
            (
                op.name,
                pair(op.compulsory, 1e6),
                pair((moved(k) for k in op.ours), 1e6),
                pair((sum(k.asked for k in ks) for ks in op.ours), 1e6),
                pair((moved(steps) for steps in op.released[:2]), 1e6),
                pair((sum(k.products + k.as_is for k in ks) for ks in op.ours), 1e9)
                if op.name.startswith("attention")
                else "",
            )
        )
    head = ("op", "each tensor once, MB", "our kernels, MB", "asked of caches, MB", "released, MB")
    table((*head, "products, GFLOP"), rows)


def print_times(ops: Sequence[Op], precision: str) -> None:
    rows = []
    for op in ops:
        cells = [op.name]
        for gpu in GPUS.values():
            cells.append(pair((seconds(k, gpu, precision) for k in op.ours), 1e-6))
            cells.append(pair((moved(steps) / gpu.bandwidth for steps in op.released[:2]), 1e-6))
        rows.append(cells)
    table(("op", *(f"{name}{what}" for name in GPUS for what in ("", ", released at least"))), rows)


def print_kernels(s: Stage, size: int, gpu: str, precision: str) -> None:
    rows = []
    for kernel in (*attention_forward(s, size), *attention_backward(s, size)):
        limits = kernel.limits(GPUS[gpu], precision)
        rows.append((kernel.name, f"{kernel.programs:,}", *(number(t / 1e-6) if t else "" for t in limits.values())))
    table(("kernel", "programs", "memory", "products", "vector", "exponentials"), rows)


def print_model(stages: Sequence[Stage]) -> None:
    rows = []
    for label, size, precision in (("16 bit", 2, "16 bit"), ("float32, TF32", 4, "tf32"), ("float32", 4, "ieee")):
        ops = ops_of(stages, size)
        cells = [label]
        for gpu in GPUS.values():
            cells.append(pair(whole(ops, lambda op, i, g=gpu, p=precision: seconds(op.ours[i], g, p)), 1e-3))
            cells.append(pair(whole(ops, lambda op, i, g=gpu: moved(op.released[i]) / g.bandwidth), 1e-3))
        rows.append(cells)
    table(("dtype", *(f"{name}{what}" for name in GPUS for what in ("", ", released at least"))), rows)


def whole(ops: Sequence[Op], cost: Callable[[Op, int], float]) -> tuple[float, float]:
    """Forward and backward cost of all blocks of a model."""
    forward, backward = (sum(op.stage.depth * cost(op, i) for op in ops) for i in (0, 1))
    return forward, backward


def print_kept(stages: Sequence[Stage]) -> None:
    rows = []
    total = [0.0] * 4
    for s in stages:
        cells = []
        for size in (2, 4):
            ours = sum(kept_by_ours(s, size))
            released = moved(released_gate(s, size == 2)[2])
            if s.K:
                released += moved(released_attention(s, size == 2)[2])
            cells += [ours, released]
        total = [t + s.depth * c for t, c in zip(total, cells, strict=True)]
        rows.append((f"stage {s.name}, a block", *(number(c / 1e6) for c in cells)))
    rows.append(("all blocks", *(number(t / 1e6) for t in total)))
    table(("", "16 bit, MB", "released, autocast", "float32", "released, float32"), rows)


def main(model: str = "transnext_tiny") -> None:
    """Prints Markdown tables.

    Args:
        model: A registered variant.
    """
    workloads = ((128, 224, 224), (2, 800, 1216))
    for batch_size, height, width in workloads:
        stages = stages_of(model, batch_size, height, width)
        print(f"## {model}, batch {batch_size}, {height}x{width}\n")
        print_sizes(stages)
        ops = ops_of(stages, 2)
        print("One block, 16 bit, forward / backward\n")
        print_work(ops)
        print("One block, 16 bit, least microseconds, forward / backward\n")
        print_times(ops, "16 bit")
        print("All blocks, least milliseconds, forward / backward\n")
        print_model(stages)
        print("Attention of stage 1 on an H100, 16 bit, microseconds that each unit is busy\n")
        print_kernels(stages[0], 2, "H100", "16 bit")
        print("Kept for the backward pass\n")
        print_kept(stages)
    one = ops_of(stages_of(model, 1, 224, 224), 2)
    print(f"## {model}, batch 1, 224x224, 16 bit\n")
    rows = []
    for op in one:
        programs = [str(k.programs) for k in (*op.ours[0], *op.ours[1])]
        times = (pair((seconds(k, gpu, "16 bit") for k in op.ours), 1e-6) for gpu in GPUS.values())
        rows.append((op.name, ", ".join(programs), *times))
    table(("op", "programs of each kernel", *(f"{name}, us" for name in GPUS)), rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tyro.cli(main, description=__doc__)
