"""Image classification."""

from transnext.tasks.classification.calibration import Calibration
from transnext.tasks.classification.evaluation import Gather, Outputs, evaluate, summarise
from transnext.tasks.classification.mirror import MirrorAveraged
from transnext.tasks.classification.results import Prediction, SplitResult

__all__ = ["Calibration", "Gather", "MirrorAveraged", "Outputs", "Prediction", "SplitResult", "evaluate", "summarise"]
