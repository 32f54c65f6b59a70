"""Images in: files, image folders, the bundled set, transforms, and datasets that make batches of them."""

from typing import TYPE_CHECKING

from transnext.lazily import lazy_names

if TYPE_CHECKING:
    from transnext.data.datasets import NAMED_SETS, AlignedImages, open_dataset
    from transnext.data.decoded import CachedImages, cached
    from transnext.data.emoji import EmojiSet, load_emoji
    from transnext.data.folder import FolderIndex, image_folder_splits, scan_image_folder
    from transnext.data.image_files import list_images
    from transnext.data.images import MAX_PIXELS, UnreadableImage, image_extensions, read_image, to_rgb
    from transnext.data.sample import (
        Batch,
        Frame,
        ImageSource,
        LabelledImages,
        Sample,
        Skipped,
        Source,
        class_targets,
        collate,
    )
    from transnext.data.transforms import Normalise, eval_transform, min_side_for, train_transform

__all__ = [
    "MAX_PIXELS",
    "NAMED_SETS",
    "AlignedImages",
    "Batch",
    "CachedImages",
    "EmojiSet",
    "FolderIndex",
    "Frame",
    "ImageSource",
    "LabelledImages",
    "Normalise",
    "Sample",
    "Skipped",
    "Source",
    "UnreadableImage",
    "cached",
    "class_targets",
    "collate",
    "eval_transform",
    "image_extensions",
    "image_folder_splits",
    "list_images",
    "load_emoji",
    "min_side_for",
    "open_dataset",
    "read_image",
    "scan_image_folder",
    "to_rgb",
    "train_transform",
]

# A process that decodes images alone need not wait for PyTorch, nor hold it.
__getattr__ = lazy_names(
    "transnext.data",
    {
        "AlignedImages": "transnext.data.datasets",
        "Batch": "transnext.data.sample",
        "CachedImages": "transnext.data.decoded",
        "EmojiSet": "transnext.data.emoji",
        "FolderIndex": "transnext.data.folder",
        "Frame": "transnext.data.sample",
        "ImageSource": "transnext.data.sample",
        "LabelledImages": "transnext.data.sample",
        "MAX_PIXELS": "transnext.data.images",
        "NAMED_SETS": "transnext.data.datasets",
        "Normalise": "transnext.data.transforms",
        "Sample": "transnext.data.sample",
        "Skipped": "transnext.data.sample",
        "Source": "transnext.data.sample",
        "UnreadableImage": "transnext.data.images",
        "cached": "transnext.data.decoded",
        "class_targets": "transnext.data.sample",
        "collate": "transnext.data.sample",
        "eval_transform": "transnext.data.transforms",
        "image_extensions": "transnext.data.images",
        "image_folder_splits": "transnext.data.folder",
        "list_images": "transnext.data.image_files",
        "load_emoji": "transnext.data.emoji",
        "min_side_for": "transnext.data.transforms",
        "open_dataset": "transnext.data.datasets",
        "read_image": "transnext.data.images",
        "scan_image_folder": "transnext.data.folder",
        "to_rgb": "transnext.data.images",
        "train_transform": "transnext.data.transforms",
    },
)
