"""The learning curves of a run and the table behind them."""

from collections.abc import Callable, Mapping, Sequence

from transnext.report.charts import Series, line_chart
from transnext.report.tables import folded, number_table
from transnext.report.text import NOTHING, count, duration, finite, number, percent_of

History = Sequence[Mapping[str, float]]


def best_epoch(history: History, key: str) -> tuple[float, int] | None:
    """The largest finite value of a key and its epoch, the earliest if several share it; None if there is none."""
    points = [(value, -epoch) for epoch, value in _points(history, key) if finite(value) is not None]
    if not points:
        return None
    value, epoch = max(points)
    return value, int(-epoch)


def total_of(history: History, key: str) -> float | None:
    """Sum of the finite values of a key; None if there are none."""
    values = [value for _, value in _points(history, key) if finite(value) is not None]
    return sum(values) if values else None


def curves_section(history: History) -> str:
    """Each number of training and validation by epoch, the learning rate, and all numbers in a table."""
    if not history:
        return '<p class="note">No epoch was recorded.</p>'
    names = dict.fromkeys(key.partition("_")[2] for key in _keys(history) if key.startswith(("train_", "val_")))
    charts = []
    for name in names:
        series = [_series(history, "training", f"train_{name}"), _series(history, "validation", f"val_{name}")]
        values = [value for s in series for _, value in s.points if finite(value) is not None]
        # What lies in 0..1 in every epoch is a share of something, but for losses.
        if "loss" not in name and values and min(values) >= 0 and max(values) <= 1:
            charts.append(line_chart(_title(name), series, percent_of, limits=(0.0, 1.0)))
        else:
            charts.append(line_chart(_title(name), series, number))
    charts.append(line_chart("Learning rate", [_series(history, "learning rate", "lr")], number))
    return f'<div class="charts">{"".join(charts)}</div>{_not_finite(history)}{_table(history)}'


def _keys(history: History) -> list[str]:
    """Names of the recorded metrics, in the order in which they came."""
    return list(dict.fromkeys(key for entry in history for key in entry))


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _points(history: History, key: str) -> list[tuple[float, float]]:
    """Epoch and value where the key is there; the value may be NaN."""
    return [(_epoch(history, i), entry[key]) for i, entry in enumerate(history) if entry.get(key) is not None]


def _epoch(history: History, index: int) -> int:
    epoch = finite(history[index].get("epoch"))
    return index + 1 if epoch is None else int(epoch)


def _series(history: History, label: str, key: str) -> Series:
    style = {"training": "train", "validation": "val"}.get(label, "other")
    return Series(label=label, points=_points(history, key), style=style)


def _not_finite(history: History) -> str:
    """A warning about losses that are not numbers: the first sign of a run that diverged."""
    notes = []
    for key, name in (("train_loss", "Training loss"), ("val_loss", "Validation loss")):
        epochs = [f"{epoch:g}" for epoch, value in _points(history, key) if finite(value) is None]
        if epochs:
            rest = f" and {len(epochs) - 10} more" if len(epochs) > 10 else ""
            where = f"epoch{'' if len(epochs) == 1 else 's'} {', '.join(epochs[:10])}{rest}"
            notes.append(f'<p class="note warn">{name} was not a finite number in {where}.</p>')
    return "".join(notes)


def _table(history: History) -> str:
    shows: dict[str, Callable[[float | None], str]] = {"seconds": duration}
    columns = [
        key for key in _keys(history) if key != "epoch" and any(finite(entry.get(key)) is not None for entry in history)
    ]
    rows = [
        [f"{_epoch(history, i)}", *(_cell(entry.get(key), shows.get(key, number)) for key in columns)]
        for i, entry in enumerate(history)
    ]
    table = number_table("All epochs", ["Epoch", *map(_title, columns)], rows)
    return folded(f"{count(len(history), 'epoch')} in numbers", table)


def _cell(value: float | None, show: Callable[[float | None], str]) -> str:
    # Not a number and not measured are different things to know.
    return str(value) if value is not None and show(value) == NOTHING else show(value)
