import json

import numpy as np
import pytest

from transnext.data.corruptions import CORRUPTIONS
from transnext.studies.corruptions import (
    ALEXNET_ERRORS,
    KINDS,
    RobustnessResult,
    robustness_as_dict,
    robustness_from_dict,
    robustness_line,
)

PRINTED = (88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7)
"""AlexNet's errors as the paper prints them, in its order."""


def result(top1=None, corruptions=CORRUPTIONS, clean=0.8) -> RobustnessResult:
    if top1 is None:
        top1 = np.linspace(0.7, 0.1, 5 * len(corruptions)).reshape(len(corruptions), 5)
    return RobustnessResult(split="val", images=10, clean=clean, corruptions=corruptions, top1=top1)


def test_alexnet_is_the_unit():
    assert tuple(ALEXNET_ERRORS) == CORRUPTIONS
    assert [100 * e for e in ALEXNET_ERRORS.values()] == pytest.approx(PRINTED, abs=0.0501)
    alexnet = np.repeat([[1 - e] for e in ALEXNET_ERRORS.values()], 5, axis=1)
    assert result(alexnet).mce == pytest.approx(1)
    assert result(1 - (1 - alexnet) / 2).mce == pytest.approx(0.5)
    # Weighted by corruption, not by error: halving the smallest error counts as much as halving the largest.
    better = alexnet.copy()
    better[10] = 1 - (1 - better[10]) / 2
    assert result(better).mce == pytest.approx(1 - 0.5 / 15)


def test_errors():
    r = result(np.array([[0.8, 0.6, 0.4, 0.2, 0.0], [1.0, 1.0, 1.0, 0.5, 0.5]]), ("fog", "snow"))
    assert r.errors == pytest.approx([0.6, 0.2])
    assert r.mean_error == pytest.approx(0.4)
    assert r.relative_error == pytest.approx(0.2)
    assert r.by_severity == pytest.approx([0.9, 0.8, 0.7, 0.35, 0.25])
    assert r.mce is None
    assert "40.0%, 20.0 points more" in robustness_line(r)
    assert result(clean=None).relative_error is None


def test_json_and_back():
    top1 = result().top1.copy()
    top1[3, 2] = np.nan
    for r in (result(), result(top1), result(clean=None)):
        plain = json.loads(json.dumps(robustness_as_dict(r), allow_nan=False))
        again = robustness_from_dict(plain)
        assert np.array_equal(again.top1, r.top1, equal_nan=True)
        assert (again.corruptions, again.clean, again.images, again.split) == (CORRUPTIONS, r.clean, 10, "val")
    assert result(top1).mce is None


def test_every_corruption_is_of_a_kind():
    assert sum(KINDS.values(), ()) == CORRUPTIONS
