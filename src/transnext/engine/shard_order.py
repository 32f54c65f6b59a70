"""Batches of images that lie in shards, in an order in which neighbours are read together.

Reading shards is fast only if the images of a block (neighbours in a shard) are asked for soon after one another, by
the same worker. So the blocks of all shards are shuffled, every worker of every process gets an equal run of the
resulting sequence of images, and within its run an image is moved by at most `WINDOW` places at random. All this is a
function of seed, epoch and the numbers of processes, workers and images of a batch, and no image has to be read to know
it: so training can go on at any batch.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from transnext.data import AlignedImages, CachedImages, Source
from transnext.data.shards import ShardedImages

WINDOW = 2048
"""Places by which an image is moved at most; a worker holds about as many images, as they lie in shards."""


def shards_of(source: Source) -> ShardedImages | None:
    """The shards that a source reads, through a cache if it has one; None if it reads no shards."""
    while isinstance(source, (AlignedImages, CachedImages)):
        source = source.source
    return source if isinstance(source, ShardedImages) else None


class StreamBatches(Sampler[list[tuple[int, int]]]):
    """Pairs (image, seed of its augmentation) of the batches of one process, from `start` of `epoch` on.

    Every image is there at most once in an epoch, on all processes together; those that are left over when each process
    has its `per_epoch` batches are others in each epoch.

    Args:
        block_ends: Where each block ends in the sequence of images, `[blocks]`.
        batch_size: Images in a batch of one process.
        seed: Decides order and augmentation.
        workers: Processes that read for each process; they must take turns, as those of a `DataLoader` do.
        rank: Number of this process.
        world_size: Processes that train.
        repeats: As in `epoch_order`.
        window: As `WINDOW`.

    Attributes:
        epoch: The epoch that the next iteration gives.
        start: Batches of it that are left out.
        per_epoch: Batches of an epoch, the same on every process.
        depends_on: The numbers, beside the seed, that decide the order.
        kept_images: Images that a worker must keep so that it does not read a block twice, with few exceptions.
    """

    def __init__(
        self,
        block_ends: npt.NDArray[np.int64],
        batch_size: int,
        seed: int,
        *,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
        window: int = WINDOW,
    ) -> None:
        self.block_ends = block_ends
        self.batch_size = batch_size
        self.seed = seed
        self.workers = max(1, workers)
        self.rank = rank
        self.repeats = repeats
        self.window = window
        self.epoch = self.start = 0
        self.per_epoch = int(block_ends[-1]) // (batch_size * world_size)
        self.kept_images = window + 4 * int(np.diff(block_ends, prepend=0).max())
        self.depends_on = f"{world_size} processes with {self.workers} workers each and batches of {batch_size} images"

    def __len__(self) -> int:
        return self.per_epoch - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        images = self._shuffled_blocks(rng)
        seeds = rng.integers(2**32, size=(self.repeats, len(images)))
        runs = [self._run(images, worker) for worker in range(self.workers)]
        copies = [_copies(run) for run in runs] if self.repeats > 1 else [np.zeros_like(run) for run in runs]
        for k in range(self.start, self.per_epoch):
            part = slice((k // self.workers) * self.batch_size, (k // self.workers + 1) * self.batch_size)
            indices, copy = (each[k % self.workers][part] for each in (runs, copies))
            yield list(zip(indices.tolist(), seeds[copy, indices].tolist(), strict=True))

    def _shuffled_blocks(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """All images, block after block, the blocks in random order."""
        starts = np.concatenate([[0], self.block_ends[:-1]])
        order = rng.permutation(len(starts))
        return np.concatenate([np.arange(starts[i], self.block_ends[i]) for i in order])

    def _run(self, images: npt.NDArray[np.int64], worker: int) -> npt.NDArray[np.int64]:
        """The images that a worker of this process reads in the epoch, in order."""
        seen = [len(range(each, self.per_epoch, self.workers)) * self.batch_size for each in range(self.workers)]
        lengths = [-(-n // self.repeats) for n in seen]
        first = self.rank * sum(lengths) + sum(lengths[:worker])
        # With repeats each run is rounded up, so that a tiny set may end too early.
        run = images.take(range(first, first + lengths[worker]), mode="wrap")
        rng = np.random.default_rng((self.seed, self.epoch, self.rank, worker))
        moved = np.arange(len(run)) + self.window * rng.random(len(run))
        order = np.argsort(moved, kind="stable") if len(run) > self.window else rng.permutation(len(run))
        return np.repeat(run[order], self.repeats)[: seen[worker]]


def _copies(run: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number of times that each entry has been there right before."""
    places = np.arange(len(run))
    first = np.concatenate([[True], run[1:] != run[:-1]])[: len(run)]
    return places - np.maximum.accumulate(np.where(first, places, 0))


def evaluation_batches(num_images: int, batch_size: int, workers: int, rank: int, world_size: int) -> list[list[int]]:
    """The batches of one process such that all processes together see every image once.

    Each process reads neighbours, and so does each of its workers, which must take turns.

    Args:
        num_images: Images of the split.
        batch_size: Images in a batch; the last ones of a process may have fewer.
        workers: Processes that read for each process.
        rank: Number of this process.
        world_size: Processes that evaluate.
    """
    first, end = (num_images * r // world_size for r in (rank, rank + 1))
    batches = [list(range(i, min(i + batch_size, end))) for i in range(first, end, batch_size)]
    workers = max(1, workers)
    lengths = [len(range(worker, len(batches), workers)) for worker in range(workers)]
    starts = [sum(lengths[:worker]) for worker in range(workers)]
    return [batches[starts[k % workers] + k // workers] for k in range(len(batches))]
