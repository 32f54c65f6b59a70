"""`transnext info` says which implementation runs, and why."""

import pytest
import torch

from transnext.cli import info as command
from transnext.cli import main
from transnext.models import fast
from transnext.models.variants import WEIGHTS
from transnext.ops import attention_global, backend


def rows(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, str]:
    main(["info", *args])
    return {line[:16].strip(): line[17:] for line in capsys.readouterr().out.splitlines()}


@pytest.mark.skipif(backend.CPU_KERNELS is None, reason="the kernels were not built")
def test_with_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys)
    assert found["runs on cpu"] == "fused kernels"
    in_use, _, available = found["CPU kernels"].rstrip(")").partition(" (available: ")
    assert in_use in available.split(", ")
    assert "baseline" in available
    assert found["threads"] == str(torch.get_num_threads())


@pytest.mark.parametrize("native", [False, True])
def test_16_bit_products(native: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "has_16_bit_products", lambda: native)
    assert rows(capsys)["16-bit products"] == ("native, by PyTorch" if native else "not native, no faster than float32")


def test_without_kernels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "CPU_KERNELS", None)
    monkeypatch.setattr(command, "CPU_KERNELS", None)
    found = rows(capsys)
    assert found["runs on cpu"].startswith("reference (plain PyTorch): ")
    assert "compiler" in found["runs on cpu"]
    assert found["CPU kernels"].startswith("none: ")


@pytest.mark.skipif(backend.CPU_KERNELS is None, reason="the kernels were not built")
def test_an_accelerator_runs_the_reference(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's meta device stands for CUDA, MPS and XPU, which a machine may not have."""
    monkeypatch.setattr(command, "pick_device", lambda: torch.device("meta"))
    found = rows(capsys)
    assert found["runs on meta"].startswith("reference (plain PyTorch): ")
    assert "on meta" in found["runs on meta"]
    assert found["runs on cpu"] == "fused kernels", "for those who choose the CPU all the same"


def test_kernels_of_gpus(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if backend.HAS_TRITON:
        assert rows(capsys)["GPU kernels"].startswith("Triton ")
    monkeypatch.setattr(backend, "HAS_TRITON", False)
    assert rows(capsys)["GPU kernels"].endswith("is not installed")


def test_devices_without_kernels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Mac is told, with a device that is here."""
    monkeypatch.setattr(command, "pick_device", lambda: torch.device("meta"))
    assert rows(capsys)["runs on meta"] == (
        "reference (plain PyTorch): there are kernels for CPUs and for NVIDIA and AMD GPUs, the tensors are on meta"
    )


INFERENCE = (
    "6 blocks by kernels [norm_linear x17, adaptive_average_pool x5, position_bias_table x6, aggregated_attention"
)


@pytest.mark.skipif(backend.CPU_KERNELS is None, reason="the kernels were not built")
def test_of_a_model(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fast, attention_global):
        monkeypatch.setattr(module, "has_16_bit_products", lambda dtype: dtype == torch.bfloat16)
    found = rows(capsys, "transnext_pico.emoji")
    assert found["model"] == "transnext_pico.emoji, an image of 64x64"
    assert found["inference"] == f"{INFERENCE} x5, conv_glu x6, global_attention x1]"
    assert found["inference bf16"].startswith("6 blocks not by kernels alone: this processor multiplies 16-bit")
    assert found["training"].startswith("6 blocks by kernels [linear x")
    assert found["training bf16"] == (
        "6 blocks not by kernels alone: the kernels have gradients in float32 alone, and not under autocast "
        "[position_bias_table x6, aggregated_attention x5, depthwise_conv_gelu_gate x6]"
    )


def test_of_a_model_with_bfloat16_products(bfloat16_products: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "transnext_pico.emoji")
    assert found["16-bit products"] == f"native, by the kernels: {bfloat16_products}"
    assert found["inference bf16"] == f"{INFERENCE} x5, conv_glu x6, global_attention x1]"
    assert found["training bf16"].startswith("6 blocks by kernels [linear x")
    assert found["training"] == found["training bf16"]


@pytest.mark.filterwarnings("ignore:transnext runs its reference path")
def test_of_a_model_without_kernels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "CPU_KERNELS", None)
    found = rows(capsys, str(WEIGHTS / "transnext_pico_emoji.safetensors"))
    for row in ("inference", "inference bf16", "training", "training bf16"):
        assert found[row] == (
            "6 blocks not by kernels alone: the compiled kernels were not built: install a C++ compiler and reinstall "
            "transnext [no kernel]"
        )


def test_of_other_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys, "resnet10t")["model"] == "resnet10t, which is no TransNeXt and runs as PyTorch runs it"
    for name, message in (("transnext_huge", "no model is called 'transnext_huge'"), ("a/b", "no file or folder a/b")):
        with pytest.raises(SystemExit) as stop:
            main(["info", name])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
