import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.novelty import novelty


def normal(seed, count=300):
    return np.random.default_rng(seed).normal(size=(count, 2))


TRAIN, HELD_OUT = normal(0), normal(1)


def test_copies_are_nearer_than_anything_and_found():
    order = np.random.default_rng(2).permutation(300)[:50]
    found = novelty(TRAIN, HELD_OUT, TRAIN[order])
    assert (found.nearer, found.copies) == (1.0, 1.0)
    np.testing.assert_array_equal(found.samples.indices, order)


def test_held_out_items_are_as_new_as_themselves():
    found = novelty(TRAIN, HELD_OUT, HELD_OUT)
    assert found.nearer == pytest.approx(0.5) and found.copies == pytest.approx(0.01, abs=0.005)
    np.testing.assert_array_equal(found.samples.distances, found.held_out.distances)


def test_new_items_are_as_near_as_held_out_ones():
    found = [novelty(TRAIN, HELD_OUT, normal(seed)) for seed in range(2, 10)]
    # Mann and Whitney's U has variance (m + n + 1) / (12 m n); the held-out half is always one.
    error = np.sqrt(601 / (12 * 300 * 300))
    assert abs(np.mean([one.nearer for one in found]) - 0.5) < 4 * error


def test_what_is_far_from_the_data_is_new_too():
    assert novelty(TRAIN, HELD_OUT, HELD_OUT + 50).nearer == 0


def test_half_copies_are_counted():
    found = novelty(TRAIN, HELD_OUT, np.concatenate([TRAIN[:50], HELD_OUT[:50] + 50]))
    assert (found.nearer, found.copies) == (0.5, 0.5)


def test_training_items_may_come_in_pieces():
    whole = novelty(TRAIN, HELD_OUT, normal(2))
    pieces = novelty(iter(np.split(TRAIN, [7, 100])), HELD_OUT, normal(2), chunk=64)
    assert (pieces.nearer, pieces.copies) == (whole.nearer, whole.copies)
    np.testing.assert_array_equal(pieces.samples.indices, whole.samples.indices)


def test_an_empty_set_is_refused():
    with pytest.raises(UserError, match="at least 1 held out items, and there are 0"):
        novelty(TRAIN, HELD_OUT[:0], HELD_OUT)
