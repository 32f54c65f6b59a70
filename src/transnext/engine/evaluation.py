"""Evaluation of a trained classifier on a data set, in one call."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from transnext.config import TrainConfig
from transnext.data import NAMED_SETS, AlignedImages, ImageSource, LabelledImages, open_dataset
from transnext.data.imagenet import wnids
from transnext.engine.device import pick_device
from transnext.engine.display import Display
from transnext.engine.loader import eval_loader, naming_dead_workers
from transnext.engine.run_folder import RunFolder
from transnext.export import open_classifier
from transnext.limits import MAX_WORKERS, check_number
from transnext.tasks.classification.build import Preprocessing
from transnext.tasks.classification.evaluation import evaluate as evaluate_batches
from transnext.tasks.classification.loading import Classifier, imagenet_descriptions
from transnext.tasks.classification.mirror import MirrorAveraged
from transnext.tasks.classification.results import SplitResult

WHOLE = "all"
"""The split that has all images of data that come without splits."""
_LISTED = 5
_ENOUGH_SAME = 0.95


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
        ValueError: It cannot be read, or a number is out of range.
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
        check_number("batch_size", batch_size, 1)
        check_number("workers", workers, 0, MAX_WORKERS)
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
        self,
        data: str | Path,
        splits: Sequence[str] = (),
        *,
        val_fraction: float | None = None,
        seed: int | None = None,
    ) -> list[SplitResult]:
        """Evaluates on some splits of a data set.

        Args:
            data: A set by name, a folder of images, or shards.
            splits: Which splits; all if empty.
            val_fraction: As in `splitting`.
            seed: As in `splitting`.

        Raises:
            FileNotFoundError: The data are not there.
            ValueError: The data have a class that the model lacks, or a split does not exist or cannot be read.
        """
        sources = self.open(data, *self.splitting(data, splits, val_fraction, seed))
        check_splits(sources, splits, str(data))
        return [self.run(self.images(sources[split]), split) for split in splits or sources]

    def splitting(
        self, data: str | Path, splits: Sequence[str], val_fraction: float | None, seed: int | None
    ) -> tuple[float, int]:
        """The share of the images that is held out, where data come without splits, and the seed that decides which.

        They are those given, or else those of training if these are the data that the classifier was trained on, or
        else 0.2 and 0 if splits are asked for by name. Other data are not divided: the share is 0.
        """
        trained = self._training()
        if trained is not None and _is_same(trained.data, str(data)):
            default, default_seed = trained.images.val_fraction, trained.seed
        else:
            undivided = str(data) not in NAMED_SETS and set(splits) <= {WHOLE}
            default, default_seed = 0.0 if undivided else 0.2, 0
        return default if val_fraction is None else val_fraction, default_seed if seed is None else seed

    def open(self, data: str | Path, val_fraction: float, seed: int) -> dict[str, ImageSource]:
        """The splits of a data set, with the classes of the classifier.

        Args:
            data: A set by name, a folder of images, or shards. They may lack classes that the classifier has.
            val_fraction: Share held out where the data come without splits; 0 to have all images as one, `WHOLE`.
            seed: Decides what is held out.

        Raises:
            FileNotFoundError: The data are not there.
            ValueError: The data have a class that the model lacks.
        """
        known = {name for names in self._namings() for name in names}
        sources = open_dataset(str(data), val_fraction, seed, known)
        if val_fraction == 0 and list(sources) == ["train"] and str(data) not in NAMED_SETS:
            sources = {WHOLE: sources["train"]}
        return {split: self._aligned(source, str(data)) for split, source in sources.items()}

    def _training(self) -> TrainConfig | None:
        """The configuration of the run that the classifier comes from, if it lies in a run folder."""
        try:
            return TrainConfig.load(RunFolder(Path(self.classifier.name).parent).config_file)
        except (OSError, ValueError):
            return None

    def _namings(self) -> list[Sequence[str]]:
        """What the classes may be called: their names and, for those of ImageNet-1K, WordNet identifiers or numbers."""
        ours = self.classifier.class_names
        if ours not in (imagenet_descriptions(), list(wnids())):
            return [ours]
        return [ours, wnids(), [str(i) for i in range(len(ours))]]

    def _aligned(self, source: ImageSource, data: str) -> ImageSource:
        ours, theirs = self.classifier.class_names, list(source.classes)
        if ours == theirs:
            return source
        namings = self._namings()
        for names in namings:
            count = Counter(names)  # two classes of ImageNet may share a name
            place = {name: i for i, name in enumerate(names) if count[name] == 1}
            if set(theirs) <= place.keys():
                return AlignedImages(source, ours, [place[name] for name in theirs])
        same = sum(a == b for a, b in zip(ours, theirs, strict=False))
        # Descriptions of the classes of ImageNet differ in a few words from one publisher to another.
        if len(namings) > 1 and len(theirs) == len(ours) and same >= _ENOUGH_SAME * len(ours):
            return AlignedImages(source, ours, range(len(ours)))
        extra = [name for name in theirs if not any(name in names for names in namings)] or theirs
        raise ValueError(
            f"{data} has {_listing(extra)}, but {self.classifier.name} has no such class: its {len(ours)} classes are "
            f"{_listing(ours)}"
        )


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
    val_fraction: float | None = None,
    seed: int | None = None,
    quiet: bool = True,
) -> list[SplitResult]:
    """Measures the accuracy of a classifier on every image of some splits.

    Args:
        model: A run folder, a checkpoint, an exported file, a model name with pretrained weights, or a loaded
            `Classifier`.
        data: A set by name, a folder of images, or shards.
        splits: Which splits; all if empty.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        flip: Average the probabilities of each image and its mirror image, which takes twice the time.
        batch_size: Images in a forward pass.
        workers: Processes that read images.
        device: "auto", "cpu", "cuda" or "mps".
        val_fraction: As in `Evaluator.splitting`.
        seed: As in `Evaluator.splitting`.
        quiet: Show no progress.

    Raises:
        FileNotFoundError: The model or the data are not there.
        ValueError: The data have a class that the model lacks, or a split does not exist or cannot be read.
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


def _is_same(trained: str, data: str) -> bool:
    """Whether two descriptions of data are of the same ones."""
    if trained == data or trained in NAMED_SETS or data in NAMED_SETS:
        return trained == data
    return Path(trained).exists() and Path(data).exists() and Path(trained).samefile(data)


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(repr(name) for name in names[:_LISTED]) + more


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
