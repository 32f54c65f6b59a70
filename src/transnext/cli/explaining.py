"""What `transnext explain` measures of models, and how it writes figures."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from transnext.atomic import check_writable, replacing, write_atomically
from transnext.choices import DEFAULT_MODEL
from transnext.limits import MAX_SEED, check_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor

    from transnext import explain

FIGURES = (".png", ".svg", ".pdf")
ARRAYS = ".npz"


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """Effective receptive fields of any timm models, and how much of their strides shows in them.

    Attributes:
        models: Names of models, run folders or checkpoints.
        weights: pretrained, or random for those of a seed.
        data: A set by name (emoji), a folder or pattern of images; noise of mean 0 and variance 1 by default.
        images: How many.
        image_size: Side of the square, pixels.
        seed: Of noise and of random weights.
        device: auto, cpu, cuda or mps.
        save: Draw them to this file (png, svg or pdf), or write the arrays (npz).
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    weights: Literal["pretrained", "random"] = "pretrained"
    data: str | None = None
    images: int = 32
    image_size: int = 224
    seed: int = 0
    device: str = "auto"
    save: Path | None = None

    def check(self) -> None:
        """Refuses what cannot be done before the work."""
        if not self.models:
            raise ValueError("no model is given: transnext explain receptive-field MODEL ...")
        check_number("images", self.images, 1)
        check_number("image_size", self.image_size, 128, 4096)
        check_number("seed", self.seed, 0, MAX_SEED)
        check_output(self.save)

    def run(self) -> None:
        """Prints a row for each model, and draws what is asked for."""
        from transnext.explain import receptive_field_figure

        fields = [self._measure(name) for name in self.models]
        table = Table(title=f"Effective receptive fields, {self.image_size} x {self.image_size}, {fields[0].images}")
        for column in ("model", "weights", "stride", "artefact", "half in", "95 % in"):
            table.add_column(column, justify="left" if column in ("model", "weights") else "right")
        for field in fields:
            sides = (f"{field.side(share)}" for share in (0.5, 0.95))
            table.add_row(field.model, field.weights, str(field.stride), f"{field.artefact:.2f}", *sides)
        Console().print(table)
        write_figure(
            self.save,
            lambda: receptive_field_figure(fields),
            {name: field.energy for name, field in zip(self.models, fields, strict=True)},
        )

    def _measure(self, name: str) -> "explain.ReceptiveField":
        import torch

        from transnext.data.preprocessing import Preprocessing
        from transnext.engine.device import pick_device
        from transnext.explain import measure_receptive_field
        from transnext.explain.attention import find_network
        from transnext.loaded import opened
        from transnext.models.variants import create

        device = pick_device(self.device)
        torch.manual_seed(self.seed)
        if Path(name).exists():
            model: Any = find_network(opened(name, device=device).model)
            weights = "trained weights"
        else:
            model = create(name, {}, pretrained=self.weights == "pretrained").to(device)
            weights = f"{self.weights} weights"
        preprocessing = Preprocessing.of_model(model, self.image_size)
        if self.data is None:
            generator = torch.Generator().manual_seed(self.seed)
            side = self.image_size
            batches = (torch.randn(1, 3, side, side, generator=generator).to(device) for _ in range(self.images))
            kind = f"{self.images} images of noise"
        else:
            transform, normalise = preprocessing.transform(), preprocessing.normalise(device)
            pictures = list(islice(_pictures(self.data), self.images))
            batches = (normalise(transform(picture)[None].to(device)) for picture in pictures)
            kind = f"{len(pictures)} images of {self.data}"
        return measure_receptive_field(model, batches, name=name, weights=weights, images=kind)


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Faithfulness of explanations of a classifier: deletion and insertion, against baselines and random weights.

    Attributes:
        data: A set by name (emoji) or a folder of images.
        model: A run folder, a checkpoint, or the name of a model with pretrained weights.
        split: Which; the one that validates by default.
        images: How many, drawn at random.
        steps: Of deletion and insertion.
        seed: Decides which images, the random baseline and the randomised weights.
        device: auto, cpu, cuda or mps.
        save: Draw the curves to this file (png, svg or pdf), or write them (npz).
        json_file: Also write the results, and what they were measured with, to this file.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    model: str = DEFAULT_MODEL
    split: str | None = None
    images: int = 100
    steps: int = 16
    seed: int = 0
    device: str = "auto"
    save: Path | None = None
    json_file: Path | None = None

    def check(self) -> None:
        """Refuses what cannot be done before the work."""
        check_number("images", self.images, 1)
        check_number("steps", self.steps, 2, 1024)
        check_number("seed", self.seed, 0, MAX_SEED)
        check_output(self.save)
        if self.json_file is not None:
            check_writable(self.json_file)

    def run(self) -> None:
        """Measures, prints the table, and writes what is asked for."""
        import json

        from transnext.engine.evaluation import Evaluator, check_splits, held_out_split
        from transnext.explain import faithfulness_figure, measure_faithfulness

        evaluator = Evaluator(self.model, device=self.device)
        evaluator.require_classifier("faithfulness")
        splits = () if self.split is None else (self.split,)
        sources = evaluator.open(self.data, *evaluator.splitting(self.data, splits, None, None))
        check_splits(sources, splits, self.data)
        split = self.split or held_out_split(sources)
        images = self._inputs(evaluator, sources[split])
        found = measure_faithfulness(evaluator.loaded.model, images, steps=self.steps, seed=self.seed)
        Console().print(_faithfulness_table(found, f"{self.model} on {self.data}, {split}"))
        arrays = {
            f"{name} {side}": getattr(judged.curves, side)
            for name, judged in found.judged.items()
            for side in ("deletion", "insertion")
        }
        write_figure(self.save, lambda: faithfulness_figure(found), arrays)
        if self.json_file is not None:
            settings = {"model": self.model, "data": self.data, "split": split, "seed": self.seed}
            rows = {name: _areas_of(judged) for name, judged in found.judged.items()}
            values = {"settings": {**settings, "images": found.images, "steps": found.steps}, "explainers": rows}
            write_atomically(self.json_file, json.dumps(values) + "\n")

    def _inputs(self, evaluator: Any, source: Any) -> Iterator["Tensor"]:
        import torch

        from transnext.data.sample import Skipped, collate

        loaded, images = evaluator.loaded, evaluator.images(source)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        read = (images[index] for index in order.tolist())
        for sample in islice((sample for sample in read if not isinstance(sample, Skipped)), self.images):
            batch = collate([sample])
            yield loaded.task.inputs(batch.images.to(evaluator.device), batch.sizes, loaded.preprocessing)[0]


def check_output(file: Path | None) -> None:
    """Refuses a file for a figure or for arrays that cannot be written.

    Args:
        file: None if nothing is to be written.

    Raises:
        ValueError: Its ending says neither.
    """
    if file is None:
        return
    endings = (*FIGURES, ARRAYS)
    if file.suffix not in endings:
        raise ValueError(f"{file} does not say what to write: end it in {', '.join(endings)}")
    check_writable(file)


def write_figure(file: Path | None, figure: Callable[[], "Figure"], arrays: dict[str, "Tensor"]) -> None:
    """Draws a figure, or writes its arrays, as the ending of the file says.

    Args:
        file: None if nothing is to be written.
        figure: Draws it.
        arrays: What it is drawn from, by name.
    """
    if file is None:
        return
    if file.suffix == ARRAYS:
        import numpy as np

        with replacing(file) as temporary, temporary.open("wb") as stream:
            named: dict[str, Any] = {name: array.cpu().numpy() for name, array in arrays.items()}
            np.savez(stream, **named)
    else:
        from transnext.explain.figures import save_figure

        save_figure(figure(), file)
    Console(highlight=False, soft_wrap=True).print(f"written: {file}", markup=False)


def _pictures(data: str) -> Iterator["Image.Image"]:
    """Pictures of a set by name, of the split that validates, or of files."""
    from transnext.data import NAMED_SETS, open_dataset
    from transnext.engine.evaluation import held_out_split
    from transnext.inputs import files_of, open_image

    if data in NAMED_SETS:
        sources = open_dataset(data)
        source = sources[held_out_split(sources)]
        yield from (source.load(index) for index in range(len(source)))
    else:
        yield from (open_image(file, None) for file in files_of(data))


def _areas_of(judged: Any) -> dict[str, float]:
    values = {"deletion": judged.curves.deletion_area, "insertion": judged.curves.insertion_area}
    if judged.randomised is not None:
        values["deletion_randomised"] = judged.randomised.deletion_area
        values["insertion_randomised"] = judged.randomised.insertion_area
        values["correlation"] = judged.correlation
    return values


def _faithfulness_table(found: "explain.Faithfulness", title: str) -> Table:
    table = Table(title=f"Faithfulness of explanations, {title}, {found.images} images, {found.steps} steps")
    for column in ("explanation", "deletion", "insertion", "random weights", "correlation"):
        table.add_column(column, justify="left" if column == "explanation" else "right")
    for name, judged in found.judged.items():
        areas = [f"{area:.3f}" for area in (judged.curves.deletion_area, judged.curves.insertion_area)]
        if judged.randomised is not None:
            areas.append(f"{judged.randomised.deletion_area:.3f} / {judged.randomised.insertion_area:.3f}")
            areas.append(f"{judged.correlation:.2f}")
        table.add_row(name, *areas)
    return table
