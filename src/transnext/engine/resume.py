"""Resuming a run: its state and configuration, and the options that must be as they were."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transnext.config import TrainConfig
from transnext.data.fingerprint import DataFingerprint
from transnext.engine.checkpoints import Checkpoints, load_state, verify_checkpoint
from transnext.engine.run_folder import RunFolder
from transnext.models.checkpoint import read_checkpoint

MAY_CHANGE = frozenset(
    {
        "data",  # what is in it is compared instead
        "output",
        "patience",
        "nan",
        "checkpoint_every",
        "keep",
        "tracker",
        # How the work is divided and carried out: as the number of processes, which may change as well.
        "micro_batch_size",
        "strategy",
        "device",
        "compile",
        "grad_checkpointing",
        "workers",
        "worker_timeout",
        "cache",
    }
)
"""Options that may be others when a run goes on. All that are not here are compared."""

LEFT_OUT = frozenset({"pretrained", "checkpoint"})
"""Options that need not be repeated: they say where the first weights came from, and the run has its own."""

ON_REQUEST = frozenset(
    {
        "data",
        "epochs",
        "lr",
        "schedule",
        "schedule_per_epoch",
        "poly_power",
        "milestones",
        "warmup_epochs",
        "warmup_lr",
        "min_lr",
        "clip_grad",
        "label_smoothing",
        "mixup",
        "cutmix",
        "mix_prob",
        "auto_augment",
        "color_jitter",
        "crop_scale",
        "hflip",
        "erasing",
        "drop_path",
        "dropout",
        "precision",
    }
)
"""Options that may be accepted as changed: updates read them anew, and nothing that the run keeps depends on them."""


def parse_resume(resume: bool | str | Path) -> Path | str:
    """ "auto", "never", or the path of a checkpoint; True is "auto", False "never"."""
    if isinstance(resume, bool):
        return "auto" if resume else "never"
    return str(resume) if resume in ("auto", "never") else Path(resume)


def config_of_run(resume: Path | str, folder: RunFolder) -> TrainConfig | None:
    """The configuration of the run that will go on, to be written to its folder or to another.

    Args:
        resume: As in `saved_state`.
        folder: The folder that will be written to.

    Returns:
        None if there is no run, or one of an older version that does not say where its data are.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is not as it was written, or the configuration is none.
    """
    state = saved_state(resume, folder)
    run = RunFolder(resume.absolute().parent.parent) if isinstance(resume, Path) else folder
    if state is None and not run.config_file.exists():
        return None
    config = TrainConfig.load(run.config_file) if state is None else TrainConfig.from_options(state["config"])
    with suppress(ValueError):
        return run.with_absolute_paths(config).but(output=str(folder.path))
    return None


def saved_state(resume: Path | str, folder: RunFolder) -> dict[str, Any] | None:
    """The state in the checkpoint that a run will go on from, its tensors not read; None if there is none.

    States of older versions get their `model_args` and `preprocessing` from the weights beside them; if those are gone,
    None.

    Args:
        resume: A checkpoint, "auto" for the newest one, or "never".
        folder: The run.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        DamagedCheckpoint: It is not as it was written.
    """
    if isinstance(resume, Path):
        verify_checkpoint(resume)
    paths = (
        [resume]
        if isinstance(resume, Path)
        else Checkpoints(folder.checkpoints, keep=1).paths()
        if resume == "auto"
        else []
    )
    for path in reversed(paths):
        # Of a damaged one it is said later, and the one before it is of the same run.
        with suppress(Exception):
            state = load_state(path, mmap=True)
            if "model_args" not in state:
                weights = path.parent.parent / folder.last.name
                metadata = read_checkpoint(weights).metadata if weights.exists() else {}
                state |= {name: metadata.get(name) for name in ("model_args", "preprocessing")}
            return state
    return None


def going_on(old: Mapping[str, Any], new: TrainConfig, run: Path, accepted: Collection[str] = ()) -> TrainConfig:
    """The configuration with which a run goes on: the new one, and where the first weights came from.

    Args:
        old: The configuration that it was started with, by field.
        new: That which it is to go on with, with absolute paths.
        run: The run folder or checkpoint, for messages.
        accepted: Options that may be others, of `ON_REQUEST`.

    Raises:
        ValueError: They differ in what decides the weights and is not accepted, or that cannot be accepted.
    """
    for name in sorted(set(accepted) - ON_REQUEST):
        raise ValueError(f"accept_changed is {name!r}: expected some of {', '.join(sorted(ON_REQUEST))}")
    before = TrainConfig.from_options(old).with_absolute_paths()
    values, olds, defaults = new.options(), before.options(), TrainConfig.of(data="").options()
    changed = []
    for name, value in values.items():
        same = value == olds[name] or (name in LEFT_OUT and value == defaults[name])
        if not same and name not in MAY_CHANGE and name not in accepted:
            changed.append(name)
    if changed:
        differences = " and ".join(
            f"{_option(name, olds[name])} (now {_option(name, values[name])})" for name in changed
        )
        if ON_REQUEST.issuperset(changed):
            way = f"or go on with other weights than without a change by --accept-changed {' '.join(changed)}"
        else:
            way = "or start another run from its weights with --checkpoint and another --output"
        raise ValueError(f"{run} was started with {differences}: give the same to go on with it, {way}")
    return new.but(pretrained=before.start.pretrained, checkpoint=before.start.checkpoint)


def data_changed(
    state: Mapping[str, Any], new: DataFingerprint, config: TrainConfig, run: Path, accepted: Collection[str] = ()
) -> bool:
    """True if the images are others than those that a checkpoint was trained on, and that is accepted.

    Args:
        state: As in `saved_state`.
        new: Of the images that are there.
        config: The configuration, with absolute paths.
        run: The run folder or checkpoint, for messages.
        accepted: Options that may be others.

    Raises:
        ValueError: They are others, and that is not accepted, or their classes are.
    """
    if list(state.get("class_names", ())) != list(new.classes):
        raise ValueError(
            f"{run} is of a run with the classes {', '.join(state['class_names'])}, and {config.data} now has "
            f"{', '.join(new.classes)}: choose another --output"
        )
    if "data" in state:
        difference = DataFingerprint.from_dict(state["data"]).difference(new)
    else:  # of a version that knew only their path
        before = TrainConfig.from_options(state["config"]).with_absolute_paths().data
        difference = "" if before == config.data else f"its path was {before}"
    if difference and "data" not in accepted:
        raise ValueError(
            f"{config.data} is not what {run} was trained on: {difference}; give the same images, or add "
            "--accept-changed data to begin the epoch anew with those that are there"
        )
    return bool(difference)


def order_changed(path: Path, state: Mapping[str, Any], order_depends_on: object) -> str | None:
    """Reason why the epoch that a checkpoint is in cannot go on in the same order; None if it can.

    Args:
        path: The checkpoint, for the message.
        state: Its content.
        order_depends_on: What the order of images depends on now.
    """
    before = state["order_depends_on"]
    if before == order_depends_on:
        return None
    return (
        f"{path} is in the middle of an epoch with {before}, now there are {order_depends_on}: use as many, or go on "
        "from a checkpoint between two epochs"
    )


def _option(name: str, value: object) -> str:
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return f"no {flag}"
    if value is True:
        return flag
    return f"{flag} {' '.join(map(str, value)) if isinstance(value, tuple) else value if value != '' else repr(value)}"
