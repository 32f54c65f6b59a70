"""`transnext explain`: what it prints and writes."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.tiny_mask2former import tiny_backbone
from transnext.cli import main
from transnext.data.joint import to_bytes
from transnext.data.preprocessing import Preprocessing
from transnext.explain import look
from transnext.export import export_model
from transnext.inputs import open_image
from transnext.loaded import opened
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.task import Loaded

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


def test_attention_of_a_box(here, capsys) -> None:
    """Of an image of 50x70, whose map of stage 0 has 13x18 pixels, each 4 pixels from the next."""
    args = ("attention", "a.png", "--own-size", "--stage", "0", "--block", "0", "--box", "10", "0", "40.5", "30")
    explain(*args, "--save", "a.npz")
    assert capsys.readouterr().out.startswith("stage 0, block 0: mean of 56 queries of 13 x 18, ")
    arrays = np.load("a.npz")
    expected = np.zeros((13, 18), bool)
    expected[:8, 3:10] = True  # 10 <= 4 * i + 0.5 < 40.5
    assert (arrays["inside"] == expected).all()
    assert arrays["map_all"].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(arrays["map_local"] + arrays["map_pooled"], arrays["map_all"], atol=1e-6)
    loaded = opened(MODEL)
    looked = look(loaded.model, loaded.preprocessing.normalise()(to_bytes(open_image("a.png", None))[None]))
    found = looked.block(0, 0)
    mean = sum(found.map(int(row), int(col)).numpy() for row, col in np.argwhere(expected)) / 56
    np.testing.assert_allclose(arrays["map_all"], mean, atol=1e-6)
    explain(*args, "--save", "a.png.png")
    with Image.open("a.png.png") as figure:
        assert figure.width > figure.height


def test_boxes_of_a_segmenter_are_in_pixels_of_the_file(here) -> None:
    """50x70 pixels are brought to 64x90 in a frame of 64x96."""
    net = build_net("upernet", tiny_backbone(), 2, size="small", channels=16, auxiliary_channels=0).eval()
    preprocessing = Preprocessing.of_model(net.backbone.net).with_places("fit", (64, 96))
    task = Segmentation(metadata={"class_names": ["a", "b"]})
    hub = export_model(Loaded(model=net, task=task, preprocessing=preprocessing, name="it"), "hub", format="hf").path
    args = ("attention", "a.png", "--model", str(hub), "--stage", "0", "--save", "a.npz", "--box")
    explain(*args, "10", "10", "40", "30")
    inside = np.load("a.npz")["inside"]
    assert inside.shape == (16, 24)
    expected = np.zeros_like(inside)
    expected[4:10, 4:13] = True  # 12.8 <= 4 * i + 0.5 < 38.4, and 51.2
    assert (inside == expected).all()
    explain(*args, "0", "0", "70", "50")
    assert np.load("a.npz")["inside"][:, :23].all()


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
        (
            ["attention", "a.png", "--own-size", "--box", "9", "9", "9", "20"],
            "--box is 9 9 9 20: expected 0 <= X0 < X1",
        ),
        (["attention", "a.png", "--own-size", "--box", "9", "9", "71", "20"], "X1 <= 70 and 0 <= Y0 < Y1 <= 50"),
        (
            ["attention", "a.png", "--box", "0", "0", "65", "20"],
            "X1 <= 64 and 0 <= Y0 < Y1 <= 64, pixels of the image as",
        ),
        (["attention", "a.png", "--own-size", "--box", "nan", "9", "20", "20"], "--box is nan 9 20 20"),
        (["attention", "a.png", "--box", "1", "1", "9", "9", "--at", "0", "0"], "--at and --box exclude one another"),
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
