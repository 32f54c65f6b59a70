"""The report of a run folder: what `transnext.report` is told of it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from transnext.atomic import check_writable
from transnext.data import ImageSource, open_dataset
from transnext.engine.config import TrainConfig
from transnext.engine.evaluation import Evaluator, held_out_split
from transnext.engine.robustness import measure_robustness, measure_scales
from transnext.engine.run_folder import RunFolder, write_atomically
from transnext.explain import where_it_looks
from transnext.report import Example, build_report
from transnext.tasks.classification.build import Preprocessing
from transnext.tasks.classification.results import Prediction, SplitResult
from transnext.tasks.classification.robustness import robustness_as_dict, robustness_from_dict
from transnext.tasks.classification.scales import scales_as_dict, scales_from_dict
from transnext.tasks.classification.summary import write_results

T = TypeVar("T")

ROBUSTNESS_FILE, SCALES_FILE = "robustness.json", "scales.json"
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

    Robustness and other image sizes are shown where `report` has measured them with the weights that are best now.
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
        robustness=_measured(folder, ROBUSTNESS_FILE, robustness_from_dict),
        scales=_measured(folder, SCALES_FILE, scales_from_dict),
    )
    write_atomically(folder.report_file, page)


def report(
    run: str | Path,
    *,
    robustness: bool = False,
    scales: bool = False,
    batch_size: int = 128,
    workers: int = 1,
    device: str = "auto",
    quiet: bool = True,
) -> Path:
    """Evaluates the best weights of a run again and writes its report anew.

    What is measured on request takes minutes to hours, and is kept beside the report for the next time.

    Args:
        run: The run folder; its data must be where they were.
        robustness: Also measure the accuracy on corrupted images.
        scales: Also measure accuracy and cost at other image sizes.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        device: "auto", "cpu", "cuda" or "mps".
        quiet: Show no progress.

    Returns:
        The page.

    Raises:
        FileNotFoundError: There is no such run, or its data are gone.
        ValueError: The run or its data cannot be used.
    """
    folder = RunFolder(run)
    if not folder.config_file.exists() or not folder.best.exists():
        raise FileNotFoundError(f"{run} is not a run folder: it has no config.json and best.safetensors")
    check_writable(folder.path, folder=True)
    config = TrainConfig.load(folder.config_file)
    evaluator = Evaluator(run, batch_size=batch_size, workers=workers, device=device, quiet=quiet)
    splits = open_dataset(config.data, config.val_fraction, config.seed)
    for source in splits.values():
        evaluator.check_classes(source, config.data)
    results = [evaluator.run(evaluator.images(source), split) for split, source in splits.items()]
    write_results(folder.results_file, results)
    split = held_out_split(splits)
    if robustness:
        found = measure_robustness(evaluator, splits[split], split=split, seed=config.seed)
        _keep(folder, ROBUSTNESS_FILE, robustness_as_dict(found))
    if scales:
        _keep(folder, SCALES_FILE, scales_as_dict(measure_scales(evaluator, splits[split], split=split)))
    write_run_report(folder, evaluator.classifier.model, splits, evaluator.classifier.preprocessing, results)
    return folder.report_file


def _keep(folder: RunFolder, name: str, values: dict[str, Any]) -> None:
    values = {"weights": _digest(folder), **values}
    write_atomically(folder.path / name, json.dumps(values) + "\n")


def _measured(folder: RunFolder, name: str, read: Callable[[dict[str, Any]], T]) -> T | None:
    """What was measured with the weights that are best now; None if it was not, or with others."""
    file = folder.path / name
    if not file.exists():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return read(values) if values.pop("weights") == _digest(folder) else None


def _digest(folder: RunFolder) -> str:
    return hashlib.sha256(folder.best.read_bytes()).hexdigest()


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
