import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transnext.engine.order import epoch_order

labels_of = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(np.array)
epochs = st.integers(0, 400)
seeds = st.integers(0, 2**32)


@given(labels_of, seeds, epochs, st.integers(1, 5), st.booleans())
def test_a_pure_function_of_the_length_asked_for(labels, seed, epoch, repeats, balanced) -> None:
    order, augmentation = epoch_order(labels, seed, epoch, repeats=repeats, balanced=balanced)
    again = epoch_order(labels.copy(), seed, epoch, repeats=repeats, balanced=balanced)
    assert order.shape == augmentation.shape == labels.shape
    assert order.dtype == np.int64
    assert augmentation.dtype == np.uint32
    assert 0 <= order.min() <= order.max() < len(labels)
    np.testing.assert_array_equal(order, again[0])
    np.testing.assert_array_equal(augmentation, again[1])


@given(labels_of, seeds, epochs)
def test_plain_epochs_see_every_image_once(labels, seed, epoch) -> None:
    np.testing.assert_array_equal(np.sort(epoch_order(labels, seed, epoch)[0]), np.arange(len(labels)))


@given(labels_of, seeds, epochs, st.integers(2, 5), st.booleans())
def test_copies_of_an_image_are_neighbours(labels, seed, epoch, repeats, balanced) -> None:
    order, _ = epoch_order(labels, seed, epoch, repeats=repeats, balanced=balanced)
    firsts = order[::repeats]
    np.testing.assert_array_equal(order, np.repeat(firsts, repeats)[: len(order)])
    if not balanced:
        assert len(set(firsts.tolist())) == len(firsts)


@given(labels_of, seeds, epochs)
def test_balanced_epochs_see_each_class_as_often(labels, seed, epoch) -> None:
    order, _ = epoch_order(labels, seed, epoch, balanced=True)
    seen = np.array([(labels[order] == label).sum() for label in np.unique(labels)])
    assert seen.max() - seen.min() <= 1
    for label in np.unique(labels):
        times = np.bincount(order[labels[order] == label], minlength=len(labels))[labels == label]
        assert times.max() - times.min() <= 1  # none again before all were seen


def test_copies_and_epochs_differ() -> None:
    labels = np.zeros(3000, int)
    order, augmentation = epoch_order(labels, 0, 0, repeats=3)
    assert len(set(augmentation.tolist())) > 2990
    for other in (epoch_order(labels, 0, 1, repeats=3), epoch_order(labels, 1, 0, repeats=3)):
        assert (other[0] != order).mean() > 0.9
        assert (other[1] != augmentation).mean() > 0.9


def test_the_released_share_of_imagenet() -> None:
    """The released sampler gives each of 8 processes floor(n // 256 * 256 / 8) images, 128 in a batch."""
    n = 1281167
    order, _ = epoch_order(np.zeros(n, np.int64), 0, 0, repeats=3)
    updates = len(order) // 1024
    assert updates * 1024 == n // 256 * 256 // 8 * 8
    assert len(np.unique(order[: updates * 1024])) == updates * 1024 // 3


def test_balance_of_a_rare_class() -> None:
    labels = np.array([0] * 990 + [1] * 10)
    order, augmentation = epoch_order(labels, 0, 0, balanced=True)
    assert (labels[order] == 1).sum() == 500
    np.testing.assert_array_equal(np.bincount(order)[990:], np.full(10, 50))
    assert len(set(augmentation[order == 990].tolist())) == 50
    assert (labels[order[:100]] == 1).sum() > 30  # the classes alternate


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=80).map(np.array), seeds, epochs, st.integers(1, 3))
def test_images_are_drawn_by_their_weights(weights, seed, epoch, repeats) -> None:
    n = len(weights)
    labels = np.zeros(n, int)
    order, augmentation = epoch_order(labels, seed, epoch, repeats=repeats, weights=weights)
    again, _ = epoch_order(labels, seed, epoch, repeats=repeats, weights=weights)
    np.testing.assert_array_equal(order, again)
    assert order.shape == augmentation.shape == (n,)
    assert order.dtype == np.int64
    drawn = -(-n // repeats)
    times = np.bincount(order[::repeats], minlength=n)
    expected = weights / weights.sum() * drawn
    assert (np.abs(times - expected) < 1 + 1e-9).all()


def test_weights_are_right_on_average() -> None:
    weights = np.array([1.0, 1.0, 2.5, 0.5, 1.0])
    orders = [epoch_order(np.zeros(5, int), 3, epoch, weights=weights)[0] for epoch in range(3000)]
    times = np.mean([np.bincount(order, minlength=5) for order in orders], 0)
    np.testing.assert_allclose(times, weights / weights.sum() * 5, atol=0.03)
    firsts = np.bincount([order[0] for order in orders], minlength=5) / 3000
    np.testing.assert_allclose(firsts, weights / weights.sum(), atol=0.04)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, np.nan], [1.0, -1.0], [np.inf, 1.0]])
def test_weights_that_cannot_be_drawn_by(weights) -> None:
    with pytest.raises(ValueError, match="expected 2 positive weights"):
        epoch_order(np.zeros(2, int), 0, 0, weights=np.array(weights))
    with pytest.raises(ValueError, match="choose one"):
        epoch_order(np.zeros(2, int), 0, 0, weights=np.ones(2), balanced=True)


@pytest.mark.parametrize(("labels", "repeats", "message"), [([], 1, "no images"), ([0], 0, "repeats is 0")])
def test_impossible_values_are_refused(labels, repeats, message) -> None:
    with pytest.raises(ValueError, match=message):
        epoch_order(np.array(labels, int), 0, 0, repeats=repeats)
