"""Training on segments: what is learned of which picture, runs and their numbers, and what is refused."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import transnext
from tests.helpers.coloured_maps import coloured_set
from tests.helpers.panoptic_shapes import CLASSES, GROUP, LEFT, RIGHT, WALL, panoptic_shapes, scene
from tests.helpers.tiny_mask2former import tiny_net
from transnext.cli import main
from transnext.config import TrainConfig
from transnext.data import collate
from transnext.data.fingerprint import fingerprint
from transnext.data.segmentation.maps import GROUP as OF_GROUP
from transnext.data.segmentation.maps import SEGMENT, classes_of, joined
from transnext.data.segmentation.opening import open_segmentation
from transnext.data.segmentation.source import aligned
from transnext.engine import train, trainer
from transnext.engine.build import open_task
from transnext.engine.eval_loop import evaluate as evaluate_batches
from transnext.engine.evaluation import evaluate
from transnext.models.backbone import Backbone
from transnext.models.checkpoint import read_tensors
from transnext.tasks.segmentation.config import SegmentationConfig
from transnext.tasks.segmentation.draw import class_colours, objects_as_classes, overlaid
from transnext.tasks.segmentation.images import MapImages
from transnext.tasks.segmentation.mask2former.model import target_of_map
from transnext.tasks.segmentation.net import IGNORED
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.pictures import compared
from transnext.tasks.segmentation.results import SegmentationResult
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.task import Look

pytestmark = pytest.mark.usefixtures("one_thread")
BOX, GROUND = CLASSES.index("box"), CLASSES.index("ground")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return panoptic_shapes(tmp_path_factory.mktemp("shapes"))


def config_of(data: Path, output: Path | str = "", **options: Any) -> TrainConfig[Any]:
    values = {
        "model": "resnet18",
        "segmenter": "mask2former",
        "targets": "panoptic",
        "image_size": 64,
        "epochs": 1,
        "batch_size": 2,
        "workers": 0,
        "device": "cpu",
        "tracker": "none",
    }
    return TrainConfig.of(task="segmentation", data=str(data), output=str(output), **{**values, **options})


def opened(data: Path, **options: Any) -> tuple[Segmentation, Any]:
    return open_task(config_of(data, **options))


def training_images(data: Path, **options: Any) -> MapImages:
    config = config_of(data, **options)
    task, sources = open_task(config)
    preprocessing = task.preprocessing(build_net("mask2former", _backbone(), 3).eval(), config)
    return task.images(sources["train"], preprocessing, config)


def _backbone() -> Backbone:
    return Backbone("resnet18")


def test_segments_of_the_files(data: Path) -> None:
    source = open_segmentation(data, 0)["train"]
    for i in range(4):
        numbers = scene_of(i)
        found = source.target(i).segments()
        np.testing.assert_array_equal(classes_of(found), source.target(i).read())
        for number in (LEFT, RIGHT, WALL, GROUP):
            assert len(np.unique(found[numbers == number])) <= 1
        assert (found[numbers == 0] == IGNORED).all()
        assert ((found & OF_GROUP) > 0).tolist() == (numbers == GROUP).tolist()
        boxes = np.unique(found[(numbers == LEFT) | (numbers == RIGHT)])
        assert len(boxes) == (0 if i == 3 else 2)
        alone = joined(found, [])
        assert set(np.unique(alone & ~OF_GROUP).tolist()) <= {0, 1, 2, IGNORED}
        assert len(np.unique(joined(found, [BOX])[(numbers == LEFT) | (numbers == RIGHT)])) == len(boxes)
    part = source.subset([2, 0])
    np.testing.assert_array_equal(part.target(1).segments(), source.target(0).segments())
    other = aligned(source, ["wall", "Box"]).target(2).segments()
    expected = source.target(2).segments()
    np.testing.assert_array_equal(other == IGNORED, np.isin(classes_of(expected), (GROUND, IGNORED)))
    np.testing.assert_array_equal(other >> 8, np.where(other == IGNORED, 0, expected >> 8))
    assert set(classes_of(other)[classes_of(expected) == BOX].tolist()) == {1}


def scene_of(index: int) -> np.ndarray:
    """The scene of a training picture."""
    rng = np.random.default_rng(0)
    for i in range(index + 1):
        numbers = scene(rng, boxes=i < 3, group=i == 2)
        rng.integers(-8, 9, (*numbers.shape, 3))
    return numbers


def test_masks_of_a_picture(data: Path) -> None:
    images = training_images(data, augment="none", image_size=80)
    for i in range(4):
        numbers = scene_of(i)
        target = images[i].target
        assert target.dtype == torch.int32
        found = target_of_map(target, 3)
        expected = {(GROUND, int((numbers == 70_001).sum())), (2, int((numbers == WALL).sum()))}
        if i < 3:
            expected |= {(BOX, int((numbers == number).sum())) for number in (LEFT, RIGHT)}
        assert {(int(c), int(m.sum())) for c, m in zip(found.labels, found.masks, strict=True)} == expected
        assert found.masks.sum(0).max() == 1


def test_segments_turn_and_are_cut_with_the_picture(data: Path) -> None:
    images = training_images(data, augment="light", color_jitter=0.0, crop=32, image_size=64)
    names, seen = {LEFT: (220, 40, 40), RIGHT: (30, 90, 220)}, set()
    for seed in range(60):
        random.seed(seed)
        torch.manual_seed(seed)
        sample = images[seed % 3]
        height, width = sample.image.shape[1:]
        codes = sample.target.numpy()[:height, :width]
        assert (sample.target[height:] == IGNORED).all()
        boxes = {code: codes == code for code in np.unique(codes).tolist() if code % SEGMENT == BOX}
        pixels = sample.image.permute(1, 2, 0).numpy().astype(int)
        reddish = pixels[..., 0] - pixels[..., 2]
        for mask in boxes.values():
            # Each box has one colour wherever it is shown, away from resampled edges.
            mask[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
            mask[[0, -1]] = mask[:, [0, -1]] = False
            signs = np.sign(reddish[mask])
            assert len(set(signs.tolist())) <= 1
        assert len(boxes) <= len(names)
        seen.add(len(boxes))
        target = target_of_map(sample.target, 3)
        assert (target.masks.flatten(1).sum(1) > 0).all()
        assert int((target.labels == BOX).sum()) == len(boxes)
    assert seen == {0, 1, 2}, "crops show one, both or none"


def test_a_batch_without_objects_has_gradients(data: Path) -> None:
    images = training_images(data, augment="none")
    task, _ = opened(data)
    maps = task.collate([images[3].target, images[3].target])
    assert maps.dtype == torch.int32
    net = tiny_net(3)
    losses = net(torch.randn(2, 3, 64, 64), torch.full((2, 2), 64), maps)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    nothing = net(
        torch.randn(1, 3, 64, 64), torch.full((1, 2), 64), torch.full((1, 64, 64), IGNORED, dtype=torch.int32)
    )
    assert torch.isfinite(sum(nothing.values()))
    with pytest.raises(ValueError, match="a map has class 3, the network 3"):
        target_of_map(torch.tensor([[3 + SEGMENT, 1]], dtype=torch.int32), 3)


def learned(data: Path, targets: str, steps: int = 60) -> tuple[SegmentationResult, Look]:
    """Panoptic quality on two pictures that a small network learned by heart, and the network."""
    options: dict[str, Any] = {"augment": "none", "image_size": 64, "targets": targets}
    images, config = training_images(data, **options), config_of(data, **options)
    task, _ = open_task(config)
    torch.manual_seed(0)
    net = tiny_net(3, decoder_layers=2, num_queries=8)
    objective = task.objective(net, images.preprocessing, config)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    batch = collate([images[0], images[1]], targets=task.collate)
    for _ in range(steps):
        losses = objective(batch.images, batch.sizes, batch.targets)
        optimiser.zero_grad()
        (torch.stack(list(losses.parts.values())).sum() / losses.weight).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    measured, sources = opened(data)
    source = sources["train"].subset([0, 1])
    there = measured.images(source, images.preprocessing)
    batches = [collate([there[0], there[1]], targets=measured.collate)]
    result = evaluate_batches(measured, net.eval(), batches, images.preprocessing)
    return result, Look(net=net, splits={"val": source}, preprocessing=images.preprocessing)


@pytest.fixture(scope="module")
def learned_panoptic(data: Path) -> tuple[SegmentationResult, Look]:
    return learned(data, "panoptic")


def test_touching_objects_are_two_segments_where_classes_alone_are_one(learned_panoptic, data: Path) -> None:
    (panoptic, _), (semantic, _) = learned_panoptic, learned(data, "semantic")
    # Pictures are learned at 64 pixels and measured at 80.
    assert panoptic.panoptic.pairs.tolist() == [4, 2, 2]
    assert panoptic.panoptic.means()["PQ"] > 0.9
    assert panoptic.panoptic.quality[BOX] > 0.9
    assert min(panoptic.mean_iou, semantic.mean_iou) > 0.9, "of classes both know everything"
    assert semantic.panoptic.means(False)["PQ"] > 0.9
    assert semantic.panoptic.quality[BOX] < 0.5
    assert semantic.panoptic.missed[BOX] >= 2


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Any:
    return train(config_of(data, tmp_path_factory.mktemp("run") / "a", epochs=2))


def test_a_run_says_panoptic_quality(run, data: Path, tmp_path: Path, capsys) -> None:
    saved = read_tensors(run.folder / "best.safetensors")[1]
    assert (saved["targets"], saved["thing_classes"], saved["category_ids"]) == ("panoptic", ["box"], [2, 7, 90])
    results = json.loads((run.folder / "results.json").read_text())
    assert {"PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "mIoU"} <= results["val"].keys()
    assert "val_PQ" in run.history[-1]
    page = run.report.read_text(encoding="utf-8")
    assert "Panoptic quality of classes" in page
    assert page.count("box") > 2
    for again in evaluate(run.folder, str(data), workers=0):
        assert again.to_dict()["panoptic"] == results[again.split]["panoptic"]
    file = tmp_path / "r.json"
    main(
        ["segment", "eval", str(run.folder), str(data), "--splits", "val", "--device", "cpu", "--json-file", str(file)]
    )
    assert "PQ" in capsys.readouterr().out
    assert json.loads(file.read_text())["splits"]["val"]["panoptic"] == results["val"]["panoptic"]


def test_pictures_of_a_page_show_objects(learned_panoptic) -> None:
    result, look = learned_panoptic
    colours = class_colours(3)
    found = compared(0, result, look, colours)
    plain = compared(0, replace(result, images=[replace(one, segments=None) for one in result.images]), look, colours)
    numbers = scene_of(0)
    for objects, classes in ((found.true, plain.true), (found.predicted, plain.predicted)):
        objects, classes = (np.asarray(one).astype(int) for one in (objects, classes))
        for number, same in ((WALL, True), (70_001, True), (LEFT, False)):
            inside = numbers == number
            inside[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
            assert (abs(objects - classes)[inside].max(-1) < 3).mean() > 0.9 or not same
            assert same or (abs(objects - classes)[inside].max(-1) > 3).mean() > 0.9
    np.testing.assert_array_equal(np.asarray(found.difference), np.asarray(plain.difference))
    nothing = objects_as_classes(np.full((3, 4), IGNORED, np.int32), CLASSES, colours)
    assert (nothing[0] == IGNORED).all()
    assert overlaid(Image.new("RGB", (4, 3)), nothing[0], nothing[2]).size == (4, 3)


def test_answers_are_those_that_were_measured(run, data: Path) -> None:
    segmenter = transnext.Segmenter(run.folder)
    files = sorted(map(str, (data / "val2017").glob("*.png")))
    assert [found.thing_classes for found in segmenter.panoptic(files)] == [["box"]] * 3
    assert segmenter(files[0])[0].labels.shape == (64, 80)


def test_a_run_that_learned_segments_is_measured_on_maps_of_classes(run, tmp_path: Path) -> None:
    other = coloured_set(tmp_path / "other")
    (other / "classes.txt").write_text("ground\nbox\nwall\n")
    (found,) = evaluate(run.folder, str(other), splits=["val"], workers=0)
    assert found.panoptic is None
    assert "panoptic quality is of data with segments" in found.notes[0]
    assert found.pixels > 0


def test_several_looks_tell_classes_alone(run, data: Path, capsys) -> None:
    main(["segment", "eval", str(run.folder), str(data), "--splits", "val", "--device", "cpu", "--flip"])
    said = capsys.readouterr().out
    assert "val: panoptic quality is of data with segments, pictures seen once as a whole, models not exported" in said
    assert "mIoU" in said
    assert "PQ" not in said


def test_resuming_gives_the_same_bits(run, data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(trainer, "write_report", lambda *_: None)
    config = config_of(data, tmp_path / "b", epochs=2)
    _, first, last = sorted((run.folder / "checkpoints").iterdir())
    again = train(config, resume=first)
    a, b = (load_file(folder / "last.safetensors") for folder in (run.folder, again.folder))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert last.name in [path.name for path in (again.folder / "checkpoints").iterdir()]
    with pytest.raises(ValueError, match="targets panoptic"):
        train(config.but(targets="semantic"), resume=first)


def test_other_segments_of_the_same_classes_are_other_data(data: Path, tmp_path: Path) -> None:
    other = panoptic_shapes(tmp_path / "set")
    file = other / "annotations" / "panoptic_train2017" / "0.png"
    ids = np.array(Image.open(file))
    left = [LEFT % 256, LEFT // 256 % 256, LEFT // 65536]
    ids[(ids == [RIGHT, 0, 0]).all(-1)] = left
    Image.fromarray(ids).save(file)

    def prints(folder: Path, **options: Any) -> Any:
        return fingerprint(opened(folder, **options)[1])

    assert prints(data) != prints(other)
    assert prints(data) != prints(data, thing_classes=("wall",))
    assert prints(data, targets="semantic") == prints(other, targets="semantic")


def test_what_cannot_be_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="targets are panoptic, and upernet tells no segments: use mask2former"):
        SegmentationConfig(targets="panoptic")
    with pytest.raises(ValueError, match="leave out window"):
        SegmentationConfig(targets="panoptic", segmenter="mask2former", window=64)
    with pytest.raises(ValueError, match=r"maps tells no segments, as COCO panoptic files do .* leave out targets"):
        opened(coloured_set(tmp_path / "maps"))
    other = panoptic_shapes(tmp_path / "set")
    for file in (other / "annotations").glob("*.json"):
        document = json.loads(file.read_text())
        for category in document["categories"]:
            del category["isthing"]
        file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"does not say which classes have objects \(isthing\): give thing_classes"):
        opened(other)
    assert opened(other, thing_classes=())[0].things == []
    assert opened(other, thing_classes=("box",))[0].things == ["box"]


def test_semantic_targets_say_what_they_leave_out(data: Path) -> None:
    task, sources = opened(data, targets="semantic")
    assert any("--targets panoptic learns both" in note for note in task.notes)
    assert task.things is None
    assert task.metadata["thing_classes"] == ["box"]
    preprocessing = task.preprocessing(build_net("mask2former", _backbone(), 3), config_of(data))
    assert task.images(sources["train"], preprocessing)[0].target.dtype == np.uint8


def test_pictures_with_more_segments_than_queries_are_said(data: Path) -> None:
    task, _ = opened(data)
    assert task.most_segments == 4, "two boxes and two areas; a group is none"
    assert opened(data, thing_classes=())[0].most_segments == 3
    assert opened(data, thing_classes=CLASSES)[0].most_segments == 4
    config = config_of(data)
    task.build(config)
    assert not any("segments, and the network" in note for note in task.notes)
    many = replace(task, most_segments=101)
    many.build(config)
    assert "has up to 101 segments, and the network tells 100" in many.notes[-1]


def test_a_page_of_training_pictures_shows_segments(data: Path, tmp_path: Path, capsys) -> None:
    options = ["--segmenter", "mask2former", "--targets", "panoptic", "--augment", "none", "--image-size", "64"]
    page = tmp_path / "p.html"
    main(["segment", "train", str(data), *options, "--preview", str(page), "--workers", "0", "--device", "cpu"])
    text = page.read_text(encoding="utf-8")
    assert "box 1" in text
    assert "box 2" in text
    assert "ignored" in text


def test_objects_are_numbered_as_they_are_met() -> None:
    """So that true and predicted ones, whose numbers differ, mostly have the same colour."""
    segments = np.array([[1, 1, 3 * SEGMENT, 2 * SEGMENT], [IGNORED, 2, 2 + SEGMENT, 2 + SEGMENT]], np.int32)
    labels, names, colours = objects_as_classes(segments, CLASSES, class_colours(3))
    assert labels.tolist() == [[0, 0, 1, 2], [IGNORED, 3, 4, 4]]
    assert names == ["ground", "box 1", "box 2", "wall", "wall 2"]
    assert colours[[0, 3]].tolist() == class_colours(3)[[1, 2]].tolist()
    assert len({tuple(colour) for colour in colours.tolist()}) == 5
    other = np.where(segments == 3 * SEGMENT, 9 * SEGMENT, segments)
    again, _, same = objects_as_classes(other.astype(np.int32), CLASSES, class_colours(3))
    assert (again.tolist(), same.tolist()) == (labels.tolist(), colours.tolist())
