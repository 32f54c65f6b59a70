"""One thing to measure: a model, its input, a call of it and the cost of the call."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transnext.choices import Backend, Compile, DtypeName, Mode
from transnext.models import TransNeXt
from transnext.models.macs import macs_of_call
from transnext.models.variants import fixed_size

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model at a size, and everything else that decides what a call computes."""

    model: str
    """timm name."""
    size: tuple[int, int]
    """Height and width of the images, pixels."""
    mode: Mode | None = None
    """Way in which a model of this package follows the size; None for other models."""
    backend: Backend | None = None
    """Implementation of the ops that a model of this package runs; None for other models."""
    batch_size: int = 1
    """Images in a call."""
    features: bool = False
    """The maps of the stages instead of the classifier."""
    train: bool = False
    """Forward, loss and backward instead of forward alone."""
    dtype: DtypeName = "float32"
    """Arithmetic; below float32, autocast."""
    device: str = "cpu"
    """Type of the device: cpu, cuda, mps, or meta to compute nothing."""
    compile: Compile = "none"
    """Way of torch.compile that the model passes through: none, for this size alone ("default") or for any."""
    channels_last: bool = False
    """True if images and convolution weights are in PyTorch's channels-last memory format."""

    @property
    def label(self) -> str:
        """Name of the row or line: the model, with mode, back-end and compilation where they are not the usual ones."""
        compiled = {"none": None, "default": "compiled", "dynamic": "compiled for any size"}[self.compile]
        names = (self.mode, self.backend, compiled)
        unusual = [name for name in names if name is not None and name not in ("extrapolate", "auto")]
        return " ".join([self.model, *unusual])

    def build(self) -> nn.Module:
        """The model with random weights, on the device, in train or eval mode.

        Raises:
            Exception: Whatever timm says when the model does not exist at the size.
        """
        options: dict[str, Any] = {}
        if fixed_size(self.model) not in (None, self.size):
            options["img_size"] = self.size
        model: nn.Module = timm.create_model(self.model, features_only=self.features, **options)
        for part in model.modules():
            if isinstance(part, TransNeXt):
                part.mode = self.mode or "extrapolate"
                part.backend = self.backend or "auto"
        model = model.to(self.device).train(self.train)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if self.compile != "none":
            model.compile(dynamic=self.compile == "dynamic")
        return model

    def step(self, model: nn.Module) -> Step:
        """A call of the model on images made once, with what follows it in training.

        Args:
            model: What `build` gave.
        """
        images = torch.randn(self.batch_size, 3, *self.size, device=self.device)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)

        def infer() -> None:
            with torch.inference_mode(), self._arithmetic():
                model(images)

        def train() -> None:
            model.zero_grad(set_to_none=True)
            with self._arithmetic():
                loss = _loss(model(images))
            loss.backward()

        return train if self.train else infer

    def count_macs(self) -> float:
        """Multiply-adds of the matrix products and convolutions for one image, backward included when training.

        They are counted at batch size 1 on PyTorch's meta device, where nothing is computed and every operation is in
        its plain form, so models of this package run the reference; a model that cannot run there is counted in a real
        call.

        Raises:
            Exception: The model cannot take the size.
        """
        one = replace(self, backend="reference", batch_size=1, dtype="float32", compile="none", channels_last=False)

        def count(device: str) -> float:
            # Built where tensors have values: some models compute with them when they are made.
            model = replace(one, device="cpu").build().to(device)
            return macs_of_call(replace(one, device=device).step(model))

        try:
            return count("meta")
        except (NotImplementedError, RuntimeError):
            return count(self.device)

    def _arithmetic(self) -> Any:
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device, dtype=getattr(torch, self.dtype))


def is_ours(model: str) -> bool:
    """True if a timm name is that of a model of this package."""
    return timm.models.model_entrypoint(model.partition(".")[0]).__module__.startswith("transnext.")


def _loss(output: Tensor | list[Tensor]) -> Tensor:
    """Cross-entropy of logits `[B, classes]` with class 0; of maps, a sum that has a gradient everywhere."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output.float(), torch.zeros(len(output), dtype=torch.long, device=output.device))
    return torch.stack([m.float().square().mean() for m in output]).sum()
