import numpy as np
import pytest

from transnext.data import open_dataset
from transnext.engine import Evaluator
from transnext.studies.corruptions import measure_robustness
from transnext.studies.sizes import measure_scales


class Some:
    """Every tenth image of a source."""

    def __init__(self, source, step=10):
        self.source, self.step, self.classes = source, step, source.classes

    def __len__(self):
        return len(self.source) // self.step

    def load(self, index, min_side=None):
        return self.source.load(index * self.step, min_side)

    def target(self, index):
        return self.source.target(index * self.step)

    def name(self, index):
        return self.source.name(index * self.step)


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator("transnext_pico.emoji", workers=0, device="cpu")


@pytest.fixture(scope="module")
def source():
    return Some(open_dataset("emoji")["val"])


def test_accuracy_falls_with_severity(evaluator, source):
    result = measure_robustness(evaluator, source, corruptions=("fog", "pixelate", "fog"))
    assert result.corruptions == ("fog", "pixelate")
    assert result.images == len(source)
    assert result.clean > result.by_severity[0] > result.by_severity[2] > result.by_severity[4]
    assert result.relative_error > 0.05
    again = measure_robustness(evaluator, source, corruptions=("fog",))
    assert np.array_equal(again.top1[0], result.top1[0])
    other = measure_robustness(evaluator, source, corruptions=("fog",), seed=1)
    assert not np.array_equal(other.top1, again.top1)


def test_corruptions_have_names(evaluator, source):
    with pytest.raises(ValueError, match="no corruption is called 'frogs': did you mean frost"):
        measure_robustness(evaluator, source, corruptions=("fog", "frogs"))


def test_sizes(evaluator, source):
    result = measure_scales(evaluator, source, scales=(1, 1.5, 1.5))
    points = {(p.mode, p.size): p for p in result.points}
    assert list(points) == [(mode, size) for mode in ("extrapolate", "interpolate", "linear") for size in (64, 96)]
    at_64 = {p.top1 for p in result.points if p.size == 64}
    assert at_64 == {evaluator.run(evaluator.images(source), "val").top1}
    assert points["linear", 96].macs < points["extrapolate", 96].macs
    assert points["linear", 64].macs == points["extrapolate", 64].macs
    assert result.trained_size == 64
    assert evaluator.loaded.model.fixed_pool_size is None


def test_scales_are_positive(evaluator, source):
    with pytest.raises(ValueError, match="scale is 0: expected more than 0"):
        measure_scales(evaluator, source, scales=(1, 0))
