"""The released checkpoints: where they are, and their parameter names against ours.

This is the one place that knows the released names. `{s}` counts stages from 1 there and from 0 here.
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


def is_official(keys: Iterable[str], prefix: str = "") -> bool:
    """Whether parameter names are the released ones."""
    return any(key.startswith(prefix + "patch_embed1.") for key in keys)


def adapt_official_keys(state_dict: MutableMapping[str, Any], prefix: str = "") -> None:
    """Renames released parameters to ours, in place; does nothing to a state dict that has our names.

    Args:
        state_dict: Parameters by name.
        prefix: What stands before the names of the model's parameters.
    """
    if not is_official(state_dict, prefix):
        return
    for key in list(state_dict):
        if key.startswith(prefix):
            state_dict[prefix + official_to_ours(key.removeprefix(prefix))] = state_dict.pop(key)
