"""`transnext info` says which implementation runs, and why."""

import pytest
import torch

from transnext.cli import info as command
from transnext.cli import main
from transnext.ops import backend


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    main(["info"])
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
    assert rows(capsys)["16-bit products"].startswith("native" if native else "not native")


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
