"""Draws docs/looks.png: where the bundled model looks from three places of a few images it has never seen.

python tools/make_looks_picture.py docs/looks.png
"""

import sys

import torch
from PIL import Image

from transnext.data import open_dataset
from transnext.explain import overlay, where_it_looks
from transnext.tasks.classification.loading import load_classifier

CONCEPTS = ("fluent-emoji-flat/rabbit", "fluent-emoji-flat/sunflower", "fxemoji/violin", "fluent-emoji-flat/racing car")
PLACES = ((0.5, 0.5), (0.25, 0.25), (0.8, 0.5))
SIDE = 128
GAP = 8


def main(target: str) -> None:
    """Writes the picture."""
    classifier = load_classifier()
    transform, normalise = classifier.preprocessing.transform(), classifier.preprocessing.normalise()
    sources = [source for split, source in open_dataset("emoji").items() if split in ("shift", "both")]
    images = {s.name(i).removeprefix("emoji/"): s.load(i) for s in sources for i in range(len(s))}
    chosen = [images[name] for name in CONCEPTS if name in images]
    picture = Image.new(
        "RGB", ((1 + len(PLACES)) * (SIDE + GAP) - GAP, len(chosen) * (SIDE + GAP) - GAP), (255, 255, 255)
    )
    for row, image in enumerate(chosen):
        large = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.paste(large, (0, row * (SIDE + GAP)))
        for column, place in enumerate(PLACES, start=1):
            heat = where_it_looks(classifier.model, normalise(transform(image)[None]), position=place)[0]
            smooth = torch.nn.functional.interpolate(heat[None, None], (SIDE, SIDE), mode="bilinear")[0, 0]
            picture.paste(overlay(large, smooth.numpy(), position=place), (column * (SIDE + GAP), row * (SIDE + GAP)))
    picture.save(target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
