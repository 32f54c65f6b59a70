import json

import pytest
from PIL import Image

from transnext.data.imagenet import (
    NUM_VAL_IMAGES,
    find_corruptions,
    find_folder,
    open_imagenet,
    real_labels,
    subset_indices,
    wnids,
)


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


def test_classes():
    assert (len(wnids()), wnids()[0], wnids()[999]) == (1000, "n01440764", "n15075141")
    for subset, some in (("a", ("n01498041", 6)), ("r", ("n01443537", 1))):
        assert len(wnids(subset)) == len(set(subset_indices(subset))) == 200
        assert (wnids(subset)[0], subset_indices(subset)[0]) == some
        assert [wnids()[i] for i in subset_indices(subset)] == list(wnids(subset))


def test_numbers_are_numbers(tmp_path):
    for number in (2, 10, 1, 999):
        save(tmp_path / str(number) / "x.png")
    source = open_imagenet(tmp_path)
    labels = {source.name(i).split("/")[-2]: source.target(i) for i in range(len(source))}
    assert labels == {"1": 1, "2": 2, "10": 10, "999": 999}


def test_some_of_the_classes(tmp_path):
    for i in (3, 700):
        save(tmp_path / wnids()[i] / "x.JPEG")
    source = open_imagenet(tmp_path)
    assert [source.target(i) for i in range(len(source))] == [3, 700]
    assert len(source.classes) == 1000


def test_a_subset_has_labels_of_its_own(tmp_path):
    for i in (1, 199):
        save(tmp_path / wnids("r")[i] / "x.png")
    source = open_imagenet(tmp_path, "r")
    assert [source.target(i) for i in range(len(source))] == [1, 199]


def test_mistakes(tmp_path):
    save(tmp_path / "a" / wnids()[0] / "x.png")
    with pytest.raises(ValueError, match="n01440764 is the folder of no class of ImageNet-A"):
        open_imagenet(tmp_path / "a", "a")
    save(tmp_path / "b" / "1000" / "x.png")
    with pytest.raises(ValueError, match="1000 is the folder of no class of ImageNet-1K"):
        open_imagenet(tmp_path / "b")
    (tmp_path / "c" / wnids()[0]).mkdir(parents=True)
    with pytest.raises(ValueError, match="no images"):
        open_imagenet(tmp_path / "c")


def test_places(tmp_path):
    assert find_folder(tmp_path, "val") is None
    (tmp_path / "val").mkdir()
    assert find_folder(tmp_path, "val") == tmp_path / "val"
    (tmp_path / "imagenet" / "val").mkdir(parents=True)
    assert find_folder(tmp_path, "val") == tmp_path / "imagenet" / "val"
    for place in ("fog/1", "fog/5", "noise/shot_noise/3", "snow", "fog/9"):
        (tmp_path / "c" / place).mkdir(parents=True)
    found = find_corruptions(tmp_path / "c", ("shot_noise", "fog", "snow"))
    assert list(found) == ["shot_noise", "fog"]
    assert {name: list(severities) for name, severities in found.items()} == {"shot_noise": [3], "fog": [1, 5]}


def test_real_labels(tmp_path):
    labels = real_labels()
    assert len(labels) == NUM_VAL_IMAGES
    assert sum(map(bool, labels.values())) == 46_837  # Beyer et al. 2020
    assert labels["ILSVRC2012_val_00000001"] == []
    file = tmp_path / "real.json"
    file.write_text(json.dumps([[i % 7] for i in range(NUM_VAL_IMAGES)]))
    assert real_labels(file)["ILSVRC2012_val_00000009"] == [1]
    file.write_text("[[1], [2]]")
    with pytest.raises(ValueError, match=r"not the real.json of ImageNet"):
        real_labels(file)
    file.write_text("nope")
    with pytest.raises(ValueError, match="is not JSON"):
        real_labels(file)
