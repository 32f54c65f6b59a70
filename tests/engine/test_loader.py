import itertools
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from transnext.config import TrainConfig
from transnext.data import Batch, LabelledImages, open_dataset, train_transform
from transnext.engine.loader import eval_loader, naming_dead_workers, train_loader
from transnext.tasks.classification.task import Classification

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def images() -> LabelledImages:
    transform = train_transform((3, 32, 32), MEAN, STD, "bicubic", auto_augment="rand-m9-mstd0.5-inc1")
    return LabelledImages(open_dataset("emoji")["both"], transform)


def epoch(number: int, start: int = 0, **options) -> list[Batch]:
    loader = train_loader(images(), **{"batch_size": 16, "seed": 3, **options})
    batches = list(loader.epoch(number, start))
    assert len(batches) == loader.batches_per_epoch - start
    loader.close()
    return batches


def joined(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([b.images for b in batches]), torch.cat([b.indices for b in batches])


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    first, order = joined(epoch(4))
    torch.rand(3)  # other users of the generators do not matter
    again, same_order = joined(epoch(4, workers=2))
    assert torch.equal(order, same_order)
    assert torch.equal(first, again)
    other, other_order = joined(epoch(5))
    assert not torch.equal(order, other_order)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_goes_on_anywhere(workers) -> None:
    loader = train_loader(images(), batch_size=16, seed=3, workers=workers)
    whole = list(loader.epoch(1))
    next(loader.epoch(0, 3))  # left unfinished, with batches under way
    for start in (5, len(whole) - 1, len(whole)):
        rest = list(loader.epoch(1, start))
        assert len(rest) == len(whole) - start
        assert all(torch.equal(a.images, b.images) for a, b in zip(whole[start:], rest, strict=True))
    loader.close()


def test_an_update_sees_the_same_images_however_it_is_cut_up() -> None:
    whole = [set(b.indices.tolist()) for b in epoch(2, batch_size=24)]
    halves = [epoch(2, batch_size=6, rank=rank, world_size=2) for rank in (0, 1)]
    assert len(halves[0]) == len(halves[1]) == 231 // 12
    for i, expected in enumerate(whole):
        parts = [set(halves[rank][2 * i + k].indices.tolist()) for rank, k in itertools.product((0, 1), (0, 1))]
        assert set().union(*parts) == expected
        assert sum(map(len, parts)) == 24


def test_reading_does_not_touch_the_generator_of_the_model() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    next(train_loader(images(), batch_size=8, seed=0).epoch(0))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("world_size", [1, 2, 3, 240])
def test_evaluation_sees_every_image_once(world_size) -> None:
    shards = [eval_loader(images(), 50, 0, rank=r, world_size=world_size) for r in range(world_size)]
    seen = [batch.indices for shard in shards for batch in shard]
    assert sorted(torch.cat(seen).tolist()) == list(range(231))


class Stuck:
    """Ten images, of which one is never read."""

    classes = ("a",)

    def __len__(self) -> int:
        return 10

    def load(self, index, min_side=None) -> Image.Image:
        while index == 7:
            time.sleep(60)
        return Image.new("RGB", (32, 32))

    def target(self, index) -> int:
        return 0

    def name(self, index) -> str:
        return f"picture {index}"


BALANCED = TrainConfig.of(data="photos", balanced=True)


class Unlabelled(Stuck):
    """Images whose labels must not be read."""

    def target(self, index) -> int:
        raise AssertionError("a label was read")


def test_labels_are_read_only_where_the_order_depends_on_them() -> None:
    images = LabelledImages(Unlabelled(), _tensor)
    loader = train_loader(images, batch_size=3, seed=0)
    labelled = train_loader(LabelledImages(Stuck(), _tensor), batch_size=3, seed=0)
    assert loader.batches_per_epoch == 3
    assert list(loader._batches) == list(labelled._batches)
    with pytest.raises(AssertionError, match="a label was read"):
        train_loader(images, batch_size=3, seed=0, balance=Classification().balance(images.source, BALANCED))


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1)


def test_a_worker_that_hangs_is_named_and_ended() -> None:
    loader = eval_loader(LabelledImages(Stuck(), _tensor), 2, 1, timeout=1)
    batches = iter(loader)
    assert [next(batches).indices.tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    start = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"no batch for 1 s: .*from picture 6 to picture 7"):
        next(batches)
    assert time.perf_counter() - start < 30


def test_a_worker_that_dies_is_named() -> None:
    loader = train_loader(images(), batch_size=4, seed=0, workers=1)
    batches = loader.epoch(0)
    next(batches)
    expected = pytest.raises(ChildProcessError, match=r"a reading process died .*fewer --workers")
    with expected, naming_dead_workers():
        os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
        list(batches)
    loader.close()
