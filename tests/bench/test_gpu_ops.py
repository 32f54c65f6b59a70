"""The formulations that the kernels are compared with on a GPU compute the same."""

from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("formulation", ["with_sdpa", "with_flex"])
@pytest.mark.parametrize("sizes", [(6, 8, 2), (7, 5, 3)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_formulations(formulation: str, sizes: tuple[int, int, int], gpu_ops: ModuleType) -> None:
    H, W, ratio = sizes
    inputs = gpu_ops.make_inputs(2, H, W, 2, ratio, torch.float32, "cpu")
    expected = gpu_ops.op(inputs, "reference")
    with torch.no_grad():  # on the CPU FlexAttention has no gradient
        torch.testing.assert_close(getattr(gpu_ops, formulation)(inputs)(), expected, rtol=1e-4, atol=1e-5)


def test_prints_a_table(gpu_ops: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """What fails is said in its cell, and the others go on."""
    monkeypatch.setattr(gpu_ops, "with_sdpa", lambda inputs: 1 / 0)
    monkeypatch.setattr(gpu_ops.torch, "compile", lambda function: function)
    gpu_ops.main(size=(32, 32), batch_size=1, dtypes=("float32",), rounds=1, device="cpu")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 ")]
    assert len(rows) == 2
    assert all("division by zero" in row for row in rows)
    assert "x)" in rows[0]
