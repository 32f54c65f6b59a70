"""TransNeXt, the vision backbone that sees as an eye does. Importing it registers the models with timm.

import timm, transnext

model = timm.create_model("transnext_tiny", pretrained=True)          # any timm user's way
transnext.train(transnext.TrainConfig(data="photos", output="runs/a"))
transnext.evaluate("runs/a", "photos")
transnext.Predictor("runs/a")("one.jpg")
transnext.Detector("runs/boxes")("street.jpg")                        # what `transnext detect train` made
transnext.Segmenter("runs/maps")("street.jpg")                        # what `transnext segment train` made
transnext.export_model("runs/a", "a.onnx")
"""

from typing import TYPE_CHECKING

from transnext.lazily import import_after, lazy_names
from transnext.version import __version__

if TYPE_CHECKING:
    from transnext.config import TrainConfig
    from transnext.data import Skipped
    from transnext.engine import evaluate, train
    from transnext.export import export_model
    from transnext.loaded import load
    from transnext.models import TransNeXt
    from transnext.predict import Detector, Predictor, Segmenter
    from transnext.tasks.classification import recipes
    from transnext.tasks.recipes import recipe

__all__ = [
    "Detector",
    "Predictor",
    "Segmenter",
    "Skipped",
    "TrainConfig",
    "TransNeXt",
    "__version__",
    "evaluate",
    "export_model",
    "load",
    "recipe",
    "recipes",
    "train",
]

# Nobody waits for what is not used: the command line not for PyTorch, who wants the backbone not for the training.
__getattr__ = lazy_names(
    "transnext",
    {
        "Detector": "transnext.predict",
        "Predictor": "transnext.predict",
        "Segmenter": "transnext.predict",
        "Skipped": "transnext.data",
        "TrainConfig": "transnext.config",
        "TransNeXt": "transnext.models",
        "evaluate": "transnext.engine.evaluation",
        "export_model": "transnext.export",
        "load": "transnext.loaded",
        "recipe": "transnext.tasks.recipes",
        "recipes": "transnext.tasks.classification",
        "train": "transnext.engine.trainer",
    },
)
import_after("torch", "transnext.ops")  # for programs that hold these operations
import_after("timm", "transnext.models")
