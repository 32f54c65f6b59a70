"""Make the bundled emoji set from rasterised emoji: tools/make_emoji.py SOURCE.npz.

SOURCE.npz holds, of more styles than we may bundle: `x` uint8 [n, 64, 64, 4] RGBA, `y` class, `concept`, `vendor`,
`split`, and `*_names` for what the last four index. In its split names `val` marks held-out concepts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from transnext.data.emoji import SHIFTED_STYLES, SPLITS, TRAINING_STYLES, EmojiSet, encode_emoji

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "transnext" / "data" / "bundled" / "emoji.npy.xz"


def make_emoji(source: Path) -> EmojiSet:
    """Select the styles under permissive licences and assign the splits."""
    with np.load(source, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    style_names = (*TRAINING_STYLES, *SHIFTED_STYLES)
    vendor = data["vendor_names"][data["vendor"]]
    source_split = data["split_names"][data["split"]]

    held_out = np.unique(data["concept"][np.isin(vendor, TRAINING_STYLES) & (source_split == "val")])
    seen = np.unique(data["concept"][np.isin(vendor, TRAINING_STYLES) & (source_split == "train")])
    if np.intersect1d(held_out, seen).size:
        raise ValueError(f"{source} has concepts that are both in train and in val")

    rows = np.flatnonzero(np.isin(vendor, style_names) & np.isin(data["concept"], np.union1d(held_out, seen)))
    styles = np.array([style_names.index(name) for name in vendor[rows]], np.uint8)
    order = np.lexsort((data["concept"][rows], styles))
    rows, styles = rows[order], styles[order]

    concepts = data["concept"][rows]
    for concept in np.unique(concepts):
        if len(np.unique(data["y"][rows[concepts == concept]])) > 1:
            raise ValueError(f"{source} has the concept {data['concept_names'][concept]!r} in more than one class")
    shifted = styles >= len(TRAINING_STYLES)
    splits = 2 * shifted + np.isin(concepts, held_out)
    assert SPLITS == ("train", "val", "shift", "both")

    images = data["x"][rows]
    images[images[..., 3] == 0] = 0  # colours that nobody can see cost space
    return EmojiSet(
        images=images,
        labels=data["y"][rows].astype(np.uint8),
        concepts=concepts.astype(np.uint16),
        styles=styles,
        splits=splits.astype(np.uint8),
        class_names=tuple(data["class_names"].tolist()),
        concept_names=tuple(data["concept_names"].tolist()),
        style_names=style_names,
    )


def main() -> None:
    """Write the bundled file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE.npz")
    emoji = make_emoji(parser.parse_args().source)
    encoded = encode_emoji(emoji)
    OUTPUT.write_bytes(encoded)
    counts = dict(zip(SPLITS, np.bincount(emoji.splits).tolist(), strict=True))
    print(f"{OUTPUT.name}: {len(encoded):,} bytes, {len(emoji)} images, {counts}")


if __name__ == "__main__":
    main()
