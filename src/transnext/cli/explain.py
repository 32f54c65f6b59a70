"""`transnext explain WHAT ...`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from transnext.choices import DEFAULT_MODEL, CamMethod
from transnext.cli.explaining import Faithfulness, ReceptiveField, check_output, write_figure
from transnext.limits import check_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor

    from transnext.data.sample import Frame
    from transnext.explain import Attention as Attended
    from transnext.explain import Looked, RegionAttention
    from transnext.explain.targets import Target
    from transnext.explain.weights import Part
    from transnext.tasks.task import Loaded


@dataclass(frozen=True)
class _Seen:
    """An image as a model is asked about it; `frame` says how it relates to its file, where answers have places."""

    loaded: "Loaded"
    picture: "Image.Image"
    inputs: "Tensor"
    run: Callable[["Tensor"], Any]
    frame: "Frame | None" = None

    def look(self) -> "Looked":
        from transnext.explain import look

        return look(self.loaded.model, self.inputs, self.run)

    def seen_box(self, box: Sequence[float]) -> list[float]:
        """A box of the file where answers have places, else of the picture as it is seen, in pixels of the latter.

        Raises:
            ValueError: It is empty, or not within it.
        """
        height, width = (self.picture.height, self.picture.width) if self.frame is None else self.frame.original
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(
                f"--box is {x0:g} {y0:g} {x1:g} {y1:g}: expected 0 <= X0 < X1 <= {width} and 0 <= Y0 < Y1 <= {height}, "
                f"pixels of the image{'' if self.frame else ' as the model sees it'}"
            )
        if self.frame is None:
            return [x0, y0, x1, y1]
        (scale_x, _, left), (_, scale_y, top) = self.frame.to_original.tolist()
        return [(x0 - left) / scale_x, (y0 - top) / scale_y, (x1 - left) / scale_x, (y1 - top) / scale_y]


@dataclass(frozen=True, kw_only=True)
class _OfAnImage:
    """Options of explanations of an image.

    Attributes:
        image: An image file or an http(s) URL.
        model: A run folder, a checkpoint, or the name of a model with pretrained weights.
        image_size: Side of the square that the image is brought to, pixels; the trained one by default.
        own_size: Take the image at its own size, whole, instead.
        device: auto, cpu, cuda or mps.
        save: Draw it to this file (png, svg or pdf), or write the arrays (npz).
    """

    image: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    model: str = DEFAULT_MODEL
    image_size: int | None = None
    own_size: bool = False
    device: str = "auto"
    save: Path | None = None

    def check(self) -> None:
        """Refuses what cannot be done before the work."""
        if self.own_size and self.image_size is not None:
            raise ValueError("--own-size and --image-size exclude one another")
        check_output(self.save)

    def open(self) -> _Seen:
        from transnext.data.joint import to_bytes
        from transnext.data.preprocessing import picture
        from transnext.data.sample import collate
        from transnext.engine.device import pick_device
        from transnext.inputs import open_image
        from transnext.loaded import opened

        device = pick_device(self.device)
        loaded = opened(self.model, image_size=self.image_size, device=device)
        if getattr(loaded.model, "is_exported", False):
            raise ValueError(f"{self.model} does not show what happens in it: name the checkpoint it was made from")
        task, preprocessing = loaded.task, loaded.preprocessing
        if self.own_size:
            if task.name != "classification":
                raise ValueError(f"--own-size is for classifiers, and {self.model} is a model of {task.name}")
            whole = open_image(self.image, None)
            images = to_bytes(whole)[None]
            inputs = preprocessing.normalise(device)(images.to(device))
            return _Seen(loaded, whole, inputs, loaded.model)
        found = open_image(self.image, task.min_side(preprocessing))
        sample = task.sample(found, preprocessing, 0)
        batch = collate([sample], targets=list)
        inputs = task.inputs(batch.images.to(device), batch.sizes, preprocessing)
        shown = picture(batch.images[0])
        if shown.size != (inputs.shape[3], inputs.shape[2]):
            from PIL import Image

            canvas = Image.new("RGB", (inputs.shape[3], inputs.shape[2]))
            canvas.paste(shown)
            shown = canvas
        sizes, net = batch.sizes, loaded.model
        return _Seen(loaded, shown, inputs, lambda x: task.raw(net, x, sizes.expand(len(x), 2)), sample.frame)

    def write(self, figure: Callable[[], "Figure"], arrays: dict[str, "Tensor"]) -> None:
        """Draws the figure or writes the arrays, if either is asked for."""
        write_figure(self.save, figure, arrays)


@dataclass(frozen=True, kw_only=True)
class Attention(_OfAnImage):
    """Attention of one pixel or of a box in one block: window, pooled keys, query-learnable values, position bias.

    Attributes:
        at: Row and column of the pixel as fractions of the image, 0..1; the middle by default.
        box: Left, upper, right and lower edge of a box, of whose pixels the mean is taken instead: pixels of the image,
            as it is found in; of what a classifier sees of it without --own-size.
        stage: From 0; the last with aggregated attention by default.
        block: Within the stage, from 0; the last by default.
        head: From 0; the mean over all by default.
    """

    at: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="Y X")] = None
    box: Annotated[tuple[float, float, float, float] | None, tyro.conf.arg(metavar="X0 Y0 X1 Y1")] = None
    stage: int | None = None
    block: int | None = None
    head: int | None = None

    def check(self) -> None:
        """Refuses what cannot be done before the work."""
        super().check()
        if self.at is not None and self.box is not None:
            raise ValueError("--at and --box exclude one another: the attention is of a pixel or of a box")
        if self.at is not None:
            _check_at(self.at)
        for name in ("stage", "block", "head"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0)

    def run(self) -> None:
        """Prints the share of the window, and draws what is asked for."""
        from transnext.explain import PARTS, attention_figure

        seen = self.open()
        at, box = self.at or (0.5, 0.5), None if self.box is None else seen.seen_box(self.box)
        looked = seen.look()
        pooling = [place.stage for place in looked.blocks if place.pool is not None]
        stage = self.stage if self.stage is not None else (pooling or [looked.blocks[-1].stage])[-1]
        block = -1 if self.block is None else self.block
        found: Attended | RegionAttention
        draw: Callable[[Part, int | None], Tensor]
        if box is None:
            row, col = looked.nearest(stage, at)
            found = looked.query(stage, block, row, col)
            draw = partial(found.map, row, col)
            shares, asked, arrays = found.fovea[:, 0], f"query ({row}, {col})", {"bonus": found.bonus}
        else:
            found = looked.region(stage, block, box=box)
            draw = found.map
            shares, asked, arrays = found.fovea, f"mean of {int(found.inside.sum())} queries", {"inside": found.inside}
        arrays |= {"local": found.local, "pooled": found.pooled}
        arrays |= {f"map_{part}": draw(part, self.head) for part in PARTS}
        place = found.place
        share = float(shares.mean() if self.head is None else shares[self.head])
        window = "all pixels are keys" if place.pool is None else f"{share:.1%} of the attention stays in the window"
        Console(highlight=False, soft_wrap=True).print(
            f"stage {place.stage}, block {place.block}: {asked} of {place.grid[0]} x {place.grid[1]}, {window}"
        )
        self.write(
            lambda: attention_figure(seen.picture, looked, at, stage=stage, block=block, head=self.head, box=box),
            arrays,
        )


@dataclass(frozen=True, kw_only=True)
class Rollout(_OfAnImage):
    """Attention rollout: the share of every pixel in what the network reads at its end, through all stages.

    Attributes:
        at: Row and column of the place to start from at the end of the last stage, as fractions of the image, 0..1; the
            mean of all places by default.
    """

    at: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="Y X")] = None

    def check(self) -> None:
        """Refuses what cannot be done before the work."""
        super().check()
        if self.at is not None:
            _check_at(self.at)

    def run(self) -> None:
        """Prints how concentrated the shares are, and draws what is asked for."""
        from transnext.explain import roll_out, rollout_figure

        seen = self.open()
        looked = seen.look()
        found = roll_out(looked, self.at)
        shares = found.image.flatten().sort(descending=True).values
        tenth = shares[: max(1, len(shares) // 10)].sum().item()
        Console(highlight=False, soft_wrap=True).print(f"a tenth of the pixels has {tenth:.0%} of the attention")
        arrays = {"image": found.image, **{f"stage_{i}": shares for i, shares in enumerate(found.stages)}}
        self.write(lambda: rollout_figure(seen.picture, looked, found, self.at), arrays)


@dataclass(frozen=True, kw_only=True)
class Gradients(_OfAnImage):
    """What speaks for a class or an object, by gradients, with how faithful the map is to this image.

    Attributes:
        method: integrated for integrated gradients (captum), the others by torchcam.
        target: Name of a class; the likeliest by default. Of a detector, the best object of that class.
        stage: Whose map torchcam takes, from 0; by default the last that has at least 7 rows and columns.
        steps: Of integrated gradients, and of deletion and insertion.
    """

    method: CamMethod | Literal["integrated"] = "gradcam"
    target: str | None = None
    stage: int | None = None
    steps: int = 32

    def check(self) -> None:
        """Refuses what cannot be done before the work."""
        super().check()
        check_number("steps", self.steps, 2, 1024)
        if self.stage is not None:
            check_number("stage", self.stage, 0)

    def run(self) -> None:
        """Prints the target and, of a class, areas under deletion and insertion; draws what is asked for."""
        from transnext.explain import class_activation, heat_figure, integrated_gradients

        seen = self.open()
        what, target, label = self._target(seen)
        if self.method == "integrated":
            heat = integrated_gradients(seen.loaded.model, seen.inputs, target, steps=self.steps, run=seen.run)[0]
        else:
            heat = class_activation(
                seen.loaded.model, seen.inputs, target, method=self.method, stage=self.stage, run=seen.run
            )[0]
        lines = [f"{self.method}: {what}"]
        if label is not None:
            lines.append(_areas(seen, heat, label, self.steps))
        for line in lines:
            Console(highlight=False, soft_wrap=True).print(line, markup=False)
        self.write(
            lambda: heat_figure(seen.picture, {self.method: heat.cpu().numpy()}, title="\n".join(lines)),
            {"heat": heat},
        )

    def _target(self, seen: _Seen) -> tuple[str, "Target", int | None]:
        """What is explained in words and as a number, and the class of a classifier."""
        import torch

        from transnext.explain import class_target, object_target

        names = seen.loaded.class_names
        label = None if self.target is None else _place(names, self.target)
        with torch.inference_mode():
            (said,) = seen.run(seen.inputs)
        if seen.loaded.task.name == "detection":
            scores = said.scores if label is None else said.scores.where(said.labels == label, -1)
            if len(scores) == 0 or scores.max() < 0:
                raise ValueError(f"{self.image} has no object to explain{f' of {self.target}' if self.target else ''}")
            best = int(scores.argmax())
            box, label = said.boxes[best].tolist(), int(said.labels[best])
            where = ", ".join(f"{x:.0f}" for x in box)
            return f"{names[label]} {said.scores[best]:.1%} at {where}", object_target(box, label), None
        probabilities = said.float().softmax(-1)
        label = int(probabilities.argmax()) if label is None else label
        name = names[label] if names else f"class {label}"
        return f"{name} {probabilities[label]:.1%}", class_target(label), label


def explain(
    of: Annotated[Attention, tyro.conf.subcommand("attention", prefix_name=False)]
    | Annotated[Rollout, tyro.conf.subcommand("rollout", prefix_name=False)]
    | Annotated[Gradients, tyro.conf.subcommand("gradients", prefix_name=False)]
    | Annotated[ReceptiveField, tyro.conf.subcommand("receptive-field", prefix_name=False)]
    | Annotated[Faithfulness, tyro.conf.subcommand("faithfulness", prefix_name=False)],
) -> None:
    """Show where a model looks, what speaks for its answers, and how far such maps can be trusted.

    Args:
        of: The explanation.
    """
    of.check()
    of.run()


def _check_at(at: tuple[float, float]) -> None:
    for value in at:
        check_number("at", value, 0, 1)


def _place(names: list[str], name: str) -> int:
    """Place of a class in the list of all."""
    if name not in names:
        some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ValueError(f"the model knows no class {name!r}: it knows {some}")
    return names.index(name)


def _areas(seen: _Seen, heat: "Tensor", label: int, steps: int) -> str:
    """Deletion and insertion of a map on its image, beside those of the baselines."""
    import torch

    from transnext.explain import perturbation_curves
    from transnext.explain.faithfulness import centre

    image = seen.inputs[0]
    random = torch.rand(heat.shape, generator=torch.Generator().manual_seed(0)).to(heat.device)
    texts = []
    for name, ranked in (("this map", heat), ("random", random), ("centre", centre(image))):
        curves = perturbation_curves(seen.loaded.model, image, ranked, label, steps=steps)
        texts.append(f"{name} {curves.deletion_area:.2f} / {curves.insertion_area:.2f}")
    return f"deletion (less is better) / insertion (more): {', '.join(texts)}"
