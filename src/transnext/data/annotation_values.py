"""Values and texts of annotation files, which may hold anything."""

from __future__ import annotations

import math
from typing import Any

from transnext.data.names import printable


def number(value: Any) -> float:
    """A number of an annotation file; NaN if it is none, infinity if it is huge."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole(value: Any) -> int | None:
    """A whole number of an annotation file that fits 64 bits; None if it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def one_line(error: BaseException) -> str:
    """What an error says."""
    return " ".join(printable(str(error)).split())[:200] or type(error).__name__


def read_bytes(path: str, limit: int) -> bytes:
    """Reads a file.

    Args:
        path: The file.
        limit: Most bytes that it may have.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, or is larger.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - ten thousands of small files
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {printable(path)}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{printable(path)} cannot be read: {one_line(error)}") from None
    if len(data) > limit:
        raise ValueError(f"{printable(path)} is larger than the limit of {limit:,} bytes")
    return data


def read_text(path: str, limit: int) -> str:
    """Reads a text file in UTF-8; arguments and errors as of `read_bytes`, and a ValueError for other texts."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)} is not UTF-8 text: {one_line(error)}") from None


def roboflow_group(name: str) -> str | None:
    """The picture that Roboflow made `name` from by augmentation, None if the name does not say so."""
    stem, mark, _ = name.rpartition(".rf.")
    return stem or None if mark else None
