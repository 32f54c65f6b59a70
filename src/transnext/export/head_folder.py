"""Detectors and segmenters as folders of the Hugging Face hub, which this package opens again."""

import json
from pathlib import Path

from transnext.atomic import write_atomically
from transnext.export.info import ExportInfo
from transnext.models.checkpoint import save_checkpoint
from transnext.tasks.headed import HeadedNet
from transnext.tasks.opening import HUB_WEIGHTS, open_trained
from transnext.tasks.task import Loaded


def write(loaded: Loaded, folder: Path, info: ExportInfo, tag: str) -> None:
    """Writes weights, configuration and a README.

    The header of the weights has all that it takes to open the folder; `config.json` says it to people and to the hub.

    Args:
        loaded: The model.
        folder: Is made.
        info: What the folder is to say.
        tag: What the hub calls its task.
    """
    net = loaded.model
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
    write_atomically(folder / "README.md", _readme(info, loaded.task.heads().kind, tag))


def opened(folder: Path) -> HeadedNet:
    """The network that this package makes of a folder."""
    net = open_trained(folder).model
    assert isinstance(net, HeadedNet)
    return net


def _readme(info: ExportInfo, kind: str, tag: str) -> str:
    license_ = f"license: {info.license}\n" if info.license else ""
    names = info.class_names
    classes = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    height, width = info.preprocessing.input_size[1:]
    command = {"detector": "detect", "segmenter": "segment"}[kind]
    answer = {"detector": "a supervision.Detections", "segmenter": "a ClassMap: found.labels, found.mask(name)"}[kind]
    return f"""---
library_name: transnext
pipeline_tag: {tag}
tags:
- {tag}
- transnext
{license_}---
# {info.metadata[kind]} on {info.architecture}

Written by transnext {info.transnext_version}. Classes: {len(names)} ({classes}). Pictures: {height}x{width} pixels
({info.preprocessing.crop_mode}). Gives {", ".join(info.outputs)}.

```bash
pip install "transnext[{command}]"
transnext {command} predict photo.jpg --model FOLDER --save found
```

```python
import transnext

found = transnext.{kind.capitalize()}("FOLDER")("photo.jpg")[0]  # {answer}
```

`model.safetensors` is a checkpoint of transnext, whose header says how the network is built; `config.json` repeats it.
"""
