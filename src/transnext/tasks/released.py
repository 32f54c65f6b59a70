"""The released detectors and segmenters: where their weights are, and how their files are known."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from transnext.models.checkpoint import download, read_tensors

ORGANISATION = "DaiShiResearch"
"""Owner of the repositories on the hub."""
PRETRAINED_SIDE = 224
"""Image side of the pre-training of their backbones, pixels."""
_SIZES = ("tiny", "small", "base")


class Released(NamedTuple):
    """A released network.

    Attributes:
        task: Name of its task.
        file: Name of the file in its repository.
    """

    task: str
    file: str


RELEASED = {
    **{
        f"maskrcnn-transnext-{size}-coco": Released("detection", f"mask_rcnn_transnext_{size}_fpn_1x_coco_in1k.pth")
        for size in _SIZES
    },
    "dino-4scale-transnext-tiny-coco": Released("detection", "dino_4scale_transnext_tiny_12e_in1k.pth"),
    **{
        f"dino-5scale-transnext-{size}-coco": Released("detection", f"dino_5scale_transnext_{size}_12e_in1k.pth")
        for size in _SIZES
    },
    **{
        f"{kind}-transnext-{size}-ade": Released(
            "segmentation", f"{kind}_transnext_{size}_512x512_160k_ade20k_in1k.pth"
        )
        for kind in ("upernet", "mask2former")
        for size in _SIZES
    },
}
"""The released networks by the names of their repositories."""


class _Kind(NamedTuple):
    task: str
    parameters: frozenset[str]


_KINDS = {
    "mask_rcnn": _Kind("detection", frozenset({"rpn_head.rpn_conv.weight"})),
    "dino": _Kind("detection", frozenset({"query_embedding.weight", "dn_query_generator.label_embedding.weight"})),
    "upernet": _Kind(
        "segmentation",
        frozenset(
            {
                "decode_head.conv_seg.weight",
                "decode_head.bottleneck.conv.weight",
                "decode_head.fpn_bottleneck.conv.weight",
            }
        ),
    ),
    "mask2former": _Kind(
        "segmentation",
        frozenset(
            {
                "decode_head.cls_embed.weight",
                "decode_head.query_feat.weight",
                "decode_head.pixel_decoder.mask_feature.weight",
            }
        ),
    ),
}
"""Parameters by which the released files of a kind of network are known."""


def is_released_name(name: str | Path, task: str | None = None) -> bool:
    """Tells if a name is that of a released network, perhaps of a certain task."""
    found = RELEASED.get(str(name))
    return found is not None and task in (None, found.task)


def fetched(name: str) -> Path:
    """The file of a released network, from the hub or its cache.

    Raises:
        ValueError: It is neither in the cache nor can it be had.
    """
    return download(f"{ORGANISATION}/{name}", RELEASED[name].file)


def kind_of_released(parameters: Collection[str]) -> str | None:
    """Name of the detector or segmenter whose released parameters these are; None if they are of none.

    Args:
        parameters: Names, perhaps with their tensors.
    """
    names = set(parameters)
    return next((kind for kind, known in _KINDS.items() if known.parameters <= names), None)


def task_of_released(parameters: Collection[str]) -> str | None:
    """Name of the task of released parameters; see `kind_of_released`."""
    kind = kind_of_released(parameters)
    return None if kind is None else _KINDS[kind].task


def task_of_file(path: str | Path) -> str | None:
    """Name of the task of a checkpoint with a head on a backbone, ours or released; None if it is another.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read.
    """
    tensors, metadata = read_tensors(path)
    said = metadata.get("task")
    tasks = {kind.task for kind in _KINDS.values()}
    return said if said in tasks else task_of_released(tensors)
