"""What a check of annotated images has found, whatever they are annotated with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from transnext.data.names import printable

MAX_EXAMPLES = 5
"""So many of each kind are listed."""
CLASSES_SHOWN = 8
"""So many classes of a split are named."""
_MAX_LENGTH = 160


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        text: What it is, in the plural.
        action: What is done about it.
    """

    text: str
    action: str


@dataclass(frozen=True)
class Finding:
    """Something found, how often, and what was done.

    Attributes:
        kind: Its name.
        count: How often, at least 1.
        examples: The first of them, one line each.
        action: What was done.
        what: What it is, in the plural.
    """

    kind: str
    count: int
    examples: tuple[str, ...]
    action: str
    what: str

    @property
    def text(self) -> str:
        """One line, without examples."""
        return f"{self.what}: {self.count:,}, {self.action}"


class Findings:
    """Gathers findings.

    Args:
        kinds: All kinds by name, in the order in which they are reported.
    """

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Notes one."""
        self.add_all(kind, (example,), str)

    def add_all(self, kind: str, items: Iterable[Any], example: Callable[[Any], str]) -> None:
        """Notes many of one kind.

        Args:
            kind: Name of the kind.
            items: What was found.
            example: From one of them to its line; called for the first few alone.
        """
        examples = self._examples.setdefault(kind, [])
        for item in items:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            if len(examples) < MAX_EXAMPLES:
                examples.append(shortened(example(item)))

    def __getitem__(self, kind: str) -> int:
        return self._counts.get(kind, 0)

    def listed(self) -> tuple[Finding, ...]:
        """What was found, in the order of the kinds."""
        return tuple(
            Finding(name, self._counts[name], tuple(self._examples[name]), kind.action, kind.text)
            for name, kind in self._kinds.items()
            if name in self._counts
        )

    def worst(self) -> str:
        """The finding that cost most, with an example, for a message; empty if there is none."""
        costly = [found for found in self.listed() if "dropped" in found.action or found.action == "left out"]
        if not costly:
            return ""
        found = max(costly, key=lambda one: one.count)
        return f"{found.text} ({found.examples[0]})"


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Lines of a report for a terminal: each finding and its examples."""
    nothing = True
    for finding in findings:
        nothing = False
        yield finding.text
        yield from (f"    {example}" for example in finding.examples)
        if finding.count > len(finding.examples):
            yield f"    and {finding.count - len(finding.examples):,} more"
    if nothing:
        yield "nothing to complain about"


def shortened(text: str) -> str:
    """A text as one printable line of limited length."""
    text = printable(text)
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 4]} ..."


def shown(value: object) -> str:
    """A value of an annotation file for a message: short, whatever it holds."""
    if isinstance(value, str):
        return shortened(repr(value[:40]))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a huge number"
    if isinstance(value, float):
        return f"{value:g}"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__
