import gzip
import io
import json
import os
import pickle
import sys
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from torch.utils.data import DataLoader

from transnext.data import LabelledImages, UnreadableImage, cached, collate, eval_transform, open_dataset, read_image
from transnext.data.shards import ShardError, files, holds_shards
from transnext.data.shards.layout import expand_braces, find_shards
from transnext.data.shards.tar import TarShard, index_path

TRANSFORM = eval_transform((3, 16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 1.0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TRANSNEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(files, "_PAUSES", (0.0, 0.0))


@pytest.fixture
def memory():
    """A remote file system, empty."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    return fs


def parquet(png, count, *, start=0, group=4, names=("cat", "dog", "eel"), image="struct", labels=None):
    """The bytes of a Parquet file as `datasets` writes it; without `names` it describes nothing."""
    numbers = range(start, start + count)
    data = [png(i) for i in numbers]
    table = pa.table(
        {
            "image": [{"bytes": each, "path": f"{i}.png"} for i, each in zip(numbers, data, strict=True)]
            if image == "struct"
            else data,
            "label": [i % 3 for i in numbers] if labels is None else labels,
        }
    )
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=group)
    return stream.getvalue()


def check_images(source, png, numbers):
    """The images of the source are those that `png` makes of these numbers, and their classes the remainders by 3."""
    assert len(source) == len(numbers)
    for i, number in enumerate(numbers):
        assert source.load(i).tobytes() == read_image(png(number)).tobytes()
        assert source.target(i) == number % 3


# Tar


def test_a_folder_of_uneven_tar_files(tar_folder, png):
    folder = tar_folder(train=[3, 0, 70, 1], val=[2], test=[4])
    splits = open_dataset(str(folder))
    assert list(splits) == ["train", "val", "test"]
    assert splits["train"].classes == ("0", "1", "2")
    check_images(splits["train"], png, range(74))
    check_images(splits["val"], png, range(74, 76))
    check_images(splits["test"], png, range(76, 80))
    assert splits["train"].name(73) == f"{folder}/train-003.tar/0000"
    assert splits["train"].block_ends.tolist() == [3, 67, 73, 74]
    with pytest.raises(IndexError):
        splits["train"].load(74)


def test_a_pattern_and_one_file(tar_folder, png):
    folder = tar_folder(train=[3, 4, 5], val=[2])
    check_images(open_dataset(f"{folder}/train-{{000..001}}.tar", 0.0)["train"], png, range(7))
    check_images(open_dataset(f"{folder}/train-*1.tar", 0.0)["train"], png, range(3, 7))
    assert {split: len(source) for split, source in open_dataset(f"{folder}/*.tar").items()} == {"train": 12, "val": 2}
    assert list(open_dataset(f"{folder}/val-000.tar")) == ["val"]


def test_one_class_alone(tar_folder, tmp_path, png, tar):
    folder = tar_folder(train=[1])
    with pytest.raises(ShardError, match=r"shards has images of one class alone, '0', where a classifier needs two"):
        open_dataset(str(folder))
    check_images(open_dataset(str(folder), known=("0", "1"))["train"], png, [0])

    # Two classes are known, but there are images of one.
    (folder / "classes.txt").write_text("cat\ndog\n")
    (folder / "train-000.tar").write_bytes(tar({"a.png": png(0), "a.cls": b"dog", "b.png": png(1), "b.cls": b"1"}))
    with pytest.raises(ShardError, match="one class alone, 'dog'"):
        open_dataset(str(folder))
    assert len(open_dataset(str(folder), 0.0, known=("cat", "dog"))["train"]) == 2

    path = tmp_path / "one.parquet"
    path.write_bytes(parquet(png, 3, names=("cat",), labels=[0, 0, 0]))
    with pytest.raises(ShardError, match=r"one\.parquet has images of one class alone, 'cat'"):
        open_dataset(str(path))


def test_nothing_but_an_empty_shard(tar_folder):
    with pytest.raises(ShardError, match=r"no labels in .*train-000\.tar"):
        open_dataset(str(tar_folder(train=[0])))


def test_no_images_of_their_own_become_val(tar_folder):
    folder = tar_folder(train=[100, 100])
    whole = open_dataset(str(folder), 0.0)["train"]
    splits = open_dataset(str(folder), 0.2, seed=1)
    assert list(splits) == ["train", "val"]
    names = {split: [source.name(i) for i in range(len(source))] for split, source in splits.items()}
    assert sorted(names["train"] + names["val"]) == [whole.name(i) for i in range(200)]
    assert 25 <= len(names["val"]) <= 55
    assert splits["train"].block_ends[-1] == len(names["train"])
    for source in splits.values():
        for i in range(0, len(source), 7):
            j = [whole.name(k) for k in range(200)].index(source.name(i))
            assert source.load(i).tobytes() == whole.load(j).tobytes()
            assert source.target(i) == whole.target(j)
    again, other = (open_dataset(str(folder), 0.2, seed)["val"] for seed in (1, 2))
    assert [again.name(i) for i in range(len(again))] == names["val"]
    assert [other.name(i) for i in range(len(other))] != names["val"]
    (folder / "train-001.tar").rename(folder / "train-000b.tar")  # another shard does not matter
    first = [name for name in names["val"] if "train-000.tar" in name]
    again = open_dataset(str(folder), 0.2, seed=1)["val"]
    assert [again.name(i) for i in range(len(again)) if "train-000.tar" in again.name(i)] == first
    for few in ("train-{000..000}.tar", "train-000*.tar"):
        splits = open_dataset(f"{folder}/{few}", 0.001)
        assert len(splits["val"]) == 1


def test_the_same_split_in_test_becomes_val(tar_folder):
    assert list(open_dataset(str(tar_folder(train=[3], test=[2])))) == ["train", "val"]


def test_broken_images_are_skipped_by_name(tmp_path, png, tar):
    members = {
        "./d/a.PNG": png(0),
        "./d/a.cls": b" 00\n",
        "b.cls": b"1",
        "b.png": b"no image",
        "c.json": b'{"label": 2, "x": []}',
        "c.png": png(2),
        "d.png": png(3),  # no label
        "e.json": b'{"label": 0}',  # no image
        "f.jpg": b"",
        "f.cls": b"1",
        "__meta__.json": b"{}",
        "g.seg.png": png(1),
        "g.png": png(6),
        "g.json": b'{"cls": "0"}',
        "h.json": b"{broken",
        "h.png": png(7),
    }
    (tmp_path / "x.tar").write_bytes(tar(members))
    source = open_dataset(f"{tmp_path}/x.tar", 0.0)["train"]
    assert [source.name(i) for i in range(8)] == [f"{tmp_path}/x.tar/{key}" for key in ("d/a", *"bcdefgh")]
    loader = DataLoader(LabelledImages(source, TRANSFORM), 8, collate_fn=collate)
    (batch,) = loader
    assert batch.indices.tolist() == [0, 2, 6]
    assert batch.targets.tolist() == [0, 2, 0]
    assert source.load(6).tobytes() == read_image(png(6)).tobytes()
    reasons = {name.removeprefix(f"{tmp_path}/"): reason for name, reason in batch.skipped}
    assert list(reasons) == ["x.tar/b", "x.tar/d", "x.tar/e", "x.tar/f", "x.tar/h"]
    assert "not an image" in reasons["x.tar/b"]
    assert reasons["x.tar/d"] == reasons["x.tar/h"] == "it has no label"
    assert reasons["x.tar/e"] == "there is no image with this name"
    assert reasons["x.tar/f"] == "the file is empty"


def test_classes_by_name(tmp_path, png, tar):
    for name, label in {"train-0": b"dog", "train-1": b"cat", "val-0": b"dog"}.items():
        (tmp_path / f"{name}.tar").write_bytes(tar({"a.png": png(0), "a.cls": label}))
    splits = open_dataset(str(tmp_path))
    assert splits["train"].classes == ("cat", "dog")
    assert [splits["train"].target(i) for i in range(2)] == [1, 0]
    assert splits["val"].target(0) == 1
    (tmp_path / "val-0.tar").write_bytes(tar({"a.png": png(0), "a.cls": b"eel"}))
    with pytest.raises(ShardError, match=r"^.*val-0\.tar/a has the label 'eel', but there is no such class$"):
        open_dataset(str(tmp_path))


def test_class_names_in_a_file(tar_folder):
    folder = tar_folder(train=[4], val=[1])
    (folder.parent / "classes.txt").write_text("cat\ndog\neel\n\n")
    assert open_dataset(str(folder))["train"].classes == ("cat", "dog", "eel")
    (folder / "dataset_info.json").write_text(
        json.dumps({"features": {"label": {"_type": "ClassLabel", "names": ["x", "y", "z"]}, "image": {}}})
    )
    assert open_dataset(str(folder))["train"].classes == ("x", "y", "z")
    (folder / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(ShardError, match=r"train-000\.tar/0002 has the label '2', but there are 2 classes"):
        open_dataset(str(folder))
    (folder / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(ShardError, match="one class name on each line"):
        open_dataset(str(folder))


def test_an_index_is_remembered_until_the_file_changes(tar_folder, png, tar, monkeypatch):
    path = str(tar_folder(train=[5]) / "train-000.tar")
    shard = TarShard(path)
    remembered = index_path(path, shard.version)
    assert remembered.exists()
    with monkeypatch.context() as patch:
        patch.setattr("transnext.data.shards.tar.scan", None)
        again = TarShard(path)
        assert list(again.index.keys) == list(shard.index.keys)
        assert again.index.labels.tolist() == ["0", "1", "2", "0", "1"]
    remembered.write_bytes(remembered.read_bytes()[:100])
    assert TarShard(path).read_block(0)[4].label == "1"
    Path(path).write_bytes(tar({"z.png": png(9), "z.cls": b"2"}))
    os.utime(path, (1, 1))
    assert TarShard(path).name(0).endswith("/z")


def test_counts_in_a_list_save_reading_all_shards(tar_folder, png, monkeypatch):
    folder = tar_folder(train=[3, 70], val=[2])
    (folder / "classes.txt").write_text("a\nb\nc\n")
    timm = {
        "splits": {
            "train": {"filenames": ["train-000.tar", "train-001.tar"], "shard_lengths": [3, 70]},
            "validation": {"filenames": ["val-000.tar"], "shard_lengths": [2]},
        }
    }
    wids = {
        "shardlist": [{"url": f"x/{name}", "nsamples": n} for name, n in (("train-000.tar", 3), ("train-001.tar", 70))]
    }
    for name, content in (("_info.json", timm), ("index.json", wids)):
        (folder / name).write_text(json.dumps(content))
        with monkeypatch.context() as patch:
            patch.setattr(TarShard, "index", property(lambda shard: pytest.fail("it was opened")))
            train = open_dataset(str(folder / "train-*.tar"), 0.0)["train"]
            assert len(train) == 73
        (folder / name).unlink()
        check_images(train, png, range(73))
        assert train.name(72).endswith("train-001.tar/0069")
    (folder / "_info.json").write_text(json.dumps(timm).replace("70", "71"))
    train = open_dataset(str(folder))["train"]
    with pytest.raises(ShardError, match=r"train-001\.tar has 70 images, but is listed with 71"):
        train.load(73)


def damaged(data: bytes) -> bytes:
    return data[:1024] + bytes([data[1024] ^ 1]) + data[1025:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:600], r"is no tar file, or damaged \(unexpected end of data\)"),
        (lambda data: data[:2048], "is cut off or damaged after 1 images: copy it again"),
        (damaged, "is cut off or damaged after 1 images: copy it again"),
        (lambda data: b"", r"is no tar file, or damaged \(empty file\)"),
        (lambda data: b"hello" * 1000, r"is no tar file, or damaged \(invalid header\)"),
        (gzip.compress, "is compressed, so that it cannot be read from the middle: unpack it"),
    ],
)
def test_a_damaged_tar_file_is_one_line(tar_folder, damage, message):
    folder = tar_folder(train=[3, 3])
    path = folder / "train-001.tar"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=f"^{path} {message}$"):
        open_dataset(str(folder))


def test_compressed_by_name(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"0" * 1000))
    with pytest.raises(ShardError, match="unpack it"):
        open_dataset(str(tmp_path / "a.tar.gz"))


def test_missing_ones(tmp_path, tar_folder):
    folder = tar_folder(train=[2, 2])
    with pytest.raises(ShardError, match=f"^there is nothing at {folder}/train-002.tar$"):
        open_dataset(f"{folder}/train-{{000..002}}.tar")
    with pytest.raises(FileNotFoundError, match=r"^there are no shards \(.tar or .parquet files\) in .*other-\*.tar$"):
        open_dataset(f"{folder}/other-*.tar")
    with pytest.raises(ShardError, match="several kinds"):
        open_dataset(f"{folder}/{{train-000.tar,train.parquet}}")
    with pytest.raises(ValueError, match="val_fraction"):
        open_dataset(str(folder), 1.0)


# Parquet


@pytest.mark.parametrize("image", ["struct", "bytes"])
def test_parquet_as_datasets_writes_it(tmp_path, png, image):
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    (folder / "train-00000-of-00002.parquet").write_bytes(parquet(png, 10, image=image))
    (folder / "train-00001-of-00002.parquet").write_bytes(parquet(png, 1, start=10, image=image))
    (folder / "validation-00000-of-00001.parquet").write_bytes(parquet(png, 3, start=11, image=image))
    (folder / "test-00000-of-00001.parquet").write_bytes(parquet(png, 3, image=image, labels=[-1, -1, -1]))
    splits = open_dataset(str(tmp_path / "set"))
    assert list(splits) == ["train", "val"]  # the labels of test are not public
    assert splits["train"].classes == ("cat", "dog", "eel")
    check_images(splits["train"], png, range(11))
    check_images(splits["val"], png, range(11, 14))
    assert splits["train"].block_ends.tolist() == [4, 8, 10, 11]
    assert splits["train"].name(10) == f"{folder}/train-00001-of-00002.parquet/0"


def test_a_test_split_without_labels_is_left_out_and_some_are_held_out(tar_folder, png, tar, caplog):
    folder = tar_folder(train=[40])
    (folder / "test-000.tar").write_bytes(tar({f"{i}.png": png(i) for i in range(5)}))
    splits = open_dataset(folder, val_fraction=0.25, seed=0)
    assert list(splits) == ["train", "val"]
    assert len(splits["train"]) + len(splits["val"]) == 40
    assert "no labels in" in caplog.text
    assert "test-000.tar, which is left out" in caplog.text


def test_parquet_without_description(tmp_path, png):
    (tmp_path / "a.parquet").write_bytes(parquet(png, 5, names=None))
    source = open_dataset(str(tmp_path / "a.parquet"), 0.0)["train"]
    assert source.classes == ("0", "1", "2")
    check_images(source, png, range(5))
    (tmp_path / "a.parquet").write_bytes(parquet(png, 3, names=None, labels=["eel", None, "cat"]))
    source = open_dataset(str(tmp_path / "a.parquet"), 0.0)["train"]
    assert source.classes == ("cat", "eel")
    assert [source.target(i) for i in (0, 2)] == [1, 0]
    with pytest.raises(UnreadableImage, match=r"a\.parquet/1: it has no label"):
        source.load(1)
    (tmp_path / "a.parquet").write_bytes(parquet(png, 3, names=None, labels=[0.0, None, 1.0]))
    assert open_dataset(str(tmp_path / "a.parquet"), 0.0)["train"].classes == ("0", "1")


def test_parquet_images_that_are_not_there(tmp_path):
    images = [{"bytes": None, "path": "x/y.png"}, {"bytes": b"no image", "path": None}, None]
    pq.write_table(pa.table({"image": images, "label": [0, 0, 1]}), tmp_path / "a.parquet")
    (batch,) = DataLoader(
        LabelledImages(open_dataset(f"{tmp_path}/a.parquet", 0.0)["train"], TRANSFORM), 3, collate_fn=collate
    )
    assert [name.rpartition("/")[2] for name, _ in batch.skipped] == ["0", "1", "2"]
    assert batch.skipped[0][1] == "the image is in another file, x/y.png"
    assert batch.skipped[2][1] == "the image is missing"


def test_parquet_that_cannot_be_used(tmp_path, png, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), path)
    with pytest.raises(ShardError, match=r"has no column of images \(as 'image'\); its columns are text, label$"):
        open_dataset(path)
    pq.write_table(pa.table({"image": [b""], "text": ["a"]}), path)
    with pytest.raises(ShardError, match=r"has no column of labels \(as 'label'\)"):
        open_dataset(path)
    path.write_bytes(parquet(png, 4)[:-5])
    with pytest.raises(ShardError, match=r"^.*a\.parquet cannot be read: [^\n]*$"):
        open_dataset(path)
    path.write_bytes(parquet(png, 4, labels=[0, 1, 7, 0]))
    source = open_dataset(path, 0.0)["train"]
    with pytest.raises(ShardError, match=r"a\.parquet/2 has the label '7', but there are 3 classes"):
        source.target(2)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ShardError, match=r'needs pyarrow: pip install "transnext\[shards\]"$'):
        open_dataset(path)


# Remote files


def test_urls(memory, png, tar):
    for i in range(3):
        memory.pipe(f"/set/train-{i}.tar", tar({"a.png": png(i), "a.cls": str(i).encode()}))
        memory.pipe(f"/hub/data/train-{i}.parquet", parquet(png, 5, start=5 * i))
    memory.pipe("/set/val-0.tar", tar({"a.png": png(1), "a.cls": b"1"}))
    for data in ("memory://set", "memory://set/", "memory://set/*.tar"):
        splits = open_dataset(data)
        assert list(splits) == ["train", "val"]
        check_images(splits["train"], png, range(3))
    check_images(open_dataset("memory://set/train-{0..1}.tar", 0.0)["train"], png, range(2))
    assert splits["train"].name(2) == "memory://set/train-2.tar/a" or splits["train"].name(2).endswith("train-2.tar/a")
    check_images(open_dataset("memory://hub", 0.0)["train"], png, range(15))
    with pytest.raises(ShardError, match="there is nothing at memory://none"):
        open_dataset("memory://none")
    with pytest.raises(ShardError, match=r"s4://x cannot be opened: .*s4"):
        open_dataset("s4://x")


class Flaky(MemoryFileSystem):
    """A file system whose every request fails `failures` times."""

    protocol = "flaky"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    asked: ClassVar = {}
    failures = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        key = (path, start, end)
        self.asked[key] = self.asked.get(key, 0) + 1
        if self.asked[key] <= self.failures and path in self.store:
            raise ConnectionResetError("connection\nreset")
        return super().cat_file(path, start, end, **kwargs)


def test_remote_files_are_tried_again(png, tar):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    fs = fsspec.filesystem("flaky")
    fs.pipe("/a.tar", tar({"a.png": png(0), "a.cls": b"0", "b.png": png(1), "b.cls": b"1"}))
    source = open_dataset("flaky://a.tar", 0.0)["train"]
    Flaky.failures = 2
    check_images(source, png, [0, 1])
    Flaky.failures = 3
    Flaky.asked.clear()
    source = pickle.loads(pickle.dumps(source))
    with pytest.raises(ShardError, match=r"^flaky://a\.tar cannot be read in 3 attempts: connection reset$"):
        source.load(0)
    # From a worker it is one line, too.
    Flaky.asked.clear()
    loader = DataLoader(LabelledImages(source, TRANSFORM), num_workers=1, collate_fn=collate)
    with pytest.raises(ShardError, match=r"^flaky://a\.tar cannot be read in 3 attempts: connection reset$"):
        next(iter(loader))


# The source


def test_workers(tar_folder):
    source = open_dataset(str(tar_folder(train=[70, 5])), 0.0)["train"]
    source.load(0)
    assert len(pickle.dumps(source)) < 20_000  # without the block that was read
    images = LabelledImages(source, TRANSFORM)
    batches = list(DataLoader(images, 20, collate_fn=collate, num_workers=2))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(75))
    np.testing.assert_array_equal(batches[3].images[14], images[74].image)


def test_blocks_are_kept(tar_folder, monkeypatch):
    source = open_dataset(str(tar_folder(train=[64 * 3])), 0.0)["train"]
    read = []
    monkeypatch.setattr(TarShard, "read_block", lambda shard, block: read.append(block) or [None] * 64)
    for kept, expected in ((0, [0, 1, 2, 0, 1]), (128, [0, 1, 2, 0, 1]), (192, [0, 1, 2])):
        source.kept_images = kept
        source._kept.clear()
        read.clear()
        for i in (0, 1, 63, 64, 65, 190, 0, 1, 64):
            source._record(i)
        assert read == expected


def test_the_cache_of_decoded_images_works_for_shards(tar_folder, png, tmp_path, monkeypatch):
    folder = tar_folder(train=[5])
    check_images(cached(open_dataset(str(folder), 0.0)["train"], tmp_path / "decoded"), png, range(5))
    source = cached(open_dataset(str(folder), 0.0)["train"], tmp_path / "decoded")
    monkeypatch.setattr(TarShard, "read_block", lambda shard, block: pytest.fail("it was read"))
    check_images(source, png, range(5))


# Patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a{1..3}", ["a1", "a2", "a3"]),
        ("{008..010}", ["008", "009", "010"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{0..2}", ["0", "1", "2"]),
        ("{a,b}-{0..1}", ["a-0", "b-0", "a-1", "b-1"]),
        ("{a}{", ["{a}{"]),
        ("{3..2}", []),
    ],
)
def test_braces(pattern, expected):
    assert list(expand_braces(pattern)) == expected


def test_splits_by_name(tmp_path):
    names = ("imagenet-train-00.tar", "Validation_3.tar", "dev.tar", "test/0.tar", "train/1.tar", "other.tar")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    flat = {split: [Path(url).name for url in urls] for split, urls in find_shards(f"{tmp_path}/*.tar").items()}
    assert flat == {"train": ["imagenet-train-00.tar", "other.tar"], "val": ["Validation_3.tar", "dev.tar"]}
    below = find_shards(f"{tmp_path}/*/*.tar")
    assert below == {"test": [f"{tmp_path}/test/0.tar"], "train": [f"{tmp_path}/train/1.tar"]}


def test_folders_below(tmp_path):
    for name in ("default/train/0.parquet", "default/test/0.parquet", "cats/a.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_shards(str(tmp_path)) == {
        "train": [f"{tmp_path}/default/train/0.parquet"],
        "test": [f"{tmp_path}/default/test/0.parquet"],
    }


def test_what_shards_are(tmp_path, tar_folder):
    assert holds_shards(str(tar_folder(train=[1])))
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    assert not holds_shards(str(tmp_path / "photos"))
    (tmp_path / "photos" / "cat.tar").write_bytes(b"")  # what the folder cat was unpacked from
    assert not holds_shards(str(tmp_path / "photos"))
    assert holds_shards(str(tmp_path / "photos" / "*.tar"))
    assert holds_shards("s3://bucket/folder")
    assert holds_shards("none-{0..3}.tar")
    assert not holds_shards("none")
