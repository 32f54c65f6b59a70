"""The report of a finished run, made anew: its results measured again, with studies on request."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from transnext.atomic import check_writable, write_atomically
from transnext.data import Source
from transnext.data.fingerprint import DataFingerprint, fingerprint
from transnext.engine.evaluation import Evaluator, held_out_split
from transnext.engine.resume import saved_state
from transnext.engine.run_folder import RunFolder
from transnext.engine.run_report import write_run_report
from transnext.report.parts import Section
from transnext.studies.corruptions import (
    measure_robustness,
    robustness_as_dict,
    robustness_from_dict,
    robustness_section,
)
from transnext.studies.sizes import measure_scales, scales_as_dict, scales_from_dict, scales_section
from transnext.tasks.task import Look

T = TypeVar("T")

ROBUSTNESS_FILE, SCALES_FILE = "robustness.json", "scales.json"


def report(
    run: str | Path,
    *,
    data: str | None = None,
    robustness: bool = False,
    scales: bool = False,
    batch_size: int | None = None,
    workers: int = 1,
    device: str = "auto",
    quiet: bool = True,
) -> Path:
    """Evaluates the best weights of a run again and writes its report anew.

    What is measured on request takes minutes to hours, and is kept beside the report for the next time.

    Args:
        run: The run folder.
        data: Where its images are now, and whatever has become of them; by default those that it was trained on, which
            must be where they were.
        robustness: Also measure the accuracy on corrupted images.
        scales: Also measure accuracy and cost at other image sizes.
        batch_size: Images in a forward pass; by default as many as `eval` takes.
        workers: Processes that read images.
        device: "auto", "cpu", "cuda" or "mps".
        quiet: Show no progress.

    Returns:
        The page.

    Raises:
        FileNotFoundError: There is no such run, or its data are gone.
        ValueError: The run or its data cannot be used, or are no longer what they were.
    """
    folder = RunFolder(run)
    if not folder.config_file.exists() or not folder.best.exists():
        raise FileNotFoundError(f"{run} is not a run folder: it has no config.json and best.safetensors")
    check_writable(folder.path, folder=True)
    config = folder.config(data)
    evaluator = Evaluator(run, batch_size=batch_size, workers=workers, device=device, quiet=quiet)
    for study, asked in (("robustness", robustness), ("scales", scales)):
        if asked:
            evaluator.require_classifier(study)
    splits = evaluator.open(config.data, config.images.val_fraction, config.seed)
    state = saved_state("auto", folder) if data is None else None
    if state is not None and "data" in state:
        difference = DataFingerprint.from_dict(state["data"]).difference(fingerprint(splits))
        if difference:
            raise ValueError(
                f"{config.data} is not what {run} was trained on: {difference}; bring the images back, or name them "
                "with --data to evaluate on those that are there"
            )
    results = [evaluator.run(evaluator.images(source), split) for split, source in splits.items()]
    folder.write_results(results)
    split = held_out_split(splits)
    if robustness:
        found = measure_robustness(evaluator, splits[split], split=split, seed=config.seed)
        _keep(folder, splits, ROBUSTNESS_FILE, robustness_as_dict(found))
    if scales:
        _keep(folder, splits, SCALES_FILE, scales_as_dict(measure_scales(evaluator, splits[split], split=split)))
    robustness_found = _measured(folder, splits, ROBUSTNESS_FILE, robustness_from_dict)
    scales_found = _measured(folder, splits, SCALES_FILE, scales_from_dict)
    loaded = evaluator.loaded
    look = Look(net=loaded.model, splits=splits, preprocessing=loaded.preprocessing)
    more = [
        Section(key="robustness", title="Corrupted images", html=robustness_section(robustness_found)),
        Section(key="sizes", title="Image sizes", html=scales_section(scales_found)),
    ]
    write_run_report(folder, loaded.task, look, results, data, more)
    return folder.report_file


def _keep(folder: RunFolder, splits: Mapping[str, Source], name: str, values: dict[str, Any]) -> None:
    values = {"weights": _digest(folder), "data": _digest_of_images(splits), **values}
    write_atomically(folder.path / name, json.dumps(values) + "\n")


def _measured(
    folder: RunFolder, splits: Mapping[str, Source], name: str, read: Callable[[dict[str, Any]], T]
) -> T | None:
    """Kept measurements of the weights that are best now, on these images; None if there are none of both."""
    file = folder.path / name
    if not file.exists():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    images = _digest_of_images(splits)
    # Older versions did not write the images down.
    same_images = values.pop("data", images) == images
    return read(values) if values.pop("weights") == _digest(folder) and same_images else None


def _digest(folder: RunFolder) -> str:
    return hashlib.sha256(folder.best.read_bytes()).hexdigest()


def _digest_of_images(splits: Mapping[str, Source]) -> dict[str, str]:
    return {name: split.digest for name, split in fingerprint(splits).splits.items()}
