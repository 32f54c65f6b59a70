"""Training recipes by name: the released configurations of the segmenters, and one for own maps.

The numbers of the released ones are those of the configurations in the released code.
"""

from collections.abc import Callable

from transnext.config import TrainConfig
from transnext.tasks.recipes import OWN_DATA, RELEASED
from transnext.tasks.segmentation.config import SegmentationConfig

SegmentationTraining = TrainConfig[SegmentationConfig]
Recipe = Callable[[str, str], SegmentationTraining]

_UPDATES = 160_000
_UPDATES_OF_EPOCH = 20_210 // 16
"""Updates in an epoch of ADE20K, 16 images at a time."""


def upernet_tiny_160k(data: str, output: str = "runs/upernet_tiny_160k") -> SegmentationTraining:
    """ADE20K, UPerNet, 160,000 updates; published: mIoU 51.1."""
    return _upernet(data, output, "transnext_tiny", drop_path=0.4)


def upernet_small_160k(data: str, output: str = "runs/upernet_small_160k") -> SegmentationTraining:
    """ADE20K, UPerNet, 160,000 updates; published: mIoU 52.2."""
    return _upernet(data, output, "transnext_small", drop_path=0.6)


def upernet_base_160k(data: str, output: str = "runs/upernet_base_160k") -> SegmentationTraining:
    """ADE20K, UPerNet, 160,000 updates; published: mIoU 53.0."""
    return _upernet(data, output, "transnext_base", drop_path=0.7)


def mask2former_tiny_160k(data: str, output: str = "runs/mask2former_tiny_160k") -> SegmentationTraining:
    """ADE20K, Mask2Former, 160,000 updates; published: mIoU 53.4."""
    return _mask2former(data, output, "transnext_tiny", drop_path=0.3)


def mask2former_small_160k(data: str, output: str = "runs/mask2former_small_160k") -> SegmentationTraining:
    """ADE20K, Mask2Former, 160,000 updates; published: mIoU 54.1."""
    return _mask2former(data, output, "transnext_small", drop_path=0.5)


def mask2former_base_160k(data: str, output: str = "runs/mask2former_base_160k") -> SegmentationTraining:
    """ADE20K, Mask2Former, 160,000 updates; published: mIoU 54.7."""
    return _mask2former(data, output, "transnext_base", drop_path=0.6)


def own_masks(data: str, output: str = "runs/own_masks") -> SegmentationTraining:
    """Your own maps of classes, from trained weights of the backbone.

    An average of the weights is what is judged and kept; training ends when validation stops improving.
    """
    return TrainConfig.of(
        task="segmentation",
        data=data,
        output=output,
        segmenter="upernet",
        loss="cross_entropy+dice",
        image_size=512,
        augment="light",
        epochs=80,
        patience=20,
        **OWN_DATA,
    )


def _upernet(data: str, output: str, model: str, drop_path: float) -> SegmentationTraining:
    """The released training, 2 images at a time on each of 8 GPUs, evaluated in windows."""
    return _ade20k(data, output, model, drop_path).but(
        segmenter="upernet",
        window=512,
        window_stride=341,
        lr=6e-5,
        poly_power=1.0,
        warmup_epochs=1500 / _UPDATES_OF_EPOCH,
        warmup_lr=6e-11,
        decay_biases=True,
        clip_grad=0.0,
    )


def _mask2former(data: str, output: str, model: str, drop_path: float) -> SegmentationTraining:
    """The released training, 2 images at a time on each of 8 GPUs."""
    return _ade20k(data, output, model, drop_path).but(
        segmenter="mask2former", lr=1e-4, backbone_lr=0.1, poly_power=0.9, warmup_epochs=0.0, clip_grad=0.01
    )


def _ade20k(data: str, output: str, model: str, drop_path: float) -> SegmentationTraining:
    return TrainConfig.of(
        task="segmentation",
        data=data,
        output=output,
        model=model,
        image_size=512,
        # The released runs end after a number of updates; the last epoch is made whole.
        epochs=-(-_UPDATES // _UPDATES_OF_EPOCH),
        micro_batch_size=2,
        schedule="poly",
        min_lr=0.0,
        drop_path=drop_path,
        **RELEASED,
    )


RECIPES: dict[str, Recipe] = {
    function.__name__: function
    for function in (
        upernet_tiny_160k,
        upernet_small_160k,
        upernet_base_160k,
        mask2former_tiny_160k,
        mask2former_small_160k,
        mask2former_base_160k,
        own_masks,
    )
}
"""The recipes by name."""
