"""Image classification."""

from transnext.tasks.classification.evaluation import evaluate
from transnext.tasks.classification.results import Prediction, SplitResult

__all__ = ["Prediction", "SplitResult", "evaluate"]
