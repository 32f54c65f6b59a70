"""The page of a run folder."""

from collections.abc import Sequence

from transnext.atomic import write_atomically
from transnext.engine.run_folder import RunFolder
from transnext.report.page import build_report
from transnext.report.parts import Section
from transnext.tasks.task import Look, Result, Task


def write_run_report(
    folder: RunFolder,
    task: Task,
    look: Look,
    results: Sequence[Result],
    data: str | None = None,
    more: Sequence[Section] = (),
) -> None:
    """Writes `report.html` of a run.

    Args:
        folder: The run.
        task: What it was trained for.
        look: The weights that `results` come from, and images.
        results: What each split gave; may be empty.
        data: Where the images are, if not where they were in training.
        more: Sections beside those of the task.
    """
    config = folder.config(data)
    page = build_report(
        title=f"{config.model} on {data or folder.given('data')}",
        config={**config.options(), "parameters": sum(p.numel() for p in look.net.parameters())},
        history=folder.history(),
        results=results,
        facts=task.facts(),
        sections=[*task.sections(results, look), *more],
    )
    write_atomically(folder.report_file, page)
