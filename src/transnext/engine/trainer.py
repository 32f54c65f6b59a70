"""The training loop."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, set_seed
from timm.utils import ModelEmaV3
from torch import nn

from transnext.data import ImageSource, LabelledImages, min_side_for, open_dataset, train_transform
from transnext.engine.config import TrainConfig
from transnext.engine.device import pick_device
from transnext.engine.loader import eval_loader, train_loader
from transnext.engine.optim import make_mixer, make_optimizer, make_scheduler
from transnext.engine.progress import Display
from transnext.engine.run_folder import RunFolder
from transnext.models.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from transnext.models.variants import PRETRAIN_SIZES
from transnext.tasks.classification import SplitResult, evaluate
from transnext.tasks.classification.build import Preprocessing, create, trained_sizes
from transnext.tasks.classification.summary import results_table, write_results


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What is left of a training run.

    Attributes:
        folder: The run folder.
        report: The page to look at, in the run folder.
        history: One mapping for each epoch.
        results: Accuracy on each split: of the best weights, or of the last ones if the run was interrupted.
        interrupted: Whether Ctrl-C ended it early; `train(config, resume=True)` goes on.
    """

    folder: Path
    report: Path
    history: list[dict[str, Any]]
    results: list[SplitResult]
    interrupted: bool


def train(config: TrainConfig, *, resume: bool = False, quiet: bool = False) -> TrainResult:
    """Trains a classifier, evaluates it on every split and writes a report.

    Args:
        config: What to train, on what and how.
        resume: Go on with the run in `config.output` from its last whole epoch.
        quiet: Print nothing.

    Raises:
        ValueError: The configuration, the data or the run folder do not allow it.
        FileNotFoundError: The data or the checkpoint are not there.
    """
    trainer = Trainer(config, Display(enabled=not quiet))
    try:
        return trainer.run(resume)
    finally:
        trainer.close()


class Trainer:
    """One run; use `train`.

    Args:
        config: What to train, on what and how.
        display: Where progress is shown.
    """

    def __init__(self, config: TrainConfig, display: Display) -> None:
        self.config = config
        self.display = display
        self.splits = open_dataset(config.data, config.val_fraction, config.seed)
        self.folder = RunFolder(config.output)
        self.class_names = list(self.splits["train"].classes)
        set_seed(config.seed)
        model = _build(config, len(self.class_names))
        self.model_args = {"num_classes": len(self.class_names), **trained_sizes(model)}
        self.preprocessing = Preprocessing.of_model(model, config.image_size, config.crop_pct)
        self.train_images = LabelledImages(
            self.splits["train"],
            train_transform(
                self.preprocessing.input_size,
                self.preprocessing.mean,
                self.preprocessing.std,
                self.preprocessing.interpolation,
                crop_scale=config.crop_scale,
                hflip=config.hflip,
                auto_augment=config.auto_augment or None,
                color_jitter=config.color_jitter,
                erasing_prob=config.erasing,
            ),
            min_side_for(self.preprocessing.input_size, math.sqrt(config.crop_scale[0])),
        )
        loader = train_loader(self.train_images, config.batch_size, config.seed, config.workers)
        optimizer = make_optimizer(model, config)
        updates = math.ceil(len(loader) / config.accumulate)
        self.scheduler = make_scheduler(optimizer, config, updates)
        self.updates_per_epoch = updates
        self.accelerator = _accelerator(config, self.folder)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        self.ema = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema > 0 else None
        self.mix = make_mixer(config, len(self.class_names))
        self.skipped: dict[str, str] = {}
        self.best_top1 = -1.0
        self.epoch = 0  # whole epochs done

    # The run

    def run(self, resume: bool) -> TrainResult:
        """Trains to the end or to Ctrl-C, then evaluates and reports."""
        self._start(resume)
        interrupted = False
        last_result: SplitResult | None = None
        try:
            while self.epoch < self.config.epochs:
                last_result = self._epoch()
        except KeyboardInterrupt:
            interrupted = True
            self.display.line(
                f"\nStopped after {self.epoch} of {self.config.epochs} epochs; the same command with --resume goes on."
            )
        known = [last_result] if last_result is not None else []
        results = known if interrupted else self._evaluate_all()
        self.folder.write_skipped(self.skipped)
        write_results(self.folder.results_file, results)
        self._write_report(results)
        if self.display.enabled and results:
            self.display.console.print(results_table(results))
        if self.skipped:
            self.display.line(f"{len(self.skipped)} images could not be read: {self.folder.skipped_file}")
        self.display.line(f"Report: {self.folder.report_file}")
        return TrainResult(
            folder=self.folder.path,
            report=self.folder.report_file,
            history=self.folder.history(),
            results=results,
            interrupted=interrupted,
        )

    def close(self) -> None:
        """Lets go of trackers and of accelerate's process-wide state, so that another run can start."""
        self.accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)

    def _start(self, resume: bool) -> None:
        state = self.folder.resume(self.config) if resume else None
        if state is not None:
            self._load_state(state)
        elif not resume:
            self.folder.start(self.config)
        self.folder.truncate_metrics(self.epoch)
        self.accelerator.init_trackers("run")
        if state is None:
            self._save(None)
        parameters = sum(p.numel() for p in self.model.parameters())
        _, rows, cols = self.preprocessing.input_size
        sizes = ", ".join(f"{name} {len(source)}" for name, source in self.splits.items())
        self.display.line(
            f"{self.config.model}, {parameters / 1e6:.2f} M parameters, {rows}x{cols} pixels, "
            f"{len(self.class_names)} classes; images: {sizes}"
        )
        if self.epoch:
            self.display.line(f"Going on after epoch {self.epoch} of {self.config.epochs}.")

    # One epoch

    def _epoch(self) -> SplitResult | None:
        start = time.perf_counter()
        row = self._train_epoch()
        row["seconds"] = time.perf_counter() - start
        result = None
        if "val" in self.splits:
            result = self._evaluate("val", self._evaluated_model())
            row |= {"val_loss": result.loss, "val_top1": result.top1}
        self.epoch += 1
        row = {"epoch": self.epoch, **row}
        self._save(result)
        self.folder.append_metrics(row)
        self.accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=self.epoch)
        self.display.line(_epoch_line(row, self.config.epochs))
        return result

    def _train_epoch(self) -> dict[str, float]:
        # Dropout, stochastic depth and mixing are a function of seed and epoch, so that an epoch can be repeated.
        set_seed(int(np.random.SeedSequence((self.config.seed, self.epoch)).generate_state(1)[0]))
        self.model.train()
        self.loader.set_epoch(self.epoch)
        loss_sum = correct = images = 0.0
        update, start, lr = self.epoch * self.updates_per_epoch, time.perf_counter(), 0.0
        title = f"epoch {self.epoch + 1:>3}/{self.config.epochs}"
        with self.display.bar(title, len(self.loader) * self.config.batch_size) as bar:
            for batch in self.loader:
                self.skipped.update(batch.skipped)
                if not len(batch.images):
                    continue
                self.scheduler.step_update(update)
                loss, logits = self._step(batch.images, batch.targets)
                if self.accelerator.sync_gradients:
                    update += 1
                n = len(batch.images)
                images += n
                loss_sum += loss * n
                correct += float((logits.argmax(-1) == batch.targets).sum())
                if not math.isfinite(loss):
                    raise ValueError(
                        f"the loss became {loss} in epoch {self.epoch + 1}, update {update}: "
                        f"lower --lr or raise --warmup-epochs; {self.folder.last} holds the epoch before"
                    )
                lr = self.optimizer.param_groups[0]["lr"]
                speed = images / (time.perf_counter() - start)
                bar.advance(n, f"loss {loss_sum / images:.3f}  acc {correct / images:.1%}  {speed:.0f} img/s")
        if not images:
            name, reason = next(iter(self.skipped.items()))
            raise ValueError(f"no training image could be read; the first: {name}: {reason}")
        return {
            "lr": lr,
            "train_loss": loss_sum / images,
            "train_accuracy": correct / images,
            "images_per_second": images / (time.perf_counter() - start),
        }

    def _step(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[float, torch.Tensor]:
        images, mixed_targets = self.mix(images, targets)
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                logits = self.model(images)
            loss = F.cross_entropy(logits.float(), mixed_targets, label_smoothing=self.config.label_smoothing)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.config.clip_grad > 0:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if self.ema is not None and self.accelerator.sync_gradients:
            self.ema.update(self.accelerator.unwrap_model(self.model))
        return loss.item(), logits.detach()

    # Evaluation

    def _evaluated_model(self) -> nn.Module:
        model: nn.Module = self.accelerator.unwrap_model(self.model) if self.ema is None else self.ema.module
        return model

    def _evaluate(self, split: str, model: nn.Module) -> SplitResult:
        images = self._eval_images(self.splits[split])
        loader = eval_loader(images, 2 * self.config.batch_size, self.config.workers)
        with self.display.bar(f"evaluating {split}", len(images)) as bar:
            result = evaluate(model, loader, images, split=split, device=self.accelerator.device, on_batch=bar.advance)
        self.skipped.update(result.skipped)
        return result

    def _eval_images(self, source: ImageSource) -> LabelledImages:
        return LabelledImages(source, self.preprocessing.transform(), self.preprocessing.min_side())

    def _evaluate_all(self) -> list[SplitResult]:
        model = self._evaluated_model()
        load_checkpoint(model, self.folder.best)
        return [self._evaluate(split, model) for split in self.splits]

    def _write_report(self, results: list[SplitResult]) -> None:
        from transnext.engine.run_report import write_run_report  # imports matplotlib, which training does not need

        write_run_report(self.folder, self._evaluated_model(), self.splits, self.preprocessing, results)

    # State

    def _save(self, result: SplitResult | None) -> None:
        """Saves the state after an epoch (or before the first) and the weights that are to be used."""
        weights = self._evaluated_model().state_dict()
        metadata = {
            "architecture": self.config.model,
            "model_args": self.model_args,
            "class_names": self.class_names,
            "preprocessing": self.preprocessing.to_dict(),
            "epoch": self.epoch,
            "val_top1": None if result is None else result.top1,
        }
        save_checkpoint(self.folder.last, weights, metadata)
        top1 = self.best_top1 if result is None else result.top1
        if top1 > self.best_top1 or "val" not in self.splits or not self.folder.best.exists():
            self.best_top1 = top1
            save_checkpoint(self.folder.best, weights, metadata)
        self.folder.save_state(
            {
                "epoch": self.epoch,
                "best_top1": self.best_top1,
                "model": self.accelerator.unwrap_model(self.model).state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": None if self.ema is None else self.ema.module.state_dict(),
                "skipped": self.skipped,
                "class_names": self.class_names,
            }
        )

    def _load_state(self, state: dict[str, Any]) -> None:
        if state["class_names"] != self.class_names:
            raise ValueError(
                f"{self.folder.path} was started with the classes {', '.join(state['class_names'])}, and "
                f"{self.config.data} now has {', '.join(self.class_names)}: choose another --output"
            )
        self.epoch, self.best_top1, self.skipped = state["epoch"], state["best_top1"], state["skipped"]
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"] or state["model"])


def _build(config: TrainConfig, num_classes: int) -> nn.Module:
    args: dict[str, Any] = {"num_classes": num_classes, "drop_path_rate": config.drop_path, "drop_rate": config.dropout}
    ours = config.model.startswith("transnext_")
    if ours and config.image_size is not None:
        args["img_size"] = config.image_size
    if ours and config.checkpoint is not None:
        args["pretrain_size"] = _pretrain_size(config.checkpoint, config.model)
    model = create(config.model, args, pretrained=config.pretrained)
    if config.checkpoint is not None:
        load_checkpoint(model, config.checkpoint, new_head=True)
    return model


def _pretrain_size(checkpoint: str, name: str) -> Any:
    """The resolution that the weights of a checkpoint were pre-trained at, whatever size they are to be tuned at."""
    saved = read_checkpoint(checkpoint).metadata.get("model_args") or {}
    config = timm.get_pretrained_cfg(name)
    return saved.get("pretrain_size") or PRETRAIN_SIZES.get(name) or (config and config.input_size[-2:])


def _accelerator(config: TrainConfig, folder: RunFolder) -> Accelerator:
    on_cpu = pick_device(config.device).type == "cpu"
    if config.precision == "fp16" and on_cpu:
        raise ValueError("precision is 'fp16', which needs a GPU: use --precision bf16 or fp32 on the CPU")
    return Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        gradient_accumulation_steps=config.accumulate,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(folder.path), logging_dir=str(folder.tensorboard)),
        step_scheduler_with_optimizer=False,
    )


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    val = f"  val {row['val_top1']:.1%} (loss {row['val_loss']:.3f})" if "val_top1" in row else ""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  train {row['train_accuracy']:.1%} (loss {row['train_loss']:.3f}){val}  "
        f"{row['images_per_second']:.0f} img/s  {row['seconds']:.0f} s"
    )
