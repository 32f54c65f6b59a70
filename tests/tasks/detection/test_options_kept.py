"""What every detector keeps when it is built again, and where its inputs may lie."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from transnext.config import TrainConfig
from transnext.models.backbone import Backbone
from transnext.tasks.detection.dino.queries import Levels
from transnext.tasks.detection.nets import DETECTORS, build_net, strides_of
from transnext.tasks.detection.starting import HEADS, fresh_net

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_limit_of_detections_is_kept(detector) -> None:
    masks = DETECTORS[detector].masks
    net = build_net(detector, Backbone("resnet18", strides_of(detector)), 2, size="small", masks=masks)
    net.max_detections = 7
    again = HEADS.rebuilt("resnet18", HEADS.model_args(net))
    assert again.max_detections == 7
    with torch.inference_mode():
        found = again.eval()(torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]]))
    assert len(found[0]) <= 7


def test_sizes_of_images_may_lie_on_another_device(monkeypatch) -> None:
    net = build_net("dino", Backbone("resnet18", strides_of("dino")), 2, size="small").to("meta")
    devices = []

    def spied(shapes: Sequence[tuple[int, int]], sizes: Tensor, *_: object) -> Levels:
        devices.append(sizes.device.type)
        raise InterruptedError

    monkeypatch.setattr(Levels, "of", spied)
    with pytest.raises(InterruptedError):
        net.detect(torch.zeros(1, 3, 64, 96, device="meta"), torch.tensor([[64, 96]]))
    assert devices == ["meta"], "those of an evaluation on a GPU come from the CPU"


@pytest.mark.parametrize("detector", ["d_fine", "dino", "mask2former"])
def test_there_are_places_for_the_densest_image(detector) -> None:
    config = TrainConfig.of(task="detection", data="", model="transnext_pico", detector=detector)
    masks = detector == "mask2former"
    net, said = fresh_net(config, ["a"], masks, most_objects=151)
    assert net.num_queries == 200
    assert "200 queries, not 100: an image has up to 151 objects" in said[-1]
    assert fresh_net(config, ["a"], masks, most_objects=3)[0].num_queries == 100
    assert fresh_net(config.but(num_queries=7), ["a"], masks, most_objects=151)[0].num_queries == 7


def test_options_of_other_detectors_are_refused() -> None:
    config = TrainConfig.of(task="detection", data="", model="transnext_pico", detector="mask_rcnn")
    for option in ({"scales": 5}, {"num_queries": 9}):
        with pytest.raises(ValueError, match="leave"):
            fresh_net(config.but(**option), ["a"], False)
