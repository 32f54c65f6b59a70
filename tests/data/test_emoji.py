import hashlib
import importlib.util
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from transnext.data.emoji import SHIFTED_STYLES, SPLITS, TRAINING_STYLES, decode_emoji, encode_emoji, load_emoji

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def emoji():
    return load_emoji()


@pytest.fixture(scope="module")
def source():
    path = REPOSITORY.parent / "shared" / "data" / "emoji.npz"
    if not path.exists():
        pytest.skip("needs the rasterised emoji from which the bundled set was made")
    return path


def test_shapes(emoji):
    n = len(emoji)
    assert emoji.images.shape == (n, 64, 64, 4)
    assert emoji.images.dtype == np.uint8
    for array, names in (
        (emoji.labels, emoji.class_names),
        (emoji.concepts, emoji.concept_names),
        (emoji.styles, emoji.style_names),
        (emoji.splits, SPLITS),
    ):
        assert array.shape == (n,)
        assert set(array.tolist()) == set(range(len(names)))
    assert len(emoji.class_names) == 22
    assert emoji.style_names == TRAINING_STYLES + SHIFTED_STYLES
    assert not emoji.images.flags.writeable
    assert emoji is load_emoji()


def test_counts(emoji):
    assert dict(zip(SPLITS, np.bincount(emoji.splits).tolist(), strict=True)) == {
        "train": 2185,
        "val": 592,
        "shift": 863,
        "both": 231,
    }
    assert np.bincount(emoji.labels[emoji.splits == 0], minlength=22).min() > 0


def test_splits_are_two_by_two(emoji):
    concepts = {split: set(emoji.concepts[emoji.splits == i].tolist()) for i, split in enumerate(SPLITS)}
    styles = {split: {emoji.style_names[k] for k in emoji.styles[emoji.splits == i]} for i, split in enumerate(SPLITS)}
    assert not (concepts["train"] | concepts["shift"]) & (concepts["val"] | concepts["both"])
    assert concepts["shift"] <= concepts["train"]
    assert concepts["both"] <= concepts["val"]
    assert styles["train"] == styles["val"] == set(TRAINING_STYLES)
    assert styles["shift"] == styles["both"] == set(SHIFTED_STYLES)


def test_a_concept_has_one_class_and_at_most_one_image_per_style(emoji):
    assert len(set(zip(emoji.concepts.tolist(), emoji.labels.tolist(), strict=True))) == len(emoji.concept_names)
    assert len(set(zip(emoji.concepts.tolist(), emoji.styles.tolist(), strict=True))) == len(emoji)


def test_known_images(emoji):
    def find(style, concept):
        [row] = np.flatnonzero(
            (emoji.styles == emoji.style_names.index(style)) & (emoji.concepts == emoji.concept_names.index(concept))
        )
        return emoji.images[row], emoji.class_names[emoji.labels[row]]

    for style in ("noto", "twemoji", "fluent-emoji-flat"):
        image, name = find(style, "red heart")
        assert name == "heart"
        red, green, blue, alpha = image[32, 32].astype(int)
        assert alpha == 255
        assert red > 150 > max(green, blue)
        assert not image[0, 0].any()


def test_size_and_attribution(emoji):
    folder = resources.files("transnext.data") / "bundled"
    assert len((folder / "emoji.npy.xz").read_bytes()) < 4_000_000
    text = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for style, count in zip(emoji.style_names, np.bincount(emoji.styles).tolist(), strict=True):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{style}` |"))
        assert row.endswith(f"| {count} |")
    assert f"{len(emoji):,} images" in text


def test_encoding_round_trip(emoji):
    from dataclasses import replace

    few = replace(emoji, images=emoji.images[:3], labels=emoji.labels[:3])
    encoded = encode_emoji(few)
    assert encoded == encode_emoji(few)
    decoded = decode_emoji(encoded)
    np.testing.assert_array_equal(decoded.images, few.images)
    np.testing.assert_array_equal(decoded.labels, few.labels)
    assert decoded.concept_names == few.concept_names


def test_bundled_file_is_what_the_tool_makes(emoji, source):
    spec = importlib.util.spec_from_file_location("make_emoji", REPOSITORY / "tools" / "make_emoji.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    made = tool.make_emoji(source)
    for name in ("images", "labels", "concepts", "styles", "splits"):
        ours, theirs = getattr(emoji, name), getattr(made, name)
        assert ours.dtype == theirs.dtype, name
        assert hashlib.sha256(ours.tobytes()).digest() == hashlib.sha256(theirs.tobytes()).digest(), name
    for name in ("class_names", "concept_names", "style_names"):
        assert getattr(emoji, name) == getattr(made, name)


def test_visible_pixels_are_those_of_the_source(emoji, source):
    with np.load(source) as file:
        x, concept, vendor = file["x"], file["concept"], file["vendor_names"][file["vendor"]]
    rows = {key: i for i, key in enumerate(zip(vendor.tolist(), concept.tolist(), strict=True))}
    keys = [(emoji.style_names[s], c) for s, c in zip(emoji.styles.tolist(), emoji.concepts.tolist(), strict=True)]
    original = x[[rows[key] for key in keys]]
    visible = original[..., 3] > 0
    np.testing.assert_array_equal(emoji.images[visible], original[visible])
    np.testing.assert_array_equal(emoji.images[..., 3], original[..., 3])
