"""Mask R-CNN against the released code: outputs, and a training step with its gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.detection_golden import DetectionGolden, read_detection_golden
from tests.helpers.pasting import paste_masks
from transnext.data.instances import Instances
from transnext.tasks.detection.mask_rcnn.matching import IGNORED, NEGATIVE
from transnext.tasks.detection.mask_rcnn.model import MaskRCNN, mask_rcnn
from transnext.tasks.detection.mask_rcnn.official import args_of_released, from_released, to_released
from transnext.tasks.detection.mask_rcnn.roi_heads import mask_targets
from transnext.tasks.detection.net import Found

pytestmark = pytest.mark.usefixtures("one_thread")


def build(golden: DetectionGolden) -> MaskRCNN:
    config = golden.config["model_config"]
    anchors = config["rpn_head"]["anchor_generator"]
    assert anchors["ratios"] == [0.5, 1.0, 2.0]
    train, test = config["train_cfg"], config["test_cfg"]
    overrides: dict[str, Any] = {
        "anchor_scale": float(anchors["scales"][0]),
        "anchor_samples": train["rpn"]["sampler"]["num"],
        "roi_samples": train["rcnn"]["sampler"]["num"],
        "train_candidates": train["rpn_proposal"]["nms_pre"],
        "train_proposals": train["rpn_proposal"]["max_per_img"],
        "candidates": test["rpn"]["nms_pre"],
        "proposals": test["rpn"]["max_per_img"],
        "score_threshold": test["rcnn"]["score_thr"],
        "nms_threshold": test["rcnn"]["nms"]["iou_threshold"],
        "max_detections": test["rcnn"]["max_per_img"],
    }
    net = mask_rcnn(golden.backbone(), **args_of_released(golden.weights), **overrides)
    net.load_state_dict(from_released(golden.weights))
    return net


def test_outputs(mask_rcnn_file: Path) -> None:
    """Within the rounding of the released code's own float32: with the maps in float64 scores change by 2e-5."""
    golden = read_detection_golden(mask_rcnn_file)
    expected, noise = golden.tensors, golden.config["output_change_under_2e7_relative_noise"]
    net = build(golden).eval()
    x, size = expected["x"], torch.tensor([golden.config["case_settings"]["img_shape"]])
    with torch.no_grad():
        maps = net.maps(x)
        (proposals,) = net.rpn.proposals(net.rpn(maps), size.tolist(), net.sizes.candidates, net.sizes.proposals)
        logits, deltas = net.roi_heads.boxes(maps[:-1], [expected["proposals"]])
        (found,) = net.detect(x, size)
    for level, of_level in enumerate(maps):
        close(of_level, expected[f"fpn{level}"], max(1e-5, noise[f"fpn{level}"]))
    close(proposals.boxes, expected["proposals"], 1e-2)
    close(proposals.scores, expected["proposal_scores"], max(1e-5, noise["proposal_scores"]))
    close(logits, expected["roi_cls_logits"], max(1e-5, noise["roi_cls_logits"]))
    close(deltas.flatten(1), expected["roi_box_deltas"], max(1e-5, noise["roi_box_deltas"]))
    compare_found(golden, found, max(1e-5, noise["scores"]))


def test_heads_on_the_released_maps(mask_rcnn_file: Path) -> None:
    golden = read_detection_golden(mask_rcnn_file)
    net = build(golden).eval()
    maps = [golden.tensors[f"fpn{level}"] for level in range(len(net.rpn.strides))]
    net.maps = lambda _: maps  # type: ignore[method-assign]
    with torch.no_grad():
        (found,) = net.detect(golden.tensors["x"], torch.tensor([golden.config["case_settings"]["img_shape"]]))
    compare_found(golden, found, 1e-5)


def compare_found(golden: DetectionGolden, found: Found, tolerance: float) -> None:
    expected, case = golden.tensors, golden.config["case_settings"]
    assert torch.equal(found.labels, expected["labels"])
    close(found.scores, expected["scores"], tolerance)
    scale = torch.tensor(case["ori"]) / torch.tensor(case["img_shape"])
    boxes = found.boxes * scale.flip(0).repeat(2)
    close(boxes, expected["boxes"], 1e-2)
    assert found.masks is not None
    close(found.masks, expected["mask_prob28"], max(1e-5, 2 * tolerance))
    pasted = paste_masks(found.masks, boxes, tuple(case["ori"]))
    assert (pasted != expected["masks"].bool()).float().mean() <= 1e-3
    assert 0 < pasted.float().mean() < 1


def test_training_step(mask_rcnn_training_file: Path) -> None:
    golden = read_detection_golden(mask_rcnn_training_file)
    expected, sizes = golden.tensors, golden.config["case_settings"]["shapes"]
    net = build(golden).train()
    x = expected["x"].clone().requires_grad_()
    targets = [
        Instances(boxes=b, labels=n, masks=m)
        for b, n, m in zip(*(golden.of_images(f"gt_{part}") for part in ("boxes", "labels", "masks")), strict=True)
    ]
    seen = Seen(golden)
    maps = net.maps(x)

    said = net.rpn(maps)
    anchors = [net.rpn.targets(said, size, objects) for size, objects in zip(sizes, targets, strict=True)]
    for image, target in enumerate(anchors):
        assigned = torch.where(target.used, renamed(target.matched), torch.full_like(target.matched, -2))
        seen.compare(f"rpn_assign_{image}", assigned)
        seen.compare(f"rpn_box_targets_{image}", target.deltas)
    objectness, boxes = net.rpn.losses(said, anchors)
    seen.compare("loss.loss_rpn_cls", objectness)
    seen.compare("loss.loss_rpn_bbox", boxes)

    proposals = net.rpn.proposals(said, sizes, net.sizes.train_candidates, net.sizes.train_proposals)
    rois = [net.roi_heads.targets(p.boxes, objects) for p, objects in zip(proposals, targets, strict=True)]
    for image, (proposal, target) in enumerate(zip(proposals, rois, strict=True)):
        seen.compare(f"proposals_{image}", proposal.boxes)
        seen.compare(f"proposal_scores_{image}", proposal.scores)
        seen.compare(f"roi_assign_{image}", renamed(target.matched))
        seen.compare(f"roi_rows_{image}", target.rows)
    seen.compare("roi_labels", torch.cat([target.labels for target in rois]))
    seen.compare("roi_box_targets", torch.cat([target.deltas for target in rois]))
    wanted = [
        mask_targets(target.boxes[: len(target.objects)], target.objects, objects)
        for target, objects in zip(rois, targets, strict=True)
    ]
    seen.compare("mask_targets", torch.cat(wanted).to(torch.uint8))
    logits, deltas = net.roi_heads.boxes(maps[:-1], [target.boxes for target in rois])
    seen.compare("roi_cls_logits", logits)
    seen.compare("roi_box_deltas", deltas.flatten(1))
    right = (logits.argmax(1) == torch.cat([target.labels for target in rois])).float().mean()
    seen.compare("value.acc", 100 * right[None])

    losses = net.losses(x, torch.tensor(sizes), targets)
    assert torch.equal(losses["proposal_objectness"], objectness.sum())
    assert torch.equal(losses["proposal_boxes"], boxes.sum())
    for ours, released in (("classes", "loss_cls"), ("boxes", "loss_bbox"), ("masks", "loss_mask")):
        seen.compare(f"loss.{released}", losses[ours][None])
    total = torch.stack(list(losses.values())).sum()
    seen.compare("loss_total", total[None])

    total.backward()
    seen.compare("g.x", x.grad)
    gradients = to_released({name: p.grad for name, p in net.named_parameters()})
    for key in golden.gradients:
        seen.compare(f"g.{key}", gradients[key])
    norms = golden.config["gradient_norms"]
    assert gradients.keys() == norms.keys()
    for key, norm in norms.items():
        # The bias of global attention's position bias cancels: its gradient is rounding alone.
        assert gradients[key].norm() == pytest.approx(norm, rel=7e-4, abs=1e-6), key
    assert seen.names == golden.config["tolerance"].keys()


def test_released_names_there_and_back(mask_rcnn_file: Path) -> None:
    weights = read_detection_golden(mask_rcnn_file).weights
    back = to_released(from_released(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], t) for key, t in weights.items())


class Seen:
    """Compares tensors with those of a file at its tolerances, and keeps which."""

    def __init__(self, golden: DetectionGolden) -> None:
        self.golden = golden
        self.names: set[str] = set()

    def compare(self, name: str, ours: Tensor) -> None:
        expected = self.golden.tensors[name]
        self.names.add(name)
        if name.startswith("g.") and name.endswith("_s2"):
            ours = ours[..., ::2, ::2]
        assert ours.shape == expected.shape, name
        if not expected.is_floating_point():
            assert torch.equal(ours.to(expected.dtype), expected), name
        else:
            close(ours.detach(), expected, self.golden.tolerance(name), name)


def renamed(matched: Tensor) -> Tensor:
    """Matches as the files write them: objects from 1, 0 for none, -1 for neither."""
    assert (NEGATIVE, IGNORED) == (-1, -2)
    return matched + 1


def close(ours: Tensor, expected: Tensor, tolerance: float, name: str = "") -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance, msg=lambda text: f"{name}: {text}")
