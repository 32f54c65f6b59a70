"""What a segmenter is to the task: losses while it is trained, scores of every class at every place afterwards."""

from abc import abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from transnext.tasks.headed import HeadedNet

IGNORED = 255
"""Value of the pixels of a map that are neither trained on nor judged."""


class Told(NamedTuple):
    """What a network that tells segments says of a picture.

    Attributes:
        scores: float32 `[classes, h, w]`; see `SegmentationNet.scores`.
        logits: Of the classes of each query, the last of which is none: float32 `[Q, classes + 1]`.
        masks: Logits of the mask of each query, float32 `[Q, h, w]`, at any resolution that covers the canvas.
    """

    scores: Tensor
    logits: Tensor
    masks: Tensor


class SegmentationNet(HeadedNet):
    """A network that names the class of every pixel.

    Losses are means as the released training takes them: those of a batch, in which divisors are averaged over
    processes (`mean_over_processes`), so that the gradients of several processes average to those of one.

    Attributes:
        segmenter: Its name, a key of `nets.SEGMENTERS`.
        num_classes: Classes.
    """

    segmenter: str
    num_classes: int

    @abstractmethod
    def losses(self, images: Tensor, sizes: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """Losses of a batch, 0-d, weights applied, whose sum is minimised.

        Args:
            images: float32 `[B, 3, H, W]`, normalised, 0 beyond the size of each; sides are multiples of 32.
            sizes: int64 `[B, 2]`: rows and columns that are image.
            maps: `[B, H, W]`: the class of each pixel, uint8, `IGNORED` beyond the image and where it is not known;
                for networks that tell segments also maps of segments, int32 (`transnext.data.segmentation.maps`).
        """

    @abstractmethod
    def scores(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Scores of the classes over the canvas, larger ones likelier; see `losses`.

        Returns:
            float32 `[B, classes, h, w]` at any resolution that covers the canvas: logits, whose softmax is the
            probability, or for networks that add up masks, their sums.
        """

    def forward(self, images: Tensor, sizes: Tensor, maps: Tensor | None = None) -> Any:
        """`losses` if there are maps, else `scores`."""
        return self.scores(images, sizes) if maps is None else self.losses(images, sizes, maps)
