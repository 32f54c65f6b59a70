"""Detectors as folders of the Hugging Face hub, which this package opens again."""

import json
from pathlib import Path

from transnext.atomic import write_atomically
from transnext.export.info import ExportInfo
from transnext.models.checkpoint import save_checkpoint
from transnext.tasks.detection.net import DetectionNet
from transnext.tasks.opening import HUB_WEIGHTS, open_trained
from transnext.tasks.task import Loaded


def write(loaded: Loaded, folder: Path, info: ExportInfo) -> None:
    """Writes weights, configuration and a README.

    The header of the weights has all that it takes to open the folder; `config.json` says it to people and to the hub.

    Args:
        loaded: The detector.
        folder: Is made.
        info: What the folder is to say.
    """
    net = loaded.model
    assert isinstance(net, DetectionNet)
    metadata = {
        "architecture": info.architecture,
        "model_args": loaded.task.model_args(net),
        "task": info.task,
        **loaded.task.metadata,
        "preprocessing": info.preprocessing.to_dict(),
    }
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder / HUB_WEIGHTS, net.state_dict(), metadata)
    config = {
        "library_name": "transnext",
        **metadata,
        **({} if info.license is None else {"license": info.license}),
        "transnext_version": info.transnext_version,
    }
    write_atomically(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / "README.md", _readme(info))


def opened(folder: Path) -> DetectionNet:
    """The detector that this package makes of a folder."""
    net = open_trained(folder).model
    assert isinstance(net, DetectionNet)
    return net


def _readme(info: ExportInfo) -> str:
    license_ = f"license: {info.license}\n" if info.license else ""
    names = info.class_names
    classes = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    height, width = info.preprocessing.input_size[1:]
    return f"""---
library_name: transnext
pipeline_tag: object-detection
tags:
- object-detection
- transnext
{license_}---
# {info.metadata["detector"]} on {info.architecture}

Written by transnext {info.transnext_version}. Classes: {len(names)} ({classes}). Pictures: {height}x{width} pixels
({info.preprocessing.crop_mode}). Gives {", ".join(info.outputs)}.

```bash
pip install "transnext[detect]"
transnext detect predict photo.jpg --model FOLDER --save found
```

```python
import transnext

found = transnext.Detector("FOLDER")("photo.jpg")[0]  # a supervision.Detections
```

`model.safetensors` is a checkpoint of transnext, whose header says how the network is built; `config.json` repeats it.
"""
