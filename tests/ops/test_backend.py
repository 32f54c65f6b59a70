"""Which implementation runs, why, and what wrong arguments are told."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.attention_cases import TENSORS, Inputs, attention_inputs, cast, gate_inputs
from transnext.ops import BACKENDS, aggregated_attention, axis_index, backend, depthwise_conv_gelu_gate
from transnext.ops.backend import kernels_missing, use_fused, why_not_cpu_kernels, why_not_fused
from transnext.ops.register import CPU_KERNELS

pytestmark = pytest.mark.usefixtures("one_thread")

needs_kernels = pytest.mark.skipif(CPU_KERNELS is None, reason="the compiled kernels are not there")

NO_KERNELS = "there are kernels for CPUs and for NVIDIA and AMD GPUs, the tensors are on "
ATTENTION, GATE = "transnext::aggregated_attention", "transnext::depthwise_conv_gelu_gate"


def test_kernels_are_there_where_they_can_be_built() -> None:
    """Without them most tests of this folder are skipped, which must not happen unnoticed."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if os.environ.get("TRANSNEXT_NO_EXTENSION") == "1" or sys.platform == "win32" or shutil.which(compiler) is None:
        pytest.skip("the kernels cannot be built here")
    assert CPU_KERNELS is not None


def float_inputs(**options: Any) -> Inputs:
    return cast(attention_inputs(4, 5, 2, 2, **options), torch.float32)


def float_gate() -> dict[str, Tensor]:
    return dict(zip(("x", "weight", "bias"), (t.float() for t in gate_inputs(1, 4, 5, 3)), strict=True))


def kernels_called(*calls: Any) -> set[str]:
    """Names of our ops that the calls dispatch to."""
    with torch.profiler.profile() as profile:
        for call in calls:
            call()
    return {event.key for event in profile.key_averages() if event.key in (ATTENTION, GATE)}


@needs_kernels
@pytest.mark.parametrize("backend", ["auto", "fused"])
def test_kernels_run(backend: str) -> None:
    inputs, gate = float_inputs(), float_gate()
    assert kernels_called(
        lambda: aggregated_attention(**inputs, backend=backend),
        lambda: depthwise_conv_gelu_gate(**gate, backend=backend),
    ) == {ATTENTION, GATE}


def test_reference_runs_where_it_is_asked_for() -> None:
    inputs, gate = float_inputs(), float_gate()
    assert not kernels_called(
        lambda: aggregated_attention(**inputs, backend="reference"),
        lambda: depthwise_conv_gelu_gate(**gate, backend="reference"),
    )


@pytest.mark.parametrize("backend", ["", "cuda", "Fused", "AUTO"])
def test_unknown_backend(backend: str) -> None:
    expected = rf"backend is '{backend}': expected one of {', '.join(map(repr, BACKENDS))}"
    with pytest.raises(ValueError, match=expected):
        aggregated_attention(**float_inputs(), backend=backend)
    with pytest.raises(ValueError, match=expected):
        depthwise_conv_gelu_gate(**float_gate(), backend=backend)


def with_axis_of_some_queries() -> Inputs:
    inputs = float_inputs()
    rows = inputs["rows"]
    return {**inputs, "rows": rows._replace(table_size=None)}


# Arguments of attention that the kernels do not take, and the reason that is given.
NOT_FUSED: dict[str, tuple[Any, str]] = {
    "float64 maps": (lambda: attention_inputs(4, 5, 2, 2), "float64 goes to the reference"),
    "maps of two dtypes": (lambda: {**float_inputs(), "k": float_inputs()["k"].half()}, "the maps differ in dtype"),
    "a float64 parameter": (
        lambda: {**float_inputs(), "temperature": float_inputs()["temperature"].double()},
        "a parameter is neither",
    ),
    "dropout": (lambda: {**float_inputs(), "dropout_p": 0.5}, "dropout of attention weights is the reference's alone"),
    "an index of some queries": (with_axis_of_some_queries, "the index covers some of the queries"),
}


@needs_kernels
@pytest.mark.parametrize("case", NOT_FUSED)
def test_reasons_not_to_run_attention_kernels(case: str) -> None:
    make, reason = NOT_FUSED[case]
    inputs = make()
    with pytest.raises(ValueError, match=f'backend is "fused", but .*{reason}'):
        aggregated_attention(**inputs, backend="fused")
    assert not kernels_called(lambda: aggregated_attention(**inputs, backend="auto"))


@needs_kernels
def test_reasons_not_to_run_the_gate_kernel() -> None:
    gate = float_gate()
    for arguments, reason in (
        ({name: t.double() for name, t in gate.items()}, "float64 goes to the reference"),
        ({**gate, "weight": gate["weight"].double()}, "a parameter is neither"),
        ({**gate, "weight": torch.zeros(3, 1, 5, 5)}, "the kernel has side 5, and the compiled one has 3"),
    ):
        with pytest.raises(ValueError, match=f'backend is "fused", but .*{reason}'):
            depthwise_conv_gelu_gate(**arguments, backend="fused")
        assert not kernels_called(lambda arguments=arguments: depthwise_conv_gelu_gate(**arguments))


@needs_kernels
def test_reasons_of_the_predicate() -> None:
    x = torch.zeros(1)
    assert why_not_fused([x]) is None
    assert why_not_fused([x.bfloat16(), x.bfloat16()]) is None
    assert why_not_fused([x.to("meta")]) == NO_KERNELS + "meta"
    assert why_not_cpu_kernels([x]) is None
    assert why_not_cpu_kernels([x.to("meta")]) == "these kernels are for the CPU, the tensors are on meta"
    assert why_not_fused([x, x.to("meta")]) == "the maps differ in dtype or device"
    for dtype, name in ((torch.float64, "float64"), (torch.int32, "int32"), (torch.complex64, "complex64")):
        assert why_not_fused([x.to(dtype)]) == f"the kernels compute in float32: {name} goes to the reference"


def test_kernels_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (kernels_missing("cuda") is None) == (find_spec("triton") is not None)
    monkeypatch.setattr(backend, "HAS_TRITON", False)
    assert kernels_missing("cuda") == "Triton, which the kernels for GPUs are written in, is not installed"
    for kind in ("mps", "xpu"):
        assert kernels_missing(kind) == NO_KERNELS + kind


def test_gpus_have_the_two_ops() -> None:
    for name in (ATTENTION, GATE):
        for op in (name, f"{name}_backward"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(op, "CUDA")


def test_the_decision() -> None:
    assert not use_fused("reference", None)
    assert not use_fused("reference", "of something")
    if CPU_KERNELS is not None:
        assert use_fused("auto", None)
        assert not use_fused("auto", "of something")
    assert use_fused("fused", None)
    with pytest.raises(ValueError, match='backend is "fused", but of something'):
        use_fused("fused", "of something")


@needs_kernels
def test_transforms_of_torch_func_get_the_reference() -> None:
    gate = float_gate()
    expected = depthwise_conv_gelu_gate(**gate, backend="reference")

    def op(x: Tensor, backend: str = "auto") -> Tensor:
        return depthwise_conv_gelu_gate(x, gate["weight"], gate["bias"], backend)

    torch.testing.assert_close(torch.func.vmap(op)(gate["x"][None])[0], expected)
    _, tangent = torch.func.jvp(op, (gate["x"],), (gate["x"],))
    _, exact = torch.func.jvp(lambda x: op(x, "reference"), (gate["x"],), (gate["x"],))
    torch.testing.assert_close(tangent, exact)
    with torch.autograd.forward_ad.dual_level():
        dual = op(torch.autograd.forward_ad.make_dual(gate["x"], gate["x"]))
        tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent
    assert tangent is not None
    torch.testing.assert_close(tangent, exact)
    with pytest.raises(ValueError, match=r'backend is "fused", but the kernels have no rule for .* torch\.func'):
        torch.func.vmap(lambda x: op(x, "fused"))(gate["x"][None])


@needs_kernels
def test_jit_trace_records_the_reference() -> None:
    gate = float_gate()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and sizes are compared in Python
        traced = torch.jit.trace(lambda x: depthwise_conv_gelu_gate(x, gate["weight"], gate["bias"]), gate["x"])
    kinds = {node.kind() for node in traced.graph.nodes()}
    assert any(kind.startswith("aten::") for kind in kinds)
    assert not any(kind.startswith("transnext::") for kind in kinds)


@needs_kernels
@pytest.mark.parametrize("backend", ["auto", "fused"])
def test_compiled_graphs_hold_the_ops(backend: str) -> None:
    inputs, gate = float_inputs(), float_gate()

    def both(q: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        first = aggregated_attention(**{**inputs, "q": q}, backend=backend)
        return first, depthwise_conv_gelu_gate(x, gate["weight"], gate["bias"], backend)

    expected = both(inputs["q"], gate["x"])
    found = torch.compile(both, backend="aot_eager", fullgraph=True)(inputs["q"], gate["x"])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    class Both(torch.nn.Module):
        def forward(self, q: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return both(q, x)

    exported = torch.export.export(Both(), (inputs["q"], gate["x"]))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert {"transnext.aggregated_attention.default", "transnext.depthwise_conv_gelu_gate.default"} <= targets


WITHOUT_KERNELS = """
import importlib.abc, json, sys, warnings

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "transnext.ops._cpu":
            raise ImportError("blocked")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
import torch
from tests.helpers.attention_cases import attention_inputs, cast
from transnext.ops import aggregated_attention, depthwise_conv_gelu_gate
from transnext.ops.register import CPU_KERNELS

inputs = cast(attention_inputs(4, 5, 2, 2), torch.float32)
x, weight = torch.randn(1, 4, 5, 6), torch.randn(3, 1, 3, 3)
quiet = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        aggregated_attention(**inputs, backend="reference")
    quiet = [str(w.message) for w in caught]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        attention = aggregated_attention(**inputs)
        gate = depthwise_conv_gelu_gate(x, weight, None)
    warned = [str(w.message) for w in caught]
errors = []
for call in (lambda: aggregated_attention(**inputs, backend="fused"),
             lambda: depthwise_conv_gelu_gate(x, weight, None, backend="fused")):
    try:
        call()
    except ValueError as error:
        errors.append(str(error))
same = [torch.equal(attention, aggregated_attention(**inputs, backend="reference")),
        torch.equal(gate, depthwise_conv_gelu_gate(x, weight, None, backend="reference"))]
said = {"kernels": CPU_KERNELS is not None, "quiet": quiet, "warned": warned, "errors": errors, "same": same}
print(json.dumps(said))
"""


def test_without_the_extension() -> None:
    """In a process of its own, in which the compiled module cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_KERNELS, str(Path(__file__).resolve().parents[2])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert not said["kernels"]
    assert said["quiet"] == []
    assert said["same"] == [True, True]
    reason = "the compiled kernels were not built: install a C++ compiler and reinstall transnext"
    assert said["warned"] == [f"transnext runs its reference path, several times slower: {reason}"]
    assert said["errors"] == [f'backend is "fused", but {reason}'] * 2


# Name of an argument of attention -> a change that makes it wrong, and what the error says of it.
WRONG_SHAPES: dict[str, tuple[Any, str]] = {
    "q": (lambda t: t[0], r"q has shape \(4, 5, 2, 3\): expected \[B, H, W, M, D\]"),
    "k": (lambda t: t[:, :3], r"k has shape \(1, 3, 5, 2, 3\): expected \(1, 4, 5, 2, 3\)"),
    "v": (lambda t: t[..., :2], r"v has shape \(1, 4, 5, 2, 2\): expected \(1, 4, 5, 2, 3\)"),
    "k_pool": (lambda t: t[:, :0], r"k_pool has shape \(1, 0, 2, 2, 3\): expected \[B, P_h, P_w, M, D\]"),
    "v_pool": (lambda t: t.transpose(3, 4), r"v_pool has shape \(1, 2, 2, 3, 2\): expected \(1, 2, 2, 2, 3\)"),
    "query_embedding": (lambda t: t[:, 0], r"query_embedding has shape \(2, 3\): expected \(2, 1, 3\)"),
    "temperature": (lambda t: t[:1], r"temperature has shape \(1, 1, 1\): expected \(2, 1, 1\)"),
    "relative_pos_bias_local": (lambda t: t[:, :8], r"relative_pos_bias_local has shape \(2, 8\): expected \[2, K\]"),
    "learnable_tokens": (lambda t: t[..., :4], r"learnable_tokens has shape \(2, 3, 4\): expected \(2, 3, 9\)"),
    "learnable_bias": (lambda t: t[0], r"learnable_bias has shape \(1, 9\): expected \(2, 1, 9\)"),
    "bias_table": (lambda t: t[:, 1:], r"bias_table has shape \(2, 5, 17\): expected \(2, 6, 17\)"),
    "rows": (lambda _: axis_index(3, 3), r"bias_table has shape \(2, 6, 17\): expected \(2, 5, 17\)"),
    "cols": (
        lambda t: t._replace(taps=t.taps[:3]),
        r"cols is an index of \(3, 2\) queries and keys: expected \(5, 2\)",
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shapes_of_attention(name: str, backend: str) -> None:
    change, message = WRONG_SHAPES[name]
    inputs = float_inputs()
    with pytest.raises(ValueError, match=message):
        aggregated_attention(**{**inputs, name: change(inputs[name])}, backend=backend)


@pytest.mark.parametrize("window", [(2, 4), (2, 16), (2, 10), (2, 0), ()])
def test_windows_that_are_no_odd_squares(window: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"relative_pos_bias_local has shape .* the square of an odd window"):
        aggregated_attention(**{**float_inputs(), "relative_pos_bias_local": torch.zeros(window)})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_wrong_dtypes_of_attention(name: str, dtype: torch.dtype, backend: str) -> None:
    inputs = float_inputs()
    with pytest.raises(ValueError, match=rf"{name} has dtype {dtype}: expected a floating-point one"):
        aggregated_attention(**{**inputs, name: inputs[name].to(dtype)}, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in TENSORS if name != "q"])
def test_wrong_devices_of_attention(name: str, backend: str) -> None:
    inputs = float_inputs()
    with pytest.raises(ValueError, match=f"{name} is on meta, but q is on cpu"):
        aggregated_attention(**{**inputs, name: inputs[name].to("meta")}, backend=backend)


def test_queries_on_another_device() -> None:
    inputs = float_inputs()
    with pytest.raises(ValueError, match="k is on cpu, but q is on meta"):
        aggregated_attention(**{**inputs, "q": inputs["q"].to("meta")})


WRONG_GATES: list[tuple[dict[str, Any], str]] = [
    ({"x": torch.zeros(4, 5, 6)}, r"x has shape \(4, 5, 6\): expected \[B, H, W, 2 F\]"),
    ({"x": torch.zeros(1, 4, 5, 7)}, r"x has shape \(1, 4, 5, 7\): expected \[B, H, W, 2 F\]"),
    ({"x": torch.zeros(1, 4, 5, 8)}, r"weight has shape \(3, 1, 3, 3\): expected \(4, 1, k, k\), k odd"),
    ({"weight": torch.zeros(3, 1, 2, 2)}, r"weight has shape \(3, 1, 2, 2\): expected \(3, 1, k, k\), k odd"),
    ({"weight": torch.zeros(3, 1, 3, 5)}, r"weight has shape \(3, 1, 3, 5\)"),
    ({"weight": torch.zeros(3, 3)}, r"weight has shape \(3, 3\)"),
    ({"weight": torch.zeros(())}, r"weight has shape \(\)"),
    ({"bias": torch.zeros(4)}, r"bias has shape \(4,\): expected \(3,\)"),
    ({"x": torch.zeros(1, 4, 5, 6, dtype=torch.int64)}, r"x has dtype torch.int64: expected a floating-point one"),
    ({"weight": torch.zeros(3, 1, 3, 3, dtype=torch.bool)}, r"weight has dtype torch.bool"),
    ({"bias": torch.zeros(3, dtype=torch.int32)}, r"bias has dtype torch.int32"),
    ({"weight": torch.zeros(3, 1, 3, 3, device="meta")}, "weight is on meta, but x is on cpu"),
    ({"bias": torch.zeros(3, device="meta")}, "bias is on meta, but x is on cpu"),
    ({"x": torch.zeros(1, 4, 5, 6, device="meta")}, "weight is on cpu, but x is on meta"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("changes", "message"), WRONG_GATES)
def test_wrong_arguments_of_the_gate(changes: dict[str, Any], message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        depthwise_conv_gelu_gate(**{**float_gate(), **changes}, backend=backend)


@needs_kernels
def test_meta_tensors_get_shapes() -> None:
    """Both paths tell shapes without data."""
    inputs, gate = float_inputs(), float_gate()
    on_meta = {name: t.to("meta") if isinstance(t, Tensor) else t for name, t in inputs.items()}
    on_meta |= {name: axis_index(*size, device="meta") for name, size in (("rows", (4, 2)), ("cols", (5, 2)))}
    assert aggregated_attention(**on_meta).shape == inputs["q"].shape
    assert depthwise_conv_gelu_gate(**{name: t.to("meta") for name, t in gate.items()}).shape == (1, 4, 5, 3)


@needs_kernels
def test_choice_of_instruction_set() -> None:
    assert CPU_KERNELS is not None
    names, used = CPU_KERNELS.instruction_sets(), CPU_KERNELS.instruction_set()
    assert used == names[-1], "the fastest, unless told otherwise"
    assert names[0] in ("baseline", "NEON")
    try:
        for name in names:
            CPU_KERNELS.use_instruction_set(name)
            assert CPU_KERNELS.instruction_set() == name
            assert CPU_KERNELS.panel_width() % 4 == 0
        for unknown in ("", "MMX", None):
            with pytest.raises(ValueError, match="no such instruction set"):
                CPU_KERNELS.use_instruction_set(unknown)
            assert CPU_KERNELS.instruction_set() == names[-1]
    finally:
        CPU_KERNELS.use_instruction_set(used)
