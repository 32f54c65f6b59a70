"""Training and evaluation: configuration, loop, run folder."""

from typing import TYPE_CHECKING

from transnext.lazily import lazy_names

if TYPE_CHECKING:
    from transnext.engine.evaluation import Evaluator, evaluate
    from transnext.engine.imagenet_suite import evaluate_imagenet
    from transnext.engine.robustness import measure_robustness, measure_scales
    from transnext.engine.trainer import TrainResult, train

__all__ = [
    "Evaluator",
    "TrainResult",
    "evaluate",
    "evaluate_imagenet",
    "measure_robustness",
    "measure_scales",
    "train",
]

__getattr__ = lazy_names(
    "transnext.engine",
    {
        "Evaluator": "transnext.engine.evaluation",
        "TrainResult": "transnext.engine.trainer",
        "evaluate": "transnext.engine.evaluation",
        "evaluate_imagenet": "transnext.engine.imagenet_suite",
        "measure_robustness": "transnext.engine.robustness",
        "measure_scales": "transnext.engine.robustness",
        "train": "transnext.engine.trainer",
    },
)
