"""Arithmetic of boxes as DINO has them: centre and sides, as parts of an image, or their logits. All in float32."""

import torch
from torch import Tensor
from torchvision.ops import box_convert

_EPSILON = 1e-6


def inverse_sigmoid(values: Tensor, epsilon: float) -> Tensor:
    """Logits of numbers in 0..1, of which those nearer to an end than `epsilon` count as that far from it."""
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=epsilon) / (1 - values).clamp(min=epsilon))


def corners(boxes: Tensor) -> Tensor:
    """`[..., 4]` of centre x, y and sides w, h to x0, y0, x1, y1."""
    return box_convert(boxes, "cxcywh", "xyxy")


def centres(boxes: Tensor) -> Tensor:
    """`[..., 4]` of x0, y0, x1, y1 to centre x, y and sides w, h."""
    return box_convert(boxes, "xyxy", "cxcywh")


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap less the part of the hull that neither covers, -1..1 (Rezatofighi et al., CVPR 2019).

    Areas below 1e-6 count as that, so boxes are best given in pixels.

    Args:
        a: x0, y0, x1, y1, float32 `[..., 4]`.
        b: The same, of a shape that broadcasts with that of `a`.
    """
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b))
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (area_a + area_b - shared).clamp(min=_EPSILON)
    hull = hull.clamp(min=_EPSILON)
    return shared / union - (hull - union) / hull


def rows_at(values: Tensor, places: Tensor) -> Tensor:
    """Rows of each image, `[B, N, d]` at places `[B, K]` to `[B, K, d]`."""
    # Not take_along_dim, which exporters of ONNX do not know.
    return values.gather(1, places.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
