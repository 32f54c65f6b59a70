"""Evaluation of a trained classifier on a data set, in one call."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from transnext.data import ImageSource, LabelledImages, open_dataset
from transnext.engine.device import pick_device
from transnext.engine.display import Display
from transnext.engine.loader import eval_loader, naming_dead_workers
from transnext.export import open_classifier
from transnext.tasks.classification.build import Preprocessing
from transnext.tasks.classification.evaluation import evaluate as evaluate_batches
from transnext.tasks.classification.loading import Classifier
from transnext.tasks.classification.mirror import MirrorAveraged
from transnext.tasks.classification.results import SplitResult


class Evaluator:
    """A classifier, and how it is run over images.

    Args:
        model: A run folder, a checkpoint, an exported file, a model name with pretrained weights, or a loaded
            `Classifier`.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        flip: Average the probabilities of each image and its mirror image, which takes twice the time.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        device: "auto", "cpu", "cuda" or "mps".
        quiet: Show no progress.

    Raises:
        FileNotFoundError: The model is not there.
    """

    def __init__(
        self,
        model: str | Path | Classifier,
        *,
        image_size: int | None = None,
        flip: bool = False,
        batch_size: int = 128,
        workers: int = 1,
        device: str = "auto",
        quiet: bool = True,
    ) -> None:
        self.device = pick_device(device)
        self.classifier = open_classifier(model, image_size=image_size, device=self.device)
        self.flip = flip
        self.batch_size = batch_size
        self.workers = workers
        self.display = Display(enabled=not quiet)

    def images(self, source: ImageSource, preprocessing: Preprocessing | None = None) -> LabelledImages:
        """The images of a source as the model wants them."""
        preprocessing = preprocessing or self.classifier.preprocessing
        return LabelledImages(source, preprocessing.transform(), preprocessing.min_side())

    def run(
        self,
        images: LabelledImages,
        split: str,
        *,
        title: str | None = None,
        model: nn.Module | None = None,
        batch_size: int | None = None,
    ) -> SplitResult:
        """Evaluates on every image once.

        Args:
            images: The images.
            split: Name of the split, for the result.
            title: What is shown meanwhile.
            model: Another model than the classifier's.
            batch_size: Another than that of all.

        Raises:
            ValueError: No image could be read.
            ChildProcessError: A reading process died.
        """
        model = model or self.classifier.model
        if self.flip:
            model = MirrorAveraged(model)
        loader = eval_loader(images, batch_size or self.batch_size, self.workers)
        with naming_dead_workers(), self.display.bar(title or f"evaluating {split}", len(images)) as bar:
            return evaluate_batches(model, loader, images, split=split, device=self.device, on_batch=bar.advance)

    def run_splits(
        self, data: str | Path, splits: Sequence[str] = (), *, val_fraction: float = 0.2, seed: int = 0
    ) -> list[SplitResult]:
        """Evaluates on some splits of a data set.

        Args:
            data: A bundled set or a folder of images.
            splits: Which splits; all if empty.
            val_fraction: Share held out where the data come without val/; as in training.
            seed: Decides what is held out; as in training.

        Raises:
            FileNotFoundError: The data are not there.
            ValueError: The model does not have the classes of the data, or a split does not exist or cannot be read.
        """
        sources = open_dataset(str(data), val_fraction, seed)
        check_splits(sources, splits, str(data))
        results = []
        for split in splits or sources:
            self.check_classes(sources[split], str(data))
            results.append(self.run(self.images(sources[split]), split))
        return results

    def check_classes(self, source: ImageSource, data: str) -> None:
        """Makes sure that the classifier has the classes of the data.

        Raises:
            ValueError: It has others.
        """
        ours, theirs = self.classifier.class_names, list(source.classes)
        name = self.classifier.name
        if len(ours) != len(theirs):
            raise ValueError(f"{name} has {len(ours)} classes and {data} has {len(theirs)}: they must be the same")
        # Released weights have names of their own for the classes of ImageNet folders: only trained ones can be
        # compared.
        different = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
        if different and len(ours) != 1000:
            a, b = different[0]
            raise ValueError(f"{name} has the class {a!r} where {data} has {b!r}: they must be the same")


def evaluate(
    model: str | Path | Classifier,
    data: str | Path,
    *,
    splits: Sequence[str] = (),
    image_size: int | None = None,
    flip: bool = False,
    batch_size: int = 128,
    workers: int = 1,
    device: str = "auto",
    val_fraction: float = 0.2,
    seed: int = 0,
    quiet: bool = True,
) -> list[SplitResult]:
    """Measures the accuracy of a classifier on every image of some splits.

    Args:
        model: A run folder, a checkpoint, an exported file, a model name with pretrained weights, or a loaded
            `Classifier`.
        data: A bundled set or a folder of images.
        splits: Which splits; all if empty.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        flip: Average the probabilities of each image and its mirror image, which takes twice the time.
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
    evaluator = Evaluator(
        model,
        image_size=image_size,
        flip=flip,
        batch_size=batch_size,
        workers=workers,
        device=device,
        quiet=quiet,
    )
    return evaluator.run_splits(data, splits, val_fraction=val_fraction, seed=seed)


def check_splits(sources: Mapping[str, ImageSource], splits: Sequence[str], data: str) -> None:
    """Makes sure that the data have some splits.

    Raises:
        ValueError: One is missing.
    """
    for name in splits:
        if name not in sources:
            raise ValueError(f"{data} has no split {name!r}: it has {', '.join(sources)}")


def held_out_split(sources: Mapping[str, ImageSource]) -> str:
    """The split that says most about new images: `val`, else `test`, else the first."""
    return next((name for name in ("val", "test") if name in sources), next(iter(sources)))
