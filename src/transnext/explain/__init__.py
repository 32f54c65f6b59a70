"""Where a model looks: attention, rollout, receptive fields, explanations by gradients, and how faithful they are."""

from transnext.explain.attention import Looked, attention_from, look, where_it_looks
from transnext.explain.faithfulness import EXPLAINERS, Faithfulness, measure_faithfulness, perturbation_curves
from transnext.explain.figures import (
    attention_figure,
    faithfulness_figure,
    heat_figure,
    overlay,
    receptive_field_figure,
    rollout_figure,
)
from transnext.explain.gradients import CAM_METHODS, class_activation, integrated_gradients
from transnext.explain.receptive_field import ReceptiveField, artefact, measure_receptive_field
from transnext.explain.rollout import Rollout, roll_out
from transnext.explain.targets import class_target, object_target, segment_target
from transnext.explain.weights import PARTS, Attention, BlockPlace

__all__ = [
    "CAM_METHODS",
    "EXPLAINERS",
    "PARTS",
    "Attention",
    "BlockPlace",
    "Faithfulness",
    "Looked",
    "ReceptiveField",
    "Rollout",
    "artefact",
    "attention_figure",
    "attention_from",
    "class_activation",
    "class_target",
    "faithfulness_figure",
    "heat_figure",
    "integrated_gradients",
    "look",
    "measure_faithfulness",
    "measure_receptive_field",
    "object_target",
    "overlay",
    "perturbation_curves",
    "receptive_field_figure",
    "roll_out",
    "rollout_figure",
    "segment_target",
    "where_it_looks",
]
