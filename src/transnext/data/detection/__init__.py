"""Images with annotated objects: COCO, YOLO and Pascal VOC in, checked, by split."""

from transnext.data.detection.checks import check_detection
from transnext.data.detection.findings import KINDS, DataReport, SplitSummary
from transnext.data.detection.opening import open_checked, open_detection
from transnext.data.detection.source import DetectionSource, aligned
from transnext.data.detection.writing import coco_document, write_coco
from transnext.data.findings import Finding

__all__ = [
    "KINDS",
    "DataReport",
    "DetectionSource",
    "Finding",
    "SplitSummary",
    "aligned",
    "check_detection",
    "coco_document",
    "open_checked",
    "open_detection",
    "write_coco",
]
