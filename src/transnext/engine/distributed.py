"""Messages between the processes of a run. With a single process nothing is sent."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch
import torch.distributed as distributed
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

T = TypeVar("T")


def restarts() -> int:
    """Times that torchrun has started this process again because one of its group died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def join_restarted_group(device: torch.device) -> None:
    """Lets processes that torchrun has started again find each other; does nothing in others.

    Torchrun hands them the store of those before them, in which they may find the addresses of the dead: here each
    attempt has names of its own.

    Args:
        device: On which they train.
    """
    if restarts() and int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        store, rank, world_size = next(distributed.rendezvous("env://"))
        distributed.init_process_group(
            distributed.get_default_backend_for_device(device),
            store=distributed.PrefixStore(f"attempt {restarts()}", store),
            rank=rank,
            world_size=world_size,
        )


def gather(value: T) -> list[T]:
    """The values of all processes, by their number."""
    values: list[T] = gather_object([value])
    return values


def on_main_process(function: Callable[[], T]) -> T:
    """Runs a function on the main process alone, and returns its result on every process.

    Raises:
        ValueError: As the function raised it, as are all its errors; the other processes then end with status 2.
    """
    result: list[object] = [None, None]
    error: Exception | None = None
    if PartialState().is_main_process:
        try:
            result = [function(), None]
        except Exception as raised:
            error, result = raised, [None, str(raised)]
    if PartialState().num_processes > 1:
        broadcast_object_list(result)
    if error is not None:
        raise error
    if result[1] is not None:
        sys.exit(2)
    return result[0]  # type: ignore[return-value]


def fail(error: Exception) -> NoReturn:
    """Raises an error that all processes met, on the main one; the others end with status 2."""
    if PartialState().is_main_process:
        raise error
    sys.exit(2)
