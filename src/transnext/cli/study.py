"""`transnext study STUDY MODEL DATA`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from transnext.atomic import check_writable
from transnext.cli.eval import check_splitting, print_skipped, write_json

if TYPE_CHECKING:
    from transnext.data import Source
    from transnext.engine.evaluation import Evaluator

FIGURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, kw_only=True)
class _Study:
    """Options of all studies.

    Attributes:
        model: A run folder, a checkpoint, an exported file (.onnx, .xml, .pt2), or the name of a model with pretrained
            weights.
        data: A set by name (emoji) or a folder of images.
        flip: Average the probabilities of each image and its mirror image, which takes twice the time.
        batch_size: Images in a forward pass; by default as many as `eval` takes.
        workers: Processes that read images.
        device: auto, cpu, cuda or mps.
        json_file: Also write the results, and what they were measured with, to this file.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    flip: bool = False
    batch_size: int | None = None
    workers: int = 1
    device: str = "auto"
    json_file: Path | None = None

    def check(self) -> None:
        """Refuses what cannot be done before the work."""
        if self.json_file is not None:
            check_writable(self.json_file)

    def evaluator(self, image_size: int | None = None) -> "Evaluator":
        from transnext.engine.evaluation import Evaluator

        evaluator = Evaluator(
            self.model,
            image_size=image_size,
            flip=self.flip,
            batch_size=self.batch_size,
            workers=self.workers,
            device=self.device,
            quiet=False,
        )
        evaluator.require_classifier(type(self).__name__.lower())
        return evaluator

    def write(self, evaluator: "Evaluator", values: dict[str, Any], **settings: Any) -> None:
        """Writes the JSON file if one is asked for."""
        if self.json_file is not None:
            settings = {"model": self.model, "data": self.data, "flip": self.flip, **settings}
            write_json(self.json_file, evaluator, settings, values)


@dataclass(frozen=True, kw_only=True)
class _OfASplit(_Study):
    """Options of studies on one split.

    Attributes:
        split: Which; the one that validates by default.
        val_fraction: Share held out where the data come without splits; by default as in training, for the data that
            the model was trained on.
        seed: Decides what is held out, by default as in training, and what is random in corruptions.
        figure: Draw the results to this file (png, svg or pdf).
    """

    split: str | None = None
    val_fraction: float | None = None
    seed: int | None = None
    figure: Path | None = None

    def check(self) -> None:
        super().check()
        check_splitting(self.val_fraction, self.seed)
        if self.figure is not None:
            if self.figure.suffix not in FIGURES:
                raise ValueError(f"{self.figure} does not say how to draw: end it in {', '.join(FIGURES)}")
            check_writable(self.figure)

    def source(self, evaluator: "Evaluator") -> tuple[str, "Source", float, int]:
        """Name and images of the split; the share that is held out, and the seed."""
        from transnext.engine.evaluation import check_splits, held_out_split

        splits = () if self.split is None else (self.split,)
        val_fraction, seed = evaluator.splitting(self.data, splits, self.val_fraction, self.seed)
        sources = evaluator.open(self.data, val_fraction, seed)
        check_splits(sources, splits, self.data)
        split = self.split or held_out_split(sources)
        return split, sources[split], val_fraction, seed


@dataclass(frozen=True, kw_only=True)
class Corruptions(_OfASplit):
    """Accuracy under the corruptions of ImageNet-C, made on the fly at five severities.

    Attributes:
        corruptions: Which; all 15 by default.
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
    """

    corruptions: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME ...]")] = ()
    image_size: int | None = None

    def run(self) -> None:
        """Measures, prints the table, and writes what is asked for."""
        from transnext.studies.corruptions import (
            measure_robustness,
            robustness_as_dict,
            robustness_line,
            robustness_table,
        )

        evaluator = self.evaluator(self.image_size)
        split, source, val_fraction, seed = self.source(evaluator)
        found = measure_robustness(evaluator, source, split=split, corruptions=self.corruptions, seed=seed)
        console = Console()
        console.print(robustness_table(found))
        console.print(robustness_line(found), markup=False, soft_wrap=True)
        self.write(evaluator, robustness_as_dict(found), val_fraction=val_fraction, seed=seed)
        if self.figure is not None:
            from transnext.studies.figures import draw_robustness

            draw_robustness(found, self.figure)


@dataclass(frozen=True, kw_only=True)
class Sizes(_OfASplit):
    """Accuracy, speed and cost at other image sizes, in every mode that the model has.

    Attributes:
        scales: Multiples of the trained image size; 0.5 1 1.5 2 3 by default.
    """

    scales: Annotated[tuple[float, ...], tyro.conf.arg(metavar="[FACTOR ...]")] = ()

    def run(self) -> None:
        """Measures, prints the table, and writes what is asked for."""
        from transnext.studies.sizes import DEFAULT_SCALES, measure_scales, scales_as_dict, scales_table

        evaluator = self.evaluator()
        split, source, val_fraction, seed = self.source(evaluator)
        found = measure_scales(evaluator, source, split=split, scales=self.scales or DEFAULT_SCALES)
        console = Console()
        console.print(scales_table(found))
        for size, reason in found.failures:
            console.print(f"At {size} pixels: {reason}", markup=False, soft_wrap=True)
        self.write(evaluator, scales_as_dict(found), val_fraction=val_fraction, seed=seed)
        if self.figure is not None:
            from transnext.studies.figures import draw_scales

            draw_scales(found, self.figure)


@dataclass(frozen=True, kw_only=True)
class ImageNet(_Study):
    """Accuracy on ImageNet-1K, V2, A, R, Sketch, ReaL and C, as far as the folder DATA holds them.

    Attributes:
        image_size: Side of the square that images are brought to, pixels; the trained one by default.
    """

    image_size: int | None = None

    def run(self) -> None:
        """Measures, prints the table, and writes what is asked for."""
        from transnext.studies.corruptions import robustness_table
        from transnext.studies.imagenet import evaluate_imagenet, suite_as_dict, suite_table

        evaluator = self.evaluator(self.image_size)
        found = evaluate_imagenet(evaluator, self.data)
        console = Console()
        if found.corruptions is not None:
            console.print(robustness_table(found.corruptions))
        console.print(suite_table(found))
        if found.missing:
            absent = "; ".join(f"{name} ({why})" for name, why in found.missing)
            console.print(f"Left out: {absent}.", markup=False, soft_wrap=True)
        print_skipped(console, found.skipped)
        self.write(evaluator, suite_as_dict(found))


def study(
    of: Annotated[Corruptions, tyro.conf.subcommand("corruptions", prefix_name=False)]
    | Annotated[Sizes, tyro.conf.subcommand("sizes", prefix_name=False)]
    | Annotated[ImageNet, tyro.conf.subcommand("imagenet", prefix_name=False)],
) -> None:
    """Measure a classifier for longer: under corruption, at other image sizes, or on the sets of ImageNet.

    Args:
        of: The study.
    """
    of.check()
    of.run()
