"""Values as text of a page. Every function gives text that is safe inside HTML and XML."""

import html
import math
import re

NOTHING = "–"
"""Stands for a value that is absent or not finite."""

# Not allowed in XML, and of no use in HTML: control characters, halves of surrogate pairs (as Python makes them from
# file names that are not UTF-8) and noncharacters. Nor are marks that reverse the direction of the text around them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


def escape(value: object) -> str:
    """`str(value)` with nothing in it that HTML would take for markup, inside quoted attributes too."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", str(value)), quote=True)


def finite(value: object) -> float | None:
    """The value as a float; None if it is absent, no number or not finite."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction 0..1 as "83.4 %"."""
    fraction = finite(fraction)
    return NOTHING if fraction is None else f"{100 * fraction:.{digits}f}\u202f%"


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant ones, small and large ones as "2e-5"."""
    value = finite(value)
    if value is None:
        return NOTHING
    text = f"{value:,.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"
    return re.sub(r"e([+-])0*(\d)", lambda m: f"e{m[1].strip('+')}{m[2]}", text)


def rate(value: float | None) -> str:
    """A number of things per second, "349", "4.2" where it is below 10."""
    value = finite(value)
    return NOTHING if value is None else f"{value:.{int(value < 9.95)}f}"


def percent_of(fraction: float, digits: int) -> str:
    """A fraction 0..1 as "83.4 %", with `digits` significant digits."""
    return f"{number(100 * fraction, digits)}\u202f%"


def count(value: int, noun: str = "") -> str:
    """A count, with its noun in the plural unless it is 1: "2,185 images"."""
    return f"{value:,}" + (f" {noun}{'' if value == 1 else 's'}" if noun else "")


def magnitude(value: float) -> str:
    """A large number in short: "28.3 M"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{number(value / limit)}\u202f{unit}"
    return number(value)


def duration(seconds: float | None) -> str:
    """A time in its two largest units: "2 h 5 min"."""
    seconds = finite(seconds)
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{number(seconds, 2 if seconds < 10 else 3)}\u202fs"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    large, small = (f"{hours}\u202fh", f"{m}\u202fmin") if hours else (f"{m}\u202fmin", f"{s}\u202fs")
    return f"{large} {small}"
