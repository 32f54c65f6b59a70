import numpy as np
import pytest

from transnext.tasks.classification.intervals import bootstrap_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_interval(successes, trials, expected):
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(("correct", "total"), [(370, 592), (3, 20), (1, 1), (0, 5)])
def test_bootstrap_is_that_of_resampled_images(correct, total):
    outcomes = np.arange(total) < correct
    draws = np.random.default_rng(1).integers(total, size=(4000, total))
    expected = np.quantile(outcomes[draws].mean(axis=1), (0.025, 0.975))
    assert bootstrap_interval(correct, total) == pytest.approx(expected, abs=2 / total if total < 50 else 0.004)


def test_bootstrap_is_seeded():
    assert bootstrap_interval(100, 300, resamples=500) == bootstrap_interval(100, 300, resamples=500)
    assert bootstrap_interval(100, 300, resamples=500) != bootstrap_interval(100, 300, resamples=500, seed=1)
    assert bootstrap_interval(0, 0) == (0.0, 1.0)
