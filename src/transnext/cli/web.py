"""`transnext web [MODEL ...]`."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from transnext.choices import DEFAULT_MODEL


def web(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL ...]")] = (),
    export: Path | None = None,
    image_size: tuple[int, ...] = (),
    examples: tuple[Path, ...] = (),
    overwrite: bool = False,
) -> None:
    """Ask models in a browser where they look, or write one page that holds a model.

    Args:
        models: Run folders, checkpoints, or names of models with pretrained weights; by default the bundled one.
        export: Write one HTML file with the model in it, which opens without a network and needs nothing else; for
            classifiers of up to 15 M parameters.
        image_size: Of the page: size of the images, pixels, one number or height and width; by default several to
            choose from.
        examples: Of the page: image files to show in it; by default some of the bundled drawings.
        overwrite: Replace the page if it exists.
    """
    if export is None:
        raise ValueError("give --export FILE, the page to write")
    if len(models) > 1:
        raise ValueError(f"a page holds one model, and {len(models)} are given: {', '.join(models)}")
    if len(image_size) > 2:
        raise ValueError(f"image_size is {image_size}: give one number, or height and width")

    from transnext.export.checking import MAX_DIFFERENCE
    from transnext.web.static_page import export_page

    result = export_page(
        models[0] if models else DEFAULT_MODEL,
        export,
        image_size=None if not image_size else (image_size[0], image_size[-1]),
        examples=examples,
        overwrite=overwrite,
    )
    console = Console(soft_wrap=True, highlight=False)
    height, width = result.image_size
    size = f"{height}x{width}"
    if result.sizes is not None:
        least, largest, step = result.sizes
        size += f", or {least}x{least} to {largest}x{largest} in steps of {step}"
    console.print(f"{result.path}: {result.num_bytes / 1e6:.1f} MB, images of {size}", markup=False)
    for found in result.checks:
        at = "x".join(map(str, found.shape))
        console.print(f"  {at:>14}  logits and attention differ from PyTorch by {found.difference:.1e}", markup=False)
    console.print(f"  allowed: {MAX_DIFFERENCE:.0e}", markup=False)
