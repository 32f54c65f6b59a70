"""Folders as the Hugging Face hub has them, which timm and transformers load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from transnext.atomic import write_atomically
from transnext.export.info import ExportInfo
from transnext.models import TransNeXt
from transnext.models.variants import trained_sizes


def write(model: nn.Module, folder: Path, info: ExportInfo) -> None:
    """Writes weights, configuration and a README.

    Args:
        model: A model built by `timm.create_model`.
        folder: Is made.
        info: What the folder is to say.

    Raises:
        ValueError: The model was built in another way, so that nothing tells how to build it again.
    """
    if not getattr(model, "pretrained_cfg", None):
        raise ValueError(f"a {type(model).__name__} that timm.create_model did not build cannot become a hub folder")
    save_for_hf(model, str(folder), safe_serialization=True)
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    write_atomically(path, json.dumps(_described(config, model, info), indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / "README.md", _readme(info))


def runner(folder: Path) -> Callable[[Tensor], Tensor]:
    """The model that timm makes of the folder."""
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = model(images)
        return out

    return run


def _described(config: dict[str, Any], model: nn.Module, info: ExportInfo) -> dict[str, Any]:
    args = {**config.get("model_args", {}), **trained_sizes(model)}
    if isinstance(model, TransNeXt):
        args |= {"bias_mode": model.bias_mode, "fixed_pool_size": model.fixed_pool_size}
    # transformers passes the number of classes itself, and would do so twice.
    args.pop("num_classes", None)
    config["model_args"] = args
    config["num_classes"] = len(info.class_names)
    pretrained = config["pretrained_cfg"]
    pretrained |= info.preprocessing.to_dict()
    for name in ("label_names", "label_descriptions", "license"):
        pretrained.pop(name, None)
    if info.class_names:
        config["label_names"] = list(info.class_names)
    if info.license is not None:
        pretrained["license"] = info.license
    config["transnext_version"] = info.transnext_version
    return config


def _readme(info: ExportInfo) -> str:
    size = "x".join(map(str, info.preprocessing.input_size[1:]))
    license_ = f"license: {info.license}\n" if info.license else ""
    classes = ", ".join(info.class_names[:30]) + (", ..." if len(info.class_names) > 30 else "")
    return f"""---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- transformers
- transnext
{license_}---
# {info.architecture}

Written by transnext {info.transnext_version}. Classes: {len(info.class_names)} ({classes}). Images: {size} pixels.

The architecture is not in timm itself: `pip install transnext`, and import it first.

```python
import timm
import transnext  # registers the architecture

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # "hf-hub:USER/NAME" once it is on the hub
maps = timm.create_model("local-dir:FOLDER", pretrained=True, features_only=True)
```

```python
import transnext
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModelForImageClassification.from_pretrained("FOLDER")
logits = model(**processor(image)).logits  # model.config.id2label has the names
```
"""
