"""Training and evaluation: configuration, loop, run folder."""

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
