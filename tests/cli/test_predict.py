"""`transnext predict` on folders: a picture for each image, in order, whatever the images are called."""

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from transnext.cli import main
from transnext.cli.pictures import picture_files


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(name: str | bytes, colour: int = 9) -> None:
    path = Path(os.fsdecode(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 40), colour).save(path)


def looks(*args: str) -> list[str]:
    main(["predict", *args, "--look", "looks", "--top-k", "1"])
    return sorted(str(file.relative_to("looks")) for file in Path("looks").rglob("*.png"))


def test_a_picture_for_each_image_of_a_folder(here, capsys) -> None:
    for name in ("a/x.png", "b/x.png", "b/c/x.png", "x.png", "x.jpg"):
        save(f"photos/{name}")
    found = looks("photos")
    assert found == ["a/x-looks.png", "b/c/x-looks.png", "b/x-looks.png", "x-looks.png", "x.png-looks.png"]
    out = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in out[::2]] == [
        f"photos/{name}" for name in ("a/x.png", "b/c/x.png", "b/x.png", "x.jpg", "x.png")
    ]
    assert out[-1] == "  looks: looks/x.png-looks.png"


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["a/x.png"], ["x-looks.png"]),
        (["a/x.png", "b/x.png"], ["a/x-looks.png", "b/x-looks.png"]),
        (["a", "b/x.png", "./b/../c"], ["a/x-looks.png", "b/x-looks.png", "c/d/x-looks.png"]),
        (["c"], ["d/x-looks.png"]),
        (["*/x.png"], ["a/x-looks.png", "b/x-looks.png"]),
        (["a/x.png", "a/x.png"], ["x-looks.png", "x.png-looks.png"]),
    ],
)
def test_several_inputs(here, inputs, expected) -> None:
    for name in ("a/x.png", "b/x.png", "c/d/x.png"):
        save(name)
    assert looks(*inputs) == expected


def test_no_image_is_written_over(here) -> None:
    for name in ("looks/x.png", "looks/x-looks.png"):
        save(name, 77)
    assert looks("looks/x.png", "looks/x-looks.png") == [
        "x-looks-looks.png",
        "x-looks.png",
        "x.png",
        "x.png-looks.png",
    ]
    with Image.open("looks/x-looks.png") as picture:
        assert picture.getpixel((0, 0)) == 77


def test_long_names(here) -> None:
    names = ["é" * 120 + f"{i}.png" for i in range(2)]
    for name in names:
        save(name)
    found = looks(*names)
    assert len(found) == 2
    assert all(name.startswith("é" * 50) and len(os.fsencode(name)) <= 143 for name in found)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8(here, capsys) -> None:
    save(b"photos/caf\xe9.png")
    assert len(looks("photos", "--json-file", "a.json")) == 1
    assert "photos/caf\\udce9.png: " in capsys.readouterr().out
    assert json.loads((here / "a.json").read_text(encoding="utf-8"))[0]["image"] == os.fsdecode(b"photos/caf\xe9.png")


def test_pictures_of_two_kinds_have_names_of_their_own(tmp_path):
    images = [str(tmp_path / name) for name in ("a.jpg", "a-classes.jpg")]
    for name in images:
        Path(name).touch()
    drawn = picture_files(tmp_path / "out", images, [[name] for name in images], lambda _: "-classes.png")
    maps = picture_files(tmp_path / "out", images, [[name] for name in images], lambda _: ".png", drawn)
    assert [path.name for path in drawn] == ["a-classes.png", "a-classes-classes.png"]
    assert [path.name for path in maps] == ["a.png", "a-classes.jpg.png"]
