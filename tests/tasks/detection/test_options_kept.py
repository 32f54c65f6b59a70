"""What every detector keeps when it is built again, and where its inputs may lie."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from transnext.config import TrainConfig
from transnext.models.backbone import Backbone
from transnext.models.checkpoint import save_checkpoint
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


def saved(folder: Path, detector: str, **head) -> str:
    """A checkpoint of a detector with random weights that knows the class "a"."""
    masks = DETECTORS[detector].masks
    backbone = Backbone("transnext_pico", strides_of(detector))
    net = build_net(detector, backbone, 1, size="small", masks=masks, **head)
    said = {
        "task": "detection",
        "architecture": "transnext_pico",
        "model_args": HEADS.model_args(net),
        "class_names": ["a"],
        "category_ids": [1],
        "with_masks": masks,
        "preprocessing": {},
    }
    save_checkpoint(folder / "best.safetensors", net.state_dict(), said)
    return str(folder / "best.safetensors")


def config_from(checkpoint: str, detector: str, **options) -> TrainConfig:
    options |= {"detector": detector, "model": "transnext_pico", "checkpoint": checkpoint}
    return TrainConfig.of(task="detection", data="", **options)


def test_queries_of_d_fine_follow_the_options_of_a_run_that_starts_from_another(tmp_path) -> None:
    config = config_from(saved(tmp_path, "d_fine", num_queries=30), "d_fine")
    kept, said = fresh_net(config, ["a"], False, most_objects=30)
    assert (kept.num_queries, len(said)) == (30, 1)
    more, said = fresh_net(config, ["a"], False, most_objects=250)
    assert more.num_queries == 300
    assert said[1:] == ["300 queries, not 30: an image has up to 250 objects."]
    weights = kept.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in more.state_dict().items())
    given, said = fresh_net(config.but(num_queries=200), ["a", "b"], False, most_objects=250)
    assert given.num_queries == 200
    assert "up to 250 objects, and 200 queries find no more" in said[1]
    assert HEADS.rebuilt("transnext_pico", HEADS.model_args(given)).num_queries == 200
    with torch.inference_mode():
        (found,) = more.eval()(torch.randn(1, 3, 192, 192), torch.tensor([[192, 192]]))
    assert len(found) > 250


@pytest.mark.parametrize("detector", ["dino", "mask2former"])
def test_learned_queries_are_those_of_the_network_that_a_run_starts_from(detector, tmp_path) -> None:
    config = config_from(saved(tmp_path, detector, num_queries=30), detector)
    masks = DETECTORS[detector].masks
    if detector == "dino":  # scales need not be said
        with pytest.raises(ValueError, match="has scales 4, and scales is 5: give --scales 4"):
            fresh_net(config.but(scales=5), ["a"], masks)
    net, said = fresh_net(config.but(num_queries=30), ["a"], masks, most_objects=30)
    assert (net.num_queries, len(said)) == (30, 1)
    net, said = fresh_net(config, ["a"], masks, most_objects=31)
    assert net.num_queries == 30
    assert said[1:] == ["An image has up to 31 objects, and 30 queries find no more than these."]
    with pytest.raises(ValueError, match="num_queries 30, and num_queries is 31: give --num-queries 30"):
        fresh_net(config.but(num_queries=31), ["a"], masks)
    with pytest.raises(ValueError, match="has head_size small, and head_size is released: give --head-size small"):
        fresh_net(config.but(head_size="released"), ["a"], masks)


@pytest.mark.parametrize("start", ["new", "checkpoint"])
def test_options_of_other_detectors_are_refused(start, tmp_path) -> None:
    checkpoint = saved(tmp_path, "mask_rcnn") if start == "checkpoint" else None
    config = TrainConfig.of(
        task="detection", data="", model="transnext_pico", detector="mask_rcnn", checkpoint=checkpoint
    )
    for option in ({"scales": 5}, {"num_queries": 9}):
        with pytest.raises(ValueError, match="leave"):
            fresh_net(config.but(**option), ["a"], False)
