import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from transnext.tasks.classification.calibration import calibration


@pytest.mark.parametrize("num_bins", [1, 10, 15])
@pytest.mark.parametrize(("images", "classes"), [(1, 2), (7, 3), (2000, 10)])
def test_same_as_torchmetrics(images, classes, num_bins):
    logits = 3 * torch.randn(images, classes)
    target = torch.randint(classes, (images,))
    probability, predicted = logits.softmax(-1).max(-1)
    found = calibration(probability.numpy(), (predicted == target).numpy(), num_bins)
    for norm, value in (("l1", found.expected_error), ("max", found.maximum_error)):
        expected = multiclass_calibration_error(logits, target, classes, n_bins=num_bins, norm=norm)
        assert value == pytest.approx(float(expected), abs=1e-6)


def test_bins():
    found = calibration(np.array([0.05, 0.55, 0.95, 1.0]), np.array([False, True, True, False]), num_bins=10)
    assert found.counts.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert found.accuracy[[0, 5, 9]].tolist() == [0.0, 1.0, 0.5]
    assert np.isnan(found.accuracy[1])
    assert found.expected_error == pytest.approx((0.05 + 0.45 + 2 * abs(0.5 - 0.975)) / 4)


def test_a_model_that_gives_nan_is_merely_bad():
    assert calibration(np.array([np.nan, 0.5]), np.array([False, True])).counts.sum() == 2
