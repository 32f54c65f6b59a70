"""Pictures of more channels and more bits than RGB has: from the command alone, and each number where it belongs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import transnext.data.channels as channels_module
from tests.helpers.map_sets import label_file, map_set
from transnext.cli import main
from transnext.config import ImageConfig, TrainConfig
from transnext.data.channels import Channels, read_channels, read_channels_header, statistics_of
from transnext.data.images import UnreadableImage
from transnext.data.joint import View, place
from transnext.data.preprocessing import Preprocessing
from transnext.data.segmentation.checks import check_segmentation
from transnext.data.segmentation.opening import open_checked, open_segmentation
from transnext.data.transforms import Normalise
from transnext.models.checkpoint import save_checkpoint
from transnext.predict import Segmenter
from transnext.tasks.segmentation.config import SegmentationConfig
from transnext.tasks.segmentation.images import MapImages
from transnext.tasks.segmentation.scales import multi_scale_map
from transnext.tasks.segmentation.starting import fresh_net
from transnext.tasks.segmentation.task import Segmentation

rasterio = pytest.importorskip("rasterio")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]


def tiff(path: Path, values: np.ndarray) -> np.ndarray:
    """Writes a picture `[C, H, W]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    options = {"height": height, "width": width, "count": count, "dtype": values.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **options) as file:
        file.write(values)
    return values


def deep_set(root: Path, channels: int = 4, dtype: str = "uint16", side: int = 64, **splits: int) -> Path:
    """Pictures whose last channel alone says where the second class is."""
    for number, split in enumerate(s for s, count in (splits or {"train": 6, "val": 2}).items() for _ in range(count)):
        rng = np.random.default_rng(number)
        labels = (np.add.outer(np.arange(side), np.arange(side)) // (16 + number) % 2).astype(np.uint8)
        values = rng.integers(0, 3000, (channels, side, side)).astype(dtype)
        values[-1] = np.where(labels, 9000, 1000)
        tiff(root / "images" / split / f"p{number}.tif", values)
        label_file(root / "labels" / split / f"p{number}.png", labels)
    (root / "classes.txt").write_text("field\nwater\n")
    return root


def test_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for count, dtype, full in ((4, "uint16", 65535), (5, "uint8", 255), (3, "uint16", 65535), (2, "float32", 1)):
        values = (rng.random((count, 20, 30)) * full).astype(dtype)
        tiff(tmp_path / "x.tif", values)
        found = read_channels(tmp_path / "x.tif", count)
        assert (found.height, found.width, len(found.bands)) == (20, 30, count)
        np.testing.assert_array_equal(found.tensor().numpy(), values.astype(np.float32) / np.float32(full))
        with pytest.raises(ValueError, match=f"it has {count} channels, where 7 are expected"):
            read_channels(tmp_path / "x.tif", 7)


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_deep_grey_keeps_its_levels(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        values = rng.integers(0, 4000, (1, 40, 60)).astype(np.uint16)
        path = tmp_path / "images" / ("train" if i else "val") / f"p{i}.{kind}"
        if kind == "tif":
            tiff(path, values)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values[0]).save(path)
        label_file(tmp_path / "labels" / path.parent.name / f"p{i}.png", (values[0] > 2000).astype(np.uint8))
    source = open_segmentation(tmp_path)["train"]
    assert source.channels == 1
    assert len(np.unique(read_channels(tmp_path / "images" / "train" / f"p1.{kind}", 1).tensor())) > 1000


def test_a_view_is_that_of_each_channel_alone() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**16, (4, 40, 60)).astype(np.uint16)
    view = View(source=(3.5, 2.25, 50.5, 33.0), target=(4, 6, 30, 20), size=(32, 48), mirrored=True)
    found = view.of_picture(Channels.of(values), (40, 60), "bilinear", (0.1, 0.2, 0.3, 0.4)).tensor()
    assert found.shape == (4, 32, 48)
    for band, fill, one in zip(values, (0.1, 0.2, 0.3, 0.4), found, strict=True):
        part = Image.fromarray(band.astype(np.float32) / np.float32(65535)).resize(
            (30, 20), Image.Resampling.BILINEAR, box=(3.5, 2.25, 50.5, 33.0)
        )
        expected = np.full((32, 48), fill, np.float32)
        expected[6:26, 4:34] = part
        np.testing.assert_array_equal(one.numpy(), expected[:, ::-1])


def test_means_are_those_of_all_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.random((3, 10, 12)).astype(np.float32) for _ in range(4)]
    pictures[1][0, 2, 3] = np.nan
    pictures[2][2] = 0.5
    for i, values in enumerate(pictures):
        tiff(tmp_path / f"{i}.tif", values)
    mean, std = statistics_of([str(tmp_path / f"{i}.tif") for i in range(4)], 3)
    together = np.stack(pictures, 1).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(mean, np.nanmean(together, 1), rtol=1e-6)
    np.testing.assert_allclose(std, np.nanstd(together, 1), rtol=1e-6)
    x = Normalise(mean, std, numbers=True)(torch.from_numpy(np.stack(pictures)))
    assert x[1, 0, 2, 3] == 0
    assert x.isfinite().all()
    centre, deviation = (np.array(one)[:, None, None] for one in (mean, std))
    np.testing.assert_allclose(x[0].numpy(), (pictures[0] - centre) / deviation, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected torch\.float32"):
        Normalise(mean, std, numbers=True)(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_inputs_of_training_and_evaluation(tmp_path: Path) -> None:
    root = deep_set(tmp_path)
    config = TrainConfig(data=str(root), images=ImageConfig(image_size=64), task=SegmentationConfig(augment="none"))
    task, sources = Segmentation.open(config)
    assert task.metadata["in_chans"] == 4
    assert "Pictures are numbers of 4 channels" in task.notes[0]
    net = task.build(config)
    preprocessing = task.preprocessing(net, config)
    assert preprocessing.input_size == (4, 64, 64)
    assert Preprocessing.from_mapping(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    stored = read_channels(sources["train"].paths[0], 4).tensor()
    for training in (None, config):
        sample = MapImages(sources["train"], preprocessing, training)[0]
        assert sample.image.dtype == torch.float32
        torch.testing.assert_close(sample.image, stored, rtol=0, atol=0)
    light = MapImages(sources["train"], preprocessing, replace(config, task=SegmentationConfig()))[0]
    assert light.image.dtype == torch.float32
    assert light.image.shape[0] == 4
    # Made smaller, larger or mirrored, the classes still lie where the last channel says.
    water = light.image[-1] > 5000 / 65535
    labels = light.target[: water.shape[0], : water.shape[1]]
    assert (water == labels.bool())[labels != 255].float().mean() > 0.85
    image, _ = place(read_channels(sources["train"].paths[0], 4), preprocessing)
    assert torch.equal(image, stored)


def test_what_is_found_in_the_data(tmp_path: Path) -> None:
    root = deep_set(tmp_path / "four")
    sources, report = open_checked(root)
    assert [source.channels for source in sources.values()] == [4, 4]
    assert report.format == "image and label folders, pictures of 4 channels as numbers"
    odd = tiff(root / "images" / "train" / "p0.tif", np.zeros((4, 64, 64), np.uint16))
    tiff(root / "images" / "train" / "p1.tif", odd[:3])
    (root / "images" / "train" / "p2.tif").write_bytes((root / "images" / "train" / "p2.tif").read_bytes()[:9000])
    findings = {finding.kind: finding.examples for finding in check_segmentation(root).findings}
    assert findings["image_unreadable"][0].endswith("p1.tif: it has 3 channels, where 4 are expected")
    assert "p2.tif" in findings["image_damaged"][0]
    # Four channels of eight bits are RGB and transparency, unless it is said.
    root = deep_set(tmp_path / "bytes", dtype="uint8")
    assert open_segmentation(root)["train"].channels is None
    assert open_segmentation(root, in_chans=4)["train"].channels == 4
    assert open_segmentation(deep_set(tmp_path / "deep", 3))["train"].channels == 3
    assert open_segmentation(map_set(tmp_path / "rgb"), in_chans=3)["train"].channels is None


@pytest.mark.parametrize("in_chans", [None, 4])
def test_a_damaged_picture_does_not_say_what_all_are(tmp_path: Path, in_chans: int | None) -> None:
    root = deep_set(tmp_path)
    whole = open_segmentation(root, in_chans=in_chans)["train"]
    first = root / "images" / "train" / "p0.tif"
    first.write_bytes(first.read_bytes()[:40])
    damaged = open_segmentation(root, in_chans=in_chans)["train"]
    assert (damaged.channels, len(damaged)) == (4, len(whole) - 1)


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("L", 1), ("I;16", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_sizes_are_read_without_decoding(mode: str, channels: int, orientation: int, tmp_path, monkeypatch) -> None:
    values = np.random.default_rng(0).integers(0, 255, (20, 30, 4), np.uint8)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(values)
    exif = Image.Exif()
    exif[274] = orientation
    image.convert(mode).save(tmp_path / "a.png", exif=exif)
    read = read_channels(tmp_path / "a.png", channels)
    for wrong in {1, 2, 4} - {channels, 4 if mode == "RGBA" else 3}:
        with pytest.raises(UnreadableImage, match=f"where {wrong} are expected"):
            read_channels_header(tmp_path / "a.png", wrong)
    monkeypatch.setattr(channels_module, "open_windowed", None)
    assert read_channels_header(tmp_path / "a.png", channels).upright == (read.height, read.width)


def test_a_model_of_rgb_is_not_evaluated_on_numbers(tmp_path: Path) -> None:
    task = Segmentation(metadata={"class_names": ["field", "water"]})
    line = "has pictures of numbers of 4 channels, and it was trained on RGB of 8 bits"
    with pytest.raises(ValueError, match=line):
        task.sources(str(deep_set(tmp_path)), 0.2, 0, "it")
    assert Segmentation(metadata={**task.metadata, "in_chans": 4}).sources(str(tmp_path), 0.2, 0, "it").keys() == {
        "train",
        "val",
    }


def run(*arguments: str | Path) -> int:
    """Exit status of a command."""
    try:
        main([str(one) for one in arguments])
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_training_evaluating_and_predicting_from_the_command(tmp_path: Path, capsys) -> None:
    root, out = deep_set(tmp_path / "data"), tmp_path / "run"
    assert run("segment", "check", root, "--in-chans", 4) == 0
    assert "pictures of 4 channels as numbers" in capsys.readouterr().out
    options = ["--in-chans", 4, "--image-size", 64, "--epochs", 12, "--batch-size", 2, "--lr", "3e-3",
               "--augment", "none", "--workers", 0, "--warmup-epochs", 0]  # fmt: skip
    code = run("segment", "train", root, "--output", out, *options, "--device", "cpu")
    said = capsys.readouterr()
    assert code == 0, said.err
    assert (out / "report.html").is_file()
    assert run("segment", "eval", out, root, "--splits", "val", "--device", "cpu") == 0
    assert "mIoU" in capsys.readouterr().out
    picture = root / "images" / "val" / "p6.tif"
    files = ["--save", tmp_path / "drawn", "--labels", tmp_path / "maps"]
    assert run("segment", "predict", picture, "--model", out, "--device", "cpu", *files) == 0
    assert (tmp_path / "drawn" / "p6-classes.png").is_file()
    true = np.asarray(Image.open(root / "labels" / "val" / "p6.png"))
    found = np.asarray(Image.open(tmp_path / "maps" / "p6.png"))
    # The last channel alone tells the classes: nothing like it is learnt from three of four.
    assert (found == true).mean() > 0.9
    segmenter = Segmenter(out)
    with rasterio.open(picture) as file:
        values = file.read()
    assert (segmenter(np.moveaxis(values, 0, -1))[0].labels == found).all()
    assert (segmenter.large(picture, tile=64).labels == found).mean() > 0.999
    several = Segmenter(out, scales=(0.5, 1.5), flip=True)
    one = several.loaded
    expected = multi_scale_map(one.model, Channels.of(values), one.preprocessing, ratios=(0.5, 1.5))
    assert (several(picture)[0].labels == expected).all()
    capsys.readouterr()
    # What does not fit is refused in one line.
    rgb = map_set(tmp_path / "rgb", (0, 1), ("field", "water"))
    for arguments, line in (
        (["eval", out, rgb], "it has 3 channels, where 4 are expected"),
        (["predict", rgb / "images" / "val" / "im4.jpg", "--model", out], "it has 3 channels, where 4 are expected"),
        (["train", root, "--output", tmp_path / "b", "--in-chans", 5], "p0.tif does not fit in_chans: it has 4"),
        (["train", root, "--output", tmp_path / "c", "--checkpoint", out / "best.safetensors", "--in-chans", 3],
         "it has 4 channels, where 3 are expected"),
        (["train", rgb, "--output", tmp_path / "d", "--checkpoint", out / "best.safetensors", *options[2:]],
         "takes pictures of 4 channels, these have 3"),
    ):  # fmt: skip
        assert run("segment", *arguments, "--device", "cpu") == 2
        assert line in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("count", [1, 4, 6])
def test_first_weights_for_rgb_are_repeated_over_the_channels(tmp_path: Path, count: int) -> None:
    """Red, green, blue, red, ..., scaled: where no colour weighs more, all channels the same look as in RGB."""
    torch.manual_seed(0)
    classifier = timm.create_model("transnext_pico", num_classes=3)
    metadata = {"architecture": "transnext_pico", "model_args": {"num_classes": 3}}
    save_checkpoint(tmp_path / "c.safetensors", classifier.state_dict(), metadata)
    config = TrainConfig.of("segmentation", data="", checkpoint=str(tmp_path / "c.safetensors"), image_size=64)
    net, said = fresh_net(config, ["a", "b"], in_chans=count)
    assert "c.safetensors" in said[0]
    rgb, _ = fresh_net(config, ["a", "b"])
    own, theirs = net.backbone.net.state_dict(), rgb.backbone.net.state_dict()
    differ = [name for name in own if own[name].shape != theirs[name].shape]
    assert differ == ["stages.0.patch_embed.proj.weight"]
    assert all(torch.equal(own[name], theirs[name]) for name in own if name not in differ)
    assert net.backbone.args()["in_chans"] == count
    weights = theirs[differ[0]]
    expected = weights.sum(1, keepdim=True) if count == 1 else weights[:, [i % 3 for i in range(count)]] * 3 / count
    torch.testing.assert_close(own[differ[0]], expected)
    if count == 4:
        return
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        maps = [one.backbone.eval()(image.expand(-1, n, -1, -1)) for one, n in ((net, count), (rgb, 3))]
    for one, other in zip(*maps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
