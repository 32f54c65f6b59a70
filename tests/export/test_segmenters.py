"""Segmenters in files: the same answers, any size where there can be any, and what cannot be had."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import transnext
from tests.helpers.tiny_mask2former import TINY, tiny_backbone
from transnext.cli.export import _lines
from transnext.data.preprocessing import Preprocessing
from transnext.export import ExportResult, export_model, onnx_file, segmenters
from transnext.models.backbone import Backbone
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.task import Loaded

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["ground", "plüms", "red"]
PICTURE = np.random.default_rng(0).integers(0, 256, (70, 110, 3)).astype(np.uint8)
SIZES: dict[str, dict[str, Any]] = {"upernet": {"channels": 16, "auxiliary_channels": 0}, "mask2former": TINY}


def segmenter(kind: str, backbone: Backbone | None = None, size: tuple[int, int] = (64, 96), **metadata: Any) -> Loaded:
    torch.manual_seed(0)
    net = build_net(kind, backbone or tiny_backbone(), 3, size="small", **SIZES[kind]).eval()
    preprocessing = Preprocessing.of_model(net.backbone.net).with_places("fit", size)
    task = Segmentation(metadata={"class_names": NAMES, **metadata})
    return Loaded(model=net, task=task, preprocessing=preprocessing, name="it")


def answers_agree(file: Any, loaded: Loaded, **looking: Any) -> None:
    (expected,) = transnext.Segmenter(loaded, **looking)(PICTURE, confidence=True)
    (found,) = transnext.Segmenter(file, **looking)(PICTURE, confidence=True)
    assert list(found.class_names) == NAMES
    assert (found.labels == expected.labels).mean() > 0.999
    np.testing.assert_allclose(found.confidence.astype(float), expected.confidence.astype(float), atol=2e-3)


@pytest.fixture(scope="module")
def upernets(one_thread, tmp_path_factory) -> tuple[Loaded, dict[str, ExportResult]]:
    """A UPerNet and its ONNX and OpenVINO files; OpenVINO's is made of ONNX: both are traced and translated once."""
    loaded = segmenter("upernet", window=64, window_stride=40)
    folder = tmp_path_factory.mktemp("upernets")
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((segmenters, "trace"), (onnx_file, "convert")):
            patch.setattr(module, name, once(getattr(module, name)))
        return loaded, {suffix: export_model(loaded, folder / f"a.{suffix}") for suffix in ("onnx", "xml")}


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives all who call it what the first call gave."""
    results: list[Any] = []

    def call(*args: Any) -> Any:
        if not results:
            results.append(function(*args))
        return results[0]

    return call


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_a_upernet_takes_any_multiple_of_32(suffix, upernets, tmp_path) -> None:
    loaded, result = upernets[0], upernets[1][suffix]
    assert result.info.size_multiple == 32
    assert len({check.shape for check in result.checks}) == 4
    assert result.info.metadata["window"] == 64
    assert not result.notes
    answers_agree(result.path, loaded)
    opened = transnext.load(result.path)
    answers_agree(opened, loaded, window=0, scales=(1, 1.5), flip=True)
    with pytest.raises(ValueError, match="multiples of 32"):
        opened.model.file.run(torch.zeros(1, 3, 64, 80))
    with pytest.raises(ValueError, match="bias_mode"):
        transnext.Segmenter(opened, bias_mode="interpolate")
    with pytest.raises(ValueError, match="exported file already"):
        export_model(opened, tmp_path / "b.onnx")


@pytest.mark.parametrize(("kind", "backbone"), [("mask2former", None), ("upernet", "resnet18")])
def test_others_have_one_size(kind, backbone, tmp_path) -> None:
    loaded = segmenter(kind, None if backbone is None else Backbone(backbone))
    result = export_model(loaded, tmp_path / "a.onnx")
    assert result.info.size_multiple is None
    assert {check.shape[0] for check in result.checks} == {1, 3}
    answers_agree(result.path, loaded)
    wide = replace(loaded, preprocessing=loaded.preprocessing.with_places("shortest", (64, 256)))
    with pytest.raises(ValueError, match="add --image-size HEIGHT WIDTH"):
        export_model(wide, tmp_path / "b.onnx")


@pytest.mark.parametrize("kind", ["mask2former", "upernet"])
def test_a_file_for_one_size_looks_at_pictures_as_a_whole(kind, tmp_path) -> None:
    loaded = segmenter(kind, window=64, window_stride=40, class_colours=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    result = export_model(loaded, tmp_path / "a.onnx", fixed_size=True)
    assert result.info.metadata.keys() == {"class_colours", "segmenter"}
    (note,) = result.notes
    assert "it looks in windows of 64 pixels" in note
    assert any(note in line for line in _lines(result, 18))
    whole = replace(loaded, task=replace(loaded.task, metadata={"class_names": NAMES}))
    answers_agree(result.path, whole)
    with pytest.raises(ValueError, match="images of 64x96 alone, and windows are cut to the picture: give window 0"):
        transnext.Segmenter(result.path, window=64)


def test_a_hub_folder_is_opened_again(tmp_path) -> None:
    loaded = segmenter("upernet", class_colours=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    result = export_model(loaded, tmp_path / "hub", format="hf")
    answers_agree(result.path, loaded)
    assert transnext.load(result.path).task.metadata == loaded.task.metadata
    readme = (result.path / "README.md").read_text(encoding="utf-8")
    for said in ("image-segmentation", "transnext segment predict", "upernet on transnext_pico", "plüms"):
        assert said in readme


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features_only": True}, "is a segmenter: leave it out"),
        ({"image_size": 0}, "image_size is 0"),
    ],
)
def test_what_cannot_be_had_is_one_line(options, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        export_model(segmenter("upernet"), tmp_path / "a.onnx", **options)
    assert not (tmp_path / "a.onnx").exists()
    with pytest.raises(ValueError, match="segmenters are written as onnx, openvino or hf"):
        export_model(segmenter("upernet"), tmp_path / "a.pt2")
