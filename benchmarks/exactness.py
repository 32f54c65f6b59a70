"""How closely the network agrees with the outputs of the released code.

    python benchmarks/exactness.py GOLDEN_FOLDER

GOLDEN_FOLDER holds safetensors files with weights (`w.`), inputs, outputs and gradients (`g.`) of the released code.
Prints a Markdown table: the largest absolute error of any output against its tolerance, and the largest relative error
of any gradient.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import tyro
from safetensors import safe_open

from transnext import TransNeXt
from transnext.models.official import ours_to_official

NO_EFFECT = "stages.3.blocks.0.attn.cpb_fc2.bias"
"""A constant added to all logits of a softmax: its gradient is zero but for rounding."""


def compare(path: Path) -> str:
    """The row of one file."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    args = {k: v for k, v in config["constructor"].items() if k not in ("norm_layer", "pretrained")}
    dense = "is_extrapolation" in args
    if dense:
        args["bias_mode"] = "extrapolate" if args.pop("is_extrapolation") else "interpolate"
        args["num_classes"] = 0
    model = TransNeXt(**args).eval()
    weights = {key[2:]: value.float() for key, value in tensors.items() if key.startswith("w.")}
    model.load_state_dict({k: v for k, v in weights.items() if not (dense and k.startswith("head"))})

    x = tensors["x"].float().requires_grad_()
    last, maps = model.forward_intermediates(x)
    outputs = {f"{'out' if dense else 'stage'}{i + 1}": m for i, m in enumerate(maps)}
    if not dense:
        outputs["logits"] = model.forward_head(last)
    errors = []
    for name, output in outputs.items():
        tolerance = max(1e-5, 5 * config["rounding_noise_1e7"][name])
        errors.append(((output - tensors[name]).abs().max().item(), tolerance))
    error, tolerance = max(errors, key=lambda pair: pair[0] / pair[1])

    gradient = ""
    if "gx" in tensors:
        if dense:
            loss = sum((outputs[f"out{i}"] * tensors[f"loss_weight{i}"]).sum() for i in range(1, 5))
        else:
            loss = (outputs["logits"] * tensors["loss_weight"]).sum()
        loss.backward()
        pairs = [(x.grad, tensors["gx"])]
        pairs += [
            (p.grad, tensors[f"g.{ours_to_official(name)}"])
            for name, p in model.named_parameters()
            if p.grad is not None and name != NO_EFFECT
        ]
        gradient = f"{max(float((a - b).norm() / b.norm()) for a, b in pairs):.1e}"
    return f"| {path.stem} | {error:.1e} | {tolerance:.1e} | {gradient} |"


def main(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Prints the table.

    Args:
        folder: Where the files are.
    """
    torch.manual_seed(0)
    print("| case | largest error | tolerance | gradients, relative |\n|---|---|---|---|")
    for path in sorted(folder.glob("[AB]*.safetensors")):
        print(compare(path), flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
