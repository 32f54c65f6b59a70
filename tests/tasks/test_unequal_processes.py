"""A process that could read its images and one that could read none train as one process does."""

import pytest
import torch
from torch import nn

from transnext.data.instances import InstanceBatch, Instances
from transnext.data.preprocessing import Preprocessing
from transnext.models.backbone import Backbone
from transnext.tasks.detection.nets import DETECTORS, build_net, strides_of
from transnext.tasks.detection.objective import DetectionObjective
from transnext.tasks.segmentation.nets import build_net as build_segmenter
from transnext.tasks.segmentation.objective import SegmentationObjective

KINDS = [*DETECTORS, "upernet"]


def objective_of(kind: str):
    """Without what is drawn or depends on the other images of a batch."""
    torch.manual_seed(0)
    backbone = Backbone("resnet10t", strides_of(kind) if kind in DETECTORS else (4, 8, 16, 32))
    preprocessing = Preprocessing.of_model(backbone.net).with_places("fit", (64, 64))
    if kind in DETECTORS:
        more = {"num_denoising": 0} if kind == "d_fine" else {}
        net = build_net(kind, backbone, 3, size="small", masks=DETECTORS[kind].masks, **more)
        objective = DetectionObjective(net, preprocessing)
    else:
        objective = SegmentationObjective(build_segmenter(kind, backbone, 3, size="small"), preprocessing)
    for module in objective.train().modules():
        if isinstance(module, nn.BatchNorm2d | nn.Dropout | nn.Dropout2d):
            module.eval()
    return objective


def batch_of(kind: str):
    torch.manual_seed(5)
    images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    sizes = torch.tensor([[64, 64]])
    if kind not in DETECTORS:
        return images, sizes, torch.randint(0, 3, (1, 64, 64), dtype=torch.uint8)
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, 4:40, 3:30] = 1
    one = Instances(
        boxes=torch.tensor([[3.0, 4, 30, 40]]), labels=torch.tensor([1]), masks=mask if DETECTORS[kind].masks else None
    )
    return images, sizes, InstanceBatch.of([one])


def gradients(kind: str, rank: int, several: bool) -> dict[str, torch.Tensor]:
    """As `Updater` takes them, of an update whose second image cannot be read."""
    objective = objective_of(kind)
    model = nn.parallel.DistributedDataParallel(objective) if several else objective
    readable = rank == 0
    batch = batch_of(kind) if readable else objective.blank(torch.device("cpu"))
    torch.manual_seed(7)
    losses = model(*batch)
    (torch.stack(list(losses.parts.values())).sum() * readable).backward()
    mean_to_sum = 2 if several else 1
    return {name: p.grad * mean_to_sum for name, p in objective.net.named_parameters() if p.grad is not None}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {kind: gradients(kind, rank, several=True) for kind in KINDS}
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.start_processes(process, (str(folder),), nprocs=2, start_method="spawn")
    return torch.load(folder / "found.pt")


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_without_images_changes_nothing(kind, of_two) -> None:
    expected = gradients(kind, 0, several=False)
    largest = max(float(grad.abs().max()) for grad in expected.values())
    assert of_two[kind].keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(of_two[kind][name], grad, rtol=1e-3, atol=1e-5 * largest, msg=name)


def test_a_batch_that_no_process_could_read_is_finite() -> None:
    """Divisors next to nothing, as if no other process had a batch."""
    from transnext.tasks import headed

    for kind in KINDS:
        objective = objective_of(kind)
        token = headed._counts.set(headed._NEXT_TO_NOTHING)
        try:
            losses = objective(*objective.blank(torch.device("cpu")))
        finally:
            headed._counts.reset(token)
        (torch.stack(list(losses.parts.values())).sum() * 0).backward()
        assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None), kind
