"""D-FINE: sizes of images, batches, empty ones, its losses against transformers' and over processes, learning."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou
from transformers.loss.loss_d_fine import DFineForObjectDetectionLoss, DFineLoss
from transformers.models.d_fine.modeling_d_fine import DFineModel, DFineSinePositionEmbedding

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection import d_fine_losses as losses_module
from transnext.tasks.detection.d_fine import SIZES, DFine, d_fine, replace_classes
from transnext.tasks.detection.nets import build_net, strides_of

pytestmark = pytest.mark.usefixtures("one_thread")
STRIDES = (8, 16, 32)
NONE = Instances(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def build(num_classes: int = 3, **overrides) -> DFine:
    torch.manual_seed(0)
    return d_fine(Backbone("transnext_pico", STRIDES), num_classes, **overrides)


def shaken(net: DFine) -> DFine:
    """Weights at which every part matters: initial zeros and equal scores hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.requires_grad and "backbone" not in name:
                p += 0.05 * torch.randn(p.shape, generator=generator)
    return net


def still(net: DFine) -> DFine:
    """In training, with the statistics of batch norm as they are: they make images of a batch depend on one another."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return net


def images_of(*counts: int, height: int = 96, width: int = 160) -> tuple[Tensor, Tensor, list[Instances]]:
    """A batch with these numbers of objects."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(len(counts), 3, height, width, generator=generator)
    targets = []
    for count in counts:
        low = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        side = 6 + torch.rand(count, 2, generator=generator) * 30
        labels = torch.randint(0, 3, (count,), generator=generator)
        targets.append(Instances(boxes=torch.cat([low, low + side], 1), labels=labels))
    return x, torch.tensor([[height, width]] * len(counts)), targets


def gradients(net: DFine, total: Tensor) -> dict[str, Tensor | None]:
    net.zero_grad()
    total.backward()
    return {name: p.grad for name, p in net.named_parameters() if p.requires_grad}


# Detections


@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (32, 32), (64, 224), (90, 131)])
def test_canvases_of_any_size(height, width) -> None:
    net = shaken(build()).eval()
    x, sizes, targets = images_of(2, 1, height=height, width=width)
    with torch.no_grad():
        found = net.detect(x, sizes)
    for one in found:
        assert 0 < len(one) <= net.max_detections
        assert (one.scores[:-1] >= one.scores[1:]).all()
        assert one.boxes.min() >= 0
        assert (one.boxes <= torch.tensor([width, height, width, height])).all()
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
        assert set(one.labels.tolist()) <= {0, 1, 2}
    for batch in (slice(0, 2), slice(0, 1)):
        losses = net.train().losses(x[batch], sizes[batch], targets[batch])
        assert all(torch.isfinite(loss) and loss.ndim == 0 for loss in losses.values())


def test_what_one_size_leaves_behind_does_not_change_another(monkeypatch) -> None:
    """Anchors and position embeddings are kept by size, those of inference too."""
    net = shaken(build()).eval()
    tall, wide = images_of(1, 1, height=160, width=96)[0], images_of(1, 1)[0]
    with torch.inference_mode():
        used = [net.queries(x) for x in (wide, tall, wide)]
    with monkeypatch.context() as patch:
        for owner, name in [
            (DFineModel, "_cached_generate_anchors"),
            (DFineSinePositionEmbedding, "_cached_build_2d_sinusoidal_position_embedding"),
        ]:
            patch.setattr(owner, name, staticmethod(getattr(owner, name).__wrapped__))
        with torch.no_grad():
            fresh = [net.queries(x) for x in (wide, tall, wide)]
    for ours, theirs in zip(used, fresh, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    x, sizes, targets = images_of(1, 1)
    sum(net.train().losses(x, sizes, targets).values()).backward()


@pytest.mark.filterwarnings("ignore")
def test_a_graph_of_one_size_is_the_network() -> None:
    class Queries(nn.Module):
        def __init__(self, net: DFine) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return self.net.queries(images)

    torch.manual_seed(0)
    net = shaken(d_fine(Backbone("resnet18", STRIDES), 3)).eval()
    x = images_of(0, height=128, width=96)[0]
    with torch.no_grad():
        graph = torch.export.export(Queries(net), (x,)).module()
        for other in (x, x.flip(0, 2)):
            for ours, theirs in zip(graph(other), net.queries(other), strict=True):
                torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["transnext_pico", "resnet18"])
def test_a_batch_gives_what_each_image_gives_alone(name) -> None:
    torch.manual_seed(0)
    net = shaken(d_fine(Backbone(name, STRIDES), 3)).eval()
    x, _, _ = images_of(0, 0, 0)
    sizes = torch.tensor([[96, 160], [64, 97], [33, 120]])
    for image, (height, width) in zip(x, sizes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    with torch.no_grad():
        together = net.detect(x, sizes)
        for i, one in enumerate(together):
            (alone,) = net.detect(x[i : i + 1], sizes[i : i + 1])
            torch.testing.assert_close(one.scores, alone.scores, atol=1e-5, rtol=0)
            torch.testing.assert_close(one.boxes, alone.boxes, atol=1e-3, rtol=0)
            assert torch.equal(one.labels, alone.labels)
            height, width = sizes[i]
            assert (one.boxes <= torch.stack([width, height, width, height])).all()


def test_detections_are_the_best_pairs_of_query_and_class() -> None:
    net = shaken(build(num_queries=12)).eval()
    net.max_detections = 20
    x, sizes, _ = images_of(0)
    with torch.no_grad():
        logits, boxes = net.queries(x)
        (found,) = net.detect(x, sizes)
    pairs = [
        (float(score), label, query) for query, row in enumerate(logits[0].sigmoid()) for label, score in enumerate(row)
    ]
    expected = []
    for score, label, query in sorted(pairs, reverse=True)[:20]:
        x0, y0, x1, y1 = boxes[0, query].tolist()
        box = [max(x0, 0), max(y0, 0), min(x1, 160), min(y1, 96)]
        if box[2] > box[0] and box[3] > box[1]:
            expected.append((score, label, box))
    assert len(found) == len(expected)
    torch.testing.assert_close(found.scores, torch.tensor([score for score, _, _ in expected]))
    torch.testing.assert_close(found.boxes, torch.tensor([box for _, _, box in expected]))
    assert found.labels.tolist() == [label for _, label, _ in expected]


# Losses


@pytest.mark.parametrize("counts", [(3, 0), (0, 0), (0, 1), (120, 2)])
def test_every_parameter_has_a_gradient_with_or_without_objects(counts) -> None:
    net = shaken(build()).train()
    x, sizes, targets = images_of(*counts)
    losses = net.losses(x, sizes, targets)
    assert list(losses) == [*losses_module.TERMS, *(f"dn_{term}" for term in losses_module.TERMS)]
    assert all(torch.isfinite(loss) for loss in losses.values())
    found = gradients(net, sum(losses.values()))
    assert [name for name, grad in found.items() if grad is None] == []
    assert all(grad.isfinite().all() for grad in found.values())
    if counts != (0, 0):
        # A bias before batch norm and of keys has no effect, everything else has one.
        dead = [name for name, grad in found.items() if "head" in name and not grad.any() and "k_proj.bias" not in name]
        assert dead == []


def test_losses_can_be_asked_for_in_evaluation() -> None:
    net = shaken(build()).eval()
    x, sizes, targets = images_of(3, 0)
    with torch.no_grad():
        losses = net.losses(x, sizes, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["class"] > 0
    assert losses["dn_class"] == 0


def outputs_of(net: DFine, x: Tensor, targets: list[Instances]) -> tuple:
    captured = {}
    original = losses_module.d_fine_losses

    def keep(config, outputs, labels):
        captured.update(config=config, outputs=outputs, labels=labels)
        return original(config, outputs, labels)

    import transnext.tasks.detection.d_fine as module

    module.d_fine_losses = keep
    try:
        losses = net.losses(x, None, targets)
    finally:
        module.d_fine_losses = original
    return losses, captured["config"], captured["outputs"], captured["labels"]


def same(ours: torch.Tensor, theirs: torch.Tensor, out: object) -> None:
    """Values, and gradients of what the layers give."""
    torch.testing.assert_close(ours, theirs)
    places = [out.intermediate_logits, out.intermediate_reference_points, out.intermediate_predicted_corners]
    gradients = [torch.autograd.grad(x, places, retain_graph=True, allow_unused=True) for x in (ours, theirs)]
    assert any(gradient is not None for gradient in gradients[0])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_terms_are_those_of_transformers() -> None:
    """Every term that transformers takes of one layer alone, and the distillation, equals its own; gradients, too."""
    net = still(shaken(build(num_denoising=0)))
    x, _, targets = images_of(4, 0, 2)
    losses, config, out, labels = outputs_of(net, x, targets)
    _, theirs, _ = DFineForObjectDetectionLoss(
        out.intermediate_logits[:, -1],
        labels,
        x.device,
        out.intermediate_reference_points[:, -1],
        config,
        out.intermediate_logits,
        out.intermediate_reference_points,
        enc_topk_logits=out.enc_topk_logits,
        enc_topk_bboxes=out.enc_topk_bboxes,
        predicted_corners=out.intermediate_predicted_corners,
        initial_reference_points=out.initial_reference_points,
    )
    # Its places: no suffix for the last layer, _aux_0 for the boxes before refinement, _aux_1 for the first layer,
    # _aux_2 for the encoder's choice. The second layer is missing.
    criterion = DFineLoss(config)
    second = {
        "logits": out.intermediate_logits[:, 2],
        "pred_boxes": out.intermediate_reference_points[:, 2].clamp(0, 1),
    }
    match = criterion.matcher(second, labels)
    missing = criterion.loss_labels_vfl(second, labels, match, 6) | criterion.loss_boxes(second, labels, match, 6)
    for term, name in [("class", "loss_vfl"), ("box", "loss_bbox"), ("giou", "loss_giou")]:
        total = sum(theirs[name + place] for place in ("", "_aux_0", "_aux_1", "_aux_2"))
        same(losses[term], total + criterion.weight_dict[name] * missing[name], out)
    local = {"fgl": 0.0, "ddf": 0.0}
    for layer in range(3):
        level = {
            "logits": out.intermediate_logits[:, layer + 1],
            "pred_boxes": out.intermediate_reference_points[:, layer + 1].clamp(0, 1),
            "pred_corners": out.intermediate_predicted_corners[:, layer],
            "ref_points": out.initial_reference_points[:, layer],
            "teacher_corners": out.intermediate_predicted_corners[:, -1],
            "teacher_logits": out.intermediate_logits[:, -1],
        }
        for name, value in criterion.loss_local(level, labels, criterion.matcher(level, labels), 6).items():
            local[name.removeprefix("loss_")] += criterion.weight_dict[name] * value
    for term, value in local.items():
        assert value > 1e-3
        same(losses[term], value, out)


def test_denoising_is_not_seen_by_the_other_queries() -> None:
    x, _, targets = images_of(4, 1)
    with_noise, without = (still(shaken(build(num_denoising=number))) for number in (50, 0))
    without.load_state_dict({k: v for k, v in with_noise.state_dict().items() if "denoising" not in k})
    noisy, _, _, _ = outputs_of(with_noise, x, targets)
    plain, _, _, _ = outputs_of(without, x, targets)
    for term in losses_module.TERMS:
        torch.testing.assert_close(noisy[term], plain[term])
        assert noisy[f"dn_{term}"] > 0


def test_noise_comes_from_torchs_generator_alone() -> None:
    net = still(shaken(build()))
    x, sizes, targets = images_of(4, 1)
    seen = []
    for seed, others in [(1, 1), (1, 2), (2, 1)]:
        torch.manual_seed(seed)
        random.seed(others)
        np.random.seed(others)
        seen.append(net.losses(x, sizes, targets)["dn_class"].item())
    assert seen[0] == seen[1] != seen[2]


def test_lower_precision_keeps_losses_and_boxes_in_float32() -> None:
    net = still(shaken(build(num_denoising=0)))
    x, sizes, targets = images_of(4, 1)
    plain = net.losses(x, sizes, targets)
    with torch.autocast("cpu", torch.bfloat16):
        low = net.losses(x, sizes, targets)
        logits, boxes = net.queries(x)
    assert {loss.dtype for loss in low.values()} == {logits.dtype, boxes.dtype} == {torch.float32}
    assert sum(low.values()).item() == pytest.approx(sum(plain.values()).item(), rel=0.05)
    sum(low.values()).backward()
    # Anchors in bfloat16 would lie on a grid of whole pixels.
    assert (boxes != boxes.to(torch.bfloat16)).float().mean() > 0.9


def test_weights_that_are_not_finite_give_such_a_loss_and_no_error() -> None:
    net = build().train()
    with torch.no_grad():
        net.head.enc_score_head.weight.fill_(float("nan"))
        net.head.decoder.class_embed[0].weight.fill_(float("nan"))
    assert not torch.isfinite(sum(net.losses(*images_of(2, 1)).values()))


# Processes

CASES: list[tuple[tuple[int, ...], dict]] = [
    ((5, 1, 0, 2), {"num_denoising": 0}),
    ((1, 0, 0, 0), {"num_denoising": 0}),
    ((0, 0, 0, 0), {}),
    # Without noise, and with the most objects of an image the same, so that denoising is the same, too.
    ((3, 1, 2, 3), {"label_noise_ratio": 0.0, "box_noise_scale": 0.0}),
]


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images = slice(2 * rank, 2 * rank + 2)
    torch.save([part(counts, overrides, images) for counts, overrides in CASES], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def part(counts: tuple[int, ...], overrides: dict, images: slice) -> tuple[Tensor, dict[str, Tensor | None]]:
    net = still(shaken(build(**overrides)))
    x, sizes, targets = images_of(*counts)
    total = sum(net.losses(x[images], sizes[images], targets[images]).values())
    return total.detach(), gradients(net, total)


def test_two_processes_are_one(tmp_path) -> None:
    torch.multiprocessing.start_processes(process, (str(tmp_path),), nprocs=2, start_method="spawn")
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for (counts, overrides), first, second in zip(CASES, *halves, strict=True):
        loss, expected = part(counts, overrides, slice(None))
        torch.testing.assert_close((first[0] + second[0]) / 2, loss)
        largest = max(float(grad.abs().max()) for grad in expected.values())
        for name, grad in expected.items():
            mean = (first[1][name] + second[1][name]) / 2
            torch.testing.assert_close(
                mean,
                grad,
                rtol=1e-3,
                atol=1e-6 * largest,
                msg=lambda m, name=name, counts=counts: f"{counts} {name}: {m}",
            )


# Building


def test_presets_and_arguments() -> None:
    net = build(num_classes=4, num_queries=30, size="base")
    assert net.args() == {"max_detections": 300, "num_classes": 4, "size": "base", "num_queries": 30}
    again = build_net("d_fine", Backbone("transnext_pico", strides_of("d_fine")), **net.args())
    again.load_state_dict(net.state_dict())
    assert len(again.head.decoder.layers) == SIZES["base"]["decoder_layers"]
    small = build().head
    assert (small.config.d_model, len(small.decoder.layers), small.config.num_queries) == (128, 3, 100)
    pointers = [tensor.data_ptr() for tensor in net.state_dict().values()]
    assert len(set(pointers)) == len(pointers), "shared tensors cannot be saved"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"detector": "yolo"}, "no detector is called 'yolo': choose one of mask_rcnn, dino, d_fine"),
        ({"masks": True}, "d_fine tells no outlines: leave masks out, or choose mask_rcnn"),
        ({"scales": 4}, "d_fine with 4 scales: leave scales out"),
        ({"detector": "dino", "scales": 3}, "dino with 3 scales: it has 4 or 5"),
        ({"detector": "mask_rcnn"}, r"mask_rcnn needs maps of strides \(4, 8, 16, 32\)"),
        ({"size": "huge"}, "d_fine has no size 'huge': choose one of small, base"),
        ({"querys": 10}, "d_fine has no querys: there are d_model"),
        ({"num_classes": 0}, "num_classes is 0"),
    ],
)
def test_what_cannot_be_built_is_one_line(args, message) -> None:
    args = {"detector": "d_fine", "num_classes": 3, **args}
    with pytest.raises(ValueError, match=message) as caught:
        build_net(backbone=Backbone("transnext_pico", STRIDES), **args)
    assert "\n" not in str(caught.value)


def test_only_the_backbone_recomputes() -> None:
    x, sizes, targets = images_of(2, 1)
    found = []
    for enable in (False, True):
        net = still(shaken(build(num_denoising=0)))
        net.set_grad_checkpointing(enable)
        assert [stage.grad_checkpointing for stage in net.backbone.net.stages] == [enable] * 4
        found.append(gradients(net, sum(net.losses(x, sizes, targets).values())))
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name])


def test_other_classes_keep_what_has_the_same_name() -> None:
    net = shaken(build()).eval()
    x, sizes, targets = images_of(2, 1)
    with torch.no_grad():
        before, boxes = net.queries(x)
        noise = net.head.denoising_class_embed.weight.clone()
    kept = replace_classes(net, ["Cat", "dog", "bird"], ["fish", "BIRD", "cat", "cow"])
    assert kept == ["BIRD", "cat"]
    assert net.args()["num_classes"] == net.num_classes == 4
    embedding = net.head.denoising_class_embed
    assert torch.equal(embedding.weight[[1, 2, 4]], noise[[2, 0, 3]])
    assert embedding.padding_idx == 4
    # Scores of new classes are low at first, so the same queries are chosen where the old ones were the best.
    for head in (net.head.enc_score_head, *net.head.decoder.class_embed):
        with torch.no_grad():
            head.weight[[0, 3]] = 0
            head.bias[[0, 3]] = -100
        assert head.out_features == 4
    dropped = shaken(build()).eval()
    for head in (dropped.head.enc_score_head, *dropped.head.decoder.class_embed):
        with torch.no_grad():
            head.weight[1] = 0
            head.bias[1] = -100
    with torch.no_grad():
        after, new_boxes = net.queries(x)
        expected, expected_boxes = dropped.queries(x)
    torch.testing.assert_close(after[..., [1, 2]], expected[..., [2, 0]])
    torch.testing.assert_close(new_boxes, expected_boxes)
    assert before.shape[-1] == 3
    assert boxes.shape == new_boxes.shape
    found = gradients(
        net, sum(net.train().losses(x, sizes, [replace(t, labels=t.labels + 1) for t in targets]).values())
    )
    assert None not in found.values()
    with pytest.raises(ValueError, match="2 names for the 4 classes"):
        replace_classes(net, ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no new classes"):
        replace_classes(net, ["a", "b", "c", "d"], [])


# Learning


def coloured(number: int) -> tuple[Tensor, list[Instances]]:
    """Pictures of rectangles in three colours, which are their classes."""
    rng = np.random.default_rng(0)
    x, targets = torch.randn(number, 3, 96, 128) * 0.1, []
    for image in x:
        boxes, labels = [], []
        while len(boxes) < 3:
            width, height = rng.integers(20, 50, 2)
            left, top = rng.integers(0, 128 - width), rng.integers(0, 96 - height)
            box = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
            if boxes and box_iou(box, torch.cat(boxes)).max() > 0:
                continue
            label = int(rng.integers(0, 3))
            image[:, top : top + height, left : left + width] = -1
            image[label, top : top + height, left : left + width] = 2
            boxes.append(box)
            labels.append(label)
        targets.append(Instances(boxes=torch.cat(boxes), labels=torch.tensor(labels)))
    return x, targets


@pytest.mark.slow
def test_eight_images_are_learnt() -> None:
    torch.manual_seed(0)
    x, targets = coloured(8)
    sizes = torch.tensor([[96, 128]] * 8)
    backbone = Backbone("transnext_pico.emoji", STRIDES, pretrained=True)
    net = d_fine(backbone, 3, num_queries=30, num_denoising=30).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
    for step in range(45):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 5)
        optimizer.zero_grad()
        sum(net.losses(x, sizes, targets).values()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    found_of = wrong = total = 0
    with torch.no_grad():
        for found, target in zip(net.eval().detect(x, sizes), targets, strict=True):
            sure = found.scores > 0.5
            hit = (box_iou(target.boxes, found.boxes[sure]) > 0.5) & (target.labels[:, None] == found.labels[sure])
            found_of += int(hit.any(1).sum())
            wrong += int((~hit.any(0)).sum())
            total += len(target)
    assert found_of / total > 0.9
    assert wrong <= 2
