"""Reading of a file of weights: its format is told by its content, and its weights come out with our names."""

import codecs
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from transnext.models.checkpoint import inert_pickle
from transnext.models.official import adapt_official_keys, backbone_prefix, is_official

METADATA_KEY = "transnext"
"""Entry of the safetensors header (and key in a `.pth` file) that holds our metadata, as JSON."""

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys that a training checkpoint may keep its weights under; the first that is there wins, as in timm."""


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or does not fit the model."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of a checkpoint.

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
    with path.open("rb") as f:
        head = f.read(1024)
    if not head:
        raise CheckpointError(f"{path} is empty: copy or download it again")
    # A header of safetensors may be as long as the first byte of a pickle says: 128 more than a multiple of 256.
    header_size = int.from_bytes(head[:8], "little") if head[8:9] == b"{" else None
    is_safetensors = header_size is not None and header_size < path.stat().st_size
    if head.startswith(b"PK\x03\x04") or (head.startswith(b"\x80") and not is_safetensors):
        return _read_torch(path)
    if header_size is not None:
        return _read_safetensors(path, header_size=header_size)
    raise CheckpointError(f"{path} is not a checkpoint (torch or safetensors){_what_else(head)}")


def weights_in(content: Any, source: str | Path) -> dict[str, Tensor]:
    """The state dict in what a torch file holds; everything else in there is ignored.

    Args:
        content: Weights, bare or wrapped.
        source: Where it comes from, for messages.

    Raises:
        CheckpointError: There are none, or not only tensors among them.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} holds {_kind(content)}, not weights: save the model's state_dict() instead")
    wrapper = next((key for key in _WRAPPERS if content.get(key) is not None), None)
    weights = content if wrapper is None else content[wrapper]
    if not isinstance(weights, dict):
        raise CheckpointError(f"{source} has no weights under {wrapper!r}, but {_kind(weights)}")
    if not any(isinstance(value, Tensor) for value in weights.values()):
        names = ", ".join(repr(key) for key in list(weights)[:5])
        raise CheckpointError(f"{source} has no weights: it holds {names or 'nothing'}, and no tensors")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{source}: {key!r} among the weights is {_kind(value)}, not a tensor; the file was refused, and none "
                "of its code was run"
            )
    return {key: value.detach() for key, value in weights.items()}


def first_line(error: BaseException) -> str:
    """Message of an error, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _what_else(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return f": it begins with the bytes {head[:8].hex(' ')}"
    if re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE):
        return ": it is a web page; download the file itself"
    return f": it is text that begins with {text.strip()[:40]!r}"


def _read_safetensors(path: Path, header_size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if 8 + header_size > path.stat().st_size:
        raise CheckpointError(f"{path} is cut off in its header: copy or download it again")
    try:
        with safe_open(path, "pt") as f:
            header = dict(f.metadata() or {})
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is cut off or damaged, copy or download it again (safetensors: {first_line(error)})"
        ) from error
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    header.pop("format", None)
    return tensors, _parse_metadata(header, path)


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        # Of an open file torch.load does not know the name; by the suffix alone it may take it for safetensors.
        with path.open("rb") as file:
            try:
                content = torch.load(file, "cpu", weights_only=True)
            except pickle.UnpicklingError:
                # Training frameworks store objects of their own beside the weights, and PyTorch refuses the whole
                # file. The second reader is ours, and as harmless.
                file.seek(0)
                content = torch.load(file, "cpu", pickle_module=inert_pickle, weights_only=False)
    # A damaged file can make the reader fail in any way.
    except Exception as error:
        raise CheckpointError(
            f"{path} is cut off or damaged, or not a PyTorch checkpoint: copy or download it again "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    weights = weights_in(content, path)
    ours = content.get(METADATA_KEY)
    return weights, _parse_metadata({METADATA_KEY: ours} if isinstance(ours, str) else {}, path)


def _parse_metadata(header: Mapping[str, str], path: Path) -> dict[str, Any]:
    others = {key: value for key, value in header.items() if key != METADATA_KEY}
    try:
        ours = json.loads(header.get(METADATA_KEY, "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path}: the metadata entry {METADATA_KEY!r} is not JSON ({error})") from error
    if not isinstance(ours, dict):
        raise CheckpointError(f"{path}: the metadata entry {METADATA_KEY!r} is not a JSON object but {ours!r:.60}")
    return {**others, **ours}


def _kind(value: Any) -> str:
    return f"a pickled object ({value})" if isinstance(value, inert_pickle.Inert) else f"a {type(value).__name__}"
