"""Batches of images: order and augmentation are a function of seed, epoch and image alone.

So they depend neither on the number of processes nor on that of workers, and training can go on at any batch.
"""

import ctypes
import itertools
import multiprocessing.queues
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torch.utils.data._utils import signal_handling

from transnext.data import Batch, LabelledImages, Sample, Skipped, collate
from transnext.engine.order import epoch_order
from transnext.engine.shard_order import StreamBatches, evaluation_batches, shards_of
from transnext.errors import one_line

SHARED_MEMORY = Path("/dev/shm")
"""Folder in which reading processes put batches, on Linux."""
_FIRST_WORDS_OF_DEATH = "DataLoader worker (pid"
_CANNOT_HAND_OVER = "while it handed over a batch"
_PREFETCHED = 2

Order = Callable[[int], tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]]
"""From the number of an epoch to its images and the seeds of their augmentation, for all processes together."""


Collate = Callable[[Sequence[Sample | Skipped]], Batch]
"""From images to a batch."""


class EpochLoader(Protocol):
    """The training batches of one process."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch, the same on every process."""

    @property
    def order_depends_on(self) -> str:
        """Numbers, in words, that beside the seed must stay for an epoch to be continued; "" for none."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without its first `start` ones.

        Raises:
            TimeoutError: A reading process hangs.
        """

    def close(self) -> None:
        """Ends the processes that read."""


class ImageLoader:
    """Batches of images that can be had by their number; see `train_loader`.

    Args:
        images: The training images with their random transform.
        batches: Which images are in the batches of an epoch.
        collate: Makes batches.
        workers: Processes that read images, by turns.
        timeout: Seconds after which a missing batch is an error; 0 to wait for ever.
        pin_memory: Put batches where a GPU can fetch them.
    """

    def __init__(
        self,
        images: LabelledImages,
        batches: "RankBatches | StreamBatches",
        *,
        collate: Collate = collate,
        workers: int = 0,
        timeout: float = 0,
        pin_memory: bool = False,
    ) -> None:
        self.images = images
        self.timeout = timeout
        self._batches = batches
        check_shared_memory(images, batches.batch_size, batches.per_epoch, workers)
        self._iterator: Iterator[Batch] | None = None
        self._loader = DataLoader(
            SeededImages(images),
            batch_sampler=self._batches,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            prefetch_factor=_PREFETCHED if workers else None,
            pin_memory=pin_memory,
            timeout=timeout if workers else 0,
            worker_init_fn=_init_worker,
            generator=torch.Generator(),  # a loader without one draws from the generator of the model's dropout
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch, the same on every process."""
        return self._batches.per_epoch

    @property
    def order_depends_on(self) -> str:
        """Numbers that beside the seed must stay for an epoch to be continued; see `EpochLoader`."""
        return self._batches.depends_on

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without its first `start` ones; see `EpochLoader`."""
        self._batches.epoch, self._batches.start = epoch, start
        batches = list(self._batches)
        self._iterator = iter(self._loader)
        return _watched(
            self._iterator, self.timeout, lambda k: [self.images.source.name(index) for index, _ in batches[k]]
        )

    def close(self) -> None:
        """Ends the processes that read."""
        if self._iterator is not None:
            _end_workers(self._iterator)


class RankBatches(Sampler[list[tuple[int, int]]]):
    """Pairs (image, seed of its augmentation) of the batches of one process, from `start` of `epoch` on.

    Batch `k` of process `r` of `W` are the images from place `(k W + r) batch_size` of the epoch's order on: so all
    processes together see the same images in an update, however many they are and however they cut it up.

    Args:
        order: The order of each epoch; its length must not change.
        batch_size: Images in a batch of one process.
        rank: Number of this process.
        world_size: Processes that train.
    """

    depends_on = ""

    def __init__(self, order: Order, batch_size: int, rank: int, world_size: int) -> None:
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.epoch = self.start = 0
        self.per_epoch = len(order(0)[0]) // (batch_size * world_size)

    def __len__(self) -> int:
        return self.per_epoch - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        indices, seeds = self.order(self.epoch)
        used = self.per_epoch * self.world_size * self.batch_size
        shape = (self.per_epoch, self.world_size, self.batch_size)
        mine = (values[:used].reshape(shape)[self.start :, self.rank].tolist() for values in (indices, seeds))
        return iter([list(zip(*pair, strict=True)) for pair in zip(*mine, strict=True)])


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
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Sample | Skipped]:
        """The images of a batch, each with its seed; a `DataLoader` asks for all of them at once."""
        # In the training process the generators belong to others: they are given back as they were.
        with nullcontext() if get_worker_info() is not None else _generators_kept():
            return [self._image(index, seed) for index, seed in keys]

    def _image(self, index: int, seed: int) -> Sample | Skipped:
        _seed_all(seed)
        return self.images[index]


@contextmanager
def _generators_kept() -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def train_loader(
    images: LabelledImages,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    timeout: float = 0,
    repeats: int = 1,
    balance: Callable[[], npt.NDArray[np.int64]] | None = None,
    draw_weights: Callable[[], npt.NDArray[np.float64]] | None = None,
    collate: Collate = collate,
    pin_memory: bool = False,
) -> EpochLoader:
    """The training batches of one process. What is left of an epoch that is less than a batch of all is left out.

    Args:
        images: The training images with their random transform.
        batch_size: Images in a batch of one process.
        seed: Decides order and augmentation.
        workers: Processes that read images.
        rank: Number of this process.
        world_size: Processes that train.
        timeout: Seconds after which a missing batch is an error; 0 to wait for ever.
        repeats: As in `epoch_order`.
        balance: Gives the group of each image, `[images]`, each of which is to be seen equally often; None for every
            image alike.
        draw_weights: Gives how often each image is drawn relative to the others, `[images]`; see `epoch_order`.
        collate: Makes batches.
        pin_memory: Put batches where a GPU can fetch them.

    Raises:
        ValueError: `balance` or `draw_weights` are asked for of shards, or both of them.
    """
    source = images.source
    shards = shards_of(source)
    batches: RankBatches | StreamBatches
    if shards is not None:
        if balance is not None:
            raise ValueError("balanced needs images that can be read in any order: unpack the shards to a folder")
        if draw_weights is not None:
            raise ValueError("to draw rare classes more often, unpack the shards to a folder")
        batches = StreamBatches(
            shards.block_ends, batch_size, seed, workers=workers, rank=rank, world_size=world_size, repeats=repeats
        )
        shards.kept_images = batches.kept_images
    else:
        n = len(source)
        labels = np.broadcast_to(np.int64(0), n) if balance is None else balance()
        weights = None if draw_weights is None else draw_weights()

        def order(epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
            return epoch_order(labels, seed, epoch, repeats=repeats, balanced=balance is not None, weights=weights)

        batches = RankBatches(order, batch_size, rank, world_size)
    return ImageLoader(images, batches, collate=collate, workers=workers, timeout=timeout, pin_memory=pin_memory)


class EvalLoader:
    """The images of one process for evaluation, as they lie in `batches`; see `eval_loader`.

    Args:
        images: The images with their deterministic transform.
        batches: Which images are in each batch.
        workers: Processes that read images, by turns.
        timeout: Seconds after which a missing batch is an error; 0 to wait for ever.
        collate: Makes batches.
    """

    def __init__(
        self,
        images: LabelledImages,
        batches: list[list[int]],
        workers: int,
        timeout: float,
        collate: Collate = collate,
    ) -> None:
        self.images = images
        self.batches = batches
        self.timeout = timeout
        check_shared_memory(images, max(map(len, batches), default=0), len(batches), workers)
        self._loader = DataLoader(
            images,
            batch_sampler=batches,
            num_workers=workers,
            prefetch_factor=_PREFETCHED if workers else None,
            collate_fn=collate,
            timeout=timeout if workers else 0,
            worker_init_fn=_init_worker,
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        iterator: Iterator[Batch] = iter(self._loader)
        try:
            yield from _watched(iterator, self.timeout, self._names)
        finally:
            _end_workers(iterator)

    def _names(self, batch: int) -> list[str]:
        return [self.images.source.name(index) for index in self.batches[batch]]


def eval_loader(
    images: LabelledImages,
    batch_size: int,
    workers: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    timeout: float = 0,
    collate: Collate = collate,
) -> EvalLoader:
    """Batches that hold every image once, over all processes together, each of images of one canvas.

    They are in order within each canvas, but for shards each worker reads its own part.

    Args:
        images: The images with their deterministic transform.
        batch_size: Images in a batch.
        workers: Processes that read images.
        rank: Number of this process.
        world_size: Processes that evaluate.
        timeout: Seconds after which a missing batch is an error; 0 to wait for ever.
        collate: Makes batches.
    """
    batch_size = min(batch_size, images.at_once or batch_size)
    if shards_of(images.source) is not None:
        batches = evaluation_batches(len(images), batch_size, workers, rank, world_size)
    else:
        on_canvas: dict[tuple[int, int] | None, list[int]] = {}
        for index in range(rank, len(images), world_size):
            on_canvas.setdefault(images.canvas(index), []).append(index)
        batches = [alike[i : i + batch_size] for alike in on_canvas.values() for i in range(0, len(alike), batch_size)]
    return EvalLoader(images, batches, workers, timeout, collate)


def _watched(batches: Iterator[Batch], timeout: float, names: Callable[[int], Sequence[str]]) -> Iterator[Batch]:
    """The same batches, with a line that says what was being read when a worker hangs, or that one died."""
    for k in itertools.count():
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            full = _CANNOT_HAND_OVER in str(error)
            died = full or _FIRST_WORDS_OF_DEATH in str(error) or _has_dead_worker(batches)
            if not died and "DataLoader timed out" not in str(error):
                raise
            _end_workers(batches, hung=True)
            if died:
                raise _death(error) from None
            waited_for = names(k)
            raise TimeoutError(
                f"no batch for {timeout:g} s: a reading process hangs on one of {len(waited_for)} images from "
                f"{waited_for[0]} to {waited_for[-1]}; --worker-timeout sets how long to wait"
            ) from None
        yield batch


@contextmanager
def naming_dead_workers() -> Iterator[None]:
    """Says in one line that a reading process died, which PyTorch raises wherever the training process just is.

    Raises:
        ChildProcessError: Instead of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if _FIRST_WORDS_OF_DEATH not in str(error):
            raise
        raise _death(error) from None


def _death(error: Exception) -> ChildProcessError:
    reason = one_line(error)
    if "Bus error" in reason or "shared memory" in reason:
        return ChildProcessError(
            f"{SHARED_MEMORY} is full, in which reading processes hand over batches ({_free_bytes() / 1e6:.1f} MB are "
            "free now): make it larger (docker run --shm-size=8g), or use --workers 0"
        )
    return ChildProcessError(
        f"a reading process died ({reason}), as the system does to them when memory is short: use fewer --workers"
    )


def check_shared_memory(images: LabelledImages, batch_size: int, batches: int, workers: int) -> None:
    """Refuses reading processes that could not hand over their batches, for which they would be waited in vain.

    Args:
        images: What they read.
        batch_size: Images of a batch.
        batches: Batches in all.
        workers: Reading processes of this process; 0 to need nothing.

    Raises:
        OSError: There is too little shared memory.
    """
    if not workers or not batches or not SHARED_MEMORY.is_dir():
        return
    with _generators_kept():
        image = images.transform(Image.new("RGB", (32, 32)))
    # All that are read ahead, and the one that is being used.
    held = min(batches, _PREFETCHED * workers + 1) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed, free = held * batch_size * image.nbytes, _free_bytes()
    if free < needed:
        raise OSError(
            f"{SHARED_MEMORY} has {free / 1e6:.1f} MB free, and {workers} reading processes hand over batches of "
            f"{batch_size * image.nbytes / 1e6:.1f} MB in it, {held} at a time: make it larger (docker run "
            "--shm-size=8g), or use --workers 0, fewer --workers or a smaller batch"
        )


def _free_bytes() -> int:
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0


def _has_dead_worker(iterator: Any) -> bool:
    """True if an error comes from a worker that went away while it handed over a batch."""
    workers = getattr(iterator, "_workers", [])
    for worker in workers:
        worker.join(timeout=0.1)
    return any(worker.exitcode is not None for worker in workers)


def _end_workers(iterator: Any, hung: bool = False) -> None:
    """Ends the workers of a DataLoader's iterator: at once if they hang or one died, else after their image."""
    workers = getattr(iterator, "_workers", [])
    if not workers:
        return
    broken = hung or not all(worker.is_alive() for worker in workers)
    if broken and iterator._worker_pids_set:
        # PyTorch is told first, lest it raise that they died, and that wherever the training process just is.
        signal_handling._remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False
        for worker in workers:
            worker.kill()
    iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _init_worker(_: int) -> None:
    torch.set_num_threads(1)
    # PyTorch would print the error and send nothing, for which the training process waits.
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_the_reason  # type: ignore[attr-defined]
    # Signals to the whole group are for the training process, which first finishes its update.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_parent()
    sys.excepthook = _report_unless_parent_left


def _send_the_reason(queue: Any, error: Exception, message: tuple[int, object]) -> None:
    """Sends, in place of a batch that cannot be handed over, why."""
    queue.put((message[0], ExceptionWrapper(where=_CANNOT_HAND_OVER)))


def _die_with_parent() -> None:
    """A worker that hangs would otherwise outlive a training process that was killed, and hold its files."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _report_unless_parent_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Keeps quiet when the training process has stopped listening to a worker that was handing it a batch."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
