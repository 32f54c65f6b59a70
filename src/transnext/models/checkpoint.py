"""Weights in files: reading whatever holds a TransNeXt, loading it strictly, writing and converting.

No code of a file is ever run. Files written here are safetensors with our parameter names, and a header that says how
to build the model again.
"""

import json
import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import load_pretrained
from torch import Tensor, nn

from transnext.models.official import (
    adapt_official_keys,
    backbone_prefix,
    is_official,
    ours_to_official,
)
from transnext.models.transnext import TransNeXt

Names = Literal["ours", "official"]
TORCH_SUFFIXES = (".pth", ".pt", ".bin")

_HEADER = "transnext"
"""Entry of the safetensors header (and key in a `.pth` file) that holds our metadata, as JSON."""

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys that a training checkpoint may keep its weights under; the first that is there wins, as in timm."""

_SOURCE_ARGS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable"}
"""Arguments of `timm.create_model` that a checkpoint has no business to set: they make it read other files."""


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or does not fit the model."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        state_dict: Parameters with our names, on the CPU, as they were saved.
        metadata: What the file says of itself: for one of ours `architecture`, `model_args` and whatever training
            added.
        layout: Whose names the file has; "other" if it does not hold a TransNeXt, and the names are as in the file.
        dropped: Names in the file that were left out: the heads of a dense model, and buffers of the released code
            that follow from sizes.
    """

    state_dict: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    layout: Literal["ours", "official", "other"] = "ours"
    dropped: tuple[str, ...] = ()


# Reading


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads the TransNeXt in a file.

    Args:
        path: A torch file (zip or the older format) or safetensors; the content decides, not the suffix. The weights
            may be bare or under "model", "state_dict", "model_ema" or "state_dict_ema", with released names or ours,
            of a classifier or in a dense model (`backbone.*`).

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is not a checkpoint, is damaged, or has objects other than tensors among its weights.
    """
    tensors, metadata = read_tensors(path)
    if backbone_prefix(tensors) is None:
        return Checkpoint(state_dict=tensors, metadata=metadata, layout="other")
    state_dict = dict(tensors)
    adapt_official_keys(state_dict)
    kept = {id(tensor) for tensor in state_dict.values()}
    return Checkpoint(
        state_dict=state_dict,
        metadata=metadata,
        layout="official" if is_official(tensors) else "ours",
        dropped=tuple(key for key, tensor in tensors.items() if id(tensor) not in kept),
    )


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads all tensors of a checkpoint with the names they have there, heads of dense models included.

    Args:
        path: As for `read_checkpoint`.

    Returns:
        Tensors by name, on the CPU, and the metadata.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is not a checkpoint, is damaged, or has objects other than tensors among its weights.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: give the path of a checkpoint")
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(1024)
    if size == 0:
        raise CheckpointError(f"{path} is empty: copy or download it again")
    if head.startswith(b"PK\x03\x04"):
        return _read_torch(path, zipped=True)
    if head[8:9] == b"{":
        return _read_safetensors(path, size, int.from_bytes(head[:8], "little"))
    if head.startswith(b"\x80"):
        return _read_torch(path, zipped=False)
    raise CheckpointError(f"{path} is not a checkpoint (torch or safetensors){_what_else(head)}")


def _what_else(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return f": it begins with the bytes {head[:8].hex(' ')}"
        text = head[: error.start].decode()
    if re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE):
        return ": it is a web page; download the file itself"
    return f": it is text that begins with {text.strip()[:40]!r}"


def _read_safetensors(path: Path, size: int, header_size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if 8 + header_size > size:
        raise CheckpointError(f"{path} is cut off in its header: copy or download it again")
    try:
        with safe_open(path, "pt") as f:
            header = dict(f.metadata() or {})
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is cut off or damaged, copy or download it again (safetensors: {_first_line(error)})"
        ) from error
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    header.pop("format", None)
    return tensors, _parse_metadata(header, path)


def _parse_metadata(header: Mapping[str, Any], path: Path) -> dict[str, Any]:
    others = {key: value for key, value in header.items() if key != _HEADER}
    try:
        ours = json.loads(header.get(_HEADER, "{}"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the metadata entry {_HEADER!r} is not JSON ({error})") from error
    if not isinstance(ours, dict):
        raise CheckpointError(f"{path}: the metadata entry {_HEADER!r} is not a JSON object but {ours!r:.60}")
    return {**others, **ours}


def _read_torch(path: Path, zipped: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    # By this suffix alone torch.load would take it for safetensors; of an open file it does not know the name, but
    # cannot map it into memory either.
    renamed = path.suffix == ".safetensors"
    read = partial(torch.load, map_location="cpu", mmap=zipped and not renamed)
    try:
        with path.open("rb") if renamed else nullcontext(path) as file:
            try:
                content = read(file, weights_only=True)
            except pickle.UnpicklingError:
                # Training frameworks store objects of their own beside the weights, and PyTorch refuses the whole
                # file. The second reader is ours, and as harmless: see `_InertUnpickler`.
                if not isinstance(file, Path):
                    file.seek(0)
                content = read(file, weights_only=False, pickle_module=_inert_pickle())
    # A damaged file can make the reader fail in any way.
    except Exception as error:
        raise CheckpointError(
            f"{path} is cut off or damaged, or not a PyTorch checkpoint: copy or download it again "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error
    return _weights_in(content, path), _parse_metadata(_metadata_in(content), path)


def _metadata_in(content: Any) -> dict[str, Any]:
    entry = content.get(_HEADER) if isinstance(content, dict) else None
    return {_HEADER: entry} if isinstance(entry, str) else {}


def _weights_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a torch file holds; everything else in there is ignored."""
    if isinstance(content, _Inert):
        raise CheckpointError(
            f"{path} holds a pickled object ({content}), which can only be read by running code: "
            "save the model's state_dict() instead"
        )
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not the weights of a model")
    weights = next((content[key] for key in _WRAPPERS if content.get(key) is not None), content)
    if isinstance(weights, _Inert):
        raise CheckpointError(f"{path}: its weights are a pickled object ({weights}), not a dict of tensors")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path} has no weights under {', '.join(map(repr, content)) or 'any name'}")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            if not any(isinstance(v, Tensor) for v in weights.values()):
                names = ", ".join(repr(k) for k in list(weights)[:5])
                raise CheckpointError(f"{path} has no weights: it holds {names}, and no tensors under any of them")
            kind = f"a pickled object ({value})" if isinstance(value, _Inert) else f"a {type(value).__name__}"
            raise CheckpointError(
                f"{path}: {key!r} among the weights is {kind}, not a tensor; the file was refused, and none of its "
                "code was run"
            )
    return {key: value.detach() for key, value in weights.items()}


class _Inert:
    """Stands for an object whose class is unknown. Takes everything that unpickling does to it and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...

    def __str__(self) -> str:
        return type(self).__qualname__


class _InertUnpickler(pickle.Unpickler):
    """Makes tensors, and puts an `_Inert` for everything else that a file names. Imports nothing."""

    _MAKERS: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    }

    def find_class(self, module: str, name: str) -> Any:
        # Storage classes, which are data types only, are dealt with by torch before this.
        if (module, name) in self._MAKERS:
            maker = self._MAKERS[module, name]
            # A new function each time: a file can set attributes of what it gets, and must not reach the real one.
            return lambda *args: maker(*args)
        return type("_Inert", (_Inert,), {"__qualname__": f"{module}.{name}"})


def _inert_pickle() -> ModuleType:
    """A stand-in for the module `pickle`, for `torch.load`."""
    module = ModuleType("inert_pickle")
    module.Unpickler = _InertUnpickler  # type: ignore[attr-defined]
    module.load = lambda file, **kwargs: _InertUnpickler(file, **kwargs).load()  # type: ignore[attr-defined]
    return module


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# Loading


def load_checkpoint(model: nn.Module, path: str | Path, *, new_head: bool = False) -> Checkpoint:
    """Loads a file into a model, strictly: every parameter must be there with its shape, and no other.

    A classifier in the file is left out if the model has none; so are stages that a feature extractor has cut off.

    Args:
        model: A TransNeXt, timm's feature wrapper around one, or a model that contains one; or another model, with
            its own parameter names.
        path: As for `read_checkpoint`.
        new_head: Keep the model's classifier as it is if that of the file does not fit, or is not there.

    Returns:
        What was read.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file cannot be read, or does not fit the model.
    """
    target = _unwrap(model)
    inside = backbone_prefix(target.state_dict())
    if inside:
        # A dense model: its own checkpoint is wanted whole, not the backbone alone.
        tensors, metadata = read_tensors(path)
        layout: Literal["ours", "official"] = "official" if is_official(tensors) else "ours"
        adapt_official_keys(tensors, inside)
        checkpoint = Checkpoint(state_dict=tensors, metadata=metadata, layout=layout)
    else:
        checkpoint = read_checkpoint(path)
    fitted = _fit(checkpoint.state_dict, target, source=str(path), new_head=new_head)
    target.load_state_dict(fitted, strict=not new_head)
    return checkpoint


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
    weights = _weights_in(state_dict, Path(source))
    adapt_official_keys(weights)
    declared = getattr(model, "pretrained_cfg", {}).get("num_classes")
    other_classes = declared is not None and getattr(model, "num_classes", declared) != declared
    return _fit(weights, model, source=source, new_head=other_classes, any_channels=True)


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
    target = _unwrap(model)
    # Without the weights, which it would copy.
    described = replace(config, state_dict=None).to_dict()
    arguments = {"num_classes": target.num_classes, "in_chans": target.in_chans, "cache_dir": cache_dir}
    if not (config.state_dict or config.has_weights):
        raise CheckpointError(
            f"there are no pretrained weights of {config.architecture}: build it with pretrained=False, or give a "
            "local file with pretrained_cfg_overlay={'file': ...}"
        )
    from_hub = config.hf_hub_id and config.hf_hub_filename
    if config.state_dict or config.source in ("hf-hub", "local-dir") or not (config.file or from_hub):
        described["state_dict"] = config.state_dict
        load_pretrained(target, described, filter_fn=checkpoint_filter_fn, **arguments)
        return
    # Reading it here rather than by timm gives errors in one line, and takes every format under any name.
    path = Path(config.file) if config.file else _download(config, cache_dir)
    described["state_dict"] = read_checkpoint(path).state_dict
    classes = _count_classes(described["state_dict"])
    if classes is not None and classes == target.num_classes:
        described["num_classes"] = classes
    filter_fn = partial(checkpoint_filter_fn, source=str(path))
    load_pretrained(target, described, filter_fn=filter_fn, **arguments)


def _download(config: Any, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository, _, revision = config.hf_hub_id.partition("@")
    what = f"{config.hf_hub_filename} of {repository} on the hub"
    try:
        return Path(hf_hub_download(repository, config.hf_hub_filename, revision=revision or None, cache_dir=cache_dir))
    except LocalEntryNotFoundError as error:
        reason = "is not in the cache, and the hub cannot be reached: connect once, or pass a local file with "
        reason += f"pretrained_cfg_overlay={{'file': ...}} ({_first_line(error)})"
        raise CheckpointError(f"{what} {reason}") from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise CheckpointError(f"{what} does not exist ({_first_line(error)})") from error
    # The HTTP library behind the hub's client changes between versions, and its errors with it.
    except Exception as error:
        raise CheckpointError(f"{what} could not be downloaded: {_first_line(error)}") from error


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
    target = _unwrap(model)
    inner = prefix if target is model else f"{prefix}model."
    state_dict.update({inner + key: value for key, value in _without_absent_parts(weights, target).items()})


def _unwrap(model: nn.Module) -> nn.Module:
    wrapped = getattr(model, "model", None)
    return wrapped if isinstance(wrapped, nn.Module) and hasattr(model, "feature_info") else model


def _classifier_names(model: nn.Module) -> tuple[str, ...]:
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head.fc"
    return (names,) if isinstance(names, str) else tuple(names)


def _is_classifier(key: str, names: tuple[str, ...]) -> bool:
    return key.startswith(tuple(f"{name}." for name in names))


def _count_classes(state_dict: Mapping[str, Tensor], name: str = "head.fc") -> int | None:
    weight = state_dict.get(f"{name}.weight")
    return None if weight is None else weight.shape[0]


def _without_absent_parts(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Leaves out what the model was built without: the classifier, and stages that a feature extractor cut off."""
    expected = model.state_dict()
    head = _classifier_names(model)
    absent = () if any(_is_classifier(key, head) for key in expected) else tuple(f"{name}." for name in head)
    if isinstance(model, TransNeXt):
        absent += tuple(f"stages.{i}." for i in range(len(model.stages), len(model.feature_info)))
    return {key: value for key, value in state_dict.items() if not (absent and key.startswith(absent))}


def _fit(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    *,
    source: str,
    new_head: bool = False,
    any_channels: bool = False,
) -> dict[str, Tensor]:
    """What of a state dict goes into a model.

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
    head = _classifier_names(model)
    found = _without_absent_parts(state_dict, model)
    if new_head and any(_is_classifier(k, head) and tuple(v.shape) != expected.get(k) for k, v in found.items()):
        found = {key: value for key, value in found.items() if not _is_classifier(key, head)}
    missing = [key for key in expected if key not in found and not (new_head and _is_classifier(key, head))]
    unexpected = [key for key in found if key not in expected]
    reshaped = [key for key, v in found.items() if tuple(v.shape) != expected.get(key, tuple(v.shape))]
    first_conv = "stages.0.patch_embed.proj.weight"
    if any_channels and first_conv in reshaped:
        shape = tuple(found[first_conv].shape)
        if shape[:1] + shape[2:] == expected[first_conv][:1] + expected[first_conv][2:]:
            reshaped.remove(first_conv)
    if not (missing or unexpected or reshaped):
        return found

    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture") or type(model).__name__
    if all(_is_classifier(key, head) for key in missing + unexpected + reshaped):
        classes = _count_classes(found, head[0])
        theirs = "no classifier" if classes is None else f"a classifier of {classes} classes"
        ours = expected.get(f"{head[0]}.weight", ("other",))[0]
        raise CheckpointError(
            f"{source} has {theirs}, and the {name} to load it into one of {ours} classes: build the model with "
            f"num_classes={classes or 0}, or keep its new classifier with load_checkpoint(..., new_head=True)"
        )
    problems = []
    if missing:
        problems.append(f"{_parameters(missing)} missing ({_some(missing)})")
    if unexpected:
        problems.append(f"{_parameters(unexpected)} unexpected ({_some(unexpected)})")
    if reshaped:
        shapes = [f"{key}: {tuple(found[key].shape)} in the file, {expected[key]} in the model" for key in reshaped]
        problems.append(f"{_parameters(reshaped)} of another shape ({_some(shapes)})")
    raise CheckpointError(f"{source} does not fit {name}: {', '.join(problems)}. {_looks_like(state_dict)}")


def _parameters(keys: list[str]) -> str:
    return f"{len(keys)} parameter{'' if len(keys) == 1 else 's'}"


def _some(items: list[str], number: int = 3) -> str:
    return "; ".join(items[:number]) + ("; ..." if len(items) > number else "")


# Which model a file belongs to


def guess_variant(state_dict: Mapping[str, Tensor]) -> str | None:
    """The registered variant whose parameters have these shapes, whatever the number of classes.

    Args:
        state_dict: Parameters with our names.

    Returns:
        Its name, or None if there is none.
    """
    outline = _outline(state_dict)
    if not outline["depths"]:
        return None
    for name in timm.list_models("transnext_*"):
        if _outline_of_variant(name) == outline:
            return str(name)
    return None


@cache
def _outline_of_variant(name: str) -> dict[str, tuple[Any, ...]]:
    return _outline(timm.create_model(name, device="meta").state_dict())


def _outline(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    """Constructor arguments that shapes tell, one entry for each stage."""
    depths: dict[int, int] = {}
    for key in state_dict:
        if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key):
            stage, block = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)

    def size(name: str, axis: int = 0) -> tuple[int | None, ...]:
        found = [state_dict.get(f"stages.{stage}.{name}") for stage in sorted(depths)]
        return tuple(None if tensor is None or tensor.ndim <= axis else tensor.shape[axis] for tensor in found)

    return {
        "depths": tuple(depths[stage] for stage in sorted(depths)),
        "embed_dims": size("patch_embed.norm.weight"),
        "num_heads": size("blocks.0.attn.temperature"),
        "window_size": tuple(k and math.isqrt(k) for k in size("blocks.0.attn.relative_pos_bias_local", axis=1)),
    }


def _looks_like(state_dict: Mapping[str, Tensor]) -> str:
    outline = _outline(state_dict)
    if not outline["depths"]:
        return f"The file does not hold a TransNeXt: its first parameters are {_some(list(state_dict))}"
    name = guess_variant(state_dict) or "no registered variant"
    return f"The file looks like {name}: {', '.join(f'{key} {value}' for key, value in outline.items())}"


def model_from_checkpoint(path: str | Path, architecture: str | None = None, **overrides: Any) -> nn.Module:
    """Builds the model that a checkpoint was saved from, and loads it strictly.

    Args:
        path: As for `read_checkpoint`.
        architecture: The variant, for a file that does not say it, as the released ones. The number of classes and of
            channels is then read off the weights.
        overrides: Arguments of `timm.create_model` to use instead of those saved. With another `num_classes` the
            classifier is a new one.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file cannot be read, does not say what it holds, or does not fit what it says.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint.metadata.get("architecture")
    args: dict[str, Any] = {}
    if architecture is None or architecture == saved:
        args = checkpoint.metadata.get("model_args") or {}
        architecture = saved
    elif checkpoint.layout != "other":
        args["num_classes"] = _count_classes(checkpoint.state_dict) or 0
        if (conv := checkpoint.state_dict.get("stages.0.patch_embed.proj.weight")) is not None:
            args["in_chans"] = conv.shape[1]
    if architecture is None:
        raise CheckpointError(
            f"{path} does not say which model it holds, so name it: model_from_checkpoint(path, 'transnext_...'). "
            + _looks_like(checkpoint.state_dict)
        )
    # Names with a source ("hf-hub:...") would fetch other files; they are not models by timm's list.
    if not isinstance(architecture, str) or not timm.is_model(architecture.split(".")[0]):
        raise CheckpointError(f"{path}: no model is called {architecture!r}")
    if not isinstance(args, dict) or _SOURCE_ARGS & args.keys():
        raise CheckpointError(f"{path}: model_args in its metadata is not a set of model arguments: {args!r:.100}")
    new_head = "num_classes" in overrides and overrides["num_classes"] != args.get("num_classes")
    try:
        model: nn.Module = timm.create_model(architecture, **{**args, **overrides})
    except TypeError as error:
        raise CheckpointError(f"{path}: {architecture} cannot be built from {args!r:.200} ({error})") from error
    target = _unwrap(model)
    fitted = _fit(checkpoint.state_dict, target, source=str(path), new_head=new_head)
    target.load_state_dict(fitted, strict=not new_head)
    return model


# Writing


def save_checkpoint(path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes weights as safetensors, so that the file is there whole or not at all.

    Args:
        path: The file; one that exists is replaced.
        state_dict: Parameters by name.
        metadata: What `read_checkpoint` is to give back; anything that JSON can hold. For `model_from_checkpoint`,
            `architecture` and `model_args`, the arguments of `timm.create_model`.
    """
    # One entry: safetensors writes several in any order, and then the same weights would give different files.
    with _replacing(Path(path)) as temporary:
        save_file(_savable(state_dict), temporary, metadata={_HEADER: json.dumps(metadata)})


def convert_checkpoint(
    source: str | Path, target: str | Path, names: Names = "ours", *, overwrite: bool = False
) -> Checkpoint:
    """Writes the TransNeXt in a file with other parameter names or in another format. Metadata goes along.

    Args:
        source: As for `read_checkpoint`.
        target: `.safetensors`, or `.pth` (`.pt`, `.bin`) for a torch file with the weights under "model", as the
            released code reads them.
        names: Whose parameter names to write.
        overwrite: Whether `target` may exist.

    Returns:
        What was read. `dropped` says what of a dense model was left out.

    Raises:
        FileNotFoundError: There is no such file, or no folder for the target.
        CheckpointError: The source cannot be read or is no TransNeXt, or the target exists or has another suffix.
    """
    target = Path(target)
    if names not in ("ours", "official"):
        raise CheckpointError(f"names is {names!r}: expected 'ours' or 'official'")
    if target.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise CheckpointError(f"{target}: the suffix decides the format, use .safetensors or .pth")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists: choose another name, or allow to overwrite it (--overwrite)")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}")
    checkpoint = read_checkpoint(source)
    if checkpoint.layout == "other":
        raise CheckpointError(f"{source}: {_looks_like(checkpoint.state_dict)}")
    weights = checkpoint.state_dict
    if names == "official":
        weights = {ours_to_official(key): tensor for key, tensor in weights.items()}
    if target.suffix == ".safetensors":
        save_checkpoint(target, weights, checkpoint.metadata)
    else:
        content: dict[str, Any] = {"model": _savable(weights)}
        if checkpoint.metadata:
            content[_HEADER] = json.dumps(checkpoint.metadata)
        with _replacing(target) as temporary:
            torch.save(content, temporary)
    return checkpoint


def _savable(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that own their memory: neither format stores views well."""
    tensors: dict[str, Tensor] = {}
    owners: set[int] = set()
    for key, value in state_dict.items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes or tensor.data_ptr() in owners:
            tensor = tensor.clone()
        owners.add(tensor.data_ptr())
        tensors[key] = tensor
    return tensors


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, or goes away if something fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that the owner alone can read
        with temporary.open("r+b") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
