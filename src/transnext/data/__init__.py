"""Images in: files, image folders, the bundled set, transforms, and datasets that make batches of them."""

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
