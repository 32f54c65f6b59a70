"""Pictures in tiles from Python and the command line: what goes with them, and what is refused instead of ignored."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from transnext.cli import main
from transnext.data.preprocessing import Preprocessing
from transnext.models.backbone import Backbone
from transnext.predict import Segmenter
from transnext.tasks.segmentation import answers
from transnext.tasks.segmentation.answers import ClassMap
from transnext.tasks.segmentation.looking import looking_at
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.task import Loaded

pytestmark = pytest.mark.usefixtures("one_thread")
RNG = np.random.default_rng(0)
CLASSES = ["a", "b", "c"]


def _loaded(channels: int = 3, mean: tuple[float, ...] | None = None) -> Loaded:
    torch.manual_seed(0)
    net = build_net("upernet", Backbone("transnext_pico", in_chans=channels), 3, size="small").eval()
    preprocessing = Preprocessing.of_model(net.backbone.net).with_places("fit", (64, 64))
    if mean is not None:
        preprocessing = replace(preprocessing, mean=mean, std=(0.25,) * channels)
    task = Segmentation(metadata={"class_names": CLASSES, "window": 64, "window_stride": 40})
    return Loaded(model=net, task=task, preprocessing=preprocessing, name="it")


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return _loaded()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 100 x 130 pixels."""
    path = tmp_path_factory.mktemp("picture") / "x.png"
    Image.fromarray(RNG.integers(0, 256, (100, 130, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def command(loaded: Loaded, monkeypatch: pytest.MonkeyPatch):
    """`transnext segment predict` with a model that is open."""
    monkeypatch.setattr("transnext.predict.load", lambda model, **_: loaded)

    def call(*arguments: str | Path) -> None:
        main(["segment", "predict", *map(str, arguments), "--model", "it", "--device", "cpu"])

    return call


@pytest.fixture
def placed(picture: Path, tmp_path: Path) -> tuple[Path, Any]:
    """The same picture as a GeoTIFF, and where it lies: pixels of 10 m north of the equator, at 15 degrees east."""
    rasterio = pytest.importorskip("rasterio")
    where = rasterio.Affine(10, 0, 500_000, 0, -10, 2000)
    path = tmp_path / "placed.tif"
    options = {"height": 100, "width": 130, "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": where}
    with rasterio.open(path, "w", driver="GTiff", photometric="RGB", **options) as file:
        file.write(np.moveaxis(np.asarray(Image.open(picture)), -1, 0))
    return path, where


@pytest.mark.parametrize("options", [(), ("--tile", "64"), ("--tile", "64", "--geojson-file", "a.json")], ids=str)
def test_maps_lie_where_their_pictures_do(
    options: tuple[str, ...], placed: tuple[Path, Any], tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rasterio

    monkeypatch.chdir(tmp_path)
    command(placed[0], "--labels", tmp_path / "maps", "--label-format", "tif", *options)
    with rasterio.open(tmp_path / "maps" / "placed.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert file.transform == placed[1]


def test_answers_tell_where_their_pictures_lie(loaded: Loaded, placed: tuple[Path, Any], picture: Path) -> None:
    segmenter = Segmenter(loaded)
    whole, other = segmenter([placed[0], picture])
    tiled = segmenter.large(placed[0], tile=64)
    for found in (whole, tiled):
        assert found.profile["crs"].to_epsg() == 32633
        assert found.profile["transform"] == placed[1]
    assert other.profile == segmenter(Image.open(placed[0]))[0].profile == {}


class Watched(nn.Module):
    """A network that notes the batches that it sees."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[tuple[int, ...]] = []
        self.dtypes: list[torch.dtype] = []

    def forward(self, images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        self.seen.append((len(images), images.shape[2], images.shape[3]))
        self.dtypes.append((images.flatten(1) @ images.flatten(1).T).dtype)
        scores: torch.Tensor = self.net(images, sizes)
        return scores


def test_files_have_the_classes_of_python(loaded: Loaded, picture: Path, tmp_path: Path, command) -> None:
    found = Segmenter(loaded).large(picture, tile=64, overlap=0.5)
    assert found.size == (100, 130)
    assert len(np.unique(found.labels)) > 1
    for kind in ("png", "npy", "tif"):
        if kind == "tif":
            pytest.importorskip("rasterio")
        command(picture, "--tile", "64", "--overlap", "0.5", "--labels", tmp_path / kind, "--label-format", kind)
        file = tmp_path / kind / f"x.{kind}"
        labels = np.load(file) if kind == "npy" else np.asarray(Image.open(file))
        np.testing.assert_array_equal(labels, found.labels)


@pytest.mark.parametrize("suffix", ["png", "npy", "tif"])
def test_a_map_that_is_written_as_it_comes(
    loaded: Loaded, picture: Path, tmp_path: Path, monkeypatch, suffix: str
) -> None:
    if suffix == "tif":
        pytest.importorskip("rasterio")
    segmenter = Segmenter(loaded)
    whole = segmenter.large(picture, tile=64)
    monkeypatch.setattr("transnext.tasks.segmentation.asking.map_of", None)  # no map in memory
    written = segmenter.large(picture, output=tmp_path / f"m.{suffix}", tile=64)
    assert written.path == tmp_path / f"m.{suffix}"
    labels = np.load(written.path) if suffix == "npy" else np.asarray(Image.open(written.path))
    np.testing.assert_array_equal(labels, whole.labels)
    assert written.pixels.tolist() == whole.pixels.tolist()
    assert written.text() == whole.text()
    assert written.to_dict() == whole.to_dict()
    with pytest.raises(ValueError, match="names no kind of map"):
        segmenter.large(picture, output=tmp_path / "m.jpg", tile=64)


def test_label_files_alone_hold_no_map_in_memory(picture: Path, tmp_path: Path, command, monkeypatch, capsys) -> None:
    command(picture, "--tile", "64", "--labels", tmp_path / "a", "--csv-file", tmp_path / "a.csv")
    said = capsys.readouterr().out
    monkeypatch.setattr("transnext.tasks.segmentation.asking.map_of", None)
    command(picture, "--tile", "64", "--labels", tmp_path / "b", "--json-file", tmp_path / "b.json")
    assert capsys.readouterr().out == said
    assert (tmp_path / "a" / "x.png").read_bytes() == (tmp_path / "b" / "x.png").read_bytes()


def test_tiles_of_a_batch_are_as_alone(loaded: Loaded, picture: Path) -> None:
    watched = replace(loaded, model=Watched(loaded.model))
    alone = Segmenter(watched).large(picture, tile=64, batch_size=1)
    assert {batch for batch, *_ in watched.model.seen} == {1}
    watched.model.seen.clear()
    together = Segmenter(watched).large(picture, tile=64, batch_size=3)
    assert max(batch for batch, *_ in watched.model.seen) == 3
    assert (alone.labels != together.labels).mean() < 1e-3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--scales", "0.5", "1"), "--scales"),
        (("--flip",), "--flip"),
        (("--window", "64"), "--window"),
        (("--window", "64", "--window-stride", "32"), "--window, --window-stride"),
        (("--image-size", "96"), "--image-size"),
    ],
)
def test_what_tiles_would_ignore_is_refused(options, named, picture: Path, command, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        command(picture, "--tile", "64", *options)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"leave out {named}, or leave out --tile" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--overlap", "0.25"), "overlap is 0.25: it goes with --tile"),
        (("--tile", "100"), "tile is 100: expected a multiple of 32"),
        (("--tile", "64", "--overlap", "1"), "overlap is 1"),
        (("--tile", "64", "--batch-size", "0"), "batch_size is 0"),
    ],
)
def test_numbers_of_tiles_are_refused_before_the_work(options, message, picture: Path, command, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        command(picture, *options)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("looking", [{"scales": (0.5, 1.0)}, {"flip": True}, {"window": 32}, {"window": 0}])
def test_a_segmenter_that_looks_otherwise_takes_no_tiles(looking, loaded: Loaded, picture: Path) -> None:
    segmenter = Segmenter(loaded, **looking)
    if looking == {"window": 0}:
        assert segmenter.large(picture, tile=64).size == (100, 130)
    else:
        with pytest.raises(ValueError, match="in tiles a picture is looked at once"):
            segmenter.large(picture, tile=64)


def test_the_bias_of_tiles_follows_another_mode(loaded: Loaded, picture: Path) -> None:
    """It is the network's, not a way to place windows."""
    other = looking_at(loaded, bias_mode="interpolate", bias_size=64)
    with torch.no_grad():
        for name, parameter in other.model.named_parameters():
            if "cpb" in name:
                parameter.copy_(torch.randn_like(parameter))
    plain, interpolated = (Segmenter(one).large(picture, tile=96) for one in (loaded, other))
    assert (plain.labels != interpolated.labels).any()


def test_more_channels(tmp_path: Path) -> None:
    loaded = _loaded(5, mean=(0.5,) * 5)
    np.save(tmp_path / "x.npy", RNG.integers(0, 65535, (100, 130, 5)).astype(np.uint16))
    assert Segmenter(loaded).large(tmp_path / "x.npy", tile=64).size == (100, 130)
    with pytest.raises(ValueError, match=r"brought to the model as RGB, and it takes 5 channels: ask it in tiles"):
        Segmenter(loaded)(np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(ValueError, match="takes 5 channels, and mean and std of 3 are known"):
        Segmenter(_loaded(5)).large(tmp_path / "x.npy", tile=64)
    np.save(tmp_path / "y.npy", np.zeros((40, 40, 4), np.uint8))
    with pytest.raises(ValueError, match="has 4 channels, and the backbone was built for 5"):
        Segmenter(loaded).large(tmp_path / "y.npy", tile=64)


def test_arrays_are_taken_as_files_are(loaded: Loaded, picture: Path) -> None:
    segmenter = Segmenter(loaded)
    values = np.asarray(Image.open(picture).convert("RGB"))
    from_file, from_array = (segmenter.large(source, tile=64) for source in (picture, values))
    assert len(np.unique(from_file.labels)) > 1
    np.testing.assert_array_equal(from_array.labels, from_file.labels)
    with pytest.raises(ValueError, match="array has 1 channel, and the backbone was built for 3"):
        segmenter.large(values[..., 0], tile=64)
    with pytest.raises(TypeError, match=r"a NoneType cannot be read in tiles: give a path or an array"):
        segmenter.large(None, tile=64)  # type: ignore[arg-type]


def test_what_cannot_be_drawn_on_is_said(loaded: Loaded, tmp_path: Path, monkeypatch, capsys) -> None:
    np.save(tmp_path / "x.npy", RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8))
    monkeypatch.setattr("transnext.predict.load", lambda model, **_: loaded)
    options = ["--tile", "64", "--save", str(tmp_path / "drawn"), "--labels", str(tmp_path / "labels")]
    main(["segment", "predict", str(tmp_path / "x.npy"), "--model", "it", "--device", "cpu", *options])
    assert "not drawn: " in capsys.readouterr().out
    assert (tmp_path / "labels" / "x.png").exists()
    assert not (tmp_path / "drawn").exists()


def pictures(count: int) -> torch.Tensor:
    return torch.from_numpy(RNG.integers(0, 256, (count, 3, 64, 64)).astype(np.uint8))


def test_scores_of_windows_are_made_one_picture_at_a_time(loaded: Loaded) -> None:
    """At full size those of a batch would fill the memory."""
    net = Watched(loaded.model)
    images, sizes = pictures(3), torch.tensor([[64, 64]] * 3)
    scores = looking_at(loaded, flip=True).task.raw(net, images, sizes)
    assert isinstance(scores, Iterator)
    assert not net.seen
    next(scores)
    assert net.seen == [(2, 64, 64)]


def test_scores_that_come_later_have_the_precision_of_now(loaded: Loaded) -> None:
    net = Watched(loaded.model)
    images, sizes = pictures(2), torch.tensor([[64, 64]] * 2)
    task = looking_at(loaded, flip=True).task
    with torch.autocast("cpu", torch.bfloat16):
        narrow = task.raw(net, images, sizes)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        wide = task.raw(net, images, sizes)
    for _ in narrow:
        assert not torch.is_autocast_enabled("cpu"), "the mode of the caller stays"
    assert set(net.dtypes) == {torch.bfloat16}
    net.dtypes.clear()
    with torch.autocast("cpu", torch.bfloat16):
        list(wide)
    assert set(net.dtypes) == {torch.float32}


@pytest.mark.parametrize("values", [1, 50, 2**22])
def test_pixels_are_counted_in_strips(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = RNG.integers(0, 3, (37, 41)).astype(np.uint8)
    monkeypatch.setattr(answers, "_AT_ONCE", values)
    found = ClassMap(name="x", labels=labels, class_names=CLASSES)
    assert found.pixels.tolist() == np.bincount(labels.reshape(-1)).tolist()
