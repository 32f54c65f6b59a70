"""Files that say what values or colours of label files mean."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from transnext.data.annotation_values import one_line, read_text, whole
from transnext.data.findings import shown
from transnext.data.names import printable
from transnext.data.segmentation.table import IGNORED, ClassTable, Colour, packed, value_table

CLASS_FILES = (
    "classes.json", "classes.txt", "class_names.txt", "labels.txt", "label_colors.txt", "label_colors.csv",
    "label_colours.txt", "class_dict.csv", "labelmap.txt", "_classes.csv", "objectInfo150.txt",
)  # fmt: skip
"""Names under which they are looked for."""
_LIMIT = 2**20
_MAX_VALUE = 2**31
_KEYS = ("classes", "names", "ignore", "reduce_zero_label")
_HEADER = re.compile(r"(?i)^(idx|id|name|class|label|value|pixel|#)")


def find_class_file(folders: list[Path]) -> Path | None:
    """Return the class file in one of some folders, None if there is none.

    Raises:
        ValueError: A folder has two.
    """
    for folder in dict.fromkeys(folders):
        found = [folder / name for name in CLASS_FILES if (folder / name).is_file()]
        if len(found) > 1:
            names = " and ".join(file.name for file in found)
            raise ValueError(f"{printable(folder)} has {names}: remove one, so that it is clear which classes count")
        if found:
            return found[0]
    return None


def read_class_file(file: Path) -> ClassTable:
    """Read a class file.

    - `classes.json`: a list of names, a mapping from values to names or from names to values or colours, or an object
      with `classes` (a list of names, or of objects with `name`, `value` and `color`) and, if wanted, `ignore` (values
      or colours) and `reduce_zero_label`.
    - text and CSV: a line for each class: its name, `value name`, `red green blue name` or `name,red,green,blue`,
      also as CVAT writes them, `name:red,green,blue::`.

    Raises:
        ValueError: It is broken, or unclear.
        OSError: It cannot be read.
    """
    text = read_text(str(file), _LIMIT)
    try:
        if file.suffix.lower() == ".json":
            return _from_json(text)
        return _from_lines([line.strip() for line in text.splitlines()])
    except ValueError as error:
        raise ValueError(f"{printable(file)}: {one_line(error)}") from None


def _from_json(text: str) -> ClassTable:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError):
        raise ValueError("broken JSON") from None
    more: dict[str, Any] = {}
    if isinstance(content, dict) and ("classes" in content or "names" in content):
        more = content
        if unknown := [key for key in content if key not in _KEYS]:
            raise ValueError(f"{shown(unknown[0])} is not understood: expected {', '.join(_KEYS)}")
        content = content.get("classes", content.get("names"))
    reduce = more.get("reduce_zero_label", False)
    if not isinstance(reduce, bool):
        raise ValueError(f"reduce_zero_label is {shown(reduce)}: expected true or false")
    entries = _entries(content)
    ignore = more.get("ignore", [])
    return _table(entries, reduce, ignore if isinstance(ignore, list) and not _is_colour(ignore) else [ignore])


Entry = tuple[str, "int | None", "Colour | None"]
"""Name, value, colour."""


def _entries(content: Any) -> list[Entry]:
    if isinstance(content, list):
        return [_entry(item) for item in content]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"it holds {shown(content)}, where the names of classes were expected")
    if all(isinstance(value, str) for value in content.values()):  # from values to names
        by_value = {_value(int(key) if _is_number(key) else key): name for key, name in content.items()}
        return [(_name(by_value[value]), value, None) for value in sorted(by_value)]
    return [
        (_name(name), None, _colour(value)) if isinstance(value, list) else (_name(name), _value(value), None)
        for name, value in content.items()
    ]


def _entry(item: Any) -> Entry:
    if not isinstance(item, dict):
        return _name(item), None, None
    value = next((item[key] for key in ("value", "id") if item.get(key) is not None), None)
    colour = next((item[key] for key in ("color", "colour") if item.get(key) is not None), None)
    return (
        _name(item.get("name")),
        None if value is None else _value(value),
        None if colour is None else _colour(colour),
    )


def _from_lines(lines: list[str]) -> ClassTable:
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ValueError("it is empty")
    tab = "\t" in lines[0]
    if tab and lines[0].split("\t")[0].strip().lower() == "idx":  # of ADE20K: Idx, Ratio, Train, Val, Name
        fields = [line.split("\t") for line in lines[1:]]
        if not all(len(row) > 1 and _is_number(row[0].strip()) for row in fields):
            raise ValueError("a line has no number")
        named = sorted((int(row[0]), _name(row[-1])) for row in fields)
        if [number for number, _ in named] != list(range(1, len(named) + 1)):
            raise ValueError("the numbers are not 1, 2, 3, ...")
        return value_table([name for _, name in named], reduce_zero_label=True)
    split = [_fields(line) for line in lines]
    for parse in (_coloured, _numbered):
        for skip in (0, 1):  # a line with headings
            rows = [parse(fields) for fields in split[skip:]]
            if rows and all(row is not None for row in rows) and (not skip or _HEADER.match(lines[0])):
                return _table([row for row in rows if row is not None], False, [])
    return _table([(_name(line), None, None) for line in lines], False, [])


def _fields(line: str) -> list[str]:
    if ":" in line and "," in line.split(":")[1]:  # of CVAT
        line = ",".join(line.split(":")[:2])
    separator = next((mark for mark in (",", "\t", ";") if mark in line), None)
    parts = line.split(separator) if separator else line.split()
    # Tabs may stand between numbers and name alone.
    if separator == "\t" and len(parts) > 1:
        parts = [piece for part in parts[:-1] for piece in part.split()] + [parts[-1]]
    return [part.strip() for part in parts if part.strip()]


def _coloured(fields: list[str]) -> Entry | None:
    """`red green blue name ...` or `name ... red green blue`."""
    if len(fields) < 4:
        return None
    if all(map(_is_byte, fields[:3])) and not _is_byte(fields[3]):
        return _name(" ".join(fields[3:])), None, _colour([int(part) for part in fields[:3]])
    if all(map(_is_byte, fields[-3:])):
        return _name(" ".join(fields[:-3])), None, _colour([int(part) for part in fields[-3:]])
    return None


def _numbered(fields: list[str]) -> Entry | None:
    """`value name ...`, or `name, value`."""
    if len(fields) < 2:
        return None
    first = fields[0].rstrip(":.")
    if _is_number(first):
        return _name(" ".join(fields[1:])), _value(int(first)), None
    return None


def _table(entries: list[Entry], reduce_zero_label: bool, ignore: list[Any]) -> ClassTable:
    names = [name for name, _, _ in entries]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two classes are called {twice!r}: rename one of them")
    valued = [value for _, value, _ in entries if value is not None]
    coloured = [colour for _, _, colour in entries if colour is not None]
    if len(valued) not in (0, len(entries)) or len(coloured) not in (0, len(entries)):
        raise ValueError("some classes have a value or a colour, and some have none")
    if reduce_zero_label and 0 in valued:
        raise ValueError("reduce_zero_label is true, and a class has the value 0: leave out one of them")
    ignored_values = [_value(value) for value in ignore if not isinstance(value, list)]
    table = value_table(
        names,
        reduce_zero_label=reduce_zero_label,
        values=valued or None,
        ignored=ignored_values,
        display=coloured or None,
    )
    if both := sorted(set(ignored_values) & table.values.keys()):
        raise ValueError(f"{both[0]} is the value of a class, and ignored")
    if not coloured:
        return table
    colours: dict[int, int] = {}
    for label, colour in enumerate(coloured):
        if colours.setdefault(packed(colour), label) != label:
            raise ValueError(f"{names[colours[packed(colour)]]!r} and {names[label]!r} have the same colour")
    nothing = [packed(_colour(value)) for value in ignore if isinstance(value, list)]
    if any(colour in colours for colour in nothing):
        raise ValueError("the colour of a class is ignored")
    return replace(table, colours={**colours, **dict.fromkeys(nothing, IGNORED)})


def _name(value: Any) -> str:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool) or not str(value).strip():
        raise ValueError(f"{shown(value)} is no name of a class")
    return printable(str(value).strip())[:200]


def _value(value: Any) -> int:
    number = whole(value)
    if number is None or not 0 <= number < _MAX_VALUE:
        raise ValueError(f"{shown(value)} is no value of a label file: expected a whole number of at least 0")
    return number


def _colour(value: Any) -> Colour:
    if not _is_colour(value):
        raise ValueError(f"{shown(value)} is no colour: expected three numbers of 0 to 255")
    return value[0], value[1], value[2]


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _is_byte(text: str) -> bool:
    return _is_number(text) and int(text) <= 255
