"""Training and evaluation: configuration, loop, run folder."""

from transnext.engine import recipes
from transnext.engine.config import TrainConfig
from transnext.engine.evaluation import evaluate
from transnext.engine.trainer import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "evaluate", "recipes", "train"]
