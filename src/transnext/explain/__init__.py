"""Where a model looks: attention, rollout, receptive fields, explanations by gradients, and how faithful they are."""

from typing import TYPE_CHECKING

from transnext.lazily import lazy_names

if TYPE_CHECKING:
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
    from transnext.explain.region import RegionAttention
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
    "RegionAttention",
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

# Whoever asks where a network looks need not wait for matplotlib.
__getattr__ = lazy_names(
    "transnext.explain",
    {
        "Attention": "transnext.explain.weights",
        "BlockPlace": "transnext.explain.weights",
        "CAM_METHODS": "transnext.explain.gradients",
        "EXPLAINERS": "transnext.explain.faithfulness",
        "Faithfulness": "transnext.explain.faithfulness",
        "Looked": "transnext.explain.attention",
        "PARTS": "transnext.explain.weights",
        "ReceptiveField": "transnext.explain.receptive_field",
        "RegionAttention": "transnext.explain.region",
        "Rollout": "transnext.explain.rollout",
        "artefact": "transnext.explain.receptive_field",
        "attention_figure": "transnext.explain.figures",
        "attention_from": "transnext.explain.attention",
        "class_activation": "transnext.explain.gradients",
        "class_target": "transnext.explain.targets",
        "faithfulness_figure": "transnext.explain.figures",
        "heat_figure": "transnext.explain.figures",
        "integrated_gradients": "transnext.explain.gradients",
        "look": "transnext.explain.attention",
        "measure_faithfulness": "transnext.explain.faithfulness",
        "measure_receptive_field": "transnext.explain.receptive_field",
        "object_target": "transnext.explain.targets",
        "overlay": "transnext.explain.figures",
        "perturbation_curves": "transnext.explain.faithfulness",
        "receptive_field_figure": "transnext.explain.figures",
        "roll_out": "transnext.explain.rollout",
        "rollout_figure": "transnext.explain.figures",
        "segment_target": "transnext.explain.targets",
        "where_it_looks": "transnext.explain.attention",
    },
)
