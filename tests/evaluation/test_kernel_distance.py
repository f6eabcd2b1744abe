import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.kernel_distance import kernel_distance, squared_discrepancy


def normal(seed, count=60, features=4, centre=0.0):
    return np.random.default_rng(seed).normal(centre, 1.0, (count, features))


def test_by_hand_on_a_line():
    # k(x, y) = (x y + 1)³ of {0, 1} and {2, 3}: within 1, within 7³, across 1, 1, 27, 64.
    one, other = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    expected = 1 + 7**3 - 2 * (1 + 1 + 3**3 + 4**3) / 4
    assert squared_discrepancy(one, other) == pytest.approx(expected)


def test_a_set_against_itself_has_its_closed_form_below_zero():
    """-2/n times the variance of the kernel's features: the diagonal's mean above all others'."""
    values = normal(0)
    kernel = (values @ values.T / 4 + 1) ** 3
    diagonal = np.trace(kernel) / 60
    elsewhere = (kernel.sum() - np.trace(kernel)) / (60 * 59)
    found = squared_discrepancy(values, values)
    assert found == pytest.approx(-2 / 60 * (diagonal - elsewhere))
    assert found < 0


def test_gaussians_have_a_closed_form():
    """In one dimension E k of independent x ~ N(a, 1), y ~ N(b, 1), from their first 3 moments."""

    def moments(centre):
        return np.array([1, centre, centre**2 + 1, centre**3 + 3 * centre])

    def expected_kernel(a, b):
        return np.sum(np.array([1, 3, 3, 1]) * moments(a) * moments(b))

    expected = expected_kernel(0, 0) + expected_kernel(0.7, 0.7) - 2 * expected_kernel(0, 0.7)
    values = [
        squared_discrepancy(normal(seed, 400, 1), normal(1000 + seed, 400, 1, 0.7))
        for seed in range(60)
    ]
    standard_error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4 * standard_error < expected


def test_it_is_unbiased_with_few_samples():
    """Small sets of one distribution score 0 on average; the biased form scores far above."""
    values = [squared_discrepancy(normal(s, 10), normal(5000 + s, 10)) for s in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(400)


def test_whole_sets_as_the_only_subset_are_the_plain_estimate():
    found = kernel_distance(normal(0), normal(1, 60, 4, 1.0), subsets=400, subset_size=30)
    # The mean over all subsets is the estimate over everything: both are unbiased sums of pairs.
    whole = squared_discrepancy(normal(0), normal(1, 60, 4, 1.0))
    assert abs(found.value - whole) < 4 * found.error / np.sqrt(400)
    assert found.error > 0


def test_the_seed_chooses_the_subsets_and_nothing_else_does():
    one, other = normal(0), normal(1)
    assert kernel_distance(one, other, subsets=3) == kernel_distance(one, other, subsets=3)
    assert kernel_distance(one, other, subsets=3) != kernel_distance(one, other, subsets=3, seed=1)


def test_too_few_are_refused():
    with pytest.raises(UserError, match="at least 4 samples, and there are 3"):
        kernel_distance(normal(0), normal(1, 3))
