"""What networks of all detectors give: numbers that are not finite are not passed over; there is room for objects."""

import pytest
import torch

from transnext.data.instances import Instances
from transnext.data.sample import Frame
from transnext.models.backbone import Backbone
from transnext.tasks.detection.answers import objects
from transnext.tasks.detection.nets import DETECTORS, build_net, strides_of

SIZES = torch.tensor([[64, 96]])


def small(detector: str):
    torch.manual_seed(0)
    masks = DETECTORS[detector].masks
    return build_net(detector, Backbone("resnet10t", strides_of(detector)), 3, size="small", masks=masks)


@pytest.mark.parametrize("where", ["backbone", "head"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_weights_that_are_not_usable_do_not_find_nothing(detector, where) -> None:
    net = small(detector).eval()
    last = [p for name, p in net.named_parameters() if name.startswith("backbone.") == (where == "backbone")]
    with torch.no_grad():
        for parameter in last[:1] if where == "backbone" else last:
            parameter.fill_(torch.nan)
    with torch.inference_mode():
        found = net(torch.randn(1, 3, 64, 96), SIZES)[0]
    frame = Frame(original=(64, 96), to_original=torch.eye(3, dtype=torch.float64)[:2])
    with pytest.raises(ValueError, match=r"what the model says of x.png is not finite: its weights are not usable"):
        objects(found, frame, "x.png", ["a", "b", "c"], canvas=(64, 96))


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_parameter_has_a_gradient_where_losses_are_not_finite(detector) -> None:
    """Other processes wait for the gradient of each."""
    net = small(detector).train()
    image = torch.randn(2, 3, 64, 96)
    image[0, 0, 0, 0] = torch.nan
    mask = torch.zeros(1, 64, 96, dtype=torch.uint8)
    mask[:, 4:40, 3:30] = 1
    one = Instances(
        boxes=torch.tensor([[3.0, 4, 30, 40]]),
        labels=torch.tensor([1]),
        masks=mask if DETECTORS[detector].masks else None,
    )
    total = sum(net(image, SIZES.expand(2, 2), [one, one]).values())
    assert not torch.isfinite(total)
    total.backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


def test_as_many_objects_are_found_as_may_be(monkeypatch) -> None:
    """Proposals do not end before the objects do: 400 places that the network is sure of are 400 objects."""
    net = small("mask_rcnn").eval()
    net.make_room(400)
    said_of = net.rpn.forward

    def sure_of_every_fourth(maps):
        said = said_of(maps)
        for deltas, anchors, logits in zip(said.deltas, said.anchors, said.logits, strict=True):
            deltas.zero_()
            deltas[..., 2:] = (8 / (anchors[:, 2:] - anchors[:, :2])).log()  # 8 pixels wide and high
            logits.fill_(-10)
        middle = (said.anchors[0][:, :2] + said.anchors[0][:, 2:]) / 2
        said.logits[0][:, (middle % 16 == 8).all(1)] = 5
        return said

    def all_of_one_class(maps, boxes):
        logits = torch.zeros(sum(map(len, boxes)), 4)
        logits[:, 0] = 5
        return logits, torch.zeros(len(logits), 3, 4)

    monkeypatch.setattr(net.rpn, "forward", sure_of_every_fourth)
    monkeypatch.setattr(net.roi_heads, "boxes", all_of_one_class)
    with torch.inference_mode():
        found = net(torch.zeros(1, 3, 320, 320), torch.tensor([[320, 320]]))[0]
    assert int((found.scores > 0.9).sum()) == 400
