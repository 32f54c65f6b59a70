import itertools
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from transnext.config import TrainConfig
from transnext.data import LabelledImages, cached, eval_transform, open_dataset, train_transform
from transnext.data.shards.tar import TarShard
from transnext.engine import train
from transnext.engine.loader import eval_loader, train_loader
from transnext.engine.shard_order import StreamBatches, evaluation_batches
from transnext.engine.update import Updater

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
TRANSFORM = train_transform((3, 16, 16), MEAN, STD, "bicubic", auto_augment="rand-m9-mstd0.5-inc1")
PARTS = [(ranks, workers) for ranks in (1, 2, 3) for workers in (0, 1, 2)]
"""Processes, and workers of each."""


def train_images(folder) -> LabelledImages:
    return LabelledImages(open_dataset(str(folder), 0.0)["train"], TRANSFORM)


def batches(sizes, *, epoch=0, start=0, **options):
    sampler = StreamBatches(np.cumsum(sizes), **{"batch_size": 4, "seed": 1, **options})
    sampler.epoch, sampler.start = epoch, start
    found = list(sampler)
    assert len(found) == len(sampler) == sampler.per_epoch - start
    return found


def all_ranks(sizes, world_size, **options):
    return [batches(sizes, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


# The order


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 4),
    workers=st.integers(0, 3),
    window=st.sampled_from([1, 5, 2048]),
)
def test_every_image_at_most_once_and_as_many_on_every_process(sizes, batch_size, world_size, workers, window):
    ranks = all_ranks(sizes, world_size, batch_size=batch_size, workers=workers, window=window)
    expected = sum(sizes) // (batch_size * world_size)
    assert [len(found) for found in ranks] == [expected] * world_size
    assert all(len(batch) == batch_size for found in ranks for batch in found)
    seen = [image for found in ranks for batch in found for image, _ in batch]
    assert len(set(seen)) == len(seen) == expected * batch_size * world_size
    assert set(seen) <= set(range(sum(sizes)))


def test_a_batch_of_each_image_leaves_none_out():
    for world_size, workers in PARTS:
        ranks = all_ranks([5, 1, 30, 24], world_size, workers=workers, batch_size=5)
        assert sorted(image for found in ranks for batch in found for image, _ in batch) == list(range(60))


@pytest.mark.parametrize("repeats", [1, 3])
def test_it_goes_on_at_any_batch(repeats):
    options = {"workers": 2, "rank": 1, "world_size": 2, "repeats": repeats, "window": 10}
    whole = batches([20, 30, 50], epoch=3, **options)
    assert len(whole) == 12
    for start in range(13):
        assert batches([20, 30, 50], epoch=3, start=start, **options) == whole[start:]


def test_seed_and_epoch_decide():
    first, seeds = zip(*itertools.chain(*batches([50, 50], epoch=1)), strict=True)
    assert batches([50, 50], epoch=1) == batches([50, 50], epoch=1)
    assert len(set(seeds)) == 100
    for other in ({"epoch": 2}, {"epoch": 1, "seed": 2}):
        order, other_seeds = zip(*itertools.chain(*batches([50, 50], **other)), strict=True)
        assert sorted(order) == sorted(first)
        assert order != first
        assert dict(zip(order, other_seeds, strict=True)) != dict(zip(first, seeds, strict=True))
    # The augmentation of an image is that of the epoch wherever it is read.
    expected = dict(zip(first, seeds, strict=True))
    for world_size, workers in PARTS:
        for found in all_ranks([50, 50], world_size, workers=workers, epoch=1):
            assert all(expected[image] == seed for image, seed in itertools.chain(*found))


def test_repeats():
    found = list(itertools.chain(*batches([60], repeats=3)))
    images = [image for image, _ in found]
    assert len(found) == 60
    assert len(set(images)) == 20
    assert images[::3] == images[1::3] == images[2::3]
    assert len(set(found)) == 60
    uneven = [image for image, _ in itertools.chain(*batches([61], repeats=4, workers=2, batch_size=3))]
    assert len(uneven) == 60
    assert max(np.bincount(uneven)) == 4
    assert len(batches([2], repeats=5, workers=3, batch_size=1)) == 2


def test_workers_read_their_own_blocks_and_mix_them():
    block, num_blocks, window = 10, 100, 50
    sizes = [block] * num_blocks
    for workers in (1, 2):
        found = batches(sizes, workers=workers, window=window, batch_size=10)
        runs = [list(itertools.chain(*found[worker::workers])) for worker in range(workers)]
        blocks_of = [[image // block for image, _ in run] for run in runs]
        shared = set(blocks_of[0]) & set(blocks_of[-1]) if workers == 2 else set()
        assert len(shared) <= 1
        for blocks in blocks_of:
            for each in set(blocks):
                places = np.flatnonzero(np.array(blocks) == each)
                assert places[-1] - places[0] <= 2 * window + block
            # A batch of ten images has them from several of the blocks that are read at that time.
            assert np.mean([len(set(blocks[i : i + 10])) for i in range(0, len(blocks), 10)]) > 4
    order = np.array([image for image, _ in itertools.chain(*batches(sizes, window=window))])
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.2  # blocks are shuffled as a whole, too


@settings(deadline=None, max_examples=100)
@given(n=st.integers(0, 60), batch_size=st.integers(1, 9), world_size=st.integers(1, 5), workers=st.integers(0, 3))
def test_evaluation_sees_every_image_once(n, batch_size, world_size, workers):
    ranks = [evaluation_batches(n, batch_size, workers, rank, world_size) for rank in range(world_size)]
    assert sorted(image for rank in ranks for batch in rank for image in batch) == list(range(n))
    assert all(0 < len(batch) <= batch_size for rank in ranks for batch in rank)


def test_evaluation_workers_read_neighbours():
    found = evaluation_batches(100, 10, 3, 0, 1)
    for worker in range(3):
        images = [image for batch in found[worker::3] for image in batch]
        assert images == list(range(images[0], images[0] + len(images)))


# The loader


def test_every_position_goes_on_as_if_nothing_had_happened(tar_folder):
    folder = tar_folder(train=[3, 0, 13, 1, 9])
    loader = train_loader(train_images(folder), batch_size=2, seed=5, workers=2)
    assert loader.batches_per_epoch == 13
    whole = list(loader.epoch(1))
    for start in (1, 4, 6, 12, 13):
        rest = list(loader.epoch(1, start))  # the workers keep what they read before
        assert len(rest) == 13 - start
        for a, b in zip(whole[start:], rest, strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.indices, b.indices)
            assert torch.equal(a.targets, b.targets)
    loader.close()
    fresh = train_loader(train_images(folder), batch_size=2, seed=5, workers=2)
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[7:], fresh.epoch(1, 7), strict=True))
    fresh.close()


def test_the_images_are_the_right_ones(tar_folder):
    folder = tar_folder(train=[3, 0, 13, 1, 9])
    source = open_dataset(str(folder), 0.0)["train"]
    plain = LabelledImages(source, eval_transform((3, 16, 16), MEAN, STD, "bicubic", 1.0))
    for world_size, workers in ((2, 0), (3, 1), (9, 2)):
        for rank in range(world_size):
            loader = train_loader(plain, batch_size=2, seed=0, workers=workers, rank=rank, world_size=world_size)
            (batch, *_) = loader.epoch(0)
            for image, target, index in zip(batch.images, batch.targets, batch.indices, strict=True):
                assert torch.equal(image, plain[int(index)].image)
                assert target == index % 3
            loader.close()


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 2), (3, 1)])
def test_evaluation(tar_folder, world_size, workers):
    source = open_dataset(str(tar_folder(train=[3], val=[5, 0, 70])))["val"]
    images = LabelledImages(source, eval_transform((3, 16, 16), MEAN, STD, "bicubic", 1.0))
    loaders = [eval_loader(images, 8, workers, rank=rank, world_size=world_size) for rank in range(world_size)]
    found = list(itertools.chain(*loaders))
    indices = torch.cat([batch.indices for batch in found])
    assert sorted(indices.tolist()) == list(range(75))
    assert torch.equal(torch.cat([batch.targets for batch in found]), indices % 3)


def test_a_block_is_read_once(tar_folder, monkeypatch):
    images = train_images(tar_folder(train=[200, 300]))
    read = []
    monkeypatch.setattr(
        TarShard,
        "read_block",
        lambda shard, block, real=TarShard.read_block: read.append((shard.url, block)) or real(shard, block),
    )
    loader = train_loader(images, batch_size=10, seed=0)
    list(loader.epoch(0))
    assert len(read) == len(set(read)) == 4 + 5


def test_what_the_order_depends_on(tar_folder):
    images = train_images(tar_folder(train=[9]))
    loader = train_loader(images, batch_size=2, seed=0, workers=2, rank=1, world_size=2)
    assert loader.order_depends_on == "2 processes with 2 workers each and batches of 2 images"


def test_balance_needs_a_folder(tar_folder, tmp_path):
    images = train_images(tar_folder(train=[9]))
    through_a_cache = LabelledImages(cached(images.source, tmp_path / "decoded"), TRANSFORM)
    for each in (images, through_a_cache):
        with pytest.raises(ValueError, match="balanced needs images that can be read in any order"):
            train_loader(each, batch_size=2, seed=0, balance=lambda: np.zeros(9, np.int64))


# Training


def stopped_in_update(number):
    """An `Updater` during whose update of this number, counted from 1, Ctrl-C is pressed."""
    numbers = itertools.count(1)
    original = Updater.__call__

    def call(self, *args):
        if next(numbers) == number:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args)

    return call


def test_a_run_on_shards_goes_on_inside_an_epoch(tar_folder, tmp_path, monkeypatch):
    config = TrainConfig.of(
        data=str(tar_folder(train=[5, 0, 9], val=[7])),
        model="transnext_pico",
        output=str(tmp_path / "whole"),
        epochs=2,
        batch_size=4,
        image_size=32,
        workers=2,
        device="cpu",
        tracker="none",
    )
    whole = train(config, quiet=True)
    assert [(result.split, result.num_images) for result in whole.results] == [("train", 14), ("val", 7)]
    config = config.but(output=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        patch.setattr(Updater, "__call__", stopped_in_update(5))  # the second of the second epoch's three
        assert train(config, quiet=True).interrupted
    with pytest.raises(ValueError, match=r"in the middle of an epoch with 1 processes with 2 workers"):
        train(config.but(workers=1), resume=True, quiet=True)
    resumed = train(config, resume=True, quiet=True)
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    losses = [[(row["train_loss"], row["val_loss"]) for row in result.history] for result in (whole, resumed)]
    assert losses[0] == losses[1]


def test_nothing_to_train_on(tar_folder, tmp_path):
    config = TrainConfig.of(data=f"{tar_folder(train=[4], val=[3])}/val-*.tar", output=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"has no images to train on, only those of val: "):
        train(config, quiet=True)
