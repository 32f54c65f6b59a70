"""The report of a run folder: what `transnext.report` is told of it."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from transnext.atomic import check_writable, write_atomically
from transnext.data import ImageSource
from transnext.data.fingerprint import DataFingerprint, fingerprint
from transnext.engine.evaluation import Evaluator, held_out_split
from transnext.engine.resume import saved_state
from transnext.engine.robustness import measure_robustness, measure_scales
from transnext.engine.run_folder import RunFolder
from transnext.explain import where_it_looks
from transnext.report import Example, build_report
from transnext.tasks.classification.build import Preprocessing
from transnext.tasks.classification.results import Prediction, SplitResult
from transnext.tasks.classification.robustness import robustness_as_dict, robustness_from_dict
from transnext.tasks.classification.scales import scales_as_dict, scales_from_dict

T = TypeVar("T")

ROBUSTNESS_FILE, SCALES_FILE = "robustness.json", "scales.json"
EXAMPLES_PER_SPLIT = 12


def write_run_report(
    folder: RunFolder,
    model: nn.Module,
    splits: Mapping[str, ImageSource],
    preprocessing: Preprocessing,
    results: Sequence[SplitResult],
    data: str | None = None,
) -> None:
    """Writes `report.html` of a run.

    Args:
        folder: The run.
        model: The weights that `results` come from.
        splits: Images of each split, to show some.
        preprocessing: What the model's images must look like.
        results: Accuracy on splits; may be empty.
        data: Where the images are, if not where they were in training.

    Robustness and other image sizes are shown where `report` has measured them with the weights that are best now, on
    the images that are there now.
    """
    config = folder.config(data)
    class_names = list(next(iter(splits.values())).classes)
    examples: list[Example] = []
    for result in results:
        # The training images are known by heart: the ones to look at are those of the other splits.
        if result.split != "train" or len(results) == 1:
            examples += _examples(result, splits[result.split], class_names, model, preprocessing)
    page = build_report(
        title=f"{config.model} on {data or folder.given('data')}",
        config={**config.options(), "parameters": sum(p.numel() for p in model.parameters())},
        history=folder.history(),
        results=results,
        class_names=class_names,
        examples=examples,
        robustness=_measured(folder, splits, ROBUSTNESS_FILE, robustness_from_dict),
        scales=_measured(folder, splits, SCALES_FILE, scales_from_dict),
    )
    write_atomically(folder.report_file, page)


def report(
    run: str | Path,
    *,
    data: str | None = None,
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
        run: The run folder.
        data: Where its images are now, and whatever has become of them; by default those that it was trained on, which
            must be where they were.
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
        ValueError: The run or its data cannot be used, or are no longer what they were.
    """
    folder = RunFolder(run)
    if not folder.config_file.exists() or not folder.best.exists():
        raise FileNotFoundError(f"{run} is not a run folder: it has no config.json and best.safetensors")
    check_writable(folder.path, folder=True)
    config = folder.config(data)
    evaluator = Evaluator(run, batch_size=batch_size, workers=workers, device=device, quiet=quiet)
    splits = evaluator.open(config.data, config.images.val_fraction, config.seed)
    state = saved_state("auto", folder) if data is None else None
    if state is not None and "data" in state:
        difference = DataFingerprint.from_dict(state["data"]).difference(fingerprint(splits))
        if difference:
            raise ValueError(
                f"{config.data} is not what {run} was trained on: {difference}; bring the images back, or name them "
                "with --data to evaluate on those that are there"
            )
    results = [evaluator.run(evaluator.images(source), split) for split, source in splits.items()]
    folder.write_results(results)
    split = held_out_split(splits)
    if robustness:
        found = measure_robustness(evaluator, splits[split], split=split, seed=config.seed)
        _keep(folder, splits, ROBUSTNESS_FILE, robustness_as_dict(found))
    if scales:
        _keep(folder, splits, SCALES_FILE, scales_as_dict(measure_scales(evaluator, splits[split], split=split)))
    write_run_report(folder, evaluator.classifier.model, splits, evaluator.classifier.preprocessing, results, data)
    return folder.report_file


def _keep(folder: RunFolder, splits: Mapping[str, ImageSource], name: str, values: dict[str, Any]) -> None:
    values = {"weights": _digest(folder), "data": _digest_of_images(splits), **values}
    write_atomically(folder.path / name, json.dumps(values) + "\n")


def _measured(
    folder: RunFolder, splits: Mapping[str, ImageSource], name: str, read: Callable[[dict[str, Any]], T]
) -> T | None:
    """What was measured with the weights that are best now on these images; None if it was not, or with others."""
    file = folder.path / name
    if not file.exists():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    images = _digest_of_images(splits)
    # Older versions did not write the images down.
    same_images = values.pop("data", images) == images
    return read(values) if values.pop("weights") == _digest(folder) and same_images else None


def _digest(folder: RunFolder) -> str:
    return hashlib.sha256(folder.best.read_bytes()).hexdigest()


def _digest_of_images(splits: Mapping[str, ImageSource]) -> dict[str, str]:
    return {name: split.digest for name, split in fingerprint(splits).splits.items()}


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
    if not chosen:
        return []
    transform = preprocessing.transform()
    inputs = torch.stack([transform(source.load(p.index, preprocessing.min_side())) for p in chosen])
    heats = _heats(model, inputs)
    return [
        Example(
            split=result.split,
            name=p.name,
            image=preprocessing.picture(x),
            target=class_names[p.target],
            predicted=class_names[p.predicted],
            probability=p.probability,
            heat=heat,
        )
        for p, x, heat in zip(chosen, inputs, heats, strict=True)
    ]


def _heats(model: nn.Module, inputs: Tensor) -> list[np.ndarray | None]:
    try:
        heats = where_it_looks(model, inputs.to(next(model.parameters()).device))
    except ValueError:  # a model without aggregated attention, trained for comparison
        return [None] * len(inputs)
    return list(heats.cpu().numpy())


def _spread(items: Sequence[Prediction], count: int) -> list[Prediction]:
    """`count` items at even distances, so that not all are of the first class."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
