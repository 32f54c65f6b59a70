"""The report of a run folder: what `transnext.report` is told of it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from transnext.data import ImageSource
from transnext.engine.config import TrainConfig
from transnext.engine.run_folder import RunFolder, write_atomically
from transnext.explain import where_it_looks
from transnext.report import Example, build_report
from transnext.tasks.classification.build import Preprocessing
from transnext.tasks.classification.results import Prediction, SplitResult

EXAMPLES_PER_SPLIT = 12
SHOWN_SIDE = 128
"""Side at which example images are shown, pixels."""


def write_run_report(
    folder: RunFolder,
    model: nn.Module,
    splits: Mapping[str, ImageSource],
    preprocessing: Preprocessing,
    results: Sequence[SplitResult],
) -> None:
    """Writes `report.html` of a run.

    Args:
        folder: The run.
        model: The weights that `results` come from.
        splits: Images of each split, to show some.
        preprocessing: What the model's images must look like.
        results: Accuracy on splits; may be empty.
    """
    config = TrainConfig.load(folder.config_file)
    class_names = list(next(iter(splits.values())).classes)
    examples: list[Example] = []
    for result in results:
        # The training images are known by heart: the ones to look at are those of the other splits.
        if result.split != "train" or len(results) == 1:
            examples += _examples(result, splits[result.split], class_names, model, preprocessing)
    page = build_report(
        title=f"{config.model} on {config.data}",
        config={**_plain(config), "parameters": sum(p.numel() for p in model.parameters())},
        history=folder.history(),
        results=results,
        class_names=class_names,
        examples=examples,
    )
    write_atomically(folder.report_file, page)


def _plain(config: TrainConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def _examples(
    result: SplitResult,
    source: ImageSource,
    class_names: Sequence[str],
    model: nn.Module,
    preprocessing: Preprocessing,
) -> list[Example]:
    """Some images of a split, half of them wrong if there are so many, spread over the split."""
    wrong = [p for p in result.predictions if p.predicted != p.target]
    right = [p for p in result.predictions if p.predicted == p.target]
    num_wrong = min(len(wrong), max(EXAMPLES_PER_SPLIT // 2, EXAMPLES_PER_SPLIT - len(right)))
    chosen = _spread(wrong, num_wrong) + _spread(right, EXAMPLES_PER_SPLIT - num_wrong)
    images = [source.load(p.index, preprocessing.min_side()) for p in chosen]
    heats = _heats(model, images, preprocessing)
    return [
        Example(
            split=result.split,
            name=p.name,
            image=_thumbnail(image),
            target=class_names[p.target],
            predicted=class_names[p.predicted],
            probability=p.probability,
            heat=heat,
        )
        for p, image, heat in zip(chosen, images, heats, strict=True)
    ]


def _heats(model: nn.Module, images: list[Image.Image], preprocessing: Preprocessing) -> list[np.ndarray | None]:
    if not images:
        return []
    device = next(model.parameters()).device
    transform = preprocessing.transform()
    inputs = torch.stack([transform(image) for image in images]).to(device)
    try:
        heats = where_it_looks(model, inputs)
    except ValueError:  # a model without aggregated attention, trained for comparison
        return [None] * len(images)
    return list(heats.cpu().numpy())


def _thumbnail(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return image


def _spread(items: Sequence[Prediction], count: int) -> list[Prediction]:
    """`count` items at even distances, so that not all are of the first class."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
