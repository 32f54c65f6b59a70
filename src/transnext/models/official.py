"""The released parameter names against ours. This is the one place that knows them.

The number of a stage counts from 1 in released names and from 0 in ours.
"""

import re
from collections.abc import Iterable, MutableMapping
from typing import Any

_TO_OURS = (
    (re.compile(r"^patch_embed(\d+)\."), lambda m: f"stages.{int(m[1]) - 1}.patch_embed."),
    (
        re.compile(r"^block(\d+)\.(\d+)\.mlp\.dwconv\.dwconv\."),
        lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}.mlp.dwconv.",
    ),
    (re.compile(r"^block(\d+)\.(\d+)\."), lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
    (re.compile(r"^norm(\d+)\."), lambda m: f"stages.{int(m[1]) - 1}.norm."),
    (re.compile(r"^head\.(?!fc\.)"), lambda m: "head.fc."),
)
_TO_OFFICIAL = (
    (re.compile(r"^stages\.(\d+)\.patch_embed\."), lambda m: f"patch_embed{int(m[1]) + 1}."),
    (
        re.compile(r"^stages\.(\d+)\.blocks\.(\d+)\.mlp\.dwconv\."),
        lambda m: f"block{int(m[1]) + 1}.{m[2]}.mlp.dwconv.dwconv.",
    ),
    (re.compile(r"^stages\.(\d+)\.blocks\.(\d+)\."), lambda m: f"block{int(m[1]) + 1}.{m[2]}."),
    (re.compile(r"^stages\.(\d+)\.norm\."), lambda m: f"norm{int(m[1]) + 1}."),
    (re.compile(r"^head\.fc\."), lambda m: "head."),
)
_ANY_BLOCK = re.compile(r"^(?P<prefix>.*?)(?:block\d+|stages\.\d+\.blocks)\.\d+\.attn\.query_embedding$")
_OFFICIAL_PATCH_EMBED = re.compile(r"(?:^|\.)patch_embed\d+\.")
_POSITION_BUFFER = re.compile(
    r"(?:^|[._])(?:relative_pos_index|relative_coords_table|(?:local_|pool_)?seq_length(?:_scale)?|padding_mask)\d*$"
)


def official_to_ours(key: str) -> str:
    """Our name of a released parameter; a name that is not a released one comes back as it is."""
    return _translate(key, _TO_OURS)


def ours_to_official(key: str) -> str:
    """The released name of one of our parameters; another name comes back as it is."""
    return _translate(key, _TO_OFFICIAL)


def _translate(key: str, rules: Iterable[tuple[re.Pattern[str], Any]]) -> str:
    for pattern, replacement in rules:
        key, found = pattern.subn(replacement, key, count=1)
        if found:
            return key
    return key


def is_official(keys: Iterable[str]) -> bool:
    """Tells if parameter names, with any prefix, are the released ones."""
    return any(_OFFICIAL_PATCH_EMBED.search(key) for key in keys)


def is_position_buffer(key: str) -> bool:
    """Tells if a name is that of an index, table, mask or length that the released code derives from sizes."""
    return _POSITION_BUFFER.search(key) is not None


def backbone_prefix(keys: Iterable[str]) -> str | None:
    """The prefix of the parameter names of the TransNeXt that a state dict holds, released names or ours.

    It is empty for a classifier, "backbone." for a dense model, "module." or the like for a wrapped one.

    Returns:
        The prefix, the shortest if there are several; None if there is no TransNeXt.
    """
    # No other network has a parameter of that name in its blocks.
    prefixes = {match["prefix"] for match in map(_ANY_BLOCK.match, keys) if match}
    return min(prefixes, key=len, default=None)


def adapt_official_keys(state_dict: MutableMapping[str, Any], prefix: str = "") -> None:
    """Renames the parameters of a TransNeXt to ours, in place.

    Takes released names and ours, those of a wrapped model (`module.*`), and those of a dense model, of which only
    `backbone.*` stays. A state dict without a TransNeXt is left alone, apart from names that are released ones.

    Args:
        state_dict: Parameters by name.
        prefix: What stands before the names of the model's parameters. Names without it are not touched.
    """
    weights = {key.removeprefix(prefix): state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)}
    inner = backbone_prefix(weights) or ""
    for key, value in weights.items():
        if key.startswith(inner) and not is_position_buffer(key):
            state_dict[prefix + official_to_ours(key.removeprefix(inner))] = value
