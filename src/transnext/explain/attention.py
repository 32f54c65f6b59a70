"""Where a network looks: the attention of any pixel in any block, after one forward pass.

Shape legend: `B` batch, `H W` image, `h w` feature map of the stage, `M` heads, `N = h * w` queries, `K` window
positions, `P` pooled keys.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from transnext.explain.maps import nearest, on_image, query_map
from transnext.explain.region import RegionAttention, queries_in_box, queries_in_mask
from transnext.explain.weights import Attention, BlockPlace, Kept
from transnext.models.attention import AggregatedAttention, GlobalCosineAttention
from transnext.models.layers import Block
from transnext.models.transnext import TransNeXt


class Looked:
    """A network after a forward pass, ready to say where any of its pixels looked; `look` makes it.

    It holds the input of every block and the network itself, whose weights have to stay as they are meanwhile.

    Attributes:
        output: What the network gave, for a classifier its logits.
        image_size: `(H, W)`.
        blocks: Every block, in order.
        net: The TransNeXt in the network.
    """

    def __init__(self, net: TransNeXt, image_size: tuple[int, int], output: Any, kept: list[Kept]) -> None:
        self.net = net
        self.image_size = image_size
        self.output = output
        self._kept = {(k.place.stage, k.place.block): k for k in kept}

    @property
    def blocks(self) -> list[BlockPlace]:
        """Place and sizes of every block, in order."""
        return [kept.place for kept in self._kept.values()]

    def block(self, stage: int, block: int, image: int = 0) -> Attention:
        """Attention of all queries of a block.

        Args:
            stage: From 0; negative from the last.
            block: Within the stage, likewise.
            image: Of the batch.

        Raises:
            ValueError: There is no such block or image, or its queries are too many to hold at once.
        """
        kept = self.kept(stage, block)
        rows, cols = (range(n) for n in kept.place.grid)
        return Attention(kept, self._image(image), rows, cols)

    def query(self, stage: int, block: int, row: int, col: int, image: int = 0) -> Attention:
        """Attention of one query of a block, `N` = 1, of images of any size.

        Args:
            stage: As in `block`.
            block: As in `block`.
            row: Of the query in the feature map; `nearest` finds it.
            col: Of the query in the feature map.
            image: Of the batch.

        Raises:
            ValueError: There is no such block, image or query.
        """
        kept = self.kept(stage, block)
        if not (0 <= row < kept.place.grid[0] and 0 <= col < kept.place.grid[1]):
            raise ValueError(
                f"the query is ({row}, {col}), but the map of stage {kept.place.stage} has {kept.place.grid[0]} rows "
                f"and {kept.place.grid[1]} columns, counted from 0"
            )
        return Attention(kept, self._image(image), range(row, row + 1), range(col, col + 1))

    def region(
        self,
        stage: int,
        block: int,
        *,
        box: Sequence[float] | None = None,
        mask: Tensor | None = None,
        image: int = 0,
    ) -> RegionAttention:
        """Attention of all queries of a block that lie in a region of the image, averaged: of a found object, say.

        A query is a pixel `i` of a feature map, and stands in the middle of pixel `i * stride` of the image. Where none
        is in the region, which may be smaller than the stride, it is the nearest one.

        Args:
            stage: As in `block`.
            block: As in `block`.
            box: x0, y0, x1, y1, pixels of the image as the network saw it, 0 at its left and upper edge.
            mask: bool `[H, W]`, likewise, instead of a box.
            image: Of the batch.

        Raises:
            ValueError: There is no such block or image, there are not one of `box` and `mask`, or there is nothing of
                the image in it.
        """
        kept = self.kept(stage, block)
        number, place = self._image(image), kept.place
        if (box is None) == (mask is None):
            raise ValueError("a region is either a box or a mask: give one of them")
        if mask is not None:
            inside = queries_in_mask(mask, place.stride, self.image_size, place.grid)
        else:
            assert box is not None
            inside = queries_in_box(box, place.stride, self.image_size, place.grid)
        return RegionAttention(kept, number, inside.to(kept.x.device))

    def nearest(self, stage: int, position: tuple[float, float]) -> tuple[int, int]:
        """Row and column of the pixel of a stage's feature map that is nearest to a place of the image.

        Args:
            stage: As in `block`.
            position: Row and column as fractions of the image, 0..1.

        Raises:
            ValueError: There is no such stage, or the place lies outside the image.
        """
        place = self.kept(stage, 0).place
        return nearest(position, place.stride, self.image_size, place.grid)

    def on_image(self, maps: Tensor, stage: int) -> Tensor:
        """Maps of a stage, `[..., h, w]`, resized to the image, `[..., H, W]`; see `maps.on_image`."""
        return on_image(maps, self.kept(stage, 0).place.stride, self.image_size)

    def kept(self, stage: int, block: int) -> Kept:
        """What a block was given, of all images.

        Args:
            stage: As in `block`.
            block: As in `block`.

        Raises:
            ValueError: There is no such block.
        """
        depths = _depths(self.net)
        return self._kept[_found("stage", stage, len(depths)), _found_block(stage, block, depths[stage])]

    def _image(self, image: int) -> int:
        return _found("image", image, len(next(iter(self._kept.values())).x))


def look(model: nn.Module, images: Tensor, run: Callable[[Tensor], Any] | None = None) -> Looked:
    """Runs a network once and keeps what every block was given.

    It takes the time of the forward pass, on the kernels as always, and the memory of a map for each block.

    Args:
        model: A TransNeXt or a module that contains one: a classifier, a backbone, a detector. It is run in eval mode
            without gradients, and left as it was.
        images: Normalised images, `[B, 3, H, W]`, of the device and dtype of the model.
        run: Calls the model with the images, where that takes more than them (a detector wants sizes); `model` itself
            if None.

    Raises:
        ValueError: The model contains no TransNeXt, its blocks are compiled or replaced or run more than once for an
            image, or `images` is not a batch.
    """
    net = find_network(model)
    _check_batch(images)
    with torch.no_grad(), evaluating(model), _keeping(net) as kept:
        output = (run or model)(images)
    missing = sum(_depths(net)) - len(kept)
    if missing:
        raise ValueError(f"{missing} blocks did not run: give the model as it was before torch.compile, and all of it")
    return Looked(net, (images.shape[2], images.shape[3]), output, kept)


def attention_from(
    model: nn.Module,
    images: Tensor,
    position: tuple[float, float] = (0.5, 0.5),
    stage: int | None = None,
    block: int = -1,
) -> Tensor:
    """Attention of one query to all pixels of its feature map, mean over heads.

    The softmax weight of a neighbour lies on its pixel; the weight of a pooled key is spread evenly over the pixels it
    was pooled from. The query-learnable-value term, which comes after the softmax, is no part of it. `look` says more,
    and of many queries with one forward pass.

    Args:
        model: A TransNeXt or a module that contains one. It is run in eval mode without gradients, and left as it was.
        images: Normalised images, `[B, 3, H, W]`, of the device and dtype of the model.
        position: Row and column of the query as fractions of the image, 0..1. The feature-map pixel nearest to it is
            the query.
        stage: Index of the stage; the last with aggregated attention if None.
        block: Index of the block within the stage.

    Returns:
        `[B, h, w]`, float32 (float64 for a float64 model), non-negative; each map sums to 1.

    Raises:
        ValueError: The model has no such stage or block with aggregated attention, `position` lies outside the image,
            or `images` is not a batch.
    """
    return _attention_from(model, images, position, stage, block)[0]


def where_it_looks(
    model: nn.Module,
    images: Tensor,
    position: tuple[float, float] = (0.5, 0.5),
    stage: int | None = None,
    block: int = -1,
) -> Tensor:
    """The map of `attention_from` at the size of the images, for display.

    Args:
        model: As in `attention_from`.
        images: As in `attention_from`.
        position: As in `attention_from`.
        stage: As in `attention_from`.
        block: As in `attention_from`.

    Returns:
        `[B, H, W]`, each map divided by its maximum: 0..1, where 1 is what the query attends to most. The feature map
        is resized bilinearly, each of its pixels standing where the receptive field of its patch is centred.

    Raises:
        ValueError: As in `attention_from`.
    """
    attention, stride = _attention_from(model, images, position, stage, block)
    heat = on_image(attention, stride, (images.shape[2], images.shape[3]))
    return heat / heat.amax(dim=(1, 2), keepdim=True)


def _attention_from(
    model: nn.Module, images: Tensor, position: tuple[float, float], stage: int | None, block: int
) -> tuple[Tensor, int]:
    """The maps `[B, h, w]`, and the stride of their stage."""
    net = find_network(model)
    stage = _aggregated_stage(net, stage)
    _check_batch(images)
    block = _found_block(stage, block, _depths(net)[stage])
    with torch.no_grad(), evaluating(net), _keeping(net, [(stage, block)]) as found:
        net.forward_intermediates(images, indices=[stage], stop_early=True, intermediates_only=True)
        kept = found[0]
        place = kept.place
        row, col = nearest(position, place.stride, (images.shape[2], images.shape[3]), place.grid)
        local, pooled = (part.mean(1)[:, 0] for part in kept.softmax(range(row, row + 1), range(col, col + 1)))
        return query_map(local, pooled.unflatten(-1, place.keys), row, col, place.grid), place.stride


def _check_batch(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[0] == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}: expected [B, 3, H, W] with at least one image")


def find_network(model: nn.Module) -> TransNeXt:
    """The TransNeXt in a model.

    Raises:
        ValueError: There is none.
    """
    for module in model.modules():
        if isinstance(module, TransNeXt):
            return module
    raise ValueError(f"{type(model).__name__} contains no TransNeXt: attention can be shown for TransNeXt models only")


def _depths(net: TransNeXt) -> list[int]:
    """Number of blocks in each stage."""
    return [len(stage.blocks) for stage in net.stages]  # type: ignore[arg-type]


def _aggregated_stage(net: TransNeXt, stage: int | None) -> int:
    """Index, from 0, of a stage with aggregated attention."""
    aggregated = [i for i, s in enumerate(net.stages) if any(isinstance(m, AggregatedAttention) for m in s.modules())]
    if not aggregated:
        raise ValueError("the model has no stage with aggregated attention")
    if stage is None:
        return aggregated[-1]
    index = stage + len(net.stages) if stage < 0 else stage
    if index not in aggregated:
        raise ValueError(f"stage {stage} has no aggregated attention: choose one of {', '.join(map(str, aggregated))}")
    return index


def _found(what: str, index: int, count: int) -> int:
    """An index from 0; negative ones are counted from the last."""
    if not -count <= index < count:
        raise ValueError(f"{what} is {index}: expected 0 to {count - 1}")
    return index % count


def _found_block(stage: int, block: int, depth: int) -> int:
    if not -depth <= block < depth:
        raise ValueError(f"block is {block}, but stage {stage} has {depth} blocks, counted from 0")
    return block % depth


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every module has its own mode again, also where they differed.

    Args:
        model: Any.
    """
    training = [(module, module.training) for module in model.modules()]
    if any(mode for _, mode in training):
        model.eval()  # not otherwise: it forgets the packed weights, which take as long to make as a small image
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


@contextmanager
def _keeping(net: TransNeXt, wanted: Collection[tuple[int, int]] | None = None) -> Iterator[list[Kept]]:
    """Keeps what blocks are given while the network runs, in order.

    The blocks are watched, not the mixers in them, so that they run on the kernels as they always do.

    Args:
        net: The network.
        wanted: Stage and block of each that is kept; None for all.
    """
    kept: list[Kept] = []

    def keep(stage: int, index: int, block: Block, args: tuple[Tensor, ...]) -> None:
        if any((k.place.stage, k.place.block) == (stage, index) for k in kept):
            raise ValueError("the model runs its blocks more than once for an image: look at one of its runs alone")
        kept.append(_kept(net, stage, index, block, args[0].detach()))

    handles = []
    try:
        for stage, part in enumerate(net.stages):
            for index, wrapped in enumerate(part.blocks):  # type: ignore[arg-type]
                if wanted is None or (stage, index) in wanted:
                    block = next((m for m in wrapped.modules() if isinstance(m, Block)), None)
                    if block is None:
                        raise ValueError(f"block {index} of stage {stage} was replaced by a {type(wrapped).__name__}")
                    handles.append(block.register_forward_pre_hook(partial(keep, stage, index)))
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _kept(net: TransNeXt, stage: int, index: int, block: Block, x: Tensor) -> Kept:
    mixers = (AggregatedAttention, GlobalCosineAttention)
    mixer = next((m for m in block.attn.modules() if isinstance(m, mixers)), None)
    if mixer is None:
        raise ValueError(f"the attention of block {index} of stage {stage} is a {type(block.attn).__name__}, not ours")
    grid = (x.shape[1], x.shape[2])
    place = BlockPlace(
        stage=stage,
        block=index,
        stride=net.feature_info[stage]["reduction"],
        heads=mixer.num_heads,
        window=mixer.window_size if isinstance(mixer, AggregatedAttention) else 0,
        grid=grid,
        pool=mixer.pool_size(grid) if isinstance(mixer, AggregatedAttention) else None,
    )
    return Kept(place, mixer, block.norm1, x)
