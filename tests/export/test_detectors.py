"""Detectors in files: the same objects as in PyTorch, from the command to the answer."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import transnext
from transnext.cli import main
from transnext.data.preprocessing import Preprocessing
from transnext.export import ExportedModel, open_exported, traced
from transnext.export.agreement import check_detector, difference
from transnext.export.running import ExportedDetector
from transnext.loaded import load
from transnext.models.backbone import Backbone
from transnext.models.checkpoint import save_checkpoint
from transnext.tasks.detection.mask_rcnn.plain import PlainMaskRCNN
from transnext.tasks.detection.net import DetectionNet, Found
from transnext.tasks.detection.nets import build_net, strides_of
from transnext.tasks.detection.task import Detection

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES: dict[str, dict[str, Any]] = {
    "transnext_pico": {
        "img_size": 64,
        "embed_dims": (12, 16, 24, 32),
        "num_heads": (1, 2, 2, 4),
        "mlp_ratios": (2, 2, 2, 2),
        "depths": (1, 1, 1, 1),
    },
    "resnet18": {},
}
HEADS: dict[str, dict[str, Any]] = {
    "mask_rcnn": {"masks": True, "fpn_channels": 16, "fc_channels": 24, "mask_channels": 16, "mask_convs": 1},
    "dino": {"scales": 4, "embed_dim": 32, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 30},
    "d_fine": {"num_queries": 40, "decoder_layers": 2, "d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
}
CLASSES, IDS = ["apples", "pears", "plüms"], [3, 7, 90]
CANVAS = (64, 96)


def network(detector: str, backbone: str) -> DetectionNet:
    """With weights by which objects differ in score and place, as those of a trained network do."""
    torch.manual_seed(0)
    head = HEADS[detector]
    body = Backbone(backbone, strides_of(detector, head.get("scales")), **BACKBONES[backbone])
    net = build_net(detector, body, len(CLASSES), size="small", **head).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad and p.ndim > 1 and p.numel() > 1:
                p += max(0.5 * float(p.std()), 0.02) * torch.randn(p.shape, generator=generator)
        for name, p in net.named_parameters():
            if name.endswith("bias") and ("cls_branches" in name or "class_embed" in name):
                p += 3  # objects are rare at first
    return net


def checkpoint(net: DetectionNet, path: Path, mode: Any = "fit", **metadata: Any) -> Path:
    """As training writes it."""
    architecture: Any = net.backbone
    saved = {
        "architecture": architecture.name,
        "model_args": Detection.heads().model_args(net),
        "task": "detection",
        "class_names": CLASSES,
        "category_ids": IDS,
        "with_masks": net.with_masks,
        "most_objects": 7,
        "preprocessing": Preprocessing.of_model(architecture.net).with_places(mode, CANVAS).to_dict(),
        "val_threshold": 0.06,
        **metadata,
    }
    save_checkpoint(path, net.state_dict(), saved)
    return path


def unseen(count: int) -> tuple[Tensor, Tensor]:
    """Images unlike those that files are checked with, and how much of each is image."""
    generator = torch.Generator().manual_seed(7)
    sizes = torch.tensor([[64, 96], [41, 90], [64, 33], [33, 50]])[:count]
    return 2 * torch.rand(count, 3, *CANVAS, generator=generator) - 0.3, sizes


def pictures(padded: bool = True) -> list[npt.NDArray[np.uint8]]:
    """Noise. In padding a ResNet scores all places alike, and rounding says which of them come first."""
    generator = np.random.default_rng(3)
    sizes = ((50, 90), (150, 101), (64, 96)) if padded else ((50, 75), (128, 192), (64, 96))
    return [generator.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[DetectionNet, Path, Path]]:
    """Writes a detector by the command, once; the network, its checkpoint and the file."""
    made: dict[tuple[str, str], tuple[DetectionNet, Path, Path]] = {}

    def write(detector: str, backbone: str) -> tuple[DetectionNet, Path, Path]:
        if (detector, backbone) not in made:
            run = tmp_path_factory.mktemp("run")
            net = network(detector, backbone)
            best = checkpoint(net, run / "best.safetensors")
            file = run / "file.onnx"
            main(["export", str(run), "--output", str(file), "--license", "cc-by-4.0"])
            made[detector, backbone] = net, best, file
        return made[detector, backbone]

    return write


EACH = [("mask_rcnn", "transnext_pico"), ("mask_rcnn", "resnet18"), ("d_fine", "transnext_pico"), ("dino", "resnet18")]


@pytest.mark.parametrize(("detector", "backbone"), EACH)
def test_same_objects_in_unseen_images(
    detector: str, backbone: str, written: Callable[..., tuple[DetectionNet, Path, Path]]
) -> None:
    net, _, file = written(detector, backbone)
    run = ExportedDetector(ExportedModel(file))
    for count in (1, 4):
        images, sizes = unseen(count)
        with torch.no_grad():
            wanted = net(images, sizes)
        found = run(images, sizes)
        for one, other, (height, width) in zip(found, wanted, sizes.tolist(), strict=True):
            assert difference(one, other, 96, getattr(net, "score_threshold", 0.0)) < 1e-4
            assert len(one) > 10
            assert len(one) == int(((other.boxes[:, 2:] > other.boxes[:, :2]).all(1)).sum())
            assert (one.boxes >= 0).all()
            assert (one.boxes <= torch.tensor([width, height, width, height])).all()
            assert (one.masks is not None) == (detector == "mask_rcnn")


@pytest.mark.parametrize(("detector", "backbone"), EACH)
def test_scores_are_right_to_their_last_digits(
    detector: str, backbone: str, written: Callable[..., tuple[DetectionNet, Path, Path]]
) -> None:
    """The largest relative difference of the scores, which all of the network enters, padding too."""
    net, _, file = written(detector, backbone)
    images, sizes = unseen(2)
    with torch.no_grad():
        wanted = net(images, sizes)
    for one, other in zip(ExportedDetector(ExportedModel(file))(images, sizes), wanted, strict=True):
        ranked = other.scores[(other.boxes[:, 2:] > other.boxes[:, :2]).all(1)]
        assert ((one.scores - ranked).abs() / ranked).max() < 1e-4


def test_images_without_objects(tmp_path: Path) -> None:
    net = network("mask_rcnn", "transnext_pico")
    net.score_threshold = 1.0  # type: ignore[assignment]
    file = tmp_path / "none.onnx"
    main(["export", str(checkpoint(net, tmp_path / "none.safetensors")), "--output", str(file)])
    found = ExportedDetector(ExportedModel(file))(*unseen(2))
    assert [len(one) for one in found] == [0, 0]
    assert [one.boxes.shape for one in found] == [(0, 4), (0, 4)]
    assert [one.masks.shape for one in found if one.masks is not None] == [(0, 28, 28)] * 2
    assert [len(one) for one in transnext.Detector(file)(pictures())] == [0, 0, 0]


@pytest.mark.parametrize(("detector", "backbone"), EACH)
def test_predictor_gives_the_same_answers(
    detector: str, backbone: str, written: Callable[..., tuple[DetectionNet, Path, Path]]
) -> None:
    _, best, file = written(detector, backbone)
    ours, theirs = transnext.Detector(best), transnext.Detector(file)
    task: Any = theirs.loaded.task
    assert (task.class_names, task.category_ids, task.threshold) == (CLASSES, IDS, 0.06)
    assert theirs.loaded.preprocessing == ours.loaded.preprocessing
    every: tuple[dict[str, Any], ...] = ({}, {"threshold": 0.2}, {"classes": ["plüms"]}, {"tile": 64}, {"masks": False})
    images = pictures(padded=backbone != "resnet18")
    for options in every:
        number = 0
        for one, other in zip(theirs(images, **options), ours(images, **options), strict=True):
            assert len(one) == len(other)
            number += len(one)
            assert (one.mask is None) == (other.mask is None) == (detector != "mask_rcnn" or "masks" in options)
            assert difference(found_of(one), found_of(other), 150, 0.0) < 1e-4
        assert number or options.get("threshold")
    with pytest.raises(ValueError, match="exported for 64x96 alone"):
        transnext.Detector(file, image_size=128)


def found_of(answer: Any) -> Found:
    """An answer as what it was made of; of outlines the areas, in which a pixel at the edge makes no difference."""
    areas = None
    if answer.mask is not None:
        areas = torch.tensor([[[1e-2 * np.asarray(mask, bool).mean()]] for mask in answer.mask]).view(-1, 1, 1)
    return Found(
        boxes=torch.from_numpy(answer.xyxy),
        scores=torch.from_numpy(answer.confidence),
        labels=torch.from_numpy(answer.class_id),
        masks=areas,
    )


def test_what_the_file_says(written: Callable[..., tuple[DetectionNet, Path, Path]]) -> None:
    _, _, file = written("d_fine", "transnext_pico")
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    inputs = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    assert inputs == {"images": ["batch", 3, 64, 96], "sizes": ["batch", 2]}
    assert [v.name for v in model.graph.output] == ["boxes", "scores", "labels"]
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert (said["task"], said["class_names"], said["license"]) == ("detection", CLASSES, "cc-by-4.0")
    assert (said["crop_mode"], said["input_size"]) == ("fit", [3, *CANVAS])
    assert said["metadata"]["detector"] == "d_fine"
    assert (said["batch"], said["metadata"]["val_threshold"]) == (None, 0.06)
    _, _, file = written("mask_rcnn", "resnet18")
    model = onnx.load(file)
    assert [v.name for v in model.graph.input] == ["images", "sizes"]
    assert [v.name for v in model.graph.output] == ["boxes", "scores", "labels", "masks"]
    assert "NonMaxSuppression" in {node.op_type for node in model.graph.node}
    assert ExportedModel(file).info.batch == 1


def test_command_predicts_and_measures(
    written: Callable[..., tuple[DetectionNet, Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faster_coco_eval")
    _, best, file = written("mask_rcnn", "transnext_pico")
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    annotations: list[dict[str, Any]] = []
    for i, pixels in enumerate(pictures()):
        Image.fromarray(pixels).save(f"photos/{i}.png")
        box = [5, 8, 30, 30]
        annotations.append({"id": i + 1, "image_id": i, "category_id": 7, "bbox": box, "area": 900, "iscrowd": 0})
        x, y, w, h = box
        annotations[-1]["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    images = [
        {"id": i, "file_name": f"{i}.png", "height": p.shape[0], "width": p.shape[1]} for i, p in enumerate(pictures())
    ]
    categories = [{"id": number, "name": name} for number, name in zip(IDS, CLASSES, strict=True)]
    Path("photos/_annotations.coco.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    results = []
    for model in (best, file):
        main(["detect", "predict", "photos", "--model", str(model), "--coco-file", "found.json"])
        main(["detect", "eval", str(model), "photos", "--json-file", "eval.json", "--workers", "0", "--device", "cpu"])
        results.append((json.loads(Path("found.json").read_text()), json.loads(Path("eval.json").read_text())))
    (found, measured), (same, measured_again) = results
    assert len(found) == len(same) > 30
    assert {one["category_id"] for one in same} <= set(IDS)
    best_scores, scores = (sorted(one["score"] for one in rows) for rows in (found, same))
    assert np.allclose(best_scores, scores, atol=1e-5)
    assert numbers(measured) == pytest.approx(numbers(measured_again), abs=1e-6)


def numbers(value: Any) -> list[float]:
    """All numbers of COCO's evaluation, in whatever a result holds."""
    if isinstance(value, dict):
        return [n for name, part in value.items() if "second" not in name for n in numbers(part)]
    if isinstance(value, list):
        return [n for part in value for n in numbers(part)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize("detector", ["mask_rcnn", "d_fine"])
def test_hub_folder(detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = network(detector, "resnet18")
    best = checkpoint(net, tmp_path / "best.safetensors", "shortest")
    main(["export", str(best), "--format", "hf", "--output", "hub", "--license", "mit"])
    assert sorted(path.name for path in Path("hub").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    opened, original = load("hub"), load(best)
    assert opened.task == original.task
    assert opened.preprocessing == original.preprocessing
    weights = original.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in opened.model.state_dict().items())
    config = json.loads(Path("hub/config.json").read_text())
    assert (config["class_names"], config["license"], config["architecture"]) == (CLASSES, "mit", "resnet18")
    assert "license: mit" in Path("hub/README.md").read_text()
    found, same = (transnext.Detector(model)(pictures()) for model in ("hub", best))
    assert all(torch.equal(found_of(a).boxes, found_of(b).boxes) for a, b in zip(found, same, strict=True))


def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    net = network("d_fine", "resnet18")
    file = tmp_path / "a.xml"
    transnext.export_model(load(checkpoint(net, tmp_path / "a.safetensors")), file)
    images, sizes = unseen(3)
    with torch.no_grad():
        wanted = net(images, sizes)
    opened = open_exported(file)
    for one, other in zip(opened.task.raw(opened.model, images, sizes), wanted, strict=True):
        assert difference(one, other, 96, 0.0) < 1e-4
    assert opened.class_names == CLASSES


def test_a_short_side_becomes_one_canvas(tmp_path: Path) -> None:
    net = network("d_fine", "resnet18")
    best = checkpoint(net, tmp_path / "best.safetensors", "shortest")
    with pytest.raises(ValueError, match=r"many sizes .short side 64, long side up to 96.*--image-size HEIGHT WIDTH"):
        transnext.export_model(best, tmp_path / "a.onnx")
    # 50 x 70 is no multiple of 32: the canvas is.
    info = transnext.export_model(best, tmp_path / "a.onnx", image_size=(50, 70)).info
    assert (info.preprocessing.crop_mode, info.preprocessing.input_size) == ("fit", (3, 50, 70))
    assert info.image_size == (64, 96)
    loaded = load(best)
    ours = transnext.Detector(replace(loaded, preprocessing=info.preprocessing))
    theirs = transnext.Detector(tmp_path / "a.onnx")
    for one, other in zip(theirs(pictures()), ours(pictures()), strict=True):
        assert len(one) == len(other) > 0
        assert difference(found_of(one), found_of(other), 150, 0.0) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "a.pt2"], "a.pt2: detectors are written as onnx, openvino or hf"),
        (["--output", "a.onnx", "--features-only"], "--features-only is for classifiers, and .* is a detector"),
        (["--output", "a.onnx", "--int8", "--calibration", "emoji"], "--int8 is for classifiers, and .* is a detector"),
        (["--output", "a.onnx", "--opset", "16"], "opset is 16: expected between 17 and 20"),
        (["--output", "a.onnx", "--opset", "21"], "opset is 21: expected between 17 and 20"),
        (["--output", "a.onnx", "--image-size", "0"], "image_size is 0"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    best = checkpoint(network("d_fine", "resnet18"), tmp_path / "best.safetensors")
    with pytest.raises(SystemExit):
        main(["export", str(best), *options])
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.search(message, error)
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_a_detector_without_plain_answers_is_refused(tmp_path: Path) -> None:
    net = network("d_fine", "resnet18")
    net.detector = "another"
    loaded = replace(load(checkpoint(network("d_fine", "resnet18"), tmp_path / "a.safetensors")), model=net)
    with pytest.raises(ValueError, match="another cannot be written for other runtimes, only mask_rcnn, dino, d_fine"):
        transnext.export_model(loaded, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph in which the image's size was taken for a constant, as tracers do."""
    best = checkpoint(network("mask_rcnn", "resnet18"), tmp_path / "best.safetensors")
    forward = PlainMaskRCNN.forward

    def blind(self: PlainMaskRCNN, images: Tensor, sizes: Tensor, threshold: Tensor | None = None) -> Any:
        return forward(self, images, torch.tensor([CANVAS]) + 0 * sizes, threshold)

    monkeypatch.setattr(PlainMaskRCNN, "forward", blind)
    with pytest.raises(ValueError, match=r"a.onnx differs from PyTorch on images 3x3x64x96"):
        transnext.export_model(best, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def objects(*rows: tuple[float, float, int]) -> Found:
    """Squares of side 10 at x, with score and label."""
    boxes = [[x, 0.0, x + 10, 10.0] for x, _, _ in rows]
    return Found(
        boxes=torch.tensor(boxes).view(-1, 4),
        scores=torch.tensor([score for _, score, _ in rows]),
        labels=torch.tensor([label for *_, label in rows], dtype=torch.int64),
    )


def test_difference_of_objects() -> None:
    two = objects((0, 0.9, 1), (50, 0.5, 0))
    assert difference(two, objects((50, 0.5, 0), (0, 0.9, 1)), 100, 0.1) == 0  # in whatever order
    assert difference(objects((0.5, 0.9, 1), (50, 0.5, 0)), two, 100, 0.1) == pytest.approx(0.005)
    assert difference(objects((0, 0.9, 1), (50, 0.52, 0)), two, 100, 0.1) == pytest.approx(0.02)
    for missing in (objects((50, 0.5, 0)), objects((0, 0.9, 0), (50, 0.5, 0)), objects()):
        assert difference(missing, two, 100, 0.1) == float("inf")
        assert difference(two, missing, 100, 0.1) == float("inf")
    # What is just likely enough may be missing.
    assert difference(objects((0, 0.9, 1), (50, 0.50001, 0)), objects((0, 0.9, 1)), 100, 0.5) == 0
    assert difference(objects(), objects(), 100, 0.5) == 0


def test_what_fails_is_said() -> None:
    def fails(images: Tensor, sizes: Tensor) -> list[Found]:
        raise RuntimeError("no such operator")

    def expected(images: Tensor, sizes: Tensor) -> list[Found]:
        return [objects((0, 0.9, 1))] * len(images)

    with pytest.raises(ValueError, match="x fails on images 1x3x8x8, where PyTorch does not: no such operator"):
        check_detector(fails, expected, (1, 3, 8, 8), 0.1, "x")
    with pytest.raises(ValueError, match="x differs from PyTorch on images 1x3x8x8, in which objects there are"):
        check_detector(lambda images, sizes: [objects()], expected, (1, 3, 8, 8), 0.1, "x")
    assert check_detector(expected, expected, (2, 3, 8, 8), 0.1, "x").objects == 2


class Sums(nn.Module):
    """Sums of the rows of each column, in a way that depends on a size."""

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H]` to `[B]`."""
        with traced.KnownSizes():
            assert type(x.shape[1]) is int
            assert type(x.size(1)) is int
            return x.sum(1) / x.shape[1] + 0 * x.size(0)


@pytest.mark.filterwarnings("ignore")  # a trace warns of every size
def test_sizes_are_numbers_while_a_network_is_traced() -> None:
    sums = torch.jit.trace(Sums(), torch.ones(2, 4), check_trace=False)
    assert sums(torch.ones(5, 4)).tolist() == [1.0] * 5
