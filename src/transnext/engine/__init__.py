"""Training and evaluation of any task: loop, run folder, processes."""

from typing import TYPE_CHECKING

from transnext.lazily import lazy_names

if TYPE_CHECKING:
    from transnext.engine.evaluation import Evaluator, evaluate
    from transnext.engine.trainer import TrainResult, train

__all__ = ["Evaluator", "TrainResult", "evaluate", "train"]

__getattr__ = lazy_names(
    "transnext.engine",
    {
        "Evaluator": "transnext.engine.evaluation",
        "TrainResult": "transnext.engine.trainer",
        "evaluate": "transnext.engine.evaluation",
        "train": "transnext.engine.trainer",
    },
)
