"""How kernels for GPUs are launched: which configuration, and when none is tried."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton

from transnext.ops.triton import launch
from transnext.ops.triton.launch import Kernel, config, noted_launches, size_class


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


def test_size_class(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.empty(0)
    assert size_class(cpu, 33, 64) == size_class(cpu, 64, 33) != size_class(cpu, 65, 64)
    assert size_class(cpu, 33) != size_class(cpu.half(), 33)
    assert 0 <= size_class(cpu, 0, 1, 1 << 40) < 2**31
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    classes = [size_class(SimpleNamespace(device=torch.device("cuda", i), dtype=torch.half), 33) for i in (0, 1)]
    assert classes[0] != classes[1]
