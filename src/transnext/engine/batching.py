"""Division of the images of an update among processes and forward passes."""

from dataclasses import dataclass

from transnext.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The division of a batch.

    Attributes:
        micro_batch_size: Images of one forward pass on one process.
        accumulation: Forward passes of one process in an update.
        processes: Processes that train.
    """

    micro_batch_size: int
    accumulation: int
    processes: int

    @property
    def batch_size(self) -> int:
        """Images of an update, over all processes."""
        return self.micro_batch_size * self.accumulation * self.processes


def divide_batch(config: TrainConfig, num_images: int, processes: int) -> Batching:
    """Divides `config.batch_size`, or as many images as there are if they are fewer.

    Args:
        config: The batch size and, if it is chosen, the micro-batch size.
        num_images: Images of an epoch.
        processes: Processes that train.

    Raises:
        ValueError: It cannot be divided evenly.
    """
    total, micro = config.batch_size, config.run.micro_batch_size
    step = (micro or 1) * processes
    if total > num_images:
        total = num_images // step * step
        if total == 0:
            raise ValueError(
                f"{num_images} training images are fewer than one for each of {processes} processes"
                if micro is None
                else f"{num_images} training images are fewer than micro_batch_size {micro} x {processes} processes"
            )
    if total % step:
        share = f"{processes} processes" if micro is None else f"micro_batch_size {micro} x {processes} processes"
        nearest = max(1, round(total / step)) * step
        raise ValueError(f"batch_size {total} cannot be divided among {share}: use for example {nearest}")
    micro = micro or total // processes
    return Batching(micro_batch_size=micro, accumulation=total // (micro * processes), processes=processes)
