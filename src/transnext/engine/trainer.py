"""The training loop."""

import dataclasses
import math
import signal
import time
from collections.abc import Collection, Iterator
from copy import deepcopy
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from timm.utils import ModelEmaV3
from torch import nn

from transnext.config import TrainConfig
from transnext.data import Batch, cached
from transnext.data.fingerprint import fingerprint
from transnext.data.preprocessing import Preprocessing
from transnext.engine.batching import divide_batch
from transnext.engine.build import build_accelerator, build_loader, build_net, open_task
from transnext.engine.checkpoints import Checkpoints, load_state, naming_last_good
from transnext.engine.display import Display
from transnext.engine.distributed import fail, gather, on_main_process, restarts
from transnext.engine.loader import naming_dead_workers
from transnext.engine.optim import make_optimizer, make_scheduler, train_mode
from transnext.engine.progress import EpochTotals, Progress, epoch_line, not_finite_message, run_lines, update_figures
from transnext.engine.resume import data_changed, going_on, order_changed, parse_resume, saved_state
from transnext.engine.run_evaluation import RunEvaluation
from transnext.engine.run_folder import RunFolder, TrainResult
from transnext.engine.signals import Stopped, StopRequest
from transnext.engine.state import load_training_state, training_state, whole_weights
from transnext.engine.trackers import start_trackers
from transnext.engine.update import Updater, UpdateResult
from transnext.models.checkpoint import load_checkpoint, read_tensors, save_checkpoint
from transnext.tasks.task import Look, Result


def train(
    config: TrainConfig,
    *,
    resume: bool | str | Path = "never",
    accept_changed: Collection[str] = (),
    quiet: bool = False,
) -> TrainResult:
    """Trains a classifier, evaluates it on every split and writes a report.

    Under torchrun or `accelerate launch` all processes call it. A process that torchrun has started again goes on by
    itself.

    Args:
        config: What to train, on what and how.
        resume: "auto" to go on with the run in `config.output` from its newest whole checkpoint, or start it if it has
            none; the path of a checkpoint to go on from there; "never" to start. True is "auto", False "never".
        accept_changed: Options, and "data", that may be others than the run was started with, of
            `transnext.engine.resume.ON_REQUEST`.
        quiet: Print nothing.

    Raises:
        ValueError: The configuration, the data or the run folder do not allow it, or the loss is not finite.
        FileNotFoundError: The data or the checkpoint are not there.
        OSError: The run folder cannot be written, or reading images hangs.
    """
    try:
        with naming_dead_workers():
            return _train(config, quiet, "auto" if restarts() else parse_resume(resume), accept_changed)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def _train(config: TrainConfig, quiet: bool, resume: Path | str, accept_changed: Collection[str]) -> TrainResult:
    trainer = Trainer(config, quiet, resume, accept_changed)
    try:
        result = trainer.run()
        if trainer.accelerator.is_main_process:
            trainer.folder.write_skipped(trainer.progress.skipped)
            if result.signal != signal.SIGTERM:
                trainer.folder.write_results(result.results)
                write_report(trainer, result.results)
                trainer.display.results(result.results, result.report)
            if trainer.progress.skipped:
                skipped = f"{len(trainer.progress.skipped)} images could not be read: {trainer.folder.skipped_file}"
                trainer.display.line(skipped)
        return result
    finally:
        trainer.close()


def write_report(trainer: "Trainer", results: list[Result]) -> None:
    """Writes the page of a run that has been evaluated. Other processes are not needed for it."""
    from transnext.engine.run_report import write_run_report  # imports what training does not need

    look = Look(net=trainer.evaluated_net(), splits=trainer.splits, preprocessing=trainer.preprocessing)
    write_run_report(trainer.folder, trainer.task, look, results)


class Trainer:
    """One run; use `train`.

    Args:
        config: What to train, on what and how.
        quiet: Print nothing.
        resume: "auto", "never" or a checkpoint.
        accept_changed: As in `train`.
    """

    def __init__(
        self,
        config: TrainConfig,
        quiet: bool = False,
        resume: Path | str = "never",
        accept_changed: Collection[str] = (),
    ) -> None:
        self.folder = RunFolder(config.output)
        self.checkpoints = Checkpoints(self.folder.checkpoints, config.run.keep)
        self.resume = resume
        self.resuming = (resume if isinstance(resume, Path) else self.folder.path, accept_changed)
        saved = saved_state(resume, self.folder)
        self.given, config = config, config.with_absolute_paths()
        if saved is not None:
            config = going_on(saved["config"], config, *self.resuming)
        self.config = config
        self.progress = Progress()
        self._best_is_discarded = False
        self.stop = StopRequest()
        self.task, sources = open_task(config)
        self.fingerprint = fingerprint(sources)
        if saved is not None:
            data_changed(saved, self.fingerprint, config, *self.resuming)
        self.splits = {split: cached(source, config.images.cache) for split, source in sources.items()}
        set_seed(config.seed)
        model = build_net(self.task, config, saved and saved["model_args"])
        self.model_args = self.task.model_args(model)
        self.preprocessing = (
            Preprocessing.from_mapping(saved["preprocessing"])
            if saved and saved["preprocessing"]
            else self.task.preprocessing(model, config)
        )
        self.train_images = self.task.images(self.splits["train"], self.preprocessing, config)

        self.accelerator = build_accelerator(config, self.folder, model)
        self.display = Display(enabled=not quiet and self.accelerator.is_main_process)
        self.batching = divide_batch(config, len(self.train_images), self.accelerator.num_processes)
        self.accelerator.gradient_accumulation_steps = self.batching.accumulation
        self.loader = build_loader(self.task, config, self.train_images, self.batching, self.accelerator)
        self.evaluation = RunEvaluation(
            task=self.task,
            splits=self.splits,
            preprocessing=self.preprocessing,
            config=config,
            batching=self.batching,
            accelerator=self.accelerator,
            display=self.display,
            stop=self.stop,
        )
        self.updates_per_epoch = self.loader.batches_per_epoch // self.batching.accumulation
        if self.updates_per_epoch == 0:
            raise ValueError(
                f"{len(self.train_images)} training images do not give each process and worker a batch of its own: "
                "use fewer --workers or a smaller --batch-size"
            )

        optimizer = make_optimizer(model, config)
        self.scheduler = make_scheduler(optimizer, config, self.updates_per_epoch)
        model.to(self.accelerator.device)
        self.ema = ModelEmaV3(model, decay=config.optim.ema, use_warmup=True) if config.optim.ema > 0 else None
        sharded = self.accelerator.is_fsdp2
        # Shards cannot be evaluated by processes that have different numbers of batches: each has a whole copy.
        self._whole_copy = deepcopy(model).requires_grad_(False) if sharded else None
        if config.run.compile:
            model.compile()
        objective = self.task.objective(model, self.preprocessing, config).to(self.accelerator.device)
        prepared, self.optimizer = self.accelerator.prepare(objective, optimizer)
        objective = self.accelerator.unwrap_model(prepared)
        self.model: nn.Module = objective.net
        self.updater = Updater(
            config,
            self.batching,
            self.accelerator,
            prepared,
            objective,
            self.optimizer,
            self.ema,
            self.stop,
        )

    # The run

    def run(self) -> TrainResult:
        """Trains and evaluates, to the end or to a signal."""
        stopped: int | None = None
        results: list[Result] = []
        with self.stop:
            try:
                self._start()
                while not self.progress.is_finished(self.config):
                    results = self._epoch()
                results = self._evaluate_all()
            except Stopped as request:
                stopped = request.signal
                where = self.progress.where(self.config, self.updates_per_epoch)
                self.display.line(f"\nStopped {where}; the same command with --resume auto goes on.")
        return TrainResult(
            folder=self.folder.path,
            report=self.folder.report_file,
            history=self.progress.history,
            results=results,
            interrupted=stopped is not None,
            signal=stopped,
        )

    def close(self) -> None:
        """Ends reading processes, closes trackers, and lets other runs into the folder."""
        self.loader.close()
        self.accelerator.end_training()
        self.folder.close()

    def _start(self) -> None:
        path = on_main_process(self._open_folder)
        inside = path is not None and self.checkpoints.has(path)
        changed = path is not None and self._load(path, inside)
        if self.accelerator.is_main_process:
            if path is not None and inside:
                self.checkpoints.remove_after(int(path.name))
            self.folder.write_config(self.config, self.given)
            self.folder.write_history(self.progress.history)
            start_trackers(
                self.accelerator,
                self.config,
                self.folder,
                run_id=self.progress.run_id,
                epochs_done=self.progress.epoch,
            )
        if not inside:
            self._save_weights(None)
        if self._best_is_discarded and self.progress.is_finished(self.config):
            model = self._evaluated_model()
            self._save_weights(self._evaluate("val", model) if "val" in self.splits else None)
        if changed or not inside:
            self._checkpoint(alone=changed)
        for line in self.task.notes:
            self.display.line(line)
        for line in run_lines(
            self.config.model,
            self.model,
            self.preprocessing,
            self.splits,
            self.batching,
            self.updates_per_epoch,
        ):
            self.display.line(line)
        if path is not None:
            self.display.line(f"Going on from {path}, {self.progress.where(self.config, self.updates_per_epoch)}.")

    def _open_folder(self) -> Path | None:
        """Takes the folder; the checkpoint to go on from, if there is one."""
        chosen = self.resume if isinstance(self.resume, Path) else None
        self.folder.open(resume=self.resume == "auto" or (chosen is not None and self.checkpoints.has(chosen)))
        self.checkpoints.clean()
        found = self.checkpoints.newest_whole() if self.resume == "auto" else chosen
        if found is None and self.folder.config_file.exists():
            going_on(self.folder.config().options(), self.config, *self.resuming)
        return found

    # One epoch

    def _epoch(self) -> list[Result]:
        self._train_epoch()
        progress, totals = self.progress, self.progress.totals
        row = totals.row()
        seconds, start = totals.seconds, time.perf_counter()
        results = []
        if "val" in self.splits:
            try:
                results.append(self._evaluate("val", self._evaluated_model()))
            except Stopped:
                self._checkpoint()
                raise
            row |= {f"val_{name}": metric.value for name, metric in results[0].metrics.items()}
        row["seconds"] = seconds + time.perf_counter() - start
        progress.epoch += 1
        progress.totals = EpochTotals()
        progress.history.append({"epoch": progress.epoch, **row})
        self._save_weights(results[0] if results else None)
        self._checkpoint()
        if self.accelerator.is_main_process:
            self.folder.write_history(progress.history)
            self.accelerator.log(row, step=progress.epoch)
        val = results[0] if results else None
        self.display.line(epoch_line(progress.history[-1], self.config.epochs, totals, val))
        return results

    def _train_epoch(self) -> None:
        """The rest of the epoch that is under way."""
        progress, totals = self.progress, self.progress.totals
        train_mode(self.updater.model)
        batches = self._timed(self.loader.epoch(progress.epoch, totals.updates * self.batching.accumulation))
        title = f"epoch {progress.epoch + 1:>3}/{self.config.epochs}"
        with self.display.bar(title, self.updates_per_epoch * self.batching.batch_size) as bar:
            bar.advance(totals.updates * self.batching.batch_size)
            while totals.updates < self.updates_per_epoch:
                start = time.perf_counter()
                update = progress.epoch * self.updates_per_epoch + totals.updates
                totals.lr = self.scheduler.step_update(update)
                result = self.updater(batches, update)
                if result.not_finite and self.config.run.nan == "stop":
                    self._stop_for_nan(result, update)
                totals.add(result)
                totals.seconds += time.perf_counter() - start
                bar.advance(self.batching.batch_size, update_figures(totals))
                self._between_updates(result)
        if totals.nan_updates == totals.updates:
            fail(ValueError(f"no update of epoch {progress.epoch + 1} had a finite loss and gradient: lower --lr"))
        if not totals.images:
            everywhere = {name: reason for part in gather(progress.skipped) for name, reason in part.items()}
            name, reason = next(iter(everywhere.items()))
            fail(ValueError(f"no training image could be read; the first: {name}: {reason}"))

    def _between_updates(self, result: UpdateResult) -> None:
        if result.stop is not None:
            self._checkpoint()
            raise Stopped(result.stop)
        every, updates = self.config.run.checkpoint_every, self.progress.totals.updates
        # After the last update of an epoch there will be one with its evaluation.
        if every and self._updates_done() % every == 0 and updates < self.updates_per_epoch:
            self._checkpoint()

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; notes unreadable images and the time that is spent waiting."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.progress.totals.waiting += time.perf_counter() - start
            if batch is None:
                return
            self.progress.skipped.update(batch.skipped)
            yield batch

    def _updates_done(self) -> int:
        return self.progress.epoch * self.updates_per_epoch + self.progress.totals.updates

    def _stop_for_nan(self, result: UpdateResult, update: int) -> None:
        source = self.train_images.source
        names = [name for part in gather([source.name(i) for i in result.indices]) for name in part]
        if self.accelerator.is_main_process:
            self.folder.write_nan_batch(names)
        good = self.checkpoints.paths()[-1]
        fail(ValueError(not_finite_message(result, update, self.progress, names, self.folder.nan_file, good)))

    # Evaluation

    def evaluated_net(self) -> nn.Module:
        """The net that is evaluated and saved, with the weights that `_evaluated_model` gave it last."""
        if self.ema is not None:
            average: nn.Module = self.ema.module
            return average
        return self.model if self._whole_copy is None else self._whole_copy

    def _evaluated_model(self) -> nn.Module:
        """The weights that are evaluated and saved. All processes must call it."""
        if self._whole_copy is not None:
            self._whole_copy.load_state_dict(whole_weights(self.model, everywhere=True))
        net = self.evaluated_net()
        if self.accelerator.num_processes > 1:
            # Each process has seen other images since statistics of batch norm were last shared.
            for buffer in net.buffers():
                torch.distributed.broadcast(buffer, 0)
        return net

    def _evaluate(self, split: str, model: nn.Module) -> Result:
        result = self.evaluation.run(split, model)
        self.progress.skipped.update(result.skipped)
        return result

    def _evaluate_all(self) -> list[Result]:
        model = self._evaluated_model()
        saved = load_checkpoint(model, self.folder.best).metadata
        self.task = self.task.chosen(saved)
        self.evaluation = dataclasses.replace(self.evaluation, task=self.task)
        return [self._evaluate(split, model) for split in self.splits]

    # State

    def _save_weights(self, val: Result | None) -> None:
        """Saves the weights that are to be used, after an epoch or before the first. All processes must call it."""
        progress = self.progress
        is_best = "val" not in self.splits or (
            val is not None and (self._best_is_discarded or val.score > progress.best_score)
        )
        if is_best:
            self._best_is_discarded = False
            progress.best_epoch = progress.epoch
            progress.best_score = progress.best_score if val is None else val.score
        weights = self._evaluated_model().state_dict()
        metadata = {
            "architecture": self.config.model,
            "model_args": self.model_args,
            "task": self.task.name,
            **self.task.metadata,
            "preprocessing": self.preprocessing.to_dict(),
            "epoch": progress.epoch,
            **({} if val is None else {f"val_{name}": metric.value for name, metric in val.metrics.items()}),
        }

        def save() -> None:
            for path in (self.folder.last, self.folder.best):
                if path == self.folder.last or is_best or not path.exists():
                    with naming_last_good(path, self.checkpoints):
                        save_checkpoint(path, weights, metadata)

        on_main_process(save)

    def _checkpoint(self, alone: bool = False) -> None:
        """Writes what it takes to go on from here, in place of all others if `alone`. All processes must call it."""
        progress = self.progress
        for part in gather(progress.skipped):
            progress.skipped.update(part)
        state = {
            **training_state(self.model, self.optimizer.optimizer, self.ema, self.accelerator.scaler),
            "progress": dataclasses.asdict(progress),
            **self.task.metadata,
            "model_args": self.model_args,
            "preprocessing": self.preprocessing.to_dict(),
            "config": self.config.options(),
            "data": self.fingerprint.to_dict(),
            "order_depends_on": self.loader.order_depends_on,
        }
        on_main_process(lambda: self.checkpoints.write(self._updates_done(), state, alone=alone))

    def _load(self, path: Path, inside: bool) -> bool:
        """Takes up the run of a checkpoint, of this folder if `inside`; whether its images are others than before."""
        state = load_state(path)
        try:
            going_on(state["config"], self.config, *self.resuming)
            changed = data_changed(state, self.fingerprint, self.config, *self.resuming)
        except ValueError as error:
            fail(error)
        progress = Progress.from_dict(state["progress"])
        if changed:
            progress.totals = EpochTotals()
        if not inside:
            progress.best_score, progress.best_epoch = -math.inf, progress.epoch
        elif changed and "val" in self.splits:
            # The best so far was best on other images.
            model = self._evaluated_model()
            load_checkpoint(model, self.folder.best)
            progress.best_score = self._evaluate("val", model).score
        if progress.totals.updates and (reason := order_changed(path, state, self.loader.order_depends_on)):
            fail(ValueError(reason))
        load_training_state(self.model, self.optimizer.optimizer, state, self.ema, self.accelerator.scaler)
        self.progress = progress
        if inside and self.folder.best.exists():
            # Of a branch that is left: the weights that were best until here are no more.
            self._best_is_discarded = read_tensors(self.folder.best)[1].get("epoch", 0) > progress.epoch
        return changed
