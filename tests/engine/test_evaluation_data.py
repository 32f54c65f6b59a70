"""Data sets that lack classes of the classifier, have them in another order, or come without splits."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from transnext.cli import main
from transnext.config import TrainConfig
from transnext.data.imagenet import wnids
from transnext.data.preprocessing import Preprocessing
from transnext.engine.evaluation import Evaluator, held_out_split
from transnext.tasks.classification.align import imagenet_descriptions
from transnext.tasks.classification.loading import loaded_classifier

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
PREPROCESSING = Preprocessing(
    input_size=(3, 32, 32), mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bicubic", crop_pct=1.0, crop_mode="center"
)


class Colour(nn.Module):
    """Knows red, green and blue, in this order or in the order given; all other classes never."""

    def __init__(self, places=(0, 1, 2), num_classes=3):
        super().__init__()
        self.places, self.num_classes = list(places), num_classes

    def forward(self, x):
        logits = torch.full((len(x), self.num_classes), -1.0)
        logits[:, self.places] = x.mean((2, 3))
        return logits


def evaluator(names=("red", "green", "blue"), name="model", **kwargs):
    classifier = loaded_classifier(Colour(**kwargs), names, PREPROCESSING, name)
    return Evaluator(classifier, workers=0, device="cpu")


def paint(root, **counts):
    for name, count in counts.items():
        for i in range(count):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), COLOURS.get(name, (9, 9, 9))).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(
    ("counts", "classes"), [({"red": 2, "blue": 3}, [2, 0, 3]), ({"blue": 4}, [0, 0, 4]), ({"green": 1}, [0, 1, 0])]
)
def test_classes_may_be_missing(tmp_path, counts, classes, empty):
    folder = paint(tmp_path / "test", **counts)
    for name in COLOURS if empty else ():
        (folder / name).mkdir(exist_ok=True)
    (result,) = evaluator().run_splits(folder)
    assert (result.split, result.top1) == ("all", 1.0)
    assert result.class_images.tolist() == classes


def test_the_order_of_the_classifier_counts(tmp_path):
    folder = paint(tmp_path, red=2, green=1, blue=3)
    (result,) = evaluator().run_splits(folder)
    assert result.top1 == 1.0
    assert result.class_images.tolist() == [2, 1, 3]


def test_names_in_other_case_are_those_of_the_classifier(tmp_path):
    folder = paint(tmp_path / "a", red=3, blue=2)
    for of_class in folder.iterdir():
        of_class.rename(of_class.with_name(of_class.name.capitalize()))
    (result,) = evaluator().run_splits(folder)
    assert result.class_images.tolist() == [3, 0, 2]
    assert result.top1 == 1.0


def test_given_splits_may_lack_classes_too(tmp_path):
    paint(tmp_path / "train", red=2, green=1)
    paint(tmp_path / "test", blue=3)
    (tmp_path / "test" / "red").mkdir()
    results = {result.split: result for result in evaluator().run_splits(tmp_path)}
    assert {split: r.class_images.tolist() for split, r in results.items()} == {"train": [2, 1, 0], "val": [0, 0, 3]}
    assert all(result.top1 == 1.0 for result in results.values())


def test_only_a_test_folder(tmp_path):
    paint(tmp_path / "Testing", red=2, blue=1)
    (result,) = evaluator().run_splits(tmp_path)
    assert (result.split, result.top1, result.num_images) == ("test", 1.0, 3)


def test_classes_that_the_model_lacks(tmp_path):
    folder = paint(tmp_path / "a", red=1, pink=1)
    with pytest.raises(
        ValueError, match=r"a has 'pink', but model has no such class: its 3 classes are 'red', 'green'"
    ):
        evaluator().run_splits(folder)
    twice = paint(tmp_path / "photos" / "photos", red=1, blue=1)
    with pytest.raises(
        ValueError, match=rf"one class alone, 'photos'.*did you mean {twice}, which holds 'blue', 'red'"
    ):
        evaluator().run_splits(tmp_path / "photos")


def test_splits_on_request(tmp_path):
    folder = paint(tmp_path, red=20, blue=20)
    of = evaluator()
    assert [r.split for r in of.run_splits(folder, ["val"])] == ["val"]
    assert [r.split for r in of.run_splits(folder, ["all"])] == ["all"]
    assert [r.split for r in of.run_splits(folder, val_fraction=0.5)] == ["train", "val"]
    assert held_out_split(of.open(folder, *of.splitting(folder, (), None, None))) == "all"


def test_the_training_data_of_a_run_are_divided_as_in_training(tmp_path, monkeypatch):
    folder = paint(tmp_path / "photos", red=20, blue=20)
    (tmp_path / "run").mkdir()
    config = TrainConfig.of(data=str(folder), val_fraction=0.4, seed=5)
    (tmp_path / "run" / "config.json").write_text(config.to_json())
    of = evaluator(name=str(tmp_path / "run" / "best.safetensors"))
    monkeypatch.chdir(tmp_path)
    for data in (folder, f"{folder}{os.sep}", "photos"):
        assert of.splitting(data, (), None, None) == (0.4, 5)
        assert [r.split for r in of.run_splits(data)] == ["train", "val"]
    assert of.splitting(folder, (), 0.1, 3) == (0.1, 3)
    other = shutil.copytree(folder, tmp_path / "other")
    assert of.splitting(other, (), None, None) == (0.0, 0)
    # Sets by name come with splits; the share matters for some.
    assert of.splitting("fashion_mnist", (), None, None) == (0.2, 0)
    config = config.but(data="fashion_mnist")
    (tmp_path / "run" / "config.json").write_text(config.to_json())
    assert of.splitting("fashion_mnist", (), None, None) == (0.4, 5)


def test_shards(tmp_path, tar, monkeypatch):
    monkeypatch.setenv("TRANSNEXT_CACHE", str(tmp_path / "cache"))
    members = {}
    for i, name in enumerate(("blue", "red", "blue", "blue")):
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), COLOURS[name]).save(stream, "PNG")
        members |= {f"{i}.png": stream.getvalue(), f"{i}.cls": name.encode()}
    (tmp_path / "photos.tar").write_bytes(tar(members))
    (result,) = evaluator().run_splits(tmp_path / "photos.tar")
    assert (result.split, result.top1) == ("all", 1.0)
    assert result.class_images.tolist() == [1, 0, 3]


def test_shards_by_a_pattern_are_divided_as_in_training(tar_folder, tmp_path, monkeypatch):
    folder = tar_folder(train=[20, 20])
    (tmp_path / "run").mkdir()
    config = TrainConfig.of(data=f"{folder}/train-*.tar", val_fraction=0.4, seed=5)
    (tmp_path / "run" / "config.json").write_text(config.to_json())
    of = evaluator(name=str(tmp_path / "run" / "best.safetensors"))
    monkeypatch.chdir(folder.parent)
    for data in (config.data, f"{folder.name}/train-*.tar", f"./{folder.name}/train-*.tar"):
        assert of.splitting(data, (), None, None) == (0.4, 5)
    assert of.splitting(f"{folder.name}/*.tar", (), None, None) == (0.0, 0)


@pytest.mark.parametrize("naming", ["wnids", "numbers", "descriptions"])
def test_imagenet_classes_by_their_other_names(tmp_path, naming):
    places = [999, 10, 2]
    names = {"wnids": wnids(), "numbers": range(1000), "descriptions": imagenet_descriptions()}[naming]
    for colour, place in zip(COLOURS, places, strict=True):
        (paint(tmp_path / "x", **{colour: place % 7 + 1}) / colour).rename(tmp_path / "x" / str(names[place]))
    (result,) = evaluator(imagenet_descriptions(), places=places, num_classes=1000).run_splits(tmp_path / "x")
    assert result.top1 == 1.0
    assert {i: n for i, n in enumerate(result.class_images.tolist()) if n} == {p: p % 7 + 1 for p in places}


def test_a_thousand_other_classes_are_not_those_of_imagenet(tmp_path):
    for i in range(1000):
        (tmp_path / f"thing {i:04}").mkdir()
        (tmp_path / f"thing {i:04}" / "0.png").touch()
    with pytest.raises(ValueError, match=r"has 'thing 0000', .* and 995 more, but model has no such class"):
        evaluator(imagenet_descriptions(), num_classes=1000).run_splits(tmp_path)


def test_by_command(tmp_path, capsys):
    data = paint(tmp_path / "photos", red=6, green=6, blue=6)
    run, size = tmp_path / "run", ["--image-size", "32", "--epochs", "1", "--batch-size", "6", "--workers", "0"]
    main(["train", str(data), "--output", str(run), *size, "--device", "cpu"])
    capsys.readouterr()
    file = tmp_path / "r.json"
    test = paint(tmp_path / "test", blue=3, red=1)
    main(["eval", str(run), str(test), "--workers", "0", "--device", "cpu", "--json-file", str(file)])
    assert " all " in capsys.readouterr().out
    (split,) = json.loads(Path(file).read_text())["splits"].items()
    assert split[0] == "all"
    assert [c["images"] for c in split[1]["classes"]] == [3, 0, 1]
    main(["eval", str(run), str(data), "--workers", "0", "--device", "cpu", "--json-file", str(file)])
    assert json.loads(Path(file).read_text())["splits"].keys() == {"train", "val"}


def test_training_twice_from_inside_the_data(tmp_path, monkeypatch, caplog, capsys):
    """The run folder, the cache and pictures of where the model looks lie among the classes."""
    data = paint(tmp_path / "photos", red=6, blue=6)
    monkeypatch.chdir(data)
    size = ["--image-size", "32", "--epochs", "1", "--batch-size", "6", "--workers", "0", "--device", "cpu"]
    main(["train", ".", "--cache", "decoded", *size])
    main(["predict", "red/0.png", "--model", "runs/latest", "--look", "looks"])
    results = json.loads((data / "runs" / "latest" / "results.json").read_text())
    assert "transnext" not in {record.name for record in caplog.records}
    main(["train", ".", "--cache", "decoded", "--output", "second", *size])
    assert [record.getMessage() for record in caplog.records if record.name == "transnext"] == [
        f"{data}: passed over what transnext itself has written: decoded, looks, runs/latest"
    ]
    again = json.loads((data / "second" / "results.json").read_text())
    assert {k: v["images"] for k, v in again.items()} == {k: v["images"] for k, v in results.items()}
    capsys.readouterr()
    main(["predict", "."])
    assert capsys.readouterr().out.count(".png: ") == 12
