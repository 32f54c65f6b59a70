"""Pictures with maps of classes: folders, ADE20K, Cityscapes and COCO in, checked, by split."""

from transnext.data.segmentation.checks import check_segmentation
from transnext.data.segmentation.findings import KINDS, MapReport, SplitSummary
from transnext.data.segmentation.maps import LabelMap
from transnext.data.segmentation.opening import open_checked, open_segmentation
from transnext.data.segmentation.source import MapSource, aligned
from transnext.data.segmentation.table import IGNORED, ClassTable

__all__ = [
    "IGNORED",
    "KINDS",
    "ClassTable",
    "LabelMap",
    "MapReport",
    "MapSource",
    "SplitSummary",
    "aligned",
    "check_segmentation",
    "open_checked",
    "open_segmentation",
]
