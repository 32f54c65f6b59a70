"""`transnext report RUN`."""

from typing import Annotated

import tyro
from rich.console import Console


def report(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    data: str | None = None,
    robustness: bool = False,
    scales: bool = False,
    batch_size: int | None = None,
    workers: int = 1,
    device: str = "auto",
) -> None:
    """Write the report of a run anew, on request with what takes longer to measure.

    Args:
        run: A run folder.
        data: Where its images are now, if they have been moved or are others; those that it was trained on by default.
        robustness: Also measure the accuracy on images corrupted in 15 ways at 5 severities.
        scales: Also measure accuracy and cost from 0.5 to 3 times the trained image size.
        batch_size: Images in a forward pass; by default as many as `eval` takes.
        workers: Processes that read images.
        device: auto, cpu, cuda or mps.
    """
    from transnext.studies.report import report as write_report  # imports matplotlib

    page = write_report(
        run,
        data=data,
        robustness=robustness,
        scales=scales,
        batch_size=batch_size,
        workers=workers,
        device=device,
        quiet=False,
    )
    Console(soft_wrap=True, highlight=False).print(f"Report: {page}", markup=False)
