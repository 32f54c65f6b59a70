"""Detectors that training begins with, and released ones: names on the hub, files, and conversion both ways."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import transnext
from tests.helpers.hub import client_settings, serve
from tests.helpers.rectangles import COLOURS, rectangle_config, rectangle_set
from transnext.cli import main
from transnext.engine import train, trainer
from transnext.engine.build import build_net, open_task
from transnext.loaded import load
from transnext.models.backbone import Backbone
from transnext.models.checkpoint import model_from_checkpoint, read_tensors, save_checkpoint
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.detection.nets import build_net as build_detector
from transnext.tasks.detection.nets import strides_of
from transnext.tasks.detection.released import coco_classes, official_names
from transnext.tasks.detection.starting import HEADS
from transnext.tasks.released import RELEASED

__all__ = ["serve"]

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = ("--device", "cpu")
SIZES = {
    "mask_rcnn": {"fpn_channels": 64, "fc_channels": 256, "mask_convs": 2, "mask_channels": 64, "masks": True},
    "dino": {
        "scales": 5,
        "embed_dim": 128,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "ffn_dim": 512,
        "num_queries": 100,
    },
}
"""Of the small heads: the parameters tell them."""


@pytest.fixture
def no_report(monkeypatch) -> None:
    monkeypatch.setattr(trainer, "write_report", lambda *_: None)  # takes longer than the training


def released_like(kind: str, randomise, classes: int = 80) -> DetectionNet:
    """A detector as the released ones are, but small."""
    sizes = {"img_size": 800, "pretrain_size": 224, "bias_mode": "interpolate"}
    backbone = Backbone("transnext_pico", strides_of(kind, SIZES[kind].get("scales")), **sizes)
    net = build_detector(kind, backbone, classes, **SIZES[kind])
    weights = {name: value.clone() for name, value in net.state_dict().items() if not name.startswith("backbone.")}
    randomise(net)
    net.load_state_dict(weights, strict=False)  # boxes from random numbers would be beyond all images
    return net.eval()


def released_file(kind: str, folder: Path, randomise, classes: int = 80) -> tuple[Path, DetectionNet]:
    """As mmdet wrote it: released names, with what else stands in such a file."""
    net = released_like(kind, randomise, classes)
    weights = official_names(kind).to_released(net.state_dict())
    torch.save({"state_dict": weights, "meta": {"epoch": 12, "CLASSES": ("a",)}}, folder / f"{kind}.pth")
    return folder / f"{kind}.pth", net


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def outputs(net: nn.Module) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(1, 3, 96, 128, generator=generator)
    with torch.no_grad():
        (found,) = net.eval()(images, torch.tensor([[90, 120]]))
    return [found.boxes, found.scores, found.labels]


def test_names_and_files_on_the_hub() -> None:
    sizes = ("tiny", "small", "base")
    expected = {f"maskrcnn-transnext-{s}-coco": f"mask_rcnn_transnext_{s}_fpn_1x_coco_in1k.pth" for s in sizes}
    expected["dino-4scale-transnext-tiny-coco"] = "dino_4scale_transnext_tiny_12e_in1k.pth"
    expected |= {f"dino-5scale-transnext-{s}-coco": f"dino_5scale_transnext_{s}_12e_in1k.pth" for s in sizes}
    assert expected == {name: file for name, (task, file) in RELEASED.items() if task == "detection"}


def test_classes_of_coco() -> None:
    names, ids = coco_classes()
    assert (len(names), names[0], names[-1], ids[0], ids[-1]) == (80, "person", "toothbrush", 1, 90)
    assert ids == sorted(ids)
    assert (names[11], ids[11]) == ("stop sign", 13)


CHILD = """
import json, sys, torch, transnext
torch.set_num_threads(1)
for name in sys.argv[1:]:
    try:
        loaded = transnext.load(name, image_size=64)
        found = transnext.Detector(loaded)(torch.zeros(64, 80, 3, dtype=torch.uint8).numpy(), threshold=0.0)[0]
        said = loaded.preprocessing
        print(json.dumps({"classes": loaded.class_names[:2], "found": len(found), "size": said.input_size,
                          "mode": said.crop_mode, "max": loaded.model.max_detections}))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
"""


def test_a_released_name_is_fetched_and_then_comes_from_the_cache(serve, randomise, tmp_path) -> None:
    name = "maskrcnn-transnext-tiny-coco"
    file, _ = released_file("mask_rcnn", tmp_path, randomise)
    path = f"/DaiShiResearch/{name}/resolve/main/{RELEASED[name].file}"
    hub = serve({path: file.read_bytes()})

    def ask(*names: str, offline: bool = False) -> list[dict]:
        env = client_settings(hub.url, tmp_path / "home", offline)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *names], env=env, capture_output=True, text=True, timeout=120, check=True
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    first, absent = ask(name, "dino-5scale-transnext-base-coco")
    assert first["classes"] == ["person", "bicycle"]
    assert (first["size"], first["mode"], first["max"]) == ([3, 64, 107], "shortest", 100)
    assert hub.downloads == [path]
    assert "dino_5scale_transnext_base_12e_in1k.pth" in absent["error"]
    assert "\n" not in absent["error"]
    assert ask(name, offline=True) == [first]


@pytest.mark.parametrize("kind", SIZES)
def test_a_file_of_the_released_code(kind, randomise, tmp_path) -> None:
    file, net = released_file(kind, tmp_path, randomise)
    loaded = load(file)
    assert same(loaded.model.state_dict(), net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(outputs(loaded.model), outputs(net), strict=True))
    assert loaded.class_names == coco_classes()[0]
    assert loaded.preprocessing.input_size == (3, 800, 1333)
    assert loaded.model.backbone.args()["bias_mode"] == "interpolate"
    other, _ = released_file(kind, tmp_path, randomise, classes=3)
    assert load(other).class_names == ["class 0", "class 1", "class 2"]
    weights = torch.load(file, weights_only=True)["state_dict"]
    name = next(name for name in weights if name.startswith("backbone.block4"))
    weights.pop(name)
    torch.save({"state_dict": weights}, file)
    with pytest.raises(ValueError, match="are missing"):
        load(file)


@pytest.mark.parametrize("kind", SIZES)
def test_there_and_back(kind, randomise, tmp_path, capsys) -> None:
    file, net = released_file(kind, tmp_path, randomise)
    ours, back, again = tmp_path / "ours.safetensors", tmp_path / "back.pth", tmp_path / "again.safetensors"
    main(["convert", str(file), str(ours)])
    assert "parameters of a detector with our names" in capsys.readouterr().out
    assert same(load_file(ours), dict(net.state_dict()))
    loaded = load(ours)
    assert loaded.class_names == coco_classes()[0]
    assert loaded.task.category_ids == coco_classes()[1]
    assert loaded.preprocessing == load(file).preprocessing
    assert HEADS.model_args(loaded.model) == HEADS.model_args(HEADS.load(file)[0])
    main(["convert", str(ours), str(back), "--names", "official"])
    content = torch.load(back, weights_only=True)
    assert same(content["state_dict"], torch.load(file, weights_only=True)["state_dict"])
    assert all(torch.equal(a, b) for a, b in zip(outputs(load(back).model), outputs(net), strict=True))
    main(["convert", str(back), str(again)])
    assert again.read_bytes() == ours.read_bytes()
    main(["convert", str(file), str(tmp_path / "backbone.safetensors"), "--backbone"])
    out = capsys.readouterr().out
    assert "left out" in out
    assert not [name for name in load_file(tmp_path / "backbone.safetensors") if "rpn" in name or "encoder" in name]


def test_a_run_is_converted_with_its_names_and_threshold(trained, tmp_path, capsys) -> None:
    _, result = trained
    file = tmp_path / "run.pth"
    main(["convert", str(result.folder / "best.safetensors"), str(file), "--names", "official"])
    a, b = load(result.folder), load(file)
    assert a.task.metadata == b.task.metadata
    assert a.preprocessing == b.preprocessing
    assert same(a.model.state_dict(), b.model.state_dict())
    image = Image.new("RGB", (80, 64), (220, 40, 40))
    ours, theirs = (transnext.Detector(loaded)(image, threshold=0.0)[0] for loaded in (a, b))
    assert ours.xyxy.tolist() == theirs.xyxy.tolist()


def test_what_has_no_released_names(rectangles, tmp_path, no_report, capsys) -> None:
    """A detector that was not released, and a backbone of others."""
    runs = {
        "d_fine": {"detector": "d_fine"},
        "resnet": {"model": "resnet18", "masks": False},
    }
    for name, options in runs.items():
        run = train(rectangle_config(rectangles, tmp_path / name, **options), quiet=True).folder
        with pytest.raises(SystemExit):
            main(["convert", str(run / "best.safetensors"), str(tmp_path / f"{name}.pth"), "--names", "official"])
        assert "has no released names" in capsys.readouterr().err
        main(["convert", str(run / "best.safetensors"), str(tmp_path / f"{name}.pth")])
        assert same(load(tmp_path / f"{name}.pth").model.state_dict(), load_file(run / "best.safetensors"))


# What training begins with


def started(config) -> tuple[DetectionNet, str]:
    """The network at the beginning of a run, and what is said of it."""
    task, _ = open_task(config)
    net = build_net(task, config)
    assert isinstance(net, DetectionNet)
    return net, " ".join(task.notes)


def test_the_bundled_weights(rectangles, tmp_path, capsys) -> None:
    config = rectangle_config(rectangles, tmp_path / "run", model="transnext_pico.emoji", pretrained=True)
    net, said = started(config)
    assert said == "The backbone begins with pretrained weights, the rest with random weights."
    bundled = load("transnext_pico.emoji").model.state_dict()
    inside = net.backbone.net.state_dict()
    assert inside
    assert all(torch.equal(inside[name], bundled[name]) for name in inside if name in bundled)
    assert net.backbone.args()["pretrain_size"] == (64, 64)
    assert net.backbone.args()["drop_path_rate"] == 0.05
    with pytest.raises(ValueError, match="no pretrained weights of transnext_nano"):
        started(config.but(model="transnext_nano"))


def test_a_classifier(rectangles, tmp_path, no_report, capsys) -> None:
    """Its backbone is taken, at the unit of positions that it has."""
    photos = tmp_path / "photos"
    for name, colour in COLOURS.items():
        (photos / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (48, 48), colour).save(photos / name / f"{i}.png")
    args = ["train", str(photos), "--output", str(tmp_path / "classifier"), "--image-size", "96", "--epochs", "1"]
    main([*args, "--batch-size", "4", "--workers", "0", "--tracker", "none", *CPU])
    best = tmp_path / "classifier" / "best.safetensors"
    config = rectangle_config(rectangles, tmp_path / "run", checkpoint=str(best))
    capsys.readouterr()
    run = train(config).folder
    assert f"The backbone begins with {best}, the rest with random weights." in capsys.readouterr().out
    net, _ = started(config)
    classifier = load_file(best)
    inside = net.backbone.net.state_dict()
    assert all(torch.equal(inside[name], classifier[name]) for name in inside)
    assert net.backbone.args()["pretrain_size"] == (96, 96)
    assert read_tensors(run / "best.safetensors")[1]["model_args"]["backbone"]["pretrain_size"] == [96, 96]
    with pytest.raises(ValueError, match="nano"):
        started(config.but(model="transnext_nano"))


@pytest.fixture(scope="module")
def other_classes(tmp_path_factory) -> Path:
    """A set of which one class is called as in the first, but not in its place."""
    data = rectangle_set(tmp_path_factory.mktemp("other"), train=4, val=2)
    for file in (data / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"] = [{"id": 3, "name": "Red"}, {"id": 7, "name": "blue"}]
        file.write_text(json.dumps(content))
    return data


def test_a_detector_of_other_classes(trained, other_classes, tmp_path, no_report, capsys) -> None:
    _, result = trained
    best = str(result.folder / "best.safetensors")
    config = rectangle_config(other_classes, tmp_path / "run", checkpoint=best, drop_path=0.3)
    with pytest.raises(SystemExit):
        main(["detect", "train", str(other_classes), "--checkpoint", best, "--detector", "dino", "--output",
              str(tmp_path / "no"), *CPU])  # fmt: skip
    assert f"{best} has detector mask_rcnn, and detector is dino: give --detector mask_rcnn" in capsys.readouterr().err
    net, said = started(config)
    assert said == f"Weights are those of {best}; its classes Red are kept, blue are new."
    before, after = load_file(best), net.state_dict()
    key = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(after[key][0], before[key][list(COLOURS).index("red")])
    assert torch.equal(after[key][-1], before[key][-1])
    assert not torch.equal(after[key][1], before[key][list(COLOURS).index("green")])
    assert same({k: v for k, v in after.items() if k.startswith("backbone.")},
                {k: v for k, v in before.items() if k.startswith("backbone.")})  # fmt: skip
    assert net.backbone.args()["drop_path_rate"] == 0.3
    train(config)
    assert said in " ".join(capsys.readouterr().out.split())
    saved = read_tensors(tmp_path / "run" / "best.safetensors")[1]
    assert saved["class_names"] == ["Red", "blue"]
    assert load(tmp_path / "run").class_names == ["Red", "blue"]


def test_a_detector_of_the_same_classes(trained, rectangles, tmp_path) -> None:
    _, result = trained
    best = str(result.folder / "best.safetensors")
    config = rectangle_config(rectangles, tmp_path / "run", checkpoint=best)
    net, said = started(config)
    assert said == f"All weights are those of {best}."
    assert same(net.state_dict(), load_file(best))
    few, _ = started(config.but(max_detections=7))
    assert few.max_detections == 7
    boxes, _ = started(config.but(masks=False))
    assert not boxes.with_masks
    task, sources = open_task(config.but(masks=False))
    assert not task.with_masks
    images = task.images(sources["train"], task.preprocessing(boxes, config), config)
    sample = images[0]
    losses = boxes(torch.randn(1, 3, 64, 64), torch.tensor([[64, 64]]), [sample.target])
    assert not [name for name in losses if "mask" in name]


def test_what_does_not_fit_is_said(trained, rectangles, other_classes, tmp_path, no_report) -> None:
    _, result = trained
    best = str(result.folder / "best.safetensors")
    config = rectangle_config(rectangles, tmp_path / "run", checkpoint=best)
    with pytest.raises(ValueError, match="has model transnext_pico, and model is transnext_nano: give --model"):
        started(config.but(model="transnext_nano"))
    with pytest.raises(ValueError, match="has head_size small, and head_size is released: give --head-size small"):
        started(config.but(head_size="released"))
    dino = train(rectangle_config(rectangles, tmp_path / "dino", detector="dino"), quiet=True).folder
    five = config.but(checkpoint=str(dino / "best.safetensors"), detector="dino", scales=5)
    with pytest.raises(ValueError, match="has scales 4, and scales is 5: give --scales 4"):
        started(five)
    boxes = train(rectangle_config(rectangles, tmp_path / "boxes", masks=False), quiet=True).folder
    with pytest.raises(ValueError, match="tells no outlines: give --masks False"):
        started(config.but(checkpoint=str(boxes / "best.safetensors")))
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        started(config.but(checkpoint=str(tmp_path / "gone.pth")))
    tensors, saved = read_tensors(best)
    for missing in ("model_args", "class_names"):
        save_checkpoint(tmp_path / "bad.safetensors", tensors, {k: v for k, v in saved.items() if k != missing})
        with pytest.raises(ValueError, match=f"does not say {missing}"):
            load(tmp_path / "bad.safetensors")
    for args in ({}, {"backbone": 3}, {**saved["model_args"], "head": {"queer": 1}}):
        save_checkpoint(tmp_path / "bad.safetensors", tensors, {**saved, "model_args": args})
        with pytest.raises(ValueError) as raised:  # noqa: PT011 - the detectors have words of their own
            load(tmp_path / "bad.safetensors")
        assert "\n" not in str(raised.value)
    source = {**saved["model_args"], "backbone": {**saved["model_args"]["backbone"], "checkpoint_path": "/x"}}
    save_checkpoint(tmp_path / "bad.safetensors", tensors, {**saved, "model_args": source})
    with pytest.raises(ValueError, match="cannot be checkpoint_path"):
        load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("kind", SIZES)
def test_a_released_file_begins_the_training_of_other_classes(kind, rectangles, randomise, tmp_path) -> None:
    file, _ = released_file(kind, tmp_path, randomise)
    more = {"scales": 5} if kind == "dino" else {}
    config = rectangle_config(rectangles, tmp_path / "run", detector=kind, checkpoint=str(file), **more)
    net, said = started(config)
    assert "none of its classes is kept, green, red are new" in said
    assert net.num_classes == 2
    assert net.backbone.args()["bias_mode"] == "interpolate"
    assert net.backbone.args()["img_size"] == (800, 800)


def test_weights_of_a_detector_in_a_backbone_of_others(rectangles, tmp_path, no_report) -> None:
    """The backbone alone is taken where the rest is not wanted: from a file that `convert --backbone` wrote."""
    config = rectangle_config(rectangles, tmp_path / "first", detector="d_fine")
    run = train(config, quiet=True).folder
    main(["convert", str(run / "best.safetensors"), str(tmp_path / "backbone.safetensors"), "--backbone"])
    net, said = started(rectangle_config(rectangles, tmp_path / "x", checkpoint=str(tmp_path / "backbone.safetensors")))
    assert "The backbone begins with" in said
    backbone = load_file(tmp_path / "backbone.safetensors")
    assert all(torch.equal(net.backbone.net.state_dict()[name], backbone[name]) for name in backbone)
    alone = model_from_checkpoint(tmp_path / "backbone.safetensors")
    assert alone.img_size == net.backbone.net.img_size
