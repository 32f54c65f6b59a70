"""What `transnext eval` and `transnext report` print and write."""

import json

import pytest
from PIL import Image, ImageOps

from transnext.cli import main

MODEL = "transnext_pico.emoji"


@pytest.fixture
def few(tmp_path):
    """Two images of each class of the bundled set, as a folder."""
    from transnext.data import open_dataset

    source = open_dataset("emoji")["shift"]
    done = dict.fromkeys(range(len(source.classes)), 0)
    for i in range(len(source)):
        label = source.target(i)
        if done[label] < 2:
            for split in ("train", "val"):
                folder = tmp_path / "few" / split / source.classes[label]
                folder.mkdir(parents=True, exist_ok=True)
                source.load(i).save(folder / f"{done[label]}.png")
            done[label] += 1
    return tmp_path / "few"


def evaluate(few, *args: str, command: tuple[str, ...] = ("eval",)) -> None:
    # Classes of a folder are sorted by name; the bundled model has them in an order of its own.
    main([*command, str(few / "model.safetensors"), str(few), "--workers", "0", "--device", "cpu", *args])


def study(name: str, few, *args: str) -> None:
    evaluate(few, *args, command=("study", name))


@pytest.fixture
def model(few):
    """The bundled model with its classes in the order of the folder."""
    import timm
    import torch

    from transnext.models.checkpoint import save_checkpoint

    found = timm.create_model(MODEL, pretrained=True)
    names = list(found.pretrained_cfg["label_names"])
    order = torch.tensor([names.index(name) for name in sorted(names)])
    weights = found.state_dict()
    for name in ("head.fc.weight", "head.fc.bias"):
        weights[name] = weights[name][order]
    args = {"num_classes": 22, "img_size": 64, "pretrain_size": 64}
    metadata = {"architecture": "transnext_pico", "model_args": args, "class_names": sorted(names)}
    save_checkpoint(few / "model.safetensors", weights, metadata)


def test_plain(few, model, tmp_path, capsys):
    evaluate(few, "--splits", "val", "--json-file", str(tmp_path / "r.json"))
    out = capsys.readouterr().out
    for word in ("95 % interval", "ECE", "images/s"):
        assert word in out
    values = json.loads((tmp_path / "r.json").read_text())
    result = values["splits"]["val"]
    assert result["images"] == 44
    assert result["top1"] > 0.5
    assert result["top1_interval"][0] < result["top1"] < result["top1_interval"][1]
    assert [c["images"] for c in result["classes"]] == [2] * 22
    assert values["settings"]["image_size"] == [64, 64]


def test_flip(few, model, tmp_path):
    """The answer is the same for mirrored images, which without `--flip` it is not."""

    def measured(*args: str) -> dict:
        evaluate(few, "--splits", "val", "--json-file", str(tmp_path / "r.json"), *args)
        values = json.loads((tmp_path / "r.json").read_text())
        assert values["settings"]["flip"] == ("--flip" in args)
        return values["splits"]["val"]

    plain, flipped = measured(), measured("--flip")
    study("sizes", few, "--split", "val", "--scales", "1", "--flip", "--json-file", str(tmp_path / "s.json"))
    scaled = json.loads((tmp_path / "s.json").read_text())
    assert scaled["settings"]["flip"]
    for file in (few / "val").rglob("*.png"):
        with Image.open(file) as image:
            ImageOps.mirror(image).save(file)
    assert measured()["loss"] != pytest.approx(plain["loss"], rel=1e-2)
    assert measured("--flip")["loss"] == pytest.approx(flipped["loss"], rel=1e-4)
    assert flipped["loss"] != pytest.approx(plain["loss"], rel=1e-2)
    assert scaled["points"][0]["top1"] == flipped["top1"]


def test_corruptions(few, model, tmp_path, capsys):
    files = ["--json-file", str(tmp_path / "r.json"), "--figure", str(tmp_path / "r.png")]
    study("corruptions", few, "--corruptions", "contrast", "jpeg_compression", *files)
    out = capsys.readouterr().out
    assert "Mean corruption error" in out
    result = json.loads((tmp_path / "r.json").read_text())
    assert list(result["top1"]) == ["contrast", "jpeg_compression"]
    assert result["clean"] > result["top1"]["contrast"][4]
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.format == "PNG"


def test_scales(few, model, tmp_path, capsys):
    files = ["--json-file", str(tmp_path / "s.json"), "--figure", str(tmp_path / "s.svg")]
    study("sizes", few, "--scales", "0.5", *files)
    assert "interpolate" in capsys.readouterr().out
    points = json.loads((tmp_path / "s.json").read_text())["points"]
    assert [(p["mode"], p["size"]) for p in points[:2]] == [("extrapolate", 32), ("interpolate", 32)]
    assert "<svg" in (tmp_path / "s.svg").read_text()


def test_mistakes(few, model, tmp_path, capsys):
    def fails(*args: str) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(list(args))
        assert exit_.value.code == 2
        error = capsys.readouterr().err.strip()
        assert "\n" not in error
        return error

    assert "did you mean fog" in fails("study", "corruptions", MODEL, "emoji", "--corruptions", "frog", "fig")
    assert "no split 'nowhere'" in fails("study", "sizes", MODEL, "emoji", "--split", "nowhere")
    assert "scale is -1" in fails("study", "sizes", MODEL, "emoji", "--scales", "-1")
    assert "has 22 classes: the ImageNet suite" in fails("study", "imagenet", MODEL, str(few))
    assert "is not a run folder" in fails("report", str(few))
