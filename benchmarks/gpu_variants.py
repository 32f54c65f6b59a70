"""What may be changed about the kernels, one change each: which of it is in them, which is timed, and how it is made.

Letters of tables: A loads, B forward, C backward, D gate, E whole models, F float32 maps, G passes between products.
Tile sizes, warps, stages and bounds of registers come from the lists that the kernels themselves are launched with, so
that they follow those.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

import triton

from transnext.ops.triton import add_norm, attention, gate, gelu_pool
from transnext.ops.triton.compile_ahead import launches
from transnext.ops.triton.launch import Kernel, Launch, config

OF_POOLED_KEYS = ("pooled_gradient", "finish_pooled_gradient")
OF_BIAS = ("bias_gradient", "fold_bias_gradient")
WITH_PRODUCTS = ("attention_forward", "query_gradient", "pooled_gradient", "bias_gradient")
BLOCKS = {"BLOCK_Q": (16, 32, 64, 128), "BLOCK_K": (16, 32, 64)}
"""Tile sizes of the kernels of attention that are tried in all combinations."""

FREE = {"pooled_gradient": ("BLOCK_Q",)}
"""Tile sizes that may be changed although all configurations of a kernel have the same."""

WARPS, STAGES, REGISTERS = (1, 2, 4, 8), (1, 2, 3), (None, 128, 168)
ROWS_OF_A_WARP = 32
MODULES = {"attention": attention, "gate": gate, "add_norm": add_norm, "gelu_pool": gelu_pool}
"""Ops, and where their kernels and numbers are."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A change.

    Attributes:
        name: Letter of its table and what it is.
        what: What it changes.
        state: "open" if it is timed, "adopted" if the kernels are so already, else why it is not timed.
        op: One of `MODULES`.
        kernels: Those whose times are added up.
        config: Of the first of them, instead of the first one in its list.
        constants: Numbers of the op's module, instead of those there.
        splits: Programs that share the queries of a tile of pooled keys; None to leave it to `PROGRAMS_WANTED`.
        precision: Of products, instead of what `product_precision` says.
        maps: "bf16" or "fp32".
        judged: Results whose errors count: "all", "out" or "gradients".
        first: Whether it is timed before those that are not.
    """

    name: str
    what: str
    state: str = "open"
    op: str = "attention"
    kernels: tuple[str, ...] = ()
    config: triton.Config | None = None
    constants: Mapping[str, int] = field(default_factory=dict)
    splits: int | None = None
    precision: str | None = None
    maps: str = "bf16"
    judged: str = "all"
    first: bool = True

    @property
    def baseline(self) -> "Variant":
        """What it is compared with: the same kernels as they are."""
        return Variant(name=f"as it is, {self.op}, {self.maps}", what="", op=self.op, maps=self.maps)


@lru_cache
def kernels() -> dict[str, Launch]:
    """A launch of every kernel of the ops, as `compile_ahead` notes them down."""
    theirs = [value for module in MODULES.values() for value in vars(module).values()]
    return {one.kernel.function.__name__: one for one in launches("bf16", 0) if one.kernel in theirs}


def op_of(kernel: Kernel) -> str:
    """The op that launches a kernel."""
    return next(op for op, module in MODULES.items() if any(value is kernel for value in vars(module).values()))


def words(made: triton.Config) -> str:
    """A configuration in short."""
    blocks = " ".join(f"{name.removeprefix('BLOCK_')}{value}" for name, value in made.kwargs.items())
    registers = "" if made.maxnreg is None else f" r{made.maxnreg}"
    return f"{blocks} w{made.num_warps} s{made.num_stages}{registers}"


@contextmanager
def applied(variant: Variant, programs: int) -> Iterator[None]:
    """Has the ops run so.

    Args:
        variant: The change.
        programs: Of the gradient by pooled key, were it not split: images x heads x tiles of 32 pooled keys.
    """
    numbers = dict(variant.constants)
    if variant.splits is not None:
        numbers["PROGRAMS_WANTED"] = variant.splits * programs
    functions = {} if variant.precision is None else {"product_precision": lambda dtype: variant.precision}
    module = MODULES[variant.op]
    before = {name: getattr(module, name) for name in (*numbers, *functions)}
    kernel = kernels()[variant.kernels[0]].kernel if variant.config is not None else None
    configs = [] if kernel is None else kernel.configs
    for name, value in {**numbers, **functions}.items():
        setattr(module, name, value)
    if kernel is not None:
        kernel.configs = [variant.config]
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
        if kernel is not None:
            kernel.configs = configs


def configs_of(launch: Launch) -> list[tuple[triton.Config, bool]]:
    """Configurations to try beside the first one of a kernel, and whether it has them in its own list."""
    kernel = launch.kernel
    first, *listed = kernel.configs
    found = [(one, True) for one in listed]
    free = [name for name in first.kwargs if len({one.kwargs[name] for one in kernel.configs}) > 1]
    free += [name for name in FREE.get(kernel.function.__name__, ()) if name not in free]
    tiles: list[dict[str, int]] = []
    if op_of(kernel) == "attention":
        for sizes in product(*(BLOCKS[name] for name in free)):
            tiles.append(dict(zip(free, sizes, strict=True)))
    else:  # how its tiles hang together is its own business: one step beyond what it lists, one size at a time
        for name in free:
            sizes = {one.kwargs[name] for one in kernel.configs}
            tiles += [{name: size} for size in sorted({*sizes, min(sizes) // 2, 2 * max(sizes)}) if size]
    for changed in tiles:
        warps = first.num_warps
        if "BLOCK_Q" in changed:
            warps = max(1, changed["BLOCK_Q"] // ROWS_OF_A_WARP)
        found.append((like(first, {**first.kwargs, **changed}, num_warps=warps), False))
    if op_of(kernel) != "attention" or len(kernel.configs) > 1:  # the others take no time to speak of
        found += [(like(first, first.kwargs, num_warps=warps), False) for warps in WARPS]
        found += [(like(first, first.kwargs, num_stages=stages), False) for stages in STAGES]
        found += [(like(first, first.kwargs, maxnreg=registers), False) for registers in REGISTERS]
    return found


def like(one: triton.Config, blocks: Mapping[str, int], **changes: Any) -> triton.Config:
    """A configuration with other tiles and other options."""
    options = {"num_warps": one.num_warps, "num_stages": one.num_stages, "maxnreg": one.maxnreg, **changes}
    return config(options["num_warps"], options["num_stages"], options["maxnreg"], **blocks)


def of_configs() -> Iterator[Variant]:
    """One for each configuration that a kernel would be launched in."""
    for name, launch in kernels().items():
        seen = [launch.kernel.options(launch.kernel.configs[0], launch.kwargs)]
        op = op_of(launch.kernel)
        letter = {"gate": "D", "add_norm": "G", "gelu_pool": "G"}.get(op)
        letter = letter or ("B" if name in ("attention_factors", "attention_forward") else "C")
        for one, listed in configs_of(launch):
            options = launch.kernel.options(one, launch.kwargs)  # some options are left out for some kernels
            if options not in seen:
                seen.append(options)
                what = "of its own list" if listed else "tiles, warps, stages, bound of registers"
                yield Variant(
                    name=f"{letter} {name} {words(one)}", what=what, op=op, kernels=(name,), config=one, first=listed
                )


NOT_TIMED = (
    Variant(name="A1", what="strides in units of 16 bytes", state="adopted"),
    Variant(name="B1", what="neighbours have a softmax of their own until the end", state="adopted"),
    Variant(name="B2", what="16-bit products of the maps as they are, weights as two halves", state="adopted"),
    Variant(name="B5", what="a thread for each query in the local part", state="adopted"),
    Variant(name="B6", what="the local part as a banded product", state="another kernel, which is not written"),
    Variant(name="B7", what="the bias loaded in the layout of the logits", state="adopted"),
    Variant(name="B7 expanded", what="the bias expanded beforehand", state="another kernel, which is not written"),
    Variant(name="B8", what="powers of two instead of e", state="adopted"),
    Variant(name="C1", what="log-sum-exp kept for the gradient", state="adopted"),
    Variant(name="C2", what="one pass over the keys", state="adopted"),
    Variant(name="C5 joined", what="bias and pooled keys in one kernel", state="another kernel, which is not written"),
    Variant(name="C6", what="atomics on the table", state="refused: other bits in every run"),
    Variant(name="D1 to D7", what="the gate", op="gate", state="as its kernels are; timed by configuration"),
    Variant(name="D4", what="the gate by cuDNN and Inductor", op="gate", state="timed as an op: table C"),
    Variant(name="E bf16 stream", what="weights and stream in bfloat16", state="timed as a model: table D"),
    Variant(name="E channels_last", what="images with channels last", state="timed as a model: table D"),
    Variant(name="E stage 4", what="SDPA's back-ends", state="timed as an op: table C"),
    Variant(
        name="E passes", what="passes between products in one kernel", state="as they are; timed as a model: table D"
    ),
)


def of_numbers() -> Iterator[Variant]:
    """Changes of numbers that are no configurations, and of products."""
    yield Variant(
        name="B3 single 16-bit weights",
        what="softmax weights rounded once, one product instead of two",
        kernels=("attention_forward",),
        precision="tf32",
        judged="out",
    )
    yield Variant(
        name="C3 single 16-bit gradients",
        what="weights and gradients of logits rounded once",
        kernels=("query_gradient", "pooled_gradient"),
        precision="tf32",
        judged="gradients",
    )
    for splits in (1, 2, 4, 8):
        yield Variant(
            name=f"C4 {splits} splits",
            what="programs that share the queries of a tile of pooled keys",
            kernels=OF_POOLED_KEYS,
            splits=splits,
        )
    for wanted in (512, 1024, 4096, 8192):
        for letter, names in (("C4 pooled keys", OF_POOLED_KEYS), ("C5 bias", OF_BIAS)):
            yield Variant(
                name=f"{letter} {wanted} programs",
                what="PROGRAMS_WANTED: shares of queries, or images of a program",
                kernels=names,
                constants={"PROGRAMS_WANTED": wanted},
            )
    for shift in (-1, 1, 2):
        entries = attention.MAX_DENSE_ENTRIES << shift if shift > 0 else attention.MAX_DENSE_ENTRIES >> -shift
        yield Variant(
            name=f"C5 bias {entries * 4 >> 20} MB at once",
            what="MAX_DENSE_ENTRIES",
            kernels=OF_BIAS,
            constants={"MAX_DENSE_ENTRIES": entries},
        )
    first = attention.QUERY_GRADIENT.configs[0]
    for queries in (16, 64):
        yield Variant(
            name=f"C query_gradient {queries} queries",
            what="SUMS_BLOCK_Q",
            kernels=("query_gradient",),
            config=like(first, first.kwargs, num_warps=max(1, queries // ROWS_OF_A_WARP)),
            constants={"SUMS_BLOCK_Q": queries},
        )
    for programs in (512, 2048, 4096):
        yield Variant(
            name=f"G add_layer_norm_gradient {programs} programs",
            what="MAX_PROGRAMS: tiles of a program",
            op="add_norm",
            kernels=("add_layer_norm_gradient",),
            constants={"MAX_PROGRAMS": programs},
        )
    first = add_norm.BACKWARD.configs[0]
    for numbers in (1024, 4096):
        yield Variant(
            name=f"G add_layer_norm_gradient {numbers} numbers",
            what="NUMBERS: of a tile, a warp for as many as now",
            op="add_norm",
            kernels=("add_layer_norm_gradient",),
            config=like(first, {"NUMBERS": numbers}, num_warps=first.num_warps * numbers // add_norm.NUMBERS),
            constants={"NUMBERS": numbers},
        )
    for pixels in (1, 2, 8, 16):
        yield Variant(
            name=f"G gelu_pool {pixels} pixels",
            what="PIXELS_OF_A_LANE",
            op="gelu_pool",
            kernels=("gelu_pool",),
            constants={"PIXELS_OF_A_LANE": pixels},
        )
    for precision in ("ieee", "tf32", "bf16x3"):
        yield Variant(
            name=f"F float32 maps, {precision}",
            what="products of float32 maps, three TF32 ones now",
            kernels=WITH_PRODUCTS,
            precision=precision,
            maps="fp32",
        )


@lru_cache
def variants() -> dict[str, Variant]:
    """All by name, those that are timed first in front."""
    timed = [*of_numbers(), *of_configs()]
    every = [*NOT_TIMED, *sorted(timed, key=lambda one: not one.first)]
    return {one.name: one for one in every}


def open_ones(chosen: Iterable[str] = ()) -> list[Variant]:
    """Those that are timed, or the chosen ones of them."""
    return [one for one in variants().values() if one.state == "open" and (not chosen or one.name in chosen)]
