"""Pretrained weights timm's way: from the hub or a local file, and into whatever timm builds."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from timm.models import load_pretrained
from torch import nn

from transnext.models.checkpoint.fitting import count_classes, fit, unwrap, without_absent_parts
from transnext.models.checkpoint.reading import CheckpointError, first_line, read_checkpoint, weights_in
from transnext.models.official import adapt_official_keys, backbone_prefix


def load_pretrained_weights(model: nn.Module, config: Any, cache_dir: str | Path | None = None) -> None:
    """Loads the weights that a pretrained configuration names: a local file, or one on the hub, which is downloaded.

    Args:
        model: A TransNeXt or timm's feature wrapper around one, built with that configuration.
        config: timm's `PretrainedCfg` of the weights.
        cache_dir: Where downloads are kept; the hub's usual place if None.

    Raises:
        FileNotFoundError: The configuration names a local file that is not there.
        CheckpointError: The file cannot be downloaded or read, or does not fit the model.
    """
    if not (config.state_dict or config.has_weights):
        raise CheckpointError(
            f"there are no pretrained weights of {config.architecture}: build it with pretrained=False, or give a "
            "local file with pretrained_cfg_overlay={'file': ...}"
        )
    target = unwrap(model)
    # Without the weights, which it would copy.
    described = replace(config, state_dict=None).to_dict()
    described["state_dict"] = config.state_dict
    filter_fn: Callable[..., Any] = checkpoint_filter_fn
    from_hub = config.hf_hub_id and config.hf_hub_filename
    if not config.state_dict and config.source not in ("hf-hub", "local-dir") and (config.file or from_hub):
        # Reading it here rather than by timm gives errors in one line, and takes every format under any name.
        path = Path(config.file) if config.file else _download(config, cache_dir)
        described["state_dict"] = read_checkpoint(path).state_dict
        filter_fn = partial(checkpoint_filter_fn, source=str(path))
        if count_classes(described["state_dict"]) == target.num_classes:
            described["num_classes"] = target.num_classes
    load_pretrained(target, described, target.num_classes, target.in_chans, filter_fn, cache_dir=cache_dir)


def checkpoint_filter_fn(
    state_dict: dict[str, Any], model: nn.Module, source: str = "the checkpoint"
) -> dict[str, Any]:
    """Our parameter names for whatever a checkpoint holds; timm calls it before it loads pretrained weights.

    timm then adapts the first convolution to the number of channels, and leaves the classifier out if the model was
    given another number of classes than the weights are said to have. Everything else must fit.

    Args:
        state_dict: Weights, bare or wrapped.
        model: The model that they are for.
        source: What to call the checkpoint in errors.

    Raises:
        CheckpointError: It does not fit the model.
    """
    weights = weights_in(state_dict, source)
    adapt_official_keys(weights)
    declared = getattr(model, "pretrained_cfg", {}).get("num_classes")
    other_classes = declared is not None and getattr(model, "num_classes", declared) != declared
    return fit(weights, model, source=source, new_head=other_classes, any_channels=True)


def accept_checkpoint_keys(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hook that lets `load_state_dict` of a feature extractor or headless model take the weights of a classifier.

    Args:
        model: A TransNeXt or timm's feature wrapper around one.
        state_dict: Parameters by name; changed in place.
        prefix: What stands before the names of the model's parameters.
    """
    weights = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    if backbone_prefix(weights) is None:
        return
    for key in weights:
        del state_dict[prefix + key]
    adapt_official_keys(weights)
    target = unwrap(model)
    inner = prefix if target is model else f"{prefix}model."
    state_dict.update({inner + key: value for key, value in without_absent_parts(weights, target).items()})


def download(
    repository: str,
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    otherwise: str = "pass a local file",
) -> Path:
    """A file of the hub, fetched once and kept.

    Args:
        repository: Its owner and name.
        filename: The file in it.
        revision: Branch, tag or commit; the newest if None.
        cache_dir: Where downloads are kept; the hub's usual place if None.
        otherwise: What to do without the hub, for errors.

    Raises:
        CheckpointError: It is neither in the cache nor can it be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    what = f"{filename} of {repository} on the hub"
    try:
        return Path(hf_hub_download(repository, filename, revision=revision, cache_dir=cache_dir))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{what} is not in the cache, and the hub cannot be reached: connect once, or {otherwise} "
            f"({first_line(error)})"
        ) from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise CheckpointError(f"{what} does not exist ({first_line(error)})") from error
    # The HTTP library behind the hub's client changes between versions, and its errors with it.
    except Exception as error:
        raise CheckpointError(f"{what} could not be downloaded: {first_line(error)}") from error


def _download(config: Any, cache_dir: str | Path | None) -> Path:
    repository, _, revision = config.hf_hub_id.partition("@")
    return download(
        repository,
        config.hf_hub_filename,
        revision=revision or None,
        cache_dir=cache_dir,
        otherwise="pass a local file with pretrained_cfg_overlay={'file': ...}",
    )
