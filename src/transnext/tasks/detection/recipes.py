"""Training recipes by name: the released configurations of the detectors, and one for own boxes.

The numbers of the released ones are those of the configurations in the released code.
"""

from collections.abc import Callable

from transnext.config import TrainConfig
from transnext.tasks.detection.config import DetectionConfig
from transnext.tasks.recipes import OWN_DATA, RELEASED

DetectionTraining = TrainConfig[DetectionConfig]
Recipe = Callable[[str, str], DetectionTraining]

_COCO_UPDATES = 118_287 // 16
"""Updates in an epoch of COCO, 16 images at a time; those without objects are trained on, too."""


def mask_rcnn_tiny_1x(data: str, output: str = "runs/mask_rcnn_tiny_1x") -> DetectionTraining:
    """COCO, Mask R-CNN, 12 epochs; published: box AP 49.9, mask AP 44.6."""
    return _mask_rcnn_1x(data, output, "transnext_tiny", drop_path=0.4)


def mask_rcnn_small_1x(data: str, output: str = "runs/mask_rcnn_small_1x") -> DetectionTraining:
    """COCO, Mask R-CNN, 12 epochs; published: box AP 51.1, mask AP 45.5."""
    return _mask_rcnn_1x(data, output, "transnext_small", drop_path=0.6)


def mask_rcnn_base_1x(data: str, output: str = "runs/mask_rcnn_base_1x") -> DetectionTraining:
    """COCO, Mask R-CNN, 12 epochs; published: box AP 51.7, mask AP 45.9."""
    return _mask_rcnn_1x(data, output, "transnext_base", drop_path=0.7).but(precision="fp16")


def dino_4scale_tiny_12e(data: str, output: str = "runs/dino_4scale_tiny_12e") -> DetectionTraining:
    """COCO, DINO with 4 scales, 12 epochs; published: box AP 55.1."""
    return _dino_12e(data, output, "transnext_tiny", scales=4, drop_path=0.3)


def dino_5scale_tiny_12e(data: str, output: str = "runs/dino_5scale_tiny_12e") -> DetectionTraining:
    """COCO, DINO with 5 scales, 12 epochs; published: box AP 55.7."""
    return _dino_12e(data, output, "transnext_tiny", scales=5, drop_path=0.3)


def dino_5scale_small_12e(data: str, output: str = "runs/dino_5scale_small_12e") -> DetectionTraining:
    """COCO, DINO with 5 scales, 12 epochs; published: box AP 56.6."""
    return _dino_12e(data, output, "transnext_small", scales=5, drop_path=0.5)


def dino_5scale_base_12e(data: str, output: str = "runs/dino_5scale_base_12e") -> DetectionTraining:
    """COCO, DINO with 5 scales, 12 epochs; published: box AP 57.1."""
    return _dino_12e(data, output, "transnext_base", scales=5, drop_path=0.6)


def own_boxes(data: str, output: str = "runs/own_boxes") -> DetectionTraining:
    """Your own boxes or outlines, from trained weights of the backbone.

    An average of the weights is what is judged and kept; training ends when validation stops improving.
    """
    return TrainConfig.of(
        task="detection",
        data=data,
        output=output,
        detector="mask_rcnn",
        image_size=640,
        augment="strong",
        epochs=60,
        patience=15,
        **OWN_DATA,
    )


def _mask_rcnn_1x(data: str, output: str, model: str, drop_path: float) -> DetectionTraining:
    """The released 12 epochs of 16 images an update, 2 at a time on each of 8 GPUs."""
    return _coco(data, output, model, drop_path).but(
        detector="mask_rcnn",
        masks=True,
        micro_batch_size=2,
        decay_biases=True,
        clip_grad=0.0,
        milestones=(8, 11),
        warmup_epochs=500 / _COCO_UPDATES,
        warmup_lr=1e-7,
    )


def _dino_12e(data: str, output: str, model: str, scales: int, drop_path: float) -> DetectionTraining:
    """The released 12 epochs of 16 images an update, 1 at a time and two times on each of 8 GPUs."""
    return _coco(data, output, model, drop_path).but(
        detector="dino",
        scales=scales,
        micro_batch_size=1,
        backbone_lr=0.1,
        clip_grad=0.1,
        milestones=(11,),
        warmup_epochs=0.0,
    )


def _coco(data: str, output: str, model: str, drop_path: float) -> DetectionTraining:
    return TrainConfig.of(
        task="detection",
        data=data,
        output=output,
        model=model,
        image_size=800,
        epochs=12,
        lr=1e-4,
        schedule="step",
        milestones=(11,),
        drop_path=drop_path,
        **RELEASED,
    )


RECIPES: dict[str, Recipe] = {
    function.__name__: function
    for function in (
        mask_rcnn_tiny_1x,
        mask_rcnn_small_1x,
        mask_rcnn_base_1x,
        dino_4scale_tiny_12e,
        dino_5scale_tiny_12e,
        dino_5scale_small_12e,
        dino_5scale_base_12e,
        own_boxes,
    )
}
"""The recipes by name."""
