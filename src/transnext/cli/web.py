"""`transnext web [MODEL ...]`."""

import os
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
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    device: str = "auto",
    no_browser: bool = False,
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
        host: Of the server: name or address where it listens; others than this machine can come only with a token.
        port: Of the server: where it listens; 8321, or if that is taken any other, by default.
        token: Of the server: what users must know, at least 16 characters; by default that of the environment variable
            TRANSNEXT_TOKEN, if there is one.
        device: Of the server: auto, cpu, cuda or mps.
        no_browser: Of the server: do not open the page in a browser.
    """
    if export is None:
        for name, given in (("image-size", image_size), ("examples", examples), ("overwrite", overwrite)):
            if given:
                raise ValueError(f"--{name} is for a page in one file: give --export FILE too")
        _serve(models or (DEFAULT_MODEL,), host, port, token or os.environ.get("TRANSNEXT_TOKEN"), device, no_browser)
        return
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


def _serve(
    models: tuple[str, ...], host: str, port: int | None, token: str | None, device: str, no_browser: bool
) -> None:
    from transnext.engine.device import pick_device
    from transnext.web.server.serving import serve

    def started(address: str) -> None:
        console = Console(soft_wrap=True, highlight=False)
        console.print(f"Explorer: {address}", markup=False)
        console.print("Images stay in the memory of this process. Ctrl-C ends it.", markup=False)

    serve(
        models,
        host=host,
        port=port,
        token=token,
        device=pick_device(device),
        open_browser=not no_browser,
        started=started,
    )
