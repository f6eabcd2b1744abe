import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.precision_recall import precision_recall


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
