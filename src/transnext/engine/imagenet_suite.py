"""Evaluation on ImageNet-1K and the sets that came after it."""

import dataclasses
from pathlib import Path

import numpy as np

from transnext.data.corruptions import CORRUPTIONS, SEVERITIES
from transnext.data.imagenet import (
    FOLDERS,
    NUM_CLASSES,
    SUBSETS,
    find_corruptions,
    find_folder,
    open_imagenet,
    real_labels,
    subset_indices,
)
from transnext.engine.evaluation import Evaluator
from transnext.tasks.classification.imagenet import (
    TITLES,
    AmongClasses,
    SetResult,
    SuiteResult,
    corruption_result,
    real_result,
    set_result,
)
from transnext.tasks.classification.results import SplitResult
from transnext.tasks.classification.robustness import RobustnessResult


def evaluate_imagenet(evaluator: Evaluator, root: str | Path) -> SuiteResult:
    """Evaluates on the sets that are found below a folder; `transnext.data.imagenet.FOLDERS` says where.

    ReaL needs the validation set alone: its labels are those of `root/real.json`, or the copy that comes with timm.

    Args:
        evaluator: A classifier of the 1000 classes, and how to run it.
        root: Where the sets are.

    Raises:
        FileNotFoundError: There is no such folder, or none of the sets in it.
        ValueError: The classifier has other classes, or a set is not laid out as it should be.
    """
    root = Path(root)
    classifier = evaluator.classifier
    if len(classifier.class_names) != NUM_CLASSES:
        raise ValueError(
            f"{classifier.name} has {len(classifier.class_names)} classes: the ImageNet suite needs a classifier of "
            f"the {NUM_CLASSES} of ImageNet-1K"
        )
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    folders = {name: find_folder(root, name) for name in FOLDERS}
    if not any(folders.values()):
        places = ", ".join(place for names in FOLDERS.values() for place in names)
        raise FileNotFoundError(f"none of the ImageNet sets is in {root}: looked for {places}")
    missing = {TITLES[name]: " or ".join(FOLDERS[name]) for name, folder in folders.items() if folder is None}
    sets: dict[str, SetResult] = {}
    skipped: list[tuple[str, str]] = []
    corruptions = None
    for name, folder in folders.items():
        if folder is None:
            continue
        if name == "c":
            corruptions = _corruptions(evaluator, folder)
            sets[name] = corruption_result(corruptions, classifier.name)
            if sets[name].value is None:
                missing[TITLES[name]] = _incomplete(corruptions)
            continue
        result = _plain_set(evaluator, name, folder)
        sets[name] = set_result(name, result, classifier.name)
        skipped += result.skipped
        if name == "val":
            file = root / "real.json"
            try:
                sets["real"] = real_result(result, real_labels(file if file.exists() else None), classifier.name)
            except ValueError as error:
                missing[TITLES["real"]] = str(error)
    if "val" not in sets:
        missing[TITLES["real"]] = "needs the validation set"
    return SuiteResult(
        model=classifier.name,
        sets=tuple(sets[name] for name in TITLES if name in sets),
        corruptions=corruptions,
        missing=tuple(missing.items()),
        skipped=tuple(skipped),
    )


def _plain_set(evaluator: Evaluator, name: str, folder: Path) -> SplitResult:
    subset = name if name in SUBSETS else None
    images = evaluator.images(open_imagenet(folder, subset))
    model = evaluator.classifier.model
    # A subset is scored among its own classes: another answer than those would always be wrong.
    chosen = model if subset is None else AmongClasses(model, subset_indices(subset)).eval()
    return evaluator.run(images, TITLES[name], model=chosen)


def _corruptions(evaluator: Evaluator, folder: Path) -> RobustnessResult:
    found = find_corruptions(folder, CORRUPTIONS)
    if not found:
        raise ValueError(f"{folder} has no corruptions: expected folders such as {CORRUPTIONS[0]}/1 in it")
    # Its images are crops of 224 pixels already: another crop would cut their rims off.
    whole = dataclasses.replace(evaluator.classifier.preprocessing, crop_pct=1.0)
    top1 = np.full((len(found), len(SEVERITIES)), np.nan)
    counts: list[int] = []
    for i, (corruption, folders) in enumerate(found.items()):
        for severity, path in folders.items():
            images = evaluator.images(open_imagenet(path), whole)
            result = evaluator.run(images, TITLES["c"], title=f"{corruption} {severity}")
            top1[i, severity - 1] = result.top1
            counts.append(result.num_images)
    return RobustnessResult(split="imagenet-c", images=min(counts), clean=None, corruptions=tuple(found), top1=top1)


def _incomplete(result: RobustnessResult) -> str:
    absent = [name for name in CORRUPTIONS if name not in result.corruptions]
    partial = [name for name, row in zip(result.corruptions, result.top1, strict=True) if np.isnan(row).any()]
    return f"mCE needs all 15 corruptions at 5 severities; not whole: {', '.join(absent + partial)}"
