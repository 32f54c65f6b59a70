"""Images with annotated objects: COCO, YOLO and Pascal VOC in, checked, by split; and composed ones."""

from transnext.data.detection.checks import check_detection
from transnext.data.detection.findings import KINDS, DataReport, SplitSummary
from transnext.data.detection.opening import NAMED_DETECTION_SETS, open_checked, open_detection
from transnext.data.detection.scenes import SceneImages, draw_scenes
from transnext.data.detection.source import DetectionSource, aligned
from transnext.data.detection.writing import coco_document, write_coco
from transnext.data.findings import Finding

__all__ = [
    "KINDS",
    "NAMED_DETECTION_SETS",
    "DataReport",
    "DetectionSource",
    "Finding",
    "SceneImages",
    "SplitSummary",
    "aligned",
    "check_detection",
    "coco_document",
    "draw_scenes",
    "open_checked",
    "open_detection",
    "write_coco",
]
