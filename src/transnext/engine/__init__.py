"""Training and evaluation: configuration, loop, run folder."""

from typing import TYPE_CHECKING

from transnext.lazily import lazy_names

if TYPE_CHECKING:
    from transnext.engine import recipes
    from transnext.engine.config import TrainConfig
    from transnext.engine.evaluation import Evaluator, evaluate
    from transnext.engine.imagenet_suite import evaluate_imagenet
    from transnext.engine.robustness import measure_robustness, measure_scales
    from transnext.engine.trainer import TrainResult, train

__all__ = [
    "Evaluator",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "evaluate_imagenet",
    "measure_robustness",
    "measure_scales",
    "recipes",
    "train",
]

__getattr__ = lazy_names(
    "transnext.engine",
    {
        "Evaluator": "transnext.engine.evaluation",
        "TrainConfig": "transnext.engine.config",
        "TrainResult": "transnext.engine.trainer",
        "evaluate": "transnext.engine.evaluation",
        "evaluate_imagenet": "transnext.engine.imagenet_suite",
        "measure_robustness": "transnext.engine.robustness",
        "measure_scales": "transnext.engine.robustness",
        "train": "transnext.engine.trainer",
    },
)
