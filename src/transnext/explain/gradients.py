"""Explanations by gradients, of torchcam and captum, told the layer, the layout and the target.

Shape legend: `B` images, `H W` image.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, get_args

import torch
from torch import Tensor, nn

from transnext.choices import CamMethod
from transnext.explain.attention import evaluating, find_network
from transnext.explain.maps import on_image
from transnext.explain.targets import Target, likeliest, samples
from transnext.extras import require

_TORCHCAM = {"gradcam": "GradCAM", "gradcam++": "GradCAMpp", "xgradcam": "XGradCAM", "layercam": "LayerCAM"}
CAM_METHODS: tuple[CamMethod, ...] = get_args(CamMethod)
LEAST_SIDE = 7
"""Rows and columns of a map that shows where something is: at 224 pixels the last stage has as many, as usual. At 64 it
has 2, and what is said of them is less faithful than chance (docs/explain.md)."""
IMAGES_AT_ONCE = 8
"""On the way from a baseline."""


def class_activation(
    model: nn.Module,
    images: Tensor,
    targets: Target | Sequence[Target] | None = None,
    *,
    method: CamMethod = "gradcam",
    stage: int | None = None,
    run: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    """A class activation map, by torchcam, of the map that a stage gives.

    Args:
        model: A TransNeXt or a module that contains one. It is run in eval mode, and left as it was.
        images: Normalised images, `[B, 3, H, W]`, of the device and dtype of the model.
        targets: What is explained, for all images or one for each; the likeliest class of each if None.
        method: "gradcam", "gradcam++", "xgradcam" or "layercam".
        stage: Whose map, after its norm; the last of which it has `LEAST_SIDE` rows and columns if None.
        run: Calls the model with the images, where that takes more than them; `model` itself if None.

    Returns:
        `[B, H, W]`: 0 is least and 1 most, in each image, where the patches are. All 0 where nothing speaks for the
        target.

    Raises:
        ValueError: The extra `explain` is missing, or there is no such method, stage or target.
    """
    require("a class activation map", "torchcam", extra="explain")
    import torchcam.methods

    if method not in _TORCHCAM:
        raise ValueError(f"method is {method!r}: expected one of {', '.join(CAM_METHODS)}")
    net = find_network(model)
    size = (images.shape[2], images.shape[3])
    if stage is None:
        strides = [info["reduction"] for info in net.feature_info]
        stage = max((i for i, s in enumerate(strides) if min(size) > (LEAST_SIDE - 1) * s), default=0)
    if not -len(net.stages) <= stage < len(net.stages):
        raise ValueError(f"stage is {stage}: expected 0 to {len(net.stages) - 1}")
    extractor = getattr(torchcam.methods, _TORCHCAM[method])
    with ExitStack() as stack:
        for context in _with_gradients(model):
            stack.enter_context(context)
        # Maps are channels-last; torchcam wants channels first.
        cam = stack.enter_context(extractor(model, net.stages[stage], reshape_transform=lambda t: t.movedim(-1, 1)))
        output = (run or model)(_leaf(images))
        chosen = _chosen(targets, output, len(images))
        maps = cam(targets=list(chosen), scores=output)[0].detach()
    return on_image(maps, net.feature_info[stage]["reduction"], size)


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Target | Sequence[Target] | None = None,
    *,
    steps: int = 32,
    baseline: Tensor | None = None,
    run: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    """Integrated gradients (Sundararajan et al., 2017), by captum, of any model.

    Args:
        model: It is run in eval mode, and left as it was.
        images: As in `class_activation`.
        targets: As in `class_activation`.
        steps: Images on the way from the baseline.
        baseline: Where the way begins, `[1 or B, 3, H, W]`; 0, the mean colour, if None.
        run: As in `class_activation`, but called with one image at a time.

    Returns:
        `[B, H, W]`, the sum over channels, of any sign: the whole sum is the target's value less that of the baseline,
        up to the error of `steps`.

    Raises:
        ValueError: As in `class_activation`.
    """
    require("integrated gradients", "captum", extra="explain")
    from captum.attr import IntegratedGradients

    call, at_once = (model, IMAGES_AT_ONCE) if run is None else (run, 1)
    parts = []
    with ExitStack() as stack:
        for context in _with_gradients(model):
            stack.enter_context(context)
        for index in range(len(images)):
            image = _leaf(images[index : index + 1])
            if callable(targets) or targets is None:
                with torch.no_grad():
                    (target,) = _chosen(targets, call(image), 1)
            else:
                target = _chosen(targets, None, len(images))[index]
            of_target = IntegratedGradients(lambda x, t=target: torch.stack([t(one) for one in samples(call(x))]))
            start = None if baseline is None else baseline[index % len(baseline)][None]
            parts.append(of_target.attribute(image, start, n_steps=steps, internal_batch_size=at_once).detach().sum(1))
    return torch.cat(parts)


def _with_gradients(model: nn.Module) -> list[AbstractContextManager[Any]]:
    return [torch.inference_mode(False), torch.enable_grad(), evaluating(model)]


def _leaf(images: Tensor) -> Tensor:
    """The images with a gradient of their own, whatever the weights have."""
    return images.detach().clone().requires_grad_()


def _chosen(targets: Target | Sequence[Target] | None, output: Any, count: int) -> list[Target]:
    if targets is None:
        return likeliest(output)
    if callable(targets):
        return [targets] * count
    if len(targets) != count:
        raise ValueError(f"there are {len(targets)} targets for {count} images: give one for each, or one for all")
    return list(targets)
