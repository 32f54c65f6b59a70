import json

import pytest
from PIL import Image

from transnext.cli import main
from transnext.data.folder_checks import check_folder


@pytest.fixture
def photos(tmp_path):
    for split, counts in {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1}}.items():
        for name, count in counts.items():
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (len(split), len(name) * i, ord(name[0]))).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_what_is_wrong_with_a_folder_of_classes(photos) -> None:
    (photos / "train" / "dog" / "0.png").write_bytes((photos / "val" / "cat" / "0.png").read_bytes())
    (photos / "train" / "cat" / "1.png").write_bytes((photos / "train" / "cat" / "2.png").read_bytes())
    (photos / "train" / "dog" / "1.png").write_bytes(b"no image")
    report = check_folder(photos)
    assert report.splits == {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 0}}
    found = {finding.kind: finding for finding in report.findings}
    assert {kind: finding.count for kind, finding in found.items()} == {
        "image_damaged": 1,
        "image_repeated": 1,
        "content_in_two_splits": 1,
        "class_empty": 1,
    }
    assert "dog/1.png" in found["image_damaged"].examples[0]
    assert "cat/2.png" in found["image_repeated"].examples[0]
    assert "val/cat/0.png" in found["content_in_two_splits"].examples[0]
    assert found["class_empty"].examples == ("dog in val",)
    assert [finding.kind for finding in check_folder(photos, pixels=False).findings] == ["class_empty"]


def test_by_command(photos, tmp_path, capsys) -> None:
    file = tmp_path / "found.json"
    for what in ([], ["--what", "classes"]):
        main(["check", str(photos), "--json-file", str(file), *what])
        assert "image folder, a class each" in capsys.readouterr().out
        assert json.loads(file.read_text())["splits"]["train"] == {"cat": 3, "dog": 2}


def test_what_is_no_data_set_is_said_as_before(tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main(["check", str(tmp_path / "empty")])
    assert "no annotations that are known" in capsys.readouterr().err
