"""Pictures of where the model looks."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw
from torch import Tensor

from transnext.atomic import replacing
from transnext.explain.attention import Looked
from transnext.explain.faithfulness import Faithfulness
from transnext.explain.receptive_field import ReceptiveField
from transnext.explain.region import RegionAttention
from transnext.explain.rollout import Rollout
from transnext.explain.weights import Attention, Part

COLORMAP = "inferno"
"""Perceptually uniform, dark where there is nothing to see."""
OPACITY = 0.65
"""Of the colours over the image. It is the same everywhere, so that equal colours mean equal heat."""
SIGNED_COLORMAP = "RdBu_r"
SUPERSAMPLING = 4
PANEL = 260
"""Side of a panel of a figure, hundredths of an inch."""
TEXT, SOFT, LINE = "#1d1e20", "#5d6066", "#dedfdb"


def overlay(
    image: Image.Image, heat: np.ndarray, position: tuple[float, float] | None = None, colormap: str = COLORMAP
) -> Image.Image:
    """A heat map over an image, which is shown in grey so that the colours are the heat's alone.

    Args:
        image: Any mode; transparency is shown on white.
        heat: `[H, W]`, 0..1, of any size; it is resized to the image. Values outside are clipped, NaN counts as 0.
        position: Row and column of the query as fractions of the image, 0..1, marked by a ring; None for no mark.
        colormap: Name of a colormap of matplotlib.

    Returns:
        RGB, the size of `image`.

    Raises:
        ValueError: `heat` is not a map, or `colormap` is unknown.
    """
    heat = np.asarray(heat, dtype=np.float32)
    if heat.ndim != 2 or heat.size == 0:
        raise ValueError(f"heat has shape {heat.shape}: expected [H, W]")
    if colormap not in matplotlib.colormaps:
        raise ValueError(f"colormap is {colormap!r}: expected one of matplotlib's, such as 'inferno' or 'viridis'")
    heat = np.nan_to_num(heat, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    resized = np.asarray(Image.fromarray(heat).resize(image.size, Image.Resampling.BILINEAR))
    colours = (matplotlib.colormaps[colormap](resized)[..., :3] * 255).round().astype(np.uint8)
    grey = on_white(image).convert("L").convert("RGB")
    blended = Image.blend(grey, Image.fromarray(colours), OPACITY)
    return blended if position is None else _mark(blended, position)


def on_white(image: Image.Image) -> Image.Image:
    """The image in RGB, transparency shown on white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _mark(image: Image.Image, position: tuple[float, float]) -> Image.Image:
    """A white ring with a dark rim, seen on any colour."""
    radius = max(2.5, min(image.size) / 36)
    scale = SUPERSAMPLING
    centre = (position[1] * image.width * scale, position[0] * image.height * scale)
    ring = Image.new("RGBA", (image.width * scale, image.height * scale))
    draw = ImageDraw.Draw(ring)
    line = max(1.0, radius / 3) * scale
    # Three strokes of one ring: rim, white, rim.
    for extra, width, colour in ((line / 2, 2 * line, (0, 0, 0, 200)), (0.0, line, (255, 255, 255, 255))):
        reach = radius * scale + extra
        box = (centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach)
        draw.ellipse(box, outline=colour, width=round(width))
    ring = ring.resize(image.size, Image.Resampling.LANCZOS)
    return Image.alpha_composite(image.convert("RGBA"), ring).convert("RGB")


# Figures of matplotlib.


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure on white, whole or not at all.

    Args:
        figure: The figure.
        path: The file; its ending says which kind: .png, .svg or .pdf.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), facecolor="white")


def attention_figure(
    picture: Image.Image,
    looked: Looked,
    position: tuple[float, float] = (0.5, 0.5),
    *,
    stage: int = 2,
    block: int = -1,
    head: int | None = None,
    box: Sequence[float] | None = None,
    mask: Tensor | None = None,
) -> Figure:
    """Attention of one pixel, or of all pixels of a region, whole and in its parts.

    Args:
        picture: What the network saw.
        looked: The network after it saw it.
        position: Row and column of the pixel as fractions of the image, 0..1.
        stage: Which, from 0.
        block: Which within the stage.
        head: Which; the mean over all if None.
        box: Of a region instead of the pixel, outlined; see `Looked.region`.
        mask: Likewise.

    Raises:
        ValueError: There is no such block, head, place or region.
    """
    attention: RegionAttention | Attention
    draw: Callable[[Part, int | None], Tensor]
    if box is None and mask is None:
        row, col = looked.nearest(stage, position)
        attention = looked.query(stage, block, row, col)
        draw = partial(attention.map, row, col)
        fovea, asked, marked = attention.fovea[:, 0], f"query ({row}, {col})", position
    else:
        attention = looked.region(stage, block, box=box, mask=mask)
        draw = attention.map
        fovea, asked, marked = attention.fovea, f"mean of {int(attention.inside.sum())} queries", None
    place = attention.place
    share = fovea.mean() if head is None else fovea[head]
    parts: dict[Part, str] = {"all": "attention"}
    if place.pool is not None:
        parts |= {
            "local": f"window, {share:.0%}",
            "pooled": f"pooled keys, {1 - share:.0%}",
            "bonus": "query-learnable values",
        }
    parts["bias"] = "position bias alone"
    heats = {title: looked.on_image(draw(part, head), stage).cpu().numpy() for part, title in parts.items()}
    heads = f"mean of {place.heads} heads" if head is None else f"head {head} of {place.heads}"
    grid = f"{place.grid[0]} x {place.grid[1]}"
    title = f"Stage {place.stage}, block {place.block}, {asked} of {grid}, {heads}"
    figure = heat_figure(picture, heats, title=title, position=marked)
    if box is not None:
        for ax in figure.axes[: 1 + len(heats)]:
            _outline(ax, box, looked.image_size)
    return figure


def _outline(ax: Axes, box: Sequence[float], size: tuple[int, int]) -> None:
    """A white box with a dark rim on a panel, from x0, y0, x1, y1 in pixels of an image of `(H, W)`."""
    height, width = ax.images[0].get_size()
    x0, x1 = (x * width / size[1] - 0.5 for x in box[::2])
    y0, y1 = (y * height / size[0] - 0.5 for y in box[1::2])
    for line, colour in ((3.0, "black"), (1.2, "white")):
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, linewidth=line, edgecolor=colour))


def rollout_figure(
    picture: Image.Image, looked: Looked, found: Rollout, position: tuple[float, float] | None = None
) -> Figure:
    """A rollout: the shares of the pixels, and of those of the map that each stage begins with.

    Args:
        picture: What the network saw.
        looked: The network after it saw it.
        found: The rollout.
        position: Where it started; None for the mean of all places.
    """
    heats = {"image": found.image.cpu().numpy()}
    heats |= {f"begin of stage {i}": looked.on_image(shares, i).cpu().numpy() for i, shares in enumerate(found.stages)}
    start = "the mean of all places" if position is None else "one place"
    return heat_figure(picture, heats, title=f"Attention rollout from {start}", position=position)


def heat_figure(
    picture: Image.Image,
    heats: Mapping[str, np.ndarray],
    *,
    title: str,
    position: tuple[float, float] | None = None,
) -> Figure:
    """A picture with maps over it, each divided by its largest value.

    Args:
        picture: What the network saw.
        heats: Maps `[H, W]` of any size by what to call them. One with negative values is blue there and red where it
            is positive; others are bright where they are large.
        title: Of the figure.
        position: A place to mark, row and column as fractions of the image, 0..1.
    """
    scale = max(1, round(PANEL / min(picture.size)))
    shown = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    panels = {"picture": on_white(shown) if position is None else _mark(on_white(shown), position)}
    for name, heat in heats.items():
        largest = float(np.abs(heat).max()) or 1.0
        signed = bool((heat < 0).any())
        values = heat / largest / 2 + 0.5 if signed else heat / largest
        panels[name] = overlay(shown, values, position, SIGNED_COLORMAP if signed else COLORMAP)
    columns = min(len(panels), 4)
    figure, axes = _axes(len(panels), columns, picture.height / picture.width)
    for ax, (name, panel) in zip(axes, panels.items(), strict=True):
        ax.imshow(np.asarray(panel))
        ax.set_title(name, loc="left", fontsize=9, color=TEXT)
        ax.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=TEXT)
    return figure


def receptive_field_figure(fields: Sequence[ReceptiveField], text: str = TEXT) -> Figure:
    """Effective receptive fields side by side, over four powers of ten.

    Args:
        fields: At least one.
        text: Colour of text.
    """
    height, width = fields[0].energy.shape
    figure, axes = _axes(len(fields), min(len(fields), 3), height / width, room=0.85)
    for ax, field in zip(axes, fields, strict=True):
        ax.imshow(np.log10(field.energy.numpy().clip(1e-4)), cmap=COLORMAP, vmin=-4, vmax=0)
        lines = textwrap.wrap(field.caption(), 38)
        found = f"artefact {field.artefact:.2f}" if field.has_room else "too small for an artefact"
        lines.append(f"{found} at stride {field.stride}")
        lines.append(f"half of it in {field.side(0.5)}, 95 % in {field.side(0.95)} pixels")
        ax.set_title("\n".join(lines), loc="left", fontsize=8, color=text)
        ax.set_axis_off()
    return figure


def faithfulness_figure(found: Faithfulness) -> Figure:
    """Deletion and insertion of every explainer; baselines are grey.

    Args:
        found: What was measured.
    """
    figure = Figure(figsize=(9.2, 3.8), layout="constrained", dpi=150)
    sides = figure.subplots(1, 2, sharey=True)
    for ax, side in zip(sides, ("deletion", "insertion"), strict=True):
        for i, (name, judged) in enumerate(found.judged.items()):
            curve = getattr(judged.curves, side).numpy()
            share = np.linspace(0, 1, len(curve))
            baseline = judged.correlation is None
            style = {"color": SOFT, "linestyle": (":", "--")[i % 2]} if baseline else {"color": f"C{i - 2}"}
            ax.plot(share, curve, linewidth=1.6, label=name, **style)
        ax.set_title(f"{side}, {found.images} images", loc="left", fontsize=10, color=TEXT)
        ax.set_xlabel("share of the pixels, most important first", color=SOFT, fontsize=9)
        ax.set_ylim(0, 1)
        ax.grid(color=LINE, linewidth=0.8)
        ax.spines[:].set_visible(False)
        ax.tick_params(colors=SOFT, length=0, labelsize=8)
    sides[0].set_ylabel("probability of the class", color=SOFT, fontsize=9)
    sides[1].legend(frameon=False, fontsize=8, labelcolor=TEXT)
    return figure


def _axes(count: int, columns: int, ratio: float, room: float = 0.35) -> tuple[Figure, list[Axes]]:
    """A figure with panels, `room` inches above each."""
    rows = -(-count // columns)
    side = PANEL / 100
    figure = Figure(figsize=(columns * side, rows * (side * ratio + room) + 0.3), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]
