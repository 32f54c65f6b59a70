"""Panoptic answers from Python and the command: the right segments, COCO's files of them, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.helpers.map_sets import panoptic_set
from tests.helpers.tiny_mask2former import tiny_net
from transnext.cli import main
from transnext.config import TrainConfig
from transnext.data.preprocessing import Preprocessing
from transnext.data.segmentation.opening import open_segmentation
from transnext.models.backbone import Backbone
from transnext.predict import Segmenter
from transnext.tasks.segmentation.config import SegmentationConfig
from transnext.tasks.segmentation.mask2former.head import Predictions
from transnext.tasks.segmentation.mask2former.panoptic import panoptic
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.panoptic import PANOPTIC_NAME
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.task import Loaded

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ["sky", "cat", "road"]
SURE = 30.0
# Query: class, and columns of a quarter of the canvas that its mask has. Two cats, two pieces of sky. Stripes, as where
# three masks meet at a corner none of them is likely.
QUERIES = [
    (0, slice(0, 4)),
    (1, slice(4, 6)),
    (1, slice(6, 8)),
    (2, slice(8, 12)),
    (0, slice(12, 14)),
    (3, slice(14, 16)),  # no class: nothing is there
]


class Painted(nn.Module):
    """What a Mask2Former says, whatever it sees."""

    segmenter = "mask2former"
    num_classes = 3

    def predict(self, images: Tensor) -> Predictions:
        logits = torch.zeros(len(QUERIES), 4)
        masks = torch.full((len(QUERIES), 16, 16), -SURE)
        for query, (label, columns) in enumerate(QUERIES):
            logits[query, label] = SURE
            masks[query, :, columns] = SURE
        batch = len(images)
        return Predictions(logits.expand(1, batch, -1, -1).unbind(0), masks.expand(1, batch, -1, -1, -1).unbind(0))


def _loaded(**metadata) -> Loaded:
    # Of this only what pictures must look like is used.
    preprocessing = Preprocessing.of_model(Backbone("transnext_pico").net).with_places("fit", (64, 64))
    task = Segmentation(metadata={"class_names": CLASSES, **metadata})
    return Loaded(model=Painted().eval(), task=task, preprocessing=preprocessing, name="it")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "x.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return path


def _expected(scale: int = 4) -> np.ndarray:
    ids = np.zeros((16, 16), np.int32)
    for number, (_, columns) in zip((1, 2, 3, 4, 1, 0), QUERIES, strict=True):
        ids[:, columns] = number
    return ids.repeat(scale, 0).repeat(scale, 1)


def test_segments_of_a_picture(picture: Path) -> None:
    (found,) = Segmenter(_loaded(thing_classes=["cat"])).panoptic(picture)
    assert found.ids.dtype == np.int32
    np.testing.assert_array_equal(found.ids, _expected())
    assert found.segments_info == [
        {"id": 1, "category_id": 1, "iscrowd": 0, "area": 24 * 64, "bbox": [0, 0, 56, 64], "class": "sky",
         "isthing": 0, "score": 1.0},
        {"id": 2, "category_id": 2, "iscrowd": 0, "area": 8 * 64, "bbox": [16, 0, 8, 64], "class": "cat",
         "isthing": 1, "score": 1.0},
        {"id": 3, "category_id": 2, "iscrowd": 0, "area": 8 * 64, "bbox": [24, 0, 8, 64], "class": "cat",
         "isthing": 1, "score": 1.0},
        {"id": 4, "category_id": 3, "iscrowd": 0, "area": 16 * 64, "bbox": [32, 0, 16, 64], "class": "road",
         "isthing": 0, "score": 1.0},
    ]  # fmt: skip
    assert found.text() == "sky 37.5%, road 25.0%, cat 1 12.5%, cat 2 12.5%"
    assert found.mask(3).sum() == 512
    with pytest.raises(ValueError, match="there is no segment 5: there are 4"):
        found.mask(5)


def test_pixels_of_the_picture_not_of_the_canvas(tmp_path: Path) -> None:
    """Twice the side of the input, of which a quarter is padding: masks are cut and enlarged."""
    path = tmp_path / "wide.png"
    Image.new("RGB", (128, 96)).save(path)
    (found,) = Segmenter(_loaded(thing_classes=["cat"])).panoptic(path)
    assert found.size == (96, 128)
    # The network saw 48 rows of 64; twelve of the 16 rows of masks are picture.
    np.testing.assert_array_equal(found.ids, _expected(8)[:96])


def test_drawn_in_colours_that_differ(picture: Path) -> None:
    (found,) = Segmenter(_loaded(thing_classes=["cat"], class_colours=[[9, 9, 200], [1, 2, 3], [7, 90, 7]])).panoptic(
        picture
    )
    image = Image.new("RGB", (64, 64))
    drawn = np.asarray(found.draw(image, opacity=1.0, legend=False))
    step = drawn.shape[0] // 64
    row = drawn[drawn.shape[0] // 2]
    nothing, sky, cat, other, road = (row[step * column + step // 2].tolist() for column in (60, 5, 20, 28, 40))
    assert (nothing, sky, road) == ([0, 0, 0], [9, 9, 200], [7, 90, 7])
    assert cat != other
    assert [1, 2, 3] not in (cat, other)


def test_as_transformers_where_the_rules_are_the_same() -> None:
    """Sure classes and masks that leave nothing open: there it does not matter that transformers weighs masks before it
    asks whether they are likely, and gives away what is not. The fused class comes last: behind it transformers counts
    on from the id of its first area, and gives ids twice."""
    from transformers import Mask2FormerImageProcessor

    generator = torch.Generator().manual_seed(0)
    queries, side = 9, 96
    owner = torch.randint(0, queries, (16, 1), generator=generator).repeat_interleave(6, 0).expand(side, side)
    masks = torch.where(owner == torch.arange(queries)[:, None, None], SURE, -SURE)
    masks[3, :40] = SURE / 2  # covered by others, mostly: left out
    labels = torch.tensor([1, 1, 2, 3, 1, 2, 3, 0, 0])
    logits = SURE * 2 * torch.nn.functional.one_hot(labels, 5).float()
    fuse = {0}

    class Said(nn.Module):
        num_classes = 4

        def predict(self, images: Tensor) -> Predictions:
            return Predictions((logits[None],), (masks[None],))

    size = torch.tensor([[384, 384]])
    (ours,) = panoptic(Said(), torch.zeros(1, 3, 384, 384), size, fuse=fuse)  # type: ignore[arg-type]
    outputs = SimpleNamespace(class_queries_logits=logits[None], masks_queries_logits=masks[None])
    (theirs,) = Mask2FormerImageProcessor().post_process_panoptic_segmentation(outputs, label_ids_to_fuse=fuse)
    infos = {one["id"]: one for one in theirs["segments_info"]}
    assert {one.id: (one.label, one.fused) for one in ours.segments} == {
        number: (one["label_id"], one["was_fused"]) for number, one in infos.items()
    }
    assert 3 <= len(ours.segments) < queries
    assert torch.equal(ours.ids, theirs["segmentation"])


def test_a_real_net_gives_segments_of_the_picture(picture: Path) -> None:
    torch.manual_seed(0)
    loaded = replace(_loaded(thing_classes=[]), model=tiny_net(3).eval())
    (found,) = Segmenter(loaded).panoptic(picture, threshold=0.0, overlap_mask_area_threshold=0.0)
    assert found.ids.shape == (64, 64)
    assert sum(one["area"] for one in found.segments_info) == (found.ids > 0).sum()
    assert [one.id for one in found.segments] == list(range(1, len(found.segments) + 1))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    def call(loaded: Loaded, *arguments: str | Path) -> None:
        monkeypatch.setattr("transnext.predict.load", lambda model, **_: loaded)
        main(["segment", "predict", *map(str, arguments), "--model", "it", "--device", "cpu"])

    return call


def test_files_are_those_of_coco(picture: Path, tmp_path: Path, command, capsys) -> None:
    out, drawn = tmp_path / "out", tmp_path / "drawn"
    loaded = _loaded(thing_classes=["cat"], category_ids=[3, 300, 70_000])
    command(loaded, picture, "--panoptic", out, "--save", drawn, "--json-file", tmp_path / "s.json")
    said = capsys.readouterr().out
    assert "Classes with objects (things): cat; of which all is one segment (stuff): sky, road." in said
    rgb = np.asarray(Image.open(out / PANOPTIC_NAME / "x.png")).astype(int)
    np.testing.assert_array_equal(rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2], _expected())
    document = json.loads((out / f"{PANOPTIC_NAME}.json").read_text())
    assert document["categories"] == [
        {"id": 3, "name": "sky", "isthing": 0},
        {"id": 300, "name": "cat", "isthing": 1},
        {"id": 70_000, "name": "road", "isthing": 0},
    ]
    assert document["images"] == [{"id": 1, "file_name": str(picture), "height": 64, "width": 64}]
    (annotation,) = document["annotations"]
    assert (annotation["image_id"], annotation["file_name"]) == (1, "x.png")
    infos = annotation["segments_info"]
    assert [one["category_id"] for one in infos] == [3, 300, 300, 70_000]
    assert [one["area"] for one in infos] == [1536, 512, 512, 1024]
    assert (drawn / "x-segments.png").is_file()
    assert json.loads((tmp_path / "s.json").read_text())[0]["segments"] == infos
    # Our own reader takes it for what it is.
    source = open_segmentation(out / f"{PANOPTIC_NAME}.json", 0)["train"]
    assert source.classes == ("sky", "cat", "road")
    assert source.things == (False, True, False)
    assert source.class_pixels() == {"sky": 1536, "cat": 1024, "road": 1024}


@pytest.mark.parametrize(
    ("metadata", "more", "line"),
    [
        ({}, [], "it does not say which classes have objects"),
        ({}, ["--thing-classes", "dog"], "thing_classes has 'dog': the classes are sky, cat, road"),
        ({"thing_classes": []}, ["--labels", "l"], "--panoptic tells segments instead of classes: leave out --labels"),
        ({"thing_classes": []}, ["--threshold", "2"], "threshold"),
        ({"thing_classes": [], "window": 64, "window_stride": 40}, [], "once, as a whole"),
    ],
)
def test_what_is_refused(picture: Path, tmp_path: Path, command, capsys, metadata, more, line) -> None:
    with pytest.raises(SystemExit) as error:
        command(_loaded(**metadata), picture, "--panoptic", tmp_path / "out", *more)
    assert error.value.code == 2
    assert line in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / f"{PANOPTIC_NAME}.json").exists()


def test_upernet_is_refused_in_one_line(picture: Path, tmp_path: Path, command, capsys) -> None:
    net = build_net("upernet", Backbone("transnext_pico"), 3, size="small").eval()
    with pytest.raises(SystemExit):
        command(replace(_loaded(thing_classes=[]), model=net), picture, "--panoptic", tmp_path / "out")
    said = capsys.readouterr().err
    assert "it tells no segments (upernet)" in said
    assert said.strip().count("\n") == 0
    with pytest.raises(SystemExit):
        command(_loaded(thing_classes=[]), picture, "--threshold", "0.3")
    assert "--threshold goes with --panoptic FOLDER" in capsys.readouterr().err


def test_no_class_with_objects_from_the_command(picture: Path, tmp_path: Path, command) -> None:
    command(_loaded(), picture, "--panoptic", tmp_path / "out", "--thing-classes")
    document = json.loads((tmp_path / "out" / f"{PANOPTIC_NAME}.json").read_text())
    assert [one["area"] for one in document["annotations"][0]["segments_info"]] == [1536, 1024, 1024]


def test_things_come_from_the_data_or_the_options(tmp_path: Path) -> None:
    root = panoptic_set(tmp_path)
    (root / "annotations" / "panoptic_val2017").rename(root / "annotations" / "panoptic_train2017")
    file = (root / "annotations" / "panoptic_val2017.json").rename(root / "annotations" / "panoptic_train2017.json")
    (root / "val2017").rename(root / "train2017")

    def opened(**own) -> Segmentation:
        config = TrainConfig(data=str(root), task=SegmentationConfig(**own))
        return Segmentation.open(config)[0]

    assert "thing_classes" not in opened(segmenter="mask2former").metadata
    assert opened(segmenter="mask2former").metadata["category_ids"] == [3, 9]
    document = json.loads(file.read_text())
    for category in document["categories"]:
        category["isthing"] = int(category["name"] == "cat")
    file.write_text(json.dumps(document))
    task = opened(segmenter="mask2former")
    assert task.metadata["thing_classes"] == ["cat"]
    assert "things): cat; of which all is one segment (stuff): sky" in task.notes[0]
    assert opened(segmenter="mask2former", thing_classes=("sky",)).metadata["thing_classes"] == ["sky"]
    assert "thing_classes" not in opened().metadata
    with pytest.raises(ValueError, match="thing_classes has 'dog'"):
        opened(segmenter="mask2former", thing_classes=("dog",))
    with pytest.raises(ValueError, match="upernet tells no segments"):
        SegmentationConfig(thing_classes=("cat",))
