"""The commands as a user meets them: through `main`, with what they print."""

import json

import numpy as np
import pytest
from PIL import Image

from transnext.cli import main
from transnext.data import open_dataset


def fails(capsys, *args: str) -> str:
    """The single line that a mistake gives, with exit status 2."""
    with pytest.raises(SystemExit) as exit_:
        main(list(args))
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    assert "\n" not in error
    return error


@pytest.fixture
def heart(tmp_path):
    source = open_dataset("emoji")["val"]
    i = next(i for i in range(len(source)) if source.classes[source.target(i)] == "heart")
    path = tmp_path / "Herz é.png"
    source.load(i).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for name, colour in {"dark": 10, "light": 240}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (40, 40), colour + i).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def train(photos, output, *extra: str) -> None:
    size = ["--image-size", "32", "--epochs", "1", "--batch-size", "4"]
    main(["train", str(photos), "--output", str(output), *size, "--workers", "0", "--device", "cpu", *extra])


def test_train_eval_predict(photos, tmp_path, capsys) -> None:
    train(photos, tmp_path / "run")
    out = capsys.readouterr().out
    assert "epoch   1/1" in out
    assert "Results" in out
    assert "report.html" in out

    main(["eval", str(tmp_path / "run"), str(photos), "--workers", "0", "--json-file", str(tmp_path / "r.json")])
    assert "val" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "r.json").read_text())["splits"]) == {"train", "val"}

    main(["predict", str(photos / "dark" / "0.png"), "--model", str(tmp_path / "run"), "--look", str(tmp_path / "l")])
    assert "0.png: " in capsys.readouterr().out
    with Image.open(tmp_path / "l" / "0-looks.png") as picture:
        assert picture.size == (32, 32)

    train(photos, tmp_path / "run", "--resume", "auto")
    assert "Results" in capsys.readouterr().out


def test_the_bundled_model_answers_at_once(heart, tmp_path, capsys) -> None:
    main(["predict", str(heart), "--top-k", "2", "--json-file", str(tmp_path / "p.json")])
    assert "heart" in capsys.readouterr().out
    answer = json.loads((tmp_path / "p.json").read_text())[0]
    assert answer["classes"][0] == "heart"
    assert len(answer["probabilities"]) == 2


def test_predict_takes_folders_and_goes_on_after_a_bad_image(photos, capsys) -> None:
    (photos / "dark" / "0.png").write_text("not an image")
    main(["predict", str(photos)])
    printed = capsys.readouterr()
    assert printed.out.count(".png: ") == 11
    assert "skipped" in printed.err
    assert "0.png" in printed.err


def test_odd_images(tmp_path, capsys) -> None:
    Image.new("1", (1, 1)).save(tmp_path / "dot.png")
    Image.fromarray(np.zeros((9, 3000), np.uint16)).save(tmp_path / "line.tif")
    Image.new("CMYK", (64, 64)).save(tmp_path / "print.jpg")
    main(["predict", *map(str, sorted(tmp_path.glob("*.*")))])
    assert len(capsys.readouterr().out.strip().splitlines()) == 3


def test_models_and_info(capsys) -> None:
    main(["models"])
    out = capsys.readouterr().out
    assert "transnext_tiny.in1k" in out
    assert "28.26 M" in out
    main(["info"])
    assert "torch" in capsys.readouterr().out


def test_mistakes_get_one_line(photos, heart, tmp_path, capsys) -> None:
    assert "no/such" in fails(capsys, "train", "no/such", "--output", str(tmp_path / "r"))
    assert "epochs is 0" in fails(capsys, "train", "emoji", "--epochs", "0")
    assert "neither a run folder" in fails(capsys, "eval", "no_such", "emoji")
    assert "no file" in fails(capsys, "predict", str(tmp_path / "missing.png"))
    assert "no image is given" in fails(capsys, "predict")
    assert "no split 'test'" in fails(capsys, "eval", "transnext_pico.emoji", "emoji", "--splits", "test")
    assert "classes" in fails(capsys, "eval", "transnext_pico.emoji", str(photos))
    (photos / "empty").mkdir()
    assert "empty" in fails(capsys, "train", str(photos), "--output", str(tmp_path / "r"))
    train_error = fails(capsys, "train", str(heart), "--output", str(tmp_path / "r"))
    assert heart.name in train_error
    assert not (tmp_path / "r").exists()


def test_a_run_folder_that_cannot_be_written(photos, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in fails(capsys, "train", str(photos), "--output", str(tmp_path / "file" / "run"))
