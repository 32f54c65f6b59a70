"""Panoptic segments of a Mask2Former against a reference."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.tiny_mask2former import tiny_net
from transnext.tasks.segmentation.mask2former.panoptic import panoptic, segments_of_masks

pytestmark = pytest.mark.usefixtures("one_thread")


def reference_segments(
    masks: np.ndarray, scores: list[float], labels: list[int], fuse: set[int]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Ids, and id and label of each segment, one pixel after the other."""
    ids = np.zeros(masks.shape[1:], int)
    owner = np.zeros(masks.shape[1:], int)
    for y, x in np.ndindex(*ids.shape):
        owner[y, x] = max(range(len(scores)), key=lambda q: scores[q] * masks[q, y, x])
    segments: list[tuple[int, int]] = []
    for query, label in enumerate(labels):
        whole = [(y, x) for y, x in np.ndindex(*ids.shape) if masks[query, y, x] >= 0.5]
        own = [place for place in whole if owner[place] == query]
        if not own or (owner == query).sum() / len(whole) <= 0.8:
            continue
        known = [segment for segment, other in segments if other == label and label in fuse]
        number = known[0] if known else len(segments) + 1
        if not known:
            segments.append((number, label))
        for place in own:
            ids[place] = number
    return ids, segments


@pytest.mark.parametrize("seed", range(5))
def test_panoptic_segments_against_a_reference(seed: int) -> None:
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:20, :30]
    centres = generator.uniform((0, 0), (20, 30), (8, 2))
    distance = np.sqrt((y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2)
    masks = 1 / (1 + np.exp(distance - generator.uniform(3, 9, (8, 1, 1))))
    scores, labels = generator.uniform(0.5, 1, 8).round(3).tolist(), generator.integers(0, 3, 8).tolist()
    parts = [(slice(first, min(first + 7, 20)), torch.from_numpy(masks[:, first : first + 7])) for first in (0, 7, 14)]
    found = segments_of_masks(
        parts, (20, 30), torch.tensor(scores, dtype=torch.float64), torch.tensor(labels), fuse={1}
    )
    ids, segments = reference_segments(masks, scores, labels, {1})
    assert found.ids.dtype == torch.int32
    assert np.array_equal(found.ids.numpy(), ids)
    assert [(s.id, s.label) for s in found.segments] == segments
    assert all(s.fused == (s.label == 1) for s in found.segments)


def test_fused_segments_keep_ids_apart() -> None:
    """An object after the second area of a fused class must not get the id of one before it."""
    masks = torch.zeros(4, 4, 4)
    for query in range(4):
        masks[query, query] = 1
    found = segments_of_masks(
        [(slice(0, 4), masks)], (4, 4), torch.tensor([0.9, 0.8, 0.95, 0.7]), torch.tensor([0, 1, 0, 1]), fuse=(0,)
    )
    assert found.ids[:, 0].tolist() == [1, 2, 1, 3]
    assert [(s.id, s.label, s.fused) for s in found.segments] == [(1, 0, True), (2, 1, False), (3, 1, False)]
    assert found.segments[0].score == pytest.approx(0.95)


def test_panoptic_of_images() -> None:
    net = tiny_net().eval()
    images = torch.randn(2, 3, 64, 96)
    nn.init.zeros_(net.head.class_predictor.weight)
    with torch.no_grad():
        net.head.class_predictor.bias.copy_(torch.tensor([0.0, 9, 0, 0, 0, 0]))
    sizes = torch.tensor([[64, 96], [50, 70]])
    found = panoptic(net, images, sizes, fuse=range(5))
    assert [list(one.ids.shape) for one in found] == sizes.tolist()
    for one in found:
        assert {segment.label for segment in one.segments} <= {1}
        assert len(one.segments) <= 1
    with torch.no_grad():
        net.head.class_predictor.bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, 9]))
    assert all(not one.segments and not one.ids.any() for one in panoptic(net, images, sizes))
