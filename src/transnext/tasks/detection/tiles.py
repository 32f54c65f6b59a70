"""Large pictures in overlapping tiles, each object once.

Two tiles that overlap see the same objects where they do, so what they found there is compared: boxes that agree on
what both tiles see are one object. supervision's `InferenceSlicer` compares whole boxes by one overlap instead, so that
a cut piece with the higher score outlives the object, and neighbours in one tile are taken for one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from transnext.limits import check_number
from transnext.tasks.detection.net import Found
from transnext.tasks.tiling import even_starts

AGREE = 0.5
"""Least intersection over union, within what both tiles see, of boxes that are one object."""
PART = 0.7
"""Least share of a cut box that lies in another if it is a part of that."""
_NEAR_EDGE = 0.01
"""A box that ends within this share of the tile's side from its edge, or within two pixels, may be cut there."""

Box = tuple[int, int, int, int]
_Boxes = npt.NDArray[np.float64]


def detect_in_tiles(
    ask: Callable[[list[Tensor]], list[Found]],
    picture: Tensor,
    tile: int,
    *,
    overlap: float = 0.2,
    batch_size: int = 8,
    threshold: float = 0.0,
    whole: bool = False,
) -> Found:
    """Objects of a large picture.

    Objects smaller than the overlap lie whole in a tile; of larger ones that are cut in all tiles, the parts are put
    together.

    Args:
        ask: Gives the objects of crops, uint8 `[3, h, w]`, in pixels of each crop; masks, if any, over boxes.
        picture: uint8 `[3, H, W]`.
        tile: Side of a tile, pixels; a smaller picture is one tile.
        overlap: Share of the tile, 0..0.9, that it has in common with the next, at least.
        batch_size: Crops that are asked about at once.
        threshold: Least score of what is compared and given, 0..1.
        whole: Also ask about the picture as a whole, for objects larger than the overlap.

    Returns:
        Objects in pixels of the picture, likeliest first; last those whose numbers are not finite, to be refused.

    Raises:
        ValueError: A number is out of range, or masks lie over the canvas.
    """
    check_number("tile", tile, 1)
    check_number("overlap", overlap, 0, 0.9)
    check_number("threshold", threshold, 0, 1)
    height, width = picture.shape[1:]
    shared = round(tile * overlap)
    places = [
        (x, y, min(x + tile, width), min(y + tile, height))
        for y in even_starts(height, tile, shared)
        for x in even_starts(width, tile, shared)
    ]
    found = [_moved(f, at, threshold) for f, at in _asked(ask, picture, places, batch_size)]
    if whole and len(places) > 1:
        everything = (0, 0, width, height)
        seen = _moved(ask([picture])[0], everything, threshold)
        # Smaller ones are seen better, and whole, in tiles.
        found.append(seen.take(~((seen.boxes[:, 2:] - seen.boxes[:, :2]).amax(1) <= shared)))
        places.append(everything)
    broken = [f.take(~_is_finite(f)) for f in found]
    finite = [f.take(_is_finite(f)) for f in found]
    merged = finite[0]
    if len(places) > 1:
        merged = _merged(finite, places, (height, width), max(2.0, tile * _NEAR_EDGE))
    return _end_to_end([merged, *(f for f in broken if len(f))])


def _is_finite(found: Found) -> Tensor:
    return found.scores.isfinite() & found.boxes.isfinite().all(1)


def _end_to_end(found: Sequence[Found]) -> Found:
    masks = [f.masks for f in found if f.masks is not None]
    return Found(
        boxes=torch.cat([f.boxes for f in found]),
        scores=torch.cat([f.scores for f in found]),
        labels=torch.cat([f.labels for f in found]),
        masks=torch.cat(masks) if masks else None,
    )


def _asked(
    ask: Callable[[list[Tensor]], list[Found]], picture: Tensor, places: Sequence[Box], batch_size: int
) -> Iterator[tuple[Found, Box]]:
    check_number("batch_size", batch_size, 1)
    for first in range(0, len(places), batch_size):
        part = places[first : first + batch_size]
        yield from zip(ask([picture[:, y0:y1, x0:x1].contiguous() for x0, y0, x1, y1 in part]), part, strict=True)


def _moved(found: Found, at: Box, threshold: float) -> Found:
    """Objects found in a crop, on the CPU, from its place in the picture."""
    if found.masks is not None and found.masks_of != "box":
        raise ValueError("tiles need a network whose masks lie over boxes")
    masks = None if found.masks is None else found.masks.cpu()
    boxes = found.boxes.float().cpu() + torch.tensor([at[0], at[1]] * 2, dtype=torch.float32)
    moved = Found(boxes=boxes, scores=found.scores.float().cpu(), labels=found.labels.cpu(), masks=masks)
    return moved.take(~(moved.scores < threshold))  # what is not finite stays


@dataclass(frozen=True)
class _Seen:
    """All that was found, in NumPy: `boxes` `[N, 4]`, `scores` `[N]`, `labels` `[N]`, `tiles` `[N]`, `cut` `[N]`."""

    boxes: _Boxes
    scores: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    cut: npt.NDArray[np.bool_]


def _merged(found: Sequence[Found], places: Sequence[Box], size: tuple[int, int], near: float) -> Found:
    """Each object once."""
    tiles = np.repeat(np.arange(len(found)), [len(f) for f in found])
    boxes = torch.cat([f.boxes for f in found]).double().numpy()
    edges = np.array(places, np.float64)[tiles]
    limits = np.array([0, 0, size[1], size[0]], np.float64)
    inner = edges != limits
    seen = _Seen(
        boxes=boxes,
        scores=torch.cat([f.scores for f in found]).double().numpy(),
        labels=torch.cat([f.labels for f in found]).numpy(),
        tiles=tiles,
        cut=(inner & (np.abs(boxes - edges) <= near)).any(1),
    )
    groups = _groups(seen, places)
    chosen, outlines = [], []
    for members in groups:
        whole = [m for m in members if not seen.cut[m]]
        best = max(whole or members, key=lambda m: seen.scores[m])
        box = boxes[best] if whole else np.concatenate([boxes[members, :2].min(0), boxes[members, 2:].max(0)])
        chosen.append(best)
        outlines.append((box, [best] if whole else members))
    united = np.array([box for box, _ in outlines]).reshape(-1, 4)
    kept = _not_parts(seen, groups, united, near)
    kept = kept[np.argsort(-seen.scores[chosen][kept], kind="stable")] if chosen else kept
    masks = None
    if found[0].masks is not None:
        all_masks = [mask for f in found for mask in (f.masks if f.masks is not None else ())]
        parts = [(united[k], [(boxes[m], all_masks[m]) for m in outlines[k][1]]) for k in kept]
        masks = torch.stack([_put_together(*part) for part in parts]) if parts else found[0].masks[:0]
    picked = torch.tensor([chosen[k] for k in kept], dtype=torch.int64)
    return Found(
        boxes=torch.from_numpy(united[kept]).float(),
        scores=torch.cat([f.scores for f in found])[picked],
        labels=torch.cat([f.labels for f in found])[picked],
        masks=masks,
    )


def _groups(seen: _Seen, places: Sequence[Box]) -> list[list[int]]:
    """Boxes that are one object, at most one of a tile.

    Pairs are taken from the surest on: a box of low score that happens to lie well does not take the place of the
    object's own.
    """
    pairs, worth = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    of_tile = [np.flatnonzero(seen.tiles == tile) for tile in range(len(places))]
    all_common = _intersection(np.array(places, np.float64), np.array(places, np.float64))
    for first, second in np.argwhere(np.triu(_areas(all_common) > 0, 1)):
        one, other = of_tile[first], of_tile[second]
        common = all_common[first, second][None]
        ours, theirs = (_intersection(seen.boxes[at], common)[:, 0] for at in (one, other))
        both = _areas(_intersection(ours, theirs))
        union = _areas(ours)[:, None] + _areas(theirs)[None] - both
        alike = both / np.maximum(union, 1e-9)
        alike[seen.labels[one][:, None] != seen.labels[other][None]] = 0
        rows, columns = np.nonzero(alike >= AGREE)
        pairs.append(np.stack([one[rows], other[columns]], 1))
        worth.append(alike[rows, columns] * np.minimum(seen.scores[one[rows]], seen.scores[other[columns]]))
    group = {i: [i] for i in range(len(seen.boxes))}
    order = np.argsort(-np.concatenate(worth), kind="stable")
    for one, other in np.concatenate(pairs)[order].tolist():
        into, gone = group[one], group[other]
        if into is not gone and not set(seen.tiles[into]) & set(seen.tiles[gone]):
            into.extend(gone)
            group.update(dict.fromkeys(gone, into))
    return [members for i, members in group.items() if members[0] == i]


def _not_parts(seen: _Seen, groups: Sequence[list[int]], united: _Boxes, near: float) -> npt.NDArray[np.int64]:
    """Places of the groups that are no mere part of another, seen from other tiles.

    A sliver of an object at the edge of a tile may be found so roughly that it agrees with nothing: it may reach out
    of the object by `near` pixels.
    """
    areas = _areas(united)
    around = united + near * np.array([-1, -1, 1, 1])
    labels = np.array([seen.labels[members[0]] for members in groups], np.int64)
    kept = np.ones(len(groups), bool)
    for k, members in enumerate(groups):
        if not seen.cut[members].all():
            continue
        inside = _areas(_intersection(united[k : k + 1], around)[0])
        larger = np.flatnonzero((labels == labels[k]) & (areas > areas[k]) & (inside >= PART * areas[k]))
        tiles = set(seen.tiles[members])
        kept[k] = all(tiles & set(seen.tiles[groups[other]]) for other in larger.tolist())
    return np.flatnonzero(kept)


def _put_together(box: _Boxes, parts: Sequence[tuple[_Boxes, Tensor]]) -> Tensor:
    """The mask over a box of the masks over its parts, at their resolution."""
    if len(parts) == 1:
        return parts[0][1]
    side = parts[0][1].shape
    put = torch.zeros(side)
    for part, mask in parts:
        rows, columns = (
            (
                box[axis]
                + (torch.arange(side[1 - axis]) + 0.5) / side[1 - axis] * (box[axis + 2] - box[axis])
                - part[axis]
            )
            / (part[axis + 2] - part[axis])
            * 2
            - 1
            for axis in (1, 0)
        )
        grid = torch.stack([columns[None].expand(side), rows[:, None].expand(side)], -1).float()
        within = ((grid >= -1) & (grid <= 1)).all(-1)
        sampled = F.grid_sample(mask[None, None].float(), grid[None], padding_mode="border", align_corners=False)
        put = torch.maximum(put, sampled[0, 0] * within)
    return put


def _intersection(a: _Boxes, b: _Boxes) -> _Boxes:
    """Of each box of `[n, 4]` with each of `[m, 4]`, `[n, m, 4]`; what is empty has no area."""
    return np.concatenate(
        [np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])], axis=2
    )


def _areas(boxes: _Boxes) -> npt.NDArray[np.float64]:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: npt.NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return areas
