"""Values of Cityscapes' label files."""

from __future__ import annotations

from transnext.data.segmentation.table import ClassTable, Colour, value_table

CLASSES: tuple[tuple[int, str, Colour], ...] = (
    (7, "road", (128, 64, 128)), (8, "sidewalk", (244, 35, 232)), (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)), (13, "fence", (190, 153, 153)), (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)), (20, "traffic sign", (220, 220, 0)), (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)), (23, "sky", (70, 130, 180)), (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)), (26, "car", (0, 0, 142)), (27, "truck", (0, 0, 70)), (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)), (32, "motorcycle", (0, 0, 230)), (33, "bicycle", (119, 11, 32)),
)  # fmt: skip
"""Value in `*_labelIds.png`, name and colour of the classes that are trained on and judged."""
_IDS = range(34)


def cityscapes_table(train_ids: bool) -> ClassTable:
    """What label files mean.

    Args:
        train_ids: They are `*_labelTrainIds.png`, numbered 0 to 18, instead of `*_labelIds.png`.
    """
    ids = [value for value, _, _ in CLASSES]
    return value_table(
        [name for _, name, _ in CLASSES],
        values=None if train_ids else ids,
        ignored=() if train_ids else set(_IDS) - set(ids),
        display=[colour for _, _, colour in CLASSES],
    )
