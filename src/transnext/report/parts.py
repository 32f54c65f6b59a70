"""Parts of a page: sections, and results as named numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page with a heading of its own.

    Attributes:
        key: Its anchor.
        title: Its heading.
        html: Its content, well-formed XML; nothing is shown where it is empty.
    """

    key: str
    title: str
    html: str


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how good a model is, and how it is shown.

    Attributes:
        title: What a reader calls it.
        value: The number; NaN if there was nothing to measure.
        interval: 95 % interval, `(low, high)`; None if it has none.
        percent: Show it as a percentage.
    """

    title: str
    value: float
    interval: tuple[float, float] | None = None
    percent: bool = True

    def text(self) -> str:
        """The value as a reader wants it."""
        return f"{self.value:.1%}" if self.percent else f"{self.value:.3f}"


class Result(Protocol):
    """Result of evaluating one split."""

    @property
    def split(self) -> str:
        """Name of the split."""

    @property
    def num_images(self) -> int:
        """Images evaluated."""

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Name and reason of images that could not be read; they count nowhere."""

    @property
    def images_per_second(self) -> float | None:
        """Speed of the model alone, reading not counted; None if it was not measured."""

    @property
    def score(self) -> float:
        """Number by which weights are the best; higher is better."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Named numbers, the main one first."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
