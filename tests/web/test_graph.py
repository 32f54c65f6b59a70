"""The graph with all softmax weights, against the definition in float64 from the inputs of the blocks."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import transnext  # noqa: F401  (registers the models)
from tests.helpers.attention_by_definition import weights_by_definition
from transnext.data.preprocessing import Preprocessing
from transnext.export.info import ExportInfo
from transnext.models import TransNeXt
from transnext.web.graph import LOGITS, WithAttention, blocks_of, network_graph

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {
    "img_size": 32,
    "pretrain_size": 32,
    "num_classes": 3,
    "embed_dims": (8, 16),
    "num_heads": (2, 4),
    "mlp_ratios": (2, 2),
    "depths": (2, 1),
    "sr_ratios": (2, 1),
}


def described(model: nn.Module, size: tuple[int, int], multiple: int | None) -> ExportInfo:
    names = [name for block in blocks_of(model) for name in block.outputs]
    preprocessing = Preprocessing(
        input_size=(3, *size),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        interpolation="bicubic",
        crop_pct=1.0,
        crop_mode="center",
    )
    return ExportInfo(
        architecture="small",
        task="classification",
        outputs=(LOGITS, *names),
        class_names=("a", "b", "c"),
        preprocessing=preprocessing,
        size_multiple=multiple,
        precision="fp32",
        license=None,
        transnext_version="0",
    )


def session_of(model: nn.Module, size: tuple[int, int], fixed: bool) -> Any:
    info = described(model, size, None if fixed else 8)
    proto = network_graph(WithAttention(model, fixed_size=fixed), info)
    onnx.checker.check_model(proto)
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    return onnxruntime.InferenceSession(proto.SerializeToString())


def compare(session: Any, model: nn.Module, images: Tensor) -> None:
    found = session.run(None, {"images": images.numpy()})
    expected = weights_by_definition(model, images)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == tuple(b.shape)
        assert np.abs(a - b.numpy()).max() < 1e-5


@pytest.fixture(scope="module")
def model(randomise: Callable[[nn.Module], nn.Module]) -> TransNeXt:
    torch.manual_seed(0)
    return randomise(timm.create_model("transnext_pico", **SMALL)).eval()


def test_any_size(model: TransNeXt) -> None:
    session = session_of(model, (32, 32), fixed=False)
    for size in ((32, 32), (64, 40), (8, 16), (96, 128)):
        compare(session, model, torch.randn(2, 3, *size))


@pytest.mark.parametrize("size", [(33, 51), (28, 28)])
def test_fixed_size(model: TransNeXt, size: tuple[int, int]) -> None:
    compare(session_of(model, size, fixed=True), model, torch.randn(1, 3, *size))


@pytest.mark.parametrize("mode", ["interpolate", "linear"])
def test_other_modes(model: TransNeXt, mode: str) -> None:
    changed = copy.deepcopy(model)
    changed.mode = mode
    compare(session_of(changed, (48, 40), fixed=True), changed, torch.randn(1, 3, 48, 40))


def test_a_wider_window(randomise: Callable[[nn.Module], nn.Module]) -> None:
    wide = randomise(timm.create_model("transnext_pico", **SMALL, window_size=(5, None))).eval()
    compare(session_of(wide, (40, 32), fixed=True), wide, torch.randn(1, 3, 40, 32))


def test_other_sizes_are_not_answered_wrongly(model: TransNeXt) -> None:
    session = session_of(model, (32, 32), fixed=False)
    try:
        found = session.run(None, {"images": np.zeros((1, 3, 36, 32), np.float32)})
    except Exception:
        return
    assert np.isnan(found[0]).all()


def test_blocks_say_what_the_page_must_know(model: TransNeXt) -> None:
    first, second, last = blocks_of(model)
    assert (first.stage, first.block, first.stride, first.heads, first.window, first.ratio) == (0, 0, 4, 2, 3, 2)
    assert (second.stage, second.block) == (0, 1)
    assert (last.stage, last.stride, last.heads, last.window, last.outputs) == (1, 8, 4, None, ("pool1_0",))
