"""Cost of segmenters, and of looking at pictures in windows and tiles.

    python benchmarks/segmentation.py sliding              # sliding window beside plain batches of the same crops
    python benchmarks/segmentation.py seams PICTURE --model MODEL   # where maps of shifted tiles differ
    python benchmarks/segmentation.py huge                 # 10,000 x 10,000 pixels from disk: peak memory
    python benchmarks/segmentation.py large                # UPerNet at 512, TransNeXt-Tiny beside convnext_tiny
    python benchmarks/segmentation.py memory               # a training step of Mask2Former Tiny: peak memory

Ratios are those of medians, what is compared is called in turn.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from PIL import Image
from torch import Tensor

from detection import medians, show
from transnext.bench.memory import peak_resident_bytes
from transnext.data.joint import seen_size
from transnext.data.windowed import Normaliser, WindowedPicture, open_windowed
from transnext.models.backbone import Backbone
from transnext.tasks.segmentation.blending import places
from transnext.tasks.segmentation.large import bands_of, grid_for, map_of, write_map
from transnext.tasks.segmentation.nets import build_net
from transnext.tasks.segmentation.placing import class_map
from transnext.tasks.segmentation.sliding import sliding_scores
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.tiling import Grid

NEAR = 8
"""Pixels from an edge of a tile that are near it."""
Bools = npt.NDArray[np.bool_]


def sliding(
    backbone: str = "transnext_pico",
    head: Literal["small", "released"] = "small",
    classes: int = 150,
    size: tuple[int, int] = (512, 1024),
    window: int = 512,
    stride: int = 341,
    batch_size: int = 4,
    rounds: int = 7,
) -> None:
    """Rate of the sliding window beside plain batches of the same crops, both to scores and to maps."""
    torch.manual_seed(0)
    net = build_net("upernet", Backbone(backbone), classes, size=head).eval()
    images, sizes = torch.randn(1, 3, *size), torch.tensor([size])
    grid = Grid.sliding(size, window, stride)
    crops = torch.cat([images[:, :, rows, columns] for rows, columns in places(grid)])
    crop = (crops.shape[2], crops.shape[3])
    of_crops = torch.tensor([crop] * len(crops))

    def plain(then: Callable[[Tensor], Any] | None) -> None:
        with torch.inference_mode():
            for first in range(0, len(crops), batch_size):
                for scores in net(crops[first : first + batch_size], of_crops[first : first + batch_size]):
                    if then is not None:
                        then(scores)

    def slide(then: Callable[[Tensor], Any] | None) -> None:
        for scores in sliding_scores(net, images, sizes, window=window, stride=stride, batch_size=batch_size):
            if then is not None:
                then(scores)

    found = medians(
        {
            "crops, the network alone": lambda: plain(None),
            "crops, a map of each": lambda: plain(lambda scores: class_map(scores, crop, crop, crop)),
            "sliding window, scores": lambda: slide(None),
            "sliding window, map": lambda: slide(lambda scores: class_map(scores, seen_size(size), size, size)),
        },
        rounds,
    )
    print(f"{len(crops)} windows of {crop[0]}x{crop[1]} in {size[0]}x{size[1]}, {classes} classes, {backbone}, {head}")
    show(found, "crops, a map of each")
    alone, maps, scores, slid = found.values()
    print(f"rate of the sliding window beside plain batches: {alone / scores:.2f} to scores, {maps / slid:.2f} to maps")


def seams(
    picture: Annotated[str, tyro.conf.Positional],
    model: str | None = None,
    backbone: str = "transnext_pico",
    classes: int = 20,
    tile: int = 256,
    overlap: float = 0.25,
) -> None:
    """Share of pixels whose class changes if tiles are shifted by half a tile, near edges of tiles and elsewhere.

    Args:
        picture: File of at least three tiles in each direction.
        model: Run folder, checkpoint or name of a segmenter; by default one that was never trained.
        backbone: Of that.
        classes: Of that.
        tile: Side of a tile, pixels.
        overlap: Of tiles.
    """
    net, normaliser = _segmenter(model, backbone, classes)
    with open_windowed(picture) as opened:
        size, normalise = opened.size, normaliser(opened)
        for name, share in (("blended", overlap), ("side by side", 0.0)):
            grid = grid_for(size, tile, share)
            shifted = Grid(
                size, grid.window, *(_shifted(starts, tile, side) for starts, side in _sides(grid)), fading=True
            )
            maps = [map_of(bands_of(net, opened, normalise, one), size) for one in (grid, shifted)]
            differs = maps[0] != maps[1]
            near = _near_edges(grid) | _near_edges(shifted)
            at_edges, elsewhere = differs[near].mean(), differs[~near].mean()
            print(
                f"{name:14} tiles of {tile}, {share:.0%} overlap: {at_edges:.3%} differ within {NEAR} pixels of edges "
                f"({near.mean():.0%} of all), {elsewhere:.3%} elsewhere: ratio {at_edges / max(elsewhere, 1e-12):.2f}"
            )


def huge(
    side: int = 10_000,
    model: str | None = None,
    backbone: str = "transnext_pico",
    classes: int = 150,
    tile: int = 512,
    overlap: float = 0.25,
    batch_size: int = 4,
    file: Literal["tif", "png", "jpg", "npy"] = "tif",
    out: Literal["tif", "png", "npy"] = "tif",
) -> None:
    """Map of a picture that is made on disk: seconds and peak memory of the process."""
    net, normaliser = _segmenter(model, backbone, classes)
    classes = net.num_classes
    with tempfile.TemporaryDirectory() as folder:
        path, result = Path(folder) / f"picture.{file}", Path(folder) / f"map.{out}"
        painter = multiprocessing.get_context("spawn").Process(target=_paint, args=(path, side))  # not to be counted
        painter.start()
        painter.join()
        before = peak_resident_bytes()
        start = time.perf_counter()
        with open_windowed(path) as opened:
            grid = grid_for(opened.size, tile, overlap)
            bands = bands_of(net, opened, normaliser(opened), grid, batch_size=batch_size)
            write_map(result, bands, opened.size, classes=classes)
        seconds = time.perf_counter() - start
        print(
            f"{side}x{side} as {file}, {len(grid.rows) * len(grid.columns)} tiles of {tile}, {classes} classes, map as "
            f"{out} ({result.stat().st_size / 1e6:.1f} MB): {seconds:.0f} s, peak memory "
            f"{peak_resident_bytes() / 1e9:.2f} GB, {before / 1e9:.2f} GB before"
        )


def large(
    head: Literal["small", "released"] = "released", side: int = 512, classes: int = 150, rounds: int = 5
) -> None:
    """Inference of UPerNet, backbones in turn."""
    images, sizes = torch.randn(1, 3, side, side), torch.tensor([[side, side]])
    calls: dict[str, Callable[[], Any]] = {}
    for name in ("convnext_tiny", "transnext_tiny"):
        torch.manual_seed(0)
        net = build_net("upernet", Backbone(name), classes, size=head).eval()

        def ask(net: Any = net) -> None:
            with torch.inference_mode():
                net(images, sizes)

        def backbone(net: Any = net) -> None:
            with torch.inference_mode():
                net.backbone(images)

        calls[name] = ask
        calls[f"{name}, backbone alone"] = backbone
    show(medians(calls, rounds), "convnext_tiny")


def memory(
    backbone: str = "transnext_tiny", side: int = 512, batch_size: int = 2, classes: int = 150, steps: int = 2
) -> None:
    """Peak memory of training steps of Mask2Former of the released size, activations recomputed."""
    torch.manual_seed(0)
    net = build_net("mask2former", Backbone(backbone), classes, size="released").train()
    net.set_grad_checkpointing(True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5)
    images = torch.randn(batch_size, 3, side, side)
    sizes = torch.full((batch_size, 2), side)
    blocks = torch.randint(classes, (batch_size, side // 64, side // 64), dtype=torch.uint8)
    maps = blocks.repeat_interleave(64, 1).repeat_interleave(64, 2)
    built = peak_resident_bytes()
    for number in range(steps):
        start = time.perf_counter()
        torch.stack(list(net.losses(images, sizes, maps).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        print(
            f"step {number + 1}: {time.perf_counter() - start:.1f} s, peak memory {peak_resident_bytes() / 1e9:.2f} GB,"
            f" {built / 1e9:.2f} GB when it was built",
            flush=True,
        )


def _segmenter(model: str | None, backbone: str, classes: int) -> tuple[Any, Callable[[WindowedPicture], Normaliser]]:
    """A segmenter, and what normalises its pictures."""
    if model is not None:
        path = Path(model)
        loaded = Segmentation.load(path / "best.safetensors" if path.is_dir() else path)
        one = loaded.preprocessing
        return loaded.model, lambda picture: Normaliser(picture, one.mean, one.std)
    torch.manual_seed(0)
    net = build_net("upernet", Backbone(backbone), classes, size="small").eval()
    return net, lambda picture: Normaliser(picture, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _sides(grid: Grid) -> list[tuple[list[int], int]]:
    return [(list(grid.rows), grid.size[0]), (list(grid.columns), grid.size[1])]


def _shifted(starts: list[int], tile: int, side: int) -> list[int]:
    """Starts of tiles half a tile further, with one more at the beginning."""
    further = [start + tile // 2 for start in starts if start + tile // 2 < side - tile]
    return [0, *further, side - tile]


def _near_edges(grid: Grid) -> Bools:
    """Pixels near the edge of a tile within the picture."""
    near = []
    for (starts, side), window in zip(_sides(grid), grid.window, strict=True):
        edges = np.array([edge for start in starts for edge in (start, start + window) if 0 < edge < side])
        near.append((np.abs(np.arange(side)[:, None] + 0.5 - edges) < NEAR).any(1))
    result: Bools = near[0][:, None] | near[1]
    return result


def _paint(path: Path, side: int) -> None:
    """A picture of patches and noise."""
    rng = np.random.default_rng(0)
    values = np.lib.format.open_memmap(path.with_suffix(".npy"), mode="w+", dtype=np.uint8, shape=(side, side, 3))
    for top in range(0, side, 500):
        patches = rng.integers(0, 256, (10, -(-side // 50), 3), np.uint8).repeat(50, 0).repeat(50, 1)
        noise = rng.integers(0, 32, (500, side, 3), np.uint8)
        values[top : top + 500] = (patches[:, :side] // 2 + noise)[: side - top]
    if path.suffix != ".npy":
        Image.fromarray(values).save(path, **({"compression": "tiff_adobe_deflate"} if path.suffix == ".tif" else {}))
        path.with_suffix(".npy").unlink()


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"sliding": sliding, "seams": seams, "huge": huge, "large": large, "memory": memory}
    )
