import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.precision_recall import density_coverage, precision_recall


def cluster(seed, centre, count=40):
    return centre + 0.1 * np.random.default_rng(seed).normal(size=(count, 3))


def test_a_set_covers_itself():
    assert precision_recall(cluster(0, 0.0), cluster(0, 0.0)) == (1.0, 1.0)


def test_far_sets_share_nothing():
    assert precision_recall(cluster(0, 0.0), cluster(1, 9.0)) == (0.0, 0.0)


def test_a_missing_mode_costs_recall_and_an_invented_one_precision():
    first, second = cluster(0, 0.0), cluster(1, 9.0)
    both = np.concatenate([first, second])
    assert precision_recall(both, first) == (1.0, 0.5)
    assert precision_recall(first, both) == (0.5, 1.0)


def test_by_hand_on_a_line():
    # With k = 1 each real point reaches 1 far, its nearest fellow's distance; both ends count.
    real = np.array([[0.0], [1.0], [10.0], [11.0]])
    samples = np.array([[2.0], [2.5], [9.0], [30.0]])
    # 2 and 9 lie at 1 from a real point. Their own reaches are 0.5, 0.5, 6.5 and 21.
    assert precision_recall(real, samples, neighbours=1) == (0.5, 0.5)


def test_chunks_change_nothing():
    rng = np.random.default_rng(0)
    real, samples = rng.normal(size=(61, 5)), rng.normal(0.3, 1.2, size=(47, 5))
    whole = precision_recall(real, samples)
    assert 0 < whole.precision < 1 and 0 < whole.recall < 1
    assert precision_recall(real, samples, chunk=7) == whole


def test_too_few_are_refused():
    with pytest.raises(UserError, match="at least 4 samples, and there are 3"):
        precision_recall(cluster(0, 0.0), cluster(0, 0.0, count=3))


def test_density_and_coverage_of_a_set_itself_are_one():
    # On whole numbers distances are exact: each ball ends short of its k-th fellow, so it holds
    # its own centre and k - 1 others.
    values = 100 * np.random.default_rng(0).permutation(40)[:, None] + np.arange(40.0)[:, None]
    assert density_coverage(values, values) == (1.0, 1.0)


def test_density_and_coverage_by_hand_on_a_line():
    # With k = 1 the balls of 0, 1 and 10, 12 reach 1, 1, 2 and 2 far, ends not counted.
    real = np.array([[0.0], [1.0], [10.0], [12.0]])
    samples = np.array([[0.5], [0.25], [11.0], [2.0], [30.0]])
    # 0.5, 0.25 and 11 lie in two balls each, 2 and 30 in none.
    assert density_coverage(real, samples, neighbours=1) == (6 / 5, 1.0)
    assert density_coverage(real, samples[:2], neighbours=1) == (2.0, 0.5)
    assert density_coverage(real, samples[3:], neighbours=1) == (0.0, 0.0)


def test_a_stray_real_item_inflates_density_less_than_precision():
    """Naeem et al.'s figure 3: one real outlier makes precision call everything near it real."""
    real = np.concatenate([cluster(0, 0.0), [[9.0, 9.0, 9.0]]])
    samples = cluster(1, 6.0)
    assert precision_recall(real, samples).precision == 1
    assert density_coverage(real, samples).density < 0.25


def test_two_sets_of_one_distribution_have_density_one_and_the_lemmas_coverage():
    """1 - Π (n - i) / (2n - i), i = 1 .. k: Naeem et al.'s lemma 2, whatever the distribution."""
    n, k = 200, 3
    found = [
        density_coverage(*np.random.default_rng(seed).normal(size=(2, n, 2)), neighbours=k)
        for seed in range(40)
    ]
    density, coverage = np.mean(found, 0)
    error = 4 * np.std(found, 0) / np.sqrt(len(found))
    expected = 1 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])
    assert abs(density - 1) < error[0] < 0.1
    assert abs(coverage - expected) < error[1] < 0.1


def test_chunks_change_neither_density_nor_coverage():
    rng = np.random.default_rng(0)
    real, samples = rng.normal(size=(61, 5)), rng.normal(0.3, 1.2, size=(47, 5))
    whole = density_coverage(real, samples)
    assert whole.density > 0 and 0 < whole.coverage < 1
    assert density_coverage(real, samples, chunk=7) == whole


def test_too_few_for_density_are_refused():
    with pytest.raises(UserError, match="at least 6 real items, and there are 5"):
        density_coverage(cluster(0, 0.0, count=5), cluster(0, 0.0))
    with pytest.raises(UserError, match="at least 1 samples, and there are 0"):
        density_coverage(cluster(0, 0.0), cluster(0, 0.0, count=0))
