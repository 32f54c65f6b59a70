"""Maps of classes are read as what their files mean, whatever the layout."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.detection_sets import coco_file, coco_image, coco_object, picture, square
from tests.helpers.map_sets import SIZE, label_file, map_set, panoptic_set, patches
from transnext.data import UnreadableImage
from transnext.data.fingerprint import fingerprint
from transnext.data.segmentation import aligned, check_segmentation, open_checked, open_segmentation
from transnext.data.segmentation.pascal_voc import colour_of
from transnext.data.segmentation.table import packed, value_table


def kinds(root: Path, **options) -> dict[str, int]:
    _, report = open_checked(root, **options)
    json.dumps(report.to_dict())
    assert report.convention in report.text()
    return {finding.kind: finding.count for finding in report.findings}


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}", "labels/{}"),
        ("{}/images", "{}/masks"),
        ("{}", "semantic/{}"),
        ("{}", "{}annot"),
        ("imgs/{}", "GT/{}"),
    ],
)
def test_layouts(tmp_path, images: str, labels: str) -> None:
    for number, split in enumerate(("train", "val")):
        for i in range(3):
            picture(tmp_path / images.format(split) / f"{split}{i}.jpg", SIZE, seed=number)
            label_file(tmp_path / labels.format(split) / f"{split}{i}.png", seed=i + number)
    (tmp_path / "classes.txt").write_text("sky\ncat\ndog\n")
    sources = open_segmentation(tmp_path)
    assert {name: len(source) for name, source in sources.items()} == {"train": 3, "val": 3}
    for number, source in enumerate(sources.values()):
        assert source.classes == ("sky", "cat", "dog")
        for i in range(3):
            target = pickle.loads(pickle.dumps(source.target(i)))
            assert target.size == (30, 40)
            assert (target.read() == patches(seed=i + number)).all()
            assert target.read().dtype == np.uint8
            counts = np.bincount(target.read().reshape(-1), minlength=3)
            assert source.pixels[i].tolist() == [*counts, 0]
            assert source.load(i).size == SIZE


def test_flat_folders_are_held_out_and_endings_count_for_nothing(tmp_path) -> None:
    for i in range(10):
        picture(tmp_path / "images" / f"tile{i}_image.png", SIZE, seed=i)
        label_file(tmp_path / "masks" / f"tile{i}_mask.png", (0, 1), seed=i)
    sources = open_segmentation(tmp_path, 0.3, 1)
    assert sum(map(len, sources.values())) == 10
    assert sources.keys() == {"train", "val"}
    assert sources["train"].classes == ("class 0", "class 1")
    for source in sources.values():
        for i, name in enumerate(source.names_below()):
            number = int(name.split("tile")[1].split("_")[0])
            assert (source.target(i).read() == patches((0, 1), seed=number)).all()
    assert open_segmentation(tmp_path, 0).keys() == {"train"}


def test_masks_beside_pictures(tmp_path) -> None:
    for i in range(3):
        picture(tmp_path / "train" / f"a{i}.jpg", SIZE, seed=i)
        label_file(tmp_path / "train" / f"a{i}_mask.png", (0, 1, 2), seed=i)
    (tmp_path / "train" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    sources = open_segmentation(tmp_path, 0)
    assert sources["train"].classes == ("background", "cat", "dog")
    assert len(sources["train"]) == 3


def test_ade20k(tmp_path) -> None:
    for split in ("training", "validation"):
        for i in range(2):
            picture(tmp_path / "images" / split / f"ADE_{split}_{i}.jpg", SIZE, seed=i)
            label_file(tmp_path / "annotations" / split / f"ADE_{split}_{i}.png", (0, 1, 2, 3), seed=i)
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t1\t1\twall\n2\t0.1\t1\t1\tbuilding, edifice\n3\t0.1\t1\t1\tsky\n"
    )
    sources, report = open_checked(tmp_path)
    assert report.format == "ADE20K"
    assert report.convention == "0 is ignored and 1 is wall (reduce_zero_label); ignored: 255"
    assert sources["val"].classes == ("wall", "building, edifice", "sky")
    expected = patches((0, 1, 2, 3), seed=1).astype(int) - 1
    assert (sources["val"].target(1).read() == np.where(expected < 0, 255, expected)).all()
    (tmp_path / "objectInfo150.txt").unlink()
    sources = open_segmentation(tmp_path)
    assert sources["train"].classes == ("class 1", "class 2", "class 3")
    assert (sources["val"].target(1).read() == np.where(expected < 0, 255, expected)).all()
    whole = open_segmentation(tmp_path, reduce_zero_label=False)
    assert (whole["val"].target(1).read() == expected + 1).all()


def test_cityscapes(tmp_path) -> None:
    for split, city in (("train", "aachen"), ("val", "ulm")):
        for i in range(2):
            stem = f"{city}_{i:06}_000019"
            picture(tmp_path / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", SIZE, seed=i)
            folder = tmp_path / "gtFine" / split / city
            label_file(folder / f"{stem}_gtFine_labelIds.png", (0, 7, 11, 33), seed=i)
            label_file(folder / f"{stem}_gtFine_instanceIds.png", (0, 7000, 26001), seed=i)
            picture(folder / f"{stem}_gtFine_color.png", SIZE)
    sources, report = open_checked(tmp_path)
    assert report.format == "Cityscapes"
    source = sources["val"]
    assert len(source.classes) == 19
    assert source.classes[0] == "road"
    labels = source.target(0).read()
    stored = patches((0, 7, 11, 33), seed=0)
    assert (labels == np.select([stored == 7, stored == 11, stored == 33], [0, 2, 18], 255)).all()
    assert "value_undeclared" not in kinds(tmp_path)
    for split, city in (("train", "aachen"), ("val", "ulm")):
        for i in range(2):
            file = tmp_path / "gtFine" / split / city / f"{city}_{i:06}_000019_gtFine_labelTrainIds.png"
            label_file(file, (0, 2, 18, 255), seed=i)
    assert (open_segmentation(tmp_path)["val"].target(1).read() == patches((0, 2, 18, 255), seed=1)).all()


def test_panoptic(tmp_path) -> None:
    for data in (panoptic_set(tmp_path), tmp_path / "annotations" / "panoptic_val2017.json"):
        source = next(iter(open_segmentation(data, 0).values()))
        assert source.classes == ("sky", "cat")
        assert source.colours == ((0, 0, 255), (255, 0, 0))
        labels = pickle.loads(pickle.dumps(source.subset([2, 0]).target(0))).read()
        assert (labels[:10] == 0).all()
        assert (labels[10:25] == 1).all()
        assert (labels[25:] == 255).all()
        assert source.pixels.tolist() == [[400, 600, 200]] * 3


def test_coco_instances_as_maps(tmp_path) -> None:
    picture(tmp_path / "train" / "a.png", SIZE)
    picture(tmp_path / "train" / "b.png", SIZE, seed=1)
    objects = [
        coco_object(1, 1, 7, (4, 4, 6, 6), segmentation=[square(4, 4, 6)]),
        coco_object(2, 1, 1, (2, 2, 20, 20), segmentation=[square(2, 2, 20)]),  # larger, and listed later
        coco_object(3, 1, 1, (25, 0, 10, 10), segmentation={"size": [30, 40], "counts": [25 * 30, 10, 440]}, iscrowd=1),
        coco_object(4, 2, 7, (0, 0, 5, 5), segmentation=[square(0, 0, 5)]),
    ]
    coco_file(
        tmp_path / "annotations" / "instances_train.json", [coco_image(1, "a.png"), coco_image(2, "b.png")], objects
    )
    source = open_segmentation(tmp_path, 0)["train"]
    assert source.classes == ("background", "cat", "dog")
    labels = pickle.loads(pickle.dumps(source.target(0))).read()
    expected = np.zeros((30, 40), int)
    expected[:10, 25] = 255
    expected[2:22, 2:22] = 1
    expected[4:10, 4:10] = 2
    assert (labels == expected).all()
    assert source.pixels[0].tolist() == [*np.bincount(labels.reshape(-1), minlength=256)[:3], 10]


def outlined_splits(root: Path, **splits: bool) -> Path:
    """COCO instances, with outlines or boxes alone in each split."""
    for split, outlined in splits.items():
        for name in ("a.png", "b.png"):
            picture(root / split / f"{split}{name}")
        more = {"segmentation": [square(2, 2, 8)]} if outlined else {}
        images = [coco_image(1, f"{split}a.png"), coco_image(2, f"{split}b.png")]
        objects = [coco_object(1, 1, **more), coco_object(2, 2, 7, **more)]
        coco_file(root / "annotations" / f"instances_{split}.json", images, objects)
    return root


def test_a_test_split_of_boxes_alone_is_left_out(tmp_path) -> None:
    root = outlined_splits(tmp_path / "a", train=True, val=True, test=False)
    sources, report = open_checked(root)
    assert {split: len(source) for split, source in sources.items()} == {"train": 2, "val": 2}
    (finding,) = (f for f in report.findings if f.kind == "split_boxes")
    assert (finding.count, list(finding.examples)) == (1, ["test"])
    with pytest.raises(ValueError, match="has boxes alone in val: maps of classes need outlines"):
        open_checked(outlined_splits(tmp_path / "b", train=True, val=False, test=True))
    with pytest.raises(ValueError, match="has boxes alone: maps of classes need outlines"):
        open_checked(outlined_splits(tmp_path / "c", train=False, val=False))


COLOURS = {"sky": (70, 130, 180), "cat": (255, 0, 0), "dog": (0, 128, 0)}


@pytest.mark.parametrize("kind", ["rgb", "palette", "indices"])
@pytest.mark.parametrize("file", ["label_colors.txt", "class_dict.csv", "labelmap.txt", "classes.json"])
def test_colours(tmp_path, kind: str, file: str) -> None:
    root = map_set(tmp_path, names=())
    lines = {
        "label_colors.txt": [f"{r} {g} {b}\t{name}" for name, (r, g, b) in COLOURS.items()],
        "class_dict.csv": ["name,r,g,b", *(f"{name},{r},{g},{b}" for name, (r, g, b) in COLOURS.items())],
        "labelmap.txt": [
            "# label:color_rgb:parts:actions",
            *(f"{n}:{r},{g},{b}::" for n, (r, g, b) in COLOURS.items()),
        ],
        "classes.json": [json.dumps({name: list(colour) for name, colour in COLOURS.items()})],
    }[file]
    (root / file).write_text("\n".join(lines))
    table = np.array(list(COLOURS.values()), np.uint8)
    for path in sorted((root / "labels").rglob("*.png")):
        labels = np.asarray(Image.open(path))
        if kind == "rgb":
            Image.fromarray(table[labels]).save(path)
        else:
            # A palette in another order than the class file, or one of other colours.
            order = [2, 0, 1] if kind == "palette" else [0, 1, 2]
            image = Image.fromarray(np.argsort(order).astype(np.uint8)[labels])
            image.putpalette((table[order] if kind == "palette" else table // 2).reshape(-1).tolist())
            image.save(path)
    source = open_segmentation(root)["train"]
    assert source.classes == tuple(COLOURS)
    assert source.colours == tuple(COLOURS.values())
    for i in range(4):
        assert (source.target(i).read() == patches(seed=i)).all()


@pytest.mark.parametrize(
    ("mode", "others"),
    [*((mode, "in colour") for mode in ("RGB", "RGBA", "L", "P")), ("RGB", "none"), ("RGBA", "none")],
)
def test_one_stray_pixel_does_not_turn_black_maps_into_another_class(tmp_path, mode: str, others: str) -> None:
    root = map_set(tmp_path, names=(), train=4, val=1)
    (root / "label_colors.txt").write_text("128 64 128 road\n64 0 64 car\n0 0 0 background\n255 255 255 line\n")
    in_colour = np.zeros((30, 40, 3), np.uint8)
    in_colour[:10] = 128, 64, 128
    black = np.zeros((30, 40, 3), np.uint8)
    white = np.full((30, 40, 3), 255, np.uint8)
    stray = black.copy()
    stray[0, 0] = 7
    files = sorted((root / "labels").rglob("*.png"))
    for path, pixels in zip(files, [stray, black, white, in_colour if others == "in colour" else black], strict=False):
        grey = (pixels[..., 0] == pixels[..., 1]).all()
        image = Image.fromarray(pixels)
        image.convert(mode).save(path) if grey and mode != "P" else image.save(path)
        if grey and mode == "P":
            flat = Image.fromarray(pixels[..., 0])
            flat.putpalette([value for value in range(256) for _ in range(3)])
            flat.save(path)
    Image.fromarray(black).convert("L" if mode in "LP" else mode).save(files[4])
    sources, report = open_checked(root, 0)
    assert report.convention == "a colour is a class"
    train = sources["train"]
    expected = np.full((30, 40), 2)
    expected[0, 0] = 255
    assert np.array_equal(train.target(0).read(), expected)
    assert set(np.unique(train.target(1).read())) == {2}
    assert set(np.unique(train.target(2).read())) == {3}
    assert set(np.unique(sources["val"].target(0).read())) == {2}
    (finding,) = (f for f in report.findings if f.kind == "colour_undeclared")
    assert finding.count == 1
    assert "(7, 7, 7), 1 of 1,200 pixels" in finding.examples[0]


def test_numbers_beside_files_in_colour_stay_numbers(tmp_path) -> None:
    root = map_set(tmp_path, names=(), train=3, val=1)
    (root / "classes.json").write_text(json.dumps({name: list(colour) for name, colour in COLOURS.items()}))
    table = np.array(list(COLOURS.values()), np.uint8)
    Image.fromarray(table[patches(seed=0)]).save(root / "labels" / "train" / "im0.png")
    sources, report = open_checked(root, 0)
    for i in range(3):
        assert (sources["train"].target(i).read() == patches(seed=i)).all()
    assert report.convention == "0 is 'sky'; ignored: 255"


@pytest.mark.parametrize("kind", ["L", "P", "RGB", "RGBA", "LA", "I;16", "I", "F", "1"])
def test_modes_of_label_files(tmp_path, kind: str) -> None:
    root = map_set(tmp_path, values=(0, 1), names=("a", "b"))
    path = root / "labels" / "train" / "im0.png"
    labels = np.asarray(Image.open(path))
    if kind == "1":
        image = Image.fromarray(labels * 255).convert("1")
    elif kind in ("I;16", "I", "F"):
        image = Image.fromarray(labels.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind]))
    else:
        image = Image.fromarray(labels).convert(kind) if kind != "P" else Image.fromarray(labels)
        if kind == "P":
            image.putpalette([9, 9, 9, 200, 0, 0])
    if kind in ("I", "F"):
        path.unlink()
        path = path.with_suffix(".tiff")
    image.save(path)
    assert (open_segmentation(root)["train"].target(0).read() == labels).all()


@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize("by_palette", [False, True])
def test_bytes_read_by_table_are_those_read_by_counting(mode: str, by_palette: bool) -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (37, 53), np.uint8)
    image, palette = Image.fromarray(values), np.repeat(np.arange(256), 3)
    if mode == "P":
        palette = generator.integers(0, 256, 3 * 200)  # shorter than the values: others are black
        image.putpalette(palette.tolist())
    colours = np.concatenate([palette.reshape(-1, 3), np.zeros((256 - len(palette) // 3, 3), int)])
    chosen = [packed(colours[i].tolist()) for i in range(0, 256, 3)]
    table = replace(
        value_table(["a", "b", "c"], values=[0, 7, 200], ignored=[9]),
        colours={0: 2, **{colour: i % 2 for i, colour in enumerate(chosen)}},
        by_palette=by_palette,
    )
    known = table.colours if by_palette else table.values
    codes = [packed(colour) for colour in colours.tolist()] if by_palette else list(range(256))
    expected = np.array([[known.get(codes[value], 255) for value in row] for row in values.tolist()])
    found = table.read(image)
    assert found.dtype == np.uint8
    assert (found == expected).all()
    assert len(np.unique(found)) > 2
    if not by_palette:  # other modes are counted
        assert (table.read(Image.fromarray(values.astype(np.int32))) == expected).all()


def test_many_values_from_16_bit_files(tmp_path) -> None:
    root = map_set(tmp_path, values=(0, 700, 65535), names=())
    source = open_segmentation(root)["train"]
    assert source.classes == ("class 0", "class 700", "class 65535")
    expected = np.searchsorted([0, 700, 65535], patches((0, 700, 65535), seed=2))
    assert (source.target(2).read() == expected).all()


@pytest.mark.parametrize("names", [("paper", "ink"), ()])
def test_masks_of_0_and_255(tmp_path, names) -> None:
    root = map_set(tmp_path, values=(0, 255), names=names)
    assert kinds(root)["zero_and_255"] == 6
    source = open_segmentation(root)["train"]
    assert source.classes == (names or ("background", "foreground"))
    assert (source.target(0).read() == (patches((0, 255)) > 0)).all()


def test_255_is_ignored_beside_other_values(tmp_path) -> None:
    root = map_set(tmp_path, values=(0, 1, 255), names=("paper", "ink"))
    found, report = open_checked(root)
    assert "zero_and_255" not in kinds(root)
    assert (found["train"].target(0).read() == patches((0, 1, 255))).all()
    assert 0.2 < report.splits["train"].ignored < 0.5


@pytest.mark.parametrize("names", [("paper", "ink"), ()])
def test_masks_of_both_habits_are_noted(tmp_path, names) -> None:
    root = map_set(tmp_path, values=(0, 1), names=names)
    assert "mask_255" not in kinds(root)
    for i in (1, 5):
        (path,) = (root / "labels").rglob(f"im{i}.png")
        label_file(path, (0, 255), seed=i)
    finding = next(f for f in check_segmentation(root).findings if f.kind == "mask_255")
    assert finding.count == 2
    assert "255 ignored" in finding.action
    label_file(root / "labels" / "train" / "im1.png", (0, 1, 255), seed=1)
    assert kinds(root)["mask_255"] == 1, "beside a class 255 is ignored"
    assert kinds(map_set(tmp_path / "three", values=(0, 255), names=("a", "b", "c")))["mask_255"] == 6


@pytest.mark.parametrize("values", [(0, 128, 255), (0, 127, 255), (0, 85, 170, 255)])
def test_grey_levels_up_to_255_are_noted(tmp_path, values) -> None:
    root = map_set(tmp_path, values=values, names=())
    assert kinds(root)["levels_255"] == 6
    classes = {f"class {value}": value for value in values}
    (root / "classes.json").write_text(json.dumps(classes))
    assert not kinds(root).keys() & {"levels_255", "mask_255"}
    assert (open_segmentation(root)["train"].target(0).read() == np.searchsorted(values, patches(values))).all()
    assert "levels_255" not in kinds(map_set(tmp_path / "other", values=(0, 1, 255), names=()))


def test_values_that_are_not_declared(tmp_path) -> None:
    root = map_set(tmp_path, values=(0, 1, 7), names=("paper", "ink"))
    report = check_segmentation(root)
    found = {finding.kind: finding for finding in report.findings}
    assert found["value_undeclared"].count == 6
    assert ": 7, " in found["value_undeclared"].examples[0]
    assert (
        open_segmentation(root)["train"].target(0).read() == np.where(patches((0, 1, 7)) == 7, 255, patches((0, 1, 7)))
    ).all()
    root = map_set(tmp_path / "two", values=(0, 1, 2), names=("paper", "ink"))
    assert kinds(root)["zero_label"] == 6
    assert "zero_label" not in kinds(root, reduce_zero_label=True)
    (root / "classes.txt").unlink()
    (root / "classes.json").write_text('{"classes": ["paper", "ink"], "reduce_zero_label": true}')
    assert open_segmentation(root)["train"].pixels[:, 2].all()
    assert "zero_label" not in kinds(root)


def test_colours_without_a_table_are_refused(tmp_path) -> None:
    root = map_set(tmp_path, names=())
    for path in (root / "labels").rglob("*.png"):
        Image.open(path).convert("RGB").point(lambda v: v * 50).save(path)
        pixels = np.asarray(Image.open(path)).copy()
        pixels[..., 1] = 7
        Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match=r"hold colours \(\(0, 7, 0\).*write a label_colors.txt"):
        open_segmentation(root)
    (root / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(ValueError, match="no image can be used: label files of colours that no class file explains: 6"):
        open_segmentation(root)


def test_what_does_not_fit_is_dropped(tmp_path) -> None:
    root = map_set(tmp_path, train=6, val=2)
    labels = root / "labels" / "train"
    label_file(labels / "im0.png", size=(30, 40))  # turned, without a word of it
    (labels / "im1.png").write_bytes((labels / "im1.png").read_bytes()[:60])
    (labels / "im2.png").unlink()
    (root / "images" / "train" / "im3.jpg").write_text("nothing")
    label_file(labels / "stray.png")
    label_file(labels / "im4_mask.png")
    picture(root / "images" / "train" / "im5.png", SIZE)
    found = kinds(root)
    expected = ["size_differs", "label_unreadable", "label_missing", "image_unreadable", "name_twice"]
    assert {kind: found.get(kind) for kind in expected} == dict.fromkeys(expected, 1)
    assert found["image_missing"] == 2
    assert len(open_segmentation(root)["train"]) == 2


def test_values_that_cannot_be_classes_are_refused(tmp_path) -> None:
    root = map_set(tmp_path / "jpeg", values=(0, 255), names=())
    for path in (root / "labels").rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with pytest.raises(ValueError, match="is a JPEG, which blurs values"):
        open_segmentation(root)
    (root / "classes.txt").write_text("paper\nink\n")
    assert kinds(root)["label_lossy"] == 6
    root = map_set(tmp_path / "smooth", names=())
    for path in (root / "labels").rglob("*.png"):
        smooth = np.zeros((300, 300), np.uint8)
        smooth[:150], smooth[150, :256] = 255, range(256)
        label_file(path, smooth)
        picture(root / "images" / path.parent.name / f"{path.stem}.jpg", (300, 300))
    with pytest.raises(ValueError, match="254 values between, as smoothed masks"):
        open_segmentation(root)
    root = map_set(tmp_path / "other", values=(0, 100, 200), names=("paper", "ink", "red"))
    with pytest.raises(ValueError, match=r"'paper' is the only class that label files have pixels of.*100, 200"):
        open_segmentation(root)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("stored", [True, False])
def test_exif(tmp_path, orientation: int, stored: bool) -> None:
    """A map lies on the picture as it is shown, whether it was drawn on that or on the pixels as they are stored."""
    root = map_set(tmp_path, train=2, val=1)
    picture(root / "images" / "train" / "im0.jpg", SIZE, orientation=orientation)
    labels = patches(seed=5)
    tagged = Image.Exif()
    tagged[0x0112] = orientation
    with Image.open(root / "images" / "train" / "im0.jpg") as image:
        turned = Image.fromarray(labels)
        turned.getexif()[0x0112] = orientation
        from PIL import ImageOps

        upright = np.asarray(ImageOps.exif_transpose(turned))
        assert image.size == SIZE
    label_file(root / "labels" / "train" / "im0.png", labels if stored else upright.copy())
    source = open_segmentation(root)["train"]
    got = source.target(0).read()
    height, width = got.shape
    assert (width, height) == source.load(0).size
    if orientation >= 5:
        assert (got == upright).all()
        assert kinds(root).get("turned") == (1 if stored else None)
    elif stored:  # as a picture that was not turned: there is no telling
        assert (got == labels).all()
        assert kinds(root).get("turn_unclear") == (None if orientation == 1 else 1)
    # A label file that says itself how it is turned leaves no doubt.
    Image.fromarray(labels).save(root / "labels" / "train" / "im0.png", exif=tagged)
    assert (open_segmentation(root)["train"].target(0).read() == upright).all()


def test_rare_absent_and_ignored(tmp_path) -> None:
    root = map_set(tmp_path, names=("sky", "cat", "dog", "newt", "owl"))
    labels = patches(seed=0)
    labels[0, 0] = 3
    label_file(root / "labels" / "train" / "im0.png", labels)
    label_file(root / "labels" / "train" / "im1.png", np.full((30, 40), 255, np.uint8))
    mostly = np.full((30, 40), 255, np.uint8)
    mostly[0] = 1
    label_file(root / "labels" / "val" / "im4.png", mostly)
    _, report = open_checked(root)
    found = {finding.kind: finding for finding in report.findings}
    assert found["class_rare"].examples[0].startswith("newt: 0.028%, in 1 images")
    assert found["class_empty"].examples == ("owl",)
    assert found["class_unjudged"].examples == ("newt: val",)
    assert found["map_unlabelled"].count == found["map_mostly_ignored"].count == 1
    assert report.splits["train"].ignored == 0.25


def test_damaged_and_repeated_pictures(tmp_path) -> None:
    root = map_set(tmp_path)
    content = (root / "images" / "train" / "im0.jpg").read_bytes()
    (root / "images" / "val" / "im4.jpg").write_bytes(content)
    damaged = root / "images" / "train" / "im1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-300])
    found = {finding.kind for finding in check_segmentation(root).findings}
    assert {"content_in_two_splits", "image_damaged"} <= found


def test_classes_of_a_model(tmp_path) -> None:
    source = open_segmentation(map_set(tmp_path))["train"]
    other = aligned(source, ["Dog", "newt", "sky"])
    stored = patches(seed=1)
    expected = np.select([stored == 2, stored == 0], [0, 2], 255)
    assert (pickle.loads(pickle.dumps(other.target(1))).read() == expected).all()
    assert other.pixels[1].tolist() == [(stored == 2).sum(), 0, (stored == 0).sum(), (stored == 1).sum()]
    assert source.named is None
    assert other.named == (0, 2)
    back = aligned(other, ["sky", "dog"])
    assert back.named == (0, 1)
    assert aligned(other, ["newt", "dog"]).named == (1,), "the data themselves do not name it"
    assert (back.target(1).read() == np.select([stored == 2, stored == 0], [1, 0], 255)).all()
    with pytest.raises(ValueError, match="none of the classes of the data"):
        aligned(source, ["newt"])


def test_fingerprint_sees_pixels(tmp_path) -> None:
    root = map_set(tmp_path)
    before = fingerprint(open_segmentation(root))
    assert before == fingerprint(open_segmentation(root))
    labels = patches(seed=0)
    label_file(root / "labels" / "train" / "im0.png", labels[::-1].copy())  # as many pixels of each class
    assert "train has 4 images as before" in before.difference(fingerprint(open_segmentation(root)))


def test_a_label_file_that_changes_is_found_when_it_is_read(tmp_path) -> None:
    root = map_set(tmp_path)
    source = open_segmentation(root)["train"]
    label_file(root / "labels" / "train" / "im0.png", size=(20, 30))
    with pytest.raises(UnreadableImage, match="20 x 30 pixels, its picture 40 x 30"):
        source.target(0).read()
    (root / "labels" / "train" / "im1.png").unlink()
    with pytest.raises(FileNotFoundError):
        source.target(1).read()


@pytest.mark.parametrize(
    ("text", "file", "names", "values"),
    [
        ("cat\ndog\n\n", "classes.txt", ("cat", "dog"), (0, 1)),
        ("0 cat\n3: big dog\n", "classes.txt", ("cat", "big dog"), (0, 3)),
        ("# names\ncat, tabby\nowl\n", "labels.txt", ("cat, tabby", "owl"), (0, 1)),
        ('["cat", "owl"]', "classes.json", ("cat", "owl"), (0, 1)),
        ('{"5": "cat", "2": "owl"}', "classes.json", ("owl", "cat"), (2, 5)),
        ('{"cat": 5, "owl": 2}', "classes.json", ("cat", "owl"), (5, 2)),
        ('{"classes": [{"name": "cat", "id": 4}], "ignore": [0]}', "classes.json", ("cat",), (4,)),
        ('{"names": ["cat"], "reduce_zero_label": true}', "classes.json", ("cat",), (1,)),
    ],
)
def test_class_files(tmp_path, text: str, file: str, names, values) -> None:
    from transnext.data.segmentation.class_files import read_class_file

    (tmp_path / file).write_text(text)
    table = read_class_file(tmp_path / file)
    assert table.names == names
    assert tuple(table.values) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "broken JSON"), ("[]", "0 classes"), ('["a", "a"]', "are called 'a'"), ('{"a": -1}', "no value"),
        ('{"a": [1, 2]}', "no colour"), ('{"a": 1, "b": 1}', "two classes have the value 1"), ("7", "names of classes"),
        ('{"classes": ["a"], "reduce": 1}', "'reduce' is not"), ('{"a": [1,2,3], "b": [1,2,3]}', "same colour"),
        ('{"classes": ["a"], "reduce_zero_label": 1}', "expected true or false"), ('["a", 5, null]', "null is no name"),
        ('{"classes": [{"name": "a", "value": 0}], "reduce_zero_label": true}', "leave out one"),
        ('{"classes": ["a"], "ignore": [0]}', "0 is the value of a class, and ignored"),
        ('{"classes": [{"name": "a", "value": 0}, "b"]}', "some classes have a value"),
    ],
)  # fmt: skip
def test_class_files_that_are_refused(tmp_path, text: str, message: str) -> None:
    from transnext.data.segmentation.class_files import read_class_file

    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_class_file(tmp_path / "classes.json")
    assert "\n" not in str(error.value)


def voc_set(root: Path, values: dict[str, np.ndarray], **lists: tuple[str, ...]) -> Path:
    """Pascal VOC's folders: a picture and a label file in VOC's palette for each name, and lists."""
    palette = [channel for value in range(256) for channel in colour_of(value)]
    for i, (name, labels) in enumerate(values.items()):
        picture(root / "JPEGImages" / f"{name}.jpg", (labels.shape[1], labels.shape[0]), seed=i)
        label_file(root / "SegmentationClass" / f"{name}.png", labels, palette=palette)
    for split, names in lists.items():
        file = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in names))
    return root


def test_the_palette_of_pascal_voc() -> None:
    """As its development kit prints it."""
    shown = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0), 15: (192, 128, 128),
             20: (0, 64, 128), 255: (224, 224, 192)}  # fmt: skip
    assert {value: colour_of(value) for value in shown} == shown


def test_pascal_voc(tmp_path) -> None:
    labels = {name: np.zeros((30, 40), np.uint8) for name in ("2007_1", "2007_2", "2007_3", "2007_4")}
    labels["2007_1"][5:10] = 15
    labels["2007_1"][10:12] = 255
    labels["2007_2"][:, :10] = 20
    labels["2007_3"][:15] = 1
    root = tmp_path / "VOCdevkit" / "VOC2012"
    voc_set(root, labels, train=("2007_1", "2007_2"), val=("2007_3",), trainval=("2007_1", "2007_2", "2007_3"))
    (root / "SegmentationObject").mkdir()
    label_file(root / "SegmentationObject" / "2007_1.png")
    sources, report = open_checked(tmp_path)
    assert report.format == "Pascal VOC"
    assert {name: [Path(path).stem for path in source.paths] for name, source in sources.items()} == {
        "train": ["2007_1", "2007_2"],
        "val": ["2007_3"],
    }
    train = sources["train"]
    assert len(train.classes) == 21
    assert (train.classes[0], train.classes[15], train.classes[20]) == ("background", "person", "tvmonitor")
    assert train.colours is not None
    assert train.colours[15] == (192, 128, 128)
    assert (train.target(0).read() == labels["2007_1"]).all()
    assert train.pixels[0, [0, 15, 21]].tolist() == [23 * 40, 200, 80]
    assert sources["val"].class_pixels()["aeroplane"] == 15 * 40


def test_lists_of_pascal_voc_that_name_what_is_missing(tmp_path) -> None:
    labels = {name: np.full((30, 40), i, np.uint8) for i, name in enumerate("abc")}
    root = voc_set(tmp_path, labels, train=("a", "b", "gone"), val=("c",), test=("x", "y"))
    (root / "SegmentationClass" / "b.png").unlink()
    sources, report = open_checked(root)
    assert {name: len(source) for name, source in sources.items()} == {"train": 1, "val": 1}
    found = {finding.kind: finding.examples for finding in report.findings}
    assert found["listed_missing"] == ("train: b", "train: gone")
    assert found["split_unlabelled"] == ("test",)
    # Not the values of all of Pascal VOC's classes: they may mean others.
    assert sources["train"].classes == ("class 0", "class 2")
    (root / "classes.txt").write_text("nothing\ncell\nedge\n")
    assert open_segmentation(root)["val"].classes == ("nothing", "cell", "edge")


@pytest.mark.parametrize(
    ("names", "known"),
    [(("2007_000032", "2011_003256"), True), (("2007_000032", "photo"), False), (("007_000032", "2006_000032"), False)],
)
def test_a_part_of_pascal_voc_is_known_by_the_names_of_its_pictures(tmp_path, names, known: bool) -> None:
    """Without its last class values alone may stand for anything."""
    root = voc_set(tmp_path, {name: patches((0, 1, 15), seed=1) for name in names}, train=names)
    classes = open_segmentation(root)["train"].classes
    assert classes[1] == ("aeroplane" if known else "class 1")
    assert len(classes) == (21 if known else 3)
    # In another palette they are others.
    label_file(root / "SegmentationClass" / f"{names[0]}.png", patches((0, 1, 15), seed=1))
    assert len(open_segmentation(root)["train"].classes) == 3


def test_names_in_lists_of_pascal_voc_that_end_as_flags_do(tmp_path, caplog) -> None:
    names = ("frame 0", "frame 1", "frame 2")
    labels = {name: patches((0, 1), seed=i) for i, name in enumerate(names)}
    root = voc_set(tmp_path, labels, train=(*names[:2], "frame 2  1"), val=(names[2], "frame 7"))
    sources = open_segmentation(root)
    assert {split: [Path(path).stem for path in source.paths] for split, source in sources.items()} == {
        "train": list(names),
        "val": [names[2]],
    }
    [line] = [record.getMessage() for record in caplog.records]
    assert "list without picture or label file: 1, left out (val: frame 7)" in line


def test_objects_that_are_dropped_from_drawn_maps_are_said(tmp_path, caplog) -> None:
    picture(tmp_path / "a.png")
    objects = [coco_object(1, 1, segmentation=[square(2, 3)]), coco_object(2, 9, segmentation=[square(2, 3)])]
    coco_file(tmp_path / "a.json", [coco_image(1, "a.png")], objects)
    open_segmentation(tmp_path, 0)
    [line] = [record.getMessage() for record in caplog.records]
    assert "annotations of an image that is not listed: 1, dropped" in line


def test_files_of_pascal_voc_that_differ_in_the_extension_alone(tmp_path) -> None:
    root = voc_set(tmp_path, {name: patches((0, 1), seed=1) for name in "ab"}, train=("a", "b"))
    picture(root / "JPEGImages" / "a.webp", SIZE, seed=9)
    assert kinds(root, val_fraction=0)["name_twice"] == 1
    assert open_segmentation(root, 0)["train"].paths[0].endswith("a.jpg")


def test_trainval_of_pascal_voc_alone_is_held_out_of(tmp_path) -> None:
    labels = {f"n{i}": patches((0, 1, 20), seed=i) for i in range(10)}
    sources = open_segmentation(voc_set(tmp_path, labels, trainval=tuple(labels)), 0.2, 1)
    assert set(sources) == {"train", "val"}
    assert sum(map(len, sources.values())) == 10
    assert sources["val"].classes[20] == "tvmonitor"
