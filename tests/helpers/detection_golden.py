"""Reads the golden files of detectors: see the README beside them."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from torch import Tensor

from transnext.models.backbone import Backbone

KINDS = {"mask_rcnn_file": ("mrcnn", False), "mask_rcnn_training_file": ("mrcnn", True)}
"""Name of a fixture -> the kind of files that it stands for, and if they are of a training step."""


class DetectionGolden(NamedTuple):
    """One golden file: what it says of itself, and its tensors; floating point ones in float32."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Released parameter names and values."""
        return self._below("w.")

    @property
    def gradients(self) -> dict[str, Tensor]:
        """Released parameter names and gradients, without that of the input."""
        return {key: t for key, t in self._below("g.").items() if key != "x"}

    def _below(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): t for key, t in self.tensors.items() if key.startswith(prefix)}

    def of_images(self, name: str) -> list[Tensor]:
        """Tensors `name_0`, `name_1`, ... of the images of the batch."""
        return [self.tensors[f"{name}_{image}"] for image in range(len(self.tensors["x"]))]

    def tolerance(self, name: str) -> float:
        """Largest difference allowed to a tensor of a training step; 0 for whole numbers."""
        entry: Mapping[str, Any] = self.config["tolerance"].get(name, {"exact": True})
        return 0.0 if entry.get("exact") else float(entry["tol_abs"])

    def backbone(self, strides: tuple[int, ...] = (4, 8, 16, 32)) -> Backbone:
        """A backbone as the file describes it, with random weights."""
        released = dict(self.config["model_config"]["backbone"])
        extrapolate = released.pop("is_extrapolation", False)
        wanted = [
            "patch_size",
            "embed_dims",
            "num_heads",
            "mlp_ratios",
            "depths",
            "qkv_bias",
            "window_size",
            "sr_ratios",
            "img_size",
            "pretrain_size",
            "fixed_pool_size",
        ]
        args = {key: value for key, value in released.items() if key in wanted}
        return Backbone("transnext_pico", strides, bias_mode="extrapolate" if extrapolate else "interpolate", **args)


def detection_files(folder: Path | None, kind: str, training: bool) -> list[Path]:
    """The files of a kind in a folder, of inference or of a training step."""
    found = []
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else []:
        with safe_open(path, "pt") as file:
            config = json.loads(file.metadata()["config"])
            if config["kind"] == kind and ("loss_total" in file.keys()) == training:  # noqa: SIM118
                found.append(path)
    return found


@cache
def read_detection_golden(path: Path) -> DetectionGolden:
    """A file with its tensors."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return DetectionGolden(config, {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()})
