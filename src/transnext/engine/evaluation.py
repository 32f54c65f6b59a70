"""Evaluation of a trained model on a data set, in one call."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from transnext.config import TrainConfig
from transnext.data import NAMED_SETS, LabelledImages, Source, collate
from transnext.data.preprocessing import Preprocessing
from transnext.engine.device import pick_device
from transnext.engine.display import Display
from transnext.engine.eval_loop import evaluate as evaluate_batches
from transnext.engine.loader import eval_loader, naming_dead_workers
from transnext.engine.run_folder import RunFolder
from transnext.limits import MAX_WORKERS, check_number
from transnext.loaded import load
from transnext.tasks.task import DEFAULT_TASK, WHOLE, Loaded, Result


class Evaluator:
    """A model, and how it is run over images.

    Args:
        model: A run folder, a checkpoint, an exported file, a model name with pretrained weights, or a loaded
            `Loaded`.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
        flip: Average the probabilities of each image and its mirror image, which takes twice the time.
        batch_size: Images in a forward pass; by default 8, of classifiers 128 of 224 pixels, fewer of larger ones.
        workers: Processes that read images.
        device: "auto", "cpu", "cuda" or "mps".
        quiet: Show no progress.

    Raises:
        FileNotFoundError: The model is not there.
        ValueError: It cannot be read, or a number is out of range.
    """

    def __init__(
        self,
        model: str | Path | Loaded,
        *,
        image_size: int | None = None,
        flip: bool = False,
        batch_size: int | None = None,
        workers: int = 1,
        device: str = "auto",
        quiet: bool = True,
    ) -> None:
        check_number("batch_size", 1 if batch_size is None else batch_size, 1)
        check_number("workers", workers, 0, MAX_WORKERS)
        self.device = pick_device(device)
        self.loaded = load(model, image_size=image_size, device=self.device)
        self.flip = flip
        self.batch_size = batch_size or self.loaded.task.judged_at_once(self.loaded.preprocessing)
        self.workers = workers
        self.display = Display(enabled=not quiet)

    def require_classifier(self, study: str) -> None:
        """Refuses a model of another task.

        Args:
            study: What is to be measured.

        Raises:
            ValueError: It is no classifier.
        """
        task = self.loaded.task.name
        if task != DEFAULT_TASK:
            raise ValueError(f"{study} can be measured of classifiers, and {self.loaded.name} is a model of {task}")

    def images(self, source: Source, preprocessing: Preprocessing | None = None) -> LabelledImages:
        """The images of a source as the model wants them."""
        return self.loaded.task.images(source, preprocessing or self.loaded.preprocessing)

    def run(
        self,
        images: LabelledImages,
        split: str,
        *,
        title: str | None = None,
        model: nn.Module | None = None,
        batch_size: int | None = None,
    ) -> Any:
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
        task = self.loaded.task
        model = model or self.loaded.model
        loader = eval_loader(
            images, batch_size or self.batch_size, self.workers, collate=partial(collate, targets=task.collate)
        )
        with naming_dead_workers(), self.display.bar(title or f"evaluating {split}", len(images)) as bar:
            result: Result = evaluate_batches(
                task,
                task.mirrored(model) if self.flip else model,
                loader,
                self.loaded.preprocessing,
                split=split,
                source=images.source,
                device=self.device,
                on_batch=bar.advance,
            )
        return result

    def run_splits(
        self,
        data: str | Path,
        splits: Sequence[str] = (),
        *,
        val_fraction: float | None = None,
        seed: int | None = None,
    ) -> list[Any]:
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

    def open(self, data: str | Path, val_fraction: float, seed: int) -> dict[str, Source]:
        """The splits of a data set with targets as the model has them; see `Task.sources`."""
        return self.loaded.task.sources(str(data), val_fraction, seed, self.loaded.name)

    def _training(self) -> TrainConfig | None:
        """The configuration of the run that the classifier comes from, if it lies in a run folder."""
        try:
            return TrainConfig.load(RunFolder(Path(self.loaded.name).parent).config_file)
        except (OSError, ValueError):
            return None


def evaluate(
    model: str | Path | Loaded,
    data: str | Path,
    *,
    splits: Sequence[str] = (),
    image_size: int | None = None,
    flip: bool = False,
    batch_size: int | None = None,
    workers: int = 1,
    device: str = "auto",
    val_fraction: float | None = None,
    seed: int | None = None,
    quiet: bool = True,
) -> list[Any]:
    """Measures the accuracy of a classifier on every image of some splits.

    It is `Evaluator(model, ...).run_splits(data, ...)`, which say what the arguments mean and what is raised.
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
    """True if two descriptions of data are of the same ones."""
    if trained == data or trained in NAMED_SETS or data in NAMED_SETS:
        return trained == data
    if trained.rstrip("/") == TrainConfig.of(data=data).with_absolute_paths().data.rstrip("/"):
        return True
    return Path(trained).exists() and Path(data).exists() and Path(trained).samefile(data)


def check_splits(sources: Mapping[str, Source], splits: Sequence[str], data: str) -> None:
    """Makes sure that the data have some splits.

    Raises:
        ValueError: One is missing.
    """
    for name in splits:
        if name not in sources:
            raise ValueError(f"{data} has no split {name!r}: it has {', '.join(sources)}")


def held_out_split(sources: Mapping[str, Source]) -> str:
    """The split that says most about new images: `val`, else `test`, else the first."""
    return next((name for name in ("val", "test") if name in sources), next(iter(sources)))
