"""`transnext explain`: what it prints and writes."""

import json

import numpy as np
import pytest
from PIL import Image

from transnext.cli import main

MODEL = "transnext_pico.emoji"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8)).save("a.png")
    return tmp_path


def explain(*args: str) -> None:
    main(["explain", *args])


def fails(capsys, *args: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        explain(*args)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_attention_is_drawn(here, capsys, ending) -> None:
    explain("attention", "a.png", "--at", "0", "1", "--stage", "1", "--block", "0", "--save", f"a.{ending}")
    out = capsys.readouterr().out
    assert out.startswith("stage 1, block 0: query (0, 7) of 8 x 8, ")
    assert out.endswith(f"written: a.{ending}\n")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert (here / f"a.{ending}").read_bytes().startswith(start)


def test_arrays_of_an_image_at_its_own_size(here, capsys) -> None:
    explain("attention", "a.png", "--own-size", "--stage", "0", "--head", "0", "--save", "a.npz")
    arrays = np.load("a.npz")
    assert arrays["map_all"].shape == (13, 18)
    assert arrays["map_all"].sum() == pytest.approx(1, abs=1e-5)
    assert arrays["local"].shape[1:] == (1, 9)
    explain("rollout", "a.png", "--own-size", "--at", "0.5", "0.5", "--save", "b.npz")
    arrays = np.load("b.npz")
    assert arrays["image"].shape == (50, 70)
    assert arrays["stage_3"].sum() == pytest.approx(1, abs=1e-5)
    assert "a tenth of the pixels has" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["layercam", "integrated"])
def test_gradients_stand_beside_their_faithfulness(here, capsys, method) -> None:
    pytest.importorskip("captum" if method == "integrated" else "torchcam")
    explain("gradients", "a.png", "--method", method, "--target", "bird", "--steps", "4", "--save", "a.png.svg")
    out = capsys.readouterr().out
    assert f"{method}: bird " in out
    assert "deletion (less is better) / insertion (more): this map" in out
    assert (here / "a.png.svg").stat().st_size > 1000


def test_receptive_fields(here, capsys) -> None:
    args = (MODEL, "resnet18", "--weights", "random", "--image-size", "128", "--images", "2", "--save", "f.png")
    explain("receptive-field", *args)
    out = capsys.readouterr().out
    assert "2 images of noise" in out
    assert "resnet18" in out
    with Image.open("f.png") as figure:
        assert figure.width > figure.height
    explain("receptive-field", MODEL, "--data", "a.png", "--image-size", "128", "--save", "f.npz")
    assert "1 images of a.png" in capsys.readouterr().out
    assert np.load("f.npz")[MODEL].max() == 1


def test_faithfulness(here, capsys) -> None:
    pytest.importorskip("torchcam")
    pytest.importorskip("captum")
    explain("faithfulness", "emoji", "--images", "2", "--steps", "4", "--save", "f.svg", "--json-file", "f.json")
    assert "integrated gradients" in capsys.readouterr().out
    found = json.loads((here / "f.json").read_text())
    assert found["settings"]["images"] == 2
    assert found["settings"]["split"] == "val"
    assert set(found["explainers"]["rollout"]) >= {"deletion", "insertion", "correlation"}
    assert set(found["explainers"]["random"]) == {"deletion", "insertion"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["attention", "nothing.png"], "there is no image file nothing.png"),
        (["attention", "a.png", "--stage", "4"], "stage is 4: expected 0 to 3"),
        (["attention", "a.png", "--stage", "0", "--block", "7"], "block is 7, but stage 0 has"),
        (["attention", "a.png", "--head", "99"], "head is 99"),
        (["attention", "a.png", "--at", "0", "1.5"], "at is 1.5: expected between 0 and 1"),
        (["attention", "a.png", "--own-size", "--image-size", "64"], "exclude one another"),
        (["rollout", "a.png", "--save", "a.gif"], "end it in .png, .svg, .pdf, .npz"),
        (["rollout", "a.png", "--save", "nowhere/a.png"], "there is no folder nowhere"),
        (["gradients", "a.png", "--target", "brid"], "knows no class 'brid'"),
        (["receptive-field"], "no model is given"),
        (["receptive-field", "nonsense"], "no model is called 'nonsense'"),
        (["faithfulness", "emoji", "--split", "nowhere"], "no split 'nowhere'"),
    ],
)
def test_mistakes(here, capsys, args, message) -> None:
    assert message in fails(capsys, *args)
