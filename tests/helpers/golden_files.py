"""Reads the golden files, and makes the small ones of `tests/golden` (see its README).

python -m tests.helpers.golden_files path/to/the/full/golden/files
"""

import json
import lzma
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from transnext import TransNeXt

SMALL = Path(__file__).resolve().parent.parent / "golden"

CROPS = {"A8_stages_1_2": ("A8_cls_eps_probe_64", 2), "B2_stage_1": ("B2_dense_extra_101x133", 1)}
"""Small file -> full file, and how many of its stages are kept."""

FORMULA_ARGS: dict[str, Any] = {
    "img_size": 64,
    "num_classes": 7,
    "embed_dims": (12, 16, 24, 32),
    "num_heads": (1, 2, 2, 4),
    "mlp_ratios": (3, 3, 2, 2),
    "depths": (1, 1, 2, 1),
}
FORMULA_CASES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "trained_size": ({}, (64, 64)),
    "odd_size": ({}, (75, 101)),
    "pretrain_size": ({"pretrain_size": (32, 48), "img_size": (64, 96)}, (64, 96)),
    "interpolate": ({"bias_mode": "interpolate"}, (75, 101)),
    "linear": ({"fixed_pool_size": (3, 2)}, (75, 101)),
    "windows": ({"window_size": (5, 7, 1, None)}, (75, 101)),
    "four_aggregated": ({"sr_ratios": (16, 8, 4, 2)}, (75, 101)),
}
"""Case -> constructor arguments beside `FORMULA_ARGS`, and the image size."""


class Golden(NamedTuple):
    """One golden file: what it says of itself, and its tensors in float32."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Released parameter names and values."""
        return {key[2:]: t for key, t in self.tensors.items() if key.startswith("w.")}

    @property
    def gradients(self) -> dict[str, Tensor]:
        """Released parameter names and gradients."""
        return {key[2:]: t for key, t in self.tensors.items() if key.startswith("g.")}

    @property
    def constructor(self) -> dict[str, Any]:
        """Arguments of `TransNeXt`."""
        args = {k: v for k, v in self.config["constructor"].items() if k not in ("norm_layer", "pretrained")}
        if "is_extrapolation" in args:
            args["bias_mode"] = "extrapolate" if args.pop("is_extrapolation") else "interpolate"
        return args

    def tolerance(self, name: str) -> float:
        """Largest difference allowed to tensor `name`: five times what rounding noise does to it."""
        return min(1e-4, max(1e-5, 5 * self.config["rounding_noise_1e7"][name]))


DENSE_TASKS = {"upernet", "m2f", "mrcnn", "dino"}
"""Kinds of files whose models are of detection and segmentation: their backbones are loaded, their heads not yet."""


def _is_resized(config: dict[str, Any], shapes: dict[str, list[int]]) -> bool:
    if config["kind"] != "dense backbone":
        return False
    trained = config["constructor"].get("img_size", 224)
    return shapes["x"][-2:] != ([trained, trained] if isinstance(trained, int) else list(trained))


KINDS: dict[str, Callable[[dict[str, Any], dict[str, list[int]]], bool]] = {
    "classifier_file": lambda config, _: config["kind"] == "classification",
    "backbone_file": lambda config, _: config["kind"] == "dense backbone",
    "gradient_file": lambda config, shapes: config["kind"] not in DENSE_TASKS and "gx" in shapes,
    "resized_file": _is_resized,
    "linear_file": lambda config, _: bool(config.get("constructor", {}).get("fixed_pool_size")),
}
"""Name of a fixture -> which files it stands for, by what they say of themselves and the shapes of their tensors."""


def golden_files(folder: Path | None, kind: str) -> list[Path]:
    """The files of a kind in a folder."""
    found = []
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else []:
        with safe_open(path, "pt") as f:
            shapes = {key: list(f.get_slice(key).get_shape()) for key in f.keys()}  # noqa: SIM118
        if KINDS[kind](read_config(path), shapes):
            found.append(path)
    return found


def files_of(folder: Path, *, dense: bool) -> list[Path]:
    """The files of models of detection and segmentation, or those of the network alone."""
    return [
        path for path in sorted(folder.glob("*.safetensors")) if (read_config(path)["kind"] in DENSE_TASKS) == dense
    ]


def read_config(path: Path) -> dict[str, Any]:
    """What a file of the full set says of itself."""
    with safe_open(path, "pt") as f:
        config: dict[str, Any] = json.loads(f.metadata()["config"])
    return config


def read_full(path: Path) -> Golden:
    """A file of the full set."""
    with safe_open(path, "pt") as f:
        config = json.loads(f.metadata()["config"])
        return Golden(config, {key: f.get_tensor(key).float() for key in f.keys()})  # noqa: SIM118


def read_small(name: str) -> Golden:
    """One of the cropped files."""
    tensors = load(lzma.decompress((SMALL / f"{name}.safetensors.xz").read_bytes()))
    config = json.loads(bytes(tensors.pop("config").tolist()))
    return Golden(config, {key: _from_planes(t).float() for key, t in tensors.items()})


def _planes(x: Tensor) -> Tensor:
    """The first bytes of all elements, then the second ones, ...: compresses better. `[itemsize, *shape]` uint8."""
    return x.contiguous().unsqueeze(-1).view(torch.uint8).movedim(-1, 0).contiguous()


def _from_planes(planes: Tensor) -> Tensor:
    dtype = {2: torch.float16, 4: torch.float32}[planes.shape[0]]
    return planes.movedim(0, -1).reshape(-1).view(dtype).view(planes.shape[1:])


def sample(size: int) -> Tensor:
    """Rows or columns kept of a map of `size`: both borders and a few between."""
    return torch.tensor([0, 1, size // 3, size // 2, (3 * size) // 4, size - 2, size - 1])


def spread(x: Tensor, count: int = 24) -> Tensor:
    """`count` entries of a tensor, evenly spread over it, the first and the last among them."""
    return x.flatten()[torch.linspace(0, x.numel() - 1, count).round().long()]


def hashed(shape: Iterable[int], stream: int) -> Tensor:
    """Numbers in [-1, 1), float64 and exact in float32, from integer arithmetic alone: the same everywhere."""
    shape = tuple(shape)
    z = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(stream << 32)
    with np.errstate(over="ignore"):
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).view(shape)


def set_by_formula(model: nn.Module) -> nn.Module:
    """Sets every parameter by `hashed`, at a scale fit for it."""
    with torch.no_grad():
        for stream, (name, p) in enumerate(sorted(model.named_parameters())):
            u = hashed(p.shape, stream + 1)
            if name.endswith("temperature"):
                p.copy_(4 + u / 4)
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1 + u / 4)
            elif p.ndim > 1 and name.endswith("weight"):
                p.copy_(u * 2.0 ** -round(np.log2(p[0].numel() / 3) / 2))
            else:
                p.copy_(u / 4)
    return model


def formula_results(case: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs and gradients of the model of a formula case, each a few numbers."""
    args, (rows, cols) = FORMULA_CASES[case]
    model = set_by_formula(TransNeXt(**{**FORMULA_ARGS, **args}, dtype=dtype)).eval()
    x = hashed((2, 3, rows, cols), 0).to(dtype).requires_grad_()
    _, maps = model.forward_intermediates(x)
    logits = model(x)
    results = {f"stage{i}": spread(m) for i, m in enumerate(maps, 1)} | {"logits": logits.flatten()}
    loss = (logits * hashed(logits.shape, 1000).to(dtype)).sum()
    for i, m in enumerate(maps, 1):
        loss = loss + (m * hashed(m.shape, 1000 + i).to(dtype)).mean()
    loss.backward()
    results["gradient.x"] = spread(x.grad)
    for name, p in model.named_parameters():
        results[f"gradient.{name}"] = torch.cat((p.grad.norm()[None], spread(p.grad, 4)))
    return {key: t.detach() for key, t in results.items()}


def _make_crop(name: str, full: Path) -> None:
    source, stages = CROPS[name]
    config = read_full(full / f"{source}.safetensors").config
    kept = tuple(f"w.{part}{s + 1}." for s in range(stages) for part in ("patch_embed", "block", "norm"))
    tensors: dict[str, Tensor] = {}
    with safe_open(full / f"{source}.safetensors", "pt") as f:
        for key in sorted(f.keys()):
            t = f.get_tensor(key)
            if key == "x" or key.startswith(kept):
                tensors[key] = t[:1] if key == "x" else t
            elif key in [f"{kind}{s + 1}" for s in range(stages) for kind in ("stage", "out")]:
                tensors[key] = t[:1][..., sample(t.shape[-2])[:, None], sample(t.shape[-1])]
    small = {
        "constructor": config["constructor"],
        "rounding_noise_1e7": config["rounding_noise_1e7"],
        "official_commit": config["official_commit"],
        "note": f"the first {stages} stage(s) of {source}, first image, maps at the rows and columns of sample()",
    }
    planes = {key: _planes(t) for key, t in tensors.items()}
    planes["config"] = torch.tensor(list(json.dumps(small).encode()), dtype=torch.uint8)
    (SMALL / f"{name}.safetensors.xz").write_bytes(lzma.compress(save(planes), preset=9 | lzma.PRESET_EXTREME))


def _make_formula() -> None:
    results = {f"{case}.{key}": t for case in FORMULA_CASES for key, t in formula_results(case, torch.float64).items()}
    (SMALL / "formula.safetensors.xz").write_bytes(lzma.compress(save(results), preset=9))


def read_formula() -> dict[str, Tensor]:
    """The recorded results of all formula cases, `case.tensor` -> float64."""
    return load(lzma.decompress((SMALL / "formula.safetensors.xz").read_bytes()))


if __name__ == "__main__":
    for crop in CROPS:
        _make_crop(crop, Path(sys.argv[1]))
    _make_formula()
