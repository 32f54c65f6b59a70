"""Reads the golden files of DINO and builds what they are of, by what they say of themselves."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from transnext.data.instances import Instances
from transnext.models.backbone import Backbone
from transnext.tasks.detection.dino.denoising import Noise
from transnext.tasks.detection.dino.model import STRIDES, Dino, dino
from transnext.tasks.detection.dino.official import args_of_released, load_released

_SHAPE_OF_BACKBONE = {"embed_dims", "num_heads", "mlp_ratios", "depths", "qkv_bias", "window_size", "sr_ratios"}
_ARGS_OF_BACKBONE = _SHAPE_OF_BACKBONE | {"drop_path_rate", "img_size", "pretrain_size"}


class DinoGolden(NamedTuple):
    """One file: what it says of itself, and its tensors, in float32 where they are numbers."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        """By released names."""
        return {key[2:]: tensor for key, tensor in self.tensors.items() if key.startswith("w.")}

    def losses(self, beginning: str = "loss.") -> dict[str, Tensor]:
        """By released names, 0-d."""
        found = {k.removeprefix(beginning): t for k, t in self.tensors.items() if k.startswith(beginning)}
        return {key: tensor.squeeze() for key, tensor in found.items()}

    def tolerance(self, key: str) -> float:
        """Largest difference allowed to a tensor."""
        if "tolerance" in self.config:
            return self.config["tolerance"][key]["tol_abs"]
        # Of the files without: as those with have it. Noise of 2e-7 stands for twice as much as theirs.
        noise = self.config["output_change_under_2e7_relative_noise"][key]
        return max(1e-5 * float(self.tensors[key].abs().max()), 5 * noise)

    def build(self) -> Dino:
        """The network with the weights of the file."""
        model = self.config["model_config"]
        args = args_of_released(self.weights)
        assert args["num_classes"] == model["bbox_head"]["num_classes"]
        assert args["num_queries"] == model["num_queries"]
        assert args["scales"] == model["num_feature_levels"]
        described = {key: value for key, value in model["backbone"].items() if key in _ARGS_OF_BACKBONE}
        mode = "extrapolate" if model["backbone"]["is_extrapolation"] else "interpolate"
        backbone = Backbone("transnext_tiny", STRIDES[args["scales"]], bias_mode=mode, **described)
        noise = model["dn_cfg"]
        net = dino(
            backbone,
            **args,
            dn_queries=noise["group_cfg"]["num_dn_queries"],
            label_noise=noise["label_noise_scale"],
            box_noise=noise["box_noise_scale"],
            max_detections=model["test_cfg"]["max_per_img"],
        )
        load_released(net, self.weights)
        return net

    def targets(self) -> list[Instances]:
        """Objects of each training image."""
        count = sum(key.startswith("gt_boxes_") for key in self.tensors)
        return [
            Instances(boxes=self.tensors[f"gt_boxes_{i}"], labels=self.tensors[f"gt_labels_{i}"]) for i in range(count)
        ]

    def noise(self) -> Noise:
        """What the released code drew."""
        chance = self.tensors["dn_label_p"]
        replaced = chance < self.config["model_config"]["dn_cfg"]["label_noise_scale"] / 2
        labels = torch.zeros(len(chance), dtype=torch.int64)
        labels[replaced] = self.tensors["dn_label_new"]
        return Noise(chance, labels, self.tensors["dn_box_sign"], self.tensors["dn_box_part"])


def read_dino(path: Path) -> DinoGolden:
    """A file of kind "dino"."""
    with safe_open(path, "pt") as f:
        config = json.loads(f.metadata()["config"])
        tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
    return DinoGolden(config, {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()})


def dino_files(folder: Path | None, *, training: bool) -> list[Path]:
    """The files of kind "dino" in a folder: those of a training step, or those of outputs."""
    found = []
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else []:
        with safe_open(path, "pt") as f:
            config = json.loads(f.metadata()["config"])
        if config["kind"] == "dino" and ("gradient_norms" in config) == training:
            found.append(path)
    return found
