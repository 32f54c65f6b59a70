import gzip
import pickle
import shutil
from urllib.error import URLError

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from transnext.data import fashion_mnist, open_dataset
from transnext.data.fashion_mnist import fashion_mnist_splits, load_fashion_mnist

COUNTS = {"train": 200, "t10k": 100}


@pytest.fixture(autouse=True)
def _read_anew():
    load_fashion_mnist.cache_clear()
    yield
    load_fashion_mnist.cache_clear()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A small Fashion-MNIST where Debian's is looked for."""
    folder = tmp_path / "debian"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for file, count in COUNTS.items():
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = rng.permutation(np.arange(count, dtype=np.uint8) % 10)
        for name, header, data in (
            (f"{file}-images-idx3-ubyte.gz", (0x803, count, 28, 28), images),
            (f"{file}-labels-idx1-ubyte.gz", (0x801, count), labels),
        ):
            (folder / name).write_bytes(gzip.compress(np.array(header, ">u4").tobytes() + data.tobytes()))
    monkeypatch.setattr(fashion_mnist, "_DEBIAN", folder)
    monkeypatch.setenv("TRANSNEXT_CACHE", str(tmp_path / "cache"))
    return folder


def no_network(self, *args, **kwargs):
    raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried http://example.org/, got:\nno network")


def test_splits(files):
    splits = open_dataset("fashion_mnist", val_fraction=0.1)
    assert {name: len(source) for name, source in splits.items()} == {"train": 180, "val": 20, "test": 100}
    for source in splits.values():
        assert np.bincount([source.target(i) for i in range(len(source))]).tolist() == [len(source) // 10] * 10
    names = {source.name(i) for source in splits.values() for i in range(len(source))}
    assert len(names) == 300
    train, val = splits["train"], splits["val"]
    by_class = [{label: [] for label in range(10)} for _ in range(2)]
    for source, places in zip((train, val), by_class, strict=True):
        for i in range(len(source)):
            places[source.target(i)].append(int(source.name(i).rpartition("/")[2]))
    assert all(max(by_class[0][label]) < min(by_class[1][label]) for label in range(10))


def test_an_image(files):
    arrays = load_fashion_mnist("t10k")
    source = open_dataset("fashion_mnist")["test"]
    image = source.load(7, 5)
    assert (image.mode, image.size) == ("RGB", (28, 28))
    np.testing.assert_array_equal(np.asarray(image), np.repeat(arrays.images[7][..., None], 3, -1))
    assert source.target(7) == arrays.labels[7]
    assert source.classes[source.target(7)] == FashionMNIST.classes[arrays.labels[7]]
    assert source.name(7) == "fashion_mnist/test/7"
    assert len(pickle.dumps(source)) < 2000


def test_all_for_training(files):
    assert list(fashion_mnist_splits(0.0)) == ["train", "test"]
    for value in (-0.1, 1.0):
        with pytest.raises(ValueError, match="val_fraction"):
            fashion_mnist_splits(value)


def test_the_cache_is_looked_into_and_torchvision_reads_the_same(files, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_DEBIAN", tmp_path / "none")
    raw = tmp_path / "cache" / "FashionMNIST" / "raw"
    shutil.copytree(files, raw)
    source = open_dataset("fashion_mnist", 0.0)["train"]
    for path in list(raw.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    expected = FashionMNIST(str(tmp_path / "cache"))
    for i in (0, 199):
        assert source.load(i) == expected[i][0].convert("RGB")
        assert source.target(i) == expected[i][1]


@pytest.mark.parametrize("error", [no_network, lambda *_, **__: (_ for _ in ()).throw(URLError("no network"))])
def test_no_download(files, tmp_path, monkeypatch, capsys, error):
    monkeypatch.setattr(fashion_mnist, "_DEBIAN", tmp_path / "none")
    monkeypatch.setattr(FashionMNIST, "__init__", error)
    with pytest.raises(FileNotFoundError, match=r"^fashion_mnist .*no network.*: apt-get install dataset-.*$"):
        open_dataset("fashion_mnist")
    assert capsys.readouterr().err.startswith("Downloading Fashion-MNIST (30 MB) to ")


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: gzip.compress(b"else")])
def test_a_damaged_file_is_named(files, damage):
    path = files / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz is .*: remove it and try again$"):
        open_dataset("fashion_mnist")


def test_the_real_one():
    if fashion_mnist._find() is None:
        pytest.skip("Fashion-MNIST is not on this machine")
    splits = open_dataset("fashion_mnist", 1 / 12)
    assert {name: len(source) for name, source in splits.items()} == {"train": 55_000, "val": 5_000, "test": 10_000}
    assert [splits["test"].target(i) for i in range(5)] == [9, 2, 1, 1, 6]
