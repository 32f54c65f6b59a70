"""Holding out images, by groups that belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from transnext.data.split_names import SPLITS


def held_out(keys: Sequence[str], val_fraction: float, seed: int) -> list[bool]:
    """Return which images are held out.

    The choice for a group depends only on its key and on `seed`, so that it stays when other images come and go; but
    where there are two groups or more, at least one is in each part.

    Args:
        keys: Of each image: its group, or its path if it is by itself.
        val_fraction: Share of the groups that is held out, 0 <= `val_fraction` < 1.
        seed: Another seed gives another choice.
    """
    draws = {key: _uniform(key, seed) for key in keys}
    ordered = sorted(draws.values())
    threshold = 0.0
    if len(ordered) > 1 and val_fraction > 0:
        threshold = min(max(val_fraction, ordered[1]), ordered[-1])
    return [draws[key] < threshold for key in keys]


def ordered_names(names: Sequence[str]) -> list[str]:
    """Return names of splits in order: `train`, `val`, `test`, then others by name."""
    known = [name for name in SPLITS if name in names]
    return known + sorted(name for name in names if name not in SPLITS)


def _uniform(key: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments, on any machine."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogateescape"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
