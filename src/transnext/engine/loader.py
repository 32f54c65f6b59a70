"""Batches for training: their order and augmentation are a function of seed, epoch and image alone.

So they do not depend on the number of worker processes, and an epoch can be repeated exactly.
"""

import random
import signal
import sys
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from transnext.data import LabelledImages, Sample, Skipped, collate


class ShuffledEpochs(Sampler[tuple[int, int]]):
    """Pairs (image, seed of its augmentation) in an order that is new in each epoch.

    Args:
        num_images: Images in the data set.
        seed: Decides the order of every epoch.
    """

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images = num_images
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_images

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        seeds = rng.integers(2**32, size=self.num_images).tolist()
        return iter([(i, seeds[i]) for i in rng.permutation(self.num_images).tolist()])


class SeededImages(Dataset[Sample | Skipped]):
    """Images whose random transforms are decided by a seed given with the index.

    Args:
        images: The images with their random transform.
    """

    def __init__(self, images: LabelledImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Sample | Skipped:
        index, seed = key
        if get_worker_info() is not None:
            _seed_all(seed)
            return self.images[index]
        # In the training process the generators belong to the model's dropout: give them back as they were.
        python_state, numpy_state = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            _seed_all(seed)
            item = self.images[index]
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        return item


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def train_loader(images: LabelledImages, batch_size: int, seed: int, workers: int) -> "DataLoader[Sample | Skipped]":
    """Shuffled batches; `loader.sampler.set_epoch` chooses the epoch. A last batch that is not full is left out.

    Args:
        images: The training images with their random transform.
        batch_size: Images in a batch.
        seed: Decides order and augmentation.
        workers: Processes that read images.
    """
    dataset = SeededImages(images)
    return DataLoader(
        dataset,
        batch_size=min(batch_size, len(dataset)),
        sampler=ShuffledEpochs(len(dataset), seed),
        num_workers=workers,
        collate_fn=collate,
        drop_last=True,
        persistent_workers=workers > 0,
        worker_init_fn=_init_worker,
        generator=torch.Generator(),  # a loader without one draws from the generator of the model's dropout
    )


def eval_loader(images: LabelledImages, batch_size: int, workers: int) -> "DataLoader[Sample | Skipped]":
    """Batches in order, every image once.

    Args:
        images: The images with their deterministic transform.
        batch_size: Images in a batch.
        workers: Processes that read images.
    """
    return DataLoader(
        images,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_init_worker,
        generator=torch.Generator(),
    )


def _init_worker(_: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C is for the training process, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _report_unless_parent_left


def _report_unless_parent_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Keeps quiet when the training process has stopped listening to a worker that was handing it a batch."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
