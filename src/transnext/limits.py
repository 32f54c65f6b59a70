"""Limits of the numbers that users give; whatever does not lie within them is refused in one line that names it."""

import math
from collections.abc import Sequence

MAX_SIDE = 2**14
"""Largest side of an image that is brought to a size, pixels."""
MAX_WORKERS = 1024
"""Most reading processes."""
MAX_SEED = 2**32 - 1
"""Largest seed that NumPy takes."""


def check_number(name: str, value: float, low: float = 0, high: float = math.inf, *, above: bool = False) -> None:
    """Refuses a number out of range, and NaN and infinity always.

    Args:
        name: What the user calls it.
        value: The number.
        low: Least value.
        high: Largest value.
        above: Whether `low` itself is too little.

    Raises:
        ValueError: It is not between them.
    """
    if math.isfinite(value) and low <= value <= high and not (above and value == low):
        return
    if math.isfinite(high):
        expected = f"above {low:g}, at most {high:.10g}" if above else f"between {low:.10g} and {high:.10g}"
    else:
        expected = f"a number above {low:g}" if above else f"at least {low:g}"
    raise ValueError(f"{name} is {value}: expected {expected}")


def check_numbers(
    values: object, low: float = 0, high: float = math.inf, *, names: Sequence[str], above: bool = False
) -> None:
    """Refuses attributes out of range; None is no number, and passes.

    Args:
        values: What has them.
        low: As in `check_number`.
        high: As in `check_number`.
        names: Of the attributes.
        above: As in `check_number`.

    Raises:
        ValueError: One is not between them.
    """
    for name in names:
        value = getattr(values, name)
        if value is not None:
            check_number(name, value, low, high, above=above)
