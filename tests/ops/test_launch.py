"""How kernels for GPUs are launched: which configuration, and when none is tried."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton

from transnext.ops.triton import launch
from transnext.ops.triton.launch import (
    Kernel,
    config,
    noted_launches,
    parts_of,
    product_precision,
    size_class,
    stride_unit,
)


class Recorder:
    """Stands for a kernel, or for the tuner, that is launched."""

    def __init__(self) -> None:
        self.launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
        self.best_config = SECOND

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: self.launches.append((grid, args, kwargs))


FIRST, SECOND = config(4, BLOCK=16), config(8, 2, BLOCK=32)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.delenv("TRANSNEXT_TUNE", raising=False)
    monkeypatch.setattr(triton, "autotune", lambda **_: lambda function: Recorder())
    return Kernel(Recorder(), [FIRST, SECOND], ("SIZE",))


def blocks(kernel: Kernel) -> list[int]:
    return [kwargs["BLOCK"] for _, _, kwargs in kernel.function.launches]


def test_tuned_once_for_each_key(kernel: Kernel) -> None:
    for size in (1, 1, 2, 1):
        kernel[(3,)](7, SIZE=size)
    assert [kwargs["SIZE"] for _, _, kwargs in kernel._tuner.launches] == [1, 2]
    assert kernel.function.launches == [((3,), (7,), {"SIZE": s, **SECOND.all_kwargs()}) for s in (1, 1, 2, 1)]


def test_first_configuration_without_tuning(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSNEXT_TUNE", "0")
    kernel[(1,)](SIZE=1)
    assert kernel._tuner.launches == []
    assert blocks(kernel) == [16]
    monkeypatch.setenv("TRANSNEXT_TUNE", "1")
    kernel[(1,)](SIZE=1)
    assert blocks(kernel) == [16, 32]


def test_nothing_is_tried_while_a_graph_is_captured(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel[(1,)](SIZE=1)
    monkeypatch.setattr(launch, "is_capturing", lambda: True)
    kernel[(1,)](SIZE=1)
    kernel[(1,)](SIZE=2)
    assert blocks(kernel) == [32, 32, 16]  # what was chosen before, and what is first
    monkeypatch.setattr(launch, "is_capturing", lambda: False)
    kernel[(1,)](SIZE=2)
    assert blocks(kernel)[-1] == 32
    assert len(kernel._tuner.launches) == 2


def test_one_thread_tunes(kernel: Kernel) -> None:
    threads = [threading.Thread(target=lambda: kernel[(1,)](SIZE=1)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blocks(kernel) == [32] * 8
    assert len(kernel._tuner.launches) == 1


def test_noted_instead_of_made(kernel: Kernel) -> None:
    with noted_launches() as noted:
        kernel[(2,)](5, SIZE=1)
    assert noted == [(kernel, (2,), (5,), {"SIZE": 1})]
    assert kernel.function.launches == []


def test_precision_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three TF32 products, unless others are asked for; 16-bit maps are not asked about."""
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.setattr(torch.version, "hip", None)
    for asked, expected in (("none", "tf32x3"), ("ieee", "ieee"), ("tf32", "tf32")):
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision=asked))
        assert product_precision(torch.float32) == expected
        assert product_precision(torch.bfloat16) == "tf32x3"
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert product_precision(torch.float32) == "ieee"


def test_parts_of_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles where that leaves less room to spare than one."""
    monkeypatch.setattr(torch.version, "hip", None)
    found = {D: parts_of(D) for D in (1, 16, 17, 24, 25, 32, 40, 48, 49, 64)}
    assert found == {
        **{1: (16, 0), 16: (16, 0), 17: (16, 8), 24: (16, 8), 25: (32, 0), 32: (32, 0)},
        **{40: (32, 8), 48: (32, 16), 49: (64, 0), 64: (64, 0)},
    }
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert parts_of(24) == (32, 0)


def test_unit_of_strides() -> None:
    maps = torch.empty(2, 3, 4, 2, 3, 24, dtype=torch.bfloat16).unbind(3)
    assert stride_unit(*maps) == 8
    assert stride_unit(*(t.float() for t in maps)) == 4
    assert stride_unit(torch.empty(2, 3, 4, 3, 20, dtype=torch.half)) == 4
    assert stride_unit(torch.empty(1, 3, 4, 1, 7, dtype=torch.half)) == 1
    assert stride_unit(torch.empty(1, 1, 1, 1, 7, dtype=torch.half)) == 8  # along which nobody goes


def test_size_class(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.empty(0)
    assert size_class(cpu, 33, 64) == size_class(cpu, 64, 33) != size_class(cpu, 65, 64)
    assert size_class(cpu, 33) != size_class(cpu.half(), 33)
    assert 0 <= size_class(cpu, 0, 1, 1 << 40) < 2**31
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    classes = [size_class(SimpleNamespace(device=torch.device("cuda", i), dtype=torch.half), 33) for i in (0, 1)]
    assert classes[0] != classes[1]
