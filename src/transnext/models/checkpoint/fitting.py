"""Weights against a model: every parameter must be there with its shape, and no other."""

from collections.abc import Mapping
from typing import Any

from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from transnext.models.checkpoint.guessing import looks_like, some
from transnext.models.checkpoint.reading import CheckpointError
from transnext.models.transnext import TransNeXt

FIRST_CONV = "stages.0.patch_embed.proj.weight"


def fit(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    *,
    source: str,
    new_head: bool = False,
    any_channels: bool = False,
) -> dict[str, Tensor]:
    """Part of a state dict that goes into a model.

    Args:
        state_dict: Parameters with our names.
        model: The model.
        source: The checkpoint, for messages.
        new_head: Leave the classifier out if it does not fit, or is not there.
        any_channels: Accept a first convolution for another number of channels.

    Raises:
        CheckpointError: Parameters are missing, left over or of another shape.
    """
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    weights = without_absent_parts(state_dict, model)
    found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    head = _classifiers(model)
    if new_head and any(shape != expected.get(key) for key, shape in found.items() if key.startswith(head)):
        found = {key: shape for key, shape in found.items() if not key.startswith(head)}
    missing = [key for key in expected if key not in found and not (new_head and key.startswith(head))]
    unexpected = [key for key in found if key not in expected]
    reshaped = [key for key, shape in found.items() if shape != expected.get(key, shape)]
    if any_channels and FIRST_CONV in reshaped:
        ours, theirs = expected[FIRST_CONV], found[FIRST_CONV]
        if ours[:1] + ours[2:] == theirs[:1] + theirs[2:]:
            reshaped.remove(FIRST_CONV)
    if not (missing or unexpected or reshaped):
        return {key: weights[key] for key in found}

    name = _config(model).get("architecture") or type(model).__name__
    if all(key.startswith(head) for key in missing + unexpected + reshaped):
        classes = count_classes(weights, head[0])
        has = "no classifier" if classes is None else f"a classifier of {classes} classes"
        wanted = count_classes(model.state_dict(), head[0])
        raise CheckpointError(
            f"{source} has {has}, and the {name} to load it into one of {wanted} classes: build the model with "
            f"num_classes={classes or 0}, or keep its new classifier with load_checkpoint(..., new_head=True)"
        )
    shapes = [f"{key}: {found[key]} in the file, {expected[key]} in the model" for key in reshaped]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    said = ", ".join(
        f"{len(keys)} parameter{'' if len(keys) == 1 else 's'} {problem} ({some(keys)})"
        for problem, keys in problems.items()
        if keys
    )
    raise CheckpointError(f"{source} does not fit {name}: {said}. {looks_like(state_dict)}")


def without_absent_parts(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Leaves out what the model was built without: the classifier, and stages that a feature extractor cut off."""
    head = _classifiers(model)
    absent = () if any(key.startswith(head) for key in model.state_dict()) else head
    if isinstance(model, TransNeXt):
        absent += tuple(f"stages.{i}." for i in range(len(model.stages), len(model.feature_info)))
    return {key: value for key, value in state_dict.items() if not key.startswith(absent)}


def count_classes(state_dict: Mapping[str, Tensor], classifier: str = "head.fc.") -> int | None:
    """Classes that weights tell apart; None without a classifier."""
    weight = state_dict.get(f"{classifier}weight")
    return None if weight is None else weight.shape[0]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside timm's feature wrapper; another model as it is."""
    return model.model if isinstance(model, FeatureGetterNet) else model


def _config(model: nn.Module) -> dict[str, Any]:
    return getattr(model, "pretrained_cfg", None) or {}


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of the classifier's parameters; a model of timm may have several classifiers."""
    names = _config(model).get("classifier") or "head.fc"
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
