import math

import numpy as np
import pytest

from transnext.report.charts import Series, line_chart, nice_ticks
from transnext.report.confusion import most_confused
from transnext.report.history import best_epoch, total_of
from transnext.report.text import duration, escape, magnitude, number, percent, rate


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.613, 0.842), (3, 3), (0, 0), (-2, 5), (1e-6, 2e-3), (1e5, 3e9), (0.99999, 1.0)]
)
def test_ticks_span_the_values(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(("low", "high"), [(0.97, 1.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.013)])
def test_ticks_stay_within_limits(low, high):
    ticks = nice_ticks(low, high, (0.0, 1.0))
    assert len(ticks) >= 2
    assert ticks[0] >= 0
    assert ticks[-1] <= 1


def test_a_gap_where_the_value_is_no_number():
    points = [(1, 1.0), (2, 2.0), (3, math.nan), (4, 1.0), (5, 1.5), (6, math.inf), (7, 1.0)]
    chart = line_chart("Loss", [Series(label="training", points=points, style="train")], number)
    lines = chart.split('<g class="train">')[1].split("</g>")[0]
    assert lines.count("<path") == 2
    assert lines.count("<circle") == 1


def test_a_chart_of_nothing_is_left_out():
    assert line_chart("Loss", [Series(label="training", points=[(1, math.nan)], style="train")], number) == ""


def test_a_legend_says_what_it_is_told():
    points = [(0, 1.0), (1, 0.0)]
    chart = line_chart("Precision", [Series(label="cat", points=points, style="line1", figure="83 %")], number)
    assert "cat <b>83 %</b>" in chart
    assert "At the end" not in chart
    assert 'legend"></ul>' in line_chart("Loss", [Series(label="training", points=points, style="train")], number)


def test_most_confused_pairs():
    confusion = np.array([[9, 2, 0], [5, 9, 2], [0, 0, 9]])
    assert most_confused(confusion, 10) == [(1, 0, 5), (0, 1, 2), (1, 2, 2)]
    assert most_confused(confusion, 1) == [(1, 0, 5)]
    assert confusion[0, 0] == 9


def test_best_epoch_is_the_first_of_the_best():
    history = [{"epoch": e, "val_top1": v} for e, v in ((1, 0.5), (2, math.nan), (3, 0.8), (4, 0.8))]
    assert best_epoch(history, "val_top1") == (0.8, 3)
    assert best_epoch([{"epoch": 1}], "val_top1") is None
    assert total_of([{"seconds": 2.0}, {"seconds": math.nan}, {}], "seconds") == 2.0


def test_text():
    assert percent(0.8337) == "83.4\u202f%"
    assert percent(math.nan) == "–"
    assert [number(v) for v in (0.12345, 2e-5, 12345.6, 0.0, -3.0)] == ["0.123", "2e-5", "12,346", "0", "-3"]
    assert [duration(v).replace("\u202f", " ") for v in (0.5, 59.99, 61, 3661, 7322)] == [
        "0.5 s",
        "1 min 0 s",
        "1 min 1 s",
        "1 h 1 min",
        "2 h 2 min",
    ]
    assert [magnitude(v).replace("\u202f", " ") for v in (950, 28_258_960, 1.2e9)] == ["950", "28.3 M", "1.2 G"]
    assert [rate(v) for v in (348.6, 10.4, 9.97, 9.94, 0.31, None, float("nan"))] == [
        "349",
        "10",
        "10",
        "9.9",
        "0.3",
        "–",
        "–",
    ]
    assert escape("<a href='x'>&\"\x00") == "&lt;a href=&#x27;x&#x27;&gt;&amp;&quot;\ufffd"
