"""TransNeXt, the vision backbone that sees as an eye does. Importing it registers the models with timm.

import timm, transnext

model = timm.create_model("transnext_tiny", pretrained=True)          # any timm user's way
transnext.train(transnext.TrainConfig(data="photos", output="runs/a"))
transnext.evaluate("runs/a", "photos")
transnext.Predictor("runs/a")("one.jpg")
transnext.export_model("runs/a", "a.onnx")
"""

from typing import TYPE_CHECKING, Any

from transnext.models import TransNeXt
from transnext.version import __version__

if TYPE_CHECKING:
    from transnext.engine import TrainConfig, evaluate, recipes, train
    from transnext.engine.recipes import recipe
    from transnext.export import export_model
    from transnext.predict import Predictor

__all__ = [
    "Predictor",
    "TrainConfig",
    "TransNeXt",
    "__version__",
    "evaluate",
    "export_model",
    "recipe",
    "recipes",
    "train",
]

_MODULES = {
    "Predictor": "transnext.predict",
    "TrainConfig": "transnext.engine",
    "evaluate": "transnext.engine",
    "export_model": "transnext.export",
    "recipe": "transnext.engine.recipes",
    "recipes": "transnext.engine",
    "train": "transnext.engine",
}


def __getattr__(name: str) -> Any:
    # Who only wants the backbone does not wait for the training machinery to be imported.
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
