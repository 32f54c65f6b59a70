"""Output of a training run on the terminal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from transnext.tasks.table import results_table
from transnext.tasks.task import Result


class Display:
    """A bar for each epoch on a terminal, and a line for each epoch everywhere.

    Args:
        console: Where to print.
        enabled: Print nothing if false.
    """

    def __init__(self, console: Console | None = None, enabled: bool = True) -> None:
        self.console = console or Console()
        self.enabled = enabled

    def line(self, text: str) -> None:
        """Prints a line."""
        if self.enabled:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def results(self, results: Sequence[Result], report: Path) -> None:
        """Prints what each split gave, and where the report is."""
        if self.enabled and results:
            self.console.print(results_table(results))
        self.line(f"Report: {report}")

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator["Bar"]:
        """A progress bar over `total` images that goes away when it is done."""
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not (self.enabled and self.console.is_terminal),
        )
        with progress:
            yield Bar(progress, title, total)


class Bar:
    """One progress bar.

    Args:
        progress: The display it belongs to.
        title: Text before it.
        total: Images that make it full.
    """

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self.progress = progress
        self.task = progress.add_task(title, total=total, figures="")

    def advance(self, images: int, figures: str = "") -> None:
        """Moves on by some images and shows figures beside the bar."""
        self.progress.update(self.task, advance=images, figures=figures)
