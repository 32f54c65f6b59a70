"""The loss of training a classifier: cross-entropy of images that are partly hidden and mixed."""

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from transnext.data import LabelledImages, Sample, Skipped, Source
from transnext.data.preprocessing import Preprocessing
from transnext.data.transforms import Transform
from transnext.tasks.classification.config import ClassificationConfig
from transnext.tasks.task import Losses, Objective

_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)
_ATTEMPTS = 10


class ErasedImages(LabelledImages):
    """Training images with what of them is to be hidden: it is a function of the image's seed alone, as all of them is.

    Targets are `(class, top, left, height, width, seed)`: a rectangle, pixels, and what the noise in it comes from.

    Args:
        source: The images.
        transform: As in `LabelledImages`.
        min_side: As in `LabelledImages`.
        erasing: Probability that a rectangle is hidden.
    """

    def __init__(self, source: Source, transform: Transform, min_side: int | None = None, erasing: float = 0.0) -> None:
        super().__init__(source, transform, min_side)
        self.erasing = erasing

    def __getitem__(self, index: int) -> Sample | Skipped:
        sample = super().__getitem__(index)
        if isinstance(sample, Skipped):
            return sample
        _, height, width = sample.image.shape
        hidden = (
            random_rectangle(height, width) if self.erasing > 0 and random.random() <= self.erasing else (0, 0, 0, 0)
        )
        return Sample(sample.image, (sample.target, *hidden, random.getrandbits(63)), sample.index)


def random_rectangle(height: int, width: int) -> tuple[int, int, int, int]:
    """A rectangle to hide, as (top, left, height, width); of no area if none is found.

    It has 2 % to a third of the area and a side of 0.3 to 3.3 times the other, as in timm (Zhong et al., "Random
    Erasing Data Augmentation", AAAI 2020).
    """
    for _ in range(_ATTEMPTS):
        area = random.uniform(*_ERASED_AREA) * height * width
        aspect = math.exp(random.uniform(*map(math.log, _ERASED_ASPECT)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    return 0, 0, 0, 0


def erase(images: Tensor, rectangles: Tensor) -> None:
    """Replaces a rectangle of each image by normal noise, in place.

    Args:
        images: float32 `[B, C, H, W]`, normalised.
        rectangles: int64 `[B, 5]`: top, left, height, width, seed; nothing is replaced where the height is 0.
    """
    for image, (top, left, height, width, seed) in zip(images, rectangles.tolist(), strict=True):
        if height:
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn((image.shape[0], height, width), generator=generator)
            image[:, top : top + height, left : left + width] = noise.to(image.device)


class ClassificationObjective(Objective):
    """Cross-entropy of images that are partly hidden and mixed.

    Args:
        net: Gives logits `[B, classes]`.
        preprocessing: What its images must look like.
        config: What is done to images and targets.
        num_classes: Classes.
        repeated: Whether neighbours in a batch may be one image, differently augmented.
    """

    def __init__(
        self,
        net: nn.Module,
        preprocessing: Preprocessing,
        config: ClassificationConfig,
        num_classes: int,
        repeated: bool = False,
    ) -> None:
        super().__init__(net)
        self.normalise = preprocessing.normalise()
        self.input_size = preprocessing.input_size
        self.label_smoothing = config.label_smoothing
        self.mix = make_mixer(config, num_classes, repeated)

    def forward(self, images: Tensor, sizes: Tensor, targets: Tensor) -> Losses:
        """See `Objective.forward`; targets are int64 `[B, 6]`, as `ErasedImages` gives them."""
        x = self.normalise(images)
        classes = targets[:, 0]
        erase(x, targets[:, 1:])
        x, mixed = self.mix(x, classes)
        logits = self.net(x)
        losses = F.cross_entropy(logits.float(), mixed, label_smoothing=self.label_smoothing, reduction="none")
        recognised = (logits.detach().argmax(-1) == classes).sum()
        weight = torch.tensor(float(len(images)), device=images.device)
        return Losses({"loss": losses.sum()}, weight, {"accuracy": recognised})

    def blank(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """See `Objective.blank`."""
        images = torch.zeros(1, *self.input_size, dtype=torch.uint8, device=device)
        sizes = torch.tensor([self.input_size[1:]], device=device)
        return images, sizes, torch.zeros(1, 6, dtype=torch.int64, device=device)


def make_mixer(
    config: ClassificationConfig, num_classes: int, repeated: bool = False
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Mixes a batch: images `[B, C, H, W]` and classes `[B]` in, images and targets in the same order out.

    Targets are class probabilities `[B, classes]` where the batch was mixed, and classes `[B]` where not.
    """
    mixers: list[nn.Module] = []
    if config.mixup > 0:
        mixers.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
    if config.cutmix > 0:
        mixers.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
    if not mixers or config.mix_prob == 0 or num_classes < 2:
        return lambda images, targets: (images, targets)
    one_of = v2.RandomChoice(mixers)

    def mix(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if torch.rand(()) >= config.mix_prob:
            return images, targets
        if not repeated:
            mixed: tuple[Tensor, Tensor] = one_of(images, targets)
            return mixed
        # torchvision mixes each image with the one before it, with repeated augmentation often a copy of it.
        order = torch.randperm(len(images))
        mixed_images, mixed_targets = one_of(images[order], targets[order])
        back = order.argsort()
        return mixed_images[back], mixed_targets[back]

    return mix
