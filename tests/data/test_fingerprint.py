import json
import os
import random
import shutil
import time
from dataclasses import replace

import pytest

from transnext.data import cached, open_dataset
from transnext.data.datasets import FolderImages
from transnext.data.fingerprint import MAX_NAMES, DataFingerprint, fingerprint
from transnext.data.folder import FolderIndex
from transnext.data.names import printable


def make(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


NAMES = [f"{name}/{i}.png" for name, n in (("cat", 7), ("dög", 5), ("emu", 3)) for i in range(n)]


@pytest.fixture
def photos(tmp_path):
    make(tmp_path / "photos", NAMES)
    return tmp_path / "photos"


def of(data, *args):
    return fingerprint(open_dataset(data, *args))


def test_what_is_in_it(photos):
    found = of(photos, 0.0)
    assert found.classes == ("cat", "dög", "emu")
    assert list(found.splits) == ["train"]
    assert found.splits["train"].counts == {"cat": 7, "dög": 5, "emu": 3}
    assert found.splits["train"].names == tuple(sorted(NAMES))


def test_it_does_not_depend_on_the_path(photos, tmp_path, monkeypatch):
    here = of(photos)
    assert here.difference(of(f"{photos}{os.sep}")) == ""
    monkeypatch.chdir(tmp_path)
    for path in ("photos", "photos/", "./photos", "photos/../photos"):
        assert of(path) == here
    monkeypatch.chdir(photos)
    assert of(".") == here
    shutil.move(photos, tmp_path / "elsewhere")
    assert of(tmp_path / "elsewhere") == here


def test_it_does_not_depend_on_the_order_of_the_file_system(photos, tmp_path):
    shuffled = NAMES.copy()
    random.Random(0).shuffle(shuffled)
    make(tmp_path / "other", shuffled)
    assert of(tmp_path / "other") == of(photos)


def test_it_outlives_json(photos):
    found = of(photos)
    assert DataFingerprint.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_cached_images_have_that_of_their_source(photos, tmp_path):
    splits = open_dataset(photos)
    copies = {name: cached(source, tmp_path / "cache") for name, source in splits.items()}
    assert fingerprint(copies) == fingerprint(splits)


def removed(root):
    for i in (1, 2, 3, 5):
        (root / f"cat/{i}.png").unlink()
    return "train has 11 images instead of 15 (cat 3 instead of 7), without cat/1.png, cat/2.png, cat/3.png and 1 more"


def added(root):
    make(root, ["emu/new.png"])
    return "train has 16 images instead of 15 (emu 4 instead of 3), with the new emu/new.png"


def moved(root):
    (root / "cat/0.png").rename(root / "emu/9.png")
    return (
        "train has 15 images as before (cat 6 instead of 7, emu 4 instead of 3), without cat/0.png, "
        "with the new emu/9.png"
    )


def renamed(root):
    (root / "cat/0.png").rename(root / "cat/9.png")
    return "train has 15 images as before, without cat/0.png, with the new cat/9.png"


def class_removed(root):
    shutil.rmtree(root / "emu")
    return (
        "there is no class emu; train has 12 images instead of 15 (emu 0 instead of 3), "
        "without emu/0.png, emu/1.png, emu/2.png"
    )


def class_added(root):
    make(root, ["fox/1.png"])
    return "there is a new class fox; train has 16 images instead of 15 (fox 1 instead of 0), with the new fox/1.png"


@pytest.mark.parametrize("change", [removed, added, moved, renamed, class_removed, class_added])
def test_changes(photos, change):
    before = of(photos, 0.0)
    message = change(photos)
    after = of(photos, 0.0)
    assert after != before
    assert before.difference(after) == message
    assert after.difference(before) not in ("", message)


def test_other_splits(photos):
    difference = of(photos, 0.0).difference(of(photos, 0.3))
    assert difference.startswith("train has ")
    assert difference.endswith("; there is now a split val")
    assert of(photos, 0.3).difference(of(photos, 0.0)).endswith("; there is no split val")
    assert "val has" in of(photos, 0.3, 0).difference(of(photos, 0.3, 1))


def test_names_that_are_too_many_are_not_kept_but_count():
    def index(name):
        samples = [(f"/data/cat/{i}.png", 0) for i in range(MAX_NAMES)] + [(f"/data/dog/{name}.png", 1)]
        return FolderImages(FolderIndex(("cat", "dog"), tuple(samples), "/data"))

    before, after = (fingerprint({"train": index(name)}) for name in ("a", "b"))
    assert before.splits["train"].names is None
    assert before.difference(after) == f"train has {MAX_NAMES + 1} images as before, but not the same ones"


def test_the_order_of_classes_counts():
    def source(classes):
        return FolderImages(FolderIndex(classes, (("/d/a/1.png", 0),), "/d"))

    before, after = (fingerprint({"train": source(classes)}) for classes in (("a", "b"), ("b", "a")))
    assert before.difference(after).startswith("the classes come in another order")
    same_images = replace(after, splits=before.splits)
    assert before.difference(same_images) == "the classes come in another order"


def test_names_that_are_not_unicode(tmp_path):
    make(tmp_path / "photos", [os.fsdecode(b"cat/\xff.png"), os.fsdecode(b"cat/\xfe.png"), "dog/1\n.png"])
    found = of(tmp_path / "photos", 0.0)
    json.dumps(found.to_dict(), ensure_ascii=False).encode()
    assert found.splits["train"].names == (r"cat/\xfe.png", r"cat/\xff.png", r"dog/1\n.png")
    (tmp_path / "photos" / os.fsdecode(b"cat/\xff.png")).rename(tmp_path / "photos" / os.fsdecode(b"cat/\xf0.png"))
    assert r"without cat/\xff.png, with the new cat/\xf0.png" in found.difference(of(tmp_path / "photos", 0.0))


def test_shards(tar_folder, tmp_path):
    folder = tar_folder(train=[5, 70], val=[2])
    found = of(str(folder))
    assert found.splits["train"].counts == {"train-000.tar": 5, "train-001.tar": 70}
    assert found.splits["train"].names is None
    assert of(str(folder / "*.tar")) == found
    shutil.copytree(folder, tmp_path / "copy")
    assert of(str(tmp_path / "copy")) == found

    (tmp_path / "copy" / "train-000.tar").unlink()
    assert found.difference(of(str(tmp_path / "copy"))) == (
        "train has 70 images instead of 75 (train-000.tar 0 instead of 5)"
    )
    part, other = of(str(folder / "train-*.tar"), 0.2, 0), of(str(folder / "train-*.tar"), 0.2, 1)
    assert sum(sum(split.counts.values()) for split in part.splits.values()) == 75
    assert part != other


def test_sets_by_name():
    found = of("emoji")
    assert found == of("emoji")
    assert sum(found.splits["val"].counts.values()) == 592
    assert found.difference(replace(found, splits={k: v for k, v in found.splits.items() if k != "both"})) == (
        "there is no split both"
    )


def test_a_million_names_take_seconds():
    n = 1_000_000
    samples = tuple((f"/data/train/n{i // 1000:08}/n{i:08}_{i * 7919 % 100_003}.JPEG", i // 1000) for i in range(n))
    source = FolderImages(FolderIndex(tuple(f"n{i:08}" for i in range(1000)), samples, "/data/train"))
    start = time.process_time()
    found = fingerprint({"train": source})
    assert time.process_time() - start < 10
    assert set(found.splits["train"].counts.values()) == {1000}
    assert len(json.dumps(found.to_dict())) < 100_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain/日本 é 👩‍🚀.png", "plain/日本 é 👩‍🚀.png"),
        (b"a\xff\xe9.png", r"a\xff\xe9.png"),
        ("a\tb\nc\x1b[0m\x7f\x85\u2028", r"a\tb\nc\x1b[0m\x7f\x85\u2028"),
        ("\ud800", r"\ud800"),
        (r"back\slash", r"back\slash"),
    ],
)
def test_printable(name, text):
    assert printable(name) == text
    assert len(printable(name).splitlines()) == 1
    printable(name).encode()


def test_labels_count():
    def source(labels):
        return FolderImages(FolderIndex(("a", "b"), tuple((f"/d/x/{i}", c) for i, c in enumerate(labels)), "/d"))

    first, second = (fingerprint({"train": source(labels)}) for labels in ((0, 1), (1, 0)))
    assert first.splits["train"].counts == second.splits["train"].counts
    assert first.difference(second) == "train has 2 images as before, but not the same ones"
