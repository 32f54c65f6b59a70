"""Reads the golden files of segmenters: see the README beside them."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from torch import Tensor

from transnext.models.backbone import Backbone

KINDS = {
    f"{name}{training}_file": (kind, bool(training))
    for name, kind in {"upernet": "upernet", "mask2former": "m2f"}.items()
    for training in ("", "_training")
}
"""Name of a fixture -> the kind of files that it stands for, and if they are of a training step."""

_NOT_OF_SHAPE = {"type", "norm_layer", "pretrained", "drop_rate", "attn_drop_rate", "is_extrapolation"}


class SegmentationGolden(NamedTuple):
    """One golden file: what it says of itself, and its tensors; floating point ones in float32."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Released parameter names and values."""
        return self.below("w.")

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin so, by the rest of their names."""
        return {key.removeprefix(prefix): t for key, t in self.tensors.items() if key.startswith(prefix)}

    def tolerance(self, name: str) -> float:
        """Largest difference allowed to a tensor of a training step; 0 for whole numbers."""
        entry: Mapping[str, Any] = self.config["tolerance"][name]
        return 0.0 if entry.get("exact") else float(entry["tol_abs"])

    def backbone(self, *, extrapolate: bool | None = None) -> Backbone:
        """A backbone as the file describes it, with random weights; its position bias may be made another way."""
        released = self.config["model_config"]["backbone"]
        args = {key: value for key, value in released.items() if key not in _NOT_OF_SHAPE}
        if extrapolate is None:
            extrapolate = released.get("is_extrapolation", False)
        return Backbone("transnext_pico", bias_mode="extrapolate" if extrapolate else "interpolate", **args)


def segmentation_files(folder: Path | None, kind: str, training: bool) -> list[Path]:
    """The files of a kind in a folder, of inference or of a training step."""
    found = []
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else []:
        with safe_open(path, "pt") as file:
            config = json.loads(file.metadata()["config"])
            if config["kind"] == kind and ("loss_total" in file.keys()) == training:  # noqa: SIM118
                found.append(path)
    return found


@cache
def read_segmentation_golden(path: Path) -> SegmentationGolden:
    """A file with its tensors."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return SegmentationGolden(config, {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()})
