"""Folder of files that can be had again: downloads, lists of what is in an archive."""

import os
from pathlib import Path

VARIABLE = "TRANSNEXT_CACHE"
"""Environment variable that names another folder."""


def user_cache() -> Path:
    """Return `$TRANSNEXT_CACHE`, else `transnext` in `$XDG_CACHE_HOME` or `~/.cache`; the folder need not exist."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "transnext"
