"""Evaluation of a trained classifier on a data set, in one call."""

from collections.abc import Sequence
from pathlib import Path

from transnext.data import LabelledImages, open_dataset
from transnext.engine.device import pick_device
from transnext.engine.display import Display
from transnext.engine.loader import eval_loader
from transnext.tasks.classification.evaluation import evaluate as evaluate_batches
from transnext.tasks.classification.loading import Classifier, load_classifier
from transnext.tasks.classification.results import SplitResult


def evaluate(
    model: str | Path | Classifier,
    data: str | Path,
    *,
    splits: Sequence[str] = (),
    image_size: int | None = None,
    batch_size: int = 128,
    workers: int = 1,
    device: str = "auto",
    val_fraction: float = 0.2,
    seed: int = 0,
    quiet: bool = True,
) -> list[SplitResult]:
    """Measures the accuracy of a classifier on every image of some splits.

    Args:
        model: A run folder, a checkpoint, a model name with pretrained weights, or a loaded `Classifier`.
        data: A bundled set or a folder of images.
        splits: Which splits; all if empty.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        device: "auto", "cpu", "cuda" or "mps".
        val_fraction: Share held out where the data come without val/; as in training.
        seed: Decides what is held out; as in training.
        quiet: Show no progress.

    Raises:
        FileNotFoundError: The model or the data are not there.
        ValueError: The model does not have the classes of the data, or a split does not exist or cannot be read.
    """
    target = pick_device(device)
    if not isinstance(model, Classifier):
        model = load_classifier(model, image_size=image_size, device=target)
    sources = open_dataset(str(data), val_fraction, seed)
    unknown = [name for name in splits if name not in sources]
    if unknown:
        raise ValueError(f"{data} has no split {unknown[0]!r}: it has {', '.join(sources)}")
    display = Display(enabled=not quiet)
    results = []
    for split in splits or sources:
        images = LabelledImages(sources[split], model.preprocessing.transform(), model.preprocessing.min_side())
        _check_classes(model, images, str(data))
        with display.bar(f"evaluating {split}", len(images)) as bar:
            loader = eval_loader(images, batch_size, workers)
            results.append(
                evaluate_batches(model.model, loader, images, split=split, device=target, on_batch=bar.advance)
            )
    return results


def _check_classes(model: Classifier, images: LabelledImages, data: str) -> None:
    ours, theirs = model.class_names, list(images.classes)
    if len(ours) != len(theirs):
        raise ValueError(f"{model.name} has {len(ours)} classes and {data} has {len(theirs)}: they must be the same")
    # Released weights have names of their own for the classes of ImageNet folders: only trained ones can be compared.
    different = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    if different and len(ours) != 1000:
        a, b = different[0]
        raise ValueError(f"{model.name} has the class {a!r} where {data} has {b!r}: they must be the same")
