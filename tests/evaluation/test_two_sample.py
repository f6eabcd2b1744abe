import math

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.two_sample import classifier_two_sample_test, nearest_neighbour_test


def normal(seed, count=200, centre=0.0):
    return np.random.default_rng(seed).normal(centre, 1.0, (count, 3))


def test_equal_distributions_are_told_apart_by_chance_alone():
    found = [classifier_two_sample_test(normal(s), normal(99 + s), epochs=20) for s in range(12)]
    accuracies = np.array([one.accuracy for one in found])
    # Each is a mean over 200 answers.
    assert abs(accuracies.mean() - 0.5) < 4 * 0.5 / math.sqrt(200 * 12)
    assert min(one.p_value for one in found) > 1e-4 and max(one.p_value for one in found) > 0.3


def test_separate_sets_are_told_apart_surely():
    accuracy, p_value = classifier_two_sample_test(normal(0), normal(1, centre=5.0))
    assert accuracy > 0.98
    # Over 200 held-out items, all right would be √200 deviations.
    assert p_value == pytest.approx(
        0.5 * math.erfc((accuracy - 0.5) * 2 * math.sqrt(200) / math.sqrt(2)), rel=1e-9
    )
    assert p_value < 1e-30


def test_a_larger_set_is_no_easier_to_guess():
    accuracy, _ = classifier_two_sample_test(normal(0, 1000), normal(1, 100), epochs=20)
    assert abs(accuracy - 0.5) < 4 * 0.5 / math.sqrt(100)


def test_the_seed_decides_the_test():
    pair = normal(0), normal(1, centre=0.3)
    assert classifier_two_sample_test(*pair) == classifier_two_sample_test(*pair)


def test_nearest_neighbours_by_hand():
    # 0 and 1 are each other's nearest; 5's nearest fellow is 5.5, of the other set, and back.
    found = nearest_neighbour_test(np.array([[0.0], [1.0], [5.0]]), np.array([[5.5], [9.0], [9.4]]))
    assert found == pytest.approx((4 / 6, 2 / 3, 2 / 3))


def test_nearest_neighbours_know_separate_sets_copies_and_crowds():
    apart = nearest_neighbour_test(normal(0), normal(1, centre=50.0))
    assert apart == (1.0, 1.0, 1.0)
    # Of copies, each one's nearest is its twin in the other set.
    copies = nearest_neighbour_test(normal(0), normal(0))
    assert copies == (0.0, 0.0, 0.0)
    # All samples in one place amid the real: they see each other, the real see them or their own.
    crowded = nearest_neighbour_test(normal(0), 1e-3 * normal(1))
    assert crowded.samples > 0.95 and crowded.real < 1


def test_nearest_neighbours_are_at_chance_between_equal_distributions():
    found = [nearest_neighbour_test(normal(s), normal(99 + s), chunk=64) for s in range(12)]
    assert abs(np.mean([one.accuracy for one in found]) - 0.5) < 4 * 0.5 / math.sqrt(400 * 12) * 2


def test_chunks_change_nothing():
    whole = nearest_neighbour_test(normal(0), normal(1))
    assert nearest_neighbour_test(normal(0), normal(1), chunk=7) == whole


def test_too_few_are_refused():
    with pytest.raises(UserError, match="at least 20 samples, and there are 19"):
        classifier_two_sample_test(normal(0), normal(1, 19))
    with pytest.raises(UserError, match="at least 2 real items, and there are 1"):
        nearest_neighbour_test(normal(0, 1), normal(1))
