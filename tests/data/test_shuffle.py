"""The permutation is one, differs by epoch and seed, and looks like chance."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.shuffle import shuffled


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 9000), epoch=st.integers(0, 10**6), seed=st.integers(0, 2**70))
def test_every_epoch_is_a_permutation(size, epoch, seed):
    order = shuffled(seed, size, epoch * size, (epoch + 1) * size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 10**12),
    start=st.integers(0, 10**9),
    lengths=st.lists(st.integers(1, 5000), min_size=2, max_size=4),
)
def test_the_parts_join_to_the_whole(size, start, lengths):
    borders = np.cumsum([start, *lengths]).tolist()
    parts = [shuffled(5, size, a, b) for a, b in itertools.pairwise(borders)]
    np.testing.assert_array_equal(np.concatenate(parts), shuffled(5, size, start, borders[-1]))


def test_epochs_and_seeds_differ():
    orders = [shuffled(seed, 1000, e * 1000, e * 1000 + 1000) for seed in (0, 1) for e in (0, 1)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Two independent permutations agree in one place on average.
            assert (one == other).sum() < 10


@pytest.mark.parametrize("size", [3, 10, 101])
def test_each_place_gets_each_index_equally_often(size):
    """Pearson's chi-squared over 20,000 epochs, for single places and for neighbours."""
    epochs = 20_000
    order = shuffled(11, size, 0, epochs * size).reshape(epochs, size)
    for place in (0, size - 1):
        counts = np.bincount(order[:, place], minlength=size)
        expected = epochs / size
        statistic = ((counts - expected) ** 2 / expected).sum()
        # Mean size - 1, variance 2·(size - 1): six standard deviations.
        assert statistic < (size - 1) + 6 * np.sqrt(2 * (size - 1))
    step = (order[:, 1] - order[:, 0]) % size  # uniform on 1 .. size-1
    counts = np.bincount(step, minlength=size)[1:]
    expected = epochs / (size - 1)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < (size - 2) + 6 * np.sqrt(2 * max(size - 2, 1))


def test_the_order_is_pinned():
    """A run resumed after an upgrade of jaxgen must see the same order."""
    assert shuffled(0, 10, 0, 10).tolist() == [6, 8, 0, 1, 9, 3, 2, 5, 4, 7]
    assert shuffled(7, 10**9, 0, 2).tolist() == [33086427, 730957516]
